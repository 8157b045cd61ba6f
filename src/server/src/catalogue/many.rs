//! Changes of many experiments, all or nothing. A kill waits while they are stored, so everything that can be done before
//! is: the experiments are computed and checked from a state without holding up other changes, and are then stored only
//! if none of them was changed meanwhile.

use std::sync::Arc;

use inroad_assignment::{Experiment, Timestamp};
use inroad_store::{ExperimentChange, StoreError};
use tokio::sync::OwnedMutexGuard;

use super::{Catalogue, CatalogueState};
use crate::config::MAX_DECLARED_BYTES;
use crate::error::ServerError;

/// The change of one experiment among many.
#[derive(Debug)]
pub struct PlannedChange {
    /// The version on which the change is based; none for a new experiment.
    pub expected_version: Option<u64>,
    /// The experiment after the change.
    pub experiment: Arc<Experiment>,
    /// The kind of change, for the audit log.
    pub action: String,
}

impl Catalogue {
    /// Reserves the one place for a change of many experiments, until the guard is dropped.
    ///
    /// # Errors
    /// [`ServerError::ApplyInProgress`].
    pub fn reserve_change_of_many(&self) -> Result<OwnedMutexGuard<()>, ServerError> {
        Arc::clone(&self.changing_many).try_lock_owned().map_err(|_| ServerError::ApplyInProgress)
    }

    /// Checks planned changes without storing them. Takes long for many: do not call it from an async task.
    ///
    /// # Errors
    /// [`ServerError::Invalid`] if an experiment, or all together, would be too large.
    pub fn check_planned<'a>(
        &self,
        state: &CatalogueState,
        changes: impl Iterator<Item = &'a PlannedChange>,
    ) -> Result<(), ServerError> {
        state.check_declared(changes.map(|change| &*change.experiment), MAX_DECLARED_BYTES, self.clock.now())
    }

    /// Stores and publishes checked changes of different experiments, all or nothing, and returns the new state. `at` is
    /// the time, by the wall clock, that the changes were made with: the audit log has the same.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if an experiment is no longer at its expected version; then nothing is changed.
    pub async fn change_many(
        self: &Arc<Self>,
        actor: &str,
        at: Timestamp,
        changes: Vec<PlannedChange>,
    ) -> Result<Arc<CatalogueState>, ServerError> {
        let expected: Vec<_> = changes.iter().map(|c| (Arc::clone(&c.experiment), c.expected_version)).collect();
        let changed = changes.iter().map(|c| (Arc::clone(&c.experiment), c.action.clone())).collect();
        let changes = changes.into_iter().map(|change| ExperimentChange {
            expected_version: change.expected_version,
            experiment: change.experiment,
            actor: actor.to_owned(),
            action: change.action,
            at,
            decision: None,
        });
        // Before the turn, because it takes longer than storing the changes.
        let prepared = self.store.prepare(changes.collect()).await?;
        let turn = self.turn().await;
        let state = self.state();
        let version = |experiment: &Experiment| state.entries.get(experiment.definition.key()).map(|e| e.version);
        if expected.iter().any(|(experiment, expected)| version(experiment) != *expected) {
            return Err(ServerError::Store(StoreError::Conflict));
        }
        let store = Arc::clone(&self.store);
        self.commit(turn, changed, async move { store.commit_prepared(prepared).await }).await
    }
}
