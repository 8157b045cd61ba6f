//! Allocations and revisions, and the buckets that they consist of.

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Allocation, Arm, Bucket, Generation, Point, Revision};

use crate::error::WireError;
use crate::time::timestamp_to_wire;
use crate::v1;

/// Converts an allocation to its buckets, in the order of the line.
pub fn allocation_to_wire(allocation: &Allocation) -> Vec<v1::Bucket> {
    let send = |b: Bucket| v1::Bucket { start: b.start.get(), owner: arm_to_wire(b.owner) };
    allocation.buckets().map(send).collect()
}

/// Converts received buckets to an allocation.
///
/// # Errors
/// If the buckets do not give every point exactly one owner (I1), or an owner's index is above 64.
pub fn allocation_from_wire(buckets: &[v1::Bucket]) -> Result<Allocation, WireError> {
    if buckets.len() > Allocation::MAX_BUCKETS {
        return Err(WireError::OverLimit {
            field: "buckets".to_owned(),
            what: "has too many entries",
            max: Allocation::MAX_BUCKETS,
            remedy: "conclude or restart the experiment",
        });
    }
    let mut read = Vec::with_capacity(buckets.len());
    for (i, b) in buckets.iter().enumerate() {
        let owner = arm_from_wire(b.owner, || format!("buckets[{i}].owner"))?;
        read.push(Bucket { start: Point::new(b.start), owner });
    }
    Allocation::new(read).map_err(|e| WireError::field("buckets", e))
}

/// Converts an arm to its index.
pub(crate) fn arm_to_wire(arm: Arm) -> u32 {
    u32::try_from(arm.index()).unwrap_or(u32::MAX)
}

/// Converts a received index to an arm; `field` names the field for the error.
pub(crate) fn arm_from_wire(index: u32, field: impl FnOnce() -> String) -> Result<Arm, WireError> {
    usize::try_from(index).ok().and_then(Arm::new).ok_or_else(|| {
        WireError::field(field(), format!("there is no variation {index}: control is 0, the others are 1 to 64"))
    })
}

/// The name of a cause in the API.
pub fn cause_name(cause: RevisionCause) -> &'static str {
    match cause {
        RevisionCause::Start => "start",
        RevisionCause::Grown => "grown",
        RevisionCause::Policy => "policy",
        RevisionCause::Added => "added",
    }
}

/// Converts a revision of a generation for lists and explanations. `has_decision` is true if a decision record exists for it.
pub fn revision_to_wire(generation: &Generation, revision: &Revision, has_decision: bool) -> v1::Revision {
    v1::Revision {
        number: revision.number,
        effective_at: Some(timestamp_to_wire(revision.effective_at)),
        buckets: allocation_to_wire(&revision.allocation),
        created_at: Some(timestamp_to_wire(revision.created_at)),
        cause: cause_name(revision.cause).to_owned(),
        has_decision,
        never_in_effect: generation.ended_before(revision),
    }
}
