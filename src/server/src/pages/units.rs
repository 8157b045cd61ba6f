//! The playground: what one unit gets, with the way to it, now or at any moment since the experiment was created.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use inroad_assignment::experiment::Experiment;
use inroad_assignment::{
    Arm, Context, Definition, ExperimentKey, Kills, Reason, ServedExperiment, Status, Timestamp, Width,
};
use inroad_dashboard::form::Form;
use inroad_dashboard::playground::{Answer, Playground};
use inroad_dashboard::shell::Place;
use inroad_store::Page;
use inroad_wire::context::context_from_json;
use serde::Deserialize;

use super::experiment::buckets;
use super::guard::Caller;
use super::{Pages, Sheet, Site, in_words};
use crate::error::ServerError;

/// How many audit entries are read at a time, and how many pages at the most.
const PAGE: usize = 500;
const PAGES: usize = 40;

/// An instant as people type it; none if nothing was typed.
pub(super) fn parse_instant(text: &str) -> Result<Option<Timestamp>, String> {
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    let bad = || format!("{text:?} is no instant: write it like 2026-01-31T09:00 (UTC)");
    let text = text.trim_end_matches('Z').replace(' ', "T");
    let time: jiff::civil::DateTime = text.parse().map_err(|_| bad())?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| bad())?;
    Ok(Some(Timestamp::from_micros(zoned.timestamp().as_microsecond())))
}

/// `GET /playground`
pub(super) async fn playground(State(pages): Site, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    let state = pages.shared.catalogue.state();
    let mut page = Playground {
        experiments: state.entries.keys().map(ToString::to_string).collect(),
        experiment: asked.text("experiment").to_owned(),
        unit: asked.text("unit").to_owned(),
        context: asked.text("context").to_owned(),
        at: asked.text("at").to_owned(),
        ..Playground::default()
    };
    let is_asked = !page.unit.is_empty() || !page.context.is_empty();
    if is_asked && !page.experiment.is_empty() {
        match answer(&pages, &page).await {
            Ok(answer) => page.answer = Some(answer),
            Err((field, message)) => page.error = Some((field, message)),
        }
    }
    Sheet::new("Playground", Place::Playground, page.render()).send(&caller)
}

