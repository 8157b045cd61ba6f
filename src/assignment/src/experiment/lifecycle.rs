//! Starts, restarts, pauses, resumes, concludes and archives an experiment, and advances its manual clock.

use std::sync::Arc;

use super::{
    CLOCK_TOLERANCE, ChangeError, Experiment, Generation, GenerationEnd, KillChange, KillTarget, Revision,
    RevisionCause, ShippingScope, Status,
};
use crate::allocation::{Allocation, Arm};
use crate::key::Salt;
use crate::line::Width;
use crate::time::Timestamp;

impl Experiment {
    /// Starts a draft: its first generation, under `salt`, where every variation has its foothold.
    pub fn start(&mut self, now: Timestamp, salt: Salt) -> Result<(), ChangeError> {
        match self.status {
            Status::Draft => self.begin_generation(now, salt),
            Status::Paused => self.wrong_state("start", "resume it instead"),
            Status::Running => self.wrong_state("start", "it is already running; restart it to start a new run"),
            Status::Concluded { .. } => self.wrong_state("start", "restart it instead"),
            Status::Archived { .. } => self.wrong_state("start", "create a new experiment instead"),
        }
    }

    /// Starts a new generation under a new salt, so every unit gets a new point. Kills are kept, because a harmful
    /// variation stays harmful under any salt.
    pub fn restart(&mut self, now: Timestamp, salt: Salt) -> Result<(), ChangeError> {
        match self.status {
            Status::Draft => self.wrong_state("restart", "start it instead"),
            Status::Archived { .. } => self.wrong_state("restart", "create a new experiment instead"),
            _ => self.begin_generation(now, salt),
        }
    }

    fn begin_generation(&mut self, now: Timestamp, salt: Salt) -> Result<(), ChangeError> {
        let footholds: Vec<Width> = self.definition.variations.iter().skip(1).map(|v| v.foothold).collect();
        let allocation = Allocation::with_footholds(&footholds, self.definition.policy.floor())?;
        let first = Revision {
            number: 1,
            created_at: now,
            effective_at: now,
            cause: RevisionCause::Start,
            allocation: Arc::new(allocation),
        };
        let arms = (0..self.definition.variations.len()).filter_map(Arm::new);
        let killed = arms.filter(|arm| self.kills.is_arm_killed(*arm));
        let targets = killed.map(KillTarget::Variation).chain(self.kills.everything.then_some(KillTarget::Everything));
        let kill_changes = targets.map(|target| KillChange { at: now, target, killed: true }).collect();
        self.end_generation(now, None);
        let (number, revisions) = (self.generations.len() as u32 + 1, vec![first]);
        let generation = Generation { number, salt, started_at: now, revisions, kill_changes, endings: Vec::new() };
        self.generations.push(generation);
        self.status = Status::Running;
        self.shipped_within_audience = false;
        (self.last_tick_at, self.last_growth_at) = (Some(now), Some(now));
        self.alerts.clear();
        Ok(())
    }

    /// Records that the allocation of the newest generation no longer decides what is served. The end is not before a kill,
    /// except one that was stamped while the clock was wrong.
    fn end_generation(&mut self, now: Timestamp, shipped: Option<Arm>) {
        if let Some(generation) = self.generations.last_mut() {
            let kills = generation.kill_changes.iter().rev().map(|change| change.at);
            let mut kills = kills.skip_while(|at| *at > now.plus(CLOCK_TOLERANCE));
            let last_kill = kills.next().map_or(now, |at| at.max(now));
            let at = generation.endings.last().map_or(last_kill, |ending| ending.at.max(last_kill));
            generation.endings.push(GenerationEnd { at, shipped });
        }
    }

    /// Stops the policy and the recording of exposures. Units keep the variation that they get. To take it from them,
    /// kill it.
    pub fn pause(&mut self) -> Result<(), ChangeError> {
        match self.status {
            Status::Running => {
                self.status = Status::Paused;
                Ok(())
            }
            _ => self.wrong_state("pause", "only a running experiment can be paused"),
        }
    }

    /// Starts the policy and the recording of exposures again.
    pub fn resume(&mut self, now: Timestamp) -> Result<(), ChangeError> {
        match self.status {
            Status::Paused => {
                self.status = Status::Running;
                // The growth allowance does not accrue during a pause.
                self.record_tick(now, true);
                Ok(())
            }
            _ => self.wrong_state("resume", "only a paused experiment can be resumed"),
        }
    }

    /// Concludes the experiment: from `now` on the units in `scope` get `shipped`, or control for a roll back, until a
    /// restart. Without an audience the scope makes no difference.
    pub fn conclude(&mut self, shipped: Arm, scope: ShippingScope, now: Timestamp) -> Result<(), ChangeError> {
        self.check_variation(shipped)?;
        match self.status {
            Status::Running | Status::Paused if self.kills.everything && !shipped.is_control() => {
                Err(ChangeError::ExperimentKilled(self.definition.key().to_string()))
            }
            Status::Running | Status::Paused if self.kills.is_arm_killed(shipped) => {
                Err(ChangeError::VariationKilled(self.key_of(shipped)))
            }
            Status::Running | Status::Paused => {
                self.status = Status::Concluded { shipped };
                self.shipped_within_audience = scope == ShippingScope::Audience;
                self.end_generation(now, Some(shipped));
                Ok(())
            }
            _ => self.wrong_state("conclude", "only a running or paused experiment can be concluded"),
        }
    }

    /// Archives a concluded experiment or a draft. It continues to serve the shipped variation, a draft control.
    pub fn archive(&mut self) -> Result<(), ChangeError> {
        match self.status {
            Status::Concluded { shipped } => {
                self.status = Status::Archived { shipped };
                Ok(())
            }
            Status::Draft => {
                self.status = Status::Archived { shipped: Arm::CONTROL };
                Ok(())
            }
            _ => self.wrong_state("archive", "conclude it first"),
        }
    }

    /// Advances the manual clock. Advancing to the current reading is not an error, so that a caller can repeat a
    /// request.
    pub fn advance_clock(&mut self, to: Timestamp) -> Result<(), ChangeError> {
        match self.manual_now {
            None => Err(ChangeError::NotManualClock),
            Some(now) if to < now => {
                Err(ChangeError::ClockBackwards { now: now.as_micros(), requested: to.as_micros() })
            }
            Some(_) => {
                self.manual_now = Some(to);
                Ok(())
            }
        }
    }
}
