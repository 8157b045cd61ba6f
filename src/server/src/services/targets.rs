//! What a request about an experiment names: the variation that a conclusion serves, the target of a kill.

use inroad_assignment::{Arm, Experiment, KillTarget};
use inroad_wire::v1::conclude_experiment_request::Outcome;

use crate::error::ServerError;

/// The variation that a conclusion serves.
pub(super) fn concluded_arm(experiment: &Experiment, outcome: Option<Outcome>) -> Result<Arm, ServerError> {
    match outcome {
        Some(Outcome::Ship(variation)) if !variation.is_empty() => Ok(experiment.arm(&variation)?),
        Some(Outcome::RollBack(true)) => Ok(Arm::CONTROL),
        Some(Outcome::Ship(_) | Outcome::RollBack(false)) | None => Err(ServerError::Invalid {
            field: "outcome",
            message: "it is not said what units get from now on: set `ship` to a variation, or `roll_back` to true to \
                      serve control"
                .to_owned(),
        }),
    }
}

pub(super) fn kill_target(experiment: &Experiment, variation: &str) -> Result<KillTarget, ServerError> {
    match variation {
        "" => Ok(KillTarget::Everything),
        key => Ok(KillTarget::Variation(experiment.arm(key)?)),
    }
}
