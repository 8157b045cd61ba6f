//! The result of one run: plain data, written as JSON or CSV.

use serde::Serialize;

use crate::unit_moves::UnitMoves;

/// The result of one policy in one replication.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    /// Name of the policy.
    pub policy: String,
    /// Number of the replication, from 0.
    pub replication: u32,
    /// Relative regret, 0 to 1: expected outcomes lost compared with always serving the best arm, divided by the
    /// expected outcomes of the best arm. Over all visits.
    pub regret: f64,
    /// Expected outcomes lost up to the end of each tick.
    pub forgone: Vec<f64>,
    /// Expected outcomes of always serving the best arm, over the run.
    pub possible: f64,
    /// Number of units that arrived.
    pub units: u64,
    /// Shares served, 0 to 1, by tick and arm.
    pub shares: Vec<Vec<f64>>,
    /// Number of changes of the boundaries.
    pub revisions: u32,
    /// Arms killed, and when.
    pub kills: Vec<ArmAt>,
    /// The first arm found clearly best, whether or not it was shipped.
    pub concluded: Option<ArmAt>,
    /// The first variation that a person was prompted to ship: better than control beyond chance, after a full week, with
    /// estimates that agree. Not computed for unconstrained Thompson sampling.
    pub prompted: Option<ArmAt>,
    /// Whether a prompt was ever for a variation that was not better than control at that time; none if nobody is ever
    /// asked under this policy.
    pub false_prompt: Option<bool>,
    /// The first prompt to roll back to control.
    pub roll_back: Option<ArmAt>,
    /// Whether there was a prompt to roll back although a variation was at least as good as control at that time; none
    /// if nobody is ever asked under this policy.
    pub false_roll_back: Option<bool>,
    /// The arm that was shipped, and when.
    pub shipped: Option<ArmAt>,
    /// The shipped arm, or the arm most likely to be best at the end.
    pub leader: usize,
    /// Whether the leader is the best arm at the end; none if all arms are equal.
    pub correct: Option<bool>,
    /// Whether an arm was ever found clearly best that is not best at the end. If all arms are equal, any is false.
    pub false_winner: bool,
    /// Units whose arm changed.
    pub moves: UnitMoves,
    /// Unit records dropped because the unit's arm changed within its window.
    pub dropped: u64,
    /// The estimates of every estimator at the end.
    pub estimates: Vec<NamedEstimates>,
    /// The check for a sample ratio mismatch.
    pub sample_ratio: SampleRatioResult,
    /// For each variation, the largest evidence of harm at any tick (ln M): that it does worse than control.
    pub guardrail: Vec<f64>,
}

/// An arm and the tick of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ArmAt {
    /// The arm; 0 is control.
    pub arm: usize,
    /// The event was at the beginning of this tick.
    pub tick: u32,
}

/// The estimates of one estimator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedEstimates {
    /// Name of the estimator.
    pub estimator: String,
    /// One per variation; none where the estimator has too little data.
    pub arms: Vec<Option<Estimate>>,
}

/// A relative lift over control with its 95% interval: 0.1 is 10% more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimated lift.
    pub lift: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// The true lift; none if it changes over time.
    pub truth: Option<f64>,
    /// Whether the interval contains the true lift. For the confidence sequence: whether it did at every tick.
    pub covers: Option<bool>,
}

/// The sample ratio check at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SampleRatioResult {
    /// p-value of the χ² test over all epochs.
    pub p_value: f64,
    /// Largest evidence of the sequential test. It raises the alarm at 100.
    pub evidence: f64,
    /// Whether there was ever an alarm.
    pub alarm: bool,
    /// Whether growth was ever frozen.
    pub frozen: bool,
    /// The first epoch with an alarm.
    pub first_epoch: Option<u32>,
}

impl SampleRatioResult {
    /// The result without a check: no alarm.
    pub(crate) const UNCHECKED: Self =
        Self { p_value: 1.0, evidence: 1.0, alarm: false, frozen: false, first_epoch: None };
}
