//! All served experiments at one version.

use std::sync::Arc;

use super::{Assignment, Reason, ServedExperiment};
use crate::context::Context;
use crate::key::ExperimentKey;
use crate::time::Timestamp;

/// All served experiments at one version of the catalogue.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The version. Every change of any experiment increases it.
    pub version: u64,
    experiments: hashbrown::HashMap<ExperimentKey, Arc<ServedExperiment>, foldhash::fast::FixedState>,
}

impl Snapshot {
    /// The experiment with this key; `None` if there is none.
    #[inline]
    pub fn get(&self, key: &str) -> Option<&Arc<ServedExperiment>> {
        self.experiments.get(key)
    }

    /// All experiments, in no particular order.
    pub fn experiments(&self) -> impl ExactSizeIterator<Item = &Arc<ServedExperiment>> {
        self.experiments.values()
    }

    /// Adds an experiment, or replaces its previous version.
    pub fn insert(&mut self, experiment: Arc<ServedExperiment>) {
        self.experiments.insert(experiment.parts().key.clone(), experiment);
    }

    /// Removes an experiment.
    pub fn remove(&mut self, key: &str) {
        self.experiments.remove(key);
    }

    /// The assignment of the unit in `context` by one experiment.
    #[inline]
    pub fn assign(&self, key: &str, context: &Context, wall_now: Timestamp) -> Assignment<'_> {
        match self.experiments.get(key) {
            Some(experiment) => experiment.assign(context, wall_now),
            None => Assignment::unknown(Reason::UnknownExperiment),
        }
    }
}
