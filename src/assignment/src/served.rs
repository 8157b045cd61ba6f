//! What is needed of an experiment to answer "which variation?", laid out for answering: the same type, and the same
//! [`Snapshot::assign`], stand in the server and in every client that decides locally.

use std::borrow::Cow;
use std::sync::Arc;

use thiserror::Error;

use crate::allocation::{Allocation, Arm};
use crate::audience::Audience;
use crate::context::{Context, TARGETING_KEY};
use crate::definition::{Override, Payload, Pinned};
use crate::experiment::{Experiment, Kills, Status};
use crate::hash::{Digest, UnitHasher};
use crate::key::{ExperimentKey, Salt, UnitKey, VariationKey};
use crate::line::Point;
use crate::time::Timestamp;

/// Why a unit got what it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// By the line.
    Split,
    /// Pinned by an override; no exposure is to be recorded.
    Override,
    /// Not in the audience: control.
    NotInAudience,
    /// The variation, or the whole experiment, is killed: control.
    Killed,
    /// The experiment is paused: what the line says, and no exposure.
    Paused,
    /// The experiment has not started: control.
    NotStarted,
    /// The experiment is concluded: what was shipped.
    Concluded,
    /// The experiment is put away: what was shipped.
    Archived,
    /// There is no such experiment: the caller's own default.
    UnknownExperiment,
    /// The context lacks the attribute that names the unit, or it is neither text nor a whole number: control.
    NoUnit,
    /// The unit key is empty or too long: control.
    InvalidUnit,
    /// This client has not yet heard of any experiment: the caller's own default.
    NotReady,
}

impl Reason {
    /// The word for it, as it stands in logs and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Override => "override",
            Self::NotInAudience => "not_in_audience",
            Self::Killed => "killed",
            Self::Paused => "paused",
            Self::NotStarted => "not_started",
            Self::Concluded => "concluded",
            Self::Archived => "archived",
            Self::UnknownExperiment => "unknown_experiment",
            Self::NoUnit => "no_unit",
            Self::InvalidUnit => "invalid_unit",
            Self::NotReady => "not_ready",
        }
    }
}

/// A variation as it is served.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedVariation {
    /// Its name.
    pub key: VariationKey,
    /// What callers act on.
    pub payload: Payload,
}

/// An allocation with the number and the instant that it goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedRevision {
    /// Its number in its generation.
    pub number: u32,
    /// From when on it holds.
    pub effective_at: Timestamp,
    /// Who owns what.
    pub allocation: Arc<Allocation>,
}

/// The parts of a served experiment, to be checked by [`ServedExperiment::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct ServedParts {
    /// The experiment's key.
    pub key: ExperimentKey,
    /// Rises with every change; of two, the higher is the newer.
    pub version: u64,
    /// Where it is in its life.
    pub status: Status,
    /// Which generation; 0 before the first.
    pub generation: u32,
    /// The generation's salt; `None` before the first.
    pub salt: Option<Salt>,
    /// The context attribute that names the unit.
    pub unit: String,
    /// Who takes part.
    pub audience: Option<Audience>,
    /// Tried in order.
    pub overrides: Vec<Override>,
    /// Control first.
    pub variations: Vec<ServedVariation>,
    /// What is killed.
    pub kills: Kills,
    /// The revision in effect when this was made, and every later one; by number.
    pub revisions: Vec<ServedRevision>,
    /// A manual clock's reading; `None` for the wall's.
    pub manual_now: Option<Timestamp>,
}

