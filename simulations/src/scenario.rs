//! A scenario: a world, the policies that live in it, and how often. It is read from TOML, checked once, and cannot be
//! changed afterwards but through functions that check again.

use inroad_policy::Measure;
use serde::{Deserialize, Serialize};

use crate::policies::{PolicyDoc, PolicySpec};
use crate::{SimulationError, world::World};

/// A scenario as written down. See `scenarios/` for examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioDoc {
    /// Short name, `[a-z0-9-]`, at most 64 characters.
    pub name: String,
    /// What people call it.
    #[serde(default)]
    pub title: String,
    /// Days in a run, 1 to 366.
    #[serde(default = "four_weeks")]
    pub days: u32,
    /// Ticks in a day, 1 to 24, a divisor of 24.
    #[serde(default = "four")]
    pub ticks_per_day: u32,
    /// Control's outcome per visit without cycles: a rate for conversions and means (0 to 1), events per unit for counts,
    /// numerator per denominator for ratios (both up to 100).
    pub base: f64,
    /// New units a day, up to a million.
    pub per_day: f64,
    /// Amplitude of the daily cycle of rates, 0 to 1; of arrivals, half of it.
    #[serde(default)]
    pub diurnal: f64,
    /// Amplitude of the weekly cycle of rates, 0 to 1.
    #[serde(default)]
    pub weekly: f64,
    /// Relative change of the base over the run, −1 to 10.
    #[serde(default)]
    pub trend: f64,
    /// Visits a tick of each unit that has come before, 0 to 10.
    #[serde(default)]
    pub returning: f64,
    /// Coefficient of variation of the units' own propensities, 0 to 10; a unit keeps its own.
    #[serde(default)]
    pub heterogeneity: f64,
    /// Replications, 1 to 100,000.
    #[serde(default = "two_hundred")]
    pub replications: u32,
    /// Seed of all replications.
    #[serde(default = "one")]
    pub seed: u64,
    /// What is measured of a unit.
    #[serde(default)]
    pub metric: MetricSpec,
    /// Time from exposure to outcome; at once without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Exposures that are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Clients that flip late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// The arms, control first.
    pub arms: Vec<ArmSpec>,
    /// The policies to compare; growth, equal split and unconstrained Thompson sampling if there are none.
    #[serde(default)]
    pub policies: Vec<PolicyDoc>,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmSpec {
    /// Relative lift over the base at the start, −1 to 10; control's may be other than 0 as well.
    pub lift: f64,
    /// How the lift wears off, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub novelty: Option<Novelty>,
}

/// A lift that wears off: at day d it is to + (lift − to)·½^(d/half_life_days).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Novelty {
    /// What the lift tends to, −1 to 10.
    pub to: f64,
    /// Days in which half of the way is gone, above 0.
    pub half_life_days: f64,
}

/// What is measured of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MetricSpec {
    /// Whether it converted.
    #[default]
    Conversion,
    /// Its revenue: a conversion times a lognormal value. Lifts are lifts of the conversion rate.
    Mean {
        /// Mean value of a conversion, above 0.
        value: f64,
        /// Standard deviation of the value's logarithm, 0 to 5.
        sigma: f64,
        /// The most that one unit may count for, above 0.
        #[serde(default)]
        cap: Option<f64>,
    },
    /// How many events it had: Poisson, about its own propensity.
    Count,
    /// A numerator (orders: Poisson) over a denominator (sessions: 1 + Poisson), both of the unit.
    Ratio {
        /// Mean denominator per unit, 1 to 1,000.
        denominator: f64,
    },
}

/// Exponential time from exposure to outcome, truncated at the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Mean before truncation, in hours, above 0.
    pub mean_hours: f64,
    /// How long a unit is followed, in hours, above 0 and at most the run.
    pub window_hours: f64,
}

/// Exposures of one arm that never arrive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Which arm.
    pub arm: usize,
    /// The chance that a unit of it is lost, 0 to 1.
    pub probability: f64,
    /// The first day on which it happens, from 0.
    #[serde(default)]
    pub from_day: u32,
}

/// Clients that answer from an old revision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stale {
    /// The chance that a unit asks such a client, 0 to 1.
    pub fraction: f64,
    /// How many ticks late it flips, 1 to 1,000.
    pub ticks: u32,
}

fn four_weeks() -> u32 {
    28
}
fn four() -> u32 {
    4
}
fn two_hundred() -> u32 {
    200
}
fn one() -> u64 {
    1
}

/// A scenario with nothing wrong in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ScenarioDoc", into = "ScenarioDoc")]
pub struct Scenario {
    doc: ScenarioDoc,
    policies: Vec<PolicySpec>,
}

impl Scenario {
    /// Reads and checks TOML.
    pub fn from_toml(text: &str) -> Result<Self, SimulationError> {
        Self::try_from(toml::from_str::<ScenarioDoc>(text)?)
    }

    /// The scenario as written, read-only.
    #[must_use]
    pub fn doc(&self) -> &ScenarioDoc {
        &self.doc
    }

    /// The policies to compare, at least one.
    #[must_use]
    pub fn policies(&self) -> &[PolicySpec] {
        &self.policies
    }

    /// The same with so many replications.
    pub fn with_replications(self, replications: u32) -> Result<Self, SimulationError> {
        Self::try_from(ScenarioDoc { replications, ..self.doc })
    }

    /// The same with other policies; none for the usual three.
    pub fn with_policies(self, policies: Vec<PolicyDoc>) -> Result<Self, SimulationError> {
        Self::try_from(ScenarioDoc { policies, ..self.doc })
    }

