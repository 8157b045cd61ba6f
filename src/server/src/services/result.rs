//! `ResultService`: the counts and what the policy makes of them, phrased for people.

use std::sync::Arc;

use inroad_assignment::{Arm, Experiment, Generation};
use inroad_policy::{ArmSummary, SrmAlarm};
use inroad_store::Counts;
use inroad_wire::reason::status_to_wire;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::result_service_server::ResultService;
use inroad_wire::v1::{
    ArmResult, DelayCheck, GetFunnelRequest, GetFunnelResponse, GetResultsRequest, GetResultsResponse, Interval,
    LiftEstimates, MetricResult, NoveltyCheck, SampleRatio,
};
use tonic::{Request, Response, Status};

use super::{LONGEST_WAIT, Shared};
use crate::error::ServerError;
use crate::explain::{odds, waits_for};
use crate::funnel::funnel;
use crate::report::{MetricReport, Report};
use crate::verdict::verdict;

/// See the module.
pub struct Results {
    shared: Arc<Shared>,
}

impl Results {
    /// The service.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// How an experiment stands; what `GetResults` answers.
pub(crate) async fn results(shared: &Shared, request: GetResultsRequest) -> Result<GetResultsResponse, ServerError> {
    Ok(results_and_alarm(shared, request).await?.0)
}

/// The same, and what the policy itself makes of the sample ratio.
pub(crate) async fn results_and_alarm(
    shared: &Shared,
    request: GetResultsRequest,
) -> Result<(GetResultsResponse, SrmAlarm), ServerError> {
    let state = shared.catalogue.state();
    let entry = state.get(&request.key)?;
    if request.wait {
        shared.counted(entry.version, LONGEST_WAIT).await?;
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
    let Some(generation) = experiment.generation_numbered(number) else {
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
    counts: &Counts,
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
    response.days_of_headroom = report.policy_pace.map(|pace| response.headroom / pace);
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
            killed: experiment.kills.arm(arm),
            share: allocation.as_ref().map_or(0.0, |a| a.width_of(arm).share()),
            units,
            metrics: metric_results(experiment, counts, report, arm),
            p_best: summary.map_or(0.0, |s| s.p_best),
            p_above_control: summary.map_or(0.5, |s| s.p_above_control),
            expected_loss: summary.and_then(|s| s.expected_loss).unwrap_or_default(),
            lift: summary.and_then(|s| s.lift).map(interval),
            lift_anytime: summary.and_then(|s| s.anytime).map(interval),
        }
    };
    response.arms = (0..arms).filter_map(Arm::new).map(arm_result).collect();
    response.potential_value_remaining = report.is_compared.then_some(report.summary.potential_value_remaining);
    let ready =
        report.ship.filter(|ship| ship.ready()).and_then(|_| definition.variations().get(report.summary.leader));
    response.ship = ready.map(|v| v.key.to_string()).unwrap_or_default();
    response.ship_waits_for = report.ship.map(waits_for).unwrap_or_default();
    response.warnings = report.warnings(experiment, counts);
    response.verdict = verdict(experiment, Some((generation.number, report, counts.units_moved)));
}

fn interval(interval: inroad_policy::Interval) -> Interval {
    Interval { estimate: interval.estimate, low: interval.low, high: interval.high }
}

fn metric_results(experiment: &Experiment, counts: &Counts, report: &Report, arm: Arm) -> Vec<MetricResult> {
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
                early: Some(interval(check.early)),
                late: Some(interval(check.late)),
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

/// Every estimate of an arm's lift; none of control's.
pub(crate) fn lift_estimates(summary: &ArmSummary) -> Option<LiftEstimates> {
    let opinion = summary.opinion.as_ref();
    Some(LiftEstimates {
        credible: Some(interval(summary.lift?)),
        anytime: summary.anytime.map(interval),
        period: opinion.map(|o| interval(o.period)),
        batched: opinion.map(|o| interval(o.batched)),
        difference: opinion.map(|o| interval(o.difference)),
        disagrees: opinion.is_some_and(|o| o.disagrees),
    })
}

#[tonic::async_trait]
impl ResultService for Results {
    async fn get_results(&self, request: Request<GetResultsRequest>) -> Result<Response<GetResultsResponse>, Status> {
        Ok(Response::new(results(&self.shared, request.into_inner()).await?))
    }

    async fn get_funnel(&self, request: Request<GetFunnelRequest>) -> Result<Response<GetFunnelResponse>, Status> {
        Ok(Response::new(funnel(&self.shared, request.into_inner()).await?))
    }
}
