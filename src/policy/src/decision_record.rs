//! The input and the result of a tick, as they are stored beside a revision: enough to make the same decision again
//! (I7). These types are plain data. Their field names are the names in the stored JSON, so renamed fields keep the old
//! name there.

use inroad_assignment::{GuardrailAction, ThompsonSettings, Timestamp, Width};
use serde::{Deserialize, Serialize};

use crate::e3::Posterior;
use crate::error::PolicyError;
use crate::sample_ratio::SampleRatioRule;
use crate::tallies::{BetterDirection, EpochTally, MAX_ARMS, Measure};

/// The present state of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmState {
    /// Points that the arm owns.
    pub owned: Width,
    /// Points that the arm had at the start (initial share); ignored for control.
    pub foothold: Width,
    /// Whether the arm is killed and serves control.
    pub killed: bool,
    /// Whether a person restored the arm after a kill. Automatic rules do not kill it again.
    #[serde(rename = "spared", default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_exempt: bool,
    /// Whether a guardrail has raised an alert for the arm at any time in this generation.
    #[serde(rename = "harmed", default, skip_serializing_if = "std::ops::Not::not")]
    pub guardrail_alerted: bool,
}

/// Everything that a decision depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TickInput {
    /// The instant of the decision.
    pub now: Timestamp,
    /// When the generation began.
    pub generation_started_at: Timestamp,
    /// When boundaries last moved or were first allowed to move. The growth allowance accrues from here.
    pub last_growth_at: Timestamp,
    /// Seed of the draws. Experiments that tick together should have the same seed, so that they share the draws.
    pub seed: u64,
    /// The policy's settings.
    pub settings: ThompsonSettings,
    /// One per arm, control first. Together they own the whole line.
    pub arms: Vec<ArmState>,
    /// Points that control always keeps. This value applies, not `settings.floor`.
    pub floor: Width,
    /// Points that growth leaves to control until a variation is better than control beyond chance, usually
    /// [`EVIDENCE_SHARE`](crate::EVIDENCE_SHARE): with a tiny control, a comparison takes too long. Decisions made before
    /// this existed have none.
    #[serde(default, skip_serializing_if = "is_zero_width")]
    pub evidence_share: Width,
    /// Whether events are known to be late.
    pub data_late: bool,
    /// Which checks find a sample ratio mismatch.
    #[serde(default)]
    pub sample_ratio: SampleRatioRule,
    /// What the primary metric measures.
    #[serde(default)]
    pub measure: Measure,
    /// Which values of it are better.
    #[serde(default)]
    pub better: BetterDirection,
    /// Which parts of the policy this tick runs.
    #[serde(default)]
    pub scope: TickScope,
    /// The generation's tallies of the primary metric, in any order.
    pub epochs: Vec<EpochTally>,
    /// The first exposures for the sample ratio check, where a kill or a restore within an epoch makes them differ from
    /// those of `epochs`. Empty if they do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposures: Vec<EpochTally>,
    /// The guardrail metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guardrails: Vec<GuardedMetric>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn is_zero_width(width: &Width) -> bool {
    *width == Width::ZERO
}

/// The parts of the policy that a tick runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickScope {
    /// The whole policy.
    #[default]
    Growth,
    /// Guardrails only: between growth ticks, and for experiments whose boundaries people move.
    Guardrails,
}

/// A guardrail metric and its tallies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardedMetric {
    /// Key of the metric.
    pub metric: String,
    /// What it measures.
    pub measure: Measure,
    /// Which values are better.
    pub better: BetterDirection,
    /// Allowed degradation relative to control, 0 to below 1.
    pub margin: f64,
    /// The strongest action that it may take automatically.
    pub action: GuardrailAction,
    /// The generation's tallies of the metric, in any order.
    pub epochs: Vec<EpochTally>,
}

impl TickInput {
    /// Refuses an input that no experiment can have.
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

/// The result of a tick, with the numbers behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Why nothing may change, if something is wrong with the data.
    pub frozen: Option<Freeze>,
    /// Log-lifts over control, as measured.
    pub posterior: Posterior,
    /// One per arm, control first.
    pub arms: Vec<ArmDecision>,
    /// Arms to kill because they are credibly worse than control.
    pub kill: Vec<usize>,
    /// Whether the burn-in is over.
    pub burn_in: BurnIn,
    /// The arm to conclude with once all conditions of `ship` hold: the leader, if choosing it costs little. Records made
    /// before `clearly_best` existed have it only for an arm whose probability to be best was large.
    pub conclude: Option<ConcludeAdvice>,
    /// Whether that arm is ready to ship. Only with `conclude`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship: Option<ShipCheck>,
    /// The arm that is better than every other live arm beyond chance, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clearly_best: Option<ClearlyBest>,
    /// The guardrails that raised an alert, by metric and arm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guardrails: Vec<GuardrailDecision>,
    /// Why no arm grows; none if an arm grows.
    pub hold: Option<HoldReason>,
}

/// The conditions for shipping an arm, or for rolling back to control. An arm is ready to ship if all are true.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ShipCheck {
    /// The generation has run for a full week, so every weekday is included.
    pub full_week: bool,
    /// The alternative estimates agree with E3.
    #[serde(rename = "opinions_agree")]
    pub alternatives_agree: bool,
    /// The arm is better than control beyond chance; to roll back, control is better than every variation. The
    /// probability of ever reporting a variation that is no better than control is at most 5%, however many variations
    /// there are and however often it is checked; so is that of rolling back although a variation is no worse.
    pub beyond_chance: bool,
    /// What `beyond_chance` rests on; none if it is false, and in records made before this existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<EvidenceBasis>,
    /// No guardrail has raised an alert for the arm in this generation.
    #[serde(rename = "harmless", default = "default_true")]
    pub no_guardrail_alert: bool,
    /// The sample ratio check has never raised an alarm in this generation.
    #[serde(rename = "ratio_sound", default = "default_true")]
    pub sample_ratio_ok: bool,
}

