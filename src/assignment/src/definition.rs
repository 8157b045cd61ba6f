//! What people declare of an experiment, checked whole: a [`Definition`] can only be had from a [`DefinitionDoc`] that
//! has no fault in it, and a document with faults is answered with all of them at once, each at its field.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::allocation::Arm;
use crate::audience::Audience;
use crate::context::TARGETING_KEY;
use crate::document::{ClockDoc, DefinitionDoc, MetricDoc, OverrideDoc, VariationDoc, can_be_written};
use crate::key::{ExperimentKey, Salt, UnitKey, VariationKey};
use crate::line::Width;
use crate::settings::{Policy, PosteriorKind, parse_policy};
use crate::time::Timestamp;

/// The most bytes of a payload written as JSON.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024;
/// The most metrics of an experiment.
pub const MAX_METRICS: usize = 32;
/// The most overrides of an experiment.
pub const MAX_OVERRIDES: usize = 64;
/// The most unit keys that all overrides together may name.
pub const MAX_OVERRIDE_UNITS: usize = 10_000;
/// The most bytes of a description, an owner or a tag.
pub const MAX_TEXT_BYTES: usize = 4096;
/// The most faults that one answer names.
const MAX_VIOLATIONS: usize = 32;
/// The most tags of an experiment.
pub const MAX_TAGS: usize = 32;

/// How many points too many shares may come to before they are too much: 0.1 is no double, and ten times the double
/// next to it is over 1. Far below a millionth of a millionth of the line, and taken off the widest.
const ROUNDING: u128 = 1 << 16;
/// A multiple of the last binary digit of every double up to the whole line: what is left after taking it off is one.
const DOUBLE_STEP: u128 = 1 << 12;

/// What a caller gets to act on, beside the variation's key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// A switch.
    Boolean(bool),
    /// A double.
    Number(f64),
    /// Text.
    String(String),
    /// A JSON object.
    Object(serde_json::Map<String, serde_json::Value>),
}

impl Payload {
    /// The word for its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Object(_) => "object",
        }
    }
}

/// One of the things a unit can be served.
#[derive(Debug, Clone, PartialEq)]
pub struct Variation {
    /// Its name, unique in the experiment.
    pub key: VariationKey,
    /// What callers act on.
    pub payload: Payload,
    /// For people.
    pub description: String,
    /// The width it starts with; never used for control.
    pub foothold: Width,
}

/// Who is pinned to a variation whatever the line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Pinned {
    /// These unit keys.
    Units(BTreeSet<String>),
    /// Whoever the expression holds for.
    Audience(Audience),
}

/// Pins units to a variation; such units record no exposure.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Who.
    pub who: Pinned,
    /// To what.
    pub arm: Arm,
}

/// How a metric is made out of a unit's outcomes.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricKind {
    /// Whether the event happened to the unit.
    Conversion,
    /// How often it happened.
    Count,
    /// The sum of its values per unit, held at `cap` (winsorised) where there is one.
    Mean {
        /// The most that one unit may count for.
        cap: Option<f64>,
    },
    /// The sum of its values over the sum of another event's values.
    Ratio {
        /// The event whose values are divided by.
        denominator: String,
    },
}

/// Whether more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
}

/// What is measured of each unit after its first exposure.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name, unique in the experiment.
    pub key: VariationKey,
    /// The outcome's event name.
    pub event: String,
    /// How outcomes make a number.
    pub kind: MetricKind,
    /// How long after its first exposure a unit is followed.
    pub window: Duration,
    /// Whether more is better.
    pub direction: Direction,
    /// What happens when a variation does harm to it; nothing if it is no guardrail.
    pub guardrail: Option<Guardrail>,
}

/// A metric that no variation may harm. The evidence holds however often it is looked at; over all variations and
/// guardrails of an experiment, one in twenty at the most is ever stopped without cause.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guardrail {
    /// How much worse than control is still borne, relative: 0.05 is five per cent. 0 to below 1.
    #[serde(default)]
    pub margin: f64,
    /// What happens then.
    #[serde(default)]
    pub action: GuardrailAction,
}

/// How far a guardrail may go by itself. Each does what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardrailAction {
    /// It says so.
    Alert,
    /// Nothing grows any more while it stands.
    Freeze,
    /// The variation serves control; a person may restore it.
    #[default]
    Kill,
}

/// Whose time an experiment lives by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockKind {
    /// The wall's.
    Wall,
    /// One that its caller advances, from the given instant, or the instant of creation.
    Manual(Option<Timestamp>),
}

