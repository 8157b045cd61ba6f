//! Outcomes as an application reports them.

use std::collections::BTreeMap;

use inroad_assignment::{TARGETING_KEY, Timestamp};
use inroad_wire::{timestamp_to_wire, v1};

/// An event that a unit produced: a purchase, a signup, a return visit. It names no experiment. The server credits
/// every experiment that has a metric on this event and has exposed the unit.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Outcome {
    units: BTreeMap<String, String>,
    event: String,
    value: f64,
    occurred_at: Option<Timestamp>,
    event_id: String,
    clock: String,
}

impl Outcome {
    /// An outcome with an event name. Add the unit with [`Outcome::targeting_key`] or [`Outcome::unit`].
    ///
    /// The outcome gets a random event id, so that sending it again changes nothing. Set an id with [`Outcome::id`] if
    /// the application itself may report the same event twice, for example after an order message was delivered twice.
    pub fn new(event: impl Into<String>) -> Self {
        Self {
            units: BTreeMap::new(),
            event: event.into(),
            value: 0.0,
            occurred_at: None,
            event_id: format!("{:032x}", rand::random::<u128>()),
            clock: String::new(),
        }
    }

    /// The unit key that evaluation contexts carry as `targetingKey`.
    pub fn targeting_key(self, key: impl Into<String>) -> Self {
        self.unit(TARGETING_KEY, key)
    }

    /// A unit of another type, by the context attribute that carries its key (`account`, `device`, …). At most 8 units.
    pub fn unit(mut self, attribute: impl Into<String>, key: impl Into<String>) -> Self {
        self.units.insert(attribute.into(), key.into());
        self
    }

    /// The value of the outcome: an amount, a duration, a score. Default: 0.
    pub fn value(mut self, value: f64) -> Self {
        self.value = value;
        self
    }

    /// When the event happened. Default: when the outcome is passed to the client.
    pub fn occurred_at(mut self, when: Timestamp) -> Self {
        self.occurred_at = Some(when);
        self
    }

    /// The event id. Outcomes with the same id are counted once.
    pub fn id(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = event_id.into();
        self
    }

    /// The time of the event was read from the manual clock of this experiment. Simulations and tests use such clocks.
    pub fn manual_clock(mut self, experiment: impl Into<String>) -> Self {
        self.clock = experiment.into();
        self
    }

    /// The event id that is sent.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// The experiment whose manual clock this outcome uses, if any.
    pub(crate) fn clock_experiment(&self) -> Option<&str> {
        Some(self.clock.as_str()).filter(|clock| !clock.is_empty())
    }

    /// Converts to the wire format; `now` is the time of the event if none was set.
    pub(crate) fn into_wire(self, now: impl FnOnce() -> Option<Timestamp>) -> v1::Outcome {
        v1::Outcome {
            occurred_at: self.occurred_at.or_else(now).map(timestamp_to_wire),
            units: self.units,
            event: self.event,
            value: self.value,
            event_id: self.event_id,
            clock: self.clock,
        }
    }
}
