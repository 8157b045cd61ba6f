//! The client: what applications call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use inroad_assignment::{Context, Timestamp};
use inroad_wire::{describe_status, retry_delay, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::background::Background;
use crate::backoff::Backoff;
use crate::client_state::ClientState;
use crate::deadline::deadline_after;
use crate::decision::{Decision, PinnedSnapshot};
use crate::error::Error;
use crate::event_sender::{is_permanent, send_once};
use crate::outcome::Outcome;
use crate::status::Status;

/// How long queued events may still be sent after the last client was dropped without [`Client::shutdown`].
const DROP_GRACE: Duration = Duration::from_secs(2);

/// Answers "which variation?" in process, from a snapshot that is kept up to date in the background.
///
/// Cloning is cheap, and all clones share one state. When the last clone is dropped, the background work ends.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<ClientState>,
    background: Background,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.begin_shutdown(Instant::now() + DROP_GRACE);
    }
}

/// The result of [`Client::flush`] and [`Client::shutdown`]. The last three numbers count since the client was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct FlushResult {
    /// How many events are not acknowledged yet; 0 if all were sent in time.
    pub unacknowledged: usize,
    /// How many events the server has acknowledged.
    pub sent: u64,
    /// How many events the server has refused.
    pub rejected: u64,
    /// How many events were dropped because the queue was full or the client was shut down.
    pub dropped: u64,
}

impl FlushResult {
    /// Whether no event is left unacknowledged.
    pub fn is_complete(&self) -> bool {
        self.unacknowledged == 0
    }
}

/// The server's answer to [`Client::record`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// How many outcomes are on the server's disk now.
    pub accepted: u64,
    /// The outcomes that were refused.
    pub rejections: Vec<Rejection>,
}

/// An outcome that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The index of the outcome among those that were passed to [`Client::record`].
    pub index: usize,
    /// The reason code, for programs, such as `INVALID_VALUE`.
    pub reason: String,
    /// The reason, for people.
    pub message: String,
}

impl Client {
    pub(crate) fn new(state: Arc<ClientState>, background: Background) -> Self {
        Self { inner: Arc::new(Inner { state, background }) }
    }

    #[inline]
    fn state(&self) -> &ClientState {
        &self.inner.state
    }

    /// Returns which variation a unit gets, and records no exposure. Never waits and never fails. Usually allocates no
    /// memory (an audience may need some).
    #[inline]
    pub fn evaluate(&self, experiment: &str, context: &Context) -> Decision {
        let state = self.state();
        Decision::new(state.snapshot.load(), experiment, context, &state.clock)
    }

    /// Returns which variation a unit gets, and records the exposure in the background if there is one. Call it when
    /// the variation is shown to the unit. Never waits and never fails.
    #[inline]
    pub fn assign(&self, experiment: &str, context: &Context) -> Decision {
        let decision = self.evaluate(experiment, context);
        if decision.records_exposure() {
            self.state().queue_exposure(&decision, context);
        }
        decision
    }

    /// Records the exposure of a decision of [`Client::evaluate`], for callers that show the variation later. Pass the
    /// same context.
    pub fn expose(&self, decision: &Decision, context: &Context) {
        if decision.records_exposure() {
            self.state().queue_exposure(decision, context);
        }
    }

