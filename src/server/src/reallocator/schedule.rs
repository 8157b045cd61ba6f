//! When the reallocator visits which experiment. A change of the catalogue costs what the changed experiments cost: the
//! others keep their place.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use inroad_assignment::{Experiment, ExperimentKey, Timestamp};

use crate::catalogue::CatalogueState;

/// How much earlier than the lead time the reallocator wakes, to have time to decide.
const DECISION_TIME: Duration = Duration::from_secs(1);

/// The start of the newest tick that can still be decided in time.
pub(super) fn due_tick(experiment: &Experiment, now: Timestamp, lead: Duration) -> Timestamp {
    let length = experiment.definition.policy().tick();
    Timestamp::start_of_tick(now.plus(lead + DECISION_TIME).tick(length), length)
}

/// When to wake for this experiment; none if it does not tick by the wall clock. It stays the same until then, unless
/// the experiment changes or the clock is set back.
pub(super) fn wake_at(experiment: &Experiment, now: Timestamp, lead: Duration) -> Option<Timestamp> {
    if !experiment.is_policy_active() || experiment.manual_now.is_some() {
        return None;
    }
    let last = experiment.last_tick_at?;
    if due_tick(experiment, now, lead) > last {
        return Some(now);
    }
    Some(experiment.next_tick_after(last.max(now)).minus(lead + DECISION_TIME))
}

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

    use super::*;
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt};
    use inroad_store::StoredExperiment;
    use proptest::prelude::*;

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

    const LEAD: Duration = Duration::from_secs(2);

    /// An experiment that started at `now`, with a tick of some minutes, and without a policy for 0 minutes.
    fn started(key: &str, minutes: u64, now: Timestamp) -> Experiment {
        let policy = match minutes {
            0 => serde_json::json!({"kind": "manual"}),
            _ => serde_json::json!({"kind": "thompson", "tick": format!("{minutes}m")}),
        };
        let variations = serde_json::json!([{"key": "control", "payload": 1}, {"key": "a", "payload": 2}]);
        let metrics = serde_json::json!([{"key": "m", "event": "buy", "decision": true}]);
        let doc = serde_json::json!({"key": key, "policy": policy, "variations": variations, "metrics": metrics});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), now);
        experiment.start(now, Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn with_changed(state: &CatalogueState, experiment: Experiment) -> CatalogueState {
        let stored = StoredExperiment { version: state.version + 1, experiment: Arc::new(experiment) };
        state.with_stored(stored.version, vec![stored], at(0)).unwrap()
    }

    /// One change that a person makes to an experiment.
    fn change(experiment: &mut Experiment, kind: u8, now: Timestamp) {
        let is_killed = experiment.kills.everything;
        // What is not allowed in the experiment's state changes nothing.
        let _ = match kind {
            0 => experiment.pause(),
            1 => experiment.resume(now),
            2 => experiment.set_killed(KillTarget::Everything, !is_killed, now),
            // A decision on request.
            _ => {
                experiment.record_tick(now, true);
                Ok(())
            }
        };
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Each step lets time pass, or sets the clock back, and changes one experiment or none.
        #[test]
        fn scheduled_experiments_are_those_that_a_scan_of_all_finds_due(
            ticks in prop::collection::vec(0u64..15, 1..12),
            steps in prop::collection::vec((0u64..400_000_000, 0u8..12, 0usize..12, 0u8..8), 1..120),
        ) {
            let mut now = at(1_000_000);
            let mut state = CatalogueState::default();
            for (n, minutes) in ticks.iter().enumerate() {
                state = with_changed(&state, started(&format!("e{n}"), *minutes, now));
            }
            let mut schedule = Schedule::default();
            for (micros, dice, index, kind) in steps {
                let duration = Duration::from_micros(micros);
                now = if dice == 0 { now.minus(20 * duration) } else { now.plus(duration) };
                if let Some(key) = ticks.get(index).map(|_| format!("e{index}")).filter(|_| kind < 4) {
                    let mut experiment = Experiment::clone(&state.entries.get(key.as_str()).unwrap().experiment);
                    change(&mut experiment, kind, now);
                    state = with_changed(&state, experiment);
                }
                let is_due = |experiment: &Experiment| wake_at(experiment, now, LEAD).is_some_and(|at| at <= now);
                let mut expected: Vec<_> = state.entries.iter().filter(|(_, e)| is_due(&e.experiment)).map(|(key, _)| key.clone()).collect();
                let mut decided = Vec::new();
                schedule.update(&state, now);
                for key in schedule.take_due(now) {
                    let mut experiment = Experiment::clone(&state.entries.get(&key).unwrap().experiment);
                    if is_due(&experiment) {
                        experiment.record_tick(due_tick(&experiment, now, LEAD), true);
                        state = with_changed(&state, experiment.clone());
                        decided.push(key.clone());
                    }
                    if let Some(next) = wake_at(&experiment, now, LEAD) {
                        schedule.set(key, next);
                    }
                }
                decided.sort();
                expected.sort();
                prop_assert_eq!(decided, expected);
                // The task sleeps until the first of all experiments is due.
                let first = state.entries.values().filter_map(|entry| wake_at(&entry.experiment, now, LEAD)).min();
                prop_assert_eq!(schedule.next(), first);
            }
        }
    }
}
