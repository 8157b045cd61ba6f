//! What must be true, as far as it follows from what the server has acknowledged and answered.

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::{Arm, Experiment, Status};

/// An exposure: experiment, generation, unit, arm, revision.
pub(crate) type Exposure = (String, u32, String, usize, u32);

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The acknowledged exposures.
    pub(crate) exposures: BTreeSet<Exposure>,
    /// The ids of the acknowledged outcomes.
    pub(crate) outcomes: BTreeSet<String>,
    /// The variation that a unit has seen, by experiment, generation and unit.
    seen: BTreeMap<(String, u32, String), Arm>,
    /// The acknowledged kills, by experiment and arm (control for the whole experiment). Unknown after a call that
    /// failed.
    killed: BTreeSet<(String, Arm)>,
}

/// An answer to "which variation?".
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) experiment: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) generation: u32,
    pub(crate) arm: Arm,
}

impl Model {
    /// A kill or a restore was requested; `acknowledged` is false if the caller does not know whether it happened.
    pub(crate) fn set_killed(&mut self, experiment: &str, target: Arm, killed: bool, acknowledged: bool) {
        let target = (experiment.to_owned(), target);
        if killed && acknowledged {
            self.killed.insert(target);
        } else if !killed {
            self.killed.remove(&target);
        }
    }

    fn is_killed(&self, experiment: &str, arm: Arm) -> bool {
        [arm, Arm::CONTROL].iter().any(|target| self.killed.contains(&(experiment.to_owned(), *target)))
    }

    /// Checks an answer of the server, whose current state of the experiment is `experiment`.
    pub(crate) fn check_server_answer(&mut self, answer: Answer<'_>, experiment: &Experiment) -> Result<(), String> {
        self.check_answer(answer)?;
        if !answer.arm.is_control() && self.is_killed(answer.experiment, answer.arm) {
            return Err(format!("I8: the server serves a variation whose kill it has acknowledged: {answer:?}"));
        }
        let unit = (answer.experiment.to_owned(), answer.generation, answer.unit.to_owned());
        let Some(seen) = self.seen.get(&unit).copied().filter(|_| answer.arm.is_control()) else { return Ok(()) };
        let is_served = matches!(experiment.status, Status::Running | Status::Paused);
        if is_served && experiment.kills.served_arm(seen) == seen {
            return Err(format!("I2: the unit has seen variation {} and gets control: {answer:?}", seen.index()));
        }
        Ok(())
    }

    /// Checks the answer of anyone, also of a client that is cut off.
    pub(crate) fn check_answer(&mut self, answer: Answer<'_>) -> Result<(), String> {
        if answer.arm.is_control() {
            return Ok(());
        }
        let unit = (answer.experiment.to_owned(), answer.generation, answer.unit.to_owned());
        let seen = *self.seen.entry(unit).or_insert(answer.arm);
        if seen == answer.arm {
            Ok(())
        } else {
            Err(format!("I2: the unit has seen variation {} and gets another: {answer:?}", seen.index()))
        }
    }
}
