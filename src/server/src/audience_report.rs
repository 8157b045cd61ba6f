//! What the author of an audience should know when it is saved: the attributes that it needs, how many recent contexts
//! it selects, and warnings about parts that probably do not mean what was intended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inroad_assignment::audience::{Audience, AudienceError, AudienceWarning, WarningKind};
use inroad_assignment::definition::OverrideTarget;
use inroad_assignment::{Context, Definition, Timestamp, Value};
use inroad_store::{Event, ExposureEvent};
use inroad_wire::context::context_from_json;
use inroad_wire::v1;

use crate::catalogue::CatalogueState;
use crate::error::ServerError;
use crate::queries::Caller;
use crate::recent_contexts::MAX_RECENT_CONTEXTS;
use crate::shared::SharedState;

/// The longest that the evaluations of one report may take together. An expensive audience is evaluated for fewer
/// contexts, and the report has their number.
const MAX_EVALUATION: Duration = Duration::from_millis(50);
/// The same for the reports on many experiments, which share it in equal parts.
const MAX_EVALUATIONS: Duration = Duration::from_secs(2);

/// The report on the audience and the overrides of a definition; `None` if it has no expression. Contexts are read and
/// evaluated on another thread.
pub(crate) async fn audience_report(shared: &SharedState, definition: &Definition) -> Option<v1::AudienceReport> {
    if expressions(definition).is_empty() {
        return None;
    }
    let (recent, definition) = (read_recent(shared).await, definition.clone());
    // A declaration that is saved already is not refused because there are too many reports.
    shared.declarations.run(move |_| Ok(recent.into_reporter(1).report(&definition))).await.ok()?
}

/// The report on an audience without an experiment, for units of this type. It is parsed, and contexts are read and
/// evaluated, on another thread.
///
/// # Errors
/// [`ServerError::Invalid`] if the audience is not valid; [`ServerError::TooManyQueries`].
pub(crate) async fn report_on_audience(
    shared: &SharedState,
    audience: String,
    unit_type: String,
) -> Result<v1::AudienceReport, ServerError> {
    let recent = read_recent(shared).await;
    let evaluate = move |caller: &Caller| {
        let invalid = |error: AudienceError| ServerError::Invalid { field: "audience", message: error.to_string() };
        let audience = Audience::parse(&audience).map_err(invalid)?;
        caller.check()?;
        let expressions = [("audience".to_owned(), &audience)];
        Ok(recent.into_reporter(1).evaluate(&unit_type, Some(&audience), &expressions))
    };
    shared.declarations.run(evaluate).await
}

/// Whether a new definition selects other units than the one before, by its audience or its overrides. A new experiment
/// does if it has such an expression.
pub(crate) fn changes_selection(before: Option<&Definition>, new: &Definition) -> bool {
    let is_same = |old: &Definition| {
        (old.unit(), old.audience(), old.overrides()) == (new.unit(), new.audience(), new.overrides())
    };
    !expressions(new).is_empty() && !before.is_some_and(is_same)
}

/// The audience and the expressions of overrides, each with its field.
fn expressions(definition: &Definition) -> Vec<(String, &Audience)> {
    let overrides = definition.overrides().iter().enumerate().filter_map(|(i, o)| match &o.target {
        OverrideTarget::Audience(audience) => Some((format!("overrides[{i}].when"), audience)),
        OverrideTarget::Units(_) => None,
    });
    let audience = definition.audience().map(|audience| ("audience".to_owned(), audience));
    audience.into_iter().chain(overrides).collect()
}

/// What was seen of recent contexts, not parsed yet.
pub(crate) struct RecentlySeen {
    /// Contexts of calls.
    calls: Vec<(Timestamp, Arc<Context>)>,
    /// Exposures with a context.
    exposures: Vec<(Timestamp, ExposureEvent)>,
    /// The catalogue, for the unit types of the exposures.
    catalogue: Arc<CatalogueState>,
}