/// Why an experiment cannot be served, or cannot take the place of the one that is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServedError {
    /// No control, an owner or an override that is no variation, or no salt where there is a line.
    #[error("experiment {0} is not whole: {1}")]
    NotWhole(ExperimentKey, &'static str),
    /// I2: within a generation, a later revision takes from a variation.
    #[error(
        "experiment {experiment}: revision {later} takes points from a variation that owned them at revision {earlier} of generation {generation}"
    )]
    NotMonotone {
        /// Which experiment.
        experiment: ExperimentKey,
        /// Its generation.
        generation: u32,
        /// The revision that is known.
        earlier: u32,
        /// The revision that was refused.
        later: u32,
    },
    /// The generation, or the revision within it, is an older one.
    #[error("experiment {0}: an older generation or revision was sent after a newer one")]
    Backwards(ExperimentKey),
    /// The same generation under another key, salt or unit, or with other variations in the old places.
    #[error("experiment {0}: key, salt, unit or variations changed within a generation")]
    Changed(ExperimentKey),
}

/// An experiment ready to answer.
#[derive(Debug, Clone)]
pub struct ServedExperiment {
    parts: ServedParts,
    hasher: Option<UnitHasher>,
    /// Whether the unit is the context's targeting key, as it mostly is: asked here once and not at every answer.
    by_targeting_key: bool,
}

/// What a unit gets, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment<'s> {
    /// The variation served; `None` only when the experiment is not known, so that the caller's default stands.
    pub variation: Option<&'s ServedVariation>,
    /// The same, as an index.
    pub arm: Arm,
    /// Why.
    pub reason: Reason,
    /// The generation that answered; 0 before the first.
    pub generation: u32,
    /// The revision that answered; 0 before the first.
    pub revision: u32,
    /// Where the unit lives, where the line was asked.
    pub digest: Option<Digest>,
    /// Whether whoever shows this to the unit is to record an exposure.
    pub records_exposure: bool,
}

impl Assignment<'_> {
    /// An answer about nothing that is known.
    pub fn unknown(reason: Reason) -> Self {
        Self {
            variation: None,
            arm: Arm::CONTROL,
            reason,
            generation: 0,
            revision: 0,
            digest: None,
            records_exposure: false,
        }
    }

    /// The unit's point, where the line was asked.
    pub fn point(&self) -> Option<Point> {
        self.digest.map(|d| d.point())
    }
}

impl ServedExperiment {
    /// Checks the parts: control is there, owners and pins are variations, revisions follow one another (I2).
    pub fn new(parts: ServedParts) -> Result<Self, ServedError> {
        let fault = |what| Err(ServedError::NotWhole(parts.key.clone(), what));
        let known = |arm: Arm| arm.index() < parts.variations.len();
        if parts.variations.is_empty() {
            return fault("it has no control");
        }
        if !parts.overrides.iter().all(|o| known(o.arm)) {
            return fault("an override pins to a variation that is not there");
        }
        if !parts.revisions.iter().all(|r| known(r.allocation.highest_arm())) {
            return fault("an allocation names an owner that is not there");
        }
        if let Status::Concluded { shipped } | Status::Archived { shipped } = parts.status
            && !known(shipped)
        {
            return fault("it ships a variation that is not there");
        }
        if parts.salt.is_none() != parts.revisions.is_empty() || parts.salt.is_none() != (parts.generation == 0) {
            return fault("a generation, a salt and a revision come together");
        }
        for pair in parts.revisions.windows(2) {
            check_succession(&parts.key, parts.generation, &pair[0], &pair[1])?;
        }
        let hasher = parts.salt.as_ref().map(|salt| UnitHasher::new(&parts.key, salt));
        let by_targeting_key = parts.unit == TARGETING_KEY;
        Ok(Self { parts, hasher, by_targeting_key })
    }

