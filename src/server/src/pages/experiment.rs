//! One experiment's page: everything the services say of it, as a view.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_assignment::definition::{Lifetime, Pinned};
use inroad_assignment::{
    Allocation, Arm, Experiment, ExperimentKey, Generation, GuardrailAction, Metric, MetricKind, Policy, Status,
    Target, Timestamp, Width,
};
use inroad_dashboard::chart::text::{Format, number, plural};
use inroad_dashboard::chart::{Bucket, Killed, LiftPoint, RevisionMark};
use inroad_dashboard::experiment as view;
use inroad_dashboard::form::Form;
use inroad_dashboard::shell::Place;
use inroad_policy::{ALPHA, Estimator, Interval, Prior, SrmAlarm, Z_95, confidence_sequence, shown_lift};
use inroad_store::{AuditEntry, Counts, Page, StoredDecision};
use inroad_wire::v1;
use maud::{Markup, html};

use super::guard::Caller;
use super::standing::fingerprint;
use super::{Pages, Sheet, Site, refused};
use crate::error::ServerError;
use crate::explain::{MOST_ODDS, decision_to_wire, odds};
use crate::report::{live, tau};
use crate::services::Shared;
use crate::services::result::results_and_alarm;
use crate::tallies::{epoch_tallies, measure};

/// The most decisions and audit entries on the page.
const LISTED: usize = 40;
/// How many entries of the audit log are read at once, and how often at the most for one page: nearly all of them may be
/// ticks that are not listed.
const AUDIT_READ: (usize, usize) = (200, 5);
/// The most instants of a course.
const COURSE_POINTS: usize = 40;

/// An arm's lift as of each tick.
type Course = Vec<Vec<LiftPoint>>;

/// Courses, kept until what they were drawn from changes: they cost a fit for each tick.
#[derive(Default)]
pub(super) struct Courses(Mutex<HashMap<(String, u32), Drawn>>);

/// A course, and what it was drawn from.
type Drawn = (Basis, Arc<Course>);

/// All that a course depends on.
#[derive(PartialEq)]
struct Basis {
    /// The print of the counts.
    counts: u64,
    /// The metric that decides: its place among the metrics, and how it is measured.
    metric: (usize, Metric),
    tau: f64,
    live: Vec<bool>,
}

/// The line as the dashboard draws it: 0 to 1.
pub(super) fn buckets(allocation: &Allocation) -> Vec<Bucket> {
    let place = |at: u128| at as f64 / Width::LINE.get() as f64;
    let all: Vec<_> = allocation.buckets().collect();
    let ends = all.iter().skip(1).map(|b| u128::from(b.start.get())).chain([Width::LINE.get()]);
    let drawn = all.iter().zip(ends);
    drawn
        .map(|(bucket, end)| Bucket {
            from: place(u128::from(bucket.start.get())),
            to: place(end),
            arm: bucket.owner.index(),
        })
        .collect()
}

/// `GET /experiments/{key}`
pub(super) async fn page(
    State(pages): Site,
    caller: Caller,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    match gather(&pages, &key, &asked).await {
        Ok(found) => {
            let live = if found.done.is_some() { "scope=experiment&done=1" } else { "scope=experiment" };
            Sheet::new(&key, Place::Elsewhere, found.render()).following(live).send(&caller)
        }
        Err(error) => refused(&caller, error),
    }
}