/// How long a flag is meant to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// To be removed from the code when it is decided.
    #[default]
    Temporary,
    /// Here to stay.
    Permanent,
}

/// A whole experiment as declared, with nothing wrong in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DefinitionDoc", into = "DefinitionDoc")]
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

/// One thing wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, as a path into the document: `variations[1].key`.
    pub field: String,
    /// What, and what to do.
    pub message: String,
}

/// Everything that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the experiment is not well formed: {}", .violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect::<Vec<_>>().join("; "))]
pub struct DefinitionError {
    /// At least one.
    pub violations: Vec<Violation>,
}

/// Collects what is wrong, so that a person sees all of it at once.
#[derive(Default)]
pub(crate) struct Faults(Vec<Violation>);

impl Faults {
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl std::fmt::Display) {
        // A person mends no more at once, and an answer has to fit into the headers of a response.
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push(Violation { field: field.into(), message: message.to_string() });
        }
    }

    pub(crate) fn check(&mut self, holds: bool, field: &str, message: impl std::fmt::Display) {
        if !holds {
            self.add(field, message);
        }
    }

    fn keep<T, E: std::fmt::Display>(&mut self, field: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.add(field, e)).ok()
    }
}

impl TryFrom<DefinitionDoc> for Definition {
    type Error = DefinitionError;

    fn try_from(doc: DefinitionDoc) -> Result<Self, DefinitionError> {
        let mut faults = Faults::default();
        let key = faults.keep("key", ExperimentKey::parse(&doc.key));
        for (field, text) in [("description", &doc.description), ("owner", &doc.owner)] {
            faults.check(text.len() <= MAX_TEXT_BYTES, field, format!("over {MAX_TEXT_BYTES} bytes: shorten it"));
        }
        faults.check(doc.tags.len() <= MAX_TAGS, "tags", format!("over {MAX_TAGS} tags: use fewer"));
        faults.check(doc.tags.iter().all(|t| !t.is_empty() && t.len() <= 128), "tags", "a tag has 1 to 128 bytes");
        let unit = doc.unit.unwrap_or_else(|| TARGETING_KEY.to_owned());
        let printable = !unit.chars().any(char::is_control);
        faults.check((1..=128).contains(&unit.len()) && printable, "unit", "name a context attribute, 1 to 128 bytes");
        let audience = doc.audience.as_deref().and_then(|text| faults.keep("audience", Audience::parse(text)));
        let salt = doc.salt.as_deref().and_then(|text| faults.keep("salt", Salt::parse(text)));
        let policy = parse_policy(doc.policy, &mut faults);
        let variations = parse_variations(&doc.variations, &policy, &mut faults);
        let overrides = parse_overrides(doc.overrides, &doc.variations, &mut faults);
        if let Policy::Thompson(settings) = &policy {
            check_decisive(doc.metrics.iter().find(|m| m.decision), settings.posterior, &mut faults);
        }
        let (metrics, decision_metric) = parse_metrics(&doc.metrics, &mut faults);
        if let ClockDoc::Manual { start: Some(start) } = doc.clock {
            faults.check(can_be_written(start), "clock.start", "a clock starts within the years 1970 to 9999");
        }
        let clock = match doc.clock {
            ClockDoc::Wall => ClockKind::Wall,
            ClockDoc::Manual { start } => ClockKind::Manual(start),
        };
        match key {
            Some(key) if faults.0.is_empty() => Ok(Self {
                key,
                description: doc.description,
                owner: doc.owner,
                tags: doc.tags,
                lifetime: doc.lifetime,
                unit,
                audience,
                variations,
                overrides,
                metrics,
                decision_metric,
                policy,
                salt,
                clock,
            }),
            _ => Err(DefinitionError { violations: faults.0 }),
        }
    }
}

/// What a policy can go by.
fn check_decisive(metric: Option<&MetricDoc>, posterior: PosteriorKind, faults: &mut Faults) {
    let message = "policy thompson needs a decision metric: mark one with decision = true, or use policy manual";
    faults.check(metric.is_some(), "metrics", message);
    // One customer in a million would steer everybody.
    let capped = metric.is_none_or(|m| m.kind != MetricKind::Mean { cap: None });
    let message = "a metric of kind mean that decides needs a cap: the most that one unit may count for";
    faults.check(capped, "metrics", message);
    let pooled = posterior == PosteriorKind::Pooled;
    let suits = !pooled || metric.is_none_or(|m| m.kind == MetricKind::Conversion);
    faults.check(suits, "policy.posterior", "pooled is for conversions: use e3 for other kinds of metric");
}

