//! All served experiments at one version.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use super::{Assignment, Reason, ServedExperiment};
use crate::context::Context;
use crate::time::Timestamp;

/// The number of tables that the experiments of a snapshot are divided into by hash: a power of 2. A change copies one table
/// and the list of tables, so it costs about as much with 10,000 experiments as with 10.
const TABLES: usize = 256;

type Table = HashTable<Arc<ServedExperiment>>;

/// All served experiments at one version of the catalogue. A copy shares with the original whatever neither changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The version. Every change of any experiment increases it.
    pub version: u64,
    tables: Box<[Arc<Table>]>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { version: 0, tables: vec![Arc::default(); TABLES].into() }
    }
}

impl Snapshot {
    /// The experiment with this key; `None` if there is none.
    #[inline]
    pub fn get(&self, key: &str) -> Option<&Arc<ServedExperiment>> {
        let hash = hash(key);
        self.tables.get(table_of(hash))?.find(hash, |served| served.parts().key.as_str() == key)
    }

    /// All experiments, in no particular order.
    pub fn experiments(&self) -> impl Iterator<Item = &Arc<ServedExperiment>> {
        self.tables.iter().flat_map(|table| table.iter())
    }

    /// Adds an experiment, or replaces its previous version.
    pub fn insert(&mut self, experiment: Arc<ServedExperiment>) {
        let hash = hash(experiment.parts().key.as_str());
        let Some(table) = self.tables.get_mut(table_of(hash)) else { return };
        let table = Arc::make_mut(table);
        match table.find_mut(hash, |served| served.parts().key == experiment.parts().key) {
            Some(served) => *served = experiment,
            None => drop(table.insert_unique(hash, experiment, hash_of)),
        }
    }

    /// Removes an experiment.
    pub fn remove(&mut self, key: &str) {
        let hash = hash(key);
        let Some(table) = self.tables.get_mut(table_of(hash)) else { return };
        if let Ok(found) = Arc::make_mut(table).find_entry(hash, |served| served.parts().key.as_str() == key) {
            found.remove();
        }
    }

    /// The assignment of the unit in `context` by one experiment.
    #[inline]
    pub fn assign(&self, key: &str, context: &Context, wall_now: Timestamp) -> Assignment<'_> {
        match self.get(key) {
            Some(experiment) => experiment.assign(context, wall_now),
            None => Assignment::unknown(Reason::UnknownExperiment),
        }
    }
}

#[inline]
fn hash(key: &str) -> u64 {
    foldhash::fast::FixedState::default().hash_one(key)
}

fn hash_of(experiment: &Arc<ServedExperiment>) -> u64 {
    hash(experiment.parts().key.as_str())
}

/// The table for a hash. Within a table, hashbrown uses the lowest and the highest bits, so this uses others.
#[inline]
fn table_of(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use crate::{DefinitionDoc, Experiment};

    fn served(key: &str, version: u64) -> Arc<ServedExperiment> {
        let doc = serde_json::json!({"key": key, "variations": [{"key": "control", "payload": 1}, {"key": "a", "payload": 2}]});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let experiment = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
        Arc::new(ServedExperiment::from_experiment(&experiment, version, Timestamp::default()).unwrap())
    }

    #[test]
    fn change_of_one_experiment_copies_one_table_and_leaves_the_original_unchanged() {
        let mut before = Snapshot::default();
        (0..2_000).for_each(|n| before.insert(served(&format!("e{n}"), 1)));
        assert_eq!(before.experiments().count(), 2_000);
        let fullest = before.tables.iter().map(|table| table.len()).max().unwrap();
        assert!(fullest < 30, "{fullest} of 2,000 experiments are in one of {TABLES} tables");
        let copied = |after: &Snapshot| {
            after.tables.iter().zip(&before.tables).filter(|(after, before)| !Arc::ptr_eq(after, before)).count()
        };
        let version = |snapshot: &Snapshot, key| snapshot.get(key).map(|served| served.parts().version);
        let mut replaced = before.clone();
        replaced.insert(served("e7", 2));
        assert_eq!((copied(&replaced), version(&replaced, "e7"), version(&before, "e7")), (1, Some(2), Some(1)));
        let mut added = before.clone();
        added.insert(served("new", 2));
        assert_eq!((copied(&added), version(&added, "new"), version(&before, "new")), (1, Some(2), None));
        let mut removed = before.clone();
        removed.remove("e7");
        assert_eq!((copied(&removed), version(&removed, "e7"), version(&before, "e7")), (1, None, Some(1)));
        assert_eq!(removed.experiments().count(), 1_999);
    }
}
