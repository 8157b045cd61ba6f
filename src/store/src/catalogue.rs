//! The catalogue's rows: what people and the policy decided, by whom, and what it was before.

use std::sync::Arc;

use inroad_assignment::{Experiment, ExperimentKey, Timestamp};

/// An experiment with the version that it stands at.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Rises with every change of it.
    pub version: u64,
    /// The experiment.
    pub experiment: Arc<Experiment>,
}

/// One change of one experiment.
#[derive(Debug, Clone)]
pub struct Change {
    /// The version that the change was made against; `None` for a new experiment.
    pub expected_version: Option<u64>,
    /// What it becomes.
    pub experiment: Arc<Experiment>,
    /// Who did it.
    pub actor: String,
    /// What was done: "create", "grow", "kill", ….
    pub action: String,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// What the policy decided, where it did; kept also where it decided to let things be.
    pub decision: Option<DecisionRecord>,
}

/// What the policy decided at one tick, with all that it knew (I7).
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRecord {
    /// Of which generation.
    pub generation: u32,
    /// When, by the experiment's clock.
    pub at: Timestamp,
    /// The revision that it made, if it moved a boundary.
    pub revision: Option<u32>,
    /// The input, as JSON: tallies, settings, seed.
    pub input: String,
    /// The outcome, as JSON: posterior, probabilities, growth.
    pub output: String,
}

/// A decision as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDecision {
    /// Rises by time.
    pub id: u64,
    /// The decision.
    pub record: DecisionRecord,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Rises by time.
    pub id: u64,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To which experiment; to none where a unit was forgotten.
    pub experiment: Option<ExperimentKey>,
    /// The experiment's definition, status and kills before, as JSON; empty at its creation.
    pub from: String,
    /// The same after; of a unit that was forgotten, its type and digest.
    pub to: String,
}

/// Which entries of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only those with an id below this; `u64::MAX` for the first page.
    pub before: u64,
    /// How many at the most.
    pub limit: usize,
}
