//! Checks a document and turns it into a [`Definition`]. All errors are reported at once, each with its field.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use super::{ClockDoc, DefinitionDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc, is_writable_instant};
use crate::allocation::{Arm, ROUNDING};
use crate::audience::Audience;
use crate::context::TARGETING_KEY;
use crate::definition::{
    ClockKind, Definition, DefinitionError, MAX_METRICS, MAX_OVERRIDE_UNITS, MAX_OVERRIDES, MAX_PAYLOAD_BYTES,
    MAX_TAGS, MAX_TEXT_BYTES, Metric, MetricKind, Override, OverrideTarget, Payload, Variation,
};
use crate::key::{ExperimentKey, Salt, UnitKey, VariationKey};
use crate::line::Width;
use crate::settings::{MIN_TICK, Policy, PosteriorKind, TICK_TOO_SHORT};
use crate::violation::ViolationList;

/// A multiple of the last binary digit of every double up to the whole line. A width stays exact as a double when a
/// multiple of this is subtracted.
const DOUBLE_STEP: u128 = 1 << 12;
/// The longest measurement window of a metric.
const MAX_WINDOW: Duration = Duration::from_secs(366 * 86_400);
const DUPLICATE_KEY: &str = "this key is used twice: give each entry its own key";

impl TryFrom<DefinitionDoc> for Definition {
    type Error = DefinitionError;

