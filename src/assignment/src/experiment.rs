//! The life of an experiment: its definition, its generations with their revisions, and every change that people or the
//! policy can make. A change depends only on the experiment and its arguments, so a store can apply it safely: it
//! compares versions before it saves, and repeats the change on the newer version if they differ.

mod growth;
mod kill;
mod lifecycle;
mod update;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::allocation::{Allocation, AllocationError, Arm, percent};
use crate::definition::{ClockKind, Definition, GuardrailAction, Lifetime};
use crate::time::Timestamp;

pub use kill::{FirstExposures, KillLift, KillResult};

pub use crate::generation::{Generation, GenerationEnd, KillChange, KillTarget, Kills, Revision, RevisionCause};

/// The state of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Status {
    /// Not started: all units get control, except by override.
    Draft,
    /// Serves variations, records exposures and grows variations.
    Running,
    /// Serves what it served before, but records no exposures, and the policy does not run.
    Paused,
    /// Decided: the units of the audience get one variation, or all units ([`Experiment::shipped_within_audience`]).
    Concluded {
        /// The variation that was shipped; control if it was rolled back.
        shipped: Arm,
    },
    /// Closed for good. It still serves the shipped variation.
    Archived {
        /// The variation that was shipped; control if it was rolled back.
        shipped: Arm,
    },
}

impl Status {
    /// The name of the state in lower case.
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

/// Why a change was rejected. A rejected change has no effect.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ChangeError {
    /// The state of the experiment does not allow the change.
    #[error("cannot {action} the experiment in state {state}: {remedy}")]
    WrongState {
        /// The rejected action, as a verb.
        action: &'static str,
        /// The name of the state.
        state: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The allocation does not allow the change.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The experiment has no such variation.
    #[error("the experiment has no variation {0:?}: get the experiment to see its variations")]
    UnknownVariation(String),
    /// Control cannot be killed.
    #[error("control cannot be killed, because killed variations serve it: kill another variation, or the experiment")]
    ControlCannotBeKilled,
    /// A killed variation can neither grow nor be shipped.
    #[error("variation {0:?} is killed: restore it first")]
    VariationKilled(String),
    /// No variation can be shipped while the whole experiment is killed.
    #[error("the whole experiment is killed: restore it first (`inroad experiment restore {0}`)")]
    ExperimentKilled(String),
    /// The update changes a field that is fixed after the start.
    #[error("{field} cannot change after the experiment has started: {remedy}")]
    FixedAfterStart {
        /// The field.
        field: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The edited share of a variation is smaller than its current one.
    #[error(
        "the share of variation {variation:?} cannot change to {}: it has {} of traffic now, and shares never shrink. Set a share of at least {}, leave it as it was, or kill the variation",
        percent(*share),
        percent(*current),
        rounded_up(*current)
    )]
    ShareCannotShrink {
        /// The variation.
        variation: String,
        /// The requested share of the line, 0 to 1.
        share: f64,
        /// The share of the line that it has now, 0 to 1.
        current: f64,
    },
    /// A manual clock cannot move backwards.
    #[error(
        "simulated time cannot go back from {} to {}: advance to a later time",
        time_text(*now),
        time_text(*requested)
    )]
    ClockBackwards {
        /// The reading of the clock, in microseconds since the Unix epoch.
        now: i64,
        /// The requested reading, in microseconds since the Unix epoch.
        requested: i64,
    },
    /// The experiment uses the wall clock, which cannot be advanced.
    #[error(
        "the experiment uses real time, which cannot be advanced: create one with simulated time (clock.kind = \"manual\") instead"
    )]
    NotManualClock,
}

/// The share with at most six decimals, and never less than it is.
fn rounded_up(share: f64) -> f64 {
    const PRECISION: f64 = 1e6;
    let nearest = (share * PRECISION).round() / PRECISION;
    if nearest >= share { nearest } else { (share * PRECISION).ceil() / PRECISION }
}

/// A time as people write it, or the microseconds outside the years 1970 to 9999.
fn time_text(micros: i64) -> String {
    const END_OF_YEAR_9999_MICROS: u64 = 253_402_300_800_000_000;
    match u64::try_from(micros).ok().filter(|micros| *micros < END_OF_YEAR_9999_MICROS) {
        Some(micros) => humantime::format_rfc3339(UNIX_EPOCH + Duration::from_micros(micros)).to_string(),
        None => format!("{micros} microseconds since 1970"),
    }
}

/// An alert of a guardrail in the running generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The metric that is harmed.
    pub metric: String,
    /// The variation that harms it.
    pub arm: Arm,
    /// The action that the guardrail took.
    pub action: GuardrailAction,
    /// When the alert was raised.
    pub at: Timestamp,
    /// The evidence of harm at that time: ln M of the e-process.
    pub log_evidence: f64,
}

