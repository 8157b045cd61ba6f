//! Events in the log: accepted, checked against the allocation, and not counted yet.

use inroad_assignment::{Arm, ExperimentKey, Timestamp};

/// A place in the log: 1 for the first event that was ever appended.
pub type Seq = u64;

/// A unit saw a variation.
#[derive(Debug, Clone, PartialEq)]
pub struct ExposureEvent {
    /// The experiment's key.
    pub experiment: ExperimentKey,
    /// The number of its generation.
    pub generation: u32,
    /// The unit's raw key; only the log contains it.
    pub unit: String,
    /// The variation that was served.
    pub arm: Arm,
    /// The revision under which it was served.
    pub revision: u32,
    /// When, by the experiment's clock.
    pub occurred_at: Timestamp,
    /// A bounded part of the context, as JSON; empty if there was none.
    pub context: String,
}

/// A unit did something.
#[derive(Debug, Clone, PartialEq)]
pub struct OutcomeEvent {
    /// Pairs of unit type and unit key; at least one; sorted by type.
    pub units: Vec<(String, String)>,
    /// The event's name.
    pub event: String,
    /// Its value in millionths, so that sums do not depend on their order (I5).
    pub value_micros: i64,
    /// When, by the clock in `clock`.
    pub occurred_at: Timestamp,
    /// Identifies the outcome among those of a unit.
    pub event_id: String,
    /// Empty for the wall clock, or the key of the experiment whose manual clock gave `occurred_at`.
    pub clock: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A unit saw a variation.
    Exposure(ExposureEvent),
    /// A unit did something.
    Outcome(OutcomeEvent),
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedEvent {
    /// Its place.
    pub seq: Seq,
    /// When it was accepted, by the server's clock.
    pub received_at: Timestamp,
    /// The event itself.
    pub event: Event,
}
