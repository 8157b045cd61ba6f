//! The counts from which everything else in this crate is computed: one tally per epoch and arm. The fold of the event
//! log produces them (see [`attribution`](crate::attribution)); this module defines their shape and checks them.

use serde::{Deserialize, Serialize};

use crate::error::PolicyError;

/// The most arms an experiment may have, control included.
pub const MAX_ARMS: usize = 65;

/// A period in which the served shares were constant: one calendar tick under one revision.
///
/// Epochs follow calendar ticks, not the instants at which revisions were made, because those instants depend on
/// outcomes and the length of an epoch must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochKey {
    /// Index of the calendar tick since the Unix epoch.
    pub tick: i64,
    /// Revision in effect.
    pub revision: u32,
}

/// The kind of number that a metric measures for each unit, as far as the estimates need it. Metrics that count events
/// are means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Whether the unit converted, with the variance of a Poisson count, which is too large by a factor of 1/(1−p).
    /// Decision records without a measure were made with this one.
    #[default]
    Poisson,
    /// Whether the unit converted.
    Conversion,
    /// A number per unit: revenue, or a count of events. The lift is the lift of the mean.
    Mean,
    /// Two numbers per unit. The lift is the lift of the ratio of their sums; the variance is computed over units.
    Ratio,
    /// A number per unit that can be negative, such as profit. Arms are compared by the absolute difference of their
    /// means, because a mean near or below 0 has no relative lift.
    MeanDifference,
    /// Two numbers per unit, of which the first can be negative. Arms are compared by the absolute difference of their
    /// ratios.
    RatioDifference,
}

/// Which values of a metric are better. Stored as `more` or `less`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetterDirection {
    /// Higher values are better.
    #[default]
    #[serde(rename = "more")]
    Higher,
    /// Lower values are better.
    #[serde(rename = "less")]
    Lower,
}

impl BetterDirection {
    /// 1 or −1: the factor that turns a lift into a benefit.
    #[must_use]
    pub fn sign(self) -> f64 {
        match self {
            Self::Higher => 1.0,
            Self::Lower => -1.0,
        }
    }
}

/// Counts of the units that were first exposed in one epoch under one arm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmTally {
    /// All units first exposed here, for the sample ratio check.
    pub first: u64,
    /// Stable records: units whose served arm did not change within the metric's window.
    pub n: u64,
    /// Those of `n` that converted within the window; for other measures, those with any event.
    pub s: u64,
    /// Those of `s` whose first event came within the first quarter of the window.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub early: u64,
    /// Sums of the units' numbers; none for conversions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<Moments>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Sums over the stable records of one epoch and arm, in the metric's unit of measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Sum of the units' numbers; for a ratio, of the numerators.
    pub x: f64,
    /// Sum of the squares of `x`.
    pub xx: f64,
    /// Sum of a ratio's denominators; 0 for other measures.
    pub y: f64,
    /// Sum of the squares of `y`.
    pub yy: f64,
    /// Sum of the products of both.
    pub xy: f64,
}

/// One arm in one epoch, in the form that all estimates use whatever the measure: `sum` is expected to be `size`·λ·e^b.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct MeasuredCell {
    /// Number of units; for ratios the sum of denominators.
    pub(crate) size: f64,
    /// Conversions, or the sum of the units' numbers; at least 0 unless the measure compares differences.
    pub(crate) sum: f64,
    /// Number of units.
    pub(crate) units: f64,
    /// Sum of squares of the units' numbers around their mean; for ratios, of x − (Σx/Σy)·y.
    pub(crate) squares: f64,
}

impl Measure {
    /// Whether arms are compared by absolute differences instead of relative lifts.
    #[must_use]
    pub fn is_difference(self) -> bool {
        matches!(self, Self::MeanDifference | Self::RatioDifference)
    }

    /// The measure for these tallies: a mean or a ratio becomes a difference as soon as any cell proves that negative
    /// values were counted. A sum of values of at least 0 is never below the root of the sum of their squares, so a
    /// smaller sum is a proof. If no cell proves it, every sum is far enough above 0 for a relative lift.
    #[must_use]
    pub fn suited_to(self, epochs: &[EpochTally]) -> Self {
        let has_negative =
            |tally: &ArmTally| tally.moments.is_some_and(|m| m.x < 0.0 || m.x * m.x < m.xx * (1.0 - ROUNDING));
        let difference = match self {
            Self::Mean => Self::MeanDifference,
            Self::Ratio => Self::RatioDifference,
            Self::Poisson | Self::Conversion | Self::MeanDifference | Self::RatioDifference => return self,
        };
        if epochs.iter().flat_map(|epoch| &epoch.arms).any(has_negative) { difference } else { self }
    }

    /// The cell of a tally under this measure. For relative lifts a negative sum (more refunds than sales) becomes 0,
    /// because a lift is a ratio of positive numbers.
    pub(crate) fn cell(self, tally: &ArmTally) -> MeasuredCell {
        let (n, s) = (tally.n as f64, tally.s as f64);
        let moments = tally.moments.unwrap_or_default();
        let (size, sum, squares) = match self {
            Self::Poisson | Self::Conversion => (n, s, if n > 0.0 { s - s * s / n } else { 0.0 }),
            Self::Mean | Self::MeanDifference => {
                (n, moments.x, if n > 0.0 { moments.xx - moments.x * moments.x / n } else { 0.0 })
            }
            Self::Ratio | Self::RatioDifference => {
                let ratio = if moments.y > 0.0 { moments.x / moments.y } else { 0.0 };
                (moments.y, moments.x, moments.xx - 2.0 * ratio * moments.xy + ratio * ratio * moments.yy)
            }
        };
        let sum = match size > 0.0 {
            true if self.is_difference() => sum,
            true => sum.max(0.0),
            false => 0.0,
        };
        MeasuredCell { size: size.max(0.0), sum, units: n, squares: squares.max(0.0) }
    }
}

