//! The catalogue: all experiments in memory, and the only place that changes one.
//!
//! ```text
//!  change(key)                 one change at a time
//!     │  copy the experiment, apply the change, check that clients can follow it (I2)
//!     ▼
//!  commit ──► store            compare-and-set on the version; the audit entry and the decision in the same transaction
//!     │
//!     ▼
//!  publish ──► state           calls read the new state from now on
//!          ──► publications    when, and by which change
//!          ──► watchers        the snapshot streams, the fold, the reallocator, open pages
//! ```
//!
//! The order matters. A change is stored before it is published, so no client sees a change that a crash could undo.
//! A change that clients would reject after the snapshot they have is refused before it is stored, because a stored
//! change cannot be taken back. The publication time is taken before the first client can receive the change, so that
//! no delay is negative.
//!
//! Readers take no lock: the state is one immutable value behind an atomic pointer, replaced as a whole. Consecutive
//! states share what did not change ([`CatalogueState`]). A slow watcher skips versions and gets the newest.
//!
//! Several servers may share a store: the compare-and-set then keeps their changes apart.

mod clock_jump;
mod many;
mod size;
mod state;
mod turn;

use std::sync::Arc;

use arc_swap::ArcSwap;
use inroad_assignment::{Experiment, Timestamp};
use inroad_store::{DecisionRecord, ExperimentChange, Store, StoreError, StoredExperiment};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock::WallClock;
use crate::config::MAX_DECLARED_BYTES;
use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::publications::{Publication, Publications};
use crate::traces::TRACE_TARGET;
pub(crate) use clock_jump::CLOCK_ACTOR;
pub use many::PlannedChange;
pub use state::{CatalogueEntry, CatalogueState};

/// The requester of a change, for the audit log, and the precondition of the change.
#[derive(Debug, Clone, Copy)]
pub struct ChangeRequest<'a> {
    /// The person or the part of the server that requests it.
    pub actor: &'a str,
    /// The kind of change, such as "kill".
    pub action: &'a str,
    /// Refuse the change if the experiment has another version; none accepts any version.
    pub expected_version: Option<u64>,
}

/// All experiments, and the only way to change one.
pub struct Catalogue {
    store: Arc<dyn Store>,
    clock: Arc<WallClock>,
    state: ArcSwap<CatalogueState>,
    published: watch::Sender<Arc<CatalogueState>>,
    publications: Arc<Publications>,
    metrics: Arc<Metrics>,
    /// Allows one change at a time in this process. The store's compare-and-set keeps other processes apart.
    changing: Arc<Mutex<()>>,
    /// Allows one change of many experiments at a time, because each needs much memory.
    changing_many: Arc<Mutex<()>>,
}

