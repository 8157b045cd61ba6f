//! The fold: one task that turns the log into counts.
//!
//! ```text
//!  Record, Assign ──► log ──► fold ──► unit records and tallies (the counts)
//!                      │        │            │
//!                 head ┘        └ folded     └──► results, funnels, the policy, guardrails
//!
//!  backlog = head − folded
//! ```
//!
//! An event is acknowledged as soon as it is in the log. The fold processes it afterwards, in the order of the log, up
//! to 200,000 events per transaction, and fewer if that would take more than about two seconds: it credits exposures and
//! outcomes to unit records, adds to the tallies and moves its offset, all or nothing. A crash therefore loses nothing
//! and counts nothing twice (I5, I6).
//!
//! The fold attributes events by the experiments of one catalogue version. After a revision or a kill it first recounts
//! the units concerned, over several short steps, and folds no event meanwhile. Progress is therefore a pair: the last
//! event folded, and the catalogue version that the counts reflect.
//!
//! Callers that need complete counts (a tick, guardrails, results that wait) take a [`FoldTarget`]: the head of the log
//! at that moment, and a deadline. Later traffic does not postpone them. The task sleeps while there is nothing to
//! fold; a new event or a catalogue change wakes it. If the store fails, the fold retries each second: no event is
//! lost, but counts do not change until it succeeds.

use std::sync::Arc;
use std::time::Duration;

use inroad_store::{Seq, Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;

use crate::catalogue::Catalogue;
use crate::metrics::Metrics;
use crate::traces::TRACE_TARGET;

/// The most events that one step folds.
const EVENTS_PER_STEP: usize = 200_000;

/// The events that must be folded, and the deadline.
#[derive(Debug, Clone, Copy)]
pub struct FoldTarget {
    head: Seq,
    deadline: Instant,
}

/// A handle on the fold: reads its progress and wakes it.
#[derive(Clone)]
pub struct Fold {
    store: Arc<dyn Store>,
    progress: watch::Receiver<(Seq, u64)>,
    wake: Arc<tokio::sync::Notify>,
}

impl Fold {
    /// Starts the task. It ends after the current step when `stop` turns true.
    pub fn start(
        store: Arc<dyn Store>,
        catalogue: Arc<Catalogue>,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (progress_sender, progress) = watch::channel((store.folded(), 0));
        let wake = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn(run(Arc::clone(&store), catalogue, metrics, Arc::clone(&wake), progress_sender, stop));
        (Self { store, progress, wake }, task)
    }

    /// Wakes the task: there is something to fold.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The number of events that are acknowledged and not yet folded.
    pub fn backlog(&self) -> u64 {
        self.store.head().saturating_sub(self.store.folded())
    }

    /// Receives progress: the last event folded, and the catalogue version that the counts reflect.
    pub fn progress(&self) -> watch::Receiver<(Seq, u64)> {
        self.progress.clone()
    }

    /// All events acknowledged so far, to be folded within `timeout`.
    pub fn target_within(&self, timeout: Duration) -> FoldTarget {
        FoldTarget { head: self.store.head(), deadline: Instant::now() + timeout }
    }

    /// Waits until every event acknowledged before the call is folded and the counts reflect the catalogue at `version`
    /// or later. False if that takes longer than `timeout`.
    pub async fn wait_until_caught_up(&self, version: u64, timeout: Duration) -> bool {
        self.wait_until_reached(version, self.target_within(timeout)).await
    }

    /// Waits until the counts reflect the catalogue at `version` or later, whatever events are waiting. False if that takes
    /// longer than `timeout`.
    pub async fn wait_until_reflected(&self, version: u64, timeout: Duration) -> bool {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|(_, known)| *known >= version);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    /// The same as [`Self::wait_until_caught_up`] for a target taken earlier. After the deadline it still returns true if the target is already reached.
    pub async fn wait_until_reached(&self, version: u64, FoldTarget { head, deadline }: FoldTarget) -> bool {
        let mut progress = self.progress.clone();
        self.wake();
        let reached = progress.wait_for(|(folded, known)| *folded >= head && *known >= version);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }
}

async fn run(
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    metrics: Arc<Metrics>,
    wake: Arc<tokio::sync::Notify>,
    progress: watch::Sender<(Seq, u64)>,
    mut stop: watch::Receiver<bool>,
) {
    let mut changes = catalogue.subscribe();
    let (mut known_version, mut told_version) = (0, 0);
    loop {
        let state = changes.borrow_and_update().clone();
        let begun = Instant::now();
        // The store has every change up to `told_version`, so what a catalogue change costs here depends on the change.
        let changed = state.changed_since(told_version).map(|(_, entry)| Arc::clone(&entry.experiment)).collect();
        let span = tracing::info_span!(target: TRACE_TARGET, "fold step", events = Empty);
        match store.fold(Arc::new(changed), EVENTS_PER_STEP).instrument(span.clone()).await {
            Ok(step) => {
                span.record("events", step.events);
                told_version = state.version;
                metrics.fold_rows.inc_by(step.rows as u64);
                if step.events > 0 {
                    metrics.fold_seconds.observe(begun.elapsed().as_secs_f64());
                    metrics.folded_events.inc_by(step.events as u64);
                }
                if !step.is_behind {
                    known_version = state.version;
                }
                progress.send_replace((step.folded, known_version));
                if *stop.borrow() {
                    return;
                }
                if step.is_behind || (step.events > 0 && step.folded < store.head()) {
                    continue;
                }
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::error!(%error, "could not fold events; will retry. No event is lost, but counts do not change");
                tokio::time::sleep(Duration::from_secs(1)).await;
                if *stop.borrow() {
                    return;
                }
                continue;
            }
        }
        tokio::select! {
            () = wake.notified() => {}
            changed = changes.changed() => if changed.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}
