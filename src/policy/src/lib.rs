//! The statistics of Inroad: from counts to a decision about traffic.
//!
//! ```text
//! counts  ──►  lift distribution  ──►  probability to be best  ──►  growth
//! tallies      e3                      draws, probability_best      growth, decide
//! ```
//!
//! An experiment has arms: arm 0 is control, arm `k` is variation `k`. Every growth tick, the policy takes the counts
//! of the experiment's primary metric, estimates how much better than control each arm is, computes how likely each arm
//! is the best one, and moves points of the line from control to the arms that deserve more traffic.
//!
//! The modules, in reading order:
//!
//! | Step | Module | Question that it answers |
//! |---|---|---|
//! | 1 | [`attribution`] | What does one unit count for? Exposures and outcomes → cells |
//! | 2 | `tallies` | What is measured in each reporting interval? [`EpochTally`], [`ArmTally`], [`Measure`] |
//! | 3 | `e3`, `e3::differences` | How much better than control is each arm? [`Estimator`] → [`Posterior`] |
//! | 4 | `draws`, `probability_best` | Which arm is best? [`NormalDraws`], [`compare`] → [`Comparison`] |
//! | | `pooled_beta` | The same with pooled Beta posteriors, for experiments that choose them |
//! | 5 | `sample_ratio` | Can the counts be trusted? [`check_sample_ratio`] |
//! | 6 | `guardrail` | Which arm does harm? [`evaluate_guardrail`] |
//! | 7 | `evidence`, `error_spending` | Is an arm better beyond chance, however often somebody looks? [`EvidenceBasis`] |
//! | 8 | `growth` | How many points does each arm get now? |
//! | 9 | `decide` | What changes at this tick? All of the above in order: [`TickInput`] → [`decide`] → [`Decision`] |
//! | | `decision_record` | Which parts of a tick are stored, so that the decision can be made again (I7)? |
//! | 10 | `summary` | What do people see? [`summarise`] → [`Summary`] |
//! | | `lift_estimate` | What can be said about a lift, without the prior? [`LiftEstimate`] |
//! | | `interval`, `anytime` | How uncertain is a lift, at one check or at all checks together? |
//! | | `alternative_estimates`, `time_blocks` | Does another method find the same lift? |
//! | | `consistency_checks` | Do outcomes arrive equally soon in all arms, and is the lift constant? |
//!
//! `normal`, `chi_squared` and `cholesky` contain the numerical functions.
//!
//! The crate is pure: it uses no clock, store, thread or network. The time and the seed are arguments, and
//! transcendental functions come from `libm`, so the same input gives the same bits on every platform (I7). Counts are
//! a pure function of the set of accepted events (I5), and so is everything computed from them.

mod alternative_estimates;
mod anytime;
pub mod attribution;
mod chi_squared;
mod cholesky;
mod conclusion;
mod consistency_checks;
mod decide;
mod decision_record;
mod draws;
mod e3;
mod error;
mod error_spending;
mod evidence;
mod growth;
mod guardrail;
mod interval;
mod lift_estimate;
mod normal;
mod pooled_beta;
mod probability_best;
mod sample_ratio;
mod summary;
mod tallies;
mod time_blocks;

pub use alternative_estimates::{AlternativeEstimates, alternative_estimates};
pub use anytime::{ALPHA, ANYTIME_RHO, anytime_half_width, confidence_sequence};
pub use chi_squared::chi_squared_tail;
pub use consistency_checks::{DelayCheck, NoveltyCheck, check_delay, check_novelty, completed_epochs};
pub use decide::{Decider, decide};
pub use decision_record::{
    ArmDecision, ArmState, BurnIn, BurnInGap, ClearlyBest, ConcludeAdvice, Decision, EvidenceBasis, Freeze,
    GuardedMetric, GuardrailDecision, HoldReason, ShipCheck, TickInput, TickScope,
};
pub use draws::{DrawsCache, MAX_LOG2_DRAWS, NormalDraws};
pub use e3::{Estimator, Posterior, Prior, estimate};
pub use error::PolicyError;
pub use evidence::{FIRST_LOOK_DAY, PLANNED_DAYS, SCHEDULED_PART};
pub use growth::EVIDENCE_SHARE;
pub use guardrail::{GuardrailEvidence, GuardrailInput, evaluate_guardrail};
pub use interval::{DISPLAYED_PART, Interval, Z_95, Z_DISPLAYED, displayed_quantile};
pub use lift_estimate::{
    DIFFERENCE_UNITS_MIN, LiftEstimate, NoRelativeLift, NotMeasured, OUTCOMES_MIN, Progress, ShownLift, UNITS_MIN,
    shown_lifts,
};
pub use normal::{normal_cdf, normal_quantile};
pub use probability_best::{Comparison, compare, potential_value_remaining};
pub use sample_ratio::{
    SampleRatio, SampleRatioRule, SrmAlarm, check_sample_ratio, evidence_in_words, p_value_in_words,
};
pub use summary::{ArmSummary, Ranking, Summary, SummaryInput, summarise};
pub use tallies::{ArmTally, BetterDirection, EpochKey, EpochTally, MAX_ARMS, Measure, Moments};
