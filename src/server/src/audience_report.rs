//! What the author of an audience should know when it is saved: the attributes that it needs, how many recent contexts
//! it selects, and warnings about parts that probably do not mean what was intended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use inroad_assignment::audience::{Audience, AudienceWarning, WarningKind};
use inroad_assignment::definition::OverrideTarget;
use inroad_assignment::{Context, Definition, Timestamp, Value};
use inroad_store::Event;
use inroad_wire::context::context_from_json;
use inroad_wire::v1;

use crate::recent_contexts::MAX_RECENT_CONTEXTS;
use crate::shared::SharedState;

/// The longest that the evaluations of one report may take together. An expensive audience is evaluated for fewer
/// contexts, and the report has their number.
const MAX_EVALUATION: Duration = Duration::from_millis(50);

/// The report on the audience and the overrides of a definition; `None` if it has no expression.
pub(crate) async fn audience_report(shared: &SharedState, definition: &Definition) -> Option<v1::AudienceReport> {
    let overrides = definition.overrides().iter().enumerate().filter_map(|(i, o)| match &o.target {
        OverrideTarget::Audience(audience) => Some((format!("overrides[{i}].when"), audience)),
        OverrideTarget::Units(_) => None,
    });
    let audience = definition.audience().map(|audience| ("audience".to_owned(), audience));
    let expressions: Vec<(String, &Audience)> = audience.into_iter().chain(overrides).collect();
    if expressions.is_empty() {
        return None;
    }
    let contexts = recent_contexts(shared, definition.unit()).await;
    Some(report(definition, &expressions, &contexts, Instant::now() + MAX_EVALUATION))
}

/// The newest recent context of each unit with this unit type, newest first.
async fn recent_contexts(shared: &SharedState, unit_type: &str) -> Vec<Context> {
    let oldest = shared.recent_contexts.oldest();
    let mut seen = shared.recent_contexts.newest();
    let exposures = shared.recent_events.read_newest(|events| {
        let recent = events.take_while(|event| event.received_at >= oldest);
        let with_context = recent.filter_map(|logged| match &logged.event {
            // An exposure without context only shows that its sender sends none. A forgotten unit has no key.
            Event::Exposure(e) if !e.context.is_empty() && !e.unit.is_empty() => Some((logged.received_at, e.clone())),
            Event::Exposure(_) | Event::Outcome(_) => None,
        });
        with_context.take(MAX_RECENT_CONTEXTS).collect::<Vec<_>>()
    });
    match exposures.await {
        Ok(exposures) => {
            let state = shared.catalogue.state();
            seen.extend(exposures.into_iter().filter_map(|(at, exposure)| {
                let fields = serde_json::from_str(&exposure.context).ok()?;
                let mut context = context_from_json(&fields).ok()?;
                // The log has the unit's key beside the context.
                let experiment = &state.get(exposure.experiment.as_str()).ok()?.experiment;
                context.insert(experiment.definition.unit().to_owned(), exposure.unit.into());
                Some((at, context))
            }));
        }
        Err(error) => tracing::warn!(%error, "could not read recent exposures to evaluate an audience"),
    }
    newest_of_each_unit(seen, unit_type)
}

fn newest_of_each_unit(mut seen: Vec<(Timestamp, Context)>, unit_type: &str) -> Vec<Context> {
    seen.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut units = BTreeSet::new();
    let contexts = seen.into_iter().map(|(_, context)| context);
    let is_new = |context: &Context| context.unit(unit_type).is_some_and(|unit| units.insert(unit.into_owned()));
    contexts.filter(is_new).take(MAX_RECENT_CONTEXTS).collect()
}

fn report(
    definition: &Definition,
    expressions: &[(String, &Audience)],
    contexts: &[Context],
    deadline: Instant,
) -> v1::AudienceReport {
    let warnings = expressions.iter().flat_map(|(field, audience)| {
        warnings(audience, definition.unit(), contexts)
            .into_iter()
            .map(|message| v1::AudienceWarning { field: field.clone(), message })
    });
    let mut report = v1::AudienceReport { warnings: warnings.collect(), ..v1::AudienceReport::default() };
    let Some(audience) = definition.audience() else { return report };
    report.needed_attributes = audience.needed_attributes().into_iter().map(str::to_owned).collect();
    let used = audience.attributes();
    let mut missing = BTreeMap::new();
    for context in contexts {
        if report.contexts > 0 && Instant::now() >= deadline {
            break;
        }
        report.contexts += 1;
        let absent: Vec<_> = used.iter().filter(|name| !context.has(name)).collect();
        for name in &absent {
            *missing.entry((**name).to_owned()).or_insert(0) += 1;
        }
        match audience.evaluate(context) {
            Ok(is_in) => report.matching_contexts += u32::from(is_in),
            Err(error) if absent.is_empty() => {
                report.failed_contexts += 1;
                if report.failure.is_empty() {
                    report.failure = error.to_string();
                }
            }
            Err(_) => {}
        }
    }
    let missing = missing.into_iter().map(|(attribute, contexts)| v1::MissingAttribute { attribute, contexts });
    report.missing_attributes = missing.collect();
    report
}

/// The warnings about one expression. Those that the contexts refute are left out.
fn warnings(audience: &Audience, unit_type: &str, contexts: &[Context]) -> Vec<String> {
    let is_expected = |warning: &&AudienceWarning| match (warning.kind, &warning.attribute) {
        (WarningKind::NumberAsText, Some(name)) => has_only_text(contexts, name),
        (WarningKind::CurrentTime, Some(name)) => contexts.iter().any(|context| context.has(name)),
        _ => false,
    };
    let mut messages: Vec<String> =
        audience.warnings().iter().filter(|w| !is_expected(w)).map(|warning| warning.message.clone()).collect();
    // Contexts are found by their unit, so it needs no check.
    let unknown: Vec<String> = audience
        .attributes()
        .into_iter()
        .filter(|name| *name != unit_type && !contexts.iter().any(|context| context.has(name)))
        .map(|name| format!("`{name}`"))
        .collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        messages.push(match contexts.len() {
            0 => format!(
                "no context with {unit_type} was seen in the last day, so it is unknown whether callers send {names}: check the spelling"
            ),
            seen => format!(
                "none of the {seen} contexts seen in the last day has {names}: check the spelling, and that callers send it"
            ),
        });
    }
    messages
}

/// Whether some context has the attribute, and all that have it have text.
fn has_only_text(contexts: &[Context], name: &str) -> bool {
    let mut values = contexts.iter().filter_map(|context| context.attribute(name)).peekable();
    values.peek().is_some() && values.all(|value| matches!(value, Value::String(_)))
}
