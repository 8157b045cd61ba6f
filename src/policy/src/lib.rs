//! Tallies → posterior → probability best → growth: the statistics of Inroad, and nothing else.
//!
//! The crate is pure: values in, values out. It knows no clock, no store, no thread and no network; the time and the
//! seed are arguments, and transcendental functions come from `libm`, so that the same input gives the same bits on
//! every platform (I7). Nor does it know units or events: it sees only counts that are themselves a pure function of
//! the set of accepted events (I5).
//!
//! Read it downwards:
//!
//! 1. [`EpochTally`]: who was exposed and what became of them, by calendar tick and arm; [`Measure`]: what of it counts.
//! 2. [`Estimator`]: the epoch-conditional log-lift of every arm over control (E3), as a [`Posterior`].
//! 3. [`NormalPoints`] and [`compare`]: seeded draws of that posterior, P(best) and expected loss.
//! 4. [`check_sample_ratio`]: may the counts be believed at all? [`guardrail`]: who does harm?
//! 5. [`decide`]: what a tick does about it — freeze, kill, grow, conclude — as a [`Decision`] that can be replayed.
//! 6. [`summarise`]: what people are shown, with [`opinions`], [`confidence_sequence`], [`check_delay`] and
//!    [`check_novelty`] to doubt it by.
//!
//! Arm 0 is control, everywhere; arm `k` is the experiment's variation `k`.

mod anytime;
pub mod attribution;
mod best;
mod beta;
mod blocks;
mod checks;
mod decide;
mod dense;
mod draws;
mod e3;
mod error;
mod gamma;
mod growth;
mod guardrail;
mod normal;
mod opinion;
mod record;
mod srm;
mod summary;
mod tallies;

pub use anytime::{ALPHA, ANYTIME_RHO, anytime_half_width, confidence_sequence};
pub use best::{Comparison, compare, potential_value_remaining};
pub use checks::{DelayCheck, NoveltyCheck, check_delay, check_novelty, mature};
pub use decide::{Decider, decide};
pub use draws::{MAX_LOG2_DRAWS, NormalPoints, PointsCache};
pub use e3::{Estimator, Posterior, Prior, estimate};
pub use error::PolicyError;
pub use guardrail::{GuardrailEvidence, GuardrailQuestion, guardrail};
pub use normal::{normal_cdf, normal_quantile};
pub use opinion::{Opinion, Z_95, opinions};
pub use record::{
    ArmDecision, ArmState, BurnIn, BurnInGap, Conclude, Decision, Freeze, GuardedMetric, GuardrailDecision, HoldReason,
    MAX_ARMS, Scope, Ship, TickInput,
};
pub use srm::{SampleRatio, SrmAlarm, check_sample_ratio};
pub use summary::{ArmSummary, Interval, Summary, SummaryQuestion, shown_lift, summarise};
pub use tallies::{ArmTally, Better, EpochKey, EpochTally, Measure, Moments};
