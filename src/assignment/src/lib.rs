//! Assignment: unit key → point → bucket → variation.
//!
//! This crate decides which variation a unit gets. It is pure: it reads no clock, does no I/O, starts no task and draws
//! no random numbers. The time and the salt are arguments. The server and every SDK run the same code.
//!
//! An experiment puts its units on a line of 2^64 points. A unit's point is a hash of its key, so it never changes.
//! Each variation owns ranges of the line, called buckets. Traffic moves to a better variation by giving it points of
//! control, never points of another variation, so a unit that has seen a variation keeps it.
//!
//! Read the modules in this order:
//!
//! 1. [`key`], [`mod@line`] and [`hash`]: the keys, the points, and the hash that turns the first into the second.
//! 2. [`allocation`]: who owns which part of the line, and [`Allocation::grow`], the only function that moves a
//!    boundary.
//! 3. [`context`] and [`audience`]: what a caller knows about a unit, and the expressions that select units by it.
//! 4. [`document`], [`definition`] and [`settings`]: an experiment as people write it, the same after all checks, and
//!    the settings of its allocation policy. [`violation`] reports all errors of a document at once.
//! 5. [`generation`] and [`experiment`]: the history of one run, and the life of an experiment with every change that
//!    people and the policy can make to it.
//! 6. [`served`]: the part of an experiment that answers "which variation?", in the server and in every client.
//!
//! [`time`] has the instants and durations that the other modules use.

pub mod allocation;
pub mod audience;
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
mod short_md5;
pub mod time;
pub mod violation;

pub use allocation::{Allocation, AllocationError, Arm, Bucket};
pub use context::{Context, TARGETING_KEY, Value};
pub use definition::{Definition, DefinitionError, Direction, Guardrail, GuardrailAction, Metric, MetricKind, Payload};
pub use document::DefinitionDoc;
pub use experiment::{Experiment, Generation, GenerationEnd, KillChange, KillTarget, Kills, Revision, Status};
pub use hash::{Digest, UnitHasher, unit_digest};
pub use key::{ExperimentKey, KeyError, Salt, UnitKey, VariationKey};
pub use line::{Point, Width};
pub use served::{Assignment, Reason, ServedExperiment, Snapshot};
pub use settings::{GrowthRule, Policy, PosteriorKind, ThompsonSettings};
pub use time::Timestamp;
