//! Every experiment, in memory, as the store has it. There is one way to change one: [`Catalogue::change`], which
//! makes the change on a copy, puts it on disk by compare-and-set, and only then shows it to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use inroad_assignment::{Experiment, ExperimentKey, ServedExperiment, Snapshot, Timestamp, UnitHasher};
use inroad_store::{Change, DecisionRecord, Store, StoreError, Stored};
use inroad_wire::snapshot::served_to_wire;
use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::clock::WallClock;
use crate::config::MAX_DECLARED_BYTES;
use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::publications::{Publication, Publications};

/// An experiment with what is kept ready of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Rises with every change of it; also the version of the whole at that change.
    pub version: u64,
    /// The experiment.
    pub experiment: Arc<Experiment>,
    /// A hasher for each generation.
    pub hashers: Arc<Vec<UnitHasher>>,
}

impl Entry {
    fn new(stored: Stored) -> Self {
        let key = &stored.experiment.definition.key();
        let hashers = stored.experiment.generations.iter().map(|g| UnitHasher::new(key, &g.salt)).collect();
        Self { version: stored.version, experiment: stored.experiment, hashers: Arc::new(hashers) }
    }

    /// The number of the generation asked for: of the newest for 0, which is 0 before the first.
    pub fn generation(&self, asked: u32) -> Result<u32, ServerError> {
        let number = if asked == 0 { self.experiment.generations.len() as u32 } else { asked };
        if number > 0 && self.experiment.generation_numbered(number).is_none() {
            let experiment = self.experiment.definition.key().to_string();
            return Err(ServerError::NoSuchNumber { experiment, what: "generation", number });
        }
        Ok(number)
    }
}

/// Everything at one version.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Rises with every change of anything.
    pub version: u64,
    /// By key.
    pub entries: BTreeMap<ExperimentKey, Entry>,
    /// The same, laid out for answering.
    pub snapshot: Arc<Snapshot>,
    /// The same, for the fold to attribute by.
    pub experiments: Arc<Vec<Arc<Experiment>>>,
}

impl State {
    /// The experiment with a key.
    pub fn get(&self, key: &str) -> Result<&Entry, ServerError> {
        self.entries.get(key).ok_or_else(|| ServerError::NotFound(key.chars().take(160).collect()))
    }

    /// Refuses a declaration with which all experiments would no longer fit into the message that a client begins with. One
    /// that is no larger than it was is taken all the same: how else should they ever fit again.
    fn check_room(&self, declared: &Experiment, limit: usize, now: Timestamp) -> Result<(), ServerError> {
        let size = |served: &ServedExperiment| served_to_wire(served).encoded_len();
        let own = size(&ServedExperiment::of(declared, 0, now)?);
        let key = declared.definition.key();
        let others = self.snapshot.experiments().filter(|served| served.parts().key != *key);
        let all = own + others.map(|served| size(served)).sum::<usize>();
        if all <= limit || self.snapshot.get(key.as_str()).is_some_and(|before| own <= size(before)) {
            return Ok(());
        }
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let message = format!(
            "with its {:.1} MiB all experiments together come to {:.1} MiB, and {:.1} MiB is the most that clients are sent: \
             shorten payloads, here or elsewhere; large content belongs elsewhere, under an id that the payload names",
            mib(own),
            mib(all),
            mib(limit)
        );
        Err(ServerError::Invalid { field: "experiment", message })
    }

    /// An experiment laid out for answering. It fails where no client would accept it after what is served now (I2), which
    /// is a fault of ours.
    fn served(&self, experiment: &Experiment, version: u64, now: Timestamp) -> Result<ServedExperiment, ServerError> {
        let served = ServedExperiment::of(experiment, version, now)?;
        if let Some(old) = self.snapshot.get(served.parts().key.as_str()) {
            served.check_follows(old)?;
        }
        Ok(served)
    }

    fn with(&self, version: u64, stored: Vec<Stored>, now: Timestamp) -> Result<Self, ServerError> {
        let mut next = self.clone();
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for stored in stored {
            let served = self.served(&stored.experiment, stored.version, now)?;
            snapshot.insert(Arc::new(served));
            next.entries.insert(stored.experiment.definition.key().clone(), Entry::new(stored));
        }
        next.version = version;
        snapshot.version = version;
        next.snapshot = Arc::new(snapshot);
        next.experiments = Arc::new(next.entries.values().map(|e| Arc::clone(&e.experiment)).collect());
        Ok(next)
    }
}

/// Who wants what done, for the audit log.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// Who.
    pub actor: &'a str,
    /// What.
    pub action: &'a str,
    /// The version that the caller believes the experiment to be at, if it cares.
    pub expected_version: Option<u64>,
}

/// All experiments, and the only way to change one.
pub struct Catalogue {
    store: Arc<dyn Store>,
    clock: Arc<WallClock>,
    state: ArcSwap<State>,
    published: watch::Sender<Arc<State>>,
    publications: Arc<Publications>,
    metrics: Arc<Metrics>,
    /// One change at a time in this process; other processes are kept apart by the store's compare-and-set.
    changing: Arc<Mutex<()>>,
}

impl Catalogue {
    /// Reads everything from the store.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<WallClock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServerError> {
        let (version, stored) = store.load().await?;
        let state = Arc::new(State::default().with(version, stored, clock.now())?);
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

    /// Everything as it is now.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// The same without a reference count, for the hot path.
    pub fn peek(&self) -> arc_swap::Guard<Arc<State>> {
        self.state.load()
    }

