//! What goes into a tick and what comes out of it, as stored beside a revision: enough to make the same decision again
//! (I7). Plain data; it knows neither the store it is kept in nor the allocation that a growth step is carried out on.

use inroad_assignment::{GuardrailAction, ThompsonSettings, Timestamp, Width};
use serde::{Deserialize, Serialize};

use crate::{Better, EpochTally, Measure, PolicyError, Posterior};

/// The most arms an experiment may have, control included.
pub const MAX_ARMS: usize = 65;

/// One arm as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmState {
    /// Points that the arm owns.
    pub owned: Width,
    /// Points that it was given to begin with; control's does not matter.
    pub foothold: Width,
    /// Whether the arm serves control at present.
    pub killed: bool,
    /// Whether a person restored it after a kill: then no rule kills it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spared: bool,
    /// Whether a guardrail has spoken against it in this generation, whatever it says now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub harmed: bool,
}

/// Everything that a decision is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TickInput {
    /// The instant of the decision.
    pub now: Timestamp,
    /// When the generation began.
    pub generation_started_at: Timestamp,
    /// When boundaries last moved, or when they were first free to: the growth allowance accrues from here.
    pub last_growth_at: Timestamp,
    /// Seed of the draws. Experiments that tick together should share it: they then share the points.
    pub seed: u64,
    /// The policy's settings.
    pub settings: ThompsonSettings,
    /// One per arm, control first; together they own the whole line.
    pub arms: Vec<ArmState>,
    /// Points of control's that nothing can eat. It is this that is kept, not `settings.floor`.
    pub floor: Width,
    /// Whether events are known to be missing.
    pub data_late: bool,
    /// How the decision metric is measured.
    #[serde(default)]
    pub measure: Measure,
    /// Which way it is better.
    #[serde(default)]
    pub better: Better,
    /// What may be done now.
    #[serde(default)]
    pub scope: Scope,
    /// The generation's tallies of the decision metric, in any order.
    pub epochs: Vec<EpochTally>,
    /// The metrics that no arm may harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guardrails: Vec<GuardedMetric>,
}

/// How much of the policy a tick goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of it.
    #[default]
    Growth,
    /// Guardrails alone: between growth ticks, and where people move the boundaries.
    Guardrails,
}

/// A metric that no arm may harm, and its tallies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardedMetric {
    /// Its key.
    pub metric: String,
    /// How it is measured.
    pub measure: Measure,
    /// Which way it is better.
    pub better: Better,
    /// How much worse than control is borne, relative, 0 to below 1.
    pub margin: f64,
    /// How far it may go by itself.
    pub action: GuardrailAction,
    /// The generation's tallies of it, in any order.
    pub epochs: Vec<EpochTally>,
}

impl TickInput {
    /// Refuse an input that no experiment can be in.
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let arms = self.arms.len();
        if !(2..=MAX_ARMS).contains(&arms) {
            return Err(PolicyError::ArmCount { expected: arms.clamp(2, MAX_ARMS), found: arms });
        }
        if self.arms[0].killed {
            return Err(PolicyError::ControlKilled);
        }
        let owned = self.arms.iter().map(|arm| arm.owned.get()).sum();
        if owned != Width::LINE.get() {
            return Err(PolicyError::NotAPartition { owned });
        }
        let settings = &self.settings;
        let unit = 0.0..=1.0;
        let share = |name, value: f64| if unit.contains(&value) { Ok(()) } else { Err(PolicyError::Setting { name }) };
        share("daily_cap", settings.daily_cap)?;
        share("daily_cap_conclude", settings.daily_cap_conclude)?;
        share("min_step", settings.min_step)?;
        share("kill_probability", settings.kill_probability)?;
        share("conclude_probability", settings.conclude_probability)?;
        share("conclude_loss", settings.conclude_loss)
    }
}

/// What a tick decided, and the numbers it was decided by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Why nothing may move, whatever the numbers say.
    pub frozen: Option<Freeze>,
    /// Log-lifts over control.
    pub posterior: Posterior,
    /// One per arm, control first.
    pub arms: Vec<ArmDecision>,
    /// Arms to kill: credibly worse than control.
    pub kill: Vec<usize>,
    /// Whether the burn-in is over.
    pub burn_in: BurnIn,
    /// The arm to put before a person, if one is clearly best.
    pub conclude: Option<Conclude>,
    /// Whether that arm may be shipped: what a person should wait for. With `conclude` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship: Option<Ship>,
    /// The guardrails that speak, by metric and arm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guardrails: Vec<GuardrailDecision>,
    /// Why nothing grows; none when something does.
    pub hold: Option<HoldReason>,
}

