//! An experiment as declared, after all checks. A [`Definition`] is only created from a `DefinitionDoc` without errors,
//! so code that receives one need not check it again. The module `document` has the document and the checks.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::allocation::Arm;
use crate::audience::Audience;
use crate::key::{ExperimentKey, Salt, VariationKey};
use crate::line::Width;
use crate::settings::Policy;
use crate::time::Timestamp;

pub use crate::violation::{DefinitionError, Violation};

/// The largest payload, in bytes of JSON.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024;
/// The largest number of metrics of an experiment.
pub const MAX_METRICS: usize = 32;
/// The largest number of overrides of an experiment.
pub const MAX_OVERRIDES: usize = 64;
/// The largest number of unit keys in all overrides of an experiment together.
pub const MAX_OVERRIDE_UNITS: usize = 10_000;
/// The longest description or owner, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;
/// The largest number of tags of an experiment.
pub const MAX_TAGS: usize = 32;

/// The value that a caller gets with the variation's key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// True or false.
    Boolean(bool),
    /// A number.
    Number(f64),
    /// Text.
    String(String),
    /// A JSON object.
    Object(serde_json::Map<String, serde_json::Value>),
}

impl Payload {
    /// The name of the type: `boolean`, `number`, `string` or `object`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Object(_) => "object",
        }
    }
}

/// A variation of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Variation {
    /// The key, unique in the experiment.
    pub key: VariationKey,
    /// The value that callers get.
    pub payload: Payload,
    /// A description for people.
    pub description: String,
    /// The initial share of the line; zero for control.
    pub foothold: Width,
}

/// The units that an override applies to.
#[derive(Debug, Clone, PartialEq)]
pub enum OverrideTarget {
    /// The units with these keys.
    Units(BTreeSet<String>),
    /// The units that the expression selects.
    Audience(Audience),
}

/// Gives selected units always the same variation. They record no exposure.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// The selected units.
    pub target: OverrideTarget,
    /// The variation that they get.
    pub arm: Arm,
}

/// How a metric is computed from the outcomes of a unit.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricKind {
    /// Whether the event happened to the unit.
    Conversion,
    /// How often the event happened to the unit.
    Count,
    /// The sum of the event's values, limited to `cap` (winsorised) if there is one.
    Mean {
        /// The largest value that one unit can contribute; above 0.
        cap: Option<f64>,
    },
    /// The sum of the event's values divided by the sum of another event's values.
    Ratio {
        /// The name of the event to divide by.
        denominator: String,
    },
}

/// Whether a larger value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// A larger value is better.
    Up,
    /// A smaller value is better.
    Down,
}

/// A measurement of each unit after its first exposure.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The key, unique in the experiment.
    pub key: VariationKey,
    /// The event name of the outcomes that count.
    pub event: String,
    /// How the metric is computed from outcomes.
    pub kind: MetricKind,
    /// How long after its first exposure the outcomes of a unit count; at most 366 days.
    pub window: Duration,
    /// Whether a larger value is better.
    pub direction: Direction,
    /// What happens when a variation harms this metric; `None` if the metric is not a guardrail.
    pub guardrail: Option<Guardrail>,
}

/// The settings of a metric that no variation may harm. The test stays valid however often it is repeated. Over all
/// variations and guardrails of an experiment, the probability of a false alarm is at most 5%.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { margin = 0.1, action = \"kill\" }")]
pub struct Guardrail {
    /// The allowed degradation relative to control, from 0 to below 1: 0.05 is five per cent.
    #[serde(default)]
    pub margin: f64,
    /// What happens when a variation exceeds the margin.
    #[serde(default)]
    pub action: GuardrailAction,
}

/// What a guardrail does without a person. Each action includes the previous ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardrailAction {
    /// It raises an alert.
    Alert,
    /// The variation does not grow while there is evidence of harm.
    Freeze,
    /// The variation is killed. A person can restore it.
    #[default]
    Kill,
}

/// The clock that an experiment uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockKind {
    /// The wall clock.
    Wall,
    /// A manual clock, which its caller advances. It starts at the given instant, or at the creation of the experiment.
    Manual(Option<Timestamp>),
}

/// How long a flag is expected to be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// The flag is removed from the code after a decision.
    #[default]
    Temporary,
    /// The flag stays.
    Permanent,
}

/// A complete and valid experiment as declared. Serialised as a `DefinitionDoc`.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    pub(crate) key: ExperimentKey,
    pub(crate) description: String,
    pub(crate) owner: String,
    pub(crate) tags: Vec<String>,
    pub(crate) lifetime: Lifetime,
    pub(crate) unit: String,
    pub(crate) audience: Option<Audience>,
    pub(crate) variations: Vec<Variation>,
    pub(crate) overrides: Vec<Override>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) decision_metric: Option<usize>,
    pub(crate) policy: Policy,
    pub(crate) salt: Option<Salt>,
    pub(crate) clock: ClockKind,
}

impl Definition {
    /// The experiment's key.
    pub fn key(&self) -> &ExperimentKey {
        &self.key
    }

    /// The context attribute that contains the unit key. Outcomes use it as the type of the unit.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The units that take part; all units if there is no audience.
    pub fn audience(&self) -> Option<&Audience> {
        self.audience.as_ref()
    }

    /// The variations, control first. An [`Arm`] is an index into this list.
    pub fn variations(&self) -> &[Variation] {
        &self.variations
    }

    /// The arm of the variation with this key; `None` if there is none.
    pub fn arm(&self, key: &str) -> Option<Arm> {
        self.variations.iter().position(|v| v.key.as_str() == key).and_then(Arm::new)
    }

    /// The variation of an arm; `None` if there is none.
    pub fn variation(&self, arm: Arm) -> Option<&Variation> {
        self.variations.get(arm.index())
    }

    /// The overrides in the order of precedence: the first that matches applies.
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// The metrics.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The primary metric, which the policy optimises, as an index into [`Self::metrics`].
    pub fn decision_metric(&self) -> Option<usize> {
        self.decision_metric
    }

    /// The allocation policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The clock that the experiment uses.
    pub fn clock(&self) -> ClockKind {
        self.clock
    }

    /// The declared salt of the first generation; `None` if it is generated.
    pub fn salt(&self) -> Option<&Salt> {
        self.salt.as_ref()
    }

    /// The person or team responsible.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// A description for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Tags for filtering.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// How long the flag is expected to be in use.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }
}