    /// Hears of every change; a reader that is slow sees the newest only.
    pub fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.published.subscribe()
    }

    /// When the last versions were published, and by what change.
    pub fn publications(&self) -> &Arc<Publications> {
        &self.publications
    }

    /// Stores a new experiment.
    pub async fn create(self: &Arc<Self>, experiment: Experiment, actor: &str) -> Result<Entry, ServerError> {
        let turn = Arc::clone(&self.changing).lock_owned().await;
        let key = experiment.definition.key().clone();
        let state = self.state.load();
        if state.entries.contains_key(&key) {
            return Err(ServerError::Store(StoreError::Exists(key.to_string())));
        }
        state.check_room(&experiment, MAX_DECLARED_BYTES, self.clock.now())?;
        self.commit(turn, None, experiment, By { actor, action: "create", expected_version: None }, None).await
    }

    /// Changes one experiment: `change` is given a copy and the time by its clock, and returns what else the caller
    /// wants to know and the decision behind the change, if there is one. Nothing is seen or stored if it fails.
    pub async fn change<T>(
        self: &Arc<Self>,
        key: &str,
        by: By<'_>,
        change: impl FnOnce(&mut Experiment, Timestamp) -> Result<(T, Option<DecisionRecord>), ServerError> + Send,
    ) -> Result<(Entry, T), ServerError> {
        let turn = Arc::clone(&self.changing).lock_owned().await;
        let entry = self.state.load().get(key)?.clone();
        if by.expected_version.is_some_and(|version| version != entry.version) {
            return Err(ServerError::Store(StoreError::Conflict));
        }
        let mut experiment = Experiment::clone(&entry.experiment);
        let now = experiment.now(self.clock.now());
        let (told, decision) = change(&mut experiment, now)?;
        if decision.is_none() && experiment == *entry.experiment {
            return Ok((entry, told));
        }
        if experiment.definition != entry.experiment.definition {
            self.state.load().check_room(&experiment, MAX_DECLARED_BYTES, now)?;
        }
        let entry = self.commit(turn, Some(entry.version), experiment, by, decision).await?;
        Ok((entry, told))
    }

    /// Stores and shows a change. In a task of its own: a caller that goes away in the middle (its connection broke,
    /// its deadline passed) must not leave memory behind the disk, or every later change would be refused as stale.
    async fn commit(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        expected_version: Option<u64>,
        experiment: Experiment,
        by: By<'_>,
        decision: Option<DecisionRecord>,
    ) -> Result<Entry, ServerError> {
        let change = Change {
            expected_version,
            experiment: Arc::new(experiment),
            actor: by.actor.to_owned(),
            action: by.action.to_owned(),
            at: self.clock.now(),
            decision,
        };
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let done = this.store_and_show(change).await;
            drop(turn);
            done
        });
        task.await.map_err(|_| ServerError::ShuttingDown)?
    }

    /// A disk that stalls for longer than the lead makes clients flip one after another (I4). Nothing undoes that, but what
    /// was served in between is counted as stale, and somebody should know why.
    fn tell_if_late(&self, experiment: &Experiment, published_at: Timestamp) {
        let state = self.state.load();
        let key = experiment.definition.key();
        let revisions = |e: &Experiment| e.generation().map_or((0, 0), |g| (g.number, g.revisions.len()));
        let before = state.entries.get(key).map(|entry| revisions(&entry.experiment)).unwrap_or_default();
        let newest = experiment.generation().and_then(|generation| generation.latest());
        // The first of a generation flips nobody; and a manual clock stands still meanwhile.
        let Some(newest) = newest.filter(|newest| newest.number > 1 && experiment.manual_now.is_none()) else { return };
        if revisions(experiment) > before && newest.effective_at < published_at {
            let late = published_at.since(newest.effective_at);
            self.metrics.late_revisions.inc();
            tracing::warn!(experiment = %key, revision = newest.number, ?late, "a revision was on disk only after it took effect: clients do not flip together");
        }
    }

    async fn store_and_show(&self, change: Change) -> Result<Entry, ServerError> {
        let experiment = Arc::clone(&change.experiment);
        let action = change.action.clone();
        let state = self.state.load();
        // Before it is on disk, where it could not be taken back.
        state.served(&experiment, state.version + 1, self.clock.now())?;
        drop(state);
        let version = self.store.commit(change).await?;
        let key = experiment.definition.key().clone();
        let next = self.state.load().with(version, vec![Stored { version, experiment }], self.clock.now())?;
        let next = Arc::new(next);
        // Before anybody can be sent it, so that nobody is seen to have had it earlier.
        let at = self.clock.now();
        self.tell_if_late(&next.get(key.as_str())?.experiment, at);
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
    fn a_declaration_that_clients_could_not_be_sent_is_refused() {
        let now = Timestamp::default();
        let stored = |key, payload| Stored { version: 1, experiment: Arc::new(draft(key, payload)) };
        let state = State::default().with(1, vec![stored("one", 5_000), stored("two", 5_000)], now).unwrap();
        assert!(state.check_room(&draft("three", 5_000), 20_000, now).is_ok());
        let refused = state.check_room(&draft("three", 11_000), 20_000, now).unwrap_err().to_string();
        assert!(refused.contains("shorten payloads"), "{refused}");
        assert!(state.check_room(&draft("two", 11_000), 20_000, now).is_ok(), "its older self does not count");
        assert!(state.check_room(&draft("two", 4_000), 5_000, now).is_ok(), "what shrinks may, however full it is");
    }
}