/// Makes reports from recent contexts.
pub(crate) struct AudienceReporter {
    /// The contexts, newest first.
    seen: Vec<(Timestamp, Context)>,
    /// The newest context of each unit, by unit type.
    by_unit_type: BTreeMap<String, Vec<Context>>,
    /// How long the evaluations of one report may take.
    max_evaluation: Duration,
}

/// Recent units that a change of an audience moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Membership {
    /// Units whose newest context was evaluated.
    pub(crate) seen: u64,
    /// Those in the new audience and not in the old one.
    pub(crate) entering: u64,
    /// Those in the old audience and not in the new one.
    pub(crate) leaving: u64,
}

pub(crate) async fn read_recent(shared: &SharedState) -> RecentlySeen {
    let oldest = shared.recent_contexts.oldest();
    let exposures = shared.recent_events.read_newest(|events| {
        let recent = events.take_while(|event| event.received_at >= oldest);
        let with_context = recent.filter_map(|logged| match &logged.event {
            // An exposure without context only shows that its sender sends none. A forgotten unit has no key.
            Event::Exposure(e) if !e.context.is_empty() && !e.unit.is_empty() => Some((logged.received_at, e.clone())),
            Event::Exposure(_) | Event::Outcome(_) => None,
        });
        with_context.take(MAX_RECENT_CONTEXTS).collect::<Vec<_>>()
    });
    let exposures = exposures.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "could not read recent exposures to evaluate an audience");
        Vec::new()
    });
    RecentlySeen { calls: shared.recent_contexts.newest(), exposures, catalogue: shared.catalogue.state() }
}

impl RecentlySeen {
    /// Parses the contexts, for this number of reports. Takes long: do not call it from an async task.
    pub(crate) fn into_reporter(self, reports: u32) -> AudienceReporter {
        let Self { calls, exposures, catalogue } = self;
        let of_exposure = |(at, exposure): (Timestamp, ExposureEvent)| {
            let fields = serde_json::from_str(&exposure.context).ok()?;
            let mut context = context_from_json(&fields).ok()?;
            // The log has the unit's key beside the context.
            let experiment = &catalogue.get(exposure.experiment.as_str()).ok()?.experiment;
            context.insert(experiment.definition.unit().to_owned(), exposure.unit.into());
            Some((at, context))
        };
        let calls = calls.into_iter().map(|(at, context)| (at, Arc::unwrap_or_clone(context)));
        let mut seen: Vec<_> = calls.chain(exposures.into_iter().filter_map(of_exposure)).collect();
        seen.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let max_evaluation = MAX_EVALUATION.min(MAX_EVALUATIONS / reports.max(1));
        AudienceReporter { seen, by_unit_type: BTreeMap::new(), max_evaluation }
    }
}

impl AudienceReporter {
    /// The report on a definition; `None` if it has no expression. Takes long: do not call it from an async task.
    pub(crate) fn report(&mut self, definition: &Definition) -> Option<v1::AudienceReport> {
        let expressions = expressions(definition);
        if expressions.is_empty() {
            return None;
        }
        Some(self.evaluate(definition.unit(), definition.audience(), &expressions))
    }

    /// How many recent units enter and leave when this audience replaces the old one. Takes long: do not call it from an
    /// async task.
    pub(crate) fn count_membership(
        &mut self,
        unit_type: &str,
        old: Option<&Audience>,
        new: Option<&Audience>,
    ) -> Membership {
        let deadline = Instant::now() + self.max_evaluation;
        let is_in = |audience: Option<&Audience>, context| audience.is_none_or(|audience| audience.contains(context));
        let mut membership = Membership::default();
        for context in self.contexts_of(unit_type) {
            if membership.seen > 0 && Instant::now() >= deadline {
                break;
            }
            let (before, after) = (is_in(old, context), is_in(new, context));
            membership.seen += 1;
            membership.entering += u64::from(!before && after);
            membership.leaving += u64::from(before && !after);
        }
        membership
    }