fn parse_variations(docs: &[VariationDoc], policy: &Policy, faults: &mut Faults) -> Vec<Variation> {
    let treated = docs.len().saturating_sub(1);
    faults.check(treated >= 1, "variations", "give control first and at least one variation after it");
    faults.check(treated <= Arm::MAX_TREATED, "variations", format!("at most {} beside control", Arm::MAX_TREATED));
    let footholds = parse_footholds(docs, policy, faults);
    let mut seen = BTreeSet::new();
    let mut variations = Vec::with_capacity(docs.len());
    for (i, (doc, foothold)) in docs.iter().zip(footholds).enumerate() {
        let at = |field: &str| format!("variations[{i}].{field}");
        let key = faults.keep(at("key"), VariationKey::parse(&doc.key));
        faults.check(seen.insert(doc.key.as_str()), &at("key"), "it is there twice: name each once");
        let bytes = serde_json::to_string(&doc.payload).map_or(usize::MAX, |json| json.len());
        faults.check(
            bytes <= MAX_PAYLOAD_BYTES,
            &at("payload"),
            format!("over {MAX_PAYLOAD_BYTES} bytes of JSON: refer to large content by an id"),
        );
        let finite = !matches!(doc.payload, Payload::Number(number) if !number.is_finite());
        faults.check(finite, &at("payload"), "a number is finite: JSON has no other");
        let same = docs.first().is_none_or(|first| first.payload.kind() == doc.payload.kind());
        faults.check(same, &at("payload"), "all payloads of an experiment have one type, that of control's");
        faults.check(
            doc.description.len() <= MAX_TEXT_BYTES,
            &at("description"),
            format!("over {MAX_TEXT_BYTES} bytes: shorten it"),
        );
        let (payload, description) = (doc.payload.clone(), doc.description.clone());
        variations.extend(key.map(|key| Variation { key, payload, description, foothold }));
    }
    variations
}

/// The width that each variation starts with, control's place included. Each is a share that a double holds exactly,
/// so that it is written and read back as the very same width.
fn parse_footholds(docs: &[VariationDoc], policy: &Policy, faults: &mut Faults) -> Vec<Width> {
    // A bandit starts each variation on an even part of 20% (STATISTICS: sweeps); a flag starts with nobody.
    let default = match policy {
        Policy::Manual { .. } => Width::ZERO,
        Policy::Thompson(_) => Width::from_share(0.2 / docs.len().saturating_sub(1).max(1) as f64).unwrap_or_default(),
    };
    let mut footholds = Vec::with_capacity(docs.len());
    for (i, doc) in docs.iter().enumerate() {
        let field = format!("variations[{i}].share");
        faults.check(i > 0 || doc.share.is_none(), &field, "control has what is left: give shares to the others");
        let width = doc.share.map_or(Some(default), Width::from_share);
        faults.check(width.is_some(), &field, "a share is within 0 to 1");
        footholds.push(if i > 0 { width.unwrap_or_default() } else { Width::ZERO });
    }
    let taken: u128 = footholds.iter().map(|w| w.get()).sum();
    // A floor that is no share has been found fault with already.
    let floor = match policy {
        Policy::Manual { floor, .. } => *floor,
        Policy::Thompson(settings) => Width::from_share(settings.floor).unwrap_or_default(),
    };
    let free = Width::LINE.saturating_sub(floor);
    let over = taken.saturating_sub(free.get()).next_multiple_of(DOUBLE_STEP);
    if let Some(widest) = footholds.iter_mut().max().filter(|w| (1..=ROUNDING.min(w.get())).contains(&over)) {
        *widest = widest.saturating_sub(Width::new(over).unwrap_or_default());
    } else {
        let message = format!(
            "the shares add up to {:.4}, and control's floor leaves {:.4}: make them smaller",
            taken as f64 / Width::LINE.get() as f64,
            free.share()
        );
        faults.check(over == 0, "variations", message);
    }
    footholds
}

