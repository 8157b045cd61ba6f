//! The funnel's page.

use std::time::Instant;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_dashboard::form::Form;
use inroad_dashboard::funnel::{Found, Funnel};
use inroad_dashboard::shell::Place;
use inroad_policy::Interval;
use inroad_policy::attribution::funnel::MAX_STEPS;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use super::guard::Caller;
use super::units::parse_instant;
use super::{Pages, Sheet, Site, event_names, in_words, refused};
use crate::error::ServerError;

/// `GET /experiments/{key}/funnel`
pub(super) async fn page(
    State(pages): Site,
    caller: Caller,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let asked = Form::parse(query.as_bytes());
    let steps = Form::all(query.as_bytes(), "step");
    match ask_funnel(&pages, &key, &asked, steps).await {
        Ok(found) => Sheet::new(&format!("Funnel of {key}"), Place::Elsewhere, found.render())
            .following("scope=experiment")
            .send(&caller),
        Err(error) => refused(&caller, error),
    }
}

async fn ask_funnel(pages: &Pages, key: &str, asked: &Form, steps: Vec<String>) -> Result<Funnel, ServerError> {
    let state = pages.shared.catalogue.state();
    let experiment = &state.get(key)?.experiment;
    let generation = asked.text("generation").parse().unwrap_or(experiment.generations.len() as u32);
    let mut page = Funnel {
        key: key.to_owned(),
        generation,
        names: experiment.definition.variations().iter().map(|v| v.key.to_string()).collect(),
        steps: steps.into_iter().take(MAX_STEPS).collect(),
        from: asked.text("from").to_owned(),
        to: asked.text("to").to_owned(),
        events: event_names(pages, std::iter::once(&**experiment)).await?,
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
        wait: false,
    };
    let begun = Instant::now();
    match crate::funnel::funnel(&pages.shared, request).await {
        Ok(answer) => page.found = Some(found(&answer, begun.elapsed().as_secs_f64() * 1e3)),
        Err(error) => page.error = Some(in_words(&error)),
    }
    Ok(page)
}

fn found(answer: &v1::GetFunnelResponse, took_ms: f64) -> Found {
    let lift = |step: &v1::FunnelStep| {
        let lift = step.lift.as_ref()?.credible.as_ref()?;
        Some(Interval { estimate: lift.estimate, low: lift.low, high: lift.high })
    };
    Found {
        reached: answer
            .arms
            .iter()
            .map(|arm| std::iter::once(arm.exposed).chain(arm.steps.iter().map(|s| s.reached)).collect())
            .collect(),
        lifts: answer.arms.iter().map(|arm| arm.steps.iter().map(lift).collect()).collect(),
        took_ms,
    }
}
