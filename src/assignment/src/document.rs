//! An experiment as people and files write it: TOML, YAML and JSON read into these, and nothing here is checked yet.
//! [`crate::definition::Definition`] is what comes out when it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::definition::{ClockKind, Definition, Direction, Guardrail, Lifetime, MetricKind, Payload, Pinned};
use crate::settings::{Policy, ThompsonSettings};
use crate::time::{Timestamp, humantime_text};

const DAY: Duration = Duration::from_secs(86_400);

/// A whole experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionDoc {
    /// `[a-z0-9][a-z0-9._-]{0,127}`.
    pub key: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// For finding it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Temporary or permanent.
    #[serde(default)]
    pub lifetime: Lifetime,
    /// The context attribute that names the unit; `targetingKey` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// CEL over the context; everybody if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The first generation's salt; drawn if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// The wall's clock or a manual one.
    #[serde(default)]
    pub clock: ClockDoc,
    /// Who moves the boundaries.
    #[serde(default)]
    pub policy: PolicyDoc,
    /// Control first.
    #[serde(default)]
    pub variations: Vec<VariationDoc>,
    /// Tried in order; the first that fits wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverrideDoc>,
    /// What is measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricDoc>,
}

/// A variation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariationDoc {
    /// Unique in the experiment.
    pub key: String,
    /// A boolean, a number, text or an object.
    pub payload: Payload,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The share it starts with, 0 to 1. Left out: an even part of 20% under thompson, nothing under manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// An override: either units or an expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideDoc {
    /// Unit keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// CEL over the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The variation they get.
    pub variation: String,
}

/// A metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "MetricForm", into = "MetricForm")]
pub struct MetricDoc {
    /// Unique in the experiment.
    pub key: String,
    /// The outcome's event name.
    pub event: String,
    /// How outcomes make a number.
    pub kind: MetricKind,
    /// How long each unit is followed.
    pub window: Duration,
    /// Whether more is better.
    pub direction: Direction,
    /// Whether it drives the policy.
    pub decision: bool,
    /// What happens when a variation does harm to it.
    pub guardrail: Option<Guardrail>,
}

/// A metric laid out flat, as a file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricForm {
    key: String,
    event: String,
    #[serde(default)]
    kind: KindWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cap: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denominator: Option<String>,
    #[serde(default = "week", with = "humantime_text")]
    window: Duration,
    #[serde(default = "up")]
    direction: Direction,
    #[serde(default)]
    decision: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guardrail: Option<Guardrail>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindWord {
    #[default]
    Conversion,
    Count,
    Mean,
    Ratio,
}

fn week() -> Duration {
    7 * DAY
}

fn day() -> Duration {
    DAY
}

fn up() -> Direction {
    Direction::Up
}

impl TryFrom<MetricForm> for MetricDoc {
    type Error = &'static str;

    fn try_from(form: MetricForm) -> Result<Self, &'static str> {
        if form.cap.is_some() && !matches!(form.kind, KindWord::Mean) {
            return Err("cap is for metrics of kind mean: leave it out");
        }
        if form.denominator.is_some() && !matches!(form.kind, KindWord::Ratio) {
            return Err("denominator is for metrics of kind ratio: leave it out");
        }
        let kind = match form.kind {
            KindWord::Conversion => MetricKind::Conversion,
            KindWord::Count => MetricKind::Count,
            KindWord::Mean => MetricKind::Mean { cap: form.cap },
            KindWord::Ratio => MetricKind::Ratio { denominator: form.denominator.unwrap_or_default() },
        };
        let MetricForm { key, event, window, direction, decision, guardrail, .. } = form;
        Ok(Self { key, event, kind, window, direction, decision, guardrail })
    }
}

impl From<MetricDoc> for MetricForm {
    fn from(doc: MetricDoc) -> Self {
        let (kind, cap, denominator) = match doc.kind {
            MetricKind::Conversion => (KindWord::Conversion, None, None),
            MetricKind::Count => (KindWord::Count, None, None),
            MetricKind::Mean { cap } => (KindWord::Mean, cap, None),
            MetricKind::Ratio { denominator } => (KindWord::Ratio, None, Some(denominator)),
        };
        let MetricDoc { key, event, window, direction, decision, guardrail, .. } = doc;
        Self { key, event, kind, cap, denominator, window, direction, decision, guardrail }
    }
}

