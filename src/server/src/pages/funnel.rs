//! The funnel page.

use std::time::Instant;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_dashboard::form::Form;
use inroad_dashboard::funnel::{FunnelPage, FunnelResult};
use inroad_dashboard::layout::NavItem;
use inroad_policy::attribution::funnel::MAX_STEPS;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use super::access::Caller;
use super::experiment::lift_view;
use super::time_input::parse_time;
use super::{PageResponse, Pages, PagesState, error_message, error_response, suggested_event_names};
use crate::error::ServerError;
use crate::event_uses::events_of;

/// `GET /experiments/{key}/funnel`
pub(super) async fn page(
    State(pages): PagesState,
    caller: Caller,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let fields = Form::parse(query.as_bytes());
    let steps = Form::values(query.as_bytes(), "step");
    match compute_page(&pages, &key, &fields, steps).await {
        Ok(page) => PageResponse::new(&format!("Funnel of {key}"), NavItem::Other, page.render())
            .with_live_updates("scope=experiment")
            .send(&caller),
        Err(error) => error_response(&caller, error),
    }
}

async fn compute_page(pages: &Pages, key: &str, fields: &Form, steps: Vec<String>) -> Result<FunnelPage, ServerError> {
    let state = pages.shared.catalogue.state();
    let experiment = &state.get(key)?.experiment;
    let generation = fields.text("generation").parse().unwrap_or(experiment.generations.len() as u32);
    let mut page = FunnelPage {
        key: key.to_owned(),
        generation,
        names: experiment.definition.variations().iter().map(|v| v.key.to_string()).collect(),
        steps: steps.into_iter().take(MAX_STEPS).collect(),
        from: fields.text("from").to_owned(),
        to: fields.text("to").to_owned(),
        events: suggested_event_names(pages, events_of(experiment).into_iter()).await?,
        result: None,
        error: None,
    };
    if page.steps.is_empty() {
        return Ok(page);
    }
    let range = parse_time(&page.from).and_then(|from| Ok((from, parse_time(&page.to)?)));
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
        wait: false,
    };
    let started = Instant::now();
    match crate::funnel::compute_funnel(&pages.shared, request).await {
        Ok(response) => page.result = Some(view(&response, started.elapsed().as_secs_f64() * 1e3)),
        Err(error) => page.error = Some(error_message(&error)),
    }
    Ok(page)
}

fn view(response: &v1::GetFunnelResponse, took_ms: f64) -> FunnelResult {
    let lift = |step: &v1::FunnelStep| lift_view(step.lift.as_ref());
    FunnelResult {
        reached: response
            .arms
            .iter()
            .map(|arm| std::iter::once(arm.exposed).chain(arm.steps.iter().map(|s| s.reached)).collect())
            .collect(),
        note: response.note.clone(),
        hints: response.hints.clone(),
        lifts: response.arms.iter().map(|arm| arm.steps.iter().map(lift).collect()).collect(),
        took_ms,
    }
}
