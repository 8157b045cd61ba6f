//! A scenario as it is written in TOML: the traffic, the true rates, the faults and the policies. The files in
//! `scenarios/` are examples. The values are checked when a `Scenario` is built from it.

use serde::{Deserialize, Serialize};

use crate::policies::PolicyDoc;

/// A scenario file. Every TOML key is a field here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioDoc {
    /// Short name, `[a-z0-9-]`, at most 64 characters.
    pub name: String,
    /// Title for people.
    #[serde(default)]
    pub title: String,
    /// Days in a run, 1 to 366.
    #[serde(default = "default_days")]
    pub days: u32,
    /// Ticks in a day, 1 to 24, a divisor of 24.
    #[serde(default = "default_ticks_per_day")]
    pub ticks_per_day: u32,
    /// The base rate, before cycles, trend and lifts: conversions per visit for conversions and means (above 0, at most
    /// 1), events per unit for counts, numerator per denominator for ratios (both above 0, at most 100).
    pub base: f64,
    /// Mean number of new units per day, above 0, at most a million.
    pub per_day: f64,
    /// Relative amplitude of the daily cycle of rates, 0 to 1. The cycle of arrivals has half this amplitude.
    #[serde(default)]
    pub diurnal: f64,
    /// Relative amplitude of the weekly cycle of rates, 0 to 1.
    #[serde(default)]
    pub weekly: f64,
    /// Relative change of the base rate from the beginning to the end of the run, −1 to 10.
    #[serde(default)]
    pub trend: f64,
    /// Mean visits per tick of each unit that arrived in an earlier tick, 0 to 10.
    #[serde(default)]
    pub returning: f64,
    /// Coefficient of variation of the propensity of units, 0 to 10. The propensity of a unit is constant.
    #[serde(default)]
    pub heterogeneity: f64,
    /// Number of replications, 1 to 100,000.
    #[serde(default = "default_replications")]
    pub replications: u32,
    /// Seed of all replications.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The metric.
    #[serde(default)]
    pub metric: MetricSpec,
    /// Time from exposure to outcome. Without it, outcomes are known at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Exposures that are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Clients that serve an old revision for some ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// The arms, control first; 2 to 65.
    pub arms: Vec<ArmSpec>,
    /// The policies to compare. If empty: growth, an equal split, and unconstrained Thompson sampling.
    #[serde(default)]
    pub policies: Vec<PolicyDoc>,
}

/// The true lift of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmSpec {
    /// Relative lift over the base rate at the start, −1 to 10. Control may have a lift other than 0, too.
    pub lift: f64,
    /// How the lift changes over time. Without it, the lift is constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub novelty: Option<Novelty>,
}

/// A novelty effect: at day d the lift is to + (lift − to)·½^(d/half_life_days).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Novelty {
    /// The lift in the long run, −1 to 10.
    pub to: f64,
    /// Days in which half of the difference disappears, above 0, at most a million.
    pub half_life_days: f64,
}

/// The metric: what is measured of each unit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MetricSpec {
    /// Whether the unit converted.
    #[default]
    Conversion,
    /// Revenue per unit: a conversion times a lognormal value. Lifts are lifts of the conversion rate.
    Mean {
        /// Mean value of a conversion, above 0, at most 10^9.
        value: f64,
        /// Standard deviation of the value's logarithm, 0 to 5.
        sigma: f64,
        /// Larger values count as this, above 0, at most 10^12.
        #[serde(default)]
        cap: Option<f64>,
        /// Cost of every unit, known at its exposure: the outcome is the value less this, a profit. 0 to 10^9. With a
        /// cost, arms are compared by absolute differences, and reports show no relative lifts.
        #[serde(default)]
        cost: f64,
    },
    /// Number of events per unit: Poisson, with the mean given by the rate and the unit's propensity.
    Count,
    /// A numerator (such as orders: Poisson) over a denominator (such as sessions: 1 + Poisson) per unit.
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
    /// How long outcomes of a unit count, in hours, above 0 and at most the length of the run.
    pub window_hours: f64,
}

/// Exposures of one arm that never arrive: a sample ratio mismatch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// The arm; 0 is control.
    pub arm: usize,
    /// The probability that the exposure of a unit of this arm is lost, 0 to 1.
    pub probability: f64,
    /// The first day with losses, from 0.
    #[serde(default)]
    pub from_day: u32,
}

/// Clients that serve an old revision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stale {
    /// The probability that a unit uses such a client, 0 to 1.
    pub fraction: f64,
    /// How many ticks after a new revision such a client applies it, 1 to 1,000.
    pub ticks: u32,
}

fn default_days() -> u32 {
    28
}

fn default_ticks_per_day() -> u32 {
    4
}

fn default_replications() -> u32 {
    200
}

fn default_seed() -> u64 {
    1
}
