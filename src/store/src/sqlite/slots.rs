//! What the fold attributes by: every generation of every experiment, ready to hash units, and which of them an
//! outcome may touch.

use std::collections::HashMap;
use std::sync::Arc;

use inroad_assignment::{Experiment, ExperimentKey, Generation, MetricKind, UnitHasher};
use inroad_policy::attribution::History;
use rusqlite::Connection;

use super::catalogue::id_of;
use crate::error::StoreError;

/// Which generation, among those that the fold knows; never given to another.
pub(crate) type SlotIndex = u32;

/// One generation of one experiment.
pub(crate) struct Slot {
    /// The experiment as the fold knows it.
    pub(crate) experiment: Arc<Experiment>,
    /// The experiment's number in the tables.
    pub(crate) id: i64,
    /// The generation's number.
    pub(crate) number: u32,
    /// Hashes units onto its line.
    pub(crate) hasher: UnitHasher,
}

impl Slot {
    /// The experiment's key.
    pub(crate) fn key(&self) -> &ExperimentKey {
        self.experiment.definition.key()
    }

    /// The generation itself.
    pub(crate) fn generation(&self) -> Result<&Generation, StoreError> {
        let found = self.experiment.generation_numbered(self.number);
        found.ok_or_else(|| StoreError::Database(format!("{} has lost generation {}", self.key(), self.number)))
    }

    /// What was served when, and what is measured.
    pub(crate) fn history(&self) -> Result<History<'_>, StoreError> {
        Ok(History::new(&self.experiment.definition, self.generation()?))
    }

    /// The clock that its outcomes name: empty for the wall's.
    pub(crate) fn clock(&self) -> &str {
        if self.experiment.manual_now.is_some() { self.key().as_str() } else { "" }
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Slots {
    all: Vec<Slot>,
    /// By experiment, in the order of the generations.
    of: HashMap<ExperimentKey, Vec<SlotIndex>>,
    /// By event: whoever has a metric on it.
    about: HashMap<String, Vec<SlotIndex>>,
    /// What was learnt last, so that learning the same again costs nothing.
    learnt: Option<Arc<Vec<Arc<Experiment>>>>,
}

impl Slots {
    /// Takes what is newer than what is known; true if anything may be. What is older is left: a caller may hold a
    /// catalogue that was overtaken, and the counts never go back.
    pub(crate) fn learn(
        &mut self,
        connection: &Connection,
        experiments: &Arc<Vec<Arc<Experiment>>>,
    ) -> Result<bool, StoreError> {
        if self.learnt.as_ref().is_some_and(|learnt| Arc::ptr_eq(learnt, experiments)) {
            return Ok(false);
        }
        for experiment in experiments.iter() {
            let key = experiment.definition.key();
            let known = self.of.get(key).map(Vec::as_slice).unwrap_or_default();
            if let Some(old) = known.first().and_then(|slot| self.all.get(*slot as usize))
                && (Arc::ptr_eq(&old.experiment, experiment) || is_behind(experiment, &old.experiment))
            {
                continue;
            }
            for slot in known {
                if let Some(slot) = self.all.get_mut(*slot as usize) {
                    slot.experiment = Arc::clone(experiment);
                }
            }
            let new = experiment.generations.get(known.len()..).unwrap_or_default();
            // Not in the catalogue: then neither can any unit have been served it.
            let Some(id) = (if new.is_empty() { None } else { id_of(connection, key.as_str())? }) else { continue };
            for generation in new {
                let hasher = UnitHasher::new(key, &generation.salt);
                self.of.entry(key.clone()).or_default().push(self.all.len() as SlotIndex);
                self.all.push(Slot { experiment: Arc::clone(experiment), id, number: generation.number, hasher });
            }
        }
        self.index_events();
        self.learnt = Some(Arc::clone(experiments));
        Ok(true)
    }

    fn index_events(&mut self) {
        self.about.clear();
        for (index, slot) in (0..).zip(&self.all) {
            let mut note = |event: &str| {
                let slots = match self.about.get_mut(event) {
                    Some(slots) => slots,
                    None => self.about.entry(event.to_owned()).or_default(),
                };
                if slots.last() != Some(&index) {
                    slots.push(index);
                }
            };
            for metric in slot.experiment.definition.metrics() {
                note(&metric.event);
                if let MetricKind::Ratio { denominator } = &metric.kind {
                    note(denominator);
                }
            }
        }
    }

    /// One of them.
    pub(crate) fn get(&self, index: SlotIndex) -> Result<&Slot, StoreError> {
        self.all.get(index as usize).ok_or_else(|| StoreError::Database("the fold lost a generation".to_owned()))
    }

    /// Every one with its index.
    pub(crate) fn all(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        (0..).zip(&self.all)
    }

    /// A generation of an experiment.
    pub(crate) fn find(&self, experiment: &str, generation: u32) -> Option<(SlotIndex, &Slot)> {
        let index = *self.of.get(experiment)?.get((generation as usize).checked_sub(1)?)?;
        Some((index, self.all.get(index as usize)?))
    }

    /// Those that an outcome may touch: a metric on its event, its clock, its type of unit.
    pub(crate) fn about<'a>(
        &'a self,
        event: &str,
        clock: &'a str,
        unit_type: &'a str,
    ) -> impl Iterator<Item = (SlotIndex, &'a Slot)> + 'a {
        let slots = self.about.get(event).map(Vec::as_slice).unwrap_or_default();
        let slots = slots.iter().filter_map(|index| Some((*index, self.all.get(*index as usize)?)));
        slots.filter(move |(_, slot)| slot.experiment.definition.unit() == unit_type && slot.clock() == clock)
    }
}

/// Whether `this` is an earlier state of an experiment than `that`.
fn is_behind(this: &Experiment, that: &Experiment) -> bool {
    let progress = |e: &Experiment| {
        let last = e.generation().map_or((0, 0, 0), |g| (g.revisions.len(), g.switches.len(), g.endings.len()));
        (e.generations.len(), [last.0, last.1, last.2, e.definition.metrics().len()])
    };
    let ((this, known), (that, newest)) = (progress(this), progress(that));
    this < that || (this == that && known.iter().zip(newest).any(|(known, newest)| *known < newest))
}