async fn gather(pages: &Pages, key: &str, asked: &Form) -> Result<view::Experiment, ServerError> {
    let shared = &pages.shared;
    let state = shared.catalogue.state();
    let entry = state.get(key)?;
    let experiment = &entry.experiment;
    let number = match asked.text("generation") {
        "" => 0,
        text => text.parse().map_err(|_| ServerError::Invalid {
            field: "generation",
            message: "generations are numbered from 1".to_owned(),
        })?,
    };
    let request = v1::GetResultsRequest { key: key.to_owned(), generation: number, wait: false };
    let (results, alarm) = results_and_alarm(shared, request).await?;
    let number = results.generation;
    let now = experiment.now(shared.clock.now());
    let experiment_key = experiment.definition.key();
    let page = Page { before: u64::MAX, limit: LISTED };
    let before = asked.text("before").parse().unwrap_or(u64::MAX);
    let (audit, older_audit) = changes_before(shared, experiment_key, before).await?;
    let mut found = frame(experiment, &results, alarm, now);
    found.audit = audit.iter().map(audit_entry).collect();
    found.older_audit = older_audit;
    let version = asked.text("version").parse::<u64>().ok();
    found.done = version.and_then(|version| {
        let reach = shared.clients.reached(version);
        // Anybody can write an address: what is said is what that version did to this experiment, or nothing.
        let did = asked.text("did");
        let is_it = reach.experiment == key && reach.action == audited_as(did);
        Some(view::Done {
            what: said(experiment, did, asked.text("variation")).filter(|_| is_it)?,
            clients: reach.connected,
            reached: reach.applied,
            typical_ms: reach.to_applied.as_ref().map(|delays| delays.p50.as_secs_f64() * 1e3),
            slowest_ms: reach.to_applied.as_ref().map(|delays| delays.max.as_secs_f64() * 1e3),
        })
    });
    let Some(generation) = experiment.generation_numbered(number) else { return Ok(found) };
    let records = shared.store.decisions(experiment_key, number, page).await?;
    found.decisions = decisions(experiment, number, &records)?;
    found.marks = marks(generation, &found.decisions);
    found.steps = steps(experiment, generation);
    let counts = shared.store.counts(experiment_key, number).await?;
    if let Some(course) = course(pages, experiment, generation, &counts, now)? {
        for (arm, course) in found.arms.iter_mut().zip(course.iter()) {
            arm.course.clone_from(course);
        }
    }
    Ok(found)
}

/// The newest entries of the audit log before one, without ticks that changed nothing; and before which entry the rest is.
async fn changes_before(
    shared: &Shared,
    key: &ExperimentKey,
    mut before: u64,
) -> Result<(Vec<AuditEntry>, Option<u64>), ServerError> {
    let (limit, times) = AUDIT_READ;
    let mut found = Vec::new();
    for _ in 0..times {
        let entries = shared.store.audit(Some(key), Page { before, limit }).await?;
        let is_last = entries.len() < limit;
        for entry in entries {
            before = entry.id;
            if entry.action != "tick" || entry.from != entry.to {
                found.push(entry);
            }
            if found.len() == LISTED {
                return Ok((found, Some(before)));
            }
        }
        if is_last {
            return Ok((found, None));
        }
    }
    Ok((found, Some(before)))
}

/// What the audit log calls what a page's address tells as done.
fn audited_as(did: &str) -> &str {
    match did {
        "edit" => "update",
        "reallocate" => "tick",
        did => did,
    }
}

/// What was done, for the one who did it; nothing if it does not hold of this experiment.
fn said(experiment: &Experiment, action: &str, variation: &str) -> Option<String> {
    let arm = if variation.is_empty() { None } else { Some(experiment.arm(variation).ok()?) };
    let of = if variation.is_empty() { "The experiment" } else { variation };
    let is_killed = arm.map_or(experiment.kills.everything, |arm| experiment.kills.arm(arm));
    if (action == "kill" && !is_killed) || (action == "restore" && is_killed) {
        return None;
    }
    Some(match action {
        "kill" => format!("{of} is killed: it serves control."),
        "restore" => format!("{of} is restored: it serves the very units it had."),
        "grow" => format!("{of} grows: published, and in effect in a moment, everywhere at once."),
        "start" => "It has started.".to_owned(),
        "pause" => "It is paused: everybody keeps what they have, nothing is recorded.".to_owned(),
        "resume" => "It goes on.".to_owned(),
        "restart" => "It has started again, under a new salt.".to_owned(),
        "conclude" => "It is concluded.".to_owned(),
        "archive" => "It is put away.".to_owned(),
        "reallocate" => "The policy has decided: see History for what and why.".to_owned(),
        "edit" => "Saved.".to_owned(),
        "create" => "Created, as a draft.".to_owned(),
        _ => return None,
    })
}

