//! The catalogue's types: experiments with their versions, changes by people and by the policy, decisions and the audit
//! log.

use std::collections::BTreeMap;
use std::sync::Arc;

use inroad_assignment::{Experiment, ExperimentKey, Timestamp};

use crate::audit_chain::AuditHash;

/// An experiment with its version.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredExperiment {
    /// Increases with every change of the experiment.
    pub version: u64,
    /// The experiment.
    pub experiment: Arc<Experiment>,
}

/// One change of one experiment.
#[derive(Debug, Clone)]
pub struct ExperimentChange {
    /// The version on which the change is based; `None` for a new experiment.
    pub expected_version: Option<u64>,
    /// The experiment after the change.
    pub experiment: Arc<Experiment>,
    /// Who made the change.
    pub actor: String,
    /// What was done: "create", "grow", "kill", ….
    pub action: String,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// The policy's decision, if the policy made the change. A decision to change nothing is stored as well.
    pub decision: Option<DecisionRecord>,
}

impl ExperimentChange {
    /// Whether the change must be stored even if the disk is full: it stops harm, or takes that back.
    pub fn is_urgent(&self) -> bool {
        matches!(self.action.as_str(), "kill" | "restore" | "pause" | "guardrail")
    }
}

/// The policy's decision at one tick, with everything that it was based on (I7).
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRecord {
    /// The number of the generation.
    pub generation: u32,
    /// When, by the experiment's clock.
    pub at: Timestamp,
    /// The number of the revision that it made; `None` if it moved no boundary.
    pub revision: Option<u32>,
    /// The input, as JSON: tallies, settings, seed.
    pub input: String,
    /// The result, as JSON: posterior, probabilities, growth.
    pub output: String,
}

/// A decision with its id in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDecision {
    /// Rises with time.
    pub id: u64,
    /// The decision.
    pub record: DecisionRecord,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Rises with time.
    pub id: u64,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Who made the change.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// The experiment that was changed; `None` if a unit was forgotten.
    pub experiment: Option<ExperimentKey>,
    /// The parts of the experiment that changed, before the change, as JSON: definition, status, kills, alerts, simulated
    /// time, and `line` with the run, the revision and the shares. Empty for a creation and for a forgotten unit.
    pub from: String,
    /// The same after the change, with the results that a kill kept; the whole experiment for a creation. For a forgotten
    /// unit, its type and digest.
    pub to: String,
    /// What a reader of `from` and `to` needs besides.
    pub context: AuditContext,
    /// The entry's hash in the chain; `None` for entries from before the chain existed.
    pub hash: Option<AuditHash>,
}

/// Parts of an experiment that did not change, but without which its changes say little.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditContext {
    /// The keys of the variations that the change refers to by their index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variations: BTreeMap<usize, String>,
    /// For a conclusion: whether only the units of an audience get the shipped variation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipped_within_audience: Option<bool>,
}

/// Which audit entries to find. Empty fields match every entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Part of the experiment's key.
    pub experiment: String,
    /// Part of the actor's name; ASCII letters match in both cases.
    pub actor: String,
    /// The action; if empty, every action except `tick`, the automatic decisions.
    pub action: String,
}

/// Which part of a list to return, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Only entries with an id below this; `u64::MAX` for the first page.
    pub before: u64,
    /// The most entries to return.
    pub limit: usize,
    /// The most bytes that the texts of the returned entries have together. An entry that is larger is returned alone.
    pub max_bytes: usize,
}
