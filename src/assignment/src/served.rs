//! Serving: how the server and every client answer "which variation?".
//!
//! The server turns each [`Experiment`] into a [`ServedExperiment`], the part that is needed for answers, and sends all
//! of them as a [`Snapshot`] to its clients. Server and clients then run the same [`Snapshot::assign`]. It checks, in
//! this order: conclusion (and its audience), kill of the experiment, unit key, overrides, start, audience. Then it hashes the unit key to
//! a point, takes the revision in effect, and answers the owner of the point, or control if the owner is killed.
//!
//! A revision is published before it takes effect, so that all clients change at the same instant (I4). A client that
//! did not receive it continues to answer from the revision that it has:
//!
//! ```text
//! point            0                      2^63                   2^64
//!                  |                       |                       |
//! revision 1       a a a . . . . . . . . . b b b . . . . . . . . .    . is control
//! revision 2       a a a a a a . . . . . . b b b b b . . . . . . .
//! stale client           ^ ^ ^                   ^ ^                  still answers control here
//! ```
//!
//! A stale client differs from an up-to-date client only at the marked points, the ones that control gave up, and there
//! it answers control. It never answers another variation, because no variation ever loses a point. To keep this true,
//! [`ServedExperiment::check_can_replace`] rejects an update that is not growth (I2). Exposures carry the revision of
//! the answer, so the answers of stale clients can be counted. Kills are not part of a revision. They apply at once
//! (I8).

mod assignment;
mod snapshot;
mod succession;

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

pub use self::assignment::{Assignment, Reason};
pub use self::snapshot::Snapshot;
pub use self::succession::ServedError;
use self::succession::check_succession;
use crate::allocation::{Allocation, Arm};
use crate::audience::Audience;
use crate::context::{Context, TARGETING_KEY};
use crate::definition::{Override, OverrideTarget, Payload, Variation};
use crate::experiment::{Experiment, Kills, Revision, Status};
use crate::hash::UnitHasher;
use crate::key::{ExperimentKey, Salt, UnitKey, VariationKey};
use crate::time::Timestamp;

/// A variation as served.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedVariation {
    /// The key.
    pub key: VariationKey,
    /// The value that callers get.
    pub payload: Payload,
}

/// A revision as served.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedRevision {
    /// The number in the generation.
    pub number: u32,
    /// When it takes effect.
    pub effective_at: Timestamp,
    /// The owner of every point.
    pub allocation: Arc<Allocation>,
}

/// The parts of a served experiment. [`ServedExperiment::new`] checks them.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedParts {
    /// The key of the experiment.
    pub key: ExperimentKey,
    /// The version of the experiment. Every change increases it.
    pub version: u64,
    /// The state.
    pub status: Status,
    /// The number of the generation; 0 before the first.
    pub generation: u32,
    /// The salt of the generation; `None` before the first.
    pub salt: Option<Salt>,
    /// The context attribute that contains the unit key.
    pub unit: String,
    /// The units that take part; `None` for all units.
    pub audience: Option<Audience>,
    /// The overrides in the order of precedence.
    pub overrides: Vec<Override>,
    /// The variations, control first.
    pub variations: Vec<ServedVariation>,
    /// The kills in effect.
    pub kills: Kills,
    /// The revision in effect when this was created, and all later ones, in the order of their numbers.
    pub revisions: Vec<ServedRevision>,
    /// The reading of the manual clock; `None` if the experiment uses the wall clock.
    pub manual_now: Option<Timestamp>,
    /// Whether a conclusion serves its variation only to the units of the audience; if not, to all units.
    pub shipped_within_audience: bool,
}

/// An experiment that is ready to answer.
#[derive(Debug, Clone)]
pub struct ServedExperiment {
    parts: ServedParts,
    hasher: Option<UnitHasher>,
    /// Whether the unit key is the targeting key, which is usual. Computed once instead of for every answer.
    uses_targeting_key: bool,
    is_expensive: bool,
}

