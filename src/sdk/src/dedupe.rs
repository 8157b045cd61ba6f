//! Remembers recently recorded exposures, so that a unit that is assigned a thousand times is recorded once. This is
//! best effort: the server accepts duplicates and counts them once.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use inroad_assignment::{Arm, Digest};
use lru::LruCache;

use crate::lock::lock;

/// Two exposures with the same key are duplicates. The digest covers experiment, salt and unit, so no experiment key is
/// needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ExposureKey {
    pub(crate) digest: Digest,
    pub(crate) generation: u32,
    pub(crate) arm: Arm,
}

const SHARDS: usize = 16;

/// The most recently used exposure keys, in shards.
pub(crate) struct RecentExposures {
    shards: [Mutex<LruCache<ExposureKey, (), FixedState>>; SHARDS],
    per_shard: usize,
    duplicates: AtomicU64,
}

impl RecentExposures {
    /// Remembers about `capacity` exposures; 0 remembers none.
    pub(crate) fn new(capacity: usize) -> Self {
        // Unbounded caches grow on demand: a short-lived client should not allocate 100,000 entries.
        let shards = std::array::from_fn(|_| Mutex::new(LruCache::unbounded_with_hasher(FixedState::default())));
        Self { shards, per_shard: capacity.div_ceil(SHARDS), duplicates: AtomicU64::new(0) }
    }

    /// Calls `push`, which returns whether the exposure was queued, unless the same exposure was queued recently. If
    /// another thread holds the shard's lock, this does not wait but calls `push`: a duplicate is harmless.
    pub(crate) fn push_once(&self, key: ExposureKey, push: impl FnOnce() -> bool) {
        let shard = usize::from(key.digest.as_bytes()[15]) % SHARDS;
        let Ok(mut shard) = self.shards[shard].try_lock() else {
            push();
            return;
        };
        if shard.get(&key).is_some() {
            self.duplicates.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // An exposure that was dropped is not remembered, so that it is recorded the next time.
        if push() && self.per_shard > 0 {
            if NonZeroUsize::new(shard.len()).is_some_and(|len| len.get() >= self.per_shard) {
                shard.pop_lru();
            }
            shard.put(key, ());
        }
    }

    /// Forgets all exposures. Needed when another store answers: it does not have them.
    pub(crate) fn clear(&self) {
        self.shards.iter().for_each(|shard| lock(shard).clear());
    }

    /// How many exposures were skipped as duplicates.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ExposureKey {
        ExposureKey { digest: Digest::from_bytes([n; 16]), generation: 1, arm: Arm::CONTROL }
    }

    /// Whether `push` was called.
    fn was_pushed(recent: &RecentExposures, key: ExposureKey, has_room: bool) -> bool {
        let mut called = false;
        recent.push_once(key, || {
            called = true;
            has_room
        });
        called
    }

    #[test]
    fn same_exposure_is_pushed_once_and_other_generations_and_arms_are_distinct() {
        let recent = RecentExposures::new(1000);
        assert!(was_pushed(&recent, key(1), true));
        assert!(!was_pushed(&recent, key(1), true));
        assert!(was_pushed(&recent, ExposureKey { generation: 2, ..key(1) }, true));
        assert!(was_pushed(&recent, ExposureKey { arm: Arm::new(1).unwrap(), ..key(1) }, true));
        assert_eq!(recent.duplicates(), 1);
    }

    #[test]
    fn dropped_exposure_is_pushed_again() {
        let recent = RecentExposures::new(1000);
        assert!(was_pushed(&recent, key(1), false));
        assert!(was_pushed(&recent, key(1), true));
        assert!(!was_pushed(&recent, key(1), true));
    }

    #[test]
    fn least_recently_used_exposure_is_forgotten_at_capacity() {
        let recent = RecentExposures::new(2 * SHARDS);
        // All keys are in one shard, which has room for two.
        let in_shard = |n: u8| key(n * 16);
        for n in 0..3 {
            assert!(was_pushed(&recent, in_shard(n), true));
        }
        assert!(!was_pushed(&recent, in_shard(2), true));
        assert!(was_pushed(&recent, in_shard(0), true), "the oldest was forgotten");
    }

    #[test]
    fn locked_shard_does_not_block_the_caller() {
        let recent = RecentExposures::new(1000);
        assert!(was_pushed(&recent, key(0), true));
        let _locked = recent.shards[0].lock().unwrap();
        assert!(was_pushed(&recent, key(0), true), "a duplicate is sent instead of waiting");
    }
}
