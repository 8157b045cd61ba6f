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

mod clock_jump;
mod many;
mod size;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use inroad_assignment::{Experiment, ExperimentKey, ServedExperiment, Snapshot, Timestamp, UnitHasher};
use inroad_store::{DecisionRecord, ExperimentChange, Store, StoreError, StoredExperiment};
use inroad_wire::snapshot::snapshot_to_wire;
use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock::WallClock;
use crate::config::MAX_DECLARED_BYTES;
use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::publications::{Publication, Publications};
use crate::traces::TRACE_TARGET;
pub use many::PlannedChange;
use size::{check_experiment_size, mib};

/// An experiment and values derived from it.
#[derive(Debug, Clone)]
pub struct CatalogueEntry {
    /// The catalogue's version at the last change of this experiment.
    pub version: u64,
    /// The experiment.
    pub experiment: Arc<Experiment>,
    /// One hasher per generation, the first generation first.
    pub hashers: Arc<Vec<UnitHasher>>,
    /// The size of the experiment in a snapshot message, in bytes.
    pub snapshot_bytes: usize,
}

impl CatalogueEntry {
    fn new(stored: StoredExperiment, served: &ServedExperiment) -> Self {
        let key = &stored.experiment.definition.key();
        let hashers = stored.experiment.generations.iter().map(|g| UnitHasher::new(key, &g.salt)).collect();
        let snapshot_bytes = snapshot_to_wire(served).encoded_len();
        Self { version: stored.version, experiment: stored.experiment, hashers: Arc::new(hashers), snapshot_bytes }
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
    /// The size of all experiments in snapshot messages, in bytes.
    pub snapshot_bytes: usize,
}

impl CatalogueState {
    /// The experiment with this key.
    ///
    /// # Errors
    /// [`ServerError::UnknownExperiment`].
    pub fn get(&self, key: &str) -> Result<&CatalogueEntry, ServerError> {
        self.entries.get(key).ok_or_else(|| ServerError::UnknownExperiment(key.chars().take(160).collect()))
    }