impl ServedExperiment {
    /// Checks the parts: control exists, all owners and overrides are variations, and the revisions only grow (I2).
    pub fn new(parts: ServedParts) -> Result<Self, ServedError> {
        let inconsistent = |what| Err(ServedError::Inconsistent(parts.key.clone(), what));
        let exists = |arm: Arm| arm.index() < parts.variations.len();
        if parts.variations.is_empty() {
            return inconsistent("it has no variations: send control first");
        }
        if !parts.overrides.iter().all(|o| exists(o.arm)) {
            return inconsistent("an override names a variation that does not exist: send all variations");
        }
        if !parts.revisions.iter().all(|r| exists(r.allocation.highest_arm())) {
            return inconsistent("an allocation names a variation that does not exist: send all variations");
        }
        if let Status::Concluded { shipped } | Status::Archived { shipped } = parts.status
            && !exists(shipped)
        {
            return inconsistent("the shipped variation does not exist: send all variations");
        }
        if parts.salt.is_none() != parts.revisions.is_empty() || parts.salt.is_none() != (parts.generation == 0) {
            return inconsistent(
                "a generation, a salt or a revision is missing: send all three, or none before the start",
            );
        }
        for pair in parts.revisions.windows(2) {
            check_succession(&parts.key, parts.generation, &pair[0], &pair[1])?;
        }
        let hasher = parts.salt.as_ref().map(|salt| UnitHasher::new(&parts.key, salt));
        let uses_targeting_key = parts.unit == TARGETING_KEY;
        let is_expensive = is_expensive(&parts);
        Ok(Self { parts, hasher, uses_targeting_key, is_expensive })
    }

    /// Creates the served form of an experiment at version `version`. It contains the revision in effect at `wall_now`
    /// and all later ones.
    pub fn from_experiment(experiment: &Experiment, version: u64, wall_now: Timestamp) -> Result<Self, ServedError> {
        let d = &experiment.definition;
        let now = experiment.now(wall_now);
        let generation = experiment.generation();
        let revisions = generation.map_or_else(Vec::new, |g| {
            let current = g.revision_in_effect(now).map_or(0, |r| r.number);
            let needed = g.revisions.iter().filter(|r| r.number >= current);
            let serve = |r: &Revision| ServedRevision {
                number: r.number,
                effective_at: r.effective_at,
                allocation: Arc::clone(&r.allocation),
            };
            needed.map(serve).collect()
        });
        let serve = |v: &Variation| ServedVariation { key: v.key.clone(), payload: v.payload.clone() };
        Self::new(ServedParts {
            key: d.key.clone(),
            version,
            status: experiment.status,
            generation: generation.map_or(0, |g| g.number),
            salt: generation.map(|g| g.salt.clone()),
            unit: d.unit.clone(),
            audience: d.audience.clone(),
            overrides: d.overrides.clone(),
            variations: d.variations.iter().map(serve).collect(),
            kills: experiment.kills,
            revisions,
            manual_now: experiment.manual_now,
            shipped_within_audience: experiment.shipped_within_audience,
        })
    }

    /// The same without the revisions that are past at `wall_now`; `None` if there are none to forget. Then the revision
    /// in effect stays in effect, also if the clock is set back later.
    #[must_use]
    pub fn without_past_revisions(&self, wall_now: Timestamp) -> Option<Self> {
        let revisions = &self.parts.revisions;
        if self.parts.manual_now.is_some() || revisions.len() < 2 {
            return None;
        }
        let in_effect = revisions.iter().rposition(|r| r.effective_at <= wall_now).filter(|index| *index > 0)?;
        let parts = ServedParts { revisions: revisions.get(in_effect..)?.to_vec(), ..self.parts.clone() };
        Some(Self { parts, ..self.clone() })
    }

