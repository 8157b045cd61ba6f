//! The fold: one task that turns the log into counts, step by step, and tells others how far it has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inroad_store::{Seq, Store, StoreError};
use tokio::sync::watch;

use crate::catalogue::Catalogue;
use crate::metrics::Metrics;

/// How many events one step takes.
const STEP: usize = 50_000;

/// Events that must be counted, and until when.
#[derive(Debug, Clone, Copy)]
pub struct Awaited {
    head: Seq,
    until: Instant,
}

/// Knows how far the fold has come, and wakes it.
#[derive(Clone)]
pub struct Fold {
    store: Arc<dyn Store>,
    done: watch::Receiver<(Seq, u64)>,
    wake: Arc<tokio::sync::Notify>,
}

impl Fold {
    /// Starts the task; it ends when `stop` turns true, after the step under way.
    pub fn start(
        store: Arc<dyn Store>,
        catalogue: Arc<Catalogue>,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (tell, done) = watch::channel((store.folded(), 0));
        let wake = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn(run(Arc::clone(&store), catalogue, metrics, Arc::clone(&wake), tell, stop));
        (Self { store, done, wake }, task)
    }

    /// Says that there is something to fold.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Events acknowledged and not yet folded.
    pub fn backlog(&self) -> u64 {
        self.store.head().saturating_sub(self.store.folded())
    }

    /// Hears how far the fold has come, and at which version of the catalogue.
    pub fn progress(&self) -> watch::Receiver<(Seq, u64)> {
        self.done.clone()
    }

    /// What is acknowledged by now, to be counted within `patience`.
    pub fn awaited(&self, patience: Duration) -> Awaited {
        Awaited { head: self.store.head(), until: Instant::now() + patience }
    }

    /// Waits until every event acknowledged before the call is counted, and the counts know the catalogue at
    /// `version` or later. False if that did not happen within `patience`.
    pub async fn caught_up(&self, version: u64, patience: Duration) -> bool {
        self.reaches(version, self.awaited(patience)).await
    }

    /// The same for what was acknowledged at an earlier moment. Whoever asks after the time is told how it stands.
    pub async fn reaches(&self, version: u64, Awaited { head, until }: Awaited) -> bool {
        let mut done = self.done.clone();
        self.wake();
        let reached = done.wait_for(|(folded, known)| *folded >= head && *known >= version);
        matches!(tokio::time::timeout_at(until.into(), reached).await, Ok(Ok(_)))
    }
}

async fn run(
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    metrics: Arc<Metrics>,
    wake: Arc<tokio::sync::Notify>,
    tell: watch::Sender<(Seq, u64)>,
    mut stop: watch::Receiver<bool>,
) {
    let mut changes = catalogue.subscribe();
    let mut known = 0;
    loop {
        let state = changes.borrow_and_update().clone();
        let begun = Instant::now();
        match store.fold(Arc::clone(&state.experiments), STEP).await {
            Ok(step) => {
                if step.events > 0 {
                    metrics.fold_seconds.observe(begun.elapsed().as_secs_f64());
                    metrics.folded.inc_by(step.events as u64);
                }
                if !step.behind {
                    known = state.version;
                }
                tell.send_replace((step.folded, known));
                if *stop.borrow() {
                    return;
                }
                if step.behind || (step.events > 0 && step.folded < store.head()) {
                    continue;
                }
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::error!(%error, "the fold failed, and tries again: nothing is lost, counts stand still");
                tokio::time::sleep(Duration::from_secs(1)).await;
                if *stop.borrow() {
                    return;
                }
                continue;
            }
        }
        tokio::select! {
            () = wake.notified() => {}
            heard = changes.changed() => if heard.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}
