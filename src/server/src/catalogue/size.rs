//! The limit on the size of one experiment: it must fit into messages, and twice into an entry of the audit log.

use inroad_assignment::{Experiment, Timestamp};
use inroad_wire::definition::experiment_to_wire;
use prost::Message;

use crate::config::MAX_EXPERIMENT_BYTES;
use crate::error::ServerError;

/// Bytes in MiB.
pub(super) fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Refuses an experiment that is too large for messages and for the audit log. `snapshot_bytes` is its size in a
/// snapshot.
///
/// # Errors
/// [`ServerError::Invalid`].
pub(super) fn check_experiment_size(
    experiment: &Experiment,
    snapshot_bytes: usize,
    now: Timestamp,
) -> Result<(), ServerError> {
    let message_bytes = experiment_to_wire(experiment, 0, now).encoded_len();
    let json_bytes = serde_json::to_vec(&experiment.definition)?.len();
    let bytes = snapshot_bytes.max(message_bytes).max(json_bytes);
    if bytes <= MAX_EXPERIMENT_BYTES {
        return Ok(());
    }
    let message = format!(
        "experiment {:?} has {:.2} MiB, over the limit of {:.2} MiB for one experiment: shorten its payloads and its \
         lists of units. Store large content elsewhere and put its id in the payload; select many units by an attribute",
        experiment.definition.key().as_str(),
        mib(bytes),
        mib(MAX_EXPERIMENT_BYTES)
    );
    Err(ServerError::Invalid { field: "experiment", message })
}
