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
//! Readers take no lock: the state is one immutable value behind an atomic pointer, replaced as a whole. Its version
//! rises with every change. An experiment's own version is the catalogue's version at its last change, so a stream can
//! send the difference between two versions. A slow watcher skips versions and gets the newest.
//!
//! Several servers may share a store: the compare-and-set then keeps their changes apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use inroad_assignment::{Experiment, ExperimentKey, ServedExperiment, Snapshot, Timestamp, UnitHasher};
use inroad_store::{DecisionRecord, ExperimentChange, Store, StoreError, StoredExperiment};
use inroad_wire::snapshot::snapshot_to_wire;
use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::clock::WallClock;
use crate::config::MAX_DECLARED_BYTES;
use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::publications::{Publication, Publications};

/// An experiment and values derived from it.
#[derive(Debug, Clone)]
pub struct CatalogueEntry {
    /// The catalogue's version at the last change of this experiment.
    pub version: u64,
    /// The experiment.
    pub experiment: Arc<Experiment>,
    /// One hasher per generation, the first generation first.
    pub hashers: Arc<Vec<UnitHasher>>,
}

impl CatalogueEntry {
    fn new(stored: StoredExperiment) -> Self {
        let key = &stored.experiment.definition.key();
        let hashers = stored.experiment.generations.iter().map(|g| UnitHasher::new(key, &g.salt)).collect();
        Self { version: stored.version, experiment: stored.experiment, hashers: Arc::new(hashers) }
    }

    /// The number of a generation: `requested`, or the newest for 0. It is 0 if the experiment has not started.
    ///
    /// # Errors
    /// [`ServerError::UnknownRevision`] if there is no such generation.
    pub fn generation(&self, requested: u32) -> Result<u32, ServerError> {
        let number = if requested == 0 { self.experiment.generations.len() as u32 } else { requested };
        if number > 0 && self.experiment.generation_by_number(number).is_none() {
            let experiment = self.experiment.definition.key().to_string();
            return Err(ServerError::UnknownRevision { experiment, kind: "generation", number });
        }
        Ok(number)
    }
}

/// All experiments at one version of the catalogue.
#[derive(Debug, Clone, Default)]
pub struct CatalogueState {
    /// Rises with every change of any experiment.
    pub version: u64,
    /// The experiments by key.
    pub entries: BTreeMap<ExperimentKey, CatalogueEntry>,
    /// The same experiments in the form that assignments are made from.
    pub snapshot: Arc<Snapshot>,
    /// The same experiments as a list, for the fold.
    pub experiments: Arc<Vec<Arc<Experiment>>>,
}

impl CatalogueState {
    /// The experiment with this key.
    ///
    /// # Errors
    /// [`ServerError::UnknownExperiment`].
    pub fn get(&self, key: &str) -> Result<&CatalogueEntry, ServerError> {
        self.entries.get(key).ok_or_else(|| ServerError::UnknownExperiment(key.chars().take(160).collect()))
    }

    /// Refuses a definition that would make all experiments together larger than a snapshot message may be. A
    /// definition that does not grow is always accepted; otherwise a full catalogue could never shrink.
    fn check_snapshot_size(&self, declared: &Experiment, limit: usize, now: Timestamp) -> Result<(), ServerError> {
        let size = |served: &ServedExperiment| snapshot_to_wire(served).encoded_len();
        let own = size(&ServedExperiment::from_experiment(declared, 0, now)?);
        let key = declared.definition.key();
        let others = self.snapshot.experiments().filter(|served| served.parts().key != *key);
        let total = own + others.map(|served| size(served)).sum::<usize>();
        if total <= limit || self.snapshot.get(key.as_str()).is_some_and(|before| own <= size(before)) {
            return Ok(());
        }
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let message = format!(
            "this experiment has {:.1} MiB and all experiments together {:.1} MiB, over the limit of {:.1} MiB: shorten \
             payloads, here or in other experiments. Store large content elsewhere and put its id in the payload",
            mib(own),
            mib(total),
            mib(limit)
        );
        Err(ServerError::Invalid { field: "experiment", message })
    }

    /// An experiment in the form that assignments are made from.
    ///
    /// # Errors
    /// [`ServerError::InvalidSnapshot`] if clients would reject it after the snapshot they have (I2). That is a bug
    /// here.
    fn served_experiment(
        &self,
        experiment: &Experiment,
        version: u64,
        now: Timestamp,
    ) -> Result<ServedExperiment, ServerError> {
        let served = ServedExperiment::from_experiment(experiment, version, now)?;
        if let Some(old) = self.snapshot.get(served.parts().key.as_str()) {
            served.check_can_replace(old)?;
        }
        Ok(served)
    }

