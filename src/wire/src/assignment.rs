//! Assignments: the responses to "which variation?".

use inroad_assignment::Assignment;

use crate::payload::payload_to_wire;
use crate::reason::reason_to_wire;
use crate::v1;

/// Converts an assignment to a response. `exposure_recorded` is false: the code that records the exposure sets it.
pub fn assignment_to_wire(assignment: &Assignment<'_>) -> v1::AssignResponse {
    v1::AssignResponse {
        variation: assignment.variation.map(|v| v.key.as_str().to_owned()).unwrap_or_default(),
        payload: assignment.variation.map(|v| payload_to_wire(&v.payload)),
        reason: reason_to_wire(assignment.reason).into(),
        generation: assignment.generation,
        revision: assignment.revision,
        point: assignment.point().map(|p| p.get()),
        exposure_recorded: false,
    }
}
