//! Answers funnel requests: validates the steps and the range, lets the store count, and compares the variations with
//! the estimators that results use, so that a step and a metric on the same event agree.

use std::sync::Arc;

use inroad_assignment::{Experiment, MetricKind, PosteriorKind, ThompsonSettings, Timestamp};
use inroad_dashboard::format::{grouped_count, plural};
use inroad_policy::attribution::funnel::{FunnelTally, MAX_STEPS, StepCounts, TimeRange};
use inroad_policy::{BetterDirection, DrawsCache, LiftEstimate, Measure, Summary, SummaryInput, summarise};
use inroad_store::FunnelQuery;
use inroad_wire::time::timestamp_from_wire;
use inroad_wire::v1::{FunnelArm, FunnelStep, GetFunnelRequest, GetFunnelResponse};

use crate::config::MAX_NAME_BYTES;
use crate::ended_run::compared_arms;
use crate::error::ServerError;
use crate::estimates::{Names, lift_estimates};
use crate::queries::Caller;
use crate::shared::{MAX_FOLD_WAIT, SharedState};
use crate::tallies::SEED;

/// The fewest draws allowed: a step does not need the probability to be best.
const DRAWS_LOG2: u32 = 6;

/// Computes a funnel for every variation of one generation.
///
/// # Errors
/// [`ServerError::UnknownExperiment`], [`ServerError::UnknownRevision`], [`ServerError::Invalid`] for invalid steps or
/// an invalid range, [`ServerError::BacklogFull`] if the events were not folded in time, and errors of the store.
pub async fn compute_funnel(shared: &SharedState, request: GetFunnelRequest) -> Result<GetFunnelResponse, ServerError> {
    let range = validate_request(&request)?;
    let state = shared.catalogue.state();
    let entry = state.get(&request.key)?;
    if request.wait {
        shared.wait_until_folded(entry.version, MAX_FOLD_WAIT).await?;
    }
    let experiment = &entry.experiment;
    // A draft has no generation yet; its funnel has no units.
    let number = entry.generation(request.generation)?;
    let GetFunnelRequest { key, steps, from, to, .. } = request;
    let (store, compared) = (Arc::clone(&shared.store), Arc::clone(experiment));
    let counted_steps = steps.clone();
    let compute = |caller: Caller| async move {
        let cancellation = caller.cancellation();
        let steps = counted_steps.clone();
        let experiment = Arc::clone(&compared);
        let query = FunnelQuery { experiment, generation: number, steps, range, cancellation };
        let counts = store.funnel(query).await?;
        let compare = move || arms(&compared, number, &counted_steps, &counts.tally);
        tokio::task::spawn_blocking(compare).await.map_err(|_| ServerError::ShuttingDown)?
    };
    let arms = shared.queries.run_async(compute).await?;
    let (note, hints) = (why_lifts_differ(&arms), hints(experiment, &arms));
    Ok(GetFunnelResponse {
        key,
        generation: number,
        steps,
        from,
        to,
        arms,
        backlog: shared.fold.backlog(),
        note,
        hints,
    })
}

/// Why a lift is not the ratio of the rates beside it, and why both are not those of the results.
fn why_lifts_differ(arms: &[FunnelArm]) -> String {
    let compared = |arm: &FunnelArm| {
        format!("{} {} of {}", arm.variation, grouped_count(arm.compared), grouped_count(arm.exposed))
    };
    let compared: Vec<String> = arms.iter().map(compared).collect();
    format!(
        "Rates are of all exposed units. Lifts compare only units that were served one variation throughout, within \
         reporting intervals, so they need not be the ratio of the rates: {}. Events count at any time after the exposure. \
         Results count only those within the metric's window, and there a unit may get another variation after its window, so \
         their rates, lifts and counted units differ.",
        compared.join(", ")
    )
}

/// The first step that no unit of any variation reached, although units reached the step before.
fn hints(experiment: &Experiment, arms: &[FunnelArm]) -> Vec<String> {
    let steps = arms.first().map_or(0, |arm| arm.steps.len());
    let reached = |step: usize| arms.iter().filter_map(|arm| arm.steps.get(step)).map(|step| step.reached).sum::<u64>();
    let is_exposed = arms.iter().any(|arm| arm.exposed > 0);
    let Some(step) = (0..steps).find(|step| reached(*step) == 0).filter(|_| is_exposed) else { return Vec::new() };
    let event = arms.first().and_then(|arm| arm.steps.get(step)).map(|step| step.event.as_str()).unwrap_or_default();
    let mut known: Vec<&str> = Vec::new();
    for metric in experiment.definition.metrics() {
        let denominator = match &metric.kind {
            MetricKind::Ratio { denominator } => Some(denominator.as_str()),
            MetricKind::Conversion | MetricKind::Count | MetricKind::Mean { .. } => None,
        };
        for event in [Some(metric.event.as_str()), denominator].into_iter().flatten() {
            if !known.contains(&event) {
                known.push(event);
            }
        }
    }
    let known = match known.as_slice() {
        [] => String::new(),
        _ if known.contains(&event) => String::new(),
        known => format!(" Events of this experiment's metrics: {}.", known.join(", ")),
    };
    vec![format!(
        "No unit reached step {}, {event}. Check the spelling of the event and the order of the steps.{known}",
        step + 1
    )]
}

