//! The client's status: counters and the most recent errors.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::lock::lock;

/// Where the snapshot in use comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Source {
    /// There is no snapshot yet.
    #[default]
    None,
    /// The bootstrap file, because the server was not reached yet.
    Bootstrap,
    /// The server.
    Server,
}

/// An experiment whose newest state was refused. The state before it is still served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The experiment's key.
    pub experiment: String,
    /// Why the state was refused.
    pub reason: String,
}

/// The status of a client, returned by [`Client::status`](crate::Client::status).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Whether the stream of snapshots is open and has delivered a message.
    pub connected: bool,
    /// How often the stream was opened and delivered a message.
    pub connections: u64,
    /// Where the snapshot in use comes from.
    pub source: Source,
    /// The version of the snapshot in use; 0 before the first.
    pub version: u64,
    /// The id of the store that the version belongs to.
    pub store_id: String,
    /// The number of experiments in the snapshot.
    pub experiments: usize,
    /// Experiments whose newest state is refused, because it takes points from a variation (I2) or is not valid.
    pub refused: Vec<Refusal>,
    /// How many states were refused since the client was built.
    pub refusals: u64,
    /// How many states were ignored because they were older than the state in use (sent by a replica that lags).
    pub stale: u64,
    /// Events that are queued, or sent and not yet acknowledged.
    pub queue_depth: usize,
    /// Events that were dropped because the queue was full or the client was shut down.
    pub dropped: u64,
    /// The exposures among the dropped events.
    pub dropped_exposures: u64,
    /// The outcomes among the dropped events.
    pub dropped_outcomes: u64,
    /// Events that the server has acknowledged.
    pub sent: u64,
    /// Exposures that were not sent because the same exposure was recorded recently.
    pub duplicates: u64,
    /// Events that the server refused, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// How often a batch of events was sent again.
    pub retries: u64,
    /// The most recent error of any kind.
    pub last_error: Option<String>,
    /// The error of the last read or write of the bootstrap file, if it failed.
    pub bootstrap_error: Option<String>,
    /// How far the server's clock is ahead of this machine's, in microseconds.
    pub clock_offset_micros: i64,
    /// The time since the last message from the server; `None` before the first.
    pub snapshot_age: Option<Duration>,
}

/// Collects the parts of [`Status`] that no other part of the client has.
#[derive(Debug, Default)]
pub(crate) struct StatusRecorder {
    pub(crate) connected: AtomicBool,
    pub(crate) connections: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) retries: AtomicU64,
    last_message: Mutex<Option<Instant>>,
    refused: Mutex<BTreeMap<String, String>>,
    rejected: Mutex<BTreeMap<String, u64>>,
    last_error: Mutex<Option<String>>,
    bootstrap_error: Mutex<Option<String>>,
}

impl StatusRecorder {
    /// A message from the server has just arrived.
    pub(crate) fn record_message(&self) {
        *lock(&self.last_message) = Some(Instant::now());
        if !self.connected.swap(true, Ordering::Relaxed) {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn record_error(&self, error: impl Into<String>) {
        *lock(&self.last_error) = Some(error.into());
    }

    /// The result of reading or writing the bootstrap file. It has its own field, because errors of an unreachable
    /// server soon replace `last_error`.
    pub(crate) fn record_bootstrap_result(&self, result: Result<(), Error>) {
        let error = result.err().map(|error| error.to_string());
        if let Some(error) = &error {
            tracing::error!(%error, "cannot use the bootstrap file");
            self.record_error(error.clone());
        }
        *lock(&self.bootstrap_error) = error;
    }

    pub(crate) fn record_refusal(&self, refusal: Refusal) {
        tracing::error!(
            experiment = %refusal.experiment,
            reason = %refusal.reason,
            "refused the new state of an experiment; the old state stays in use"
        );
        self.record_error(format!("{}: {}", refusal.experiment, refusal.reason));
        self.refusals.fetch_add(1, Ordering::Relaxed);
        lock(&self.refused).insert(refusal.experiment, refusal.reason);
    }

    /// Valid states of these experiments have arrived, or the experiments were removed.
    pub(crate) fn clear_refusals<'a>(&self, experiments: impl Iterator<Item = &'a str>) {
        let mut refused = lock(&self.refused);
        for experiment in experiments {
            if refused.is_empty() {
                return;
            }
            refused.remove(experiment);
        }
    }

    /// Counts events that the server refused. Each reason is logged once.
    pub(crate) fn record_rejection(&self, reason: &str, message: &str, events: u64) {
        let mut rejected = lock(&self.rejected);
        if let Some(count) = rejected.get_mut(reason) {
            *count += events;
            return;
        }
        rejected.insert(reason.to_owned(), events);
        drop(rejected);
        tracing::error!(
            reason,
            message,
            "the server refused an event; further events with this reason are counted and not logged"
        );
        self.record_error(format!("{reason}: {message}"));
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

    pub(crate) fn last_message_age(&self) -> Option<Duration> {
        lock(&self.last_message).map(|at| at.elapsed())
    }
}