    /// The current snapshot, pinned for many evaluations.
    #[inline]
    pub fn snapshot(&self) -> PinnedSnapshot<'_> {
        let state = self.state();
        PinnedSnapshot { snapshot: state.snapshot.load(), clock: &state.clock }
    }

    /// Records an outcome in the background and returns whether the queue had room for it. Never waits.
    pub fn track(&self, outcome: Outcome) -> bool {
        self.state().queue_outcome(outcome)
    }

    /// An outcome with the units of a context: the targeting key, and the key of every other unit type that an
    /// experiment uses, at most 8 in all.
    pub fn outcome(&self, event: impl Into<String>, context: &Context) -> Outcome {
        let snapshot = self.state().snapshot.load();
        let mut outcome = Outcome::new(event);
        if let Some(key) = context.targeting_key() {
            outcome = outcome.targeting_key(key);
        }
        let mut unit_types: Vec<&str> = snapshot.experiments().iter().map(|e| e.parts().unit.as_str()).collect();
        unit_types.sort_unstable();
        unit_types.dedup();
        for unit_type in unit_types.into_iter().filter(|t| *t != inroad_assignment::TARGETING_KEY).take(7) {
            if let Some(key) = context.unit(unit_type) {
                outcome = outcome.unit(unit_type, key);
            }
        }
        outcome
    }

    /// Records outcomes and waits until they are on the server's disk. Retries temporary errors for as long as
    /// `within`.
    ///
    /// # Errors
    /// [`Error::NotAcknowledged`] after that time, and [`Error::Refused`] if a retry would not help. Outcomes that were
    /// refused one by one are no error: the receipt lists them.
    pub async fn record(
        &self,
        outcomes: impl IntoIterator<Item = Outcome>,
        within: Duration,
    ) -> Result<Receipt, Error> {
        let outcomes: Vec<v1::Outcome> = outcomes.into_iter().map(|o| self.state().outcome_to_wire(o)).collect();
        let state = Arc::clone(&self.inner.state);
        self.inner.background.run(async move { record(&state, outcomes, within).await }).await?
    }

    /// Waits for the first snapshot, from the server or the bootstrap file, and returns whether it arrived in time.
    pub async fn ready(&self, within: Duration) -> bool {
        let state = Arc::clone(&self.inner.state);
        let wait = async move {
            let mut changes = state.version.subscribe();
            let arrived = timeout(within, changes.wait_for(|_| state.snapshot.load().is_ready)).await;
            matches!(arrived, Ok(Ok(_)))
        };
        self.inner.background.run(wait).await.unwrap_or(false)
    }

    /// The version of the snapshot in use. The receiver is notified of every change: a definition, a new revision, a
    /// kill. It is not notified when a revision that was published earlier takes effect.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.state().version.subscribe()
    }

    /// The random id under which the server lists this client. `inroad clients` shows the connected clients.
    pub fn id(&self) -> &str {
        self.state().applied_versions.client_id()
    }

    /// The client's status.
    pub fn status(&self) -> Status {
        self.state().status()
    }

    /// The server's time, as estimated by this client. It decides when pending revisions take effect, and it is the
    /// time of events.
    pub fn now(&self) -> Timestamp {
        self.state().now()
    }

    /// Sends all queued events immediately, and waits until they are acknowledged or `within` has passed.
    pub async fn flush(&self, within: Duration) -> FlushResult {
        let state = Arc::clone(&self.inner.state);
        let wait = async move { timeout(within, state.queue.flush()).await.is_ok() };
        // The result is in the counters, whether the flush finished, timed out, or the runtime is gone.
        let _ = self.inner.background.run(wait).await;
        self.flush_result()
    }

    /// Sends all queued events, then ends the background work, within the given time. Afterwards, evaluations use the
    /// last snapshot, and new events are dropped and counted.
    pub async fn shutdown(&self, within: Duration) -> FlushResult {
        let state = Arc::clone(&self.inner.state);
        let finished = self.inner.background.finished();
        let wait = async move {
            let deadline = deadline_after(within);
            state.begin_shutdown(deadline);
            timeout_at(deadline, finished).await.is_ok()
        };
        let _ = self.inner.background.run(wait).await;
        self.flush_result()
    }

    fn flush_result(&self) -> FlushResult {
        let state = self.state();
        FlushResult {
            unacknowledged: state.queue.depth(),
            sent: state.recorder.sent.load(Ordering::Relaxed),
            rejected: state.recorder.rejected().values().sum(),
            dropped: state.queue.dropped(),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("status", &self.status()).finish()
    }
}

async fn record(state: &ClientState, outcomes: Vec<v1::Outcome>, within: Duration) -> Result<Receipt, Error> {
    let deadline = deadline_after(within);
    let mut receipt = Receipt::default();
    for (n, part) in outcomes.chunks(state.settings.batch_size).enumerate() {
        let first = n * state.settings.batch_size;
        let batch = v1::RecordRequest { exposures: Vec::new(), outcomes: part.to_vec() };
        let mut last_error = "the server has not answered".to_owned();
        let sent = timeout_at(deadline, send_with_retries(state, batch, &mut last_error)).await;
        let response = sent.unwrap_or(Err(Error::NotAcknowledged { within, last: last_error }))?;
        receipt.accepted += u64::from(response.accepted);
        receipt.rejections.extend(response.rejections.into_iter().map(|r| Rejection {
            index: first + usize::try_from(r.index).unwrap_or(usize::MAX - first),
            reason: r.reason,
            message: r.message,
        }));
    }
    Ok(receipt)
}

/// Sends a batch until the server has answered. Stores each temporary error in `last_error`.
async fn send_with_retries(
    state: &ClientState,
    batch: v1::RecordRequest,
    last_error: &mut String,
) -> Result<v1::RecordResponse, Error> {
    let mut backoff = Backoff::new(state.settings.backoff_min, state.settings.backoff_max);
    loop {
        let status = match send_once(state, batch.clone()).await {
            Ok(response) => return Ok(response),
            Err(status) => status,
        };
        if is_permanent(&status) {
            return Err(Error::Refused { code: format!("{:?}", status.code()), message: describe_status(&status) });
        }
        *last_error = describe_status(&status);
        sleep(backoff.next_delay(retry_delay(&status))).await;
    }
}
