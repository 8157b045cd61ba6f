//! `ResultService`: the results of an experiment in wire form: counts, estimates, health checks and the verdict.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::{Arm, Experiment, Generation, Policy, Timestamp, Width};
use inroad_policy::{EVIDENCE_SHARE, LiftEstimate, Ranking, SrmAlarm};
use inroad_store::GenerationCounts;
use inroad_wire::reason::status_to_wire;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::result_service_server::ResultService;
use inroad_wire::v1::{
    ArmResult, DelayCheck, GetFunnelRequest, GetFunnelResponse, GetResultsRequest, GetResultsResponse, MetricResult,
    NoveltyCheck, SampleRatio,
};
use tonic::{Request, Response, Status};

use super::check_response_size;
use crate::ended_run::{as_of_run, fill_end};
use crate::error::ServerError;
use crate::estimates::{Names, interval_to_wire, lift_estimates, lift_state};
use crate::explain::{basis_in_words, kept_for_evidence, odds, ship_blockers};
use crate::funnel::compute_funnel;
use crate::kill_results::{distinct_units, exposed_units, open_records};
use crate::kill_texts::kill_result_to_wire;
use crate::number_notes::{UnitCounts, ratio_note};
use crate::report::{MetricReport, Report};
use crate::shared::{MAX_FOLD_WAIT, SharedState};
use crate::shared_results::{ComputedResults, ResultInputs};
use crate::verdict::verdict;

/// How long results wait for the recount that a change of the experiment causes. Nearly every recount is shorter.
const RECOUNT_WAIT: Duration = Duration::from_millis(100);
/// What is said of results during a longer one.
const RECOUNT_NOTE: &str = " Changes of experiments are still being counted; if one concerns these numbers, they will change without new events.";

/// The implementation of `ResultService`.
pub struct ResultHandler {
    shared: Arc<SharedState>,
}

impl ResultHandler {
    /// The service over the shared state.
    pub fn new(shared: Arc<SharedState>) -> Self {
        Self { shared }
    }
}

/// The results of one generation, as `GetResults` returns them.
pub(crate) async fn results(
    shared: &SharedState,
    request: GetResultsRequest,
) -> Result<GetResultsResponse, ServerError> {
    Ok(results_and_alarm(shared, request).await?.0)
}

/// The same, and the state of the sample ratio alarm.
pub(crate) async fn results_and_alarm(
    shared: &SharedState,
    request: GetResultsRequest,
) -> Result<(GetResultsResponse, SrmAlarm), ServerError> {
    results_within(shared, request, RECOUNT_WAIT).await
}

/// The results as they are counted now, also during a recount.
pub(crate) async fn results_now(
    shared: &SharedState,
    request: GetResultsRequest,
) -> Result<GetResultsResponse, ServerError> {
    Ok(results_within(shared, request, Duration::ZERO).await?.0)
}

async fn results_within(
    shared: &SharedState,
    request: GetResultsRequest,
    recount_wait: Duration,
) -> Result<(GetResultsResponse, SrmAlarm), ServerError> {
    let entry = shared.catalogue.state().get(&request.key)?.clone();
    if request.wait {
        shared.wait_until_folded(entry.version, MAX_FOLD_WAIT).await?;
    }
    let is_reflected = shared.fold.wait_until_reflected(entry.version, recount_wait).await;
    let number = entry.generation(request.generation)?;
    let experiment = as_of_run(&entry.experiment, number);
    let now = experiment.now(shared.clock.now());
    let mut response = GetResultsResponse {
        key: request.key.clone(),
        generation: number,
        state: status_to_wire(experiment.status).into(),
        now: Some(timestamp_to_wire(now)),
        floor: experiment.definition.policy().floor().share(),
        backlog: shared.fold.backlog(),
        ..GetResultsResponse::default()
    };
    if experiment.generation_by_number(number).is_none() {
        response.verdict = verdict(&experiment, None);
        response.decision_metric = decision_metric_key(&experiment);
        return Ok((response, SrmAlarm::Quiet));
    }
    let counts_state = shared.store.counts_state(experiment.definition.key(), number);
    let inputs = ResultInputs::new(entry.version, counts_state, &experiment, now);
    let (store, header) = (Arc::clone(&shared.store), response.clone());
    let compute = shared.queries.run_async(move |caller| async move {
        let counts = store.counts(experiment.definition.key(), number).await?;
        caller.check()?;
        let compute = move || compute_results(header, &experiment, number, &counts, now);
        tokio::task::spawn_blocking(compute).await.map_err(|_| ServerError::ShuttingDown)?
    });
    let results = shared.results.get(&request.key, number, inputs, compute).await?;
    // Shared results may be as old as a time step.
    let GetResultsResponse { now, backlog, .. } = response;
    let mut response = GetResultsResponse { now, backlog, ..results.response.clone() };
    if !is_reflected && response.units > 0 {
        response.units_note += RECOUNT_NOTE;
    }
    Ok((response, results.alarm))
}