/// Who moves the boundaries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "PolicyForm", into = "PolicyForm")]
pub enum PolicyDoc {
    /// People.
    Manual {
        /// The share that control always keeps.
        floor: f64,
        /// The calendar tick by which results are cut.
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

/// A policy laid out flat, every setting optional.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum PolicyForm {
    Manual {
        #[serde(default)]
        floor: f64,
        #[serde(default = "day", with = "humantime_text")]
        tick: Duration,
    },
    Thompson(ThompsonSettings),
}

impl From<PolicyForm> for PolicyDoc {
    fn from(form: PolicyForm) -> Self {
        match form {
            PolicyForm::Manual { floor, tick } => Self::Manual { floor, tick },
            PolicyForm::Thompson(settings) => Self::Thompson(settings),
        }
    }
}

impl From<PolicyDoc> for PolicyForm {
    fn from(doc: PolicyDoc) -> Self {
        match doc {
            PolicyDoc::Manual { floor, tick } => Self::Manual { floor, tick },
            PolicyDoc::Thompson(settings) => Self::Thompson(settings),
        }
    }
}

/// Whose time an experiment lives by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "ClockForm", into = "ClockForm")]
pub enum ClockDoc {
    /// The wall's.
    #[default]
    Wall,
    /// One that its caller advances.
    Manual {
        /// Where it starts, as RFC 3339; the instant of creation if left out.
        start: Option<Timestamp>,
    },
}

/// A clock laid out flat. `Wall {}`, not `Wall`: serde lets a tagged unit variant have any fields beside its tag.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum ClockForm {
    Wall {},
    Manual {
        #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339")]
        start: Option<Timestamp>,
    },
}

impl From<ClockForm> for ClockDoc {
    fn from(form: ClockForm) -> Self {
        match form {
            ClockForm::Wall {} => Self::Wall,
            ClockForm::Manual { start } => Self::Manual { start },
        }
    }
}

impl From<ClockDoc> for ClockForm {
    fn from(doc: ClockDoc) -> Self {
        match doc {
            ClockDoc::Wall => Self::Wall {},
            ClockDoc::Manual { start } => Self::Manual { start },
        }
    }
}

/// Whether an instant lies within the years that a document can name, 1970 to 9999.
pub(crate) fn can_be_written(at: Timestamp) -> bool {
    (0..253_402_300_800_000_000).contains(&at.as_micros())
}

mod rfc3339 {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Timestamp, can_be_written};
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => match u64::try_from(at.as_micros()) {
                Ok(micros) if can_be_written(*at) => {
                    let at = UNIX_EPOCH + Duration::from_micros(micros);
                    serializer.collect_str(&humantime::format_rfc3339_micros(at))
                }
                _ => Err(ser::Error::custom("an instant before 1970 or after 9999 cannot be written")),
            },
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = humantime::parse_rfc3339(&text).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let micros = parsed.and_then(|since| i64::try_from(since.as_micros()).ok());
        let at = micros.ok_or_else(|| {
            de::Error::custom(format!("{text:?} is not an instant since 1970: write it like 2026-01-31T09:00:00Z"))
        })?;
        Ok(Some(Timestamp::from_micros(at)))
    }
}

impl From<Definition> for DefinitionDoc {
    fn from(d: Definition) -> Self {
        let name =
            |arm: crate::allocation::Arm| d.variations.get(arm.index()).map(|v| v.key.to_string()).unwrap_or_default();
        let overrides = d.overrides.iter().map(|o| match &o.who {
            Pinned::Units(units) => {
                OverrideDoc { units: units.iter().cloned().collect(), when: None, variation: name(o.arm) }
            }
            Pinned::Audience(a) => {
                OverrideDoc { units: Vec::new(), when: Some(a.source().to_owned()), variation: name(o.arm) }
            }
        });
        let metrics = d.metrics.iter().enumerate().map(|(i, m)| MetricDoc {
            key: m.key.to_string(),
            event: m.event.clone(),
            kind: m.kind.clone(),
            window: m.window,
            direction: m.direction,
            decision: d.decision_metric == Some(i),
            guardrail: m.guardrail,
        });
        let variations = d.variations.iter().enumerate().map(|(i, v)| VariationDoc {
            key: v.key.to_string(),
            payload: v.payload.clone(),
            description: v.description.clone(),
            share: (i > 0).then(|| v.foothold.share()),
        });
        Self {
            overrides: overrides.collect(),
            metrics: metrics.collect(),
            variations: variations.collect(),
            key: d.key.to_string(),
            description: d.description,
            owner: d.owner,
            tags: d.tags,
            lifetime: d.lifetime,
            unit: Some(d.unit),
            audience: d.audience.map(|a| a.source().to_owned()),
            salt: d.salt.map(|s| s.to_string()),
            clock: match d.clock {
                ClockKind::Wall => ClockDoc::Wall,
                ClockKind::Manual(start) => ClockDoc::Manual { start },
            },
            policy: match d.policy {
                Policy::Manual { floor, tick } => PolicyDoc::Manual { floor: floor.share(), tick },
                Policy::Thompson(settings) => PolicyDoc::Thompson(settings),
            },
        }
    }
}