    /// What is served of an experiment at version `version`, from `wall_now` on.
    pub fn of(experiment: &Experiment, version: u64, wall_now: Timestamp) -> Result<Self, ServedError> {
        let d = &experiment.definition;
        let now = experiment.now(wall_now);
        let generation = experiment.generation();
        let revisions = generation.map_or_else(Vec::new, |g| {
            let current = g.in_effect(now).map_or(0, |r| r.number);
            let live = g.revisions.iter().filter(|r| r.number >= current);
            let serve = |r: &crate::experiment::Revision| ServedRevision {
                number: r.number,
                effective_at: r.effective_at,
                allocation: Arc::clone(&r.allocation),
            };
            live.map(serve).collect()
        });
        let serve =
            |v: &crate::definition::Variation| ServedVariation { key: v.key.clone(), payload: v.payload.clone() };
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
        })
    }

    /// What it is made of.
    pub fn parts(&self) -> &ServedParts {
        &self.parts
    }

    /// Whether this may take the place of `old`: never backwards, and within a generation only by growth (I2).
    pub fn check_follows(&self, old: &Self) -> Result<(), ServedError> {
        let (new, old) = (&self.parts, &old.parts);
        let key = || new.key.clone();
        if new.version < old.version || new.generation < old.generation {
            return Err(ServedError::Backwards(key()));
        }
        if new.generation > old.generation || old.generation == 0 {
            return Ok(());
        }
        let same_places = new.variations.len() >= old.variations.len()
            && new.variations.iter().zip(&old.variations).all(|(a, b)| a.key == b.key);
        if new.key != old.key || new.salt != old.salt || new.unit != old.unit || !same_places {
            return Err(ServedError::Changed(key()));
        }
        if new.revisions.last().map(|r| r.number) < old.revisions.last().map(|r| r.number) {
            return Err(ServedError::Backwards(key()));
        }
        for earlier in &old.revisions {
            // The first that is not older must hold all that the earlier held; those after it follow from `new`.
            if let Some(later) = new.revisions.iter().find(|r| r.number >= earlier.number) {
                check_succession(&new.key, new.generation, earlier, later)?;
            }
        }
        Ok(())
    }

    /// The revision in effect.
    #[inline]
    fn revision(&self, wall_now: impl FnOnce() -> Timestamp) -> Option<&ServedRevision> {
        let revisions = &self.parts.revisions;
        if let [only] = revisions.as_slice() {
            return Some(only);
        }
        let now = self.parts.manual_now.unwrap_or_else(wall_now);
        revisions.iter().rev().find(|r| r.effective_at <= now).or(revisions.first())
    }

    /// What the unit that `context` names gets at `wall_now`. Allocates nothing unless there is an audience, an
    /// override by expression or a numeric unit key.
    #[inline]
    pub fn assign(&self, context: &Context, wall_now: Timestamp) -> Assignment<'_> {
        self.assign_at(context, || wall_now)
    }

    /// As [`Self::assign`], for whom reading a clock costs as much as the rest: the time is asked for only while
    /// another revision is published for later.
    #[inline]
    pub fn assign_at(&self, context: &Context, wall_now: impl FnOnce() -> Timestamp) -> Assignment<'_> {
        let parts = &self.parts;
        match parts.status {
            Status::Concluded { shipped } => return self.decided(shipped, Reason::Concluded),
            Status::Archived { shipped } => return self.decided(shipped, Reason::Archived),
            Status::Draft | Status::Running | Status::Paused => {}
        }
        if parts.kills.everything {
            return self.answer(Arm::CONTROL, Reason::Killed);
        }
        let unit = match self.by_targeting_key {
            true => context.targeting_key().map(Cow::Borrowed),
            false => context.unit(&parts.unit),
        };
        let Some(unit) = unit else { return self.answer(Arm::CONTROL, Reason::NoUnit) };
        let Ok(unit) = UnitKey::parse(&unit) else { return self.answer(Arm::CONTROL, Reason::InvalidUnit) };
        if !parts.overrides.is_empty()
            && let Some(arm) = self.pinned(unit, context)
        {
            let killed = parts.kills.arm(arm);
            let reason = if killed { Reason::Killed } else { Reason::Override };
            return self.answer(parts.kills.served(arm), reason);
        }
        let (Some(hasher), Some(revision)) = (&self.hasher, self.revision(wall_now)) else {
            return self.answer(Arm::CONTROL, Reason::NotStarted);
        };
        if let Some(audience) = &parts.audience
            && !audience.contains(context)
        {
            return self.answer(Arm::CONTROL, Reason::NotInAudience);
        }
        let digest = hasher.digest(unit);
        let owner = revision.allocation.owner(digest.point());
        let arm = parts.kills.served(owner);
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
            revision: revision.number,
            digest: Some(digest),
            // Whoever first comes to a killed variation's stretch is a clean control (STATISTICS 3, positivity).
            records_exposure: running,
        }
    }

    /// The unit key that `context` holds for this experiment, where it is a good one.
    pub fn unit_of<'c>(&self, context: &'c Context) -> Option<Cow<'c, str>> {
        context.unit(&self.parts.unit).filter(|unit| UnitKey::parse(unit).is_ok())
    }

    /// What was shipped, unless it is killed.
    #[cold]
    fn decided(&self, shipped: Arm, reason: Reason) -> Assignment<'_> {
        match self.parts.kills.served(shipped) {
            served if served == shipped => self.answer(shipped, reason),
            control => self.answer(control, Reason::Killed),
        }
    }

    /// An answer that the line was not asked for, and that records no exposure.
    fn answer(&self, arm: Arm, reason: Reason) -> Assignment<'_> {
        Assignment {
            variation: self.parts.variations.get(arm.index()),
            arm,
            reason,
            generation: self.parts.generation,
            revision: self.parts.revisions.first().map_or(0, |r| r.number),
            digest: None,
            records_exposure: false,
        }
    }

    fn pinned(&self, unit: UnitKey<'_>, context: &Context) -> Option<Arm> {
        let fits = |who: &Pinned| match who {
            Pinned::Units(units) => units.contains(unit.as_str()),
            Pinned::Audience(audience) => audience.contains(context),
        };
        self.parts.overrides.iter().find(|o| fits(&o.who)).map(|o| o.arm)
    }
}

