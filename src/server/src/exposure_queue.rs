//! The exposures that `Assign` records in the background: a bounded queue into the log, and a cache of recent
//! exposures, so that a unit that is assigned a thousand times is logged once.

use std::sync::{Arc, Mutex};

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use inroad_assignment::{Arm, Digest};
use inroad_store::{Event, ExposureEvent, Store};
use tokio::sync::{mpsc, watch};

use crate::clock::WallClock;
use crate::fold::Fold;
use crate::metrics::Metrics;

/// The most exposures written to the log in one group.
const GROUP_SIZE: usize = 2_000;
/// The pause between two checks of the backlog.
const BACKLOG_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// The most exposures in each half of a shard of the cache.
const HALF_CAPACITY: usize = 8_192;
/// The number of shards of the cache; with many, callers seldom wait for the same lock.
const SHARDS: usize = 64;

/// Recent exposures in two sets. When the new set is full it becomes the old one, and the old one is dropped as a
/// whole, which is cheap.
#[derive(Default)]
struct RecentExposures {
    new: HashSet<(Digest, Arm), FixedState>,
    old: HashSet<(Digest, Arm), FixedState>,
}

impl RecentExposures {
    fn contains(&self, key: &(Digest, Arm)) -> bool {
        self.new.contains(key) || self.old.contains(key)
    }

    fn insert(&mut self, key: (Digest, Arm)) -> bool {
        if self.contains(&key) {
            return false;
        }
        if self.new.len() >= HALF_CAPACITY {
            std::mem::swap(&mut self.new, &mut self.old);
            self.new.clear();
        }
        self.new.insert(key)
    }

    fn remove(&mut self, key: &(Digest, Arm)) {
        self.new.remove(key);
        self.old.remove(key);
    }
}

/// The queue of exposures on their way to the log.
pub struct ExposureQueue {
    queue: mpsc::Sender<ExposureEvent>,
    /// Exposures that were queued or are on disk.
    queued: ShardedExposures,
    /// Exposures that are on disk; a crash can still lose queued ones (I6).
    on_disk: ShardedExposures,
}

/// Recent exposures in shards.
struct ShardedExposures(Vec<Mutex<RecentExposures>>);

impl ShardedExposures {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, digest: Digest) -> Option<std::sync::MutexGuard<'_, RecentExposures>> {
        let byte = usize::from(digest.as_bytes()[15]);
        self.0.get(byte % SHARDS).map(|shard| shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Adds an exposure; true if it was not there.
    fn insert(&self, digest: Digest, arm: Arm) -> bool {
        self.shard(digest).is_some_and(|mut recent| recent.insert((digest, arm)))
    }
}

impl ExposureQueue {
    /// Starts the queue and the task that writes it to the log. When `closing` turns true, the queue accepts nothing
    /// more and the task ends once the queue is empty, so connections that outlive the server do not delay it. The task
    /// pauses while the backlog is at `max_backlog` events.
    pub fn start(
        (store, fold): (Arc<dyn Store>, Fold),
        clock: Arc<WallClock>,
        metrics: Arc<Metrics>,
        (capacity, max_backlog): (usize, u64),
        closing: watch::Receiver<bool>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(capacity.max(1));
        let task = tokio::spawn(drain_queue((store, fold, max_backlog), clock, metrics, waiting, closing));
        (Self { queue, queued: ShardedExposures::new(), on_disk: ShardedExposures::new() }, task)
    }

    /// Whether this exposure was queued or recorded recently. If not, it counts as queued from now on: the caller must
    /// queue it. The digest includes experiment and salt, so it differs between generations.
    pub fn already_queued(&self, digest: Digest, arm: Arm) -> bool {
        !self.queued.insert(digest, arm)
    }

    /// Whether this exposure was recently written to disk.
    pub fn is_on_disk(&self, digest: Digest, arm: Arm) -> bool {
        self.on_disk.shard(digest).is_some_and(|recent| recent.contains(&(digest, arm)))
    }

    /// Records that this exposure is on disk.
    pub fn mark_on_disk(&self, digest: Digest, arm: Arm) {
        self.queued.insert(digest, arm);
        self.on_disk.insert(digest, arm);
    }

    /// The number of exposures that wait to be written to the log, without those of the group being written.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Queues an exposure. False if the queue is full; the exposure then no longer counts as queued.
    pub fn enqueue(&self, digest: Digest, event: ExposureEvent) -> bool {
        let arm = event.arm;
        let queued = self.queue.try_send(event).is_ok();
        if !queued && let Some(mut recent) = self.queued.shard(digest) {
            recent.remove(&(digest, arm));
        }
        queued
    }
}

async fn drain_queue(
    (store, fold, max_backlog): (Arc<dyn Store>, Fold, u64),
    clock: Arc<WallClock>,
    metrics: Arc<Metrics>,
    mut waiting: mpsc::Receiver<ExposureEvent>,
    mut closing: watch::Receiver<bool>,
) {
    let mut group = Vec::with_capacity(GROUP_SIZE);
    let mut closed = false;
    loop {
        let taken = tokio::select! {
            taken = waiting.recv_many(&mut group, GROUP_SIZE) => taken,
            _ = closing.wait_for(|closing| *closing), if !closed => {
                closed = true;
                waiting.close();
                continue;
            }
        };
        if taken == 0 {
            return;
        }
        // The queue then fills up and `Assign` answers that it could not record, as `Record` does at the same limit.
        while fold.backlog() >= max_backlog && !*closing.borrow() {
            fold.wake();
            tokio::time::sleep(BACKLOG_PAUSE).await;
        }
        let events: Vec<Event> = group.drain(..).map(Event::Exposure).collect();
        let count = events.len() as u64;
        // A group is retried until the log has it. While a full disk stops this task, the queue fills up and `Assign`
        // answers that it could not record.
        let mut pause = std::time::Duration::from_millis(20);
        while let Err(error) = store.append(clock.now(), events.clone()).await {
            if matches!(error, inroad_store::StoreError::Closed) {
                let lost = count + waiting.len() as u64;
                metrics.unqueued_exposures.inc_by(lost);
                tracing::error!(lost, "the store closed before all queued exposures were written");
                return;
            }
            tracing::warn!(%error, "could not write exposures to the log; will retry");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(std::time::Duration::from_secs(2));
        }
        metrics.accepted_exposures.inc_by(count);
        // A server that only answers assignments has nothing else that wakes the fold.
        fold.wake();
    }
}
