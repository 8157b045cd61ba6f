//! Kills and restores variations, and records the alerts of guardrails that cause kills.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Alert, ChangeError, Experiment, KillChange, KillTarget, Kills, Status};
use crate::allocation::Arm;
use crate::time::Timestamp;

/// The smallest difference of two instants.
const SMALLEST_STEP: Duration = Duration::from_micros(1);
/// The most results of killed variations that an experiment keeps; the oldest are removed first.
const MAX_KILL_RESULTS: usize = 100;

/// An estimated lift with its 95% interval, relative: 0.1 means ten per cent more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KillLift {
    /// The estimate.
    pub estimate: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The results of a variation at the moment before it was killed. A kill removes records from the comparison, and with
/// them the reason for the kill, so they are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KillResult {
    /// The number of the generation.
    pub generation: u32,
    /// The variation that was killed.
    pub arm: Arm,
    /// When it was killed, by the experiment's clock.
    pub at: Timestamp,
    /// Who killed it: a person, or the policy.
    pub actor: String,
    /// The metric of the results: the guardrail's, or the primary metric.
    pub metric: String,
    /// Distinct units that had been exposed to the variation.
    pub exposed: u64,
    /// Unit records of the variation that were counted.
    pub units: u64,
    /// Those of `units` with an outcome.
    pub converted: u64,
    /// Those of `units` whose window was still open: a kill removes them from the comparison. Counted by reporting
    /// interval, so it may include some whose window had just ended.
    pub open: u64,
    /// The average of a unit; none without units.
    pub mean: Option<f64>,
    /// The average of a unit in control; none without units.
    pub control_mean: Option<f64>,
    /// The lift over control with the always-valid interval; none without information.
    pub lift: Option<KillLift>,
    /// The probability that the variation is worse than control by this metric.
    pub p_worse: Option<f64>,
    /// The first exposures of the reporting interval in which the kill happened, up to then: the sample ratio check
    /// needs them, because a kill changes the shares that are served. None for kills by earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_exposures: Option<FirstExposures>,
}

/// The units that were first exposed in one reporting interval under one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstExposures {
    /// The calendar tick.
    pub tick: i64,
    /// The number of the revision.
    pub revision: u32,
    /// The units of each arm, control first.
    pub by_arm: Vec<u64>,
    /// The kills in effect until then.
    pub kills: Kills,
}

impl Experiment {
    /// Kills or restores a variation or the whole experiment, at once (I8). Points are kept. Repeating the change has
    /// no effect.
    pub fn set_killed(&mut self, target: KillTarget, killed: bool, now: Timestamp) -> Result<(), ChangeError> {
        if target == KillTarget::Variation(Arm::CONTROL) {
            return Err(ChangeError::ControlCannotBeKilled);
        }
        if let KillTarget::Variation(arm) = target {
            self.check_variation(arm)?;
        }
        if matches!(self.status, Status::Archived { .. }) {
            return self.wrong_state(
                if killed { "kill" } else { "restore" },
                "archived experiments cannot change; create a new experiment",
            );
        }
        if self.kills.contains(target) == killed {
            return Ok(());
        }
        self.kills = self.kills.with_change(target, killed);
        if target == KillTarget::Everything && !killed && self.status == Status::Running {
            // The growth allowance does not accrue while no unit gets a variation.
            self.record_tick(now, true);
        }
        if let Some(generation) = self.generations.last_mut() {
            let at = generation.kill_changes.last().map_or(now, |change| change.at.max(now));
            // A manual clock may not have advanced since the end. Times alone say what was served until then.
            let after_end = generation.endings.last().map(|ending| ending.at.plus(SMALLEST_STEP));
            let at = after_end.map_or(at, |earliest| earliest.max(at));
            // The list stays in memory for as long as the experiment exists.
            generation.kill_changes.reserve_exact(1);
            generation.kill_changes.push(KillChange { at, target, killed });
        }
        Ok(())
    }

    /// Whether a person restored the variation after it was killed. Automatic kill rules no longer apply to it.
    pub fn was_restored(&self, arm: Arm) -> bool {
        let kills_arm = |change: &KillChange| change.killed && change.target == KillTarget::Variation(arm);
        !self.kills.is_arm_killed(arm) && self.generation().is_some_and(|g| g.kill_changes.iter().any(kills_arm))
    }

    /// Keeps the results of a variation that is being killed.
    pub fn record_kill_result(&mut self, result: KillResult) {
        self.kill_results.push(result);
        let excess = self.kill_results.len().saturating_sub(MAX_KILL_RESULTS);
        self.kill_results.drain(..excess);
    }

    /// Records an alert. Returns false if the same metric and variation already have an alert with the same or a
    /// stronger action.
    pub fn record_alert(&mut self, alert: Alert) -> bool {
        match self.alerts.iter_mut().find(|known| known.metric == alert.metric && known.arm == alert.arm) {
            Some(known) if known.action >= alert.action => false,
            Some(known) => {
                *known = alert;
                true
            }
            None => {
                self.alerts.push(alert);
                true
            }
        }
    }
}
