//! What the catalogue does when the clock has moved by an accepted jump.

use std::sync::Arc;

use inroad_assignment::Experiment;
use inroad_store::StoredExperiment;

use super::{Catalogue, CatalogueEntry, ChangeRequest};
use crate::clock::AcceptedJump;
use crate::error::ServerError;

/// The actor in the audit log for what an accepted jump of the clock requires.
pub(crate) const CLOCK_ACTOR: &str = "inroad-clock";

impl Catalogue {
    /// Keeps the revisions in effect that had taken effect before a jump, and lets clients know the new time. After a jump
    /// back, experiments with such a revision get a new version: a client that was disconnected when the revision took
    /// effect would otherwise wait for that time once more.
    ///
    /// # Errors
    /// Errors of the store; [`ServerError::InvalidSnapshot`], which is a bug here.
    pub async fn follow_clock(self: &Arc<Self>, jump: AcceptedJump) -> Result<(), ServerError> {
        let turn = Arc::clone(&self.changing).lock_owned().await;
        let state = self.state.load_full();
        let may_change = |entry: &&CatalogueEntry| {
            let served = state.snapshot.get(entry.experiment.definition.key().as_str());
            let has_several = served.is_some_and(|served| served.parts().revisions.len() > 1);
            let is_ahead = entry.experiment.now(jump.to) > entry.experiment.clock_reading(jump.to);
            entry.experiment.manual_now.is_none() && (has_several || is_ahead)
        };
        let moved: Vec<StoredExperiment> = state
            .entries
            .values()
            .filter(may_change)
            .map(|entry| StoredExperiment { version: entry.version, experiment: Arc::clone(&entry.experiment) })
            .collect();
        let next = Arc::new(state.with_stored(state.version, moved.clone(), jump.from.max(jump.to))?);
        self.state.store(Arc::clone(&next));
        self.published.send_replace(next);
        drop(turn);
        if jump.to >= jump.from {
            return Ok(());
        }
        let mut result = Ok(());
        for StoredExperiment { experiment, .. } in moved {
            let key = experiment.definition.key();
            let turn = Arc::clone(&self.changing).lock_owned().await;
            let Some(entry) = self.state.load().entries.get(key).cloned() else { continue };
            let request = ChangeRequest { actor: CLOCK_ACTOR, action: "clock", expected_version: None };
            let unchanged = Experiment::clone(&entry.experiment);
            // The others must not wait for one that fails.
            let at = self.clock.now();
            let committed = self.commit_one(turn, at, Some(entry.version), unchanged, request, None).await;
            result = result.and(committed.map(drop));
        }
        result
    }
}
