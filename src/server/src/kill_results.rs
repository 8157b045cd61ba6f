//! What a kill costs, and what was known when it happened. A kill removes the records of open windows from the
//! comparison, and with them the reason for the kill: so the results of that moment are stored with it.

use inroad_assignment::experiment::{KillLift, KillResult};
use inroad_assignment::{Arm, Experiment, Generation, KillChange, KillTarget, Timestamp};
use inroad_store::GenerationCounts;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use crate::error::ServerError;
use crate::explain::probability_in_words;
use crate::report::summary_of_metric;

/// The units that a kill affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KillEffect {
    /// Distinct units that were exposed to the variations in the running generation: they stop seeing them.
    pub(crate) exposed: u64,
    /// Records that leave the comparison, because their window is still open. Counted by reporting interval, so some of
    /// them may have ended.
    pub(crate) open: u64,
}

/// The treated variations that a kill of `target` takes away: those that are not killed yet.
pub(crate) fn killed_arms(experiment: &Experiment, target: KillTarget) -> Vec<Arm> {
    let all = (1..experiment.definition.variations().len()).filter_map(Arm::new);
    let is_target = |arm: &Arm| match target {
        KillTarget::Everything => true,
        KillTarget::Variation(killed) => killed == *arm,
    };
    all.filter(|arm| is_target(arm) && experiment.kills.served_arm(*arm) == *arm).collect()
}

/// The units that a kill of some variations at `now` would affect, by the counts of the running generation.
pub(crate) fn kill_effect(
    experiment: &Experiment,
    counts: &GenerationCounts,
    arms: &[Arm],
    now: Timestamp,
) -> KillEffect {
    let metric = experiment.definition.decision_metric();
    arms.iter().fold(KillEffect::default(), |sum, arm| KillEffect {
        exposed: sum.exposed + exposed_units(counts, *arm),
        open: sum.open + metric.map_or(0, |metric| open_records(experiment, counts, *arm, metric, now)),
    })
}

/// Distinct units that were exposed to an arm.
pub(crate) fn exposed_units(counts: &GenerationCounts, arm: Arm) -> u64 {
    counts.cells.iter().filter(|(key, _)| key.metric.is_none() && key.arm == arm).map(|(_, cell)| cell.units).sum()
}

/// Counted records of an arm whose window may be open at `now`: those of reporting intervals that ended less than a
/// window ago.
pub(crate) fn open_records(
    experiment: &Experiment,
    counts: &GenerationCounts,
    arm: Arm,
    metric: usize,
    now: Timestamp,
) -> u64 {
    let Some(window) = experiment.definition.metrics().get(metric).map(|metric| metric.window) else { return 0 };
    let tick = experiment.definition.policy().tick();
    let is_open = |at: i64| Timestamp::start_of_tick(at.saturating_add(1), tick).plus(window) > now;
    let cells = counts.cells.iter().filter(|(key, _)| key.metric.map(usize::from) == Some(metric) && key.arm == arm);
    cells.filter(|(key, _)| is_open(key.tick)).map(|(_, cell)| cell.n).sum()
}

/// Kills variations and keeps their results. `metric` is the metric that caused the kill; without one the primary
/// metric. If the results cannot be computed, the variations are killed without them: nothing may delay a kill (I8).
///
/// # Errors
/// [`ServerError::Change`] if the experiment cannot be killed.
pub(crate) fn kill_and_keep_results(
    experiment: &mut Experiment,
    target: KillTarget,
    counts: &GenerationCounts,
    metric: Option<&str>,
    (now, actor): (Timestamp, &str),
) -> Result<(), ServerError> {
    let arms = killed_arms(experiment, target);
    let results = results_before_kill(experiment, &arms, counts, metric, (now, actor));
    experiment.set_killed(target, true, now)?;
    match results {
        Ok(results) => results.into_iter().for_each(|result| experiment.record_kill_result(result)),
        Err(error) => {
            let key = experiment.definition.key().as_str();
            tracing::warn!(experiment = key, %error, "a variation was killed without keeping its results");
        }
    }
    Ok(())
}

