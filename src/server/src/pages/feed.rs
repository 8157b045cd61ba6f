//! The live feed: recent events that match the filter.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use inroad_dashboard::feed::{self, FeedPage};
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::NavItem;
use inroad_dashboard::pager::Pager;
use inroad_store::{Event, LoggedEvent, OutcomeEvent};

use super::access::Caller;
use super::{PageResponse, Pages, PagesState, error_response};
use crate::error::ServerError;
use crate::event_uses::Uncounted;

/// `GET /feed`
pub(super) async fn page(State(pages): PagesState, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    match search_events(&pages, &query).await {
        Ok(feed) => {
            PageResponse::new("Live feed", NavItem::Feed, feed.render()).with_live_updates("scope=events").send(&caller)
        }
        Err(error) => error_response(&caller, error),
    }
}

/// An outcome's value, and why no experiment counts it.
fn outcome_detail(outcome: &OutcomeEvent, uncounted: Option<Uncounted>) -> String {
    let value = (outcome.value_micros != 0).then(|| format!("value {}", outcome.value_micros as f64 / 1e6));
    let details = value.into_iter().chain(uncounted.map(|why| why.in_words().to_owned()));
    details.collect::<Vec<_>>().join("; ")
}

async fn search_events(pages: &Pages, query: &Form) -> Result<FeedPage, ServerError> {
    let shared = &pages.shared;
    let state = shared.catalogue.state();
    let mut page = FeedPage {
        kind: query.text("kind").to_owned(),
        experiment: query.text("experiment").to_owned(),
        unit: query.text("unit").to_owned(),
        variation_or_event: query.text("what").to_owned(),
        ..FeedPage::default()
    };
    // An outcome names no experiment, so it is matched by the events of the experiment's metrics.
    let metric_events: Option<BTreeSet<String>> = state
        .entries
        .get(page.experiment.as_str())
        .map(|entry| entry.experiment.definition.metrics().iter().map(|metric| metric.event.clone()).collect());
    let variation_key = |event: &inroad_store::ExposureEvent| {
        let entry = state.entries.get(event.experiment.as_str());
        let variation = entry.and_then(|entry| entry.experiment.definition.variation(event.arm));
        variation.map_or_else(|| event.arm.index().to_string(), |v| v.key.to_string())
    };
    let (uses, now) = (shared.event_uses.of(Arc::clone(&state)).await, shared.clock.now());
    let view = |logged: &LoggedEvent| match &logged.event {
        Event::Exposure(e) => feed::Event {
            seq: logged.seq,
            received_at: logged.received_at,
            occurred_at: e.occurred_at,
            kind: "exposure",
            experiment: e.experiment.to_string(),
            variation_or_event: variation_key(e),
            unit: e.unit.clone(),
            detail: format!("run {}, revision {}", e.generation, e.revision),
        },
        Event::Outcome(o) => feed::Event {
            seq: logged.seq,
            received_at: logged.received_at,
            occurred_at: o.occurred_at,
            kind: "outcome",
            experiment: o.clock.clone(),
            variation_or_event: o.event.clone(),
            unit: o.units.iter().map(|(kind, unit)| format!("{kind}={unit}")).collect::<Vec<_>>().join(" "),
            detail: outcome_detail(o, uses.why_uncounted(o, now)),
        },
    };
    let matches_filter = |event: &feed::Event| {
        let kind = page.kind.is_empty() || page.kind == event.kind;
        let experiment = page.experiment.is_empty()
            || event.experiment == page.experiment
            || (event.kind == "outcome"
                && event.experiment.is_empty()
                && metric_events.as_ref().is_some_and(|events| events.contains(&event.variation_or_event)));
        let unit = page.unit.is_empty() || event.unit.contains(&page.unit);
        kind && experiment
            && unit
            && (page.variation_or_event.is_empty() || event.variation_or_event == page.variation_or_event)
    };
    let (events, pager, searched) = shared
        .recent_events
        .read_newest(|all| {
            let mut searched = 0;
            let matching: Vec<_> = all.inspect(|_| searched += 1).map(view).filter(matches_filter).collect();
            let pager = Pager::new(query.text("page"), matching.len());
            (matching.get(pager.range()).unwrap_or_default().to_vec(), pager, searched)
        })
        .await?;
    let (rates, basis) = shared.recent_events.rates_per_minute(|_| Some(0), 1).await?;
    (page.events, page.pager, page.searched) = (events, pager, searched);
    page.per_minute = rates.first().copied().unwrap_or_default();
    page.rate_basis = basis;
    Ok(page)
}
