//! The snapshot in use, indexed for lookups, and the computation of the next snapshot from a message of the server.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;
use inroad_assignment::{Assignment, Context, Reason, ServedExperiment, Timestamp};
use inroad_wire::{snapshot_from_wire, v1};

use crate::error::Error;
use crate::experiment_list::{ExperimentList, ExperimentListEdit};
use crate::status::Refusal;

/// The index of each experiment in the list, by key.
type IndexByKey = HashMap<Box<str>, u32, FixedState>;

/// All experiments at one version. Immutable: the next snapshot replaces it as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Whether any message has been received.
    pub(crate) is_ready: bool,
    pub(crate) version: u64,
    pub(crate) store_id: String,
    /// The lineage of the store's data to which `version` belongs; empty if the server does not tell.
    pub(crate) lineage_id: String,
    index_by_key: Arc<IndexByKey>,
    experiments: ExperimentList,
}

/// The result of applying a message to a snapshot.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) snapshot: Snapshot,
    /// Whether an experiment was added, changed or removed, or the version changed, or this is the first snapshot.
    pub(crate) changed: bool,
    /// Whether the message is of another store than the previous snapshot, or of an older copy of its data.
    pub(crate) other_history: bool,
    pub(crate) refused: Vec<Refusal>,
    /// Experiments with a valid new state, and those that were removed.
    pub(crate) accepted: Vec<Arc<ServedExperiment>>,
    /// How many experiments in the message were older than those in the snapshot.
    pub(crate) stale: u64,
}

impl Snapshot {
    /// The assignment of a unit in one experiment, and the experiment's index (`u32::MAX` if it does not exist).
    #[inline]
    pub(crate) fn evaluate(
        &self,
        key: &str,
        context: &Context,
        now: impl FnOnce() -> Timestamp,
    ) -> (u32, Assignment<'_>) {
        if let Some(index) = self.index_by_key.get(key)
            && let Some(experiment) = self.get_at(*index)
        {
            return (*index, experiment.assign_with_clock(context, now));
        }
        let reason = if self.is_ready { Reason::UnknownExperiment } else { Reason::NotReady };
        (u32::MAX, Assignment::unknown(reason))
    }

    #[inline]
    pub(crate) fn get_at(&self, index: u32) -> Option<&ServedExperiment> {
        self.experiments.get(index as usize).map(|experiment| &**experiment)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<ServedExperiment>> {
        self.index_by_key.get(key).and_then(|index| self.experiments.get(*index as usize))
    }

    pub(crate) fn experiments(&self) -> &ExperimentList {
        &self.experiments
    }

    /// Whether a message changes nothing and only shows that the server is alive.
    pub(crate) fn is_heartbeat(&self, message: &v1::WatchSnapshotsResponse) -> bool {
        let is_empty = !message.full && message.experiments.is_empty() && message.removed.is_empty();
        let is_known = (&message.store_id, &message.lineage_id) == (&self.store_id, &self.lineage_id);
        is_empty && self.is_ready && message.version == self.version && is_known
    }

    /// Computes the next snapshot. Each experiment in the message is checked against its previous state (I2). If a
    /// check fails, the previous state stays in use.
    ///
    /// # Errors
    /// [`Error::ForeignChanges`] if the message contains changes to a snapshot of another store.
    pub(crate) fn apply(&self, message: v1::WatchSnapshotsResponse) -> Result<Update, Error> {
        let other_store = self.store_id != message.store_id;
        if other_store && !message.full {
            return Err(Error::ForeignChanges);
        }
        // The server sends everything because its data does not continue what this client has.
        let other_lineage = message.full && !self.lineage_id.is_empty() && self.lineage_id != message.lineage_id;
        let other_history = other_store || other_lineage;
        // A replica that lags does not know the newest experiments, so a missing experiment does not mean a removed
        // one.
        let lags = !other_history && message.version < self.version;
        let (mut refused, mut accepted, mut stale) = (Vec::new(), Vec::new(), 0);
        // The list is sorted by key. Most messages change one experiment and add or remove none.
        let mut edit =
            ExperimentListEdit::new(if other_history { ExperimentList::default() } else { self.experiments.clone() });
        if !lags && (message.full || !message.removed.is_empty()) {
            let named: HashSet<&str> = message.experiments.iter().map(|e| e.key.as_str()).collect();
            let is_removed = |old: &Arc<ServedExperiment>| {
                let key = old.parts().key.as_str();
                message.full && !named.contains(key) || message.removed.iter().any(|r| r == key)
            };
            accepted.extend(self.experiments.iter().filter(|old| !other_history && is_removed(old)).cloned());
            if !accepted.is_empty() {
                edit.as_vec().retain(|old| !is_removed(old));
            }
        }
        let version = if lags { self.version } else { message.version };
        let mut changed = other_history || !edit.keeps_indices() || !self.is_ready || version != self.version;
        for received in message.experiments {
            let key = received.key.clone();
            // The index is valid until an experiment is added or removed. After that, search the sorted list.
            let known = self.index_by_key.get(key.as_str()).filter(|_| !other_history && edit.keeps_indices());
            let position = match known {
                Some(index) => Ok(*index as usize),
                None => edit.as_vec().binary_search_by(|e| e.parts().key.as_str().cmp(&key)),
            };
            let old = position.ok().and_then(|index| edit.get(index));
            match old.map(|old| received.version.cmp(&old.parts().version)) {
                // Expected from a replica that lags: not an error, and nothing to apply.
                Some(Ordering::Less) => {
                    stale += 1;
                    continue;
                }
                Some(Ordering::Equal) => {
                    accepted.extend(old.cloned());
                    continue;
                }
                Some(Ordering::Greater) | None => {}
            }
            let checked = snapshot_from_wire(received).map_err(|error| error.to_string()).and_then(|new| {
                let follows = old.map_or(Ok(()), |old| new.check_can_replace(old));
                follows.map(|()| new).map_err(|error| error.to_string())
            });
            match checked {
                Ok(new) => {
                    let new = Arc::new(new);
                    match position {
                        Ok(index) => edit.replace(index, Arc::clone(&new)),
                        Err(index) => edit.as_vec().insert(index, Arc::clone(&new)),
                    }
                    accepted.push(new);
                    changed = true;
                }
                Err(reason) => refused.push(Refusal { experiment: key, reason }),
            }
        }
        let keeps_indices = !other_history && edit.keeps_indices();
        let experiments = edit.finish();
        let index_by_key =
            if keeps_indices { Arc::clone(&self.index_by_key) } else { Arc::new(build_index(&experiments)) };
        let (store_id, lineage_id) = (message.store_id, message.lineage_id);
        let snapshot = Self { is_ready: true, version, store_id, lineage_id, index_by_key, experiments };
        Ok(Update { snapshot, changed, other_history, refused, accepted, stale })
    }

    /// The same without the revisions that are past at the server's time `now`; `None` if there are none to forget.
    pub(crate) fn without_past_revisions(&self, now: Timestamp) -> Option<Self> {
        let mut edit = None;
        for (index, experiment) in self.experiments.iter().enumerate() {
            if let Some(shortened) = experiment.without_past_revisions(now) {
                let edit = edit.get_or_insert_with(|| ExperimentListEdit::new(self.experiments.clone()));
                edit.replace(index, Arc::new(shortened));
            }
        }
        edit.map(|edit| Self { experiments: edit.finish(), ..self.clone() })
    }
}

fn build_index(experiments: &ExperimentList) -> IndexByKey {
    experiments.iter().zip(0..).map(|(e, index)| (e.parts().key.as_str().into(), index)).collect()
}