/// All that the results and the definition say.
fn frame(
    experiment: &Experiment,
    results: &v1::GetResultsResponse,
    alarm: SrmAlarm,
    now: Timestamp,
) -> view::Experiment {
    let definition = &experiment.definition;
    let generation = experiment.generation_numbered(results.generation);
    let allocation = generation
        .and_then(Generation::latest)
        .map_or_else(|| experiment.latest_allocation(), |r| Arc::clone(&r.allocation));
    let name = |arm: Arm| definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let arms = (0..definition.variations().len()).filter_map(Arm::new);
    let shipped = match experiment.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => Some(name(shipped)),
        _ => None,
    };
    let overrides = definition.overrides().iter().map(|o| {
        let who = match &o.who {
            Pinned::Units(units) => units.iter().take(20).cloned().collect::<Vec<_>>().join(", "),
            Pinned::Audience(audience) => audience.source().to_owned(),
        };
        (who, name(o.arm))
    });
    view::Experiment {
        key: definition.key().to_string(),
        description: definition.description().to_owned(),
        owner: definition.owner().to_owned(),
        tags: definition.tags().to_vec(),
        state: experiment.status.name(),
        shipped,
        killed: experiment.kills.everything,
        lifetime: if definition.lifetime() == Lifetime::Permanent { "permanent" } else { "temporary" },
        unit: definition.unit().to_owned(),
        audience: definition.audience().map(|a| a.source().to_owned()).unwrap_or_default(),
        overrides: overrides.collect(),
        has_policy: matches!(definition.policy(), Policy::Thompson(_)),
        policy: policy(definition.policy()),
        generation: results.generation,
        generations: experiment.generations.len() as u32,
        revision: results.revision,
        started_at: generation.map(|g| g.started_at),
        now,
        manual_clock: experiment.manual_now.is_some(),
        verdict: capitalised(&results.verdict),
        arms: arms.map(|arm| view_arm(experiment, &allocation, results, arm)).collect(),
        buckets: if generation.is_some() { buckets(&allocation) } else { Vec::new() },
        floor: definition.policy().floor().share(),
        steps: Vec::new(),
        marks: Vec::new(),
        kills: generation.map(kills).unwrap_or_default(),
        metrics: definition
            .metrics()
            .iter()
            .enumerate()
            .map(|(i, m)| view_metric(m, i, definition.decision_metric(), results))
            .collect(),
        health: health(experiment, results, alarm),
        decisions: Vec::new(),
        audit: Vec::new(),
        older_audit: None,
        done: None,
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A length of time in the largest unit that it is a whole number of: `1 day`, `36 hours`.
fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let whole = duration.subsec_nanos() == 0;
    let fits = units.into_iter().find(|(unit, _)| whole && seconds >= *unit && seconds.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{duration:?}"), |(unit, word)| plural(seconds / unit, word))
}

/// How often: `every day`, `every 6 hours`.
fn every(duration: Duration) -> String {
    let length = length(duration);
    format!("every {}", length.strip_prefix("1 ").unwrap_or(&length))
}

fn policy(policy: &Policy) -> Markup {
    match policy {
        Policy::Manual { floor, tick } => html! {
            "people move the boundaries; control keeps " (number(floor.share(), Format::Percent1))
            "; results are cut " (every(*tick))
        },
        Policy::Thompson(s) => html! {
            "Thompson sampling" @if s.shadow { ", in shadow (it changes nothing; guardrails do)" }
            ", deciding " (every(s.tick)) "; control keeps " (number(s.floor, Format::Percent1))
            "; at most " (number(s.daily_cap, Format::Percent0)) " of the line moves in a day"
        },
    }
}

fn view_arm(experiment: &Experiment, allocation: &Allocation, results: &v1::GetResultsResponse, arm: Arm) -> view::Arm {
    let declared = experiment.definition.variation(arm);
    let result = results.arms.get(arm.index());
    let lift = result.and_then(|r| r.lift.as_ref()).map(interval);
    // The middle and the ends of the interval say what the posterior is: it is normal on the log scale.
    let posterior = lift.filter(|_| !arm.is_control() && !experiment.kills.arm(arm)).map(|lift| {
        let (low, high) = (lift.low.ln_1p(), lift.high.ln_1p());
        (lift.estimate.ln_1p(), (high - low) / (2.0 * Z_95))
    });
    view::Arm {
        name: declared.map(|v| v.key.to_string()).unwrap_or_default(),
        description: declared.map(|v| v.description.clone()).unwrap_or_default(),
        payload: declared.map(|v| serde_json::to_string(&v.payload).unwrap_or_default()).unwrap_or_default(),
        killed: experiment.kills.arm(arm),
        share: allocation.width_of(arm).share(),
        units: result.map_or(0, |r| r.units),
        p_best: result.map_or(0.0, |r| r.p_best),
        expected_loss: result.map_or(0.0, |r| r.expected_loss),
        posterior,
        course: Vec::new(),
    }
}

fn interval(interval: &v1::Interval) -> Interval {
    Interval { estimate: interval.estimate, low: interval.low, high: interval.high }
}

fn view_metric(
    metric: &Metric,
    index: usize,
    decides: Option<usize>,
    results: &v1::GetResultsResponse,
) -> view::Metric {
    let kind = match &metric.kind {
        MetricKind::Conversion => format!("Whether {} happened to the unit", metric.event),
        MetricKind::Count => format!("How often {} happened to the unit", metric.event),
        MetricKind::Mean { cap: Some(cap) } => {
            format!("The sum of {}'s values per unit, at most {cap} each", metric.event)
        }
        MetricKind::Mean { cap: None } => format!("The sum of {}'s values per unit", metric.event),
        MetricKind::Ratio { denominator } => format!("The values of {} over those of {denominator}", metric.event),
    };
    let window = length(metric.window);
    let better = if metric.direction == inroad_assignment::Direction::Up { "more" } else { "less" };
    let guardrail = metric.guardrail.map(|guardrail| {
        let action = match guardrail.action {
            GuardrailAction::Alert => "it is said aloud",
            GuardrailAction::Freeze => "growth stops",
            GuardrailAction::Kill => "the variation is killed",
        };
        html! { "When a variation is worse than control by over " (number(guardrail.margin, Format::Percent1)) ", " (action) "." }
    });
    view::Metric {
        key: metric.key.to_string(),
        about: format!("{kind}, within {window} of its first exposure; {better} is better."),
        decides: decides == Some(index),
        is_rate: metric.kind == MetricKind::Conversion,
        guardrail,
        arms: results.arms.iter().map(|arm| arm.metrics.get(index).map(view_arm_metric).unwrap_or_default()).collect(),
    }
}

fn view_arm_metric(result: &v1::MetricResult) -> view::ArmMetric {
    let estimates = result.lift.as_ref();
    let mut doubts = Vec::new();
    let percent = |share: f64| number(share, Format::Percent1);
    if let Some(delay) = result.delay.as_ref().filter(|delay| delay.differs) {
        doubts.push(html! {
            (percent(delay.early)) " of its units with an outcome had it within a quarter of the window, of control's "
            (percent(delay.control_early)) ": read mature units only"
        });
    }
    if result.novelty.as_ref().is_some_and(|novelty| novelty.changed) {
        doubts.push(html! { "its lift has changed over time: novelty that wears off, or learning" });
    }
    if estimates.is_some_and(|estimates| estimates.disagrees) {
        doubts.push(html! { "the estimators disagree: its lift is not one constant number" });
    }
    view::ArmMetric {
        units: result.units,
        converted: result.converted,
        outcome_sum: result.outcome_sum,
        mean: result.mean,
        lift: estimates.and_then(|e| e.credible.as_ref()).map(interval),
        anytime: estimates.and_then(|e| e.anytime.as_ref()).map(interval),
        difference: estimates.and_then(|e| e.difference.as_ref()).map(interval),
        mature: result.mature.as_ref().and_then(|e| e.credible.as_ref()).map(interval),
        mature_units: result.mature_units,
        opinions: estimates.and_then(|e| Some((interval(e.period.as_ref()?), interval(e.batched.as_ref()?)))),
        p_above_control: result.p_above_control,
        harm: result.harm,
        doubts,
    }
}

fn health(experiment: &Experiment, results: &v1::GetResultsResponse, alarm: SrmAlarm) -> view::Health {
    let alerts = experiment.alerts.iter().map(|alert| {
        let name = experiment.definition.variation(alert.arm).map(|v| v.key.to_string()).unwrap_or_default();
        let odds = odds(alert.log_evidence);
        html! {
            (alert.metric) ": " (name) " does harm (evidence "
            @if odds > MOST_ODDS { "over " } (number(odds.min(MOST_ODDS), Format::Int)) " to 1)"
        }
    });
    view::Health {
        warnings: results.warnings.clone(),
        ship_arm: (!results.ship.is_empty()).then(|| results.ship.clone()),
        units_moved: results.units_moved,
        crossovers: results.crossovers,
        stale_exposures: results.stale_exposures,
        dropped: results.dropped_records,
        backlog: results.backlog,
        headroom: results.headroom,
        days_of_headroom: results.days_of_headroom,
        potential_value: results.potential_value_remaining,
        sample_ratio: results.sample_ratio.as_ref().map(|ratio| view::SampleRatio {
            chi_squared: ratio.chi_squared,
            degrees_of_freedom: ratio.degrees_of_freedom,
            p_value: ratio.p_value,
            evidence: ratio.evidence,
            alarm,
        }),
        alerts: alerts.collect(),
    }
}

/// The newest decisions, newest first.
fn decisions(
    experiment: &Experiment,
    generation: u32,
    records: &[StoredDecision],
) -> Result<Vec<view::Decision>, ServerError> {
    records
        .iter()
        .map(|StoredDecision { record, .. }| {
            let (input, output) = (serde_json::from_str(&record.input)?, serde_json::from_str(&record.output)?);
            let decision = decision_to_wire(experiment, generation, record.revision, &input, &output);
            let arms = decision.arms.iter().map(|arm| view::DecisionArm {
                name: arm.variation.clone(),
                p_best: arm.p_best,
                share_before: arm.share_before,
                share_after: arm.share_after,
                why: arm.why.clone(),
            });
            Ok(view::Decision {
                at: record.at,
                revision: record.revision.unwrap_or_default(),
                summary: decision.summary.clone(),
                arms: arms.collect(),
            })
        })
        .collect()
}

/// The revisions, each with what it was made for.
fn marks(generation: &Generation, decisions: &[view::Decision]) -> Vec<RevisionMark> {
    use inroad_assignment::experiment::Cause;
    let mark = |revision: &inroad_assignment::Revision| {
        let decided = decisions.iter().find(|decision| decision.revision == revision.number);
        let why = match (revision.cause, decided) {
            (Cause::Policy, Some(decision)) => decision.summary.clone(),
            (Cause::Policy, None) => "the policy decided".to_owned(),
            (Cause::Start, _) => "start".to_owned(),
            (Cause::Grown, _) => "grown by hand".to_owned(),
            (Cause::Added, _) => "a variation was added".to_owned(),
        };
        RevisionMark {
            at: revision.effective_at,
            number: u64::from(revision.number),
            title: format!("Revision {}: {why}", revision.number),
            href: if decided.is_some() { format!("#revision-{}", revision.number) } else { "#history".to_owned() },
        }
    };
    generation.revisions.iter().map(mark).collect()
}

/// Who was killed when, from the switches that were thrown.
fn kills(generation: &Generation) -> Vec<Killed> {
    let mut kills: Vec<Killed> = Vec::new();
    for switch in &generation.switches {
        let arm = match switch.target {
            Target::Everything => None,
            Target::Variation(arm) => Some(arm.index()),
        };
        let open = kills.iter_mut().find(|kill| kill.arm == arm && kill.until.is_none());
        match open {
            Some(kill) if !switch.killed => kill.until = Some(switch.at),
            None if switch.killed => kills.push(Killed { arm, from: switch.at, until: None }),
            _ => {}
        }
    }
    kills
}

/// What each arm was given, from each revision on.
fn steps(experiment: &Experiment, generation: &Generation) -> Vec<(Timestamp, Vec<f64>)> {
    let arms = experiment.definition.variations().len();
    let shares = |revision: &inroad_assignment::Revision| {
        (0..arms).filter_map(Arm::new).map(|arm| revision.allocation.width_of(arm).share()).collect()
    };
    generation.revisions.iter().map(|revision| (revision.effective_at, shares(revision))).collect()
}

/// Each arm's lift by the decision metric as of each tick, from what is known of the units exposed until then.
fn course(
    pages: &Pages,
    experiment: &Experiment,
    generation: &Generation,
    counts: &Counts,
    now: Timestamp,
) -> Result<Option<Arc<Course>>, ServerError> {
    let Some(index) = experiment.definition.decision_metric() else { return Ok(None) };
    let key = (experiment.definition.key().to_string(), generation.number);
    let (metric, tau, live) = (&experiment.definition.metrics()[index], tau(experiment), live(experiment));
    let basis = Basis { counts: fingerprint(counts), metric: (index, metric.clone()), tau, live: live.clone() };
    if let Some((known, course)) = pages.courses.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        && *known == basis
    {
        return Ok(Some(Arc::clone(course)));
    }
    let arms = experiment.definition.variations().len();
    let epochs = epoch_tallies(experiment, generation, counts, Some(index));
    let mut ends: Vec<usize> = (1..=epochs.len())
        .filter(|end| epochs.get(*end).map(|e| e.epoch.tick) != Some(epochs[end - 1].epoch.tick))
        .collect();
    let every = ends.len().div_ceil(COURSE_POINTS).max(1);
    let last = ends.len().saturating_sub(1);
    ends = ends.into_iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(every)).map(|(_, end)| end).collect();
    let mut course: Course = vec![Vec::new(); arms];
    let mut estimator = Estimator::default();
    for end in ends {
        let known = &epochs[..end];
        let shown = estimator.fit_each(measure(metric), arms, known, Prior::Normal(tau))?;
        let flat = estimator.fit_each(measure(metric), arms, known, Prior::Flat)?;
        let tick = epochs[end - 1].epoch.tick;
        // The last tick is not over yet.
        let at = Timestamp::start_of_tick(tick.saturating_add(1), experiment.definition.policy().tick()).min(now);
        for (arm, points) in course.iter_mut().enumerate().skip(1) {
            // Without information there is nothing to draw but the prior.
            if let Some(anytime) = confidence_sequence(&flat, arm, ALPHA) {
                points.push(LiftPoint { at, lift: shown_lift(&shown, arm, live[arm]), anytime: Some(anytime) });
            }
        }
    }
    let course = Arc::new(course);
    pages.courses.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (basis, Arc::clone(&course)));
    Ok(Some(course))
}

fn audit_entry(entry: &AuditEntry) -> view::AuditEntry {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_default();
    view::AuditEntry {
        at: entry.at,
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        changed: if entry.from.is_empty() {
            Vec::new()
        } else {
            view::changes(&parsed(&entry.from), &parsed(&entry.to))
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_words() {
        let hours = |n: u64| Duration::from_secs(3600 * n);
        assert_eq!([length(hours(24)), length(hours(36)), length(hours(1))], ["1 day", "36 hours", "1 hour"]);
        assert_eq!([every(hours(24)), every(hours(168)), every(hours(1))], ["every day", "every 7 days", "every hour"]);
        assert_eq!([length(Duration::from_secs(90)), length(Duration::from_millis(1_500))], ["90 seconds", "1.5s"]);
    }
}
