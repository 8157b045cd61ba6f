//! What one run came to. Plain data, to be written as JSON or CSV.

use serde::Serialize;

use crate::crowd::Moves;

/// One policy in one replication.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    /// The policy's name.
    pub policy: String,
    /// Which replication, from 0.
    pub replication: u32,
    /// Outcomes forgone against always serving the best arm, as a part of those that would have had: 0 to 1. In
    /// expectation, over all visits.
    pub regret: f64,
    /// Outcomes forgone up to the end of each tick, in expectation.
    pub forgone: Vec<f64>,
    /// Outcomes that the best arm would have had over the run, in expectation.
    pub possible: f64,
    /// Units that came.
    pub units: u64,
    /// Shares served, each 0 to 1, per tick and arm.
    pub shares: Vec<Vec<f64>>,
    /// Changes of boundaries.
    pub revisions: u32,
    /// Arms killed.
    pub kills: Vec<ArmAt>,
    /// The arm that was first found clearly best, whatever was done about it.
    pub concluded: Option<ArmAt>,
    /// The first variation that a person was prompted to ship: clearly best, after a full week, with estimates that agree
    /// and a confidence sequence above 0. Under growth, and whoever ships when prompted.
    pub prompted: Option<ArmAt>,
    /// Whether a variation was ever prompted that is no better than control at that time.
    pub false_prompt: bool,
    /// The arm that was given everything.
    pub shipped: Option<ArmAt>,
    /// The arm that is most likely best in the end, or was shipped.
    pub leader: usize,
    /// Whether that is the best arm at the end; none if all arms are alike.
    pub correct: Option<bool>,
    /// Whether an arm was found clearly best that is not; where all are alike, whether any was.
    pub false_winner: bool,
    /// Who was moved.
    pub moves: Moves,
    /// Records that the data rule dropped.
    pub dropped: u64,
    /// What each estimator says in the end.
    pub estimates: Vec<NamedEstimates>,
    /// Whether exposures fell as the shares say.
    pub sample_ratio: SampleRatioResult,
    /// For each treated arm, the largest evidence (ln M) at any tick that it does worse than control.
    pub guardrail: Vec<f64>,
}

/// An arm and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ArmAt {
    /// Which arm.
    pub arm: usize,
    /// At the beginning of which tick.
    pub tick: u32,
}

/// One estimator's answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedEstimates {
    /// The estimator's name.
    pub estimator: String,
    /// One per treated arm; none where it has no answer.
    pub arms: Vec<Option<Estimate>>,
}

/// A relative lift over control with its 95% interval: 0.1 is ten per cent more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The middle.
    pub lift: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The true lift; none where it changes over time.
    pub truth: Option<f64>,
    /// Whether the interval holds the truth; of the confidence sequence, whether it did at every look.
    pub covers: Option<bool>,
}

/// The sample ratio check at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SampleRatioResult {
    /// χ² p-value over all epochs.
    pub p_value: f64,
    /// Largest evidence of the alarm: from 100 on it speaks.
    pub evidence: f64,
    /// Whether it ever came to an alarm.
    pub alarm: bool,
    /// Whether it ever came to a freeze.
    pub frozen: bool,
    /// The first epoch with an alarm.
    pub first_epoch: Option<u32>,
}
