//! The history of one generation of an experiment: its revisions, kills and restores. It determines which variation is
//! served at a point and an instant. Entries are only added, never changed. The module `experiment` adds them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::allocation::{Allocation, Arm};
use crate::key::Salt;
use crate::line::Point;
use crate::time::Timestamp;

/// The target of a kill or a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KillTarget {
    /// The whole experiment.
    Everything,
    /// One variation, never control.
    Variation(Arm),
}

/// The kills in effect: of the whole experiment and of single variations. Killed variations serve control and keep
/// their points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kills {
    /// Whether the whole experiment is killed.
    pub everything: bool,
    /// The killed arms, one bit each. The bit of control is never set.
    #[serde(with = "arm_list")]
    pub(crate) arms: u128,
}

/// Serialises the bits as a list of arms, because most JSON parsers cannot read a number of 65 bits.
mod arm_list {
    use super::Arm;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(arms: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((1..=Arm::MAX_TREATED).filter(|i| arms >> i & 1 == 1).filter_map(Arm::new))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let arms = Vec::<Arm>::deserialize(deserializer)?;
        Ok(arms.iter().filter(|arm| !arm.is_control()).fold(0, |bits, arm| bits | 1 << arm.index()))
    }
}

impl Kills {
    /// Whether this arm is killed. Does not consider a kill of the whole experiment.
    #[inline]
    pub fn is_arm_killed(&self, arm: Arm) -> bool {
        self.arms >> arm.index() & 1 == 1
    }

    /// The arm served at the points of `owner`: `owner`, or control while it or the whole experiment is killed.
    #[inline]
    pub fn served_arm(&self, owner: Arm) -> Arm {
        if self.everything || self.is_arm_killed(owner) { Arm::CONTROL } else { owner }
    }

    /// These kills after one more kill or restore. Control cannot be killed: such a change does nothing.
    #[must_use]
    pub fn with_change(mut self, target: KillTarget, killed: bool) -> Self {
        match target {
            KillTarget::Everything => self.everything = killed,
            KillTarget::Variation(Arm::CONTROL) => {}
            KillTarget::Variation(arm) if killed => self.arms |= 1 << arm.index(),
            KillTarget::Variation(arm) => self.arms &= !(1 << arm.index()),
        }
        self
    }

    /// Whether this target is killed.
    pub(crate) fn contains(&self, target: KillTarget) -> bool {
        match target {
            KillTarget::Everything => self.everything,
            KillTarget::Variation(arm) => self.is_arm_killed(arm),
        }
    }
}

/// A kill or a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillChange {
    /// When it happened, later than an end of the generation before it. It takes effect at once.
    pub at: Timestamp,
    /// What was killed or restored.
    pub target: KillTarget,
    /// True for a kill, false for a restore.
    pub killed: bool,
}

/// Why a revision was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionCause {
    /// It is the first revision of its generation.
    Start,
    /// A person grew a variation.
    Grown,
    /// The policy grew variations.
    Policy,
    /// A variation was added and got its foothold.
    Added,
}

/// An immutable, numbered allocation of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The number in the generation: 1, 2, 3, …
    pub number: u32,
    /// When it was created and published.
    pub created_at: Timestamp,
    /// When it takes effect: not before it was published, and not before the previous revision (I4).
    pub effective_at: Timestamp,
    /// Why it was created.
    pub cause: RevisionCause,
    /// The owner of every point.
    pub allocation: Arc<Allocation>,
}

/// An end of a generation: from this instant its allocation no longer decides what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationEnd {
    /// When the generation ended, not before the kills and restores that preceded, except those that were stamped while the
    /// clock was wrong.
    pub at: Timestamp,
    /// The arm that the units of the audience, or all units, were served from then on; `None` if another generation started.
    pub shipped: Option<Arm>,
}

/// One run of an experiment, under one salt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The number in the experiment: 1, 2, 3, …
    pub number: u32,
    /// The salt, which gives every unit its point in this generation.
    pub salt: Salt,
    /// When it started.
    pub started_at: Timestamp,
    /// The revisions in the order of their numbers, at least one.
    pub revisions: Vec<Revision>,
    /// All kills and restores, in order.
    #[serde(rename = "switches")]
    pub kill_changes: Vec<KillChange>,
    /// Empty while the generation runs. Then the conclusion, the start of another generation, or both, in order.
    #[serde(default)]
    pub endings: Vec<GenerationEnd>,
}