    /// How estimates see the metric; counts of events are means to them.
    #[must_use]
    pub fn measure(&self) -> Measure {
        match self.doc.metric {
            MetricSpec::Conversion => Measure::Conversion,
            MetricSpec::Mean { .. } | MetricSpec::Count => Measure::Mean,
            MetricSpec::Ratio { .. } => Measure::Ratio,
        }
    }

    /// Ticks in a run.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.doc.days * self.doc.ticks_per_day
    }

    /// Hours in a tick.
    #[must_use]
    pub fn tick_hours(&self) -> f64 {
        24.0 / f64::from(self.doc.ticks_per_day)
    }

    /// Ticks for which a unit is followed after its own, rounded up: 0 where outcomes come at once.
    #[must_use]
    pub fn window_ticks(&self) -> u32 {
        self.doc.delay.map_or(0, |delay| (delay.window_hours / self.tick_hours()).ceil() as u32)
    }
}

impl From<Scenario> for ScenarioDoc {
    fn from(scenario: Scenario) -> Self {
        scenario.doc
    }
}

impl TryFrom<ScenarioDoc> for Scenario {
    type Error = SimulationError;

    fn try_from(doc: ScenarioDoc) -> Result<Self, SimulationError> {
        check_times(&doc)?;
        check_world(&doc)?;
        check_metric(&doc)?;
        check_faults(&doc)?;
        let mut scenario = Self { doc, policies: Vec::new() };
        // What a rate comes to is known only with all cycles, trends and lifts on top of each other.
        World::new(&scenario).check()?;
        let usual;
        let docs = if scenario.doc.policies.is_empty() {
            usual = PolicyDoc::usual();
            &usual
        } else {
            &scenario.doc.policies
        };
        let policies = PolicySpec::all(docs, scenario.doc.arms.len(), scenario.doc.ticks_per_day)?;
        scenario.policies = policies;
        Ok(scenario)
    }
}

/// Refuses a number outside `low..=high`; NaN is outside of everything.
pub(crate) fn within(field: &str, value: f64, low: f64, high: f64) -> Result<(), SimulationError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(SimulationError::field(field, format!("{value} is not within {low} to {high}")))
}

/// The smallest number that counts as above 0.
const ABOVE_ZERO: f64 = 1e-9;

fn check_times(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    let slug = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if doc.name.is_empty() || doc.name.len() > 64 || !doc.name.bytes().all(slug) {
        return Err(SimulationError::field("name", "use 1 to 64 of a-z, 0-9 and '-'"));
    }
    within("days", f64::from(doc.days), 1.0, 366.0)?;
    if !(1..=24).contains(&doc.ticks_per_day) || 24 % doc.ticks_per_day != 0 {
        return Err(SimulationError::field("ticks_per_day", "choose 1, 2, 3, 4, 6, 8, 12 or 24"));
    }
    within("replications", f64::from(doc.replications), 1.0, 100_000.0)?;
    if let Some(delay) = doc.delay {
        within("delay.mean_hours", delay.mean_hours, ABOVE_ZERO, 24.0 * 366.0)?;
        within("delay.window_hours", delay.window_hours, ABOVE_ZERO, 24.0 * f64::from(doc.days))?;
    }
    Ok(())
}

fn check_world(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    within("per_day", doc.per_day, ABOVE_ZERO, 1e6)?;
    within("diurnal", doc.diurnal, 0.0, 1.0)?;
    within("weekly", doc.weekly, 0.0, 1.0)?;
    within("trend", doc.trend, -1.0, 10.0)?;
    within("returning", doc.returning, 0.0, 10.0)?;
    within("heterogeneity", doc.heterogeneity, 0.0, 10.0)?;
    if !(2..=inroad_policy::MAX_ARMS).contains(&doc.arms.len()) {
        return Err(SimulationError::field("arms", "give control and 1 to 64 variations"));
    }
    for (i, arm) in doc.arms.iter().enumerate() {
        within(&format!("arms[{i}].lift"), arm.lift, -1.0, 10.0)?;
        if let Some(novelty) = arm.novelty {
            within(&format!("arms[{i}].novelty.to"), novelty.to, -1.0, 10.0)?;
            within(&format!("arms[{i}].novelty.half_life_days"), novelty.half_life_days, ABOVE_ZERO, 1e6)?;
        }
    }
    Ok(())
}

fn check_metric(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    match doc.metric {
        MetricSpec::Conversion => within("base", doc.base, ABOVE_ZERO, 1.0),
        MetricSpec::Mean { value, sigma, cap } => {
            within("base", doc.base, ABOVE_ZERO, 1.0)?;
            within("metric.value", value, ABOVE_ZERO, 1e9)?;
            within("metric.sigma", sigma, 0.0, 5.0)?;
            cap.map_or(Ok(()), |cap| within("metric.cap", cap, ABOVE_ZERO, 1e12))
        }
        MetricSpec::Count => within("base", doc.base, ABOVE_ZERO, 100.0),
        MetricSpec::Ratio { denominator } => {
            within("base", doc.base, ABOVE_ZERO, 100.0)?;
            within("metric.denominator", denominator, 1.0, 1000.0)
        }
    }
}

fn check_faults(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    if let Some(loss) = doc.loss {
        within("loss.probability", loss.probability, 0.0, 1.0)?;
        if loss.arm >= doc.arms.len() {
            return Err(SimulationError::field("loss.arm", "there is no such arm; 0 is control"));
        }
    }
    if let Some(stale) = doc.stale {
        within("stale.fraction", stale.fraction, 0.0, 1.0)?;
        within("stale.ticks", f64::from(stale.ticks), 1.0, 1000.0)?;
    }
    Ok(())
}
