//! Who moves the boundaries, and by which rule: the policy as data. What the rule computes is the crate `policy`'s; this
//! file knows the settings, their defaults and their ranges.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::definition::Faults;
use crate::document::PolicyDoc;
use crate::line::Width;
use crate::time::humantime_text;

/// How P(best) becomes the share that a variation deserves. Every rule only ever grows variations into control; what
/// differs is where each wants to get to. With w = P(best), f the foothold and S what floor and footholds leave:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowthRule {
    /// f + S·w·max(0, 1 − patience·L/b): what being wrong about it would cost (L, the expected loss) is weighed against what
    /// it brings over control (b), both on the log scale. What is given cannot be taken back, so of two good variations
    /// neither grows much before it is clear which is better, unless they are as good as each other.
    #[default]
    Weighed,
    /// f + S·w^exponent, blind to how much is at stake.
    Level,
    /// w itself.
    Chase,
    /// f + S·ψ, ψ the top-two probability w·(β + (1−β)·Σ_{j≠k} w_j/(1−w_j)), β = ½ (Russo 2016).
    TopTwo,
    /// f + S·(1−epsilon) for the leader, f for the others.
    EpsilonGreedy,
    /// What it has: nothing ever grows.
    Fixed,
}

/// What P(best) is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosteriorKind {
    /// Lifts over control, arms compared within the same tick only (E3): right also when the baseline drifts.
    #[default]
    E3,
    /// One Beta–Bernoulli posterior an arm, all ticks pooled: right only for a baseline that stands still.
    Pooled,
}

/// The settings of Thompson sampling with growth into control (docs/statistics.md: the policy).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThompsonSettings {
    /// How often growth is decided; also the calendar tick within which arms are compared.
    #[serde(with = "humantime_text")]
    pub tick: Duration,
    /// No growth before the generation is this old.
    #[serde(with = "humantime_text")]
    pub burn_in: Duration,
    /// No growth before every live arm has so many units.
    pub burn_in_units: u64,
    /// No growth before every live arm has so many conversions.
    pub burn_in_conversions: u64,
    /// The share of the line that control always keeps, 0 to 1.
    pub floor: f64,
    /// The most of the line that may change hands in a day, 0 to 1.
    pub daily_cap: f64,
    /// The same once the experiment has a clear winner.
    pub daily_cap_conclude: f64,
    /// A step smaller than this share of the line is not taken.
    pub min_step: f64,
    /// The prior standard deviation of a log-lift.
    pub tau: f64,
    /// A variation is killed when it is worse than control with more than this probability.
    pub kill_probability: f64,
    /// The experiment is put before a person when P(best) reaches this.
    pub conclude_probability: f64,
    /// And the leader's expected loss, relative, is at most this.
    pub conclude_loss: f64,
    /// Draws from the posterior, as a power of two.
    pub draws_log2: u32,
    /// How P(best) becomes the share that a variation deserves.
    pub rule: GrowthRule,
    /// Of [`GrowthRule::Weighed`]: how much more a loss weighs than a gain, 0 to 100.
    pub patience: f64,
    /// Of [`GrowthRule::Level`]: 1 to 10.
    pub exponent: f64,
    /// Of [`GrowthRule::EpsilonGreedy`]: the part that is kept for exploring, 0 to 1.
    pub epsilon: f64,
    /// What P(best) is computed from.
    pub posterior: PosteriorKind,
    /// Decide and record, but change nothing: to see what the policy would do.
    pub shadow: bool,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for ThompsonSettings {
    fn default() -> Self {
        Self {
            tick: DAY,
            burn_in: DAY,
            burn_in_units: 100,
            burn_in_conversions: 1,
            floor: 0.05,
            daily_cap: 0.25,
            daily_cap_conclude: 0.50,
            min_step: 0.005,
            tau: 0.25,
            kill_probability: 0.99,
            conclude_probability: 0.96,
            conclude_loss: 0.01,
            draws_log2: 14,
            rule: GrowthRule::default(),
            patience: 1.5,
            exponent: 2.0,
            epsilon: 0.1,
            posterior: PosteriorKind::default(),
            shadow: false,
        }
    }
}

/// Who moves the boundaries.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// People do.
    Manual {
        /// The width that control always keeps.
        floor: Width,
        /// The calendar tick by which results are cut.
        tick: Duration,
    },
    /// Thompson sampling does; people may too.
    Thompson(ThompsonSettings),
}

impl Policy {
    /// The width of control that nothing can eat.
    pub fn floor(&self) -> Width {
        match self {
            Self::Manual { floor, .. } => *floor,
            Self::Thompson(settings) => Width::from_share(settings.floor).unwrap_or(Width::LINE),
        }
    }

    /// The calendar tick within which arms are compared.
    pub fn tick(&self) -> Duration {
        match self {
            Self::Manual { tick, .. } => *tick,
            Self::Thompson(settings) => settings.tick,
        }
    }
}

/// The policy of a document, and what is wrong with it.
pub(crate) fn parse_policy(doc: PolicyDoc, faults: &mut Faults) -> Policy {
    let minute = Duration::from_secs(60);
    match doc {
        PolicyDoc::Manual { floor, tick } => {
            let width = Width::from_share(floor);
            faults.check(width.is_some(), "policy.floor", "a share is within 0 to 1");
            faults.check(tick >= minute, "policy.tick", "a tick lasts a minute or more");
            Policy::Manual { floor: width.unwrap_or_default(), tick }
        }
        PolicyDoc::Thompson(s) => {
            s.check(faults);
            Policy::Thompson(s)
        }
    }
}

impl ThompsonSettings {
    fn check(&self, faults: &mut Faults) {
        for (field, value) in [
            ("floor", self.floor),
            ("daily_cap", self.daily_cap),
            ("daily_cap_conclude", self.daily_cap_conclude),
            ("min_step", self.min_step),
            ("conclude_loss", self.conclude_loss),
            ("epsilon", self.epsilon),
        ] {
            faults.check((0.0..=1.0).contains(&value), &format!("policy.{field}"), "a share is within 0 to 1");
        }
        for (field, value) in
            [("kill_probability", self.kill_probability), ("conclude_probability", self.conclude_probability)]
        {
            let holds = (0.5..=1.0).contains(&value);
            faults.check(holds, &format!("policy.{field}"), "choose a probability within 0.5 to 1");
        }
        faults.check(self.tick >= Duration::from_secs(60), "policy.tick", "a tick lasts a minute or more");
        faults.check(self.tau > 0.0 && self.tau <= 10.0, "policy.tau", "tau is above 0 and at most 10");
        faults.check((6..=16).contains(&self.draws_log2), "policy.draws_log2", "draw 2^6 to 2^16 times");
        faults.check((0.0..=100.0).contains(&self.patience), "policy.patience", "patience is within 0 to 100");
        faults.check((1.0..=10.0).contains(&self.exponent), "policy.exponent", "an exponent is within 1 to 10");
    }
}
