//! A checked scenario: the simulated world, the policies to compare, and the number of replications.
//!
//! [`Scenario`] is read from TOML and checked once. It can be changed only by functions that check it again, so code
//! that has a scenario need not check its numbers. The fields are described in [`ScenarioDoc`].

use inroad_policy::Measure;
use serde::{Deserialize, Serialize};

use crate::SimulationError;
use crate::error::{ABOVE_ZERO, check_range};
use crate::policies::{PolicyDoc, PolicySpec};
use crate::world::World;

pub use crate::scenario_doc::{ArmSpec, Delay, Loss, MetricSpec, Novelty, ScenarioDoc, Stale};

/// A scenario whose values have been checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ScenarioDoc", into = "ScenarioDoc")]
pub struct Scenario {
    doc: ScenarioDoc,
    policies: Vec<PolicySpec>,
}

impl Scenario {
    /// Reads a scenario from TOML and checks it.
    ///
    /// # Errors
    ///
    /// The text is not TOML, has an unknown key, or has a value out of range. The message names the key.
    pub fn from_toml(text: &str) -> Result<Self, SimulationError> {
        Self::try_from(toml::from_str::<ScenarioDoc>(text)?)
    }

    /// The scenario as it was written.
    #[must_use]
    pub fn doc(&self) -> &ScenarioDoc {
        &self.doc
    }

    /// The policies to compare, at least one.
    #[must_use]
    pub fn policies(&self) -> &[PolicySpec] {
        &self.policies
    }

    /// The same scenario with another number of replications, 1 to 100,000.
    pub fn with_replications(self, replications: u32) -> Result<Self, SimulationError> {
        Self::try_from(ScenarioDoc { replications, ..self.doc })
    }

    /// The same scenario with another seed.
    pub fn with_seed(self, seed: u64) -> Result<Self, SimulationError> {
        Self::try_from(ScenarioDoc { seed, ..self.doc })
    }

    /// The same scenario with other policies. An empty list means the three default policies.
    pub fn with_policies(self, policies: Vec<PolicyDoc>) -> Result<Self, SimulationError> {
        Self::try_from(ScenarioDoc { policies, ..self.doc })
    }

    /// How estimates treat the metric. They treat counts of events as means.
    #[must_use]
    pub fn measure(&self) -> Measure {
        match self.doc.metric {
            MetricSpec::Conversion => Measure::Conversion,
            MetricSpec::Mean { cost, .. } if cost > 0.0 => Measure::MeanDifference,
            MetricSpec::Mean { .. } | MetricSpec::Count => Measure::Mean,
            MetricSpec::Ratio { .. } => Measure::Ratio,
        }
    }

    /// Cost of every unit; 0 for metrics without one.
    #[must_use]
    pub fn cost(&self) -> f64 {
        match self.doc.metric {
            MetricSpec::Mean { cost, .. } => cost,
            _ => 0.0,
        }
    }

    /// The true rates and the expected arrivals at every tick.
    #[must_use]
    pub fn world(&self) -> World {
        World::new(&self.doc)
    }

    /// Number of ticks in a run.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.doc.days * self.doc.ticks_per_day
    }

    /// Length of a tick in hours.
    #[must_use]
    pub fn tick_hours(&self) -> f64 {
        24.0 / f64::from(self.doc.ticks_per_day)
    }

    /// Ticks after its exposure in which outcomes of a unit count, rounded up; 0 without a delay.
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
        check_name_and_times(&doc)?;
        check_traffic_and_arms(&doc)?;
        check_metric(&doc)?;
        check_faults(&doc)?;
        let mut scenario = Self { doc, policies: Vec::new() };
        // Cycles, trend and lifts multiply: the highest rate is known only when they are combined.
        scenario.world().check()?;
        let defaults;
        let docs = if scenario.doc.policies.is_empty() {
            defaults = PolicyDoc::default_policies();
            &defaults
        } else {
            &scenario.doc.policies
        };
        scenario.policies = PolicySpec::check_all(docs, scenario.doc.arms.len(), scenario.doc.ticks_per_day)?;
        Ok(scenario)
    }
}

