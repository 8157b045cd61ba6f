//! The counts that everything else here is computed from. They come from a fold over accepted events; this module does
//! not know how, only what they must satisfy.

use serde::{Deserialize, Serialize};

use crate::PolicyError;

/// A stretch of time in which the served shares were constant: one calendar tick under one revision.
///
/// Calendar ticks, not the instants at which revisions were cut: if an epoch ended when a revision happened to be cut,
/// its length would depend on outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochKey {
    /// Index of the calendar tick since the Unix epoch.
    pub tick: i64,
    /// Revision in force.
    pub revision: u32,
}

/// What is measured of each unit, as far as an estimate has to know. Counts of events are means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Whether it converted, with the variance of a Poisson count, 1/(1−p) too large: the cautious one, and what records
    /// of decisions that name no measure were made with.
    #[default]
    Poisson,
    /// Whether it converted.
    Conversion,
    /// A number per unit: revenue, a count of events. Its lift is that of the mean.
    Mean,
    /// Two numbers per unit. The lift is that of the ratio of their sums; the unit is still what varies.
    Ratio,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More is better.
    #[default]
    More,
    /// Less is better.
    Less,
}

impl Better {
    /// 1 or −1: what a lift is multiplied with to be a benefit.
    #[must_use]
    pub fn sign(self) -> f64 {
        match self {
            Self::More => 1.0,
            Self::Less => -1.0,
        }
    }
}

/// What the units first exposed in one epoch, under one arm, did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmTally {
    /// All first exposures, for the sample ratio check.
    pub first: u64,
    /// Stable records: units whose served arm did not change within their window.
    pub n: u64,
    /// Those of `n` that converted within their window; for other measures, those with any event.
    pub s: u64,
    /// Those of `s` whose first event came within the first quarter of the window.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub early: u64,
    /// What their numbers add up to; none for conversions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<Moments>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Sums over the stable records of one cell, in the metric's own unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Of each unit's number; a ratio's numerator.
    pub x: f64,
    /// Of its square.
    pub xx: f64,
    /// Of a ratio's denominator; 0 for other measures.
    pub y: f64,
    /// Of its square.
    pub yy: f64,
    /// Of their product.
    pub xy: f64,
}

/// One arm in one epoch as the estimates see it, whatever is measured: `sum` is expected to be `size`·λ·e^b.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Cell {
    /// Units; for ratios the sum of denominators.
    pub(crate) size: f64,
    /// Conversions, or the sum of the units' numbers; not below 0.
    pub(crate) sum: f64,
    /// Units.
    pub(crate) units: f64,
    /// Sum of squares of the units' numbers around their mean; for ratios of x − (Σx/Σy)·y.
    pub(crate) squares: f64,
}

impl Measure {
    /// A cell under this measure. A cell whose sum is negative (more refunds than sales) counts as nothing: a lift is a
    /// ratio of positive numbers.
    pub(crate) fn cell(self, tally: &ArmTally) -> Cell {
        let (n, s) = (tally.n as f64, tally.s as f64);
        let moments = tally.moments.unwrap_or_default();
        let (size, sum, squares) = match self {
            Self::Poisson | Self::Conversion => (n, s, if n > 0.0 { s - s * s / n } else { 0.0 }),
            Self::Mean => (n, moments.x, if n > 0.0 { moments.xx - moments.x * moments.x / n } else { 0.0 }),
            Self::Ratio => {
                let ratio = if moments.y > 0.0 { moments.x / moments.y } else { 0.0 };
                (moments.y, moments.x, moments.xx - 2.0 * ratio * moments.xy + ratio * ratio * moments.yy)
            }
        };
        let sum = if size > 0.0 { sum.max(0.0) } else { 0.0 };
        Cell { size: size.max(0.0), sum, units: n, squares: squares.max(0.0) }
    }
}

impl Cell {
    /// Estimated variance of `sum` given `size`; none for fewer than two units, which show no spread.
    pub(crate) fn variance(&self) -> Option<f64> {
        (self.units >= 2.0).then(|| self.units * self.squares / (self.units - 1.0))
    }
}

/// The tallies of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochTally {
    /// Which epoch.
    pub epoch: EpochKey,
    /// One tally per arm, control first.
    pub arms: Vec<ArmTally>,
    /// The share *served* per arm in this epoch, each in 0..=1 and together 1: a killed arm's share counts as
    /// control's. Empty when unknown: the epoch then takes no part in the sample ratio check.
    #[serde(default)]
    pub shares: Vec<f64>,
}

/// Conversions do not get more certain than this, however often everybody converts.
const DISPERSION_MIN: f64 = 0.02;
/// Nor do means: units are taken to differ by at least a hundredth of what they have on average.
const VARIATION_MIN: f64 = 0.01;

/// How much the units of many cells vary within their cells, against what their sums are expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Spread {
    variance: f64,
    sum: f64,
    units: f64,
}

impl Spread {
    /// Adds a cell; one of a single unit shows no spread and is passed over.
    pub(crate) fn see(&mut self, cell: &Cell) {
        if let Some(variance) = cell.variance() {
            self.add(&Self { variance, sum: cell.sum, units: cell.units });
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.variance += other.variance;
        self.sum += other.sum;
        self.units += other.units;
    }

    /// What `units` units of this kind would show.
    pub(crate) fn of_units(&self, units: f64) -> Self {
        let part = if self.units > 0.0 { units / self.units } else { 0.0 };
        Self { variance: part * self.variance, sum: part * self.sum, units: part * self.units }
    }

    /// φ, the variance of a sum over its expectation; 1 for a Poisson count. None before anything was seen.
    pub(crate) fn dispersion(&self, measure: Measure) -> Option<f64> {
        if self.sum <= 0.0 {
            return None;
        }
        let seen = self.variance / self.sum;
        Some(match measure {
            Measure::Poisson => 1.0,
            Measure::Conversion => seen.clamp(DISPERSION_MIN, 1.0),
            Measure::Mean | Measure::Ratio => seen.max(VARIATION_MIN * VARIATION_MIN * self.sum / self.units),
        })
    }
}

/// The epochs in their own order, checked. Floating-point sums depend on their order, and the answer must not depend on
/// the caller's (I5).
pub(crate) fn in_order(arms: usize, epochs: &[EpochTally]) -> Result<Vec<&EpochTally>, PolicyError> {
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
    /// Refuse what no set of units can produce.
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
