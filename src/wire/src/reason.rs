//! Reasons and states. Each variant is matched explicitly, so the compiler reports a new one that has no conversion.

use inroad_assignment::{Arm, Reason, Status};

use crate::error::WireError;
use crate::v1;

/// Converts a reason to its message value. [`Reason::NotReady`] exists only inside a client, so it has no message value
/// and becomes unspecified.
pub fn reason_to_wire(reason: Reason) -> v1::Reason {
    match reason {
        Reason::Split => v1::Reason::Split,
        Reason::Override => v1::Reason::Override,
        Reason::NotInAudience => v1::Reason::NotInAudience,
        Reason::Killed => v1::Reason::Killed,
        Reason::Paused => v1::Reason::Paused,
        Reason::NotStarted => v1::Reason::NotStarted,
        Reason::Concluded => v1::Reason::Concluded,
        Reason::Archived => v1::Reason::Archived,
        Reason::UnknownExperiment => v1::Reason::UnknownExperiment,
        Reason::NoUnit => v1::Reason::NoUnit,
        Reason::InvalidUnit => v1::Reason::InvalidUnit,
        Reason::NotReady => v1::Reason::Unspecified,
    }
}

/// Converts a received reason; `None` if it is unspecified or newer than this program.
pub fn reason_from_wire(reason: i32) -> Option<Reason> {
    Some(match v1::Reason::try_from(reason).ok()? {
        v1::Reason::Unspecified => return None,
        v1::Reason::Split => Reason::Split,
        v1::Reason::Override => Reason::Override,
        v1::Reason::NotInAudience => Reason::NotInAudience,
        v1::Reason::Killed => Reason::Killed,
        v1::Reason::Paused => Reason::Paused,
        v1::Reason::NotStarted => Reason::NotStarted,
        v1::Reason::Concluded => Reason::Concluded,
        v1::Reason::Archived => Reason::Archived,
        v1::Reason::UnknownExperiment => Reason::UnknownExperiment,
        v1::Reason::NoUnit => Reason::NoUnit,
        v1::Reason::InvalidUnit => Reason::InvalidUnit,
    })
}

/// Converts a status to a state. The shipped variation is sent in a separate field.
pub fn status_to_wire(status: Status) -> v1::State {
    match status {
        Status::Draft => v1::State::Draft,
        Status::Running => v1::State::Running,
        Status::Paused => v1::State::Paused,
        Status::Concluded { .. } => v1::State::Concluded,
        Status::Archived { .. } => v1::State::Archived,
    }
}

/// Converts a received state to a status; `shipped` is used by the states that ship a variation.
///
/// # Errors
/// If the state is unspecified or unknown.
pub fn status_from_wire(state: i32, shipped: Arm) -> Result<Status, WireError> {
    match v1::State::try_from(state) {
        Ok(v1::State::Draft) => Ok(Status::Draft),
        Ok(v1::State::Running) => Ok(Status::Running),
        Ok(v1::State::Paused) => Ok(Status::Paused),
        Ok(v1::State::Concluded) => Ok(Status::Concluded { shipped }),
        Ok(v1::State::Archived) => Ok(Status::Archived { shipped }),
        Ok(v1::State::Unspecified | v1::State::Ended) | Err(_) => {
            Err(WireError::field("state", format!("{state} is not a known state: update this program")))
        }
    }
}
