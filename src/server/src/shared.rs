//! The state that the gRPC services, the dashboard and the HTTP routes share: one value, built once at start. Nothing
//! that it contains imports this module, so a part never depends on the whole.

use std::sync::Arc;
use std::time::Duration;

use inroad_store::Store;

use crate::catalogue::Catalogue;
use crate::clients::Clients;
use crate::clock::WallClock;
use crate::clock_guard::ClockGuard;
use crate::config::ServerConfig;
use crate::encoded_snapshot::EncodedSnapshots;
use crate::error::ServerError;
use crate::event_uses::EventUseIndex;
use crate::exposure_queue::ExposureQueue;
use crate::fold::Fold;
use crate::kill_results::KillResultQueue;
use crate::metrics::Metrics;
use crate::queries::Queries;
use crate::reallocator::Reallocator;
use crate::recent_contexts::RecentContexts;
use crate::recent_events::RecentEvents;
use crate::shared_results::SharedResults;

/// The longest that a call waits for the counts to be complete. Shorter than the limit on a call, so that the caller
/// gets an error that says why.
pub(crate) const MAX_FOLD_WAIT: Duration = Duration::from_secs(30);

/// The state of a running server.
pub struct SharedState {
    /// The server's settings.
    pub config: ServerConfig,
    /// The wall clock.
    pub clock: Arc<WallClock>,
    /// Accepts the machine's clock for a person.
    pub(crate) clock_guard: Arc<ClockGuard>,
    /// All experiments.
    pub catalogue: Arc<Catalogue>,
    /// The durable store.
    pub store: Arc<dyn Store>,
    /// The fold's progress.
    pub fold: Fold,
    /// Prometheus metrics.
    pub metrics: Arc<Metrics>,
    /// Runs the allocation policies.
    pub reallocator: Arc<Reallocator>,
    /// Exposures that are written in the background.
    pub exposures: ExposureQueue,
    /// The contexts of recent calls, to evaluate audiences for people.
    pub recent_contexts: RecentContexts,
    /// The newest events, for people to see.
    pub recent_events: RecentEvents,
    /// Which events the metrics of the newest catalogue use.
    pub event_uses: EventUseIndex,
    /// The experiments of the newest snapshot as bytes.
    pub(crate) encoded_snapshots: EncodedSnapshots,
    /// The turns of results, funnels and other computations for readers.
    pub queries: Queries,
    /// The results that readers share.
    pub results: SharedResults,
    /// The turns of batches of assignments: they never wait for a reader.
    pub batches: Queries,
    /// The turns of pages and lists, which wait for no long computation.
    pub views: Queries,
    /// The turns of parsing and checking declarations and audiences.
    pub declarations: Queries,
    /// The results of people's kills that are not stored yet.
    pub(crate) kill_results: KillResultQueue,
    /// The open snapshot streams.
    pub clients: Arc<Clients>,
    /// Turns true when the server shuts down.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

impl SharedState {
    /// Refuses more events while the backlog is at its limit.
    pub(crate) fn check_backlog(&self) -> Result<(), ServerError> {
        let (backlog, limit) = (self.fold.backlog(), self.config.max_backlog);
        if backlog < limit {
            return Ok(());
        }
        self.metrics.overloads.inc();
        // Accepted events wake the fold; refused ones do not.
        self.fold.wake();
        // About the time in which the fold processes a tenth of the limit, at its slowest.
        let retry_after = Duration::from_millis((limit / 10 / 25).clamp(100, 10_000));
        Err(ServerError::BacklogFull { backlog, limit, retry_after })
    }

    /// Waits until every event acknowledged before the call is folded, with the catalogue at `version` or later.
    ///
    /// # Errors
    /// [`ServerError::BacklogFull`] if that takes longer than `timeout`.
    pub(crate) async fn wait_until_folded(&self, version: u64, timeout: Duration) -> Result<(), ServerError> {
        if self.fold.wait_until_caught_up(version, timeout).await {
            return Ok(());
        }
        let (backlog, limit) = (self.fold.backlog(), self.config.max_backlog);
        Err(ServerError::BacklogFull { backlog, limit, retry_after: Duration::from_secs(5) })
    }
}
