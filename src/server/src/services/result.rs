//! `ResultService`: the counts and what the policy makes of them, phrased for people.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::{Arm, Experiment, Generation, Policy, ThompsonSettings};
use inroad_policy::{ArmSummary, PointsCache, check_sample_ratio, summarise};
use inroad_store::Counts;
use inroad_wire::reason::status_to_wire;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::result_service_server::ResultService;
use inroad_wire::v1::{ArmResult, GetResultsRequest, GetResultsResponse, Interval, MetricResult, SampleRatio};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::error::ServerError;
use crate::tick::epoch_tallies;

/// The longest that a reader may wait for the counts to be complete.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What results are drawn with: the same for everybody who looks.
const RESULT_SEED: u64 = 1;

/// See the module.
pub struct Results {
    shared: Arc<Shared>,
}

impl Results {
    /// The service.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn results(&self, request: GetResultsRequest) -> Result<GetResultsResponse, ServerError> {
        let state = self.shared.catalogue.state();
        let entry = state.get(&request.key)?;
        if request.wait && !self.shared.fold.caught_up(entry.version, LONGEST_WAIT).await {
            let (backlog, limit) = (self.shared.fold.backlog(), self.shared.config.max_backlog);
            return Err(ServerError::Backlog { backlog, limit, retry_after: Duration::from_secs(5) });
        }
        let experiment = &entry.experiment;
        let number = match request.generation {
            0 => experiment.generations.len() as u32,
            number => number,
        };
        let now = experiment.now(self.shared.clock.now());
        let mut response = GetResultsResponse {
            key: request.key.clone(),
            generation: number,
            state: status_to_wire(experiment.status).into(),
            now: Some(timestamp_to_wire(now)),
            floor: experiment.definition.policy().floor().share(),
            backlog: self.shared.fold.backlog(),
            ..GetResultsResponse::default()
        };
        if number == 0 {
            response.verdict = "not started: nothing has been measured yet".to_owned();
            return Ok(response);
        }
        let Some(generation) = experiment.generation_numbered(number) else {
            return Err(ServerError::NoSuchNumber { experiment: request.key, what: "generation", number });
        };
        let counts = self.shared.store.counts(experiment.definition.key(), number).await?;
        fill(&mut response, experiment, generation, &counts)?;
        Ok(response)
    }
}

fn fill(
    response: &mut GetResultsResponse,
    experiment: &Experiment,
    generation: &Generation,
    counts: &Counts,
) -> Result<(), ServerError> {
    let definition = &experiment.definition;
    let arms = definition.variations().len();
    let epochs = epoch_tallies(experiment, generation, counts);
    let settings = match definition.policy() {
        Policy::Thompson(settings) => settings.clone(),
        Policy::Manual { .. } => ThompsonSettings::default(),
    };
    let live: Vec<bool> = (0..arms).filter_map(Arm::new).map(|arm| !experiment.kills.arm(arm)).collect();
    let mut points = PointsCache::default();
    let summaries = summarise(&epochs, &live, settings.tau, RESULT_SEED, settings.draws_log2, &mut points)?;
    let allocation = generation.latest().map(|r| Arc::clone(&r.allocation));
    let ratio = check_sample_ratio(arms, &epochs)?;

    response.revision = generation.latest().map_or(0, |r| r.number);
    response.units_moved = counts.units_moved;
    response.crossovers = counts.crossovers;
    response.stale_exposures = counts.stale_exposures;
    let decision = definition.decision_metric();
    response.decision_metric = decision.map(|i| definition.metrics()[i].key.to_string()).unwrap_or_default();
    let of_decision =
        counts.cells.iter().filter(|(key, _)| key.metric.map(usize::from) == decision && decision.is_some());
    response.dropped_records = of_decision.map(|(_, cell)| cell.dropped).sum();
    response.headroom = allocation.as_ref().map_or(0.0, |a| a.headroom(definition.policy().floor()).share());
    response.sample_ratio = Some(SampleRatio {
        chi_squared: ratio.chi_squared,
        degrees_of_freedom: ratio.degrees_of_freedom as u32,
        p_value: ratio.p_value,
        evidence: ratio.peak_log_evidence.exp(),
    });
    response.arms = (0..arms)
        .filter_map(Arm::new)
        .zip(&summaries)
        .map(|(arm, summary)| ArmResult {
            variation: definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default(),
            killed: experiment.kills.arm(arm),
            share: allocation.as_ref().map_or(0.0, |a| a.width_of(arm).share()),
            units: counts.cells.iter().filter(|(k, _)| k.metric.is_none() && k.arm == arm).map(|(_, c)| c.units).sum(),
            metrics: metric_results(experiment, counts, arm),
            p_best: summary.p_best,
            p_above_control: summary.p_above_control,
            expected_loss: summary.expected_loss.unwrap_or_default(),
            lift: summary.lift.as_ref().map(interval),
            lift_anytime: summary.anytime.as_ref().map(interval),
        })
        .collect();
    response.verdict = verdict(experiment, &settings, &summaries, counts.units_moved);
    Ok(())
}

fn interval(interval: &inroad_policy::Interval) -> Interval {
    Interval { estimate: interval.estimate, low: interval.low, high: interval.high }
}

fn metric_results(experiment: &Experiment, counts: &Counts, arm: Arm) -> Vec<MetricResult> {
    let metrics = experiment.definition.metrics().iter().enumerate();
    let result = |(i, metric): (usize, &inroad_assignment::Metric)| {
        let mut result = MetricResult { metric: metric.key.to_string(), ..MetricResult::default() };
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

/// The state of things in a sentence or two.
fn verdict(experiment: &Experiment, settings: &ThompsonSettings, arms: &[ArmSummary], moved: u64) -> String {
    let name = |i: usize| experiment.definition.variations().get(i).map(|v| v.key.to_string()).unwrap_or_default();
    if experiment.definition.decision_metric().is_none() {
        return "no decision metric: nothing is compared".to_owned();
    }
    if arms.iter().all(|arm| arm.n == 0) {
        return format!("nothing is measured yet; {moved} units moved; keep going");
    }
    let leader = (0..arms.len()).max_by(|a, b| arms[*a].p_best.total_cmp(&arms[*b].p_best)).unwrap_or(0);
    let (best, loss) = (arms[leader].p_best, arms[leader].expected_loss.unwrap_or(1.0));
    let clear = best >= settings.conclude_probability && loss <= settings.conclude_loss;
    let lift =
        arms[leader].lift.as_ref().map(|l| format!(", {:+.1}% over control", 100.0 * l.estimate)).unwrap_or_default();
    let head = format!("{} leads: {:.1}% likely best{lift}; {moved} units moved", name(leader), 100.0 * best);
    match (clear, leader) {
        (true, 0) => format!("{head}; conclude and roll back?"),
        (true, _) => format!("{head}; ship it?"),
        (false, _) => format!("{head}; keep going"),
    }
}

#[tonic::async_trait]
impl ResultService for Results {
    async fn get_results(&self, request: Request<GetResultsRequest>) -> Result<Response<GetResultsResponse>, Status> {
        Ok(Response::new(self.results(request.into_inner()).await?))
    }
}
