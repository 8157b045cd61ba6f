//! The serialised forms of the parts of a document: flat, with one `kind` field and the fields of that kind beside it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClockDoc, DAY, MetricDoc, PolicyDoc, is_writable_instant};
use crate::definition::{Direction, Guardrail, MetricKind};
use crate::settings::ThompsonSettings;
use crate::time::{Timestamp, humantime_text};

/// The serialised form of a metric.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with key and event")]
pub(super) struct FlatMetric {
    key: String,
    event: String,
    #[serde(default)]
    kind: MetricKindName,
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
enum MetricKindName {
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

impl TryFrom<FlatMetric> for MetricDoc {
    type Error = &'static str;

    fn try_from(flat: FlatMetric) -> Result<Self, &'static str> {
        if flat.cap.is_some() && !matches!(flat.kind, MetricKindName::Mean) {
            return Err("cap is set, but the metric is not of kind mean: remove cap, or set kind = mean");
        }
        if flat.denominator.is_some() && !matches!(flat.kind, MetricKindName::Ratio) {
            return Err(
                "denominator is set, but the metric is not of kind ratio: remove denominator, or set kind = ratio",
            );
        }
        let kind = match flat.kind {
            MetricKindName::Conversion => MetricKind::Conversion,
            MetricKindName::Count => MetricKind::Count,
            MetricKindName::Mean => MetricKind::Mean { cap: flat.cap },
            MetricKindName::Ratio => MetricKind::Ratio { denominator: flat.denominator.unwrap_or_default() },
        };
        let FlatMetric { key, event, window, direction, decision, guardrail, .. } = flat;
        Ok(Self { key, event, kind, window, direction, decision, guardrail })
    }
}

impl From<MetricDoc> for FlatMetric {
    fn from(doc: MetricDoc) -> Self {
        let (kind, cap, denominator) = match doc.kind {
            MetricKind::Conversion => (MetricKindName::Conversion, None, None),
            MetricKind::Count => (MetricKindName::Count, None, None),
            MetricKind::Mean { cap } => (MetricKindName::Mean, cap, None),
            MetricKind::Ratio { denominator } => (MetricKindName::Ratio, None, Some(denominator)),
        };
        let MetricDoc { key, event, window, direction, decision, guardrail, .. } = doc;
        Self { key, event, kind, cap, denominator, window, direction, decision, guardrail }
    }
}

/// The serialised form of a policy. Every setting is optional.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "lowercase",
    deny_unknown_fields,
    expecting = "a table with kind = \"thompson\" or \"manual\""
)]
pub(super) enum FlatPolicy {
    Manual {
        #[serde(default)]
        floor: f64,
        #[serde(default = "day", with = "humantime_text")]
        tick: Duration,
    },
    Thompson(ThompsonSettings),
}

impl From<FlatPolicy> for PolicyDoc {
    fn from(flat: FlatPolicy) -> Self {
        match flat {
            FlatPolicy::Manual { floor, tick } => Self::Manual { floor, tick },
            FlatPolicy::Thompson(settings) => Self::Thompson(settings),
        }
    }
}

impl From<PolicyDoc> for FlatPolicy {
    fn from(doc: PolicyDoc) -> Self {
        match doc {
            PolicyDoc::Manual { floor, tick } => Self::Manual { floor, tick },
            PolicyDoc::Thompson(settings) => Self::Thompson(settings),
        }
    }
}

/// The serialised form of a clock. `Wall {}` has braces because serde would accept unknown fields beside the tag of a
/// unit variant.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "lowercase",
    deny_unknown_fields,
    expecting = "a table with kind = \"wall\" or \"manual\""
)]
pub(super) enum FlatClock {
    Wall {},
    Manual {
        #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339")]
        start: Option<Timestamp>,
    },
}

impl From<FlatClock> for ClockDoc {
    fn from(flat: FlatClock) -> Self {
        match flat {
            FlatClock::Wall {} => Self::Wall,
            FlatClock::Manual { start } => Self::Manual { start },
        }
    }
}

impl From<ClockDoc> for FlatClock {
    fn from(doc: ClockDoc) -> Self {
        match doc {
            ClockDoc::Wall => Self::Wall {},
            ClockDoc::Manual { start } => Self::Manual { start },
        }
    }
}

/// Reads and writes instants as RFC 3339.
mod rfc3339 {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Timestamp, is_writable_instant};
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => match u64::try_from(at.as_micros()) {
                Ok(micros) if is_writable_instant(*at) => {
                    let at = UNIX_EPOCH + Duration::from_micros(micros);
                    serializer.collect_str(&humantime::format_rfc3339_micros(at))
                }
                _ => Err(ser::Error::custom(
                    "an instant before 1970 or after 9999 cannot be written: use one in between",
                )),
            },
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = humantime::parse_rfc3339(&text).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let micros = parsed.and_then(|since| i64::try_from(since.as_micros()).ok());
        let at = micros.ok_or_else(|| {
            de::Error::custom(format!("{text:?} is not an instant since 1970: write one like 2026-01-31T09:00:00Z"))
        })?;
        Ok(Some(Timestamp::from_micros(at)))
    }
}