fn check_name_and_times(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    let slug = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if doc.name.is_empty() || doc.name.len() > 64 || !doc.name.bytes().all(slug) {
        return Err(SimulationError::field("name", "use 1 to 64 characters of a-z, 0-9 and '-'"));
    }
    check_range("days", f64::from(doc.days), 1.0, 366.0)?;
    if !(1..=24).contains(&doc.ticks_per_day) || 24 % doc.ticks_per_day != 0 {
        return Err(SimulationError::field("ticks_per_day", "use 1, 2, 3, 4, 6, 8, 12 or 24"));
    }
    check_range("replications", f64::from(doc.replications), 1.0, 100_000.0)?;
    if let Some(delay) = doc.delay {
        check_range("delay.mean_hours", delay.mean_hours, ABOVE_ZERO, 24.0 * 366.0)?;
        check_range("delay.window_hours", delay.window_hours, ABOVE_ZERO, 24.0 * f64::from(doc.days))?;
    }
    Ok(())
}

fn check_traffic_and_arms(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    check_range("per_day", doc.per_day, ABOVE_ZERO, 1e6)?;
    check_range("diurnal", doc.diurnal, 0.0, 1.0)?;
    check_range("weekly", doc.weekly, 0.0, 1.0)?;
    check_range("trend", doc.trend, -1.0, 10.0)?;
    check_range("returning", doc.returning, 0.0, 10.0)?;
    check_range("heterogeneity", doc.heterogeneity, 0.0, 10.0)?;
    if !(2..=inroad_policy::MAX_ARMS).contains(&doc.arms.len()) {
        return Err(SimulationError::field("arms", "give control and 1 to 64 variations"));
    }
    for (i, arm) in doc.arms.iter().enumerate() {
        check_range(&format!("arms[{i}].lift"), arm.lift, -1.0, 10.0)?;
        if let Some(novelty) = arm.novelty {
            check_range(&format!("arms[{i}].novelty.to"), novelty.to, -1.0, 10.0)?;
            check_range(&format!("arms[{i}].novelty.half_life_days"), novelty.half_life_days, ABOVE_ZERO, 1e6)?;
        }
    }
    Ok(())
}

fn check_metric(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    match doc.metric {
        MetricSpec::Conversion => check_range("base", doc.base, ABOVE_ZERO, 1.0),
        MetricSpec::Mean { value, sigma, cap, cost } => {
            check_range("base", doc.base, ABOVE_ZERO, 1.0)?;
            check_range("metric.cost", cost, 0.0, 1e9)?;
            check_range("metric.value", value, ABOVE_ZERO, 1e9)?;
            check_range("metric.sigma", sigma, 0.0, 5.0)?;
            cap.map_or(Ok(()), |cap| check_range("metric.cap", cap, ABOVE_ZERO, 1e12))
        }
        MetricSpec::Count => check_range("base", doc.base, ABOVE_ZERO, 100.0),
        MetricSpec::Ratio { denominator } => {
            check_range("base", doc.base, ABOVE_ZERO, 100.0)?;
            check_range("metric.denominator", denominator, 1.0, 1000.0)
        }
    }
}

fn check_faults(doc: &ScenarioDoc) -> Result<(), SimulationError> {
    if let Some(loss) = doc.loss {
        check_range("loss.probability", loss.probability, 0.0, 1.0)?;
        if loss.arm >= doc.arms.len() {
            return Err(SimulationError::field(
                "loss.arm",
                "the scenario has no such arm. 0 is control, 1 the first variation",
            ));
        }
    }
    if let Some(stale) = doc.stale {
        check_range("stale.fraction", stale.fraction, 0.0, 1.0)?;
        check_range("stale.ticks", f64::from(stale.ticks), 1.0, 1000.0)?;
    }
    Ok(())
}
