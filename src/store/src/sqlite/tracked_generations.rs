//! The generations that the fold attributes events to: each with its hasher, indexed by experiment and by its id in the
//! tables.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use inroad_assignment::{Experiment, ExperimentKey, Generation, MetricKind, Timestamp, UnitHasher};
use inroad_policy::attribution::History;
use rusqlite::Connection;

use super::catalogue::experiment_id;
use crate::error::StoreError;

/// Identifies a tracked generation for the life of the process.
pub(crate) type GenerationIndex = u32;

/// One generation of one experiment.
pub(crate) struct TrackedGeneration {
    /// The experiment as the fold last loaded it.
    pub(crate) experiment: Arc<Experiment>,
    /// The experiment's id in the tables.
    pub(crate) experiment_id: i64,
    /// The generation's number.
    pub(crate) number: u32,
    /// Hashes unit keys onto the generation's line.
    pub(crate) hasher: UnitHasher,
    /// When it ended: outcomes from then on are nothing of it.
    ended_at: Option<Timestamp>,
}

impl TrackedGeneration {
    /// The experiment's key.
    pub(crate) fn key(&self) -> &ExperimentKey {
        self.experiment.definition.key()
    }

    /// The generation in the experiment.
    pub(crate) fn generation(&self) -> Result<&Generation, StoreError> {
        let found = self.experiment.generation_by_number(self.number);
        found.ok_or_else(|| StoreError::Database(format!("{} has no generation {} any more", self.key(), self.number)))
    }

    /// The serving history of the generation, and its metrics.
    pub(crate) fn history(&self) -> Result<History<'_>, StoreError> {
        Ok(History::new(&self.experiment.definition, self.generation()?))
    }

    /// Whether a metric counts this event, or divides by it.
    pub(crate) fn measures(&self, event: &str) -> bool {
        self.experiment.definition.metrics().iter().any(|metric| {
            let divides = matches!(&metric.kind, MetricKind::Ratio { denominator } if denominator == event);
            metric.event == event || divides
        })
    }

    /// Whether an outcome at this time is too late to count.
    pub(crate) fn has_ended(&self, at: Timestamp) -> bool {
        self.ended_at.is_some_and(|end| at >= end)
    }

    /// The clock that its outcomes name: the experiment's key for a manual clock, empty for the wall clock.
    pub(crate) fn clock(&self) -> &str {
        if self.experiment.manual_now.is_some() { self.key().as_str() } else { "" }
    }
}

/// All generations that the fold knows. None is ever removed.
#[derive(Default)]
pub(crate) struct TrackedGenerations {
    all: Vec<TrackedGeneration>,
    /// By experiment, in the order of the generations.
    by_experiment: HashMap<ExperimentKey, Vec<GenerationIndex>>,
    /// By the experiment's id in the tables, and number.
    by_id: HashMap<(i64, u32), GenerationIndex>,
    /// Those with a history that the counts may not reflect yet, so that a change costs nothing for all others.
    changed: BTreeSet<GenerationIndex>,
}

impl TrackedGenerations {
    /// Takes over the newer states among these experiments. Older states are ignored: a caller may have an outdated
    /// catalogue, and the counts never go back.
    pub(crate) fn update(
        &mut self,
        connection: &Connection,
        experiments: &[Arc<Experiment>],
    ) -> Result<(), StoreError> {
        for experiment in experiments {
            let key = experiment.definition.key();
            let known = self.by_experiment.get(key).map(Vec::as_slice).unwrap_or_default();
            if let Some(old) = known.first().and_then(|index| self.all.get(*index as usize))
                && (Arc::ptr_eq(&old.experiment, experiment) || is_older(experiment, &old.experiment))
            {
                continue;
            }
            let new = experiment.generations.get(known.len()..).unwrap_or_default();
            // Nothing is taken over before this has succeeded: what is known already is not looked at again.
            let id = match known.first().and_then(|index| self.all.get(*index as usize)) {
                Some(tracked) => Some(tracked.experiment_id),
                None if new.is_empty() => None,
                None => experiment_id(connection, key.as_str())?,
            };
            for index in known {
                if let Some(tracked) = self.all.get_mut(*index as usize) {
                    tracked.ended_at = ended_at(experiment, tracked.number);
                    tracked.experiment = Arc::clone(experiment);
                    self.changed.insert(*index);
                }
            }
            // An experiment that is not stored yet cannot have served any unit.
            let Some(experiment_id) = id else { continue };
            for generation in new {
                let index = self.all.len() as GenerationIndex;
                self.by_experiment.entry(key.clone()).or_default().push(index);
                self.by_id.insert((experiment_id, generation.number), index);
                self.changed.insert(index);
                self.all.push(TrackedGeneration {
                    experiment: Arc::clone(experiment),
                    experiment_id,
                    number: generation.number,
                    hasher: UnitHasher::new(key, &generation.salt),
                    ended_at: generation.ended_at(),
                });
            }
        }
        Ok(())
    }

    /// The first generation with a history that the counts may not reflect yet.
    pub(crate) fn first_changed(&self) -> Option<GenerationIndex> {
        self.changed.first().copied()
    }

    /// Notes that the counts reflect the history of this generation.
    pub(crate) fn mark_counted(&mut self, index: GenerationIndex) {
        self.changed.remove(&index);
    }

