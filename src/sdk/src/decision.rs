//! What a caller is given: an answer that keeps the snapshot it came from alive, and a snapshot pinned for many
//! questions.

use std::sync::Arc;

use arc_swap::Guard;
use inroad_assignment::{Arm, Assignment, Context, Digest, Payload, Point, Reason, ServedExperiment};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::state::State;

/// Which variation a unit gets, and why. It borrows nothing and costs nothing to keep for a while, but it holds on to
/// the snapshot it was made from: take the value out of it rather than store it.
///
/// The typed readers never fail: when there is no variation (the experiment is not known, or no snapshot has come
/// yet), or its payload has another type, they return the default.
pub struct Decision {
    state: Guard<Arc<State>>,
    place: u32,
    arm: Arm,
    reason: Reason,
    generation: u32,
    revision: u32,
    digest: Option<Digest>,
    records_exposure: bool,
}

impl Decision {
    #[inline]
    pub(crate) fn of(state: Guard<Arc<State>>, experiment: &str, context: &Context, clock: &Clock) -> Self {
        let (place, answer) = state.evaluate(experiment, context, || clock.now());
        let Assignment { arm, reason, generation, revision, digest, records_exposure, .. } = answer;
        Self { state, place, arm, reason, generation, revision, digest, records_exposure }
    }

    /// The experiment, as it is served.
    #[inline]
    pub(crate) fn experiment(&self) -> Option<&ServedExperiment> {
        self.state.at(self.place)
    }

    fn served(&self) -> Option<&inroad_assignment::served::ServedVariation> {
        self.experiment()?.parts().variations.get(self.arm.index())
    }

    /// The variation's key; `None` when the experiment is not known, or nothing is yet.
    pub fn variation(&self) -> Option<&str> {
        self.served().map(|v| v.key.as_str())
    }

    /// The variation's payload; `None` when the experiment is not known, or nothing is yet.
    pub fn payload(&self) -> Option<&Payload> {
        self.served().map(|v| &v.payload)
    }

    /// The payload if it is a boolean, or else the default.
    #[inline]
    pub fn boolean(&self, default: bool) -> bool {
        if let Some(Payload::Boolean(value)) = self.payload() { *value } else { default }
    }

    /// The payload if it is a number, or else the default.
    #[inline]
    pub fn number(&self, default: f64) -> f64 {
        if let Some(Payload::Number(value)) = self.payload() { *value } else { default }
    }

    /// The payload if it is text, or else the default.
    #[inline]
    pub fn string<'a>(&'a self, default: &'a str) -> &'a str {
        if let Some(Payload::String(value)) = self.payload() { value } else { default }
    }

    /// The payload if it is an object, or else the default.
    #[inline]
    pub fn object<'a>(&'a self, default: &'a Map<String, Value>) -> &'a Map<String, Value> {
        if let Some(Payload::Object(value)) = self.payload() { value } else { default }
    }

    /// The variation as an index, 0 for control.
    pub fn arm(&self) -> Arm {
        self.arm
    }

    /// Why the unit gets this.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The generation that answered; 0 before the first.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The revision that answered; 0 before the first.
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// Where the unit lives, where the line was asked.
    pub fn point(&self) -> Option<Point> {
        self.digest.map(|d| d.point())
    }

    /// The whole digest behind the point.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whether showing this to the unit is an exposure.
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

/// One version of everything, pinned: ask it many questions, all answered from the same state, without looking for the
/// newest one each time. It records no exposures. Let go of it soon: it does not move on.
pub struct Pinned<'c> {
    pub(crate) state: Guard<Arc<State>>,
    pub(crate) clock: &'c Clock,
}

impl Pinned<'_> {
    /// What a unit gets of one experiment, borrowed from the snapshot.
    #[inline]
    pub fn evaluate(&self, experiment: &str, context: &Context) -> Assignment<'_> {
        self.state.evaluate(experiment, context, || self.clock.now()).1
    }

    /// The version of the snapshot; 0 before the first.
    pub fn version(&self) -> u64 {
        self.state.version
    }

    /// An experiment as it is served.
    pub fn get(&self, experiment: &str) -> Option<&ServedExperiment> {
        self.state.get(experiment).map(|e| &**e)
    }

    /// All experiments, by key.
    pub fn experiments(&self) -> impl ExactSizeIterator<Item = &ServedExperiment> {
        self.state.experiments().iter().map(|e| &**e)
    }
}

impl std::fmt::Debug for Pinned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("version", &self.state.version).finish_non_exhaustive()
    }
}