/// The share that automatic growth leaves control until a variation is better beyond chance.
fn kept_share() -> Width {
    Width::from_share(EVIDENCE_SHARE).unwrap_or_default()
}

/// The key of the decision metric; empty without one.
fn decision_metric_key(experiment: &Experiment) -> String {
    let definition = &experiment.definition;
    let metric = definition.decision_metric().and_then(|index| definition.metrics().get(index));
    metric.map(|metric| metric.key.to_string()).unwrap_or_default()
}

fn compute_results(
    mut response: GetResultsResponse,
    experiment: &Experiment,
    number: u32,
    counts: &GenerationCounts,
    now: Timestamp,
) -> Result<ComputedResults, ServerError> {
    // A generation is never removed.
    let Some(generation) = experiment.generation_by_number(number) else {
        return Ok(ComputedResults { response, alarm: SrmAlarm::Quiet });
    };
    let report = Report::new(experiment, generation, counts, now)?;
    fill(&mut response, experiment, generation, counts, &report);
    Ok(ComputedResults { response, alarm: report.alarm() })
}

fn fill(
    response: &mut GetResultsResponse,
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
    report: &Report,
) {
    let definition = &experiment.definition;
    let arms = definition.variations().len();
    let allocation = generation.latest().map(|r| Arc::clone(&r.allocation));
    let decision = definition.decision_metric();

    response.revision = generation.latest().map_or(0, |r| r.number);
    response.effective_at = generation.latest().map(|r| timestamp_to_wire(r.effective_at));
    response.units = distinct_units(counts);
    response.units_moved = counts.units_moved;
    response.crossovers = counts.crossovers;
    response.stale_exposures = counts.stale_exposures;
    response.decision_metric = decision_metric_key(experiment);
    let of_decision =
        counts.cells.iter().filter(|(key, _)| key.metric.map(usize::from) == decision && decision.is_some());
    for (_, cell) in of_decision {
        response.dropped_records += cell.dropped;
        response.dropped_by_kill += cell.dropped_by_kill;
        response.dropped_after_end += cell.dropped_after_end;
        response.outcomes_too_early += cell.too_early;
        response.outcomes_too_late += cell.too_late;
    }
    let explained = response.dropped_by_kill + response.dropped_after_end;
    response.dropped_by_revision = response.dropped_records.saturating_sub(explained);
    let kills = experiment.kill_results.iter().filter(|result| result.generation == generation.number);
    response.kills = kills.map(|result| kill_result_to_wire(experiment, generation, result)).collect();
    response.headroom = allocation.as_ref().map_or(0.0, |a| a.headroom(definition.policy().floor()).share());
    let control = allocation.as_ref().map_or(Width::ZERO, |a| a.width_of(Arm::CONTROL));
    response.headroom_note = match definition.policy() {
        Policy::Thompson(_) if report.is_live && response.headroom > 0.0 => {
            kept_for_evidence(kept_share(), definition.policy().floor(), control, report.ship).unwrap_or_default()
        }
        Policy::Thompson(_) | Policy::Manual { .. } => String::new(),
    };
    response.growth_per_day = report.growth_per_day;
    // While growth leaves control more than its minimum, nothing is used up.
    let is_kept = !response.headroom_note.is_empty();
    response.days_of_headroom = report.policy_growth_per_day.filter(|_| !is_kept).map(|rate| response.headroom / rate);
    response.sample_ratio = report.ratio.as_ref().map(|ratio| SampleRatio {
        chi_squared: ratio.chi_squared,
        degrees_of_freedom: ratio.degrees_of_freedom as u32,
        p_value: ratio.p_value,
        evidence: ratio.evidence,
        summary: ratio.in_words(),
    });
    let arm_result = |arm: Arm| {
        let summary = report.summary.arms.get(arm.index());
        let estimate = summary.filter(|_| decision.is_some()).and_then(|s| s.lift.as_ref());
        let names = Names { experiment, metric: decision.and_then(|i| definition.metrics().get(i)) };
        let is_relative = estimate.is_some_and(|estimate| estimate.relative().is_some());
        let anytime = summary.filter(|_| decision.is_some()).and_then(|s| s.anytime).map(interval_to_wire);
        let open = |metric| open_records(experiment, counts, arm, metric, report.now);
        let excluded = decision.map_or(0, |metric| excluded_by_kills(counts, metric, arm));
        let killed = report.kills.served_arm(arm) != arm;
        ArmResult {
            variation: definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default(),
            killed: report.kills.is_arm_killed(arm),
            share: allocation.as_ref().map_or(0.0, |a| a.width_of(arm).share()),
            units: exposed_units(counts, arm),
            metrics: metric_results(experiment, counts, report, arm),
            p_best: summary.and_then(|s| s.p_best).unwrap_or_default(),
            p_above_control: summary.and_then(|s| s.p_above_control).unwrap_or(0.5),
            expected_loss: summary.and_then(|s| s.expected_loss),
            lift: estimate.and_then(LiftEstimate::relative).map(interval_to_wire),
            lift_anytime: anytime.filter(|_| is_relative),
            lift_state: lift_state(estimate).into(),
            lift_note: estimate
                .map(|estimate| names.lift_note_after_kill(estimate, excluded, killed))
                .unwrap_or_default(),
            difference: estimate.and_then(LiftEstimate::difference).map(interval_to_wire),
            difference_anytime: anytime.filter(|_| !is_relative),
            open_records: decision.map_or(0, open),
            final_share: None,
            killed_after_end: false,
        }
    };
    response.arms = (0..arms).filter_map(Arm::new).map(arm_result).collect();
    let counted =
        |metric: usize| response.arms.iter().filter_map(|arm| arm.metrics.get(metric)).map(|metric| metric.units).sum();
    response.units_note = UnitCounts {
        distinct: response.units,
        exposed_by_variation: response.arms.iter().map(|arm| arm.units).sum(),
        counted_and_excluded: decision.map(|metric| (counted(metric), response.dropped_records)),
    }
    .note();
    response.potential_value_remaining = match report.summary.ranking {
        Ranking::Known { potential_value_remaining, .. } => potential_value_remaining.filter(|_| report.is_compared),
        Ranking::AllKilled | Ranking::TooEarly(_) | Ranking::NotMeasured(_) => None,
    };
    response.not_ranked = report.not_ranked.clone();
    response.compares_differences = report.compares_differences;
    let leader =
        report.summary.leader().filter(|_| report.is_compared).and_then(|arm| definition.variations().get(arm));
    response.leader = leader.map(|v| v.key.to_string()).unwrap_or_default();
    let shippable = report.ship.filter(|ship| ship.ready()).and(leader);
    response.ship = shippable.map(|v| v.key.to_string()).unwrap_or_default();
    let blockers = |(ship, leader)| ship_blockers(ship, leader, report.age, report.shown_interval(leader));
    response.ship_waits_for = report.ship.zip(report.summary.leader()).map(blockers).unwrap_or_default();
    let best = report.clearly_best.and_then(|best| Some((definition.variations().get(best.arm)?, best.basis)));
    if let Some((variation, basis)) = best {
        response.clearly_best = variation.key.to_string();
        response.clearly_best_rests_on = basis_in_words(basis);
    }
    response.ship_rests_on =
        report.ship.filter(|ship| ship.ready()).and_then(|ship| ship.basis).map(basis_in_words).unwrap_or_default();
    response.warnings = report.warnings(experiment, counts);
    fill_end(response, experiment, generation);
    response.verdict = verdict(experiment, Some((generation.number, report, counts.units_moved)));
}

