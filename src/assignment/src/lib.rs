//! Unit key → point → bucket → variation.
//!
//! The heart of Inroad, and pure: no clock, no I/O, no task, no randomness that was not handed in. A unit's key is
//! hashed to a [`Point`] on a line ([`hash`]); an [`Allocation`] says who owns the point; an experiment's life
//! ([`experiment`]) says what that owner serves; [`served`] is the same laid out for answering, in the server and in
//! every client. [`Allocation::grow`] is the only way by which a boundary moves, and it only ever takes from control.

pub mod allocation;
pub mod audience;
mod compress;
pub mod context;
pub mod definition;
pub mod document;
pub mod experiment;
pub mod generation;
pub mod hash;
pub mod key;
pub mod line;
pub mod served;
pub mod settings;
pub mod time;

pub use allocation::{Allocation, AllocationError, Arm, Bucket};
pub use context::{Context, TARGETING_KEY, Value};
pub use definition::{Definition, DefinitionError, Direction, Guardrail, GuardrailAction, Metric, MetricKind, Payload};
pub use document::DefinitionDoc;
pub use experiment::{Ending, Experiment, Generation, Kills, Revision, Status, Switch, Target};
pub use hash::{Digest, UnitHasher, unit_digest};
pub use key::{ExperimentKey, KeyError, Salt, UnitKey, VariationKey};
pub use line::{Point, Width};
pub use served::{Assignment, Reason, ServedExperiment, Snapshot};
pub use settings::{GrowthRule, Policy, PosteriorKind, ThompsonSettings};
pub use time::Timestamp;
