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

/// What the units first exposed in one epoch, under one arm, did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmTally {
    /// All first exposures, for the sample ratio check.
    pub first: u64,
    /// Stable records: units whose served arm did not change within their window.
    pub n: u64,
    /// Those of `n` that converted within their window.
    pub s: u64,
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
            if tally.s > tally.n {
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
