//! Funnel queries and their results. A funnel is counted from unit records and outcomes when it is requested, because
//! it is not known in advance which sequences of outcomes people will want to see.

use std::sync::Arc;

use inroad_assignment::Experiment;
use inroad_policy::attribution::funnel::{FunnelTally, TimeRange};

use crate::cancellation::Cancellation;
use crate::event::Seq;

/// A request for a funnel.
#[derive(Debug, Clone)]
pub struct FunnelQuery {
    /// The experiment, whose serving history determines which units are compared.
    pub experiment: Arc<Experiment>,
    /// The number of its generation.
    pub generation: u32,
    /// The event names of the outcomes, in order: 1 to [`MAX_STEPS`](inroad_policy::attribution::funnel::MAX_STEPS);
    /// further ones are not counted.
    pub steps: Vec<String>,
    /// Only exposures and outcomes in this range are counted, and none after the generation's end.
    pub range: TimeRange,
    /// Stops the count once the caller has left.
    pub cancellation: Cancellation,
}

/// A counted funnel, and the place in the log up to which it counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunnelCounts {
    /// The place of the last counted event.
    pub folded: Seq,
    /// The funnel; it has no arms if the experiment does not have the generation.
    pub tally: FunnelTally,
}
