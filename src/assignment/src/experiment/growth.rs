//! Grows variations into control, and records when the policy runs.

use std::sync::Arc;
use std::time::Duration;

use super::{CLOCK_TOLERANCE, ChangeError, Experiment, Revision, RevisionCause, Status};
use crate::allocation::{Allocation, Arm};
use crate::line::Width;
use crate::settings::Policy;
use crate::time::Timestamp;

impl Experiment {
    /// Grows variations into control by the given widths, and returns the number of the new revision. People and the
    /// policy both use this function. The revision is published at `now` and takes effect at `effective_at`, so that
    /// all clients change at the same time. It takes effect later if a previous revision does (I4).
    pub fn grow(
        &mut self,
        requests: &[(Arm, Width)],
        cause: RevisionCause,
        now: Timestamp,
        effective_at: Timestamp,
    ) -> Result<u32, ChangeError> {
        if !matches!(self.status, Status::Running | Status::Paused) {
            return self.wrong_state("grow", "only a running or paused experiment can grow");
        }
        for (arm, width) in requests {
            self.check_variation(*arm)?;
            if self.kills.is_arm_killed(*arm) && *width > Width::ZERO {
                return Err(ChangeError::VariationKilled(self.key_of(*arm)));
            }
        }
        let allocation = self.latest_allocation().grow(requests, self.definition.policy.floor())?;
        self.push_revision(allocation, cause, now, effective_at)
    }

    /// Adds a revision with this allocation and returns its number.
    pub(super) fn push_revision(
        &mut self,
        allocation: Allocation,
        cause: RevisionCause,
        now: Timestamp,
        effective_at: Timestamp,
    ) -> Result<u32, ChangeError> {
        let Some(generation) = self.generations.last_mut() else {
            return self.wrong_state("grow", "start it first");
        };
        let (number, earliest) = generation.latest().map_or((1, now), |r| (r.number + 1, r.effective_at.max(now)));
        let effective_at = effective_at.max(earliest);
        let allocation = Arc::new(allocation);
        // The list stays in memory for as long as the experiment exists.
        generation.revisions.reserve_exact(1);
        generation.revisions.push(Revision { number, created_at: now, effective_at, cause, allocation });
        Ok(number)
    }

    /// Whether the policy runs at its ticks. It does not while the whole experiment is killed, because then no unit
    /// gets a variation.
    pub fn is_policy_active(&self) -> bool {
        let has_policy = matches!(self.definition.policy, Policy::Thompson(_));
        has_policy && self.status == Status::Running && !self.kills.everything
    }

    /// Records that the policy ran at `at`. If it could not grow a variation, the growth allowance continues to accrue.
    /// A tick is decided before it begins, so `at` can be earlier than the last tick, for example if a person resumes the
    /// experiment meanwhile. The later one then remains, or its tick would be decided twice (I7). A last tick further ahead
    /// than [`CLOCK_TOLERANCE`] was decided while the clock was wrong, and does not count.
    pub fn record_tick(&mut self, at: Timestamp, could_grow: bool) {
        let later = |last: Option<Timestamp>| last.filter(|last| *last <= at.plus(CLOCK_TOLERANCE)).max(Some(at));
        self.last_tick_at = later(self.last_tick_at);
        if could_grow {
            self.last_growth_at = later(self.last_growth_at);
        }
    }

    /// The first tick of the policy after `now`, by the experiment's clock.
    pub fn next_tick_after(&self, now: Timestamp) -> Timestamp {
        let length: Duration = self.definition.policy.tick();
        Timestamp::start_of_tick(now.tick(length).saturating_add(1), length)
    }
}