    /// The same without the revisions before the first one of `old`: a revision that is no longer served was replaced by
    /// one in effect, which stays in effect, also if the clock was set back since.
    #[must_use]
    pub fn without_revisions_before(mut self, old: &Self) -> Self {
        if self.parts.generation == old.parts.generation
            && let Some(first) = old.parts.revisions.first()
            && self.parts.revisions.iter().any(|revision| revision.number >= first.number)
        {
            self.parts.revisions.retain(|revision| revision.number >= first.number);
        }
        self
    }

    /// Whether one assignment can take longer than a millisecond, because an audience or an override has a loop or a
    /// pattern, or there are many of them.
    pub fn is_expensive(&self) -> bool {
        self.is_expensive
    }

    /// The parts.
    pub fn parts(&self) -> &ServedParts {
        &self.parts
    }

    /// The revision in effect. Does not read the clock if there is only one.
    #[inline]
    fn revision(&self, wall_now: impl FnOnce() -> Timestamp) -> Option<&ServedRevision> {
        let revisions = &self.parts.revisions;
        if let [only] = revisions.as_slice() {
            return Some(only);
        }
        let now = self.parts.manual_now.unwrap_or_else(wall_now);
        revisions.iter().rev().find(|r| r.effective_at <= now).or(revisions.first())
    }

