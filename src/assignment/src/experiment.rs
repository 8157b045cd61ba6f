//! An experiment's whole life: its definition, its generations with their revisions, and every change that people or
//! the policy may make to it. Each change is a function from one experiment to the next, given the instant; whoever
//! stores them can lose nothing by comparing versions first.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::allocation::{Allocation, AllocationError, Arm};
use crate::definition::{ClockKind, Definition, GuardrailAction, Lifetime};
use crate::key::Salt;
use crate::line::Width;
use crate::settings::Policy;
use crate::time::Timestamp;

pub use crate::generation::{Cause, Ending, Generation, Kills, Revision, Switch, Target};

/// Where an experiment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Status {
    /// Not started: control for everybody but overrides.
    Draft,
    /// Serving, recording, reallocating.
    Running,
    /// Serving what it served; no exposure is recorded and no boundary moves.
    Paused,
    /// Decided: everybody gets one variation.
    Concluded {
        /// The variation that was shipped; control if it was rolled back.
        shipped: Arm,
    },
    /// Decided and put away.
    Archived {
        /// The variation that was shipped; control if it was rolled back.
        shipped: Arm,
    },
}

impl Status {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Concluded { .. } => "concluded",
            Self::Archived { .. } => "archived",
        }
    }
}

/// Why a change was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ChangeError {
    /// Not in this state.
    #[error("cannot {action} a {state} experiment: {remedy}")]
    WrongState {
        /// What was asked.
        action: &'static str,
        /// The state that it is in.
        state: &'static str,
        /// What can be done instead.
        remedy: &'static str,
    },
    /// The allocation does not allow it.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// No such variation.
    #[error("the experiment has no variation {0:?}: list them with get")]
    UnknownVariation(String),
    /// Control cannot be killed.
    #[error("control cannot be killed: it is what a kill falls back to")]
    ControlCannotBeKilled,
    /// A killed variation does not grow.
    #[error("variation {0:?} is killed: restore it first")]
    Killed(String),
    /// The update would change what cannot change while units live on the line.
    #[error("{field} cannot change after the experiment has started: {remedy}")]
    Fixed {
        /// Which field.
        field: &'static str,
        /// What can be done instead.
        remedy: &'static str,
    },
    /// A manual clock only goes forward.
    #[error(
        "the experiment's clock cannot go back: it stands at {now} and {asked} (microseconds since 1970) was asked for; read it with get and advance from there"
    )]
    ClockBackwards {
        /// Where it stands, microseconds since the epoch.
        now: i64,
        /// What was asked for.
        asked: i64,
    },
    /// The wall's clock is not ours to advance.
    #[error(
        "the experiment lives by the wall's clock: only an experiment declared with a manual clock can be advanced"
    )]
    WallClock,
}

/// A guardrail that has spoken in the running generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The metric that is harmed.
    pub metric: String,
    /// Who harms it.
    pub arm: Arm,
    /// What was done about it.
    pub action: GuardrailAction,
    /// When.
    pub at: Timestamp,
    /// ln M of the e-process then: what the harm was told by.
    pub log_evidence: f64,
}

/// An experiment with all that has happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// What was declared, as it stands now.
    pub definition: Definition,
    /// Where it is in its life.
    pub status: Status,
    /// What is killed now.
    pub kills: Kills,
    /// None before it has started.
    pub generations: Vec<Generation>,
    /// A manual clock's reading; `None` for the wall's.
    pub manual_now: Option<Timestamp>,
    /// When it was created, by the wall's clock.
    pub created_at: Timestamp,
    /// Since when the allowance of the policy's growth accrues, by the experiment's clock: its last chance to grow.
    pub last_growth_at: Option<Timestamp>,
    /// The last tick that the policy was asked about, whether it had its chance or was held up.
    #[serde(default)]
    pub last_tick_at: Option<Timestamp>,
    /// What guardrails have said in the running generation, one a metric and variation: the gravest.
    #[serde(default)]
    pub alerts: Vec<Alert>,
}

impl Experiment {
    /// A draft, created at `wall_now`.
    pub fn create(definition: Definition, wall_now: Timestamp) -> Self {
        let manual_now = match definition.clock {
            ClockKind::Wall => None,
            ClockKind::Manual(start) => Some(start.unwrap_or(wall_now)),
        };
        Self {
            definition,
            status: Status::Draft,
            kills: Kills::default(),
            generations: Vec::new(),
            manual_now,
            created_at: wall_now,
            last_growth_at: None,
            last_tick_at: None,
            alerts: Vec::new(),
        }
    }

