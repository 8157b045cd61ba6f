//! Pages that only look: the funnel, the live feed, the clients.

use std::collections::BTreeSet;
use std::time::Instant;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_assignment::MetricKind;
use inroad_dashboard::clients::{Client, Clients};
use inroad_dashboard::feed;
use inroad_dashboard::form::Form;
use inroad_dashboard::funnel::{Found, Funnel, MAX_STEPS};
use inroad_dashboard::shell::Place;
use inroad_policy::Interval;
use inroad_store::{Event, LoggedEvent};
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use super::guard::Caller;
use super::units::parse_instant;
use super::{Pages, Sheet, Site, refused};
use crate::error::ServerError;

/// The most events on the page.
const EVENTS: usize = 200;
/// The most clients on the page.
const CLIENTS: usize = 500;

/// `GET /experiments/{key}/funnel`
pub(super) async fn funnel(State(pages): Site, caller: Caller, Path(key): Path<String>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let asked = Form::parse(query.as_bytes());
    let steps = Form::all(query.as_bytes(), "step");
    match ask_funnel(&pages, &key, &asked, steps).await {
        Ok(found) => Sheet::new(&format!("Funnel of {key}"), Place::Elsewhere, found.render()).following("scope=experiment").send(&caller),
        Err(error) => refused(&caller, error),
    }
}

async fn ask_funnel(pages: &Pages, key: &str, asked: &Form, steps: Vec<String>) -> Result<Funnel, ServerError> {
    let state = pages.shared.catalogue.state();
    let experiment = &state.get(key)?.experiment;
    let mut events = BTreeSet::new();
    for metric in experiment.definition.metrics() {
        events.insert(metric.event.clone());
        if let MetricKind::Ratio { denominator } = &metric.kind {
            events.insert(denominator.clone());
        }
    }
    let generation = asked.text("generation").parse().unwrap_or(experiment.generations.len() as u32);
    let mut page = Funnel {
        key: key.to_owned(),
        generation,
        names: experiment.definition.variations().iter().map(|v| v.key.to_string()).collect(),
        steps: steps.into_iter().take(MAX_STEPS).collect(),
        from: asked.text("from").to_owned(),
        to: asked.text("to").to_owned(),
        events: events.into_iter().collect(),
        found: None,
        error: None,
    };
    if page.steps.is_empty() {
        return Ok(page);
    }
    let range = parse_instant(&page.from).and_then(|from| Ok((from, parse_instant(&page.to)?)));
    let (from, to) = match range {
        Ok(range) => range,
        Err(message) => {
            page.error = Some(message);
            return Ok(page);
        }
    };
    let request = v1::GetFunnelRequest {
        key: key.to_owned(),
        generation,
        steps: page.steps.clone(),
        from: from.map(timestamp_to_wire),
        to: to.map(timestamp_to_wire),
    };
    let begun = Instant::now();
    match crate::funnel::funnel(&pages.shared, request).await {
        Ok(answer) => page.found = Some(found(&answer, begun.elapsed().as_secs_f64() * 1e3)),
        Err(error) => page.error = Some(error.to_string()),
    }
    Ok(page)
}

fn found(answer: &v1::GetFunnelResponse, took_ms: f64) -> Found {
    let lift = |step: &v1::FunnelStep| {
        step.lift.as_ref().map(|lift| Interval { estimate: lift.estimate, low: lift.low, high: lift.high })
    };
    Found {
        reached: answer.arms.iter().map(|arm| std::iter::once(arm.exposed).chain(arm.steps.iter().map(|s| s.reached)).collect()).collect(),
        lifts: answer.arms.iter().map(|arm| arm.steps.iter().map(lift).collect()).collect(),
        took_ms,
    }
}

/// `GET /feed`
pub(super) async fn feed(State(pages): Site, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    match gather_feed(&pages, &asked).await {
        Ok(feed) => Sheet::new("Live feed", Place::Feed, feed.render()).following("scope=events").send(&caller),
        Err(error) => refused(&caller, error),
    }
}

