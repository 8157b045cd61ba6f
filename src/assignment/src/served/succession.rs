//! Checks whether a newly received experiment can replace the one that is served (I2). A client that receives a wrong
//! update keeps the experiment that it has.

use thiserror::Error;

use super::{ServedExperiment, ServedRevision};
use crate::key::ExperimentKey;

/// Why an experiment cannot be served, or cannot replace the one that is served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServedError {
    /// The parts contradict each other, or one is missing.
    #[error("experiment {0} cannot be served: {1}")]
    Inconsistent(ExperimentKey, &'static str),
    /// A later revision of the same generation takes points from a variation, which breaks I2, or its time of effect
    /// changed.
    #[error(
        "experiment {experiment}: revision {later} contradicts revision {earlier} of generation {generation}, because it moves points away from a variation or changes when it takes effect: keep revision {earlier}"
    )]
    NotMonotone {
        /// The experiment.
        experiment: ExperimentKey,
        /// The generation.
        generation: u32,
        /// The known revision.
        earlier: u32,
        /// The rejected revision.
        later: u32,
    },
    /// The version, generation or revision is older than the served one.
    #[error(
        "experiment {0}: an older version, generation or revision was received after a newer one: keep the newer one"
    )]
    Outdated(ExperimentKey),
    /// The key, salt, unit or existing variations differ from those of the same generation.
    #[error(
        "experiment {0}: its key, salt, unit or variations changed within a generation: restart the experiment to change them"
    )]
    ChangedWithinGeneration(ExperimentKey),
}

impl ServedExperiment {
    /// Checks that this experiment can replace `old`: it is not older, and within a generation it only grows (I2).
    pub fn check_can_replace(&self, old: &Self) -> Result<(), ServedError> {
        let (new, old) = (&self.parts, &old.parts);
        let key = || new.key.clone();
        if new.version < old.version || new.generation < old.generation {
            return Err(ServedError::Outdated(key()));
        }
        if new.generation > old.generation || old.generation == 0 {
            return Ok(());
        }
        let same_variations = new.variations.len() >= old.variations.len()
            && new.variations.iter().zip(&old.variations).all(|(a, b)| a.key == b.key);
        if new.key != old.key || new.salt != old.salt || new.unit != old.unit || !same_variations {
            return Err(ServedError::ChangedWithinGeneration(key()));
        }
        if new.revisions.last().map(|r| r.number) < old.revisions.last().map(|r| r.number) {
            return Err(ServedError::Outdated(key()));
        }
        for earlier in &old.revisions {
            // Compare with the first revision that is not older. `new` has checked its own later revisions.
            if let Some(later) = new.revisions.iter().find(|r| r.number >= earlier.number) {
                check_succession(&new.key, new.generation, earlier, later)?;
            }
        }
        Ok(())
    }
}

/// Checks that `later` can follow `earlier`: only control gives up points, and effective times are in order.
pub(super) fn check_succession(
    key: &ExperimentKey,
    generation: u32,
    earlier: &ServedRevision,
    later: &ServedRevision,
) -> Result<(), ServedError> {
    let ordered = later.number > earlier.number && later.effective_at >= earlier.effective_at
        || later.number == earlier.number && later == earlier;
    if ordered && earlier.allocation.can_grow_into(&later.allocation) {
        return Ok(());
    }
    Err(ServedError::NotMonotone { experiment: key.clone(), generation, earlier: earlier.number, later: later.number })
}