    /// What time it is for this experiment when the wall's clock says `wall_now`.
    pub fn now(&self, wall_now: Timestamp) -> Timestamp {
        self.manual_now.unwrap_or(wall_now)
    }

    /// The generation that runs, or ran last.
    pub fn generation(&self) -> Option<&Generation> {
        self.generations.last()
    }

    /// The generation with a number.
    pub fn generation_numbered(&self, number: u32) -> Option<&Generation> {
        self.generations.get((number as usize).checked_sub(1)?)
    }

    /// The newest allocation, in effect or not; all control before the start.
    pub fn latest_allocation(&self) -> Arc<Allocation> {
        let latest = self.generation().and_then(Generation::latest);
        latest.map_or_else(|| Arc::new(Allocation::all_control()), |r| Arc::clone(&r.allocation))
    }

    /// The arm with a key.
    pub fn arm(&self, key: &str) -> Result<Arm, ChangeError> {
        self.definition.arm(key).ok_or_else(|| ChangeError::UnknownVariation(key.chars().take(160).collect()))
    }

    /// An owner that is no variation would make the experiment one that cannot be served.
    fn check_known(&self, arm: Arm) -> Result<(), ChangeError> {
        let known = self.definition.variation(arm).is_some();
        if known { Ok(()) } else { Err(ChangeError::UnknownVariation(arm.index().to_string())) }
    }

    fn name_of(&self, arm: Arm) -> String {
        self.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default()
    }

    fn wrong_state<T>(&self, action: &'static str, remedy: &'static str) -> Result<T, ChangeError> {
        Err(ChangeError::WrongState { action, state: self.status.name(), remedy })
    }

    /// Starts a draft: the first generation, under `salt`, with every variation on its foothold.
    pub fn start(&mut self, now: Timestamp, salt: Salt) -> Result<(), ChangeError> {
        match self.status {
            Status::Draft => self.begin_generation(now, salt),
            Status::Paused => self.wrong_state("start", "resume it"),
            Status::Running => self.wrong_state("start", "it is running already"),
            _ => self.wrong_state("start", "restart it"),
        }
    }

    /// Starts again under a new salt: a new generation, which forgets who has seen what. Kills are kept: what was
    /// harmful under one salt is under another.
    pub fn restart(&mut self, now: Timestamp, salt: Salt) -> Result<(), ChangeError> {
        match self.status {
            Status::Draft => self.wrong_state("restart", "start it"),
            Status::Archived { .. } => self.wrong_state("restart", "create a new experiment"),
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
            cause: Cause::Start,
            allocation: Arc::new(allocation),
        };
        let killed = (0..self.definition.variations.len()).filter_map(Arm::new).filter(|arm| self.kills.arm(*arm));
        let targets = killed.map(Target::Variation).chain(self.kills.everything.then_some(Target::Everything));
        let switches = targets.map(|target| Switch { at: now, target, killed: true }).collect();
        self.end_generation(now, None);
        let (number, revisions) = (self.generations.len() as u32 + 1, vec![first]);
        let generation = Generation { number, salt, started_at: now, revisions, switches, endings: Vec::new() };
        self.generations.push(generation);
        self.status = Status::Running;
        self.ticked(now, true);
        self.alerts.clear();
        Ok(())
    }

    /// Writes down that the newest generation's line no longer decides what is served.
    fn end_generation(&mut self, now: Timestamp, shipped: Option<Arm>) {
        if let Some(generation) = self.generations.last_mut() {
            let at = generation.endings.last().map_or(now, |ending| ending.at.max(now));
            generation.endings.push(Ending { at, shipped });
        }
    }

    /// Writes down that the policy was asked at `at`. Unless it had its chance to grow, the allowance goes on accruing.
    pub fn ticked(&mut self, at: Timestamp, had_its_chance: bool) {
        self.last_tick_at = Some(at);
        if had_its_chance {
            self.last_growth_at = Some(at);
        }
    }

