//! Funnels, as callers ask for them. They are counted when they are asked for, out of unit records and outcomes: which
//! outcomes a person will want to see in a row is not known while they come in.

use std::sync::Arc;

use inroad_assignment::Experiment;
use inroad_policy::attribution::funnel::{FunnelTally, TimeRange};

use crate::event::Seq;

/// Which funnel.
#[derive(Debug, Clone)]
pub struct FunnelQuestion {
    /// Of which experiment: what its line served when says who is compared.
    pub experiment: Arc<Experiment>,
    /// Which generation of it.
    pub generation: u32,
    /// The outcomes' event names, in order: 1 to [`MAX_STEPS`](inroad_policy::attribution::funnel::MAX_STEPS), and what
    /// is beyond is not counted.
    pub steps: Vec<String>,
    /// When exposures and outcomes happened that are counted; never after the generation's end.
    pub range: TimeRange,
}

/// A funnel, and how far the log it reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunnelCounts {
    /// The last event that is counted.
    pub folded: Seq,
    /// The funnel; without arms if the experiment has no such generation.
    pub tally: FunnelTally,
}
