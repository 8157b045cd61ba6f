//! What a caller receives: one decision, which keeps its snapshot alive, or a pinned snapshot for many evaluations.

use std::sync::Arc;

use arc_swap::Guard;
use inroad_assignment::{Arm, Assignment, Context, Digest, Payload, Point, Reason, ServedExperiment};
use serde_json::{Map, Value};

use crate::server_clock::ServerClock;
use crate::snapshot::Snapshot;

/// Which variation a unit gets, and why.
///
/// A decision borrows nothing, but it keeps its snapshot in memory. To store the result for longer, copy the value out.
///
/// The typed readers ([`Decision::boolean`] and the like) never fail. They return the default if there is no variation
/// (the experiment is unknown, or no snapshot was received yet) or if the payload has another type.
pub struct Decision {
    snapshot: Guard<Arc<Snapshot>>,
    experiment_index: u32,
    arm: Arm,
    reason: Reason,
    generation: u32,
    revision: u32,
    digest: Option<Digest>,
    records_exposure: bool,
}

impl Decision {
    #[inline]
    pub(crate) fn new(
        snapshot: Guard<Arc<Snapshot>>,
        experiment: &str,
        context: &Context,
        clock: &ServerClock,
    ) -> Self {
        let (experiment_index, assignment) = snapshot.evaluate(experiment, context, || clock.now());
        let Assignment { arm, reason, generation, revision, digest, records_exposure, .. } = assignment;
        Self { snapshot, experiment_index, arm, reason, generation, revision, digest, records_exposure }
    }

    #[inline]
    pub(crate) fn experiment(&self) -> Option<&ServedExperiment> {
        self.snapshot.get_at(self.experiment_index)
    }

    fn served_variation(&self) -> Option<&inroad_assignment::served::ServedVariation> {
        self.experiment()?.parts().variations.get(self.arm.index())
    }

    /// The variation's key; `None` if the experiment is unknown or no snapshot was received yet.
    pub fn variation(&self) -> Option<&str> {
        self.served_variation().map(|v| v.key.as_str())
    }

    /// The variation's payload; `None` if the experiment is unknown or no snapshot was received yet.
    pub fn payload(&self) -> Option<&Payload> {
        self.served_variation().map(|v| &v.payload)
    }

    /// The payload if it is a boolean, otherwise the default.
    #[inline]
    pub fn boolean(&self, default: bool) -> bool {
        if let Some(Payload::Boolean(value)) = self.payload() { *value } else { default }
    }

    /// The payload if it is a number, otherwise the default.
    #[inline]
    pub fn number(&self, default: f64) -> f64 {
        if let Some(Payload::Number(value)) = self.payload() { *value } else { default }
    }

    /// The payload if it is a string, otherwise the default.
    #[inline]
    pub fn string<'a>(&'a self, default: &'a str) -> &'a str {
        if let Some(Payload::String(value)) = self.payload() { value } else { default }
    }

    /// The payload if it is an object, otherwise the default.
    #[inline]
    pub fn object<'a>(&'a self, default: &'a Map<String, Value>) -> &'a Map<String, Value> {
        if let Some(Payload::Object(value)) = self.payload() { value } else { default }
    }

    /// The variation as an index; 0 is control.
    pub fn arm(&self) -> Arm {
        self.arm
    }

    /// Why the unit gets this variation.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The experiment's generation; 0 before its start.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The revision of the allocation that was used; 0 before the experiment's start.
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// The unit's point on the line; `None` if the unit was not hashed.
    pub fn point(&self) -> Option<Point> {
        self.digest.map(|d| d.point())
    }

    /// The unit's full digest, of which the point is the first 8 bytes; `None` if the unit was not hashed.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whether showing this variation to the unit counts as an exposure.
    pub fn records_exposure(&self) -> bool {
        self.records_exposure
    }
}

impl std::fmt::Debug for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decision")
            .field("variation", &self.variation())
            .field("payload", &self.payload())
            .field("reason", &self.reason)
            .field("generation", &self.generation)
            .field("revision", &self.revision)
            .field("point", &self.point())
            .finish_non_exhaustive()
    }
}

/// A snapshot pinned at one version. All evaluations use the same state and skip the lookup of the newest snapshot. It
/// records no exposures. Drop it soon: it receives no updates.
pub struct PinnedSnapshot<'c> {
    pub(crate) snapshot: Guard<Arc<Snapshot>>,
    pub(crate) clock: &'c ServerClock,
}

impl PinnedSnapshot<'_> {
    /// The assignment of a unit in one experiment, borrowed from the snapshot.
    #[inline]
    pub fn evaluate(&self, experiment: &str, context: &Context) -> Assignment<'_> {
        self.snapshot.evaluate(experiment, context, || self.clock.now()).1
    }

    /// The snapshot's version; 0 before the first snapshot.
    pub fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// An experiment by its key.
    pub fn get(&self, experiment: &str) -> Option<&ServedExperiment> {
        self.snapshot.get(experiment).map(|e| &**e)
    }

    /// All experiments, in the order of their keys.
    pub fn experiments(&self) -> impl ExactSizeIterator<Item = &ServedExperiment> {
        self.snapshot.experiments().iter().map(|e| &**e)
    }
}

impl std::fmt::Debug for PinnedSnapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedSnapshot").field("version", &self.snapshot.version).finish_non_exhaustive()
    }
}
