//! Kills and restores variations, and records the alerts of guardrails that cause kills.

use super::{Alert, ChangeError, Experiment, KillChange, KillTarget, Status};
use crate::allocation::Arm;
use crate::time::Timestamp;

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
            generation.kill_changes.push(KillChange { at, target, killed });
        }
        Ok(())
    }

    /// Whether a person restored the variation after it was killed. Automatic kill rules no longer apply to it.
    pub fn was_restored(&self, arm: Arm) -> bool {
        let kills_arm = |change: &KillChange| change.killed && change.target == KillTarget::Variation(arm);
        !self.kills.is_arm_killed(arm) && self.generation().is_some_and(|g| g.kill_changes.iter().any(kills_arm))
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
