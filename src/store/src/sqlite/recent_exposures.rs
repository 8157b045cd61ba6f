//! Recently folded exposures. Most exposures repeat one of them and change nothing, so the fold can skip them without a
//! lookup in the tables.

use std::collections::HashMap;

use inroad_assignment::{Arm, Digest, Timestamp};
use inroad_policy::attribution::Exposure;

use super::tracked_generations::GenerationIndex;

type FirstExposures = HashMap<(GenerationIndex, Digest, Arm), (Timestamp, u32)>;

/// A bounded memory in two halves: when the newer one is full, the older one is dropped as a whole, which is cheap. All
/// its exposures are also on disk, so a dropped one only costs a lookup. The halves have all their room from the start:
/// the operating system provides a page of it at its first use, and no table is ever copied into a larger one.
pub(crate) struct RecentExposures {
    newer: FirstExposures,
    older: FirstExposures,
    half_capacity: usize,
}

impl RecentExposures {
    /// Room for `capacity` exposures.
    pub(crate) fn new(capacity: usize) -> Self {
        let half_capacity = capacity / 2;
        let half = || HashMap::with_capacity(half_capacity);
        Self { newer: half(), older: half(), half_capacity }
    }

    /// Whether an exposure may change the unit's record; false if it is known to be a repeat.
    pub(crate) fn may_change_record(&self, generation: GenerationIndex, digest: Digest, exposure: Exposure) -> bool {
        let key = (generation, digest, exposure.arm);
        let known = self.newer.get(&key).or_else(|| self.older.get(&key));
        known.is_none_or(|known| (exposure.at, exposure.revision) < *known)
    }

    /// Adds the stored exposures of one unit.
    pub(crate) fn remember(&mut self, generation: GenerationIndex, digest: Digest, exposures: &[Exposure]) {
        for exposure in exposures {
            if self.newer.len() >= self.half_capacity {
                std::mem::swap(&mut self.newer, &mut self.older);
                self.newer.clear();
            }
            self.newer.insert((generation, digest, exposure.arm), (exposure.at, exposure.revision));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SqliteOptions;

    #[test]
    fn memory_is_the_same_however_many_exposures_are_remembered() {
        let mut recent = RecentExposures::new(1_000);
        let room = (recent.newer.capacity(), recent.older.capacity());
        for unit in 0..10_000u128 {
            let exposures = [Arm::CONTROL, Arm::new(1).expect("an arm")].map(|arm| Exposure {
                arm,
                at: Timestamp::MIN,
                revision: 1,
            });
            recent.remember(0, Digest::from_bytes(unit.to_le_bytes()), &exposures);
            assert!(recent.newer.len() + recent.older.len() <= 1_000);
        }
        assert_eq!((recent.newer.capacity(), recent.older.capacity()), room);
        let known = Exposure { arm: Arm::CONTROL, at: Timestamp::MIN, revision: 1 };
        assert!(!recent.may_change_record(0, Digest::from_bytes(9_999u128.to_le_bytes()), known));
        assert!(recent.may_change_record(0, Digest::from_bytes(0u128.to_le_bytes()), known), "it was dropped");
    }

    #[test]
    fn default_memory_is_43_mb() {
        let entry = std::mem::size_of::<((GenerationIndex, Digest, Arm), (Timestamp, u32))>();
        let half = SqliteOptions::default().remembered_exposures / 2;
        // A table is at most 7/8 full, its size is a power of two, and each place has a byte of its own besides the entry.
        assert_eq!((entry, half, half * 8 / 7), (40, 458_752, 1 << 19));
        assert_eq!(RecentExposures::new(2 * half).newer.capacity(), half);
    }
}
