//! Recently folded exposures. Most exposures repeat one of them and change nothing, so the fold can skip them without a
//! lookup in the tables.

use std::collections::HashMap;

use inroad_assignment::{Arm, Digest, Timestamp};
use inroad_policy::attribution::Exposure;

use super::tracked_generations::GenerationIndex;

type FirstExposures = HashMap<(GenerationIndex, Digest, Arm), (Timestamp, u32)>;

/// A bounded memory in two halves: when the newer one is full, the older one is dropped as a whole, which is cheap. All
/// its exposures are also on disk, so a dropped one only costs a lookup.
#[derive(Default)]
pub(crate) struct RecentExposures {
    newer: FirstExposures,
    older: FirstExposures,
    half_capacity: usize,
}

impl RecentExposures {
    /// Room for `capacity` exposures.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { half_capacity: capacity / 2, ..Self::default() }
    }

    /// Whether an exposure may change the unit's record; false if it is known to be a repeat.
    pub(crate) fn may_change_record(&self, generation: GenerationIndex, digest: Digest, exposure: Exposure) -> bool {
        let key = (generation, digest, exposure.arm);
        let known = self.newer.get(&key).or_else(|| self.older.get(&key));
        known.is_none_or(|known| (exposure.at, exposure.revision) < *known)
    }

    /// Adds the stored exposures of one unit.
    pub(crate) fn remember(&mut self, generation: GenerationIndex, digest: Digest, exposures: &[Exposure]) {
        if self.newer.len() >= self.half_capacity {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        for exposure in exposures {
            self.newer.insert((generation, digest, exposure.arm), (exposure.at, exposure.revision));
        }
    }
}