/// What a statement about a winner rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EvidenceBasis {
    /// A scheduled look.
    ScheduledLook {
        /// The day of the look, counted from the start of the generation.
        day: u16,
    },
    /// The always-valid interval, now.
    AlwaysValid,
}

/// The arm that is better than every other live arm, control included. The probability that this is ever reported of
/// an arm that is not the only best one is at most 5%, however many arms there are and however often it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearlyBest {
    /// The arm; it can be control.
    pub arm: usize,
    /// What the statement rests on: the latest look that one of its comparisons needed.
    pub basis: EvidenceBasis,
}

/// The value of a condition in records that were made before it existed.
fn default_true() -> bool {
    true
}

impl ShipCheck {
    /// Whether all conditions are met.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.full_week
            && self.alternatives_agree
            && self.beyond_chance
            && self.no_guardrail_alert
            && self.sample_ratio_ok
    }
}

/// An alert of a guardrail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardrailDecision {
    /// Key of the metric.
    pub metric: String,
    /// The arm that does harm.
    pub arm: usize,
    /// ln M of the e-process.
    pub log_evidence: f64,
    /// The action taken: at most the one that the guardrail may take, and a kill only with enough evidence for a kill.
    pub action: GuardrailAction,
}

impl Decision {
    /// Whether any arm grows.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.arms.iter().any(|arm| arm.grow_by > Width::ZERO)
    }

    /// Whether the growth allowance accrues from this tick on. Not if events were late or the allowance was still too
    /// small: the next tick may then use what this one could not.
    #[must_use]
    pub fn resets_growth_allowance(&self) -> bool {
        self.frozen != Some(Freeze::DataLate) && self.hold != Some(HoldReason::Accruing)
    }

    /// The arms that guardrails kill, without repetitions.
    pub fn guardrail_kills(&self) -> impl Iterator<Item = usize> + '_ {
        let kills = |guard: &&GuardrailDecision| guard.action == GuardrailAction::Kill;
        let mut arms: Vec<usize> = self.guardrails.iter().filter(kills).map(|guard| guard.arm).collect();
        arms.sort_unstable();
        arms.dedup();
        arms.into_iter()
    }
}

/// The numbers of one arm in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmDecision {
    /// Probability to be the best live arm, 0..=1; 0 for killed arms.
    pub p_best: f64,
    /// Probability to be better than control; ½ for control.
    pub p_above_control: f64,
    /// Expected loss of choosing the arm, on the log scale, at least 0; none for killed arms.
    pub expected_loss: Option<f64>,
    /// The share that the policy aims for, 0..=1, never below the share that the arm owns. Control's is the rest.
    pub target_share: f64,
    /// Points that the arm takes from control now.
    pub grow_by: Width,
}

/// Why a tick changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Freeze {
    /// Events are late, and those that arrived may be a biased part.
    DataLate,
    /// The exposures do not match the served shares (sample ratio mismatch).
    SampleRatioMismatch {
        /// Peak ln M of the continuous check.
        log_evidence: f64,
        /// χ² p-value over all epochs.
        p_value: f64,
    },
}

/// The state of the burn-in period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BurnIn {
    /// Whether every condition is met.
    pub met: bool,
    /// The first condition that is not met.
    pub missing: Option<BurnInGap>,
}

/// A burn-in condition that is not met yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BurnInGap {
    /// The generation is too young.
    Age {
        /// Its age in microseconds.
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

/// The arm to conclude the experiment with, once there is enough evidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConcludeAdvice {
    /// The arm; it can be control.
    pub arm: usize,
    /// Its probability to be best.
    pub p_best: f64,
    /// Expected loss of choosing it, as a share of conversions, 0..=1.
    pub loss: f64,
}

/// Why no arm grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The tick is frozen, see [`Decision::frozen`].
    Frozen,
    /// The burn-in is not over, see [`Decision::burn_in`].
    BurnIn,
    /// The tick ran guardrails only, see [`TickScope`].
    NotDue,
    /// No live arm that is likely better than control is below its target share.
    #[serde(rename = "nobody_deserves")]
    NoArmDeservesMore,
    /// Control is at its floor, or at the share that it keeps until a variation is better beyond chance.
    NoHeadroom,
    /// The step is below the minimum step of a revision.
    BelowMinStep,
    /// The allowance since the last growth is below the minimum step; it accrues until it is large enough.
    Accruing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_fields_and_variants_keep_their_stored_names() {
        let arm = ArmState {
            owned: Width::ZERO,
            foothold: Width::ZERO,
            killed: false,
            kill_exempt: true,
            guardrail_alerted: true,
        };
        let arm = serde_json::to_value(arm).unwrap();
        assert_eq!((&arm["spared"], &arm["harmed"]), (&true.into(), &true.into()));
        let ship =
            r#"{"full_week":true,"opinions_agree":false,"beyond_chance":true,"harmless":false,"ratio_sound":true}"#;
        let read: ShipCheck = serde_json::from_str(ship).unwrap();
        assert!(!read.alternatives_agree && !read.no_guardrail_alert && read.sample_ratio_ok);
        assert_eq!(serde_json::to_string(&read).unwrap(), ship);
        assert_eq!(serde_json::to_value(HoldReason::NoArmDeservesMore).unwrap(), "nobody_deserves");
        assert_eq!(serde_json::to_value(BetterDirection::Higher).unwrap(), "more");
        assert_eq!(serde_json::to_value(BetterDirection::Lower).unwrap(), "less");
    }
}
