//! The playground: which variation a unit gets and why, now or at any time since the experiment was created.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use inroad_assignment::experiment::Experiment;
use inroad_assignment::{Arm, Context, Definition, Kills, Point, Reason, ServedExperiment, Status, Timestamp, Width};
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::NavItem;
use inroad_dashboard::playground::{PlaygroundPage, UnitAssignment};
use inroad_wire::context::context_from_json;
use serde::Deserialize;

use super::access::Caller;
use super::allocation::{ShownAllocation, buckets, shipped_arm};
use super::time_input::parse_time;
use super::{PageResponse, Pages, PagesState, as_sentence, audience_summary, error_message};
use crate::audience_report::audience_report;
use crate::ended_run::{Conclusion, conclusion};
use crate::error::ServerError;

/// `GET /playground`
pub(super) async fn page(State(pages): PagesState, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    let state = pages.shared.catalogue.state();
    let mut page = PlaygroundPage {
        experiments: state.entries.keys().map(ToString::to_string).collect(),
        experiment: query.text("experiment").to_owned(),
        unit: query.text("unit").to_owned(),
        context: query.text("context").to_owned(),
        at: query.text("at").to_owned(),
        ..PlaygroundPage::default()
    };
    let has_input = !page.unit.is_empty() || !page.context.is_empty();
    if has_input && !page.experiment.is_empty() {
        match assign_unit(&pages, &page).await {
            Ok(assignment) => page.assignment = Some(assignment),
            Err((field, message)) => page.error = Some((field, message)),
        }
    }
    PageResponse::new("Playground", NavItem::Playground, page.render()).send(&caller)
}