    /// Checks experiments that are about to be added or replaced: clients accept each of them (I2), and none is too
    /// large, alone or together with all others. An experiment that does not grow is never too large; otherwise a full
    /// catalogue could never shrink.
    ///
    /// # Errors
    /// [`ServerError::Invalid`] if an experiment is too large; [`ServerError::InvalidSnapshot`].
    fn check_declared<'a>(
        &self,
        declared: impl Iterator<Item = &'a Experiment>,
        limit: usize,
        now: Timestamp,
    ) -> Result<(), ServerError> {
        let (mut added, mut removed) = (0, 0);
        for experiment in declared {
            let own = snapshot_to_wire(&self.served_experiment(experiment, self.version + 1, now)?).encoded_len();
            let before = self.entries.get(experiment.definition.key()).map_or(0, |entry| entry.snapshot_bytes);
            if own > before {
                check_experiment_size(experiment, own, now)?;
            }
            (added, removed) = (added + own, removed + before);
        }
        let total = self.snapshot_bytes + added - removed;
        if total <= limit || added <= removed {
            return Ok(());
        }
        let message = format!(
            "the change has {:.1} MiB and all experiments together {:.1} MiB, over the limit of {:.1} MiB: shorten \
             payloads, here or in other experiments. Store large content elsewhere and put its id in the payload",
            mib(added),
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
        let Some(old) = self.snapshot.get(served.parts().key.as_str()) else { return Ok(served) };
        served.check_can_replace(old)?;
        Ok(served.without_revisions_before(old))
    }

    /// This state with experiments added or replaced.
    fn with_stored(&self, version: u64, stored: Vec<StoredExperiment>, now: Timestamp) -> Result<Self, ServerError> {
        let mut next = self.clone();
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for stored in stored {
            let served = self.served_experiment(&stored.experiment, stored.version, now)?;
            let (key, entry) = (served.parts().key.clone(), CatalogueEntry::new(stored, &served));
            snapshot.insert(Arc::new(served));
            next.snapshot_bytes += entry.snapshot_bytes;
            let replaced = next.entries.insert(key, entry);
            next.snapshot_bytes -= replaced.map_or(0, |entry| entry.snapshot_bytes);
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
        let state = self.state.load();
        if state.entries.contains_key(&key) {
            return Err(ServerError::Store(StoreError::ExperimentExists(key.to_string())));
        }
        state.check_declared([&experiment].into_iter(), MAX_DECLARED_BYTES, self.clock.now())?;
        self.commit_one(turn, None, experiment, ChangeRequest { actor, action: "create", expected_version: None }, None)
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
        let turn = self.turn().await;
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
        // Checked before it is stored, because a stored change cannot be taken back.
        let state = self.state.load();
        if experiment.definition == entry.experiment.definition {
            state.served_experiment(&experiment, state.version + 1, self.clock.now())?;
        } else {
            state.check_declared([&experiment].into_iter(), MAX_DECLARED_BYTES, self.clock.now())?;
        }
        drop(state);
        let entry = self.commit_one(turn, Some(entry.version), experiment, request, decision).await?;
        Ok((entry, value))
    }

    /// Stores and publishes one change, and returns the new entry.
    async fn commit_one(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        expected_version: Option<u64>,
        experiment: Experiment,
        request: ChangeRequest<'_>,
        decision: Option<DecisionRecord>,
    ) -> Result<CatalogueEntry, ServerError> {
        let key = experiment.definition.key().clone();
        let change = ExperimentChange {
            expected_version,
            experiment: Arc::new(experiment),
            actor: request.actor.to_owned(),
            action: request.action.to_owned(),
            at: self.clock.now(),
            decision,
        };
        Ok(self.commit(turn, vec![change]).await?.get(key.as_str())?.clone())
    }

    /// Stores and publishes changes, in a separate task: if the caller goes away in the middle (broken connection,
    /// passed deadline), memory must not stay behind the disk, or every later change would be refused as outdated.
    async fn commit(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        changes: Vec<ExperimentChange>,
    ) -> Result<Arc<CatalogueState>, ServerError> {
        let this = Arc::clone(self);
        let commit = async move {
            let result = this.store_and_publish(changes).await;
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

    async fn store_and_publish(&self, changes: Vec<ExperimentChange>) -> Result<Arc<CatalogueState>, ServerError> {
        let published: Vec<_> = changes.iter().map(|c| (Arc::clone(&c.experiment), c.action.clone())).collect();
        let begun = Instant::now();
        let span = tracing::info_span!(target: TRACE_TARGET, "commit", experiments = changes.len());
        let versions = self.store.commit_all(changes).instrument(span).await?;
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
    fn definitions_too_large_for_all_snapshots_together_are_refused() {
        let now = Timestamp::default();
        let stored = |key, payload| StoredExperiment { version: 1, experiment: Arc::new(draft(key, payload)) };
        let state =
            CatalogueState::default().with_stored(1, vec![stored("one", 5_000), stored("two", 5_000)], now).unwrap();
        let check = |declared: &[Experiment], limit| state.check_declared(declared.iter(), limit, now);
        assert!(check(&[draft("three", 5_000)], 20_000).is_ok());
        let error = check(&[draft("three", 11_000)], 20_000).unwrap_err().to_string();
        assert!(error.contains("shorten payloads"), "{error}");
        assert!(check(&[draft("three", 5_000), draft("four", 5_000)], 20_000).is_err(), "each alone has room");
        assert!(check(&[draft("two", 11_000)], 20_000).is_ok(), "the older definition is replaced, not added");
        assert!(
            check(&[draft("two", 4_000)], 5_000).is_ok(),
            "a smaller definition is accepted even if the catalogue is too large"
        );
        let size = state.snapshot.experiments().map(|served| snapshot_to_wire(served).encoded_len()).sum::<usize>();
        assert_eq!(state.snapshot_bytes, size);
    }

    /// An experiment that pins `units` long unit keys.
    fn pinning(units: usize) -> Experiment {
        let units: Vec<String> = (0..units).map(|n| format!("{n:0>200}")).collect();
        let doc = serde_json::json!({
            "key": "pins", "variations": [{"key": "control", "payload": 1}, {"key": "a", "payload": 2}],
            "overrides": [{"units": units, "variation": "a"}],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        Experiment::create(doc.try_into().unwrap(), Timestamp::default())
    }

    #[test]
    fn one_experiment_too_large_for_a_message_is_refused() {
        let (state, now) = (CatalogueState::default(), Timestamp::default());
        assert!(state.check_declared([&pinning(5_000)].into_iter(), usize::MAX, now).is_ok());
        let error = state.check_declared([&pinning(9_000)].into_iter(), usize::MAX, now).unwrap_err().to_string();
        assert!(error.contains("over the limit of 1.50 MiB for one experiment"), "{error}");
    }
}
