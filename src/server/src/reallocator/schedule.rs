//! When the reallocator visits which experiment. A change of the catalogue costs what the changed experiments cost: the
//! others keep their place.

use std::collections::{BTreeSet, HashMap};

use inroad_assignment::{ExperimentKey, Timestamp};

use crate::catalogue::CatalogueState;

/// The experiments to visit, by the wall clock.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    by_time: BTreeSet<(Timestamp, ExperimentKey)>,
    by_key: HashMap<ExperimentKey, Timestamp>,
    /// The version of the catalogue that the schedule reflects; 0 to visit every experiment.
    version: u64,
    /// The time of the last update.
    updated_at: Timestamp,
}

impl Schedule {
    /// Makes the experiments due that changed since the last update, or all if the clock was set back since: the
    /// scheduled times are then too late.
    pub(super) fn update(&mut self, state: &CatalogueState, now: Timestamp) {
        if now < self.updated_at {
            self.visit_all();
        }
        self.updated_at = now;
        for (key, _) in state.changed_since(self.version) {
            self.set(key.clone(), now);
        }
        self.version = state.version;
    }

    /// Makes every experiment due at the next update.
    pub(super) fn visit_all(&mut self) {
        *self = Self::default();
    }

    /// Sets when to visit an experiment next, instead of the time set before.
    pub(super) fn set(&mut self, key: ExperimentKey, at: Timestamp) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    /// Takes out all experiments that are due, the longest due first.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<ExperimentKey> {
        let mut due = Vec::new();
        while let Some((_, key)) = self.by_time.first().filter(|(at, _)| *at <= now).cloned() {
            self.by_time.pop_first();
            self.by_key.remove(&key);
            due.push(key);
        }
        due
    }

    /// When the first experiment is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use inroad_assignment::{DefinitionDoc, Experiment};
    use inroad_store::StoredExperiment;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    fn changed(state: &CatalogueState, keys: impl Iterator<Item = String>) -> CatalogueState {
        let stored = (state.version + 1..).zip(keys).map(|(version, key)| {
            let doc = serde_json::json!({"key": key, "variations": [{"key": "control", "payload": 1}, {"key": "a", "payload": 2}]});
            let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
            let experiment = Arc::new(Experiment::create(doc.try_into().unwrap(), at(0)));
            StoredExperiment { version, experiment }
        });
        let stored: Vec<_> = stored.collect();
        state.with_stored(state.version + stored.len() as u64, stored, at(0)).unwrap()
    }

    fn due(schedule: &mut Schedule, seconds: u64) -> Vec<String> {
        schedule.take_due(at(seconds)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn change_makes_only_the_changed_experiment_due() {
        let state = changed(&CatalogueState::default(), (0..100).map(|n| format!("e{n}")));
        let mut schedule = Schedule::default();
        schedule.update(&state, at(10));
        let all = schedule.take_due(at(10));
        assert_eq!(all.len(), 100, "all after the start");
        assert!(schedule.next().is_none());
        all.into_iter().for_each(|key| schedule.set(key, at(500)));
        schedule.update(&state, at(11));
        assert!(due(&mut schedule, 11).is_empty());
        schedule.update(&changed(&state, ["e7".to_owned(), "new".to_owned()].into_iter()), at(12));
        assert_eq!(due(&mut schedule, 12), ["e7", "new"]);
        assert_eq!(schedule.next(), Some(at(500)));
        assert_eq!(due(&mut schedule, 500).len(), 99);
    }

    #[test]
    fn experiment_is_due_at_the_time_set_last() {
        let mut schedule = Schedule::default();
        let key = |key: &str| ExperimentKey::parse(key).unwrap();
        schedule.set(key("a"), at(30));
        schedule.set(key("b"), at(20));
        schedule.set(key("a"), at(10));
        assert_eq!(due(&mut schedule, 25), ["a", "b"]);
        assert!(due(&mut schedule, 30).is_empty(), "each once");
    }

    #[test]
    fn all_experiments_are_due_after_the_clock_was_set_back() {
        let state = changed(&CatalogueState::default(), (0..3).map(|n| format!("e{n}")));
        let mut schedule = Schedule::default();
        schedule.update(&state, at(1_000));
        schedule.take_due(at(1_000)).into_iter().for_each(|key| schedule.set(key, at(2_000)));
        schedule.update(&state, at(400));
        assert_eq!(due(&mut schedule, 400).len(), 3);
    }
}