/// An experiment with its whole history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// The current definition.
    pub definition: Definition,
    /// The current state.
    pub status: Status,
    /// The kills in effect now.
    pub kills: Kills,
    /// The generations in the order of their numbers; none before the start.
    pub generations: Vec<Generation>,
    /// The reading of the manual clock; `None` if the experiment uses the wall clock.
    pub manual_now: Option<Timestamp>,
    /// When it was created, by the wall clock.
    pub created_at: Timestamp,
    /// The last time the policy could grow a variation, by the experiment's clock. The growth that the daily limit
    /// allows accrues from then.
    pub last_growth_at: Option<Timestamp>,
    /// The last tick of the policy, by the experiment's clock, even if the policy could not grow a variation then.
    #[serde(default)]
    pub last_tick_at: Option<Timestamp>,
    /// The guardrail alerts of the running generation: for each metric and variation the one with the strongest action.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    /// The results of killed variations when they were killed, in order, of all generations.
    #[serde(default)]
    pub kill_results: Vec<KillResult>,
    /// Whether a conclusion serves its variation only to the units of the audience. False for conclusions of earlier
    /// releases, which serve it to all units.
    #[serde(default)]
    pub shipped_within_audience: bool,
}

/// How far the wall clock may be behind the newest change of an experiment before it counts as set back.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Which units get the variation that a conclusion ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShippingScope {
    /// The units of the audience. All others continue to get control.
    Audience,
    /// All units, also those that were never part of the experiment.
    Everyone,
}

impl Experiment {
    /// Creates a draft at `wall_now`.
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
            kill_results: Vec::new(),
            shipped_within_audience: false,
        }
    }

    /// The time of this experiment: the manual clock's reading, or `wall_now`. If the wall clock was set back to before
    /// the newest change of the generation, it is the time that this change had reached: the time of an experiment never
    /// goes back, because a revision that has taken effect must stay in effect (I2). Differences up to
    /// [`CLOCK_TOLERANCE`] are ignored: the clocks of machines that serve one experiment differ a little, and a revision
    /// must not take effect early because of that.
    pub fn now(&self, wall_now: Timestamp) -> Timestamp {
        let reading = self.clock_reading(wall_now);
        match self.generation().filter(|_| self.manual_now.is_none()) {
            Some(generation) if reading.plus(CLOCK_TOLERANCE) < generation.newest_change() => {
                generation.newest_change().max(generation.latest().map_or(reading, |r| r.effective_at))
            }
            _ => reading,
        }
    }

    /// The reading of this experiment's clock, even if it was set back: the manual clock's reading, or `wall_now`.
    pub fn clock_reading(&self, wall_now: Timestamp) -> Timestamp {
        self.manual_now.unwrap_or(wall_now)
    }

    /// The newest generation; `None` before the start.
    pub fn generation(&self) -> Option<&Generation> {
        self.generations.last()
    }

    /// The generation with this number; `None` if there is none.
    pub fn generation_by_number(&self, number: u32) -> Option<&Generation> {
        self.generations.get((number as usize).checked_sub(1)?)
    }

    /// The newest allocation, even if it is not yet in effect; all control before the start.
    pub fn latest_allocation(&self) -> Arc<Allocation> {
        let latest = self.generation().and_then(Generation::latest);
        latest.map_or_else(|| Arc::new(Allocation::all_control()), |r| Arc::clone(&r.allocation))
    }

    /// The arm of the variation with this key.
    ///
    /// # Errors
    /// [`ChangeError::UnknownVariation`] if there is none.
    pub fn arm(&self, key: &str) -> Result<Arm, ChangeError> {
        self.definition.arm(key).ok_or_else(|| ChangeError::UnknownVariation(key.chars().take(160).collect()))
    }

    /// Checks that the arm is a variation. An allocation with another owner could not be served.
    fn check_variation(&self, arm: Arm) -> Result<(), ChangeError> {
        let exists = self.definition.variation(arm).is_some();
        if exists { Ok(()) } else { Err(ChangeError::UnknownVariation(arm.index().to_string())) }
    }

    fn key_of(&self, arm: Arm) -> String {
        self.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default()
    }

    fn wrong_state<T>(&self, action: &'static str, remedy: &'static str) -> Result<T, ChangeError> {
        Err(ChangeError::WrongState { action, state: self.status.name(), remedy })
    }

    /// Whether the flag is expected to be removed from the code after a decision.
    pub fn is_temporary(&self) -> bool {
        self.definition.lifetime == Lifetime::Temporary
    }
}
