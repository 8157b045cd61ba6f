//! The page of one experiment, filled from the results, the definition and the history.

mod durations;
mod history;
mod lift_history;
mod results;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_assignment::definition::{Lifetime, OverrideTarget};
use inroad_assignment::{Arm, Experiment, Generation, Policy, Timestamp};
use inroad_dashboard::experiment as view;
use inroad_dashboard::form::Form;
use inroad_dashboard::format::{NumberFormat, number};
use inroad_dashboard::layout::NavItem;
use inroad_policy::SrmAlarm;
use inroad_store::PageRequest;
use inroad_wire::v1;
use maud::{Markup, html};

use super::access::Caller;
use super::allocation::{ShownAllocation, allocation_note, is_within_audience, shipped_arm};
use super::{PageResponse, Pages, PagesState, as_sentence, audience_summary, error_response};
use crate::audience_report::audience_report;
use crate::ended_run::{Conclusion, as_of_run, conclusion, ended_by_restart};
use crate::error::ServerError;
use crate::services::result::results_and_alarm;
use crate::shared::SharedState;
pub(super) use history::audit_entry;
pub(super) use lift_history::LiftHistoryCache;
pub(super) use results::lift_view;

/// `GET /experiments/{key}`
pub(super) async fn page(
    State(pages): PagesState,
    caller: Caller,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    match view_experiment(&pages, &key, &query).await {
        Ok(page) => {
            let live = if page.completed_action.is_some() { "scope=experiment&done=1" } else { "scope=experiment" };
            PageResponse::new(&key, NavItem::Other, page.render()).with_live_updates(live).send(&caller)
        }
        Err(error) => error_response(&caller, error),
    }
}

async fn view_experiment(pages: &Pages, key: &str, query: &Form) -> Result<view::ExperimentPage, ServerError> {
    let shared = &pages.shared;
    let state = shared.catalogue.state();
    let entry = state.get(key)?;
    let number = match query.text("generation") {
        "" => 0,
        text => text.parse().map_err(|_| ServerError::Invalid {
            field: "generation",
            message: "Runs are numbered 1, 2, 3 and so on. Correct the number in the address.".to_owned(),
        })?,
    };
    let request = v1::GetResultsRequest { key: key.to_owned(), generation: number, wait: false };
    let (results, alarm) = results_and_alarm(shared, request).await?;
    let number = results.generation;
    let experiment = &as_of_run(&entry.experiment, number);
    let now = experiment.now(shared.clock.now());
    let experiment_key = experiment.definition.key();
    let before = query.text("before").parse().unwrap_or(u64::MAX);
    let (audit, older_audit) = history::audit_entries_before(shared, experiment_key, before).await?;
    let mut page = view_definition_and_results(experiment, &results, alarm, now);
    page.audit = audit;
    page.older_audit = older_audit;
    page.completed_action = completed_action(shared, experiment, query);
    if page.completed_action.is_some() && ["create", "edit"].contains(&query.text("did")) {
        page.saved_audience = audience_report(shared, &experiment.definition).await.as_ref().map(audience_summary);
    }
    let Some(generation) = experiment.generation_by_number(number) else { return Ok(page) };
    let newest = PageRequest { before: u64::MAX, limit: history::MAX_LISTED, max_bytes: history::DECISION_BYTES };
    let records = shared.store.decisions(experiment_key, number, newest).await?;
    page.decisions = history::decisions(experiment, number, &records)?;
    page.marks = history::revision_marks(generation, &page.decisions);
    page.steps = history::share_steps(experiment, generation);
    let counts = shared.store.counts(experiment_key, number).await?;
    if let Some(lifts) = lift_history::lift_history(pages, experiment, generation, counts, now).await? {
        for (arm, lifts) in page.arms.iter_mut().zip(lifts.iter()) {
            arm.lift_history.clone_from(lifts);
        }
    }
    Ok(page)
}

/// The action that led to this page, from its address. Anybody can forge an address, so the action is shown only if the
/// version in the address is the one that this action on this experiment published.
fn completed_action(shared: &SharedState, experiment: &Experiment, query: &Form) -> Option<view::CompletedAction> {
    let version = query.text("version").parse::<u64>().ok()?;
    let action = query.text("did");
    let reach = shared.clients.version_reach(version);
    if reach.experiment != experiment.definition.key().as_str() || reach.action != audited_action(action) {
        return None;
    }
    Some(view::CompletedAction {
        summary: action_summary(experiment, action, query.text("variation"))?,
        connected_clients: reach.connected,
        updated_clients: reach.applied,
        anonymous_clients: reach.anonymous,
        median_ms: reach.to_applied.as_ref().map(|delays| delays.p50.as_secs_f64() * 1e3),
        slowest_ms: reach.to_applied.as_ref().map(|delays| delays.max.as_secs_f64() * 1e3),
    })
}

/// The name in the audit log of an action in a page's address.
fn audited_action(action: &str) -> &str {
    match action {
        "edit" => "update",
        "reallocate" => "tick",
        action => action,
    }
}