impl MeasuredCell {
    /// Estimated variance of `sum` given `size`. None for fewer than two units, which show no spread.
    pub(crate) fn variance(&self) -> Option<f64> {
        (self.units >= 2.0).then(|| self.units * self.squares / (self.units - 1.0))
    }
}

/// The tallies of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochTally {
    /// The epoch.
    pub epoch: EpochKey,
    /// One tally per arm, control first.
    pub arms: Vec<ArmTally>,
    /// The share *served* per arm in this epoch, each in 0..=1 and with sum 1. A killed arm's share counts as
    /// control's. Empty when unknown; the sample ratio check then ignores the epoch.
    #[serde(default)]
    pub shares: Vec<f64>,
}

/// Relative error of sums in floating point that proves nothing.
const ROUNDING: f64 = 1e-9;
/// Smallest dispersion of conversions, which limits the certainty where almost all units convert.
const DISPERSION_MIN: f64 = 0.02;
/// Smallest coefficient of variation of means: units are taken to differ by at least a hundredth of their mean.
const VARIATION_MIN: f64 = 0.01;

/// How much units vary within their cells, summed over many cells, relative to the expected sums.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Spread {
    variance: f64,
    sum: f64,
    units: f64,
}

impl Spread {
    /// Adds a cell. A cell of fewer than two units shows no spread and is skipped.
    pub(crate) fn add_cell(&mut self, cell: &MeasuredCell) {
        if let Some(variance) = cell.variance() {
            self.add(&Self { variance, sum: cell.sum, units: cell.units });
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.variance += other.variance;
        self.sum += other.sum;
        self.units += other.units;
    }

    /// The spread scaled to the weight of `units` units.
    pub(crate) fn scaled_to(&self, units: f64) -> Self {
        let part = if self.units > 0.0 { units / self.units } else { 0.0 };
        Self { variance: part * self.variance, sum: part * self.sum, units: part * self.units }
    }

    /// The dispersion φ: the variance of a sum over its expectation, 1 for a Poisson count. None without data.
    pub(crate) fn dispersion(&self, measure: Measure) -> Option<f64> {
        if self.sum <= 0.0 {
            return None;
        }
        let observed = self.variance / self.sum;
        Some(match measure {
            Measure::Poisson => 1.0,
            Measure::Conversion => observed.clamp(DISPERSION_MIN, 1.0),
            Measure::Mean | Measure::Ratio | Measure::MeanDifference | Measure::RatioDifference => {
                observed.max(VARIATION_MIN * VARIATION_MIN * self.sum / self.units)
            }
        })
    }
}

/// The epochs, checked and sorted by key. Floating-point sums depend on the order of their terms, and the result must
/// not depend on the order in which the caller gives the epochs (I5).
pub(crate) fn checked_in_order(arms: usize, epochs: &[EpochTally]) -> Result<Vec<&EpochTally>, PolicyError> {
    let mut ordered: Vec<&EpochTally> = epochs.iter().collect();
    ordered.sort_by_key(|epoch| epoch.epoch);
    for epoch in &ordered {
        epoch.check(arms)?;
    }
    match ordered.windows(2).find(|pair| pair[0].epoch == pair[1].epoch) {
        Some(pair) => Err(PolicyError::RepeatedEpoch { tick: pair[0].epoch.tick, revision: pair[0].epoch.revision }),
        None => Ok(ordered),
    }
}

impl EpochTally {
    /// The tallies of control and one arm alone.
    pub(crate) fn pair_with_control(&self, arm: usize) -> Self {
        Self { epoch: self.epoch, arms: vec![self.arms[0], self.arms[arm]], shares: Vec::new() }
    }

    /// Refuses counts and shares that no set of units can produce.
    pub(crate) fn check(&self, arms: usize) -> Result<(), PolicyError> {
        if self.arms.len() != arms {
            return Err(PolicyError::ArmCount { expected: arms, found: self.arms.len() });
        }
        let EpochKey { tick, revision } = self.epoch;
        for (arm, tally) in self.arms.iter().enumerate() {
            let finite = |m: &Moments| [m.x, m.xx, m.y, m.yy, m.xy].iter().all(|sum| sum.is_finite());
            if tally.s > tally.n || tally.early > tally.s || !tally.moments.as_ref().is_none_or(finite) {
                return Err(PolicyError::ImpossibleTally { tick, revision, arm, s: tally.s, n: tally.n });
            }
        }
        let sum: f64 = self.shares.iter().sum();
        let valid = self.shares.is_empty()
            || (self.shares.len() == arms
                && self.shares.iter().all(|share| (0.0..=1.0).contains(share))
                && (sum - 1.0).abs() < 1e-6);
        if valid { Ok(()) } else { Err(PolicyError::ImpossibleShares { tick, revision }) }
    }
}