/// The name of an invalid field with the error message.
type FieldError = (&'static str, String);

async fn assign_unit(pages: &Pages, input: &PlaygroundPage) -> Result<UnitAssignment, FieldError> {
    let shared = &pages.shared;
    let at_field = |field: &'static str| move |error: ServerError| (field, error_message(&error));
    let state = shared.catalogue.state();
    let entry = state.get(&input.experiment).map_err(at_field("experiment"))?;
    let wall_now = shared.clock.now();
    let past = parse_time(&input.at).map_err(|message| ("at", message))?;
    let experiment = match past {
        None => Experiment::clone(&entry.experiment),
        Some(at) => experiment_at(pages, &entry.experiment, at).await?,
    };
    let at = past.unwrap_or_else(|| experiment.now(wall_now));
    let mut context = match input.context.as_str() {
        "" => Context::default(),
        text => {
            let example = "Enter a JSON object such as {\"country\": \"fr\"}.";
            let fields: serde_json::Map<_, _> = serde_json::from_str(text)
                .map_err(|e| ("context", format!("This is not valid JSON ({e}). {example}")))?;
            context_from_json(&fields).map_err(|e| ("context", e.to_string()))?
        }
    };
    if !input.unit.is_empty() {
        context.insert(experiment.definition.unit().to_owned(), input.unit.clone().into());
    }
    let mut then = experiment.clone();
    then.manual_now = then.manual_now.map(|_| at);
    let served =
        ServedExperiment::from_experiment(&then, entry.version, at).map_err(|e| ("experiment", e.to_string()))?;
    let assignment = served.assign(&context, at);
    let definition = &experiment.definition;
    let generation = experiment.generation_by_number(assignment.generation);
    let allocation = generation.and_then(|g| g.revision_in_effect(at)).map(|r| &r.allocation);
    let name = |arm: Arm| definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let point = assignment.digest.map(|digest| digest.point());
    // After a conclusion, buckets no longer decide what is served.
    let deciding = allocation.filter(|_| shipped_arm(&experiment).is_none());
    let bucket = point.zip(deciding).and_then(|(point, allocation)| {
        let all: Vec<_> = allocation.buckets().collect();
        let index = all.partition_point(|bucket| bucket.start <= point).checked_sub(1)?;
        // First and last point, as `inroad assign` prints them.
        let last = all.get(index + 1).map_or(u64::MAX, |next| next.start.get() - 1);
        Some((name(all[index].owner), all[index].start.to_string(), Point::new(last).to_string()))
    });
    let owner = bucket.as_ref().map(|(owner, ..)| owner.clone()).unwrap_or_default();
    let arms = (0..definition.variations().len()).filter_map(Arm::new);
    let kills = experiment.kills;
    let payload = assignment.variation.map(|v| serde_json::to_string(&v.payload).unwrap_or_default());
    Ok(UnitAssignment {
        variation: assignment.variation.map(|v| v.key.to_string()).unwrap_or_default(),
        payload: payload.unwrap_or_default(),
        reason: assignment.reason.name(),
        why: explain_reason(assignment.reason, &owner, &experiment, &context),
        unit: served.unit_key(&context).map(|unit| unit.into_owned()),
        point: point.map(|point| (point.to_string(), point.get() as f64 / Width::LINE.get() as f64)),
        bucket,
        generation: assignment.generation,
        revision: assignment.revision,
        at,
        names: definition.variations().iter().map(|v| v.key.to_string()).collect(),
        buckets: match (deciding, allocation) {
            (Some(deciding), _) => buckets(deciding),
            (None, Some(_)) => ShownAllocation::newest(&experiment).buckets(),
            (None, None) => Vec::new(),
        },
        killed: arms.map(|arm| !arm.is_control() && kills.served_arm(arm).is_control()).collect(),
        audience: audience_report(shared, definition).await.as_ref().map(audience_summary),
        records_exposure: assignment.records_exposure,
    })
}

fn explain_reason(reason: Reason, owner: &str, experiment: &Experiment, context: &Context) -> String {
    let definition = &experiment.definition;
    let is_rolled_back = conclusion(experiment) == Some(Conclusion::RolledBack);
    let control = definition.variation(Arm::CONTROL).map(|v| v.key.to_string()).unwrap_or_default();
    match reason {
        Reason::Split => format!("The unit's point is in a bucket of {owner}."),
        Reason::Override => "An override gives this unit a fixed variation.".to_owned(),
        Reason::NotInAudience => {
            let error = definition.audience().and_then(|audience| audience.evaluate(context).err());
            let why = error.map(|error| format!(" {}", as_sentence(&error.to_string()))).unwrap_or_default();
            format!("This context does not match the audience, so the unit gets {control}.{why}")
        }
        Reason::Killed => {
            format!("The unit's point is in a bucket of {owner}, which is killed, so the unit gets {control}.")
        }
        Reason::Paused => format!("The experiment is paused. The unit keeps {owner}, and no exposure is recorded."),
        Reason::NotStarted => format!("The experiment had not started, so all units get {control}."),
        Reason::Concluded if is_rolled_back => format!("The experiment is rolled back, so the unit gets {control}."),
        Reason::Concluded => "The experiment is concluded. This unit gets the shipped variation.".to_owned(),
        Reason::Archived if is_rolled_back => {
            format!("The experiment was rolled back and is archived, so the unit gets {control}.")
        }
        Reason::Archived => "The experiment is archived. This unit gets the shipped variation.".to_owned(),
        Reason::NoUnit => {
            format!(
                "The context has no {} that is text or a whole number, so the unit gets {control}.",
                definition.unit()
            )
        }
        Reason::InvalidUnit => format!("The unit key is not 1 to 1,024 bytes long, so the unit gets {control}."),
        Reason::UnknownExperiment | Reason::NotReady => "This experiment does not exist.".to_owned(),
    }
}

/// The state of an experiment at an earlier time, from the audit log.
#[derive(Deserialize)]
struct AuditedExperiment {
    definition: Definition,
    status: Status,
    kills: Kills,
    manual_now: Option<Timestamp>,
    #[serde(default)]
    shipped_within_audience: bool,
}

/// The experiment at a time of its own clock: the definition at that time from the audit log, with the revisions
/// published until then.
async fn experiment_at(pages: &Pages, now: &Experiment, at: Timestamp) -> Result<Experiment, FieldError> {
    let state = pages.shared.store.audited_state(now.definition.key(), at).await;
    let state = state.map_err(|e| ("at", ServerError::from(e).to_string()))?;
    let Some(state) = state else {
        return Err(("at", "The experiment did not exist at this time. Choose a later time.".to_owned()));
    };
    let state = serde_json::from_str(&state).map_err(|e| ("at", ServerError::from(e).to_string()))?;
    let AuditedExperiment { definition, status, kills, manual_now, shipped_within_audience } = state;
    let mut then = Experiment { definition, status, kills, manual_now, shipped_within_audience, ..now.clone() };
    then.generations.retain(|generation| generation.started_at <= at);
    for generation in &mut then.generations {
        generation.revisions.retain(|revision| revision.created_at <= at);
        generation.kill_changes.retain(|change| change.at <= at);
    }
    Ok(then)
}
