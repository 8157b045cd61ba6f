//! Events as the log keeps them: accepted, checked against the line, and not yet counted.

use inroad_assignment::{Arm, ExperimentKey, Timestamp};

/// A place in the log: 1 for the first event ever.
pub type Seq = u64;

/// A unit saw a variation.
#[derive(Debug, Clone, PartialEq)]
pub struct ExposureEvent {
    /// Which experiment.
    pub experiment: ExperimentKey,
    /// Which generation of it.
    pub generation: u32,
    /// The unit's raw key; the log is the only place that keeps it.
    pub unit: String,
    /// What it was served.
    pub arm: Arm,
    /// Under which revision.
    pub revision: u32,
    /// When, by the experiment's clock.
    pub occurred_at: Timestamp,
    /// A bounded part of the context, as JSON; empty if there was none.
    pub context: String,
}

/// A unit did something.
#[derive(Debug, Clone, PartialEq)]
pub struct OutcomeEvent {
    /// Unit keys by type; at least one; sorted by type.
    pub units: Vec<(String, String)>,
    /// The event's name.
    pub event: String,
    /// Its value in millionths, so that sums do not depend on their order (I5).
    pub value_micros: i64,
    /// When, by the clock named.
    pub occurred_at: Timestamp,
    /// What makes it itself.
    pub event_id: String,
    /// Empty for the wall's clock, or the key of the experiment whose manual clock it was read from.
    pub clock: String,
}

/// Something that happened.
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
    /// What happened.
    pub event: Event,
}
