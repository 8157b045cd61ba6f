//! The part of an experiment that the audit log contains.

use inroad_assignment::experiment::{Alert, KillResult, Kills};
use inroad_assignment::{Experiment, Timestamp};
use serde::{Deserialize, Serialize};

use super::{from_json, to_json};
use crate::error::StoreError;

/// The newest revision and its shares, for the audit log.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct AllocationSummary {
    generation: u32,
    revision: u32,
    /// The share of each variation, in the definition's order, 0 to 1.
    shares: Vec<f64>,
}

impl AllocationSummary {
    pub(super) fn new(experiment: &Experiment) -> Self {
        let Some(generation) = experiment.generation() else { return Self::default() };
        let allocation = experiment.latest_allocation();
        let arms = (0..experiment.definition.variations().len()).filter_map(inroad_assignment::Arm::new);
        Self {
            generation: generation.number,
            revision: generation.latest().map_or(0, |r| r.number),
            shares: arms.map(|arm| allocation.width_of(arm).share()).collect(),
        }
    }
}

/// The part of an experiment that the audit log contains.
#[derive(Serialize, Deserialize)]
struct AuditedBody {
    definition: serde_json::Value,
    status: serde_json::Value,
    kills: Kills,
    manual_now: Option<Timestamp>,
    #[serde(default)]
    alerts: Vec<Alert>,
    #[serde(default)]
    shipped_within_audience: bool,
    line: AllocationSummary,
}

/// The results of killed variations in a stored body.
#[derive(Deserialize)]
struct StoredKillResults {
    #[serde(default)]
    kill_results: Vec<KillResult>,
}

/// The audit log's part of a stored body.
pub(super) fn audited_json(body: &str) -> Result<String, StoreError> {
    to_json(&from_json::<AuditedBody>("experiment.body", body)?)
}

/// The audit log's part of a body, with the results that this change keeps with a kill. Others are in the entries of
/// their kills.
pub(super) fn with_kept_results(
    audited: &str,
    before: &str,
    after: &[KillResult],
) -> Result<Option<String>, StoreError> {
    if after.is_empty() {
        return Ok(None);
    }
    let earlier: StoredKillResults = from_json("experiment.body", before)?;
    let new: Vec<_> = after.iter().filter(|result| !earlier.kill_results.contains(result)).collect();
    if new.is_empty() {
        return Ok(None);
    }
    let mut fields: serde_json::Map<_, _> = from_json("experiment.body", audited)?;
    let new = serde_json::to_value(new).map_err(|e| StoreError::Database(format!("cannot write JSON: {e}")))?;
    fields.insert("kill_results".to_owned(), new);
    to_json(&fields).map(Some)
}
