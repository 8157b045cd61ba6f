//! Every experiment, in memory, as the store has it. There is one way to change one: [`Catalogue::change`], which
//! makes the change on a copy, puts it on disk by compare-and-set, and only then shows it to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use inroad_assignment::{Experiment, ExperimentKey, ServedExperiment, Snapshot, Timestamp, UnitHasher};
use inroad_store::{Change, DecisionRecord, Store, StoreError, Stored};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::clock::WallClock;
use crate::error::ServerError;
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

    fn with(&self, version: u64, stored: Vec<Stored>, now: Timestamp) -> Result<Self, ServerError> {
        let mut next = self.clone();
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for stored in stored {
            let served = ServedExperiment::of(&stored.experiment, stored.version, now)?;
            // A fault of ours, caught before any client sees it (I2).
            if let Some(old) = snapshot.get(served.parts().key.as_str()) {
                served.check_follows(old)?;
            }
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
    /// One change at a time in this process; other processes are kept apart by the store's compare-and-set.
    changing: Arc<Mutex<()>>,
}

impl Catalogue {
    /// Reads everything from the store.
    pub async fn load(store: Arc<dyn Store>, clock: Arc<WallClock>) -> Result<Self, ServerError> {
        let (version, stored) = store.load().await?;
        let state = Arc::new(State::default().with(version, stored, clock.now())?);
        Ok(Self {
            store,
            clock,
            state: ArcSwap::new(Arc::clone(&state)),
            published: watch::Sender::new(state),
            publications: Arc::default(),
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
        if self.state.load().entries.contains_key(&key) {
            return Err(ServerError::Store(StoreError::Exists(key.to_string())));
        }
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

    async fn store_and_show(&self, change: Change) -> Result<Entry, ServerError> {
        let experiment = Arc::clone(&change.experiment);
        let action = change.action.clone();
        let version = self.store.commit(change).await?;
        let key = experiment.definition.key().clone();
        let next = self.state.load().with(version, vec![Stored { version, experiment }], self.clock.now())?;
        let next = Arc::new(next);
        // Before anybody can be sent it, so that nobody is seen to have had it earlier.
        let at = self.clock.now();
        self.publications.add(Publication { version, at, experiment: key.to_string(), action });
        self.state.store(Arc::clone(&next));
        self.published.send_replace(Arc::clone(&next));
        Ok(next.get(key.as_str())?.clone())
    }
}