fn check_succession(
    key: &ExperimentKey,
    generation: u32,
    earlier: &ServedRevision,
    later: &ServedRevision,
) -> Result<(), ServedError> {
    let ordered = later.number > earlier.number && later.effective_at >= earlier.effective_at
        || later.number == earlier.number && later == earlier;
    if ordered && earlier.allocation.may_become(&later.allocation) {
        return Ok(());
    }
    Err(ServedError::NotMonotone { experiment: key.clone(), generation, earlier: earlier.number, later: later.number })
}

/// Every experiment that is served, at one version of the whole.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Rises with every change of anything; of two, the higher is the newer.
    pub version: u64,
    experiments: hashbrown::HashMap<ExperimentKey, Arc<ServedExperiment>, foldhash::fast::FixedState>,
}

impl Snapshot {
    /// The experiment with a key.
    #[inline]
    pub fn get(&self, key: &str) -> Option<&Arc<ServedExperiment>> {
        self.experiments.get(key)
    }

    /// All of them, in no order.
    pub fn experiments(&self) -> impl ExactSizeIterator<Item = &Arc<ServedExperiment>> {
        self.experiments.values()
    }

    /// Puts an experiment in, or in the place of its older self.
    pub fn insert(&mut self, experiment: Arc<ServedExperiment>) {
        self.experiments.insert(experiment.parts.key.clone(), experiment);
    }

    /// Takes an experiment out.
    pub fn remove(&mut self, key: &str) {
        self.experiments.remove(key);
    }

    /// What the unit that `context` names gets of one experiment.
    #[inline]
    pub fn assign(&self, key: &str, context: &Context, wall_now: Timestamp) -> Assignment<'_> {
        match self.experiments.get(key) {
            Some(experiment) => experiment.assign(context, wall_now),
            None => Assignment::unknown(Reason::UnknownExperiment),
        }
    }
}