    /// The assignment of the unit in `context` at `wall_now`. Does not allocate memory, unless there is an audience, an
    /// override by expression or a numeric unit key.
    #[inline]
    pub fn assign(&self, context: &Context, wall_now: Timestamp) -> Assignment<'_> {
        self.assign_with_clock(context, || wall_now)
    }

    /// Like [`Self::assign`], but reads the clock only if it matters: while several revisions are published. Reading a
    /// clock can cost as much as the rest.
    #[inline]
    pub fn assign_with_clock(&self, context: &Context, wall_now: impl FnOnce() -> Timestamp) -> Assignment<'_> {
        self.assign_evaluating(context, wall_now, |audience| audience.contains(context))
    }

    /// Like [`Self::assign`], and adds the steps that the evaluation of audiences and overrides took.
    pub fn assign_counting_steps(&self, context: &Context, wall_now: Timestamp, steps: &Cell<u64>) -> Assignment<'_> {
        let contains = |audience: &Audience| {
            let (contains, taken) = audience.contains_counting_steps(context);
            steps.set(steps.get() + u64::from(taken));
            contains
        };
        self.assign_evaluating(context, || wall_now, contains)
    }

    #[inline]
    fn assign_evaluating(
        &self,
        context: &Context,
        wall_now: impl FnOnce() -> Timestamp,
        contains: impl Fn(&Audience) -> bool,
    ) -> Assignment<'_> {
        let parts = &self.parts;
        match parts.status {
            Status::Concluded { shipped } => return self.shipped(shipped, Reason::Concluded, contains, wall_now),
            Status::Archived { shipped } => return self.shipped(shipped, Reason::Archived, contains, wall_now),
            Status::Draft | Status::Running | Status::Paused => {}
        }
        if parts.kills.everything {
            return self.answer(Arm::CONTROL, Reason::Killed, wall_now);
        }
        let unit = match self.uses_targeting_key {
            true => context.targeting_key().map(Cow::Borrowed),
            false => context.unit(&parts.unit),
        };
        let Some(unit) = unit else { return self.answer(Arm::CONTROL, Reason::NoUnit, wall_now) };
        let Ok(unit) = UnitKey::parse(&unit) else { return self.answer(Arm::CONTROL, Reason::InvalidUnit, wall_now) };
        if !parts.overrides.is_empty()
            && let Some(arm) = self.override_arm(unit, &contains)
        {
            let killed = parts.kills.is_arm_killed(arm);
            let reason = if killed { Reason::Killed } else { Reason::Override };
            return self.answer(parts.kills.served_arm(arm), reason, wall_now);
        }
        let revision = self.revision(wall_now);
        let number = revision.map_or(0, |revision| revision.number);
        let (Some(hasher), Some(revision)) = (&self.hasher, revision) else {
            return self.answer_under(number, Arm::CONTROL, Reason::NotStarted);
        };
        if let Some(audience) = &parts.audience
            && !contains(audience)
        {
            return self.answer_under(number, Arm::CONTROL, Reason::NotInAudience);
        }
        let digest = hasher.digest(unit);
        let owner = revision.allocation.owner(digest.point());
        let arm = parts.kills.served_arm(owner);
        let running = parts.status == Status::Running;
        let reason = match (arm == owner, running) {
            (false, _) => Reason::Killed,
            (true, true) => Reason::Split,
            (true, false) => Reason::Paused,
        };
        Assignment {
            variation: parts.variations.get(arm.index()),
            arm,
            reason,
            generation: parts.generation,
            revision: number,
            digest: Some(digest),
            // A unit that is first exposed while its variation is killed is a valid control unit (docs/statistics.md).
            records_exposure: running,
        }
    }

    /// The unit key of this experiment in `context`; `None` if it is missing or not valid.
    pub fn unit_key<'c>(&self, context: &'c Context) -> Option<Cow<'c, str>> {
        context.unit(&self.parts.unit).filter(|unit| UnitKey::parse(unit).is_ok())
    }

    /// The answer after the conclusion: the shipped variation, or control if it is killed or if the unit is outside the
    /// audience that it was shipped to.
    #[cold]
    fn shipped(
        &self,
        shipped: Arm,
        reason: Reason,
        contains: impl Fn(&Audience) -> bool,
        wall_now: impl FnOnce() -> Timestamp,
    ) -> Assignment<'_> {
        let reached = !self.parts.shipped_within_audience || shipped.is_control();
        if !reached && self.parts.audience.as_ref().is_some_and(|audience| !contains(audience)) {
            return self.answer(Arm::CONTROL, Reason::NotInAudience, wall_now);
        }
        match self.parts.kills.served_arm(shipped) {
            served if served == shipped => self.answer(shipped, reason, wall_now),
            control => self.answer(control, Reason::Killed, wall_now),
        }
    }

    /// An answer that does not depend on the unit's point and records no exposure.
    fn answer(&self, arm: Arm, reason: Reason, wall_now: impl FnOnce() -> Timestamp) -> Assignment<'_> {
        self.answer_under(self.revision(wall_now).map_or(0, |revision| revision.number), arm, reason)
    }

    /// The same under the revision with this number; 0 before the start.
    fn answer_under(&self, revision: u32, arm: Arm, reason: Reason) -> Assignment<'_> {
        Assignment {
            variation: self.parts.variations.get(arm.index()),
            arm,
            reason,
            generation: self.parts.generation,
            revision,
            digest: None,
            records_exposure: false,
        }
    }

    /// The variation of the first override that matches.
    fn override_arm(&self, unit: UnitKey<'_>, contains: impl Fn(&Audience) -> bool) -> Option<Arm> {
        let matches = |target: &OverrideTarget| match target {
            OverrideTarget::Units(units) => units.contains(unit.as_str()),
            OverrideTarget::Audience(audience) => contains(audience),
        };
        self.parts.overrides.iter().find(|o| matches(&o.target)).map(|o| o.arm)
    }
}

/// The bytes of all expressions up to which an assignment without loops and patterns is cheap.
const CHEAP_EXPRESSION_BYTES: usize = 8 * 1024;

fn is_expensive(parts: &ServedParts) -> bool {
    let overrides = parts.overrides.iter().filter_map(|o| match &o.target {
        OverrideTarget::Audience(audience) => Some(audience),
        OverrideTarget::Units(_) => None,
    });
    let mut bytes = 0;
    overrides.chain(&parts.audience).any(|audience| {
        bytes += audience.source().len();
        audience.is_expensive() || bytes > CHEAP_EXPRESSION_BYTES
    })
}
