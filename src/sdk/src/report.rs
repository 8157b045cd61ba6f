//! What the client tells of itself: counters and the last things that went wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where the snapshot in use comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Source {
    /// There is none yet.
    #[default]
    None,
    /// The bootstrap file; the server has not been reached.
    Bootstrap,
    /// The server.
    Server,
}

/// An experiment whose latest state was refused; what was served of it before is still served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The experiment's key.
    pub experiment: String,
    /// Why.
    pub reason: String,
}

/// How a client is doing: [`Client::status`](crate::Client::status).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Whether the stream of snapshots is open and has been heard of.
    pub connected: bool,
    /// How often the stream was opened and heard of.
    pub connections: u64,
    /// Where the snapshot in use comes from.
    pub source: Source,
    /// The version of the snapshot in use.
    pub version: u64,
    /// The store behind the versions.
    pub store_id: String,
    /// How many experiments are in the snapshot.
    pub experiments: usize,
    /// Those whose latest state is refused because it breaks a promise (I2) or is not whole.
    pub refused: Vec<Refusal>,
    /// How often one was refused, ever.
    pub refusals: u64,
    /// How often an older state came after a newer one (a replica that lags) and was passed over.
    pub stale: u64,
    /// Events that are waiting, or on their way and not acknowledged.
    pub queue_depth: usize,
    /// Events for which there was no room, lost.
    pub dropped: u64,
    /// Those of them that are exposures.
    pub dropped_exposures: u64,
    /// Those that are outcomes.
    pub dropped_outcomes: u64,
    /// Events that the server has acknowledged.
    pub sent: u64,
    /// Exposures that were not sent because the same ones had been.
    pub duplicates: u64,
    /// Events that the server refused, by its reason.
    pub rejected: BTreeMap<String, u64>,
    /// How often a batch of events had to be sent again.
    pub retries: u64,
    /// What went wrong last, of any kind.
    pub last_error: Option<String>,
    /// What is wrong with the bootstrap file, if something is.
    pub bootstrap_error: Option<String>,
    /// How far the server's clock is ahead of this machine's, in microseconds.
    pub clock_offset_micros: i64,
    /// How long ago the server was last heard of; `None` if never.
    pub snapshot_age: Option<Duration>,
}

/// The parts of [`Status`] that nobody else keeps.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) connected: AtomicBool,
    pub(crate) connections: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) retries: AtomicU64,
    heard: Mutex<Option<Instant>>,
    refused: Mutex<BTreeMap<String, String>>,
    rejected: Mutex<BTreeMap<String, u64>>,
    last_error: Mutex<Option<String>>,
    bootstrap_error: Mutex<Option<String>>,
}

impl Report {
    /// The server has just been heard of.
    pub(crate) fn heard(&self) {
        *lock(&self.heard) = Some(Instant::now());
        if !self.connected.swap(true, Ordering::Relaxed) {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self, what: impl Into<String>) {
        *lock(&self.last_error) = Some(what.into());
    }

    /// How reading or writing the bootstrap file went. Kept apart: a server that is not there soon has the last word.
    pub(crate) fn bootstrap(&self, result: Result<(), crate::Error>) {
        let error = result.err().map(|error| error.to_string());
        if let Some(error) = &error {
            tracing::error!(%error, "the bootstrap file is of no use");
            self.failed(error.clone());
        }
        *lock(&self.bootstrap_error) = error;
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        tracing::error!(experiment = %refusal.experiment, reason = %refusal.reason, "refused a snapshot; the old one stays");
        self.failed(format!("{}: {}", refusal.experiment, refusal.reason));
        self.refusals.fetch_add(1, Ordering::Relaxed);
        lock(&self.refused).insert(refusal.experiment, refusal.reason);
    }

    /// Good states of these experiments have come, or they are gone.
    pub(crate) fn accept<'a>(&self, experiments: impl Iterator<Item = &'a str>) {
        let mut refused = lock(&self.refused);
        for experiment in experiments {
            if refused.is_empty() {
                return;
            }
            refused.remove(experiment);
        }
    }

    /// Events that the server refused; each reason is logged when it is first met.
    pub(crate) fn reject(&self, reason: &str, message: &str, events: u64) {
        let mut rejected = lock(&self.rejected);
        if let Some(count) = rejected.get_mut(reason) {
            *count += events;
            return;
        }
        rejected.insert(reason.to_owned(), events);
        drop(rejected);
        tracing::error!(reason, message, "the server refused an event; more for this reason are counted, not logged");
        self.failed(format!("{reason}: {message}"));
    }

    pub(crate) fn refused(&self) -> Vec<Refusal> {
        let refusal = |(experiment, reason): (&String, &String)| Refusal {
            experiment: experiment.clone(),
            reason: reason.clone(),
        };
        lock(&self.refused).iter().map(refusal).collect()
    }

    pub(crate) fn rejected(&self) -> BTreeMap<String, u64> {
        lock(&self.rejected).clone()
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    pub(crate) fn bootstrap_error(&self) -> Option<String> {
        lock(&self.bootstrap_error).clone()
    }

    pub(crate) fn age(&self) -> Option<Duration> {
        lock(&self.heard).map(|at| at.elapsed())
    }
}

/// What is kept here is whole after every step, so a panic elsewhere while it was held has spoilt nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
