//! What one generation of an experiment served when: its revisions, its kills and restores, and what they come to at an
//! instant. A history only grows; what makes it grow is [`crate::experiment`]'s business.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::allocation::{Allocation, Arm};
use crate::key::Salt;
use crate::line::Point;
use crate::time::Timestamp;

/// What a kill or a restore is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The whole experiment.
    Everything,
    /// One variation, never control.
    Variation(Arm),
}

/// Which variations serve control for now. Their points are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kills {
    /// The whole experiment is killed.
    pub everything: bool,
    /// The killed arms, a bit each; never control's.
    #[serde(with = "arm_list")]
    pub(crate) arms: u128,
}

/// A list of arms, where a number of 65 bits would be beyond most readers of JSON.
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
    /// Whether this arm was killed by itself.
    #[inline]
    pub fn arm(&self, arm: Arm) -> bool {
        self.arms >> arm.index() & 1 == 1
    }

    /// What a point's owner serves: itself, or control while it is killed.
    #[inline]
    pub fn served(&self, owner: Arm) -> Arm {
        if self.everything || self.arm(owner) { Arm::CONTROL } else { owner }
    }

    /// These kills after one more switch was thrown. Control cannot be killed: such a switch does nothing.
    #[must_use]
    pub fn with(mut self, target: Target, killed: bool) -> Self {
        match target {
            Target::Everything => self.everything = killed,
            Target::Variation(Arm::CONTROL) => {}
            Target::Variation(arm) if killed => self.arms |= 1 << arm.index(),
            Target::Variation(arm) => self.arms &= !(1 << arm.index()),
        }
        self
    }

    pub(crate) fn has(&self, target: Target) -> bool {
        match target {
            Target::Everything => self.everything,
            Target::Variation(arm) => self.arm(arm),
        }
    }
}

/// A kill (or restore), with its instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// When it took effect.
    pub at: Timestamp,
    /// Of what.
    pub target: Target,
    /// Killed, or restored.
    pub killed: bool,
}

/// Why a revision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first of its generation.
    Start,
    /// Somebody grew a variation by hand.
    Grown,
    /// The policy did.
    Policy,
    /// A variation was added and took its foothold.
    Added,
}

/// An immutable, numbered allocation of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// From 1, without a gap.
    pub number: u32,
    /// When it was made and published.
    pub created_at: Timestamp,
    /// When it takes effect: never before it was published, never before the revision before it (I4).
    pub effective_at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// Who owns what.
    pub allocation: Arc<Allocation>,
}

/// The instant from which a generation's line no longer decides what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// The arm that everybody was served from then on; `None` where the next generation began.
    pub shipped: Option<Arm>,
}

/// One run of an experiment under one salt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// From 1.
    pub number: u32,
    /// What sets its line apart.
    pub salt: Salt,
    /// When it began.
    pub started_at: Timestamp,
    /// At least one; by number.
    pub revisions: Vec<Revision>,
    /// Every kill and restore, in order.
    pub switches: Vec<Switch>,
    /// None while it runs; then that it was concluded, that another generation took its place, or both, in order.
    #[serde(default)]
    pub endings: Vec<Ending>,
}

impl Generation {
    /// The newest revision, in effect or not.
    pub fn latest(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// The revision in effect at an instant: the first one before any has taken effect.
    pub fn in_effect(&self, at: Timestamp) -> Option<&Revision> {
        let after = self.revisions.partition_point(|r| r.effective_at <= at);
        self.revisions.get(after.saturating_sub(1))
    }

    /// The revision with a number.
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.revisions.get((number as usize).checked_sub(1)?)
    }

    /// What is killed at an instant.
    pub fn kills(&self, at: Timestamp) -> Kills {
        let past = self.switches.iter().take_while(|s| s.at <= at);
        past.fold(Kills::default(), |kills, s| kills.with(s.target, s.killed))
    }

    /// Whether an arm, or everything, was ever killed in this generation.
    pub fn was_ever_killed(&self, arm: Arm) -> bool {
        let about = |s: &Switch| s.killed && (s.target == Target::Everything || s.target == Target::Variation(arm));
        self.switches.iter().any(about)
    }

    /// When its line ceased to decide what is served; `None` while it runs or is paused.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.endings.first().map(|ending| ending.at)
    }

    /// What a point is served at an instant by a client that is up to date, as long as no other generation has begun.
    pub fn served(&self, point: Point, at: Timestamp) -> Arm {
        let shipped = self.endings.iter().take_while(|e| e.at <= at).filter_map(|e| e.shipped).last();
        let owner = || self.in_effect(at).map_or(Arm::CONTROL, |r| r.allocation.owner(point));
        self.kills(at).served(shipped.unwrap_or_else(owner))
    }

    /// Whether whoever lives at `point` would be served `arm`, and nothing else, from `from` up to, not including,
    /// `until` or the end, whichever is sooner (STATISTICS: data rule). What lies in the future counts as far as it has
    /// been published. Nobody who comes after the end is: by then the line draws no units.
    pub fn serves_throughout(&self, point: Point, arm: Arm, from: Timestamp, until: Timestamp) -> bool {
        let until = self.ended_at().map_or(until, |end| end.min(until));
        if self.ended_at().is_some_and(|end| end <= from) {
            return false;
        }
        let within = |at: &Timestamp| *at > from && *at < until;
        let flips = self.revisions.iter().map(|r| r.effective_at).chain(self.switches.iter().map(|s| s.at));
        self.served(point, from) == arm && flips.filter(within).all(|at| self.served(point, at) == arm)
    }
}
