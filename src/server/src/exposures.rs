//! Exposures that Assign records by itself, in the background: a bounded queue into the log, and a memory of what was
//! recorded lately, so that a unit that asks a thousand times is logged once.

use std::sync::{Arc, Mutex};

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use inroad_assignment::{Arm, Digest};
use inroad_store::{Event, ExposureEvent, Store};
use tokio::sync::{mpsc, watch};

use crate::clock::WallClock;
use crate::fold::Fold;
use crate::metrics::Metrics;

/// How many exposures go to the log in one group.
const GROUP: usize = 2_000;
/// How often it is asked whether the fold has caught up.
const BACKLOG_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// How many exposures each half of the memory holds, per shard.
const REMEMBERED: usize = 8_192;
/// Shards of the memory, so that callers seldom meet.
const SHARDS: usize = 64;

/// What was recorded lately: two sets that take turns, so that the oldest half is forgotten at once and cheaply.
#[derive(Default)]
struct Recent {
    new: HashSet<(Digest, Arm), FixedState>,
    old: HashSet<(Digest, Arm), FixedState>,
}

impl Recent {
    fn contains(&self, key: &(Digest, Arm)) -> bool {
        self.new.contains(key) || self.old.contains(key)
    }

    fn insert(&mut self, key: (Digest, Arm)) -> bool {
        if self.contains(&key) {
            return false;
        }
        if self.new.len() >= REMEMBERED {
            std::mem::swap(&mut self.new, &mut self.old);
            self.new.clear();
        }
        self.new.insert(key)
    }

    fn forget(&mut self, key: &(Digest, Arm)) {
        self.new.remove(key);
        self.old.remove(key);
    }
}

/// The way into the log for exposures that nobody waits for.
pub struct Exposures {
    queue: mpsc::Sender<ExposureEvent>,
    /// Those that were queued or are on disk.
    queued: Memory,
    /// Those that are on disk for sure: what is only queued may yet be lost (I6).
    on_disk: Memory,
}

/// What was recorded lately, in shards.
struct Memory(Vec<Mutex<Recent>>);

impl Memory {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, digest: Digest) -> Option<std::sync::MutexGuard<'_, Recent>> {
        let byte = usize::from(digest.as_bytes()[15]);
        self.0.get(byte % SHARDS).map(|shard| shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether it is new; if so, it is remembered from now on.
    fn insert(&self, digest: Digest, arm: Arm) -> bool {
        self.shard(digest).is_some_and(|mut recent| recent.insert((digest, arm)))
    }
}

impl Exposures {
    /// The queue, and the task that empties it. When `closing` turns true, nothing more gets in, and the task ends with
    /// what is queued: connections that outlive the server do not hold it up. It waits while `max_backlog` events are yet
    /// to be counted.
    pub fn start(
        (store, fold): (Arc<dyn Store>, Fold),
        clock: Arc<WallClock>,
        metrics: Arc<Metrics>,
        (capacity, max_backlog): (usize, u64),
        closing: watch::Receiver<bool>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(capacity.max(1));
        let task = tokio::spawn(drain((store, fold, max_backlog), clock, metrics, waiting, closing));
        (Self { queue, queued: Memory::new(), on_disk: Memory::new() }, task)
    }

    /// Whether this exposure was queued or recorded lately; if not, it is remembered from now on. The digest carries
    /// experiment and salt, so that no two generations are confused.
    pub fn is_known(&self, digest: Digest, arm: Arm) -> bool {
        !self.queued.insert(digest, arm)
    }

    /// Whether this exposure was put on disk lately.
    pub fn is_on_disk(&self, digest: Digest, arm: Arm) -> bool {
        self.on_disk.shard(digest).is_some_and(|recent| recent.contains(&(digest, arm)))
    }

    /// Remembers that this exposure is on disk.
    pub fn settled(&self, digest: Digest, arm: Arm) {
        self.queued.insert(digest, arm);
        self.on_disk.insert(digest, arm);
    }

    /// Queues an exposure; false if there is no room, and then it is not remembered either.
    pub fn queue(&self, digest: Digest, event: ExposureEvent) -> bool {
        let arm = event.arm;
        let queued = self.queue.try_send(event).is_ok();
        if !queued && let Some(mut recent) = self.queued.shard(digest) {
            recent.forget(&(digest, arm));
        }
        queued
    }
}

async fn drain(
    (store, fold, max_backlog): (Arc<dyn Store>, Fold, u64),
    clock: Arc<WallClock>,
    metrics: Arc<Metrics>,
    mut waiting: mpsc::Receiver<ExposureEvent>,
    mut closing: watch::Receiver<bool>,
) {
    let mut group = Vec::with_capacity(GROUP);
    let mut closed = false;
    loop {
        let taken = tokio::select! {
            taken = waiting.recv_many(&mut group, GROUP) => taken,
            _ = closing.wait_for(|closing| *closing), if !closed => {
                closed = true;
                waiting.close();
                continue;
            }
        };
        if taken == 0 {
            return;
        }
        // Then the queue fills, and Assign says that it could not record: as Record does at the same limit.
        while fold.backlog() >= max_backlog && !*closing.borrow() {
            fold.wake();
            tokio::time::sleep(BACKLOG_PAUSE).await;
        }
        let events: Vec<Event> = group.drain(..).map(Event::Exposure).collect();
        let count = events.len() as u64;
        // What was queued is kept until the log has it: a full disk or queue stops this task, and then the queue's
        // bound makes Assign answer that it could not record.
        let mut pause = std::time::Duration::from_millis(20);
        while let Err(error) = store.append(clock.now(), events.clone()).await {
            if matches!(error, inroad_store::StoreError::Closed) {
                let lost = count + waiting.len() as u64;
                metrics.unqueued_exposures.inc_by(lost);
                tracing::error!(lost, "the store closed with exposures still queued");
                return;
            }
            tracing::warn!(%error, "exposures wait for the log");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(std::time::Duration::from_secs(2));
        }
        metrics.accepted_exposures.inc_by(count);
        // Whoever only ever asks for assignments has nobody else who would.
        fold.wake();
    }
}
