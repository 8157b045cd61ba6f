//! The client itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use inroad_assignment::{Context, Timestamp};
use inroad_wire::{describe, retry_delay, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::background::Background;
use crate::backoff::Backoff;
use crate::builder::ClientBuilder;
use crate::clock::deadline;
use crate::decision::{Decision, Pinned};
use crate::deliver::{attempt, is_final};
use crate::error::Error;
use crate::outcome::Outcome;
use crate::queue::{Event, Kind};
use crate::report::Status;
use crate::shared::Shared;

/// How long queued events may still be sent when a client is let go of without [`Client::shutdown`].
const FAREWELL: Duration = Duration::from_secs(2);

/// Answers "which variation?" in process, from a snapshot that is kept up to date in the background.
///
/// Cheap to clone; all clones are one client. When the last is dropped, the background work ends.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    background: Background,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.end(Instant::now() + FAREWELL);
    }
}

/// What became of the events that a client has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Flushed {
    /// How many are still not acknowledged: 0 if all went in time.
    pub left: usize,
    /// How many the server has acknowledged since the client was built.
    pub sent: u64,
    /// How many the server has refused since then.
    pub rejected: u64,
    /// How many were lost for want of room since then.
    pub dropped: u64,
}

impl Flushed {
    /// Whether nothing is left.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }
}

/// What the server says of outcomes that were recorded with [`Client::record`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// How many are on disk now.
    pub accepted: u64,
    /// Those that were refused.
    pub rejections: Vec<Rejection>,
}

/// An outcome that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its place among those that were given.
    pub index: usize,
    /// Why, as a word that programs can tell it by, such as `INVALID_VALUE`.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl Client {
    /// Begins to set up a client for the server at `address`, such as `http://127.0.0.1:7070`.
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(address.into())
    }

    pub(crate) fn new(shared: Arc<Shared>, background: Background) -> Self {
        Self { inner: Arc::new(Inner { shared, background }) }
    }

    #[inline]
    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Which variation a unit gets, without recording that it saw it. Never waits, never fails, allocates nothing on
    /// the plain path.
    #[inline]
    pub fn evaluate(&self, experiment: &str, context: &Context) -> Decision {
        let shared = self.shared();
        Decision::of(shared.state.load(), experiment, context, &shared.clock)
    }

    /// Which variation a unit gets, to be shown to it: where that is an exposure it is recorded in the background. Never
    /// waits, never fails.
    #[inline]
    pub fn assign(&self, experiment: &str, context: &Context) -> Decision {
        let decision = self.evaluate(experiment, context);
        if decision.records_exposure() {
            self.shared().expose(&decision, context);
        }
        decision
    }

    /// Records that a unit saw what [`Client::evaluate`] said it gets, for callers that know only later whether it did.
    /// Give it the same context.
    pub fn expose(&self, decision: &Decision, context: &Context) {
        if decision.records_exposure() {
            self.shared().expose(decision, context);
        }
    }

    /// The snapshot as it is now, pinned for many questions.
    #[inline]
    pub fn snapshot(&self) -> Pinned<'_> {
        let shared = self.shared();
        Pinned { state: shared.state.load(), clock: &shared.clock }
    }

    /// Records an outcome in the background; whether there was room for it. Never waits.
    pub fn track(&self, outcome: Outcome) -> bool {
        let shared = self.shared();
        shared.queue.offer(Kind::Outcome, || Event::Outcome(shared.stamp(outcome)))
    }

    /// An outcome by the units that a context names, for every type of unit that an experiment randomises by.
    pub fn outcome(&self, event: impl Into<String>, context: &Context) -> Outcome {
        let state = self.shared().state.load();
        let mut outcome = Outcome::new(event);
        if let Some(key) = context.targeting_key() {
            outcome = outcome.by(key);
        }
        let mut types: Vec<&str> = state.experiments().iter().map(|e| e.parts().unit.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        for unit in types.into_iter().filter(|unit| *unit != inroad_assignment::TARGETING_KEY).take(7) {
            if let Some(key) = context.unit(unit) {
                outcome = outcome.unit(unit, key);
            }
        }
        outcome
    }

    /// Records outcomes and waits until they are on the server's disk. Tries again, for as long as `within`, where that
    /// can help.
    ///
    /// # Errors
    /// [`Error::NotAcknowledged`] after that time, and [`Error::Refused`] when trying again would not help. Outcomes
    /// that were refused one by one are no error; they are in the receipt.
    pub async fn record(
        &self,
        outcomes: impl IntoIterator<Item = Outcome>,
        within: Duration,
    ) -> Result<Receipt, Error> {
        let outcomes: Vec<v1::Outcome> = outcomes.into_iter().map(|o| self.shared().stamp(o)).collect();
        let shared = Arc::clone(&self.inner.shared);
        self.inner.background.run(async move { record(&shared, outcomes, within).await }).await?
    }

    /// Waits for the first snapshot, from the server or the bootstrap file; whether it came in time.
    pub async fn ready(&self, within: Duration) -> bool {
        let shared = Arc::clone(&self.inner.shared);
        let wait = async move {
            let mut changes = shared.changes.subscribe();
            let came = timeout(within, changes.wait_for(|_| shared.state.load().ready)).await;
            matches!(came, Ok(Ok(_)))
        };
        self.inner.background.run(wait).await.unwrap_or(false)
    }

    /// The version of the snapshot in use, to be told of every change of it: a definition, a new revision, a kill. That a
    /// revision published before takes effect is not a change of the snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared().changes.subscribe()
    }

    /// What the server lists this client under: `inroad clients` shows who is connected. Drawn at random.
    pub fn id(&self) -> &str {
        self.shared().presence.id()
    }

    /// How the client is doing.
    pub fn status(&self) -> Status {
        self.shared().status()
    }

    /// The server's time, as far as it is known here: what pending revisions and events go by.
    pub fn now(&self) -> Timestamp {
        self.shared().now()
    }

    /// Sends what is queued, without waiting for more, and waits until it is acknowledged or the time is up.
    pub async fn flush(&self, within: Duration) -> Flushed {
        let shared = Arc::clone(&self.inner.shared);
        let wait = async move { timeout(within, shared.queue.flushed()).await.is_ok() };
        // In time or not, or the runtime gone: the counters tell.
        let _ = self.inner.background.run(wait).await;
        self.flushed()
    }

    /// Sends what is queued, then ends the background work, within the time given. What is evaluated afterwards is
    /// answered from the last snapshot; what is recorded afterwards is dropped and counted.
    pub async fn shutdown(&self, within: Duration) -> Flushed {
        let shared = Arc::clone(&self.inner.shared);
        let finished = self.inner.background.finished();
        let wait = async move {
            let by = deadline(within);
            shared.end(by);
            timeout_at(by, finished).await.is_ok()
        };
        let _ = self.inner.background.run(wait).await;
        self.flushed()
    }

    fn flushed(&self) -> Flushed {
        let shared = self.shared();
        Flushed {
            left: shared.queue.depth(),
            sent: shared.report.sent.load(Ordering::Relaxed),
            rejected: shared.report.rejected().values().sum(),
            dropped: shared.queue.dropped(),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("status", &self.status()).finish()
    }
}