fn parse_overrides(docs: Vec<OverrideDoc>, variations: &[VariationDoc], faults: &mut Faults) -> Vec<Override> {
    faults.check(docs.len() <= MAX_OVERRIDES, "overrides", format!("at most {MAX_OVERRIDES}"));
    let units: usize = docs.iter().map(|doc| doc.units.len()).sum();
    faults.check(
        units <= MAX_OVERRIDE_UNITS,
        "overrides",
        format!("at most {MAX_OVERRIDE_UNITS} unit keys: use an expression"),
    );
    let mut overrides = Vec::with_capacity(docs.len());
    for (i, doc) in docs.into_iter().enumerate() {
        let at = |field: &str| format!("overrides[{i}].{field}");
        let arm = variations.iter().position(|v| v.key == doc.variation).and_then(Arm::new);
        faults.check(
            arm.is_some(),
            &at("variation"),
            format!("{:?} is not a variation of this experiment", doc.variation),
        );
        let who = match (doc.units.is_empty(), doc.when) {
            (false, None) => {
                for unit in &doc.units {
                    faults.keep(at("units"), UnitKey::parse(unit));
                }
                Some(Pinned::Units(doc.units.into_iter().collect()))
            }
            (true, Some(text)) => faults.keep(at("when"), Audience::parse(&text)).map(Pinned::Audience),
            _ => {
                faults.add(at("units"), "give either units or when");
                None
            }
        };
        if let (Some(arm), Some(who)) = (arm, who) {
            overrides.push(Override { who, arm });
        }
    }
    overrides
}

fn parse_metrics(docs: &[MetricDoc], faults: &mut Faults) -> (Vec<Metric>, Option<usize>) {
    faults.check(docs.len() <= MAX_METRICS, "metrics", format!("at most {MAX_METRICS}"));
    let decisions: Vec<usize> = docs.iter().enumerate().filter(|(_, m)| m.decision).map(|(i, _)| i).collect();
    faults.check(decisions.len() <= 1, "metrics", "only one metric can be the decision metric");
    let mut seen = BTreeSet::new();
    let mut metrics = Vec::with_capacity(docs.len());
    for (i, doc) in docs.iter().enumerate() {
        let at = |field: &str| format!("metrics[{i}].{field}");
        let key = faults.keep(at("key"), VariationKey::parse(&doc.key));
        faults.check(seen.insert(doc.key.as_str()), &at("key"), "it is there twice: name each once");
        faults.check((1..=128).contains(&doc.event.len()), &at("event"), "an event name has 1 to 128 bytes");
        faults.check(!doc.window.is_zero(), &at("window"), "a window lasts longer than nothing");
        let margin = doc.guardrail.map_or(0.0, |guardrail| guardrail.margin);
        faults.check((0.0..1.0).contains(&margin), &at("guardrail"), "a margin is within 0 to below 1: 0.05 is 5%");
        let year = Duration::from_secs(366 * 86_400);
        faults.check(doc.window <= year, &at("window"), "a window lasts a year at the most");
        match &doc.kind {
            MetricKind::Mean { cap: Some(cap) } => {
                faults.check(cap.is_finite() && *cap > 0.0, &at("cap"), "a cap is a number above 0");
            }
            MetricKind::Ratio { denominator } => {
                faults.check((1..=128).contains(&denominator.len()), &at("denominator"), "name the event to divide by");
            }
            _ => {}
        }
        metrics.extend(key.map(|key| Metric {
            key,
            event: doc.event.clone(),
            kind: doc.kind.clone(),
            window: doc.window,
            direction: doc.direction,
            guardrail: doc.guardrail,
        }));
    }
    (metrics, decisions.first().copied())
}

impl Definition {
    /// The experiment's key.
    pub fn key(&self) -> &ExperimentKey {
        &self.key
    }

    /// The context attribute that names the unit; also the unit's type in outcomes.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Who takes part; everybody if there is none.
    pub fn audience(&self) -> Option<&Audience> {
        self.audience.as_ref()
    }

    /// Control first, then the others; an [`Arm`] is an index into this.
    pub fn variations(&self) -> &[Variation] {
        &self.variations
    }

    /// The arm of a variation's key.
    pub fn arm(&self, key: &str) -> Option<Arm> {
        self.variations.iter().position(|v| v.key.as_str() == key).and_then(Arm::new)
    }

    /// The variation of an arm.
    pub fn variation(&self, arm: Arm) -> Option<&Variation> {
        self.variations.get(arm.index())
    }

    /// In the order in which they are tried.
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// What is measured.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The metric that decides, as an index into [`Self::metrics`].
    pub fn decision_metric(&self) -> Option<usize> {
        self.decision_metric
    }

    /// Who moves the boundaries.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whose time it lives by.
    pub fn clock(&self) -> ClockKind {
        self.clock
    }

    /// The first generation's salt, where it was declared.
    pub fn salt(&self) -> Option<&Salt> {
        self.salt.as_ref()
    }

    /// Who answers for it.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// For people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// For finding it.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// How long it is meant to live.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }
}