    /// This state with experiments added or replaced.
    fn with_stored(&self, version: u64, stored: Vec<StoredExperiment>, now: Timestamp) -> Result<Self, ServerError> {
        let mut next = self.clone();
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for stored in stored {
            let served = self.served_experiment(&stored.experiment, stored.version, now)?;
            snapshot.insert(Arc::new(served));
            next.entries.insert(stored.experiment.definition.key().clone(), CatalogueEntry::new(stored));
        }
        next.version = version;
        snapshot.version = version;
        next.snapshot = Arc::new(snapshot);
        next.experiments = Arc::new(next.entries.values().map(|e| Arc::clone(&e.experiment)).collect());
        Ok(next)
    }
}

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
        let turn = Arc::clone(&self.changing).lock_owned().await;
        let key = experiment.definition.key().clone();
        let state = self.state.load();
        if state.entries.contains_key(&key) {
            return Err(ServerError::Store(StoreError::ExperimentExists(key.to_string())));
        }
        state.check_snapshot_size(&experiment, MAX_DECLARED_BYTES, self.clock.now())?;
        self.commit(turn, None, experiment, ChangeRequest { actor, action: "create", expected_version: None }, None)
            .await
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
        let turn = Arc::clone(&self.changing).lock_owned().await;
        let entry = self.state.load().get(key)?.clone();
        if request.expected_version.is_some_and(|version| version != entry.version) {
            return Err(ServerError::Store(StoreError::Conflict));
        }
        let mut experiment = Experiment::clone(&entry.experiment);
        let now = experiment.now(self.clock.now());
        let (value, decision) = change(&mut experiment, now)?;
        if decision.is_none() && experiment == *entry.experiment {
            return Ok((entry, value));
        }
        if experiment.definition != entry.experiment.definition {
            self.state.load().check_snapshot_size(&experiment, MAX_DECLARED_BYTES, now)?;
        }
        let entry = self.commit(turn, Some(entry.version), experiment, request, decision).await?;
        Ok((entry, value))
    }

    /// Stores and publishes a change, in a separate task: if the caller goes away in the middle (broken connection,
    /// passed deadline), memory must not stay behind the disk, or every later change would be refused as outdated.
    async fn commit(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        expected_version: Option<u64>,
        experiment: Experiment,
        request: ChangeRequest<'_>,
        decision: Option<DecisionRecord>,
    ) -> Result<CatalogueEntry, ServerError> {
        let change = ExperimentChange {
            expected_version,
            experiment: Arc::new(experiment),
            actor: request.actor.to_owned(),
            action: request.action.to_owned(),
            at: self.clock.now(),
            decision,
        };
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = this.store_and_publish(change).await;
            drop(turn);
            result
        });
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

    async fn store_and_publish(&self, change: ExperimentChange) -> Result<CatalogueEntry, ServerError> {
        let experiment = Arc::clone(&change.experiment);
        let action = change.action.clone();
        let state = self.state.load();
        // Checked before it is stored, because a stored change cannot be taken back.
        state.served_experiment(&experiment, state.version + 1, self.clock.now())?;
        drop(state);
        let version = self.store.commit(change).await?;
        let key = experiment.definition.key().clone();
        let next =
            self.state.load().with_stored(version, vec![StoredExperiment { version, experiment }], self.clock.now())?;
        let next = Arc::new(next);
        // The publication time is taken before any client can receive the version.
        let at = self.clock.now();
        self.warn_if_published_late(&next.get(key.as_str())?.experiment, at);
        self.publications.add(Publication { version, at, experiment: key.to_string(), action });
        self.state.store(Arc::clone(&next));
        self.published.send_replace(Arc::clone(&next));
        Ok(next.get(key.as_str())?.clone())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::DefinitionDoc;

    fn draft(key: &str, payload: usize) -> Experiment {
        let variations = serde_json::json!([
            {"key": "control", "payload": ""}, {"key": "a", "payload": "x".repeat(payload)}
        ]);
        let doc = serde_json::json!({"key": key, "variations": variations});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        Experiment::create(doc.try_into().unwrap(), Timestamp::default())
    }

    #[test]
    fn definition_too_large_for_a_snapshot_is_refused() {
        let now = Timestamp::default();
        let stored = |key, payload| StoredExperiment { version: 1, experiment: Arc::new(draft(key, payload)) };
        let state =
            CatalogueState::default().with_stored(1, vec![stored("one", 5_000), stored("two", 5_000)], now).unwrap();
        assert!(state.check_snapshot_size(&draft("three", 5_000), 20_000, now).is_ok());
        let error = state.check_snapshot_size(&draft("three", 11_000), 20_000, now).unwrap_err().to_string();
        assert!(error.contains("shorten payloads"), "{error}");
        assert!(
            state.check_snapshot_size(&draft("two", 11_000), 20_000, now).is_ok(),
            "the older definition is replaced, not added"
        );
        assert!(
            state.check_snapshot_size(&draft("two", 4_000), 5_000, now).is_ok(),
            "a smaller definition is accepted even if the catalogue is too large"
        );
    }
}
