//! What the catalogue does when the clock has moved by an accepted jump.

use std::sync::Arc;

use inroad_assignment::Timestamp;
use inroad_store::StoredExperiment;

use super::{Catalogue, CatalogueEntry};
use crate::error::ServerError;

impl Catalogue {
    /// Publishes the current version again after the clock has moved: the revisions in effect at `reached`, the highest
    /// time that it has shown, stay in effect, and clients receive the new time.
    ///
    /// # Errors
    /// [`ServerError::InvalidSnapshot`], which is a bug here.
    pub async fn follow_clock(&self, reached: Timestamp) -> Result<(), ServerError> {
        let _turn = self.changing.lock().await;
        let state = self.state.load_full();
        let may_change = |entry: &&CatalogueEntry| {
            let served = state.snapshot.get(entry.experiment.definition.key().as_str());
            entry.experiment.manual_now.is_none() && served.is_some_and(|served| served.parts().revisions.len() > 1)
        };
        let moved = state
            .entries
            .values()
            .filter(may_change)
            .map(|entry| StoredExperiment { version: entry.version, experiment: Arc::clone(&entry.experiment) });
        let next = Arc::new(state.with_stored(state.version, moved.collect(), reached)?);
        self.state.store(Arc::clone(&next));
        self.published.send_replace(next);
        Ok(())
    }
}
