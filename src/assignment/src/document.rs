//! An experiment as people write it in TOML, YAML or JSON. A [`DefinitionDoc`] has the right structure, but its values
//! are not checked yet. `Definition::try_from` checks it and reports all errors at once.

mod check;
mod flat;
mod write;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::flat::{FlatClock, FlatMetric, FlatPolicy};
use crate::definition::{Direction, Guardrail, Lifetime, MetricKind, Payload};
use crate::settings::ThompsonSettings;
use crate::time::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionDoc {
    /// The key: `[a-z0-9][a-z0-9._-]{0,127}`.
    pub key: String,
    /// A description for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The person or team responsible.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Tags for filtering.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How long the flag is expected to be in use: temporary or permanent.
    #[serde(default)]
    pub lifetime: Lifetime,
    /// The context attribute that contains the unit key. Default: `targetingKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The units that take part, as a CEL expression over the context. Default: all units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The salt of the first generation. Default: generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// The wall clock or a manual clock. Default: the wall clock.
    #[serde(default)]
    pub clock: ClockDoc,
    /// The allocation policy. Default: manual.
    #[serde(default)]
    pub policy: PolicyDoc,
    /// The variations, control first.
    #[serde(default)]
    pub variations: Vec<VariationDoc>,
    /// The overrides in the order of precedence: the first that matches applies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverrideDoc>,
    /// The metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricDoc>,
}

/// A variation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with key and payload")]
pub struct VariationDoc {
    /// The key, unique in the experiment.
    pub key: String,
    /// The value that callers get: a boolean, a number, text or an object.
    pub payload: Payload,
    /// A description for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The initial share of the line, 0 to 1. Default: an even part of 20% with policy thompson, 0 with policy manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// An override: selects units by key or by an expression, and gives them always the same variation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with units or when, and variation")]
pub struct OverrideDoc {
    /// The keys of the units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// A CEL expression over the context that selects the units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The key of the variation that they get.
    pub variation: String,
}

/// A metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "FlatMetric", into = "FlatMetric")]
pub struct MetricDoc {
    /// The key, unique in the experiment.
    pub key: String,
    /// The event name of the outcomes that count.
    pub event: String,
    /// How the metric is computed from outcomes.
    pub kind: MetricKind,
    /// How long after its first exposure the outcomes of a unit count.
    pub window: Duration,
    /// Whether a larger value is better.
    pub direction: Direction,
    /// Whether this is the primary metric, which the policy optimises.
    pub decision: bool,
    /// What happens when a variation harms this metric; `None` if the metric is not a guardrail.
    pub guardrail: Option<Guardrail>,
}

/// The allocation policy: who moves the boundaries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "FlatPolicy", into = "FlatPolicy")]
pub enum PolicyDoc {
    /// People. The experiment is a feature flag.
    Manual {
        /// The share of the line that control keeps at least, 0 to 1.
        floor: f64,
        /// The calendar tick that divides results into reporting intervals.
        tick: Duration,
    },
    /// Thompson sampling.
    Thompson(ThompsonSettings),
}

impl Default for PolicyDoc {
    fn default() -> Self {
        Self::Manual { floor: 0.0, tick: DAY }
    }
}

/// The clock that an experiment uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "FlatClock", into = "FlatClock")]
pub enum ClockDoc {
    /// The wall clock.
    #[default]
    Wall,
    /// A manual clock, which its caller advances.
    Manual {
        /// The initial reading, as RFC 3339. Default: the instant of creation.
        start: Option<Timestamp>,
    },
}

/// Whether an instant can be written in a document: it is in the years 1970 to 9999.
fn is_writable_instant(at: Timestamp) -> bool {
    (0..253_402_300_800_000_000).contains(&at.as_micros())
}