    /// The newest context of each unit of this type.
    fn contexts_of(&mut self, unit_type: &str) -> &[Context] {
        if !self.by_unit_type.contains_key(unit_type) {
            self.by_unit_type.insert(unit_type.to_owned(), newest_of_each_unit(&self.seen, unit_type));
        }
        self.by_unit_type.get(unit_type).map_or(&[][..], Vec::as_slice)
    }

    fn evaluate(
        &mut self,
        unit_type: &str,
        audience: Option<&Audience>,
        expressions: &[(String, &Audience)],
    ) -> v1::AudienceReport {
        let max_evaluation = self.max_evaluation;
        report((unit_type, audience), expressions, self.contexts_of(unit_type), Instant::now() + max_evaluation)
    }
}

/// The newest context of each unit with this unit type, from contexts that are sorted newest first.
fn newest_of_each_unit(seen: &[(Timestamp, Context)], unit_type: &str) -> Vec<Context> {
    let mut units = BTreeSet::new();
    let contexts = seen.iter().map(|(_, context)| context);
    let is_new = |context: &&Context| context.unit(unit_type).is_some_and(|unit| units.insert(unit.into_owned()));
    contexts.filter(is_new).take(MAX_RECENT_CONTEXTS).cloned().collect()
}

fn report(
    (unit_type, audience): (&str, Option<&Audience>),
    expressions: &[(String, &Audience)],
    contexts: &[Context],
    deadline: Instant,
) -> v1::AudienceReport {
    let warnings = expressions.iter().flat_map(|(field, audience)| {
        warnings(audience, unit_type, contexts)
            .into_iter()
            .map(|message| v1::AudienceWarning { field: field.clone(), message })
    });
    let mut report = v1::AudienceReport { warnings: warnings.collect(), ..v1::AudienceReport::default() };
    let Some(audience) = audience else { return report };
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
                    report.failure = match error {
                        AudienceError::Evaluation { message } => message,
                        error => error.to_string(),
                    };
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
    let has_warning = |name: &str| {
        audience.warnings().iter().any(|w| w.kind == WarningKind::CurrentTime && w.attribute.as_deref() == Some(name))
    };
    // Contexts are found by their unit, so it needs no check.
    let unknown: Vec<String> = audience
        .attributes()
        .into_iter()
        .filter(|name| *name != unit_type && !has_warning(name) && !contexts.iter().any(|context| context.has(name)))
        .map(|name| format!("`{name}`"))
        .collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        messages.push(match contexts.len() {
            0 => format!(
                "no context with {unit_type} was seen lately, so it is unknown whether callers send {names}: check the spelling"
            ),
            seen => format!(
                "none of the {seen} contexts seen lately has {names}: check the spelling, and that callers send it"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(audience: &str) -> Definition {
        let json = serde_json::json!({
            "key": "k", "unit": "user", "audience": audience, "policy": {"kind": "manual"},
            "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true}],
        });
        serde_json::from_value(json).unwrap()
    }

    fn user(n: u32) -> Context {
        Context::default().with("user", format!("u{n}"))
    }

    fn report_on(audience: &str, contexts: &[Context]) -> v1::AudienceReport {
        let definition = definition(audience);
        let expressions = [("audience".to_owned(), definition.audience().unwrap())];
        report(("user", definition.audience()), &expressions, contexts, Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn contexts_that_match_lack_an_attribute_or_have_no_result_are_counted() {
        let contexts = [
            user(1).with("country", "fr").with("seats", 3.0),
            user(2).with("country", "de").with("seats", 3.0),
            user(3).with("country", "fr").with("seats", "3"),
            user(4).with("country", Value::Null).with("seats", 3.0),
            user(5),
        ];
        let found = report_on("country == 'fr' && seats > 2", &contexts);
        assert_eq!((found.contexts, found.matching_contexts, found.failed_contexts), (5, 1, 1));
        assert_eq!(found.failure, "an ordering needs text, not a number");
        let missing = found.missing_attributes.iter().map(|m| (m.attribute.as_str(), m.contexts)).collect::<Vec<_>>();
        assert_eq!(missing, [("country", 2), ("seats", 1)]);
        assert_eq!(found.needed_attributes, ["country", "seats"]);
        assert_eq!(found.warnings, []);
    }

    #[test]
    fn evaluation_stops_at_the_deadline_and_reports_the_number_of_contexts() {
        let definition = definition("country == 'fr'");
        let contexts = [user(1), user(2), user(3)];
        assert_eq!(report(("user", definition.audience()), &[], &contexts, Instant::now()).contexts, 1);
    }

    #[test]
    fn warnings_that_recent_contexts_refute_are_left_out() {
        let warnings = |audience: &str, contexts: &[Context]| {
            report_on(audience, contexts).warnings.into_iter().map(|w| w.message).collect::<Vec<_>>().join("; ")
        };
        let (text, number) = (user(1).with("id", "12"), user(2).with("id", 12.0));
        assert!(warnings("id == '12'", &[text.clone(), user(3)]).is_empty());
        assert!(warnings("id == '12'", std::slice::from_ref(&number)).contains("write `id == 12`"));
        assert!(warnings("id == '12'", &[text.clone(), number]).contains("write `id == 12`"));
        assert!(warnings("id > '12'", std::slice::from_ref(&text)).contains("compares text"));
        assert!(warnings("now > 5", std::slice::from_ref(&text)).contains("not the current time"));
        assert!(!warnings("now > 5", std::slice::from_ref(&text)).contains("none of the"));
        assert!(warnings("now > 5", &[text.with("now", 6.0)]).is_empty());
    }

    #[test]
    fn attributes_that_no_context_has_are_named_together() {
        let warnings = |contexts: &[Context]| report_on("user != 'x' && (contry == 'fr' || a.b)", contexts).warnings;
        let seen = [user(1).with("country", "fr"), user(2).with("contry", Value::Null)];
        let message = &warnings(&seen)[0].message;
        assert!(message.starts_with("none of the 2 contexts seen lately has `a.b`, `contry`"), "{message}");
        let message = &warnings(&[])[0].message;
        assert!(message.starts_with("no context with user was seen lately"), "{message}");
    }

    #[test]
    fn definition_that_selects_other_units_changes_the_selection() {
        let (all, french) = (definition("true"), definition("country == 'fr'"));
        assert!(changes_selection(None, &french) && changes_selection(Some(&all), &french));
        assert!(!changes_selection(Some(&french), &french.clone()));
    }

    #[test]
    fn newest_context_of_each_unit_of_the_type_counts() {
        let at = Timestamp::from_micros;
        let seen = vec![
            (at(4), Context::new("not a user")),
            (at(3), user(1).with("country", "new")),
            (at(2), user(2)),
            (at(1), user(1).with("country", "old")),
        ];
        let found = newest_of_each_unit(&seen, "user");
        assert_eq!(found, [user(1).with("country", "new"), user(2)]);
    }

    #[test]
    fn units_that_enter_and_leave_an_audience_are_counted() {
        let at = Timestamp::from_micros;
        let seen = ["fr", "us", "us", "de"].into_iter().zip(1u32..);
        let seen = seen.map(|(country, n)| (at(9), user(n).with("country", country))).collect();
        let mut reporter =
            AudienceReporter { seen, by_unit_type: BTreeMap::new(), max_evaluation: Duration::from_secs(60) };
        let (old, new) = (definition("country in ['fr', 'de']"), definition("country in ['fr', 'us']"));
        let moved = reporter.count_membership("user", old.audience(), new.audience());
        assert_eq!(moved, Membership { seen: 4, entering: 2, leaving: 1 });
        assert_eq!(reporter.count_membership("user", old.audience(), None).entering, 2);
    }
}
