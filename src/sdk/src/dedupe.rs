//! Which exposures were recorded lately, so that a unit that asks a thousand times is recorded once. Best effort: the
//! server takes the same exposure twice and counts it once.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use inroad_assignment::{Arm, Digest};
use lru::LruCache;

/// What makes two exposures the same. The digest is of experiment, salt and unit, so it stands for the experiment too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) digest: Digest,
    pub(crate) generation: u32,
    pub(crate) arm: Arm,
}

const SHARDS: usize = 16;

/// The most recently used of them, in shards.
pub(crate) struct Dedupe {
    shards: [Mutex<LruCache<Seen, (), FixedState>>; SHARDS],
    per_shard: usize,
    duplicates: AtomicU64,
}

impl Dedupe {
    /// Remembers about `capacity` exposures; 0 remembers none.
    pub(crate) fn new(capacity: usize) -> Self {
        // Grown as needed: a short-lived client should not pay for a hundred thousand places.
        let shards = std::array::from_fn(|_| Mutex::new(LruCache::unbounded_with_hasher(FixedState::default())));
        Self { shards, per_shard: capacity.div_ceil(SHARDS), duplicates: AtomicU64::new(0) }
    }

    /// Calls `offer` unless it has lately said yes to the same exposure. Where another thread is in the same shard,
    /// this does not wait for it but lets a possible duplicate pass.
    pub(crate) fn once(&self, seen: Seen, offer: impl FnOnce() -> bool) {
        let shard = usize::from(seen.digest.as_bytes()[15]) % SHARDS;
        let Ok(mut shard) = self.shards[shard].try_lock() else {
            offer();
            return;
        };
        if shard.get(&seen).is_some() {
            self.duplicates.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // One that found no room is not remembered: the next time it may.
        if offer() && self.per_shard > 0 {
            if NonZeroUsize::new(shard.len()).is_some_and(|len| len.get() >= self.per_shard) {
                shard.pop_lru();
            }
            shard.put(seen, ());
        }
    }

    /// Forgets everything: another store has not seen what this one has.
    pub(crate) fn clear(&self) {
        self.shards.iter().for_each(|shard| crate::report::lock(shard).clear());
    }

    /// How many exposures were not sent because they had been.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(n: u8) -> Seen {
        Seen { digest: Digest::from_bytes([n; 16]), generation: 1, arm: Arm::CONTROL }
    }

    fn offered(dedupe: &Dedupe, seen: Seen, room: bool) -> bool {
        let mut called = false;
        dedupe.once(seen, || {
            called = true;
            room
        });
        called
    }

    #[test]
    fn the_same_exposure_is_offered_once_and_another_generation_or_arm_is_another_one() {
        let dedupe = Dedupe::new(1000);
        assert!(offered(&dedupe, seen(1), true));
        assert!(!offered(&dedupe, seen(1), true));
        assert!(offered(&dedupe, Seen { generation: 2, ..seen(1) }, true));
        assert!(offered(&dedupe, Seen { arm: Arm::new(1).unwrap(), ..seen(1) }, true));
        assert_eq!(dedupe.duplicates(), 1);
    }

    #[test]
    fn one_that_found_no_room_is_offered_again() {
        let dedupe = Dedupe::new(1000);
        assert!(offered(&dedupe, seen(1), false));
        assert!(offered(&dedupe, seen(1), true));
        assert!(!offered(&dedupe, seen(1), true));
    }

    #[test]
    fn the_least_recently_used_are_forgotten_beyond_the_capacity() {
        let dedupe = Dedupe::new(2 * SHARDS);
        // All in one shard, which holds two.
        let in_shard = |n: u8| seen(n * 16);
        for n in 0..3 {
            assert!(offered(&dedupe, in_shard(n), true));
        }
        assert!(!offered(&dedupe, in_shard(2), true));
        assert!(offered(&dedupe, in_shard(0), true), "the oldest had to go");
    }

    #[test]
    fn a_shard_that_is_busy_is_not_waited_for() {
        let dedupe = Dedupe::new(1000);
        assert!(offered(&dedupe, seen(0), true));
        let _busy = dedupe.shards[0].lock().unwrap();
        assert!(offered(&dedupe, seen(0), true), "a duplicate passes rather than a caller waits");
    }
}
