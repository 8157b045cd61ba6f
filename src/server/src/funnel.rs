//! A funnel as a person asks for it: checked, counted by the store, and compared by the estimators of the results, so
//! that a step named after a metric's event and the metric itself tell one story.

use std::sync::Arc;

use inroad_assignment::{Arm, Experiment, PosteriorKind, Timestamp};
use inroad_policy::attribution::funnel::{FunnelTally, MAX_STEPS, Steps, TimeRange};
use inroad_policy::{Better, Measure, PointsCache, Summary, SummaryQuestion, summarise};
use inroad_store::FunnelQuestion;
use inroad_wire::time::timestamp_from_wire;
use inroad_wire::v1::{FunnelArm, FunnelStep, GetFunnelRequest, GetFunnelResponse};

use crate::config::MAX_NAME_BYTES;
use crate::error::ServerError;
use crate::report::{RESULT_SEED, live, tau};
use crate::services::LONGEST_WAIT;
use crate::services::Shared;
use crate::services::result::lift_estimates;

/// P(best) is not asked of a step: as few draws as there may be.
const DRAWS_LOG2: u32 = 6;

/// Answers a question about a funnel.
///
/// # Errors
/// [`ServerError::NotFound`], [`ServerError::NoSuchNumber`], [`ServerError::Invalid`] for steps or a range that cannot be
/// meant, [`ServerError::Backlog`] if the counts were waited for in vain, and what the store says.
pub async fn funnel(shared: &Shared, request: GetFunnelRequest) -> Result<GetFunnelResponse, ServerError> {
    let range = checked(&request)?;
    let state = shared.catalogue.state();
    let entry = state.get(&request.key)?;
    if request.wait {
        shared.counted(entry.version, LONGEST_WAIT).await?;
    }
    let experiment = &entry.experiment;
    // A draft has no generation yet, and nobody in its funnel.
    let number = entry.generation(request.generation)?;
    let GetFunnelRequest { key, steps, from, to, .. } = request;
    let question =
        FunnelQuestion { experiment: Arc::clone(experiment), generation: number, steps: steps.clone(), range };
    let counts = shared.store.funnel(question).await?;
    let arms = arms(experiment, &steps, &counts.tally)?;
    Ok(GetFunnelResponse { key, generation: number, steps, from, to, arms, backlog: shared.fold.backlog() })
}

/// The range that is asked for, if the question can be meant.
fn checked(request: &GetFunnelRequest) -> Result<TimeRange, ServerError> {
    let refuse = |field, message: String| Err(ServerError::Invalid { field, message });
    if !(1..=MAX_STEPS).contains(&request.steps.len()) {
        return refuse("steps", format!("a funnel has 1 to {MAX_STEPS} steps: give as many outcomes' event names"));
    }
    if let Some((at, name)) =
        request.steps.iter().enumerate().find(|(_, name)| !(1..=MAX_NAME_BYTES).contains(&name.len()))
    {
        let length = name.len();
        return refuse("steps", format!("step {} has {length} bytes: an event name has 1 to {MAX_NAME_BYTES}", at + 1));
    }
    let instant = |at: Option<&prost_types::Timestamp>, field, otherwise| match at.map(timestamp_from_wire) {
        None => Ok(otherwise),
        Some(Ok(at)) => Ok(at),
        Some(Err(error)) => Err(ServerError::Invalid { field, message: error.to_string() }),
    };
    let from = instant(request.from.as_ref(), "from", Timestamp::MIN)?;
    let to = instant(request.to.as_ref(), "to", Timestamp::MAX)?;
    if from >= to {
        return refuse("from", "it is not before `to`: give an earlier instant, or leave one of them out".to_owned());
    }
    Ok(TimeRange { from, to })
}

fn arms(experiment: &Experiment, steps: &[String], tally: &FunnelTally) -> Result<Vec<FunnelArm>, ServerError> {
    let (variations, live) = (experiment.definition.variations(), live(experiment));
    let mut points = PointsCache::default();
    let summary = |step: usize| -> Result<Summary, ServerError> {
        let question = SummaryQuestion {
            epochs: &tally.epochs(step),
            measure: Measure::Conversion,
            better: Better::More,
            live: &live,
            tau: tau(experiment),
            posterior: PosteriorKind::E3,
            seed: RESULT_SEED,
            draws_log2: DRAWS_LOG2,
        };
        Ok(summarise(&question, &mut points)?)
    };
    let summaries = (0..steps.len()).map(summary).collect::<Result<Vec<_>, _>>()?;
    let arm = |index: usize| {
        let watched = tally.watched.get(index).copied().unwrap_or_default();
        FunnelArm {
            variation: variations.get(index).map(|v| v.key.to_string()).unwrap_or_default(),
            killed: Arm::new(index).is_some_and(|arm| experiment.kills.arm(arm)),
            exposed: watched.units,
            compared: tally.compared.values().filter_map(|arms| arms.get(index)).map(|arm| arm.units).sum(),
            steps: steps
                .iter()
                .zip(&summaries)
                .enumerate()
                .map(|(i, (event, s))| step(event, i, index, &watched, s))
                .collect(),
        }
    };
    Ok((0..variations.len()).map(arm).collect())
}

fn step(event: &str, index: usize, arm: usize, watched: &Steps, summary: &Summary) -> FunnelStep {
    let reached = watched.reached.get(index).copied().unwrap_or_default();
    let before = match index.checked_sub(1) {
        Some(before) => watched.reached.get(before).copied().unwrap_or_default(),
        None => watched.units,
    };
    let part = |of: u64| (of > 0).then(|| reached as f64 / of as f64);
    let compared = summary.arms.get(arm);
    // With nobody here there is nothing but the prior to tell.
    let known = summary.arms.first().is_some_and(|control| control.s > 0) && compared.is_some_and(|arm| arm.s > 0);
    FunnelStep {
        event: event.to_owned(),
        reached,
        dropped: before.saturating_sub(reached),
        rate: part(watched.units),
        step_rate: part(before),
        compared_reached: compared.map_or(0, |arm| arm.s),
        lift: compared.filter(|_| known).and_then(lift_estimates),
    }
}
