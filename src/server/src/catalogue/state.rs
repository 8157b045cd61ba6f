//! One state of the catalogue: all experiments at one version, as an immutable value.
//!
//! What a change costs must not depend on how many experiments there are. So the maps are persistent: the next state
//! shares with the previous one whatever did not change, and copies a few nodes. And consumers that follow the catalogue
//! (snapshot streams, the fold, the reallocator) remember only a version, and visit what changed after it:
//!
//! ```text
//!  by_version    1 ─ button   4 ─ banner   7 ─ search   9 ─ checkout
//!                                      └── changed_since(4) ──────►
//! ```
//!
//! The version of a state rises with every change. An experiment's own version is the state's version at its last change.

use std::sync::Arc;

use inroad_assignment::{Experiment, ExperimentKey, ServedExperiment, Snapshot, Timestamp, UnitHasher};
use inroad_store::StoredExperiment;
use inroad_wire::snapshot::snapshot_to_wire;
use prost::Message;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use super::size::{check_experiment_size, mib};
use crate::error::ServerError;

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
    pub entries: RedBlackTreeMapSync<ExperimentKey, CatalogueEntry>,
    /// The same experiments in the form that assignments are made from.
    pub snapshot: Arc<Snapshot>,
    /// The keys of all experiments in the order of their versions. No entry has no key; it is the start of a range.
    by_version: RedBlackTreeSetSync<(u64, Option<ExperimentKey>)>,
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

    /// All experiments, in the order of their keys.
    pub fn experiments(&self) -> impl Iterator<Item = &Arc<Experiment>> {
        self.entries.values().map(|entry| &entry.experiment)
    }

    /// The experiments that changed after `version`, by ascending version; all experiments for version 0. It visits no
    /// others.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = (&ExperimentKey, &CatalogueEntry)> {
        let changed = self.by_version.range((version.saturating_add(1), None)..);
        changed.filter_map(|(_, key)| key.as_ref().and_then(|key| Some((key, self.entries.get(key)?))))
    }

    /// The same experiments as [`Self::changed_since`], in the form that assignments are made from.
    pub fn served_since(&self, version: u64) -> impl Iterator<Item = &Arc<ServedExperiment>> {
        self.changed_since(version).filter_map(|(key, _)| self.snapshot.get(key.as_str()))
    }

    /// Checks experiments that are about to be added or replaced: clients accept each of them (I2), and none is too
    /// large, alone or together with all others. An experiment that does not grow is never too large; otherwise a full
    /// catalogue could never shrink.
    ///
    /// # Errors
    /// [`ServerError::Invalid`] if an experiment is too large; [`ServerError::InvalidSnapshot`].
    pub(super) fn check_declared<'a>(
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
    pub(super) fn served_experiment(
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
    pub(crate) fn with_stored(
        &self,
        version: u64,
        stored: Vec<StoredExperiment>,
        now: Timestamp,
    ) -> Result<Self, ServerError> {
        let mut next = self.clone();
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for stored in stored {
            let served = self.served_experiment(&stored.experiment, stored.version, now)?;
            let (key, entry) = (served.parts().key.clone(), CatalogueEntry::new(stored, &served));
            snapshot.insert(Arc::new(served));
            if let Some(replaced) = next.entries.get(&key) {
                next.snapshot_bytes -= replaced.snapshot_bytes;
                next.by_version.remove_mut(&(replaced.version, Some(key.clone())));
            }
            next.snapshot_bytes += entry.snapshot_bytes;
            next.by_version.insert_mut((entry.version, Some(key.clone())));
            next.entries.insert_mut(key, entry);
        }
        next.version = version;
        snapshot.version = version;
        next.snapshot = Arc::new(snapshot);
        Ok(next)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use inroad_assignment::DefinitionDoc;
    use proptest::prelude::*;

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

    /// A state with this many drafts, each at its own version.
    fn state_of(experiments: u64) -> CatalogueState {
        let stored = |n| StoredExperiment { version: n, experiment: Arc::new(draft(&format!("e{n}"), 1)) };
        let all = (1..=experiments).map(stored).collect();
        CatalogueState::default().with_stored(experiments, all, Timestamp::default()).unwrap()
    }

    fn replace(state: &CatalogueState, key: &str) -> CatalogueState {
        let stored = StoredExperiment { version: state.version + 1, experiment: Arc::new(draft(key, 2)) };
        state.with_stored(stored.version, vec![stored], Timestamp::default()).unwrap()
    }

    #[test]
    fn state_after_a_change_shares_all_other_entries_with_the_state_before_it() {
        let before = state_of(2_000);
        let after = replace(&before, "e700");
        let is_shared = |(key, entry): &(&ExperimentKey, &CatalogueEntry)| {
            // The very same value in memory, not an equal copy.
            before.entries.get(*key).is_some_and(|old| std::ptr::eq(old, *entry))
        };
        let copied: Vec<_> = after.entries.iter().filter(|entry| !is_shared(entry)).map(|(key, _)| key).collect();
        assert_eq!(copied.iter().map(|key| key.as_str()).collect::<Vec<_>>(), ["e700"]);
        assert_eq!(before.entries.get("e700").unwrap().version, 700, "the state before the change is unchanged");
    }

    #[test]
    fn consumer_visits_only_what_changed_after_the_version_it_has() {
        let since = |state: &CatalogueState, version| {
            let entries: Vec<_> =
                state.changed_since(version).map(|(key, entry)| (key.to_string(), entry.version)).collect();
            let served = state.served_since(version).map(|s| (s.parts().key.to_string(), s.parts().version));
            assert_eq!(served.collect::<Vec<_>>(), entries);
            entries
        };
        let first = state_of(50);
        assert_eq!(since(&first, 0).len(), 50);
        let second = replace(&replace(&replace(&first, "e7"), "new"), "e7");
        assert_eq!(since(&second, 50), [("new".to_owned(), 52), ("e7".to_owned(), 53)], "each once, at its version");
        assert_eq!(since(&second, 52), [("e7".to_owned(), 53)]);
        assert!(since(&second, 53).is_empty());
        assert!(since(&second, u64::MAX).is_empty());
        assert_eq!(since(&second, 0).len(), 51);
    }

    /// The bytes and the number of allocations that a change of one experiment among so many takes.
    fn cost_of_a_change(experiments: u64) -> (u64, u64) {
        let state = state_of(experiments);
        let changed = Arc::new(draft("e70", 2));
        let cost = allocation_counter::measure(|| {
            let stored = StoredExperiment { version: experiments + 1, experiment: changed };
            state.with_stored(experiments + 1, vec![stored], Timestamp::default()).unwrap();
        });
        (cost.bytes_total, cost.count_total)
    }

    #[test]
    fn change_allocates_about_as_much_among_many_experiments_as_among_few() {
        let ((few_bytes, few_count), (many_bytes, many_count)) = (cost_of_a_change(100), cost_of_a_change(5_000));
        // The depth of the trees is the logarithm of the number of experiments.
        assert!(many_bytes < 2 * few_bytes, "{many_bytes} bytes among 5,000 experiments, {few_bytes} among 100");
        assert!(many_count < 2 * few_count, "{many_count} allocations among 5,000 experiments, {few_count} among 100");
    }

    /// What a state contains, as a plain map.
    type Model = BTreeMap<String, (u64, Arc<Experiment>)>;

    fn check_against(state: &CatalogueState, model: &Model) {
        let entries = state.entries.iter().map(|(key, e)| (key.to_string(), (e.version, Arc::clone(&e.experiment))));
        assert_eq!(entries.collect::<Model>(), *model);
        assert!(state.experiments().eq(model.values().map(|(_, experiment)| experiment)), "in the order of their keys");
        let served: BTreeMap<_, _> =
            state.snapshot.experiments().map(|s| (s.parts().key.to_string(), s.parts().version)).collect();
        assert!(served.iter().eq(model.iter().map(|(key, (version, _))| (key, version)).collect::<Vec<_>>()));
        assert_eq!(state.snapshot.version, state.version);
        let bytes = |served: &Arc<ServedExperiment>| snapshot_to_wire(served).encoded_len();
        assert_eq!(state.snapshot_bytes, state.snapshot.experiments().map(bytes).sum::<usize>());
        for since in 0..=state.version {
            let mut expected: Vec<_> = model.iter().filter(|(_, (version, _))| *version > since).collect();
            expected.sort_by_key(|(_, (version, _))| *version);
            let changed: Vec<_> =
                state.changed_since(since).map(|(key, entry)| (key.as_str(), entry.version)).collect();
            assert_eq!(
                changed,
                expected.iter().map(|(key, (version, _))| (key.as_str(), *version)).collect::<Vec<_>>()
            );
            assert!(state.served_since(since).map(|s| s.parts().key.as_str()).eq(changed.iter().map(|(key, _)| *key)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Each change concerns some of 12 experiments; with an equal version, it is served again after a clock jump.
        #[test]
        fn any_sequence_of_changes_gives_the_states_of_a_plain_map(
            changes in prop::collection::vec((prop::collection::btree_set(0u8..12, 1..4), 0usize..40, 0u8..5), 1..40),
        ) {
            let (mut state, mut model) = (CatalogueState::default(), Model::new());
            let mut earlier = Vec::new();
            for (keys, payload, dice) in changes {
                earlier.push((state.clone(), model.clone()));
                let (mut stored, mut version) = (Vec::new(), state.version);
                for key in keys.iter().map(|key| format!("e{key}")) {
                    let experiment = match model.get(&key) {
                        Some((version, known)) if dice == 0 => {
                            stored.push(StoredExperiment { version: *version, experiment: Arc::clone(known) });
                            continue;
                        }
                        _ => Arc::new(draft(&key, payload)),
                    };
                    version += 1;
                    model.insert(key, (version, Arc::clone(&experiment)));
                    stored.push(StoredExperiment { version, experiment });
                }
                state = state.with_stored(version, stored, Timestamp::default()).unwrap();
                check_against(&state, &model);
            }
            // A change leaves all earlier states as they were.
            for (state, model) in earlier {
                check_against(&state, &model);
            }
        }
    }
}