impl Generation {
    /// The newest revision, even if it is not yet in effect.
    pub fn latest(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// When the newest change of this generation was made: a revision, a kill or restore, or an end.
    pub fn newest_change(&self) -> Timestamp {
        let instants = [
            self.revisions.last().map(|revision| revision.created_at),
            self.kill_changes.last().map(|change| change.at),
            self.endings.last().map(|ending| ending.at),
        ];
        instants.into_iter().flatten().fold(self.started_at, Timestamp::max)
    }

    /// The revision in effect at an instant. Before the first revision takes effect, this is the first one.
    pub fn revision_in_effect(&self, at: Timestamp) -> Option<&Revision> {
        let effective = self.revisions.partition_point(|r| r.effective_at <= at);
        self.revisions.get(effective.saturating_sub(1))
    }

    /// Whether the generation ended before the revision would have taken effect.
    pub fn ended_before(&self, revision: &Revision) -> bool {
        self.ended_at().is_some_and(|end| end < revision.effective_at)
    }

    /// The revision with this number; `None` if there is none.
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.revisions.get((number as usize).checked_sub(1)?)
    }

    /// The kills in effect at an instant.
    pub fn kills(&self, at: Timestamp) -> Kills {
        let past = self.kill_changes.iter().take_while(|change| change.at <= at);
        past.fold(Kills::default(), |kills, change| kills.with_change(change.target, change.killed))
    }

    /// Whether the arm or the whole experiment was ever killed in this generation.
    pub fn was_ever_killed(&self, arm: Arm) -> bool {
        let targets = [KillTarget::Everything, KillTarget::Variation(arm)];
        self.kill_changes.iter().any(|change| change.killed && targets.contains(&change.target))
    }

    /// When the allocation stopped deciding what is served; `None` while the generation runs or is paused.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.endings.first().map(|ending| ending.at)
    }

    /// The arm that an up-to-date client serves at a point and an instant. Valid until another generation starts.
    pub fn served_arm(&self, point: Point, at: Timestamp) -> Arm {
        let shipped = self.endings.iter().take_while(|e| e.at <= at).filter_map(|e| e.shipped).last();
        let owner = || self.revision_in_effect(at).map_or(Arm::CONTROL, |r| r.allocation.owner(point));
        self.kills(at).served_arm(shipped.unwrap_or_else(owner))
    }

    /// Whether a unit at `point` is served `arm` and nothing else from `from` up to, but not including, the earlier of
    /// `until` and the end of the generation (the data rule in docs/statistics.md). Published revisions that are not
    /// yet in effect count. False if the generation ended at or before `from`.
    pub fn serves_throughout(&self, point: Point, arm: Arm, from: Timestamp, until: Timestamp) -> bool {
        self.serves_except(point, arm, (from, until), Duration::ZERO)
    }

    /// The same, with interruptions: false only if the unit is served other arms for longer than `at_most` in all.
    pub fn serves_except(&self, point: Point, arm: Arm, period: (Timestamp, Timestamp), at_most: Duration) -> bool {
        let kills = self.kill_changes.iter().map(|change| change.at);
        self.holds_except(arm, period, at_most, kills, |at| self.served_arm(point, at))
    }

    /// The same as [`Self::serves_except`] if nothing had been killed or restored.
    pub fn owns_except(&self, point: Point, arm: Arm, period: (Timestamp, Timestamp), at_most: Duration) -> bool {
        let owner = |at| self.revision_in_effect(at).map_or(Arm::CONTROL, |r| r.allocation.owner(point));
        self.holds_except(arm, period, at_most, std::iter::empty(), owner)
    }

    /// Whether `served` is `arm` from `from` to the earlier of `until` and the end of the generation, except for at most
    /// `at_most` in all. It can change at revisions and at the instants `others`.
    fn holds_except(
        &self,
        arm: Arm,
        (from, until): (Timestamp, Timestamp),
        at_most: Duration,
        others: impl Iterator<Item = Timestamp> + Clone,
        served: impl Fn(Timestamp) -> Arm,
    ) -> bool {
        let until = self.ended_at().map_or(until, |end| end.min(until));
        if self.ended_at().is_some_and(|end| end <= from) {
            return false;
        }
        let within = |at: &Timestamp| *at > from && *at < until;
        let changes = self.revisions.iter().map(|revision| revision.effective_at).chain(others).filter(within);
        // Almost all units are served one arm only, so this is checked first, without sorting.
        if served(from) == arm && changes.clone().all(|at| served(at) == arm) {
            return true;
        }
        if at_most == Duration::ZERO {
            return false;
        }
        let mut instants: Vec<Timestamp> = changes.chain([until]).collect();
        instants.sort_unstable();
        let (mut otherwise, mut since) = (Duration::ZERO, from);
        instants.into_iter().all(|at| {
            if served(since) != arm {
                otherwise = otherwise.saturating_add(at.since(since));
            }
            since = at;
            otherwise <= at_most
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/limits.md has these sizes; the starts and owners of the buckets, 9 bytes each, are rounded up by the allocator.
    #[test]
    fn history_has_few_bytes_for_each_entry() {
        let allocation = size_of::<Allocation>() + 2 * size_of::<usize>();
        assert_eq!((size_of::<Revision>(), allocation, size_of::<KillChange>()), (32, 48, 16));
    }
}
