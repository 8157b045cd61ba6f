//! Interval estimates as callers get them, for results and funnels alike.

use inroad_policy::ArmSummary;
use inroad_wire::v1::{Interval, LiftEstimates};

/// An interval in wire form.
pub(crate) fn interval_to_wire(interval: inroad_policy::Interval) -> Interval {
    Interval { estimate: interval.estimate, low: interval.low, high: interval.high }
}

/// All estimates of a variation's lift; none for control.
pub(crate) fn lift_estimates(summary: &ArmSummary) -> Option<LiftEstimates> {
    let alternatives = summary.alternatives.as_ref();
    Some(LiftEstimates {
        credible: Some(interval_to_wire(summary.lift?)),
        anytime: summary.anytime.map(interval_to_wire),
        period: alternatives.map(|o| interval_to_wire(o.period)),
        batched: alternatives.map(|o| interval_to_wire(o.batched)),
        difference: alternatives.map(|o| interval_to_wire(o.difference)),
        disagrees: alternatives.is_some_and(|o| o.disagrees),
    })
}