async fn gather_feed(pages: &Pages, asked: &Form) -> Result<feed::Feed, ServerError> {
    let shared = &pages.shared;
    let state = shared.catalogue.state();
    let mut page = feed::Feed {
        kind: asked.text("kind").to_owned(),
        experiment: asked.text("experiment").to_owned(),
        unit: asked.text("unit").to_owned(),
        what: asked.text("what").to_owned(),
        ..feed::Feed::default()
    };
    // An outcome names no experiment: of those that measure it.
    let of_interest: Option<BTreeSet<String>> = state.entries.get(page.experiment.as_str()).map(|entry| {
        entry.experiment.definition.metrics().iter().map(|metric| metric.event.clone()).collect()
    });
    let name = |event: &inroad_store::ExposureEvent| {
        let entry = state.entries.get(event.experiment.as_str());
        let variation = entry.and_then(|entry| entry.experiment.definition.variation(event.arm));
        variation.map_or_else(|| event.arm.index().to_string(), |v| v.key.to_string())
    };
    let show = |logged: &LoggedEvent| match &logged.event {
        Event::Exposure(e) => feed::Event {
            seq: logged.seq,
            received_at: logged.received_at,
            occurred_at: e.occurred_at,
            kind: "exposure",
            experiment: e.experiment.to_string(),
            what: name(e),
            unit: e.unit.clone(),
            detail: format!("generation {}, revision {}", e.generation, e.revision),
        },
        Event::Outcome(o) => feed::Event {
            seq: logged.seq,
            received_at: logged.received_at,
            occurred_at: o.occurred_at,
            kind: "outcome",
            experiment: o.clock.clone(),
            what: o.event.clone(),
            unit: o.units.iter().map(|(kind, unit)| format!("{kind}={unit}")).collect::<Vec<_>>().join(" "),
            detail: if o.value_micros == 0 { String::new() } else { format!("value {}", o.value_micros as f64 / 1e6) },
        },
    };
    let fits = |event: &feed::Event| {
        let kind = page.kind.is_empty() || page.kind == event.kind;
        let experiment = page.experiment.is_empty()
            || event.experiment == page.experiment
            || (event.kind == "outcome" && event.experiment.is_empty() && of_interest.as_ref().is_some_and(|events| events.contains(&event.what)));
        let unit = page.unit.is_empty() || event.unit.contains(&page.unit);
        kind && experiment && unit && (page.what.is_empty() || event.what == page.what)
    };
    let (events, looked_at) = shared
        .recent
        .with(shared, |all| {
            let mut looked_at = 0;
            let shown = all.inspect(|_| looked_at += 1).map(show).filter(fits).take(EVENTS).collect::<Vec<_>>();
            (shown, looked_at)
        })
        .await?;
    let rates = shared.recent.per_minute(shared, |_| Some(0), 1).await?;
    (page.events, page.looked_at, page.per_minute) = (events, looked_at, rates.first().copied().unwrap_or_default());
    Ok(page)
}

/// `GET /clients`
pub(super) async fn clients(State(pages): Site, caller: Caller) -> Response {
    let version = pages.shared.catalogue.state().version;
    let mut all = pages.shared.clients.list();
    let total = all.len();
    all.sort_by_key(|client| (client.applied.map_or(u64::MAX, |applied| applied), client.connected_at));
    let shown = all.into_iter().take(CLIENTS).map(|client| Client {
        name: client.name,
        sdk: client.sdk,
        connected_at: client.connected_at,
        sent: client.sent,
        applied: client.applied,
        lag_ms: client.lag.map(|lag| lag.as_secs_f64() * 1e3),
        dropped_exposures: client.dropped_exposures,
        dropped_outcomes: client.dropped_outcomes,
        queued: client.queued,
    });
    let page = Clients { version, clients: shown.collect(), total };
    Sheet::new("Clients", Place::Clients, page.render()).following("scope=clients").send(&caller)
}