type Fault = (&'static str, String);

async fn answer(pages: &Pages, asked: &Playground) -> Result<Answer, Fault> {
    let shared = &pages.shared;
    let at_fault = |field: &'static str| move |error: ServerError| (field, in_words(&error));
    let state = shared.catalogue.state();
    let entry = state.get(&asked.experiment).map_err(at_fault("experiment"))?;
    let wall_now = shared.clock.now();
    let past = parse_instant(&asked.at).map_err(|message| ("at", message))?;
    let experiment = match past {
        None => Experiment::clone(&entry.experiment),
        Some(at) => as_it_was(pages, &entry.experiment, at).await?,
    };
    let at = past.unwrap_or_else(|| experiment.now(wall_now));
    let mut context = match asked.context.as_str() {
        "" => Context::default(),
        text => {
            let example = "write a JSON object, such as {\"country\": \"fr\"}";
            let fields: serde_json::Map<_, _> =
                serde_json::from_str(text).map_err(|e| ("context", format!("{e}: {example}")))?;
            context_from_json(&fields).map_err(|e| ("context", e.to_string()))?
        }
    };
    if !asked.unit.is_empty() {
        context.insert(experiment.definition.unit().to_owned(), asked.unit.clone().into());
    }
    let mut then = experiment.clone();
    then.manual_now = then.manual_now.map(|_| at);
    let served = ServedExperiment::of(&then, entry.version, at).map_err(|e| ("experiment", e.to_string()))?;
    let assignment = served.assign(&context, at);
    let definition = &experiment.definition;
    let generation = experiment.generation_numbered(assignment.generation);
    let allocation = generation.and_then(|g| g.in_effect(at)).map(|r| &r.allocation);
    let name = |arm: Arm| definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let point = assignment.digest.map(|digest| digest.point());
    let bucket = point.zip(allocation).and_then(|(point, allocation)| {
        let all: Vec<_> = allocation.buckets().collect();
        let index = all.partition_point(|bucket| bucket.start <= point).checked_sub(1)?;
        let end = all.get(index + 1).map_or_else(|| "the end".to_owned(), |next| next.start.to_string());
        Some((name(all[index].owner), all[index].start.to_string(), end))
    });
    let owner = bucket.as_ref().map(|(owner, ..)| owner.clone()).unwrap_or_default();
    let arms = (0..definition.variations().len()).filter_map(Arm::new);
    let kills = experiment.kills;
    let payload = assignment.variation.map(|v| serde_json::to_string(&v.payload).unwrap_or_default());
    Ok(Answer {
        variation: assignment.variation.map(|v| v.key.to_string()).unwrap_or_default(),
        payload: payload.unwrap_or_default(),
        reason: assignment.reason.name(),
        why: why(assignment.reason, &owner, definition),
        unit: served.unit_of(&context).map(|unit| unit.into_owned()),
        point: point.map(|point| (point.to_string(), point.get() as f64 / Width::LINE.get() as f64)),
        bucket,
        generation: assignment.generation,
        revision: assignment.revision,
        at,
        names: definition.variations().iter().map(|v| v.key.to_string()).collect(),
        buckets: allocation.map(|allocation| buckets(allocation)).unwrap_or_default(),
        killed: arms.map(|arm| !arm.is_control() && kills.served(arm).is_control()).collect(),
        records_exposure: assignment.records_exposure,
    })
}

fn why(reason: Reason, owner: &str, definition: &Definition) -> String {
    let control = definition.variation(Arm::CONTROL).map(|v| v.key.to_string()).unwrap_or_default();
    match reason {
        Reason::Split => format!("The unit's place on the line belongs to {owner}."),
        Reason::Override => "An override pins it, whatever the line says.".to_owned(),
        Reason::NotInAudience => {
            format!("The audience expression does not hold for this context, so it gets {control}.")
        }
        Reason::Killed => {
            format!("Its place belongs to {owner}, which is killed, so it gets {control}. The place is kept.")
        }
        Reason::Paused => format!(
            "The experiment is paused: the unit keeps what its place says, {owner}, and no exposure is recorded."
        ),
        Reason::NotStarted => format!("The experiment had not started, so everybody gets {control}."),
        Reason::Concluded => "The experiment is concluded: everybody gets what was shipped.".to_owned(),
        Reason::Archived => "The experiment is archived: everybody gets what was shipped.".to_owned(),
        Reason::NoUnit => {
            format!("The context has no {} that is text or a whole number, so it gets {control}.", definition.unit())
        }
        Reason::InvalidUnit => format!("A unit key has 1 to 1,024 bytes; this one has not, so it gets {control}."),
        Reason::UnknownExperiment | Reason::NotReady => "Nothing is known of this experiment.".to_owned(),
    }
}

/// What the audit log keeps of an experiment after each change.
#[derive(Deserialize)]
struct Audited {
    definition: Definition,
    status: Status,
    kills: Kills,
    manual_now: Option<Timestamp>,
}

/// An experiment as it was at an instant of its own clock: what was declared then, by the audit log, and the boundaries that had
/// been published by then.
async fn as_it_was(pages: &Pages, now: &Experiment, at: Timestamp) -> Result<Experiment, Fault> {
    let key: &ExperimentKey = now.definition.key();
    let (mut before, mut found) = (u64::MAX, None);
    for _ in 0..PAGES {
        let page = Page { before, limit: PAGE };
        let entries =
            pages.shared.store.audit(Some(key), page).await.map_err(|e| ("at", ServerError::from(e).to_string()))?;
        for entry in &entries {
            let Ok(audited) = serde_json::from_str::<Audited>(&entry.to) else { continue };
            // By the experiment's own clock, where it has one.
            if audited.manual_now.unwrap_or(entry.at) <= at {
                found = Some(audited);
                break;
            }
        }
        match (entries.last(), &found) {
            (Some(last), None) if entries.len() == PAGE => before = last.id,
            _ => break,
        }
    }
    let Some(Audited { definition, status, kills, manual_now }) = found else {
        return Err(("at", "the experiment did not exist then: choose a later moment".to_owned()));
    };
    let mut then = Experiment { definition, status, kills, manual_now, ..now.clone() };
    then.generations.retain(|generation| generation.started_at <= at);
    for generation in &mut then.generations {
        generation.revisions.retain(|revision| revision.created_at <= at);
        generation.switches.retain(|switch| switch.at <= at);
    }
    Ok(then)
}