fn results_before_kill(
    experiment: &Experiment,
    arms: &[Arm],
    counts: &GenerationCounts,
    metric: Option<&str>,
    (now, actor): (Timestamp, &str),
) -> Result<Vec<KillResult>, ServerError> {
    let definition = &experiment.definition;
    let named = metric.and_then(|name| definition.metrics().iter().position(|metric| metric.key.as_str() == name));
    let Some(index) = named.or(definition.decision_metric()) else { return Ok(Vec::new()) };
    let (Some(metric), Some(generation)) = (definition.metrics().get(index), experiment.generation()) else {
        return Ok(Vec::new());
    };
    if generation.ended_at().is_some() || arms.is_empty() {
        return Ok(Vec::new());
    }
    let summary = summary_of_metric(experiment, generation, counts, index)?;
    let control_mean = summary.arms.first().and_then(|control| control.mean);
    let result = |arm: &Arm| {
        let found = summary.arms.get(arm.index())?;
        Some(KillResult {
            generation: generation.number,
            arm: *arm,
            at: now,
            actor: actor.to_owned(),
            metric: metric.key.to_string(),
            exposed: exposed_units(counts, *arm),
            units: found.n,
            converted: found.s,
            open: open_records(experiment, counts, *arm, index, now),
            mean: found.mean,
            control_mean,
            lift: found.anytime.map(|lift| KillLift { estimate: lift.estimate, low: lift.low, high: lift.high }),
            p_worse: 1.0 - found.p_above_control,
        })
    };
    Ok(arms.iter().filter_map(result).collect())
}

/// The results as a sentence: "green was killed by ann: bought -32.0% (-41.0% to -20.1%, always-valid) from 812 units at
/// that time, >99.9% probability of being worse than control."
pub(crate) fn kill_result_in_words(experiment: &Experiment, result: &KillResult) -> String {
    let KillResult { arm, actor, metric, units, lift, p_worse, .. } = result;
    let variation = experiment.definition.variation(*arm).map(|v| v.key.to_string()).unwrap_or_default();
    let percent = |share: f64| format!("{:+.1}%", 100.0 * share);
    let units = match units {
        1 => "1 unit".to_owned(),
        units => format!("{units} units"),
    };
    let estimate = match lift {
        Some(lift) => format!(
            "{metric} {} ({} to {}, always-valid) from {units} at that time, {} probability of being worse than control",
            percent(lift.estimate),
            percent(lift.low),
            percent(lift.high),
            probability_in_words(*p_worse)
        ),
        None => format!("{units} counted at that time, too few to compare {metric}"),
    };
    format!("{variation} was killed by {actor}: {estimate}.")
}

/// The results in wire form, with the time at which the variation was restored.
pub(crate) fn kill_result_to_wire(
    experiment: &Experiment,
    generation: &Generation,
    result: &KillResult,
) -> v1::KillResult {
    let is_restored = |change: &&KillChange| {
        let targets = [KillTarget::Everything, KillTarget::Variation(result.arm)];
        change.at >= result.at && !change.killed && targets.contains(&change.target)
    };
    let served = |change: &&KillChange| generation.kills(change.at).served_arm(result.arm) == result.arm;
    let restored = generation.kill_changes.iter().filter(is_restored).find(served);
    v1::KillResult {
        variation: experiment.definition.variation(result.arm).map(|v| v.key.to_string()).unwrap_or_default(),
        at: Some(timestamp_to_wire(result.at)),
        restored_at: restored.map(|change| timestamp_to_wire(change.at)),
        actor: result.actor.clone(),
        metric: result.metric.clone(),
        exposed: result.exposed,
        units: result.units,
        converted: result.converted,
        open_records: result.open,
        mean: result.mean,
        control_mean: result.control_mean,
        lift: result.lift.map(|lift| v1::Interval { estimate: lift.estimate, low: lift.low, high: lift.high }),
        p_worse: result.p_worse,
        summary: kill_result_in_words(experiment, result),
    }
}