fn metric_results(experiment: &Experiment, counts: &GenerationCounts, report: &Report, arm: Arm) -> Vec<MetricResult> {
    let killed = report.kills.served_arm(arm) != arm;
    let metrics = experiment.definition.metrics().iter().zip(&report.metrics).enumerate();
    let result = |(i, (metric, report)): (usize, (&inroad_assignment::Metric, &MetricReport))| {
        let summary = report.all.arms.get(arm.index());
        let mature = report.mature.arms.get(arm.index());
        let names = Names { experiment, metric: Some(metric) };
        let mut result = MetricResult {
            metric: metric.key.to_string(),
            mean: summary.and_then(|s| s.mean),
            lift: summary.and_then(|summary| lift_estimates(summary, names)),
            mature: mature.and_then(|summary| lift_estimates(summary, names)),
            mature_units: mature.map_or(0, |s| s.n),
            p_above_control: summary.and_then(|s| s.p_above_control).unwrap_or(0.5),
            delay: report.delay.get(arm.index()).copied().flatten().map(|check| DelayCheck {
                early: check.early,
                control_early: check.control_early,
                p_value: check.p_value,
                differs: check.differs,
            }),
            novelty: report.novelty.get(arm.index()).copied().flatten().map(|check| NoveltyCheck {
                early: Some(interval_to_wire(check.early)),
                late: Some(interval_to_wire(check.late)),
                p_value: check.p_value,
                changed: check.changed,
            }),
            harm: report.harm.get(arm.index()).copied().flatten().map(odds),
            ratio_note: ratio_note(
                summary.and_then(|s| s.lift.as_ref()),
                summary.and_then(|s| s.mean),
                report.all.arms.first().and_then(|control| control.mean),
            ),
            ..MetricResult::default()
        };
        let ours = |key: &inroad_policy::attribution::CellKey| key.metric.map(usize::from) == Some(i) && key.arm == arm;
        for (_, cell) in counts.cells.iter().filter(|(key, _)| ours(key)) {
            result.units += cell.n;
            result.converted += cell.s;
            result.sum += cell.x as f64 / 1e6;
            result.outcomes += cell.outcomes;
            result.outcome_units += cell.outcome_units;
            result.outcome_sum += cell.outcome_sum as f64 / 1e6;
            result.too_early += cell.too_early;
            result.too_late += cell.too_late;
            result.dropped += cell.dropped;
        }
        let excluded = excluded_by_kills(counts, i, arm);
        for (estimates, summary) in [(&mut result.lift, summary), (&mut result.mature, mature)] {
            if let (Some(estimates), Some(lift)) = (estimates, summary.and_then(|summary| summary.lift.as_ref())) {
                estimates.note = names.lift_note_after_kill(lift, excluded, killed);
            }
        }
        result
    };
    metrics.map(result).collect()
}

/// Unit records of an arm that kills and restores excluded from the estimates of a metric.
fn excluded_by_kills(counts: &GenerationCounts, metric: usize, arm: Arm) -> u64 {
    let cells = counts.cells.iter().filter(|(key, _)| key.metric.map(usize::from) == Some(metric) && key.arm == arm);
    cells.map(|(_, cell)| cell.dropped_by_kill).sum()
}

#[tonic::async_trait]
impl ResultService for ResultHandler {
    async fn get_results(&self, request: Request<GetResultsRequest>) -> Result<Response<GetResultsResponse>, Status> {
        let advice = "the experiment has too many variations and metrics for one answer; remove metrics";
        let response = results(&self.shared, request.into_inner()).await?;
        Ok(Response::new(check_response_size(&self.shared.metrics, advice, response)?))
    }

    async fn get_funnel(&self, request: Request<GetFunnelRequest>) -> Result<Response<GetFunnelResponse>, Status> {
        let response = compute_funnel(&self.shared, request.into_inner()).await?;
        Ok(Response::new(check_response_size(&self.shared.metrics, "use fewer steps", response)?))
    }
}
