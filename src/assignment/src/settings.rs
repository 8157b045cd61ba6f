//! The allocation policy as data: who moves the boundaries, by which rule, with which settings. This module has the
//! settings, their defaults and their ranges. The crate `inroad-policy` computes with them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::line::Width;
use crate::time::humantime_text;
use crate::violation::ViolationList;

/// How the probability to be best, P(best), becomes the target share of a variation. Every rule only grows variations
/// into control. The formulas below give the target share, with w = P(best), f the foothold, and S the share of the
/// line that the floor and all footholds leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowthRule {
    /// f + S·w·max(0, 1 − patience·L/b). Weighs the expected loss L of choosing this variation against its expected
    /// benefit b over control, both on the log scale. Growth cannot be undone, so of two good variations neither grows
    /// much before it is clear which is better, unless they are equally good.
    #[default]
    Weighed,
    /// f + S·w^exponent. Ignores the size of gains and losses.
    Level,
    /// w.
    Chase,
    /// f + S·ψ, with ψ the top-two probability w·(β + (1−β)·Σ_{j≠k} w_j/(1−w_j)), β = ½ (Russo 2016).
    TopTwo,
    /// f + S·(1−epsilon) for the variation with the highest P(best), f for the others.
    EpsilonGreedy,
    /// The current share: nothing grows.
    Fixed,
}

/// The model that P(best) is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosteriorKind {
    /// Lifts over control. Arms are compared only within the same tick, so the estimate (E3) stays valid when the
    /// baseline drifts.
    #[default]
    E3,
    /// One Beta–Bernoulli posterior for each arm, over all ticks. Valid only if the baseline is constant.
    Pooled,
}

/// The settings of Thompson sampling with growth into control. docs/statistics.md describes the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThompsonSettings {
    /// The time between two decisions, at least a minute. Arms are compared within such calendar ticks.
    #[serde(with = "humantime_text")]
    pub tick: Duration,
    /// Nothing grows before the generation has this age.
    #[serde(with = "humantime_text")]
    pub burn_in: Duration,
    /// Nothing grows before every arm that is not killed has this number of units.
    pub burn_in_units: u64,
    /// Nothing grows before every arm that is not killed has this number of conversions.
    pub burn_in_conversions: u64,
    /// The share of the line that control keeps at least, 0 to 1.
    pub floor: f64,
    /// The largest share of the line that may change owner in a day, 0 to 1.
    pub daily_cap: f64,
    /// The same limit while a variation reaches `conclude_probability` and `conclude_loss`, 0 to 1.
    pub daily_cap_conclude: f64,
    /// The smallest growth in one decision, of all variations together, as a share of the line, 0 to 1. Less is skipped; one
    /// variation may grow by less.
    pub min_step: f64,
    /// The prior standard deviation of a log-lift, above 0 and at most 10.
    pub tau: f64,
    /// A variation is killed when the probability that it is worse than control exceeds this, 0.5 to 1.
    pub kill_probability: f64,
    /// Growth may use `daily_cap_conclude` while the P(best) of a variation reaches this, 0.5 to 1, and its loss is within
    /// the limit of `conclude_loss`. It is not a claim: proposals to ship need evidence beyond chance.
    pub conclude_probability: f64,
    /// The largest relative expected loss of the leader with which the policy proposes to ship or to roll back in the first
    /// week, 0 to 1. The limit grows with the age of the run: twice this in the second week, and so on up to four times.
    pub conclude_loss: f64,
    /// The number of draws from the posterior, as a power of two: 6 to 16.
    pub draws_log2: u32,
    /// How P(best) becomes the target share of a variation.
    pub rule: GrowthRule,
    /// For [`GrowthRule::Weighed`]: how much more a loss weighs than a gain, 0 to 100.
    pub patience: f64,
    /// For [`GrowthRule::Level`]: the exponent, 1 to 10.
    pub exponent: f64,
    /// For [`GrowthRule::EpsilonGreedy`]: the part that is kept for exploration, 0 to 1.
    pub epsilon: f64,
    /// The model that P(best) is computed from.
    pub posterior: PosteriorKind,
    /// The policy decides and its decisions are recorded, but nothing changes. Shows what the policy would do.
    pub shadow: bool,
}

const DAY: Duration = Duration::from_secs(86_400);
/// The shortest calendar tick.
pub(crate) const MIN_TICK: Duration = Duration::from_secs(60);
pub(crate) const TICK_TOO_SHORT: &str = "the tick is too short: use at least 1m";

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
    /// People. The experiment is a feature flag.
    Manual {
        /// The width that control keeps at least.
        floor: Width,
        /// The calendar tick that divides results into reporting intervals, at least a minute.
        tick: Duration,
    },
    /// Thompson sampling. People can also grow variations.
    Thompson(ThompsonSettings),
}

impl Policy {
    /// The width that control keeps at least: growth cannot take it.
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

impl ThompsonSettings {
    /// Checks that every setting is within its range.
    pub(crate) fn check(&self, violations: &mut ViolationList) {
        for (field, value) in [
            ("floor", self.floor),
            ("daily_cap", self.daily_cap),
            ("daily_cap_conclude", self.daily_cap_conclude),
            ("min_step", self.min_step),
            ("conclude_loss", self.conclude_loss),
            ("epsilon", self.epsilon),
        ] {
            violations.check(
                (0.0..=1.0).contains(&value),
                &format!("policy.{field}"),
                "this share is out of range: use a value from 0 to 1",
            );
        }
        for (field, value) in
            [("kill_probability", self.kill_probability), ("conclude_probability", self.conclude_probability)]
        {
            let in_range = (0.5..=1.0).contains(&value);
            let message = "this probability is out of range: use a value from 0.5 to 1";
            violations.check(in_range, &format!("policy.{field}"), message);
        }
        violations.check(self.tick >= MIN_TICK, "policy.tick", TICK_TOO_SHORT);
        violations.check(
            self.tau > 0.0 && self.tau <= 10.0,
            "policy.tau",
            "tau is out of range: use a value above 0, at most 10",
        );
        violations.check(
            (6..=16).contains(&self.draws_log2),
            "policy.draws_log2",
            "the number of draws is out of range: use 6 to 16, for 2^6 to 2^16 draws",
        );
        violations.check(
            (0.0..=100.0).contains(&self.patience),
            "policy.patience",
            "patience is out of range: use a value from 0 to 100",
        );
        violations.check(
            (1.0..=10.0).contains(&self.exponent),
            "policy.exponent",
            "the exponent is out of range: use a value from 1 to 10",
        );
    }
}
