//! What a unit did, as an application tells it.

use std::collections::BTreeMap;

use inroad_assignment::{TARGETING_KEY, Timestamp};
use inroad_wire::{timestamp_to_wire, v1};

/// A unit did something: it bought, signed up, came back. It names no experiment; every experiment that has a metric on
/// the event, and has exposed the unit, is credited.
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
    /// An event by its name. Say who did it with [`Outcome::by`] or [`Outcome::unit`].
    ///
    /// It is given a random id, so that sending it again changes nothing. Give it one of your own with
    /// [`Outcome::id`] where the same event may be told twice (an order that is delivered again, say).
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

    /// Who did it: the unit that contexts name as `targetingKey`.
    pub fn by(self, targeting_key: impl Into<String>) -> Self {
        self.unit(TARGETING_KEY, targeting_key)
    }

    /// Who did it: a unit of another type, by the context attribute that names it (`account`, `device`, …). Up to 8.
    pub fn unit(mut self, attribute: impl Into<String>, key: impl Into<String>) -> Self {
        self.units.insert(attribute.into(), key.into());
        self
    }

    /// What it is worth: an amount, a duration, a score.
    pub fn value(mut self, value: f64) -> Self {
        self.value = value;
        self
    }

    /// When it happened; when it is handed to the client if this is not said.
    pub fn at(mut self, when: Timestamp) -> Self {
        self.occurred_at = Some(when);
        self
    }

    /// What makes it the same event, however often it is sent.
    pub fn id(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = event_id.into();
        self
    }

    /// Its time was read from this experiment's manual clock (simulations and tests have those).
    pub fn clock(mut self, experiment: impl Into<String>) -> Self {
        self.clock = experiment.into();
        self
    }

    /// The id it is sent with.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// The experiment whose manual clock is meant, if one is.
    pub(crate) fn manual_clock(&self) -> Option<&str> {
        Some(self.clock.as_str()).filter(|clock| !clock.is_empty())
    }

    /// As it is sent; `now` is when it happened if nobody has said.
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