async fn record(shared: &Shared, outcomes: Vec<v1::Outcome>, within: Duration) -> Result<Receipt, Error> {
    let by = deadline(within);
    let mut receipt = Receipt::default();
    for (n, part) in outcomes.chunks(shared.options.batch_size).enumerate() {
        let first = n * shared.options.batch_size;
        let batch = v1::RecordRequest { exposures: Vec::new(), outcomes: part.to_vec() };
        let mut last = "the server has not answered".to_owned();
        let acknowledged = timeout_at(by, acknowledged(shared, batch, &mut last)).await;
        let response = acknowledged.unwrap_or(Err(Error::NotAcknowledged { within, last }))?;
        receipt.accepted += u64::from(response.accepted);
        receipt.rejections.extend(response.rejections.into_iter().map(|r| Rejection {
            index: first + usize::try_from(r.index).unwrap_or(usize::MAX - first),
            reason: r.reason,
            message: r.message,
        }));
    }
    Ok(receipt)
}

/// Tries until the server has answered; keeps in `last` what went wrong.
async fn acknowledged(
    shared: &Shared,
    batch: v1::RecordRequest,
    last: &mut String,
) -> Result<v1::RecordResponse, Error> {
    let mut backoff = Backoff::new(shared.options.backoff_min, shared.options.backoff_max);
    loop {
        let status = match attempt(shared, batch.clone()).await {
            Ok(response) => return Ok(response),
            Err(status) => status,
        };
        if is_final(&status) {
            return Err(Error::Refused { code: format!("{:?}", status.code()), message: describe(&status) });
        }
        *last = describe(&status);
        sleep(backoff.next(retry_delay(&status))).await;
    }
}
