//! `ResultService`: the results of an experiment in wire form: counts, estimates, health checks and the verdict.

use std::sync::Arc;

use inroad_assignment::{Arm, Experiment, Generation};
use inroad_policy::SrmAlarm;
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
use crate::error::ServerError;
use crate::estimates::{interval_to_wire, lift_estimates};
use crate::explain::{odds, ship_blockers};
use crate::funnel::compute_funnel;
use crate::report::{MetricReport, Report};
use crate::shared::{MAX_FOLD_WAIT, SharedState};
use crate::verdict::verdict;

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
    let state = shared.catalogue.state();
    let entry = state.get(&request.key)?;
    if request.wait {
        shared.wait_until_folded(entry.version, MAX_FOLD_WAIT).await?;
    }
    let experiment = &entry.experiment;
    let number = entry.generation(request.generation)?;
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
    let Some(generation) = experiment.generation_by_number(number) else {
        response.verdict = verdict(experiment, None);
        return Ok((response, SrmAlarm::Quiet));
    };
    let counts = shared.store.counts(experiment.definition.key(), number).await?;
    let report = Report::new(experiment, generation, &counts, now)?;
    fill(&mut response, experiment, generation, &counts, &report);
    Ok((response, report.alarm()))
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
    response.units_moved = counts.units_moved;
    response.crossovers = counts.crossovers;
    response.stale_exposures = counts.stale_exposures;
    response.decision_metric = decision.map(|i| definition.metrics()[i].key.to_string()).unwrap_or_default();
    let of_decision =
        counts.cells.iter().filter(|(key, _)| key.metric.map(usize::from) == decision && decision.is_some());
    response.dropped_records = of_decision.map(|(_, cell)| cell.dropped).sum();
    response.headroom = allocation.as_ref().map_or(0.0, |a| a.headroom(definition.policy().floor()).share());
    response.growth_per_day = report.growth_per_day;
    response.days_of_headroom = report.policy_growth_per_day.map(|rate| response.headroom / rate);
    response.sample_ratio = report.ratio.as_ref().map(|ratio| SampleRatio {
        chi_squared: ratio.chi_squared,
        degrees_of_freedom: ratio.degrees_of_freedom as u32,
        p_value: ratio.p_value,
        evidence: ratio.evidence,
    });
    let arm_result = |arm: Arm| {
        let summary = report.summary.arms.get(arm.index());
        let units = counts.cells.iter().filter(|(k, _)| k.metric.is_none() && k.arm == arm).map(|(_, c)| c.units).sum();
        ArmResult {
            variation: definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default(),
            killed: experiment.kills.is_arm_killed(arm),
            share: allocation.as_ref().map_or(0.0, |a| a.width_of(arm).share()),
            units,
            metrics: metric_results(experiment, counts, report, arm),
            p_best: summary.map_or(0.0, |s| s.p_best),
            p_above_control: summary.map_or(0.5, |s| s.p_above_control),
            expected_loss: summary.and_then(|s| s.expected_loss).unwrap_or_default(),
            lift: summary.and_then(|s| s.lift).map(interval_to_wire),
            lift_anytime: summary.and_then(|s| s.anytime).map(interval_to_wire),
        }
    };
    response.arms = (0..arms).filter_map(Arm::new).map(arm_result).collect();
    response.potential_value_remaining = report.is_compared.then_some(report.summary.potential_value_remaining);
    let shippable =
        report.ship.filter(|ship| ship.ready()).and_then(|_| definition.variations().get(report.summary.leader));
    response.ship = shippable.map(|v| v.key.to_string()).unwrap_or_default();
    response.ship_waits_for = report.ship.map(ship_blockers).unwrap_or_default();
    response.warnings = report.warnings(experiment, counts);
    response.verdict = verdict(experiment, Some((generation.number, report, counts.units_moved)));
}

fn metric_results(experiment: &Experiment, counts: &GenerationCounts, report: &Report, arm: Arm) -> Vec<MetricResult> {
    let metrics = experiment.definition.metrics().iter().zip(&report.metrics).enumerate();
    let result = |(i, (metric, report)): (usize, (&inroad_assignment::Metric, &MetricReport))| {
        let summary = report.all.arms.get(arm.index());
        let mature = report.mature.arms.get(arm.index());
        let mut result = MetricResult {
            metric: metric.key.to_string(),
            mean: summary.and_then(|s| s.mean),
            lift: summary.and_then(lift_estimates),
            mature: mature.and_then(lift_estimates),
            mature_units: mature.map_or(0, |s| s.n),
            p_above_control: summary.map_or(0.5, |s| s.p_above_control),
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
        }
        result
    };
    metrics.map(result).collect()
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