    fn try_from(doc: DefinitionDoc) -> Result<Self, DefinitionError> {
        let mut violations = ViolationList::default();
        let key = violations.ok_or_add("key", ExperimentKey::parse(&doc.key));
        for (field, text) in [("description", &doc.description), ("owner", &doc.owner)] {
            violations.check(text.len() <= MAX_TEXT_BYTES, field, text_too_long());
        }
        violations.check(doc.tags.len() <= MAX_TAGS, "tags", too_many("tags", MAX_TAGS));
        let tags_fit = doc.tags.iter().all(|t| !t.is_empty() && t.len() <= 128);
        violations.check(tags_fit, "tags", "a tag is empty or too long: use 1 to 128 bytes");
        let unit = doc.unit.unwrap_or_else(|| TARGETING_KEY.to_owned());
        let printable = !unit.chars().any(char::is_control);
        let unit_fits = (1..=128).contains(&unit.len()) && printable;
        violations.check(
            unit_fits,
            "unit",
            "this is not an attribute name: use 1 to 128 bytes without control characters",
        );
        let audience = doc.audience.as_deref().and_then(|text| violations.ok_or_add("audience", Audience::parse(text)));
        let salt = doc.salt.as_deref().and_then(|text| violations.ok_or_add("salt", Salt::parse(text)));
        let policy = check_policy(doc.policy, &mut violations);
        let variations = check_variations(&doc.variations, &policy, &mut violations);
        let overrides = check_overrides(doc.overrides, &doc.variations, &mut violations);
        if let Policy::Thompson(settings) = &policy {
            let metric = doc.metrics.iter().find(|m| m.decision);
            check_primary_metric(metric, settings.posterior, &mut violations);
        }
        let (metrics, decision_metric) = check_metrics(&doc.metrics, &mut violations);
        if let ClockDoc::Manual { start: Some(start) } = doc.clock {
            let message = "the start is out of range: use an instant in the years 1970 to 9999";
            violations.check(is_writable_instant(start), "clock.start", message);
        }
        let clock = match doc.clock {
            ClockDoc::Wall => ClockKind::Wall,
            ClockDoc::Manual { start } => ClockKind::Manual(start),
        };
        match key {
            Some(key) if violations.is_empty() => Ok(Self {
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
            _ => Err(violations.into_error()),
        }
    }
}

fn text_too_long() -> impl Display {
    format!("this text is over {MAX_TEXT_BYTES} bytes: shorten it")
}

fn too_many(things: &str, limit: usize) -> impl Display {
    format!("there are too many {things}: use at most {limit}")
}

fn check_policy(doc: PolicyDoc, violations: &mut ViolationList) -> Policy {
    match doc {
        PolicyDoc::Manual { floor, tick } => {
            let width = Width::from_share(floor);
            violations.check(width.is_some(), "policy.floor", "this share is out of range: use a value from 0 to 1");
            violations.check(tick >= MIN_TICK, "policy.tick", TICK_TOO_SHORT);
            Policy::Manual { floor: width.unwrap_or_default(), tick }
        }
        PolicyDoc::Thompson(settings) => {
            settings.check(violations);
            Policy::Thompson(settings)
        }
    }
}

/// Checks that the policy `thompson` has a primary metric that it can optimise.
fn check_primary_metric(metric: Option<&MetricDoc>, posterior: PosteriorKind, violations: &mut ViolationList) {
    let message = "policy thompson needs a primary metric: set decision = true on one metric, or use policy manual";
    violations.check(metric.is_some(), "metrics", message);
    // Without a cap, one customer with an extreme value could move the traffic of all.
    let capped = metric.is_none_or(|m| m.kind != MetricKind::Mean { cap: None });
    let message = "a primary metric of kind mean needs a cap: set the largest value that one unit can contribute";
    violations.check(capped, "metrics", message);
    let pooled = posterior == PosteriorKind::Pooled;
    let supported = !pooled || metric.is_none_or(|m| m.kind == MetricKind::Conversion);
    let message = "posterior pooled supports only a primary metric of kind conversion: use e3";
    violations.check(supported, "policy.posterior", message);
}

fn check_variations(docs: &[VariationDoc], policy: &Policy, violations: &mut ViolationList) -> Vec<Variation> {
    let treated = docs.len().saturating_sub(1);
    let message = "there are too few variations: list control first, then at least one other";
    violations.check(treated >= 1, "variations", message);
    let message = format!("there are too many variations: use at most {} besides control", Arm::MAX_TREATED);
    violations.check(treated <= Arm::MAX_TREATED, "variations", message);
    let footholds = check_footholds(docs, policy, violations);
    let mut seen = BTreeSet::new();
    let mut variations = Vec::with_capacity(docs.len());
    for (i, (doc, foothold)) in docs.iter().zip(footholds).enumerate() {
        let at = |field: &str| format!("variations[{i}].{field}");
        let key = violations.ok_or_add(at("key"), VariationKey::parse(&doc.key));
        violations.check(seen.insert(doc.key.as_str()), &at("key"), DUPLICATE_KEY);
        let bytes = serde_json::to_string(&doc.payload).map_or(usize::MAX, |json| json.len());
        violations.check(
            bytes <= MAX_PAYLOAD_BYTES,
            &at("payload"),
            format!("the payload is over {MAX_PAYLOAD_BYTES} bytes of JSON: replace large content by an id"),
        );
        let finite = !matches!(doc.payload, Payload::Number(number) if !number.is_finite());
        violations.check(finite, &at("payload"), "the number is not finite: JSON has only finite numbers");
        let same = docs.first().is_none_or(|first| first.payload.kind() == doc.payload.kind());
        violations.check(same, &at("payload"), "the payload has another type than control's: use one type for all");
        violations.check(doc.description.len() <= MAX_TEXT_BYTES, &at("description"), text_too_long());
        let (payload, description) = (doc.payload.clone(), doc.description.clone());
        variations.extend(key.map(|key| Variation { key, payload, description, foothold }));
    }
    variations
}

/// The initial width of each variation, with zero for control. Each is a share that a double represents exactly, so
/// that it has the same width after it is written and read back.
fn check_footholds(docs: &[VariationDoc], policy: &Policy, violations: &mut ViolationList) -> Vec<Width> {
    // A feature flag starts with no units.
    let default = match policy {
        Policy::Manual { .. } => Width::ZERO,
        Policy::Thompson(settings) => Width::from_share(default_share(docs, settings.floor)).unwrap_or_default(),
    };
    let mut footholds = Vec::with_capacity(docs.len());
    for (i, doc) in docs.iter().enumerate() {
        let field = format!("variations[{i}].share");
        let message = "control always gets the rest: set a share on the other variations instead";
        violations.check(i > 0 || doc.share.is_none(), &field, message);
        let width = doc.share.map_or(Some(default), Width::from_share);
        violations.check(width.is_some(), &field, "this share is out of range: use a value from 0 to 1");
        footholds.push(if i > 0 { width.unwrap_or_default() } else { Width::ZERO });
    }
    let requested: u128 = footholds.iter().map(|w| w.get()).sum();
    // An invalid floor has been reported already.
    let floor = match policy {
        Policy::Manual { floor, .. } => *floor,
        Policy::Thompson(settings) => Width::from_share(settings.floor).unwrap_or_default(),
    };
    let available = Width::LINE.saturating_sub(floor);
    let excess = requested.saturating_sub(available.get()).next_multiple_of(DOUBLE_STEP);
    if let Some(widest) = footholds.iter_mut().max().filter(|w| (1..=ROUNDING.min(w.get())).contains(&excess)) {
        *widest = widest.saturating_sub(Width::new(excess).unwrap_or_default());
    } else {
        let message = format!(
            "the shares add up to {:.4}, but the minimum control share leaves {:.4}: reduce the shares",
            requested as f64 / Width::LINE.get() as f64,
            available.share()
        );
        violations.check(excess == 0, "variations", message);
    }
    footholds
}

/// The share of each variation that gives none, under Thompson sampling: an even part of 40%, or less, down to an even part
/// of 20%, where other shares and the floor leave less (docs/decisions/0018).
fn default_share(docs: &[VariationDoc], floor: f64) -> f64 {
    let variations = docs.get(1..).unwrap_or_default();
    let given: f64 = variations.iter().filter_map(|doc| doc.share).sum();
    let open = variations.iter().filter(|doc| doc.share.is_none()).count().max(1) as f64;
    let all = variations.len().max(1) as f64;
    ((1.0 - floor - given) / open).clamp(0.2 / all, 0.4 / all)
}

fn check_overrides(
    docs: Vec<OverrideDoc>,
    variations: &[VariationDoc],
    violations: &mut ViolationList,
) -> Vec<Override> {
    violations.check(docs.len() <= MAX_OVERRIDES, "overrides", too_many("overrides", MAX_OVERRIDES));
    let units: usize = docs.iter().map(|doc| doc.units.len()).sum();
    violations.check(
        units <= MAX_OVERRIDE_UNITS,
        "overrides",
        format!("there are over {MAX_OVERRIDE_UNITS} unit keys: use an expression instead"),
    );
    let mut overrides = Vec::with_capacity(docs.len());
    for (i, doc) in docs.into_iter().enumerate() {
        let at = |field: &str| format!("overrides[{i}].{field}");
        let arm = variations.iter().position(|v| v.key == doc.variation).and_then(Arm::new);
        violations.check(
            arm.is_some(),
            &at("variation"),
            format!("{:?} is not a variation of this experiment: use the key of one that is", doc.variation),
        );
        let target = match (doc.units.is_empty(), doc.when) {
            (false, None) => {
                for unit in &doc.units {
                    violations.ok_or_add(at("units"), UnitKey::parse(unit));
                }
                Some(OverrideTarget::Units(doc.units.into_iter().collect()))
            }
            (true, Some(text)) => {
                violations.ok_or_add(at("when"), Audience::parse(&text)).map(OverrideTarget::Audience)
            }
            _ => {
                violations.add(at("units"), "set either units or when, and only one of them");
                None
            }
        };
        if let (Some(arm), Some(target)) = (arm, target) {
            overrides.push(Override { target, arm });
        }
    }
    overrides
}

/// The metrics, and the index of the primary metric.
fn check_metrics(docs: &[MetricDoc], violations: &mut ViolationList) -> (Vec<Metric>, Option<usize>) {
    violations.check(docs.len() <= MAX_METRICS, "metrics", too_many("metrics", MAX_METRICS));
    let decisions: Vec<usize> = docs.iter().enumerate().filter(|(_, m)| m.decision).map(|(i, _)| i).collect();
    violations.check(decisions.len() <= 1, "metrics", "several metrics have decision = true: set it on only one");
    let mut seen = BTreeSet::new();
    let mut metrics = Vec::with_capacity(docs.len());
    for (i, doc) in docs.iter().enumerate() {
        let at = |field: &str| format!("metrics[{i}].{field}");
        let key = violations.ok_or_add(at("key"), VariationKey::parse(&doc.key));
        violations.check(seen.insert(doc.key.as_str()), &at("key"), DUPLICATE_KEY);
        let event_fits = (1..=128).contains(&doc.event.len());
        violations.check(event_fits, &at("event"), "the event name is empty or too long: use 1 to 128 bytes");
        violations.check(!doc.window.is_zero(), &at("window"), "the window is zero: use a longer one, like 7d");
        let margin = doc.guardrail.map_or(0.0, |guardrail| guardrail.margin);
        let message = "the margin is out of range: use a value from 0 to below 1, such as 0.05 for 5%";
        violations.check((0.0..1.0).contains(&margin), &at("guardrail"), message);
        violations.check(doc.window <= MAX_WINDOW, &at("window"), "the window is too long: use at most 366d");
        match &doc.kind {
            MetricKind::Mean { cap: Some(cap) } => {
                let in_range = cap.is_finite() && *cap > 0.0;
                violations.check(in_range, &at("cap"), "the cap is out of range: use a number above 0");
            }
            MetricKind::Ratio { denominator } => {
                let fits = (1..=128).contains(&denominator.len());
                let message = "the denominator is empty or too long: use the name of the event to divide by";
                violations.check(fits, &at("denominator"), message);
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