    /// The generation with this index.
    pub(crate) fn get(&self, index: GenerationIndex) -> Result<&TrackedGeneration, StoreError> {
        let found = self.all.get(index as usize);
        found.ok_or_else(|| StoreError::Database("the fold has lost a generation".to_owned()))
    }

    /// The generation with this number of the experiment with this key.
    pub(crate) fn find(&self, experiment: &str, number: u32) -> Option<(GenerationIndex, &TrackedGeneration)> {
        let index = *self.by_experiment.get(experiment)?.get((number as usize).checked_sub(1)?)?;
        Some((index, self.all.get(index as usize)?))
    }

    /// The generation with this number of the experiment with this id in the tables.
    pub(crate) fn with_id(&self, experiment_id: i64, number: u32) -> Option<(GenerationIndex, &TrackedGeneration)> {
        let index = *self.by_id.get(&(experiment_id, number))?;
        Some((index, self.all.get(index as usize)?))
    }
}

fn ended_at(experiment: &Experiment, number: u32) -> Option<Timestamp> {
    experiment.generation_by_number(number).and_then(Generation::ended_at)
}

/// Whether `this` is an earlier state of an experiment than `that`.
fn is_older(this: &Experiment, that: &Experiment) -> bool {
    let progress = |e: &Experiment| {
        let last = e.generation().map_or((0, 0, 0), |g| (g.revisions.len(), g.kill_changes.len(), g.endings.len()));
        (e.generations.len(), [last.0, last.1, last.2, e.definition.metrics().len()])
    };
    let ((this, this_newest), (that, that_newest)) = (progress(this), progress(that));
    this < that || (this == that && this_newest.iter().zip(that_newest).any(|(this, that)| *this < that))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use crate::sqlite::schema::STATE;
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt, Timestamp};

    fn started(key: &str) -> Experiment {
        let doc = serde_json::json!({"key": key, "variations": [{"key": "control", "payload": 1}, {"key": "a", "payload": 2}]});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
        experiment.start(Timestamp::default(), Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    /// The generations that are visited after an update.
    fn visited(generations: &mut TrackedGenerations) -> Vec<String> {
        let mut keys = Vec::new();
        while let Some(index) = generations.first_changed() {
            keys.push(generations.get(index).unwrap().key().to_string());
            generations.mark_counted(index);
        }
        keys
    }

    #[test]
    fn change_of_one_experiment_visits_its_generation_and_no_other() {
        let mut connection = Connection::open_in_memory().unwrap();
        STATE.migrate(&mut connection).unwrap();
        let mut all: Vec<_> = (0..100).map(|n| Arc::new(started(&format!("e{n}")))).collect();
        for experiment in &all {
            let sql = "INSERT INTO experiment (key, version, body) VALUES (?1, 1, '')";
            connection.execute(sql, [experiment.definition.key().as_str()]).unwrap();
        }
        let mut generations = TrackedGenerations::default();
        generations.update(&connection, &all).unwrap();
        assert_eq!(visited(&mut generations).len(), 100, "after the start, any counts may be outdated");
        generations.update(&connection, &all).unwrap();
        assert!(visited(&mut generations).is_empty(), "nothing has changed");
        let outdated = Arc::clone(&all[7]);
        let mut killed = Experiment::clone(&outdated);
        killed.set_killed(KillTarget::Everything, true, Timestamp::from_micros(1)).unwrap();
        all[7] = Arc::new(killed);
        generations.update(&connection, &all[7..8]).unwrap();
        assert_eq!(visited(&mut generations), ["e7"], "the changed one alone is enough");
        generations.update(&connection, &[outdated]).unwrap();
        assert!(visited(&mut generations).is_empty(), "an outdated state is ignored");
        let (_, tracked) = generations.find("e7", 1).unwrap();
        assert!(Arc::ptr_eq(&tracked.experiment, &all[7]));
    }

    /// Reading the catalogue may fail, for example because too many files are open.
    #[test]
    fn generation_whose_experiment_could_not_be_read_is_added_by_the_next_update() {
        let mut connection = Connection::open_in_memory().unwrap();
        STATE.migrate(&mut connection).unwrap();
        connection.execute("INSERT INTO experiment (key, version, body) VALUES ('e', 1, '')", []).unwrap();
        let rename = |from: &str, to: &str| connection.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"));
        let first = started("e");
        let mut second = first.clone();
        second.restart(Timestamp::from_micros(1), Salt::parse("t").unwrap()).unwrap();
        for states in [vec![second.clone()], vec![first, second]] {
            let mut generations = TrackedGenerations::default();
            let states: Vec<_> = states.into_iter().map(Arc::new).collect();
            let (last, earlier) = states.split_last().unwrap();
            generations.update(&connection, earlier).unwrap();
            let _ = visited(&mut generations);
            rename("experiment", "unreadable").unwrap();
            let failed = generations.update(&connection, std::slice::from_ref(last));
            rename("unreadable", "experiment").unwrap();
            if failed.is_err() {
                assert!(generations.find("e", 2).is_none());
                generations.update(&connection, std::slice::from_ref(last)).unwrap();
            }
            assert!(generations.find("e", 2).is_some(), "after {} earlier states", earlier.len());
            assert_eq!(visited(&mut generations), ["e", "e"]);
        }
    }
}