/// What an action did, as a sentence; none if it is no longer in effect.
fn action_summary(experiment: &Experiment, action: &str, variation: &str) -> Option<String> {
    let arm = if variation.is_empty() { None } else { Some(experiment.arm(variation).ok()?) };
    let subject = if variation.is_empty() { "The experiment" } else { variation };
    let is_killed = arm.map_or(experiment.kills.everything, |arm| experiment.kills.is_arm_killed(arm));
    if (action == "kill" && !is_killed) || (action == "restore" && is_killed) {
        return None;
    }
    Some(match action {
        "kill" => format!("{subject} is killed: its units get control."),
        "restore" => format!("{subject} is restored: the same units see it again."),
        "grow" => format!("{subject} grows. The change is published and takes effect everywhere at the same time."),
        "start" => "Experiment started.".to_owned(),
        "pause" => "Experiment paused. All units keep their variation; no exposures are recorded.".to_owned(),
        "resume" => "Experiment resumed.".to_owned(),
        "restart" => "Experiment restarted under a new salt.".to_owned(),
        "conclude" => match conclusion(experiment) {
            Some(Conclusion::RolledBack) => "Experiment rolled back to control.".to_owned(),
            Some(Conclusion::Shipped(arm)) => {
                let variation = experiment.definition.variation(arm).map(|v| v.key.as_str()).unwrap_or_default();
                format!("Experiment concluded: {variation} is shipped.")
            }
            None => return None,
        },
        "archive" => "Experiment archived.".to_owned(),
        "reallocate" => "The policy has decided. See the decision and its reasons in History.".to_owned(),
        "edit" => "Saved.".to_owned(),
        "create" => "Draft created.".to_owned(),
        _ => return None,
    })
}

/// The parts of the page that come from the definition and the results.
fn view_definition_and_results(
    experiment: &Experiment,
    results: &v1::GetResultsResponse,
    alarm: SrmAlarm,
    now: Timestamp,
) -> view::ExperimentPage {
    let definition = &experiment.definition;
    let generation = experiment.generation_by_number(results.generation);
    let allocation = match generation {
        Some(generation) => ShownAllocation::of(experiment, generation),
        None => ShownAllocation::newest(experiment),
    };
    let ended_at = generation.and_then(Generation::ended_at);
    let running = generation.filter(|_| ended_at.is_none());
    let pending_until = running.and_then(Generation::latest).map(|revision| revision.effective_at);
    let name = |arm: Arm| definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let arms = (0..definition.variations().len()).filter_map(Arm::new);
    let shipped = shipped_arm(experiment);
    let overrides = definition.overrides().iter().map(|o| {
        let units = match &o.target {
            OverrideTarget::Units(units) => units.iter().take(20).cloned().collect::<Vec<_>>().join(", "),
            OverrideTarget::Audience(audience) => audience.source().to_owned(),
        };
        (units, name(o.arm))
    });
    view::ExperimentPage {
        key: definition.key().to_string(),
        description: definition.description().to_owned(),
        owner: definition.owner().to_owned(),
        tags: definition.tags().to_vec(),
        state: if generation.and_then(ended_by_restart).is_some() { "ended" } else { experiment.status.name() },
        shipped_within_audience: shipped.is_some_and(|arm| is_within_audience(experiment, arm)),
        shipped: shipped.map(name),
        killed: experiment.kills.everything,
        lifetime: if definition.lifetime() == Lifetime::Permanent { "permanent" } else { "temporary" },
        unit: definition.unit().to_owned(),
        audience: definition.audience().map(|a| a.source().to_owned()).unwrap_or_default(),
        overrides: overrides.collect(),
        has_policy: matches!(definition.policy(), Policy::Thompson(_)),
        policy: policy_summary(definition.policy()),
        generation: results.generation,
        generations: experiment.generations.len() as u32,
        revision: results.revision,
        pending_until: pending_until.filter(|at| *at > now),
        started_at: generation.map(|g| g.started_at),
        now,
        manual_clock: experiment.manual_now.is_some(),
        verdict: as_sentence(&results.verdict),
        arms: arms.map(|arm| results::view_arm(experiment, &allocation, results, arm)).collect(),
        units_note: results.units_note.clone(),
        buckets: if generation.is_some() { allocation.buckets() } else { Vec::new() },
        allocation_note: generation.map(|g| allocation_note(experiment, g)).unwrap_or_default(),
        floor: generation.is_none_or(|g| g.endings.is_empty()).then(|| definition.policy().floor().share()),
        steps: Vec::new(),
        steps_until: generation.and_then(ended_by_restart).unwrap_or(now),
        marks: Vec::new(),
        kills: generation.map(history::kill_periods).unwrap_or_default(),
        metrics: definition
            .metrics()
            .iter()
            .enumerate()
            .map(|(i, m)| results::view_metric(m, i, definition.decision_metric(), results))
            .collect(),
        health: results::health(experiment, results, alarm),
        decisions: Vec::new(),
        audit: Vec::new(),
        older_audit: None,
        completed_action: None,
        saved_audience: None,
    }
}

fn policy_summary(policy: &Policy) -> Markup {
    match policy {
        Policy::Manual { floor, tick } => html! {
            "Manual (feature flag). Minimum control share " (number(floor.share(), NumberFormat::Percent1))
            ". Reporting interval: " (durations::in_words(*tick)) "."
        },
        Policy::Thompson(s) => html! {
            "Automatic (Thompson sampling)" @if s.shadow { ", in shadow mode (decisions are not applied; guardrails still act)" }
            ". Update frequency: " (durations::every(s.tick)) ". Minimum control share " (number(s.floor, NumberFormat::Percent1))
            ". At most " (number(s.daily_cap, NumberFormat::Percent0)) " of traffic moves in a day, " (number(s.daily_cap_conclude, NumberFormat::Percent0)) " while one variation is probably best and its expected loss is small."
        },
    }
}
