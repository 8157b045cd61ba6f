//! Pages that only look: the live feed, and who is connected.

use std::collections::BTreeSet;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use inroad_dashboard::clients::{Client, Clients};
use inroad_dashboard::feed;
use inroad_dashboard::form::Form;
use inroad_dashboard::shell::Place;
use inroad_store::{Event, LoggedEvent};

use super::guard::Caller;
use super::{Pages, Sheet, Site, refused};
use crate::error::ServerError;

/// The most events on the page.
const EVENTS: usize = 200;
/// The most clients on the page.
const CLIENTS: usize = 500;

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
    let of_interest: Option<BTreeSet<String>> = state
        .entries
        .get(page.experiment.as_str())
        .map(|entry| entry.experiment.definition.metrics().iter().map(|metric| metric.event.clone()).collect());
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
            || (event.kind == "outcome"
                && event.experiment.is_empty()
                && of_interest.as_ref().is_some_and(|events| events.contains(&event.what)));
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
    all.sort_by_key(|client| (std::cmp::Reverse(client.versions_behind), client.stream));
    let shown = all.into_iter().take(CLIENTS).map(|client| {
        // Whoever names itself reports; an anonymous watcher says nothing.
        let reports = !client.client_id.is_empty() && client.reported_at.is_some();
        Client {
            is_behind: client.is_behind(),
            name: client.client_name,
            sdk: client.sdk,
            connected_at: client.connected_at,
            sent: client.sent_version,
            applied: client.applied_version,
            lag_ms: client.lag.map(|lag| lag.as_secs_f64() * 1e3),
            dropped_exposures: reports.then_some(client.dropped_exposures),
            dropped_outcomes: reports.then_some(client.dropped_outcomes),
            queued: reports.then_some(client.queued_events),
        }
    });
    let page = Clients { version, clients: shown.collect(), total };
    Sheet::new("Clients", Place::Clients, page.render()).following("scope=clients").send(&caller)
}