/// The requested time range, if steps and range are valid.
fn validate_request(request: &GetFunnelRequest) -> Result<TimeRange, ServerError> {
    let refuse = |field, message: String| Err(ServerError::Invalid { field, message });
    if !(1..=MAX_STEPS).contains(&request.steps.len()) {
        return refuse("steps", format!("give 1 to {MAX_STEPS} steps, each the event name of an outcome"));
    }
    if let Some((at, name)) =
        request.steps.iter().enumerate().find(|(_, name)| !(1..=MAX_NAME_BYTES).contains(&name.len()))
    {
        let length = name.len();
        return refuse(
            "steps",
            format!("step {} has {length} bytes: use an event name of 1 to {MAX_NAME_BYTES} bytes", at + 1),
        );
    }
    let instant = |at: Option<&prost_types::Timestamp>, field, otherwise| match at.map(timestamp_from_wire) {
        None => Ok(otherwise),
        Some(Ok(at)) => Ok(at),
        Some(Err(error)) => Err(ServerError::Invalid { field, message: error.to_string() }),
    };
    let from = instant(request.from.as_ref(), "from", Timestamp::MIN)?;
    let to = instant(request.to.as_ref(), "to", Timestamp::MAX)?;
    if from >= to {
        return refuse("from", "this is not before `to`: use an earlier time, or leave one of them out".to_owned());
    }
    Ok(TimeRange { from, to })
}

fn arms(
    experiment: &Experiment,
    generation: u32,
    steps: &[String],
    tally: &FunnelTally,
) -> Result<Vec<FunnelArm>, ServerError> {
    let variations = experiment.definition.variations();
    let live = match experiment.generation_by_number(generation) {
        Some(generation) => compared_arms(experiment, generation),
        // A draft: nothing is compared.
        None => vec![true; variations.len()],
    };
    let mut points = DrawsCache::default();
    let summary = |step: usize| -> Result<Summary, ServerError> {
        let input = SummaryInput {
            epochs: &tally.epochs(step),
            measure: Measure::Conversion,
            better: BetterDirection::Higher,
            live: &live,
            tau: ThompsonSettings::default().tau,
            posterior: PosteriorKind::E3,
            seed: SEED,
            draws_log2: DRAWS_LOG2,
        };
        Ok(summarise(&input, &mut points)?)
    };
    let summaries = (0..steps.len()).map(summary).collect::<Result<Vec<_>, _>>()?;
    let arm = |index: usize| {
        let all_visits = tally.all_visits.get(index).copied().unwrap_or_default();
        FunnelArm {
            variation: variations.get(index).map(|v| v.key.to_string()).unwrap_or_default(),
            killed: live.get(index).is_some_and(|live| !live),
            exposed: all_visits.units,
            compared: tally.compared.values().filter_map(|arms| arms.get(index)).map(|arm| arm.units).sum(),
            steps: steps
                .iter()
                .zip(&summaries)
                .enumerate()
                .map(|(i, (event, s))| step(event, (i, index), &all_visits, s, Names { experiment, metric: None }))
                .collect(),
        }
    };
    Ok((0..variations.len()).map(arm).collect())
}

/// The `index`-th step of an arm.
fn step(
    event: &str,
    (index, arm): (usize, usize),
    all_visits: &StepCounts,
    summary: &Summary,
    names: Names<'_>,
) -> FunnelStep {
    let reached = all_visits.reached.get(index).copied().unwrap_or_default();
    let before = match index.checked_sub(1) {
        Some(before) => all_visits.reached.get(before).copied().unwrap_or_default(),
        None => all_visits.units,
    };
    let rate_of = |of: u64| (of > 0).then(|| reached as f64 / of as f64);
    let compared = summary.arms.get(arm);
    let mut lift = compared.and_then(|summary| lift_estimates(summary, names));
    if let (Some(lift), Some(compared)) = (&mut lift, compared)
        && matches!(compared.lift, Some(LiftEstimate::TooEarly(_)))
        && compared.n < all_visits.units
    {
        let (compared, units) = (grouped_count(compared.n), plural(all_visits.units, "unit"));
        lift.note
            .push_str(&format!(" ({compared} of {units} compared: to the others something else was served as well)"));
    }
    FunnelStep {
        event: event.to_owned(),
        reached,
        dropped: before.saturating_sub(reached),
        rate: rate_of(all_visits.units),
        step_rate: rate_of(before),
        compared_reached: compared.map_or(0, |arm| arm.s),
        lift,
    }
}