/// What speaks for shipping an arm beside its P(best). A person is prompted when all hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ship {
    /// The generation has seen every day of the week.
    pub full_week: bool,
    /// The period-weighted estimate agrees with E3.
    pub opinions_agree: bool,
    /// The confidence sequence against control excludes no benefit. Over all arms together, an arm that is no better is
    /// put before a person with a probability of at most 5%, however often one looks.
    pub beyond_chance: bool,
    /// No guardrail has spoken against it in this generation.
    #[serde(default = "unheard")]
    pub harmless: bool,
    /// Exposures fall as the shares say, as far as the continuous check has ever been able to tell.
    #[serde(default = "unheard")]
    pub ratio_sound: bool,
}

/// What records say of that which was not asked when they were made.
fn unheard() -> bool {
    true
}

impl Ship {
    /// Whether nothing is missing.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.full_week && self.opinions_agree && self.beyond_chance && self.harmless && self.ratio_sound
    }
}

/// A guardrail that speaks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardrailDecision {
    /// The metric's key.
    pub metric: String,
    /// Which arm does harm.
    pub arm: usize,
    /// ln M of the e-process.
    pub log_evidence: f64,
    /// What is done: at most what the metric's guardrail may do, and a kill only at the evidence for one.
    pub action: GuardrailAction,
}

impl Decision {
    /// Whether any arm grows.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.arms.iter().any(|arm| arm.grow_by > Width::ZERO)
    }

    /// Whether the policy had its chance to grow. Not where events were late, nor where its allowance still accrues: then
    /// the next tick may use what this one could not.
    #[must_use]
    pub fn had_its_chance(&self) -> bool {
        self.frozen != Some(Freeze::DataLate) && self.hold != Some(HoldReason::Accruing)
    }

    /// The arms that guardrails kill, each once.
    pub fn guardrail_kills(&self) -> impl Iterator<Item = usize> + '_ {
        let kills = |guard: &&GuardrailDecision| guard.action == GuardrailAction::Kill;
        let mut arms: Vec<usize> = self.guardrails.iter().filter(kills).map(|guard| guard.arm).collect();
        arms.sort_unstable();
        arms.dedup();
        arms.into_iter()
    }
}

/// One arm in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmDecision {
    /// Probability that it is the best live arm, 0..=1; 0 for killed arms.
    pub p_best: f64,
    /// Probability that it is better than control; ½ for control.
    pub p_above_control: f64,
    /// What choosing it is expected to forgo, log scale, ≥ 0; none for killed arms.
    pub expected_loss: Option<f64>,
    /// Where the policy would have its share in the end, 0..=1; never below what it owns. Control's is what the others
    /// leave.
    pub target_share: f64,
    /// Points to take from control now.
    pub grow_by: Width,
}

/// Why a tick does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Freeze {
    /// Events are missing; those at hand may be a biased part.
    DataLate,
    /// Exposures do not fall as the shares say.
    SampleRatioMismatch {
        /// Peak ln M of the continuous check.
        log_evidence: f64,
        /// χ² p-value over all epochs.
        p_value: f64,
    },
}

/// The state of the burn-in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BurnIn {
    /// Whether every condition is met.
    pub met: bool,
    /// The first condition that is missing.
    pub missing: Option<BurnInGap>,
}

/// A burn-in condition that is not met yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BurnInGap {
    /// The generation is too young.
    Age {
        /// Its age, in microseconds.
        age_us: i64,
    },
    /// A live arm has too few records.
    Units {
        /// The arm with the fewest.
        arm: usize,
        /// How many it has.
        found: u64,
    },
    /// A live arm has too few conversions.
    Conversions {
        /// The arm with the fewest.
        arm: usize,
        /// How many it has.
        found: u64,
    },
}

/// An arm that is clearly best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Conclude {
    /// Which; control can be it.
    pub arm: usize,
    /// Its probability of being best.
    pub p_best: f64,
    /// The share of conversions that choosing it is expected to forgo, 0..=1.
    pub loss: f64,
}

/// Why nothing grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// See [`Decision::frozen`].
    Frozen,
    /// See [`Decision::burn_in`].
    BurnIn,
    /// Only guardrails were asked: see [`Scope`].
    NotDue,
    /// No live arm that is likely better than control owns less than it deserves.
    NobodyDeserves,
    /// Control is at its floor.
    NoHeadroom,
    /// The step would be smaller than a revision is worth.
    BelowMinStep,
    /// What may grow since the last chance is less than a revision is worth: it accrues until it is worth one.
    Accruing,
}