impl Catalogue {
    /// Loads all experiments from the store.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<WallClock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServerError> {
        let (version, stored) = store.load().await?;
        let state = Arc::new(CatalogueState::default().with_stored(version, stored, clock.now())?);
        Ok(Self {
            store,
            clock,
            state: ArcSwap::new(Arc::clone(&state)),
            published: watch::Sender::new(state),
            publications: Arc::default(),
            metrics,
            changing: Arc::default(),
            changing_many: Arc::default(),
        })
    }

    /// The current state.
    pub fn state(&self) -> Arc<CatalogueState> {
        self.state.load_full()
    }

    /// The current state without a reference count, for the hot path. Hold it briefly.
    pub fn peek(&self) -> arc_swap::Guard<Arc<CatalogueState>> {
        self.state.load()
    }

    /// Receives every new state; a slow receiver gets only the newest.
    pub fn subscribe(&self) -> watch::Receiver<Arc<CatalogueState>> {
        self.published.subscribe()
    }

    /// When the latest versions were published, and by which change.
    pub fn publications(&self) -> &Arc<Publications> {
        &self.publications
    }

    /// Stores and publishes a new experiment.
    pub async fn create(self: &Arc<Self>, experiment: Experiment, actor: &str) -> Result<CatalogueEntry, ServerError> {
        let turn = self.turn().await;
        let key = experiment.definition.key().clone();
        // It may have waited for its turn; its entry of the audit log has the same time.
        let experiment = Experiment { created_at: self.clock.now(), ..experiment };
        let state = self.state.load();
        if state.entries.contains_key(&key) {
            return Err(ServerError::Store(StoreError::ExperimentExists(key.to_string())));
        }
        state.check_declared([&experiment].into_iter(), MAX_DECLARED_BYTES, self.clock.now())?;
        let request = ChangeRequest { actor, action: "create", expected_version: None };
        let at = experiment.created_at;
        self.commit_one(turn, at, None, experiment, request, None).await
    }

    /// Changes one experiment. `change` gets a copy and the time by the experiment's clock. It returns a value for the
    /// caller and the decision that led to the change, if there is one. Nothing is stored or published if it fails, or
    /// if it changes nothing and returns no decision.
    pub async fn change<T>(
        self: &Arc<Self>,
        key: &str,
        request: ChangeRequest<'_>,
        change: impl FnOnce(&mut Experiment, Timestamp) -> Result<(T, Option<DecisionRecord>), ServerError> + Send,
    ) -> Result<(CatalogueEntry, T), ServerError> {
        let turn = self.turn().await;
        let entry = self.state.load().get(key)?.clone();
        if request.expected_version.is_some_and(|version| version != entry.version) {
            return Err(ServerError::Store(StoreError::Conflict));
        }
        let mut experiment = Experiment::clone(&entry.experiment);
        // The entry of the audit log has the time that the change is made with.
        let at = self.clock.now();
        let now = experiment.now(at);
        let (value, decision) = change(&mut experiment, now)?;
        if decision.is_none() && experiment == *entry.experiment {
            return Ok((entry, value));
        }
        // Checked before it is stored, because a stored change cannot be taken back.
        let state = self.state.load();
        if experiment.definition == entry.experiment.definition {
            state.served_experiment(&experiment, state.version + 1, self.clock.now())?;
        } else {
            state.check_declared([&experiment].into_iter(), MAX_DECLARED_BYTES, self.clock.now())?;
        }
        drop(state);
        let entry = self.commit_one(turn, at, Some(entry.version), experiment, request, decision).await?;
        Ok((entry, value))
    }

    /// Stores and publishes one change that is made at `at`, by the wall clock, and returns the new entry.
    async fn commit_one(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        at: Timestamp,
        expected_version: Option<u64>,
        experiment: Experiment,
        request: ChangeRequest<'_>,
        decision: Option<DecisionRecord>,
    ) -> Result<CatalogueEntry, ServerError> {
        let (key, experiment) = (experiment.definition.key().clone(), Arc::new(experiment));
        let changed = vec![(Arc::clone(&experiment), request.action.to_owned())];
        let change = ExperimentChange {
            expected_version,
            experiment,
            actor: request.actor.to_owned(),
            action: request.action.to_owned(),
            at,
            decision,
        };
        let store = Arc::clone(&self.store);
        let committed = async move { store.commit_all(vec![change]).await };
        Ok(self.commit(turn, changed, committed).await?.get(key.as_str())?.clone())
    }

    /// Stores changes, which `committed` does, and publishes them, in a separate task: if the caller goes away in the
    /// middle (broken connection, passed deadline), memory must not stay behind the disk, or every later change would be
    /// refused as outdated. `changed` has the experiments after the changes, and the actions.
    async fn commit(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        changed: Vec<(Arc<Experiment>, String)>,
        committed: impl Future<Output = Result<Vec<u64>, StoreError>> + Send + 'static,
    ) -> Result<Arc<CatalogueState>, ServerError> {
        let this = Arc::clone(self);
        let commit = async move {
            let result = this.store_and_publish(changed, committed).await;
            drop(turn);
            result
        };
        let task = tokio::spawn(commit.in_current_span());
        task.await.map_err(|_| ServerError::ShuttingDown)?
    }

    /// If the disk stalls for longer than the lead time, clients change over one after another instead of together
    /// (I4). That cannot be undone. Exposures served in between count as stale, and this warning explains them to the
    /// operator.
    fn warn_if_published_late(&self, experiment: &Experiment, published_at: Timestamp) {
        let state = self.state.load();
        let key = experiment.definition.key();
        let revisions = |e: &Experiment| e.generation().map_or((0, 0), |g| (g.number, g.revisions.len()));
        let before = state.entries.get(key).map(|entry| revisions(&entry.experiment)).unwrap_or_default();
        let newest = experiment.generation().and_then(|generation| generation.latest());
        // The first revision of a generation changes nothing for clients, and a manual clock does not run meanwhile.
        let Some(newest) = newest.filter(|newest| newest.number > 1 && experiment.manual_now.is_none()) else { return };
        if revisions(experiment) > before && newest.effective_at < published_at {
            let late = published_at.since(newest.effective_at);
            self.metrics.late_revisions.inc();
            tracing::warn!(
                experiment = %key,
                revision = newest.number,
                ?late,
                "a revision was published only after it took effect, so clients do not switch together; check the disk"
            );
        }
    }

    async fn store_and_publish(
        &self,
        published: Vec<(Arc<Experiment>, String)>,
        committed: impl Future<Output = Result<Vec<u64>, StoreError>>,
    ) -> Result<Arc<CatalogueState>, ServerError> {
        let begun = Instant::now();
        let span = tracing::info_span!(target: TRACE_TARGET, "commit", experiments = published.len());
        let versions = committed.instrument(span).await?;
        self.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
        let Some(newest) = versions.last().copied() else { return Ok(self.state()) };
        let _publication = tracing::info_span!(target: TRACE_TARGET, "publication", version = newest).entered();
        let stored = published.iter().zip(&versions);
        let stored = stored.map(|((experiment, _), version)| StoredExperiment {
            version: *version,
            experiment: Arc::clone(experiment),
        });
        let next = Arc::new(self.state.load().with_stored(newest, stored.collect(), self.clock.now())?);
        // The publication time is taken before any client can receive the version.
        let at = self.clock.now();
        published.iter().for_each(|(experiment, _)| self.warn_if_published_late(experiment, at));
        let (experiment, action) = match published.as_slice() {
            [(experiment, action)] => (experiment.definition.key().to_string(), action.clone()),
            _ => (String::new(), "apply".to_owned()),
        };
        let first_version = versions.first().copied().unwrap_or(newest);
        self.publications.add(Publication { first_version, version: newest, at, experiment, action });
        self.state.store(Arc::clone(&next));
        self.published.send_replace(Arc::clone(&next));
        Ok(next)
    }
}