    /// Remembers what a guardrail says; false if it has said so before, or worse.
    pub fn alert(&mut self, alert: Alert) -> bool {
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

    /// Whether a person has restored the variation after it was killed by itself: what kills by rule leaves it alone
    /// from then on.
    pub fn was_restored(&self, arm: Arm) -> bool {
        let killed = |s: &Switch| s.killed && s.target == Target::Variation(arm);
        !self.kills.arm(arm) && self.generation().is_some_and(|g| g.switches.iter().any(killed))
    }

    /// Stops recording and growing. Whoever has seen a variation keeps it: to take a variation away, kill it.
    pub fn pause(&mut self) -> Result<(), ChangeError> {
        match self.status {
            Status::Running => {
                self.status = Status::Paused;
                Ok(())
            }
            _ => self.wrong_state("pause", "only a running experiment can be paused"),
        }
    }

    /// Records and grows again.
    pub fn resume(&mut self, now: Timestamp) -> Result<(), ChangeError> {
        match self.status {
            Status::Paused => {
                self.status = Status::Running;
                // The pause earned nobody any growth.
                self.ticked(now, true);
                Ok(())
            }
            _ => self.wrong_state("resume", "only a paused experiment can be resumed"),
        }
    }

    /// Grows variations into control by the widths given: the one path by which boundaries move, for people and
    /// policy alike. The revision is published `now` and takes effect at `effective_at`, so that all clients flip
    /// together; later than that where an earlier revision is still to take effect then (I4).
    pub fn grow(
        &mut self,
        requests: &[(Arm, Width)],
        cause: Cause,
        now: Timestamp,
        effective_at: Timestamp,
    ) -> Result<u32, ChangeError> {
        if !matches!(self.status, Status::Running | Status::Paused) {
            return self.wrong_state("grow", "start it first, or restart it");
        }
        for (arm, width) in requests {
            self.check_known(*arm)?;
            if self.kills.arm(*arm) && *width > Width::ZERO {
                return Err(ChangeError::Killed(self.name_of(*arm)));
            }
        }
        let allocation = self.latest_allocation().grow(requests, self.definition.policy.floor())?;
        self.push_revision(allocation, cause, now, effective_at)
    }

    fn push_revision(
        &mut self,
        allocation: Allocation,
        cause: Cause,
        now: Timestamp,
        effective_at: Timestamp,
    ) -> Result<u32, ChangeError> {
        let Some(generation) = self.generations.last_mut() else {
            return self.wrong_state("grow", "start it first");
        };
        let (number, earliest) = generation.latest().map_or((1, now), |r| (r.number + 1, r.effective_at.max(now)));
        let effective_at = effective_at.max(earliest);
        let allocation = Arc::new(allocation);
        generation.revisions.push(Revision { number, created_at: now, effective_at, cause, allocation });
        Ok(number)
    }

    /// Kills or restores, at once (I8). Points are kept either way. Doing it twice is doing it once.
    pub fn switch(&mut self, target: Target, killed: bool, now: Timestamp) -> Result<(), ChangeError> {
        if target == Target::Variation(Arm::CONTROL) {
            return Err(ChangeError::ControlCannotBeKilled);
        }
        if let Target::Variation(arm) = target {
            self.check_known(arm)?;
        }
        if matches!(self.status, Status::Archived { .. }) {
            return self.wrong_state(if killed { "kill" } else { "restore" }, "it is put away for good");
        }
        if self.kills.has(target) == killed {
            return Ok(());
        }
        self.kills = self.kills.with(target, killed);
        if target == Target::Everything && !killed && self.status == Status::Running {
            // Nor did the time in which nobody was served any variation.
            self.ticked(now, true);
        }
        if let Some(generation) = self.generations.last_mut() {
            let at = generation.switches.last().map_or(now, |s| s.at.max(now));
            generation.switches.push(Switch { at, target, killed });
        }
        Ok(())
    }

    /// Whether the policy is asked at its ticks: not while nobody is served any variation.
    pub fn is_ticking(&self) -> bool {
        let has_policy = matches!(self.definition.policy, Policy::Thompson(_));
        has_policy && self.status == Status::Running && !self.kills.everything
    }

    /// Ends the experiment: from `now` on everybody gets `shipped` (control: rolled back) until it is restarted.
    pub fn conclude(&mut self, shipped: Arm, now: Timestamp) -> Result<(), ChangeError> {
        self.check_known(shipped)?;
        match self.status {
            Status::Running | Status::Paused if self.kills.served(shipped) != shipped => {
                Err(ChangeError::Killed(self.name_of(shipped)))
            }
            Status::Running | Status::Paused => {
                self.status = Status::Concluded { shipped };
                self.end_generation(now, Some(shipped));
                Ok(())
            }
            _ => self.wrong_state("conclude", "only a running or paused experiment can be concluded"),
        }
    }

    /// Puts a concluded experiment, or a draft, away. It goes on serving what was shipped.
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

    /// Moves a manual clock forward; standing still is no error, so that a caller may repeat itself.
    pub fn advance_clock(&mut self, to: Timestamp) -> Result<(), ChangeError> {
        match self.manual_now {
            None => Err(ChangeError::WallClock),
            Some(now) if to < now => Err(ChangeError::ClockBackwards { now: now.as_micros(), asked: to.as_micros() }),
            Some(_) => {
                self.manual_now = Some(to);
                Ok(())
            }
        }
    }

    /// Declares the experiment anew. A draft may change in any way but its key and clock. Once started, what the line
    /// rests on stays: unit, salt, the variations there are with their order; variations may be added at the end, and
    /// take their foothold from control.
    pub fn update(
        &mut self,
        definition: Definition,
        now: Timestamp,
        effective_at: Timestamp,
    ) -> Result<(), ChangeError> {
        let fixed = |field, remedy| Err(ChangeError::Fixed { field, remedy });
        let old = &self.definition;
        if definition.key != old.key {
            return fixed("key", "create another experiment");
        }
        if std::mem::discriminant(&definition.clock) != std::mem::discriminant(&old.clock) {
            return fixed("clock", "create another experiment");
        }
        if self.status == Status::Draft {
            // Declaring the same start once more does not take the clock back to it.
            if let ClockKind::Manual(Some(start)) = definition.clock
                && definition.clock != old.clock
            {
                self.manual_now = Some(start);
            }
            // Kills are of variations, wherever the new definition places them.
            let keyed =
                old.variations.iter().enumerate().filter(|(i, _)| Arm::new(*i).is_some_and(|arm| self.kills.arm(arm)));
            let placed = keyed.filter_map(|(_, v)| definition.arm(v.key.as_str()));
            let kept = Kills { arms: 0, ..self.kills };
            self.kills = placed.fold(kept, |kills, arm| kills.with(Target::Variation(arm), true));
            self.definition = definition;
            return Ok(());
        }
        if matches!(self.status, Status::Archived { .. }) {
            return self.wrong_state("update", "it is put away for good");
        }
        if definition.unit != old.unit {
            return fixed("unit", "create another experiment: every unit would be drawn anew");
        }
        let drawn = self.generations.first().map(|g| &g.salt);
        if definition.salt.is_some() && definition.salt != old.salt && definition.salt.as_ref() != drawn {
            return fixed("salt", "leave it as it was: only a restart sets units on another line");
        }
        if definition.policy.tick() != old.policy.tick() {
            return fixed("policy.tick", "create another experiment: its results are cut by that tick");
        }
        let (before, after) = (old.variations.len(), definition.variations.len());
        let keys = |d: &Definition| d.variations.iter().take(before).map(|v| v.key.clone()).collect::<Vec<_>>();
        if after < before || keys(old) != keys(&definition) {
            return fixed(
                "variations",
                "keep those there are, in their order, and add new ones at the end; kill one to take it out",
            );
        }
        let metrics = |d: &Definition| {
            d.metrics.iter().map(|m| (m.key.clone(), m.event.clone(), m.kind.clone(), m.window)).collect::<Vec<_>>()
        };
        if !metrics(&definition).starts_with(&metrics(old)) {
            return fixed("metrics", "keep those there are, in their order, and add new ones at the end");
        }
        if let (true, Some(_)) = (after > before, self.generation()) {
            let added = (before..after).filter_map(Arm::new);
            let requests: Vec<_> = added.map(|arm| (arm, definition.variations[arm.index()].foothold)).collect();
            let allocation = self.latest_allocation().grow(&requests, definition.policy.floor())?;
            self.push_revision(allocation, Cause::Added, now, effective_at)?;
        }
        self.definition = definition;
        Ok(())
    }

    /// Whether it is meant to be taken out of the code some day.
    pub fn is_temporary(&self) -> bool {
        self.definition.lifetime == Lifetime::Temporary
    }

    /// The instant at which the policy next has its chance, after `now`, by the experiment's clock.
    pub fn next_tick_after(&self, now: Timestamp) -> Timestamp {
        let length: Duration = self.definition.policy.tick();
        Timestamp::start_of_tick(now.tick(length).saturating_add(1), length)
    }
}
