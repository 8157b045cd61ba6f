//! What a kill costs, and what was known when it happened. A kill removes the records of open windows from the
//! comparison, and with them the reason for the kill: so the results of that moment are stored with it.

mod by_person;

use inroad_assignment::experiment::{FirstExposures, KillLift, KillResult};
use inroad_assignment::{Arm, Experiment, Generation, KillTarget, Policy, ThompsonSettings, Timestamp};
use inroad_policy::attribution::CellKey;
use inroad_policy::{ArmSummary, DrawsCache, SummaryInput, summarise};
use inroad_store::GenerationCounts;

use crate::error::ServerError;
use crate::tallies::{SEED, better, epoch_tallies, measure};
pub(crate) use by_person::{KillResultQueue, RESULTS_ACTION, RESULTS_ACTOR};

/// Draws, as a power of two. Only the probability to be best needs them, which is not kept, so the fewest do.
const RESULT_DRAWS_LOG2: u32 = 6;
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

/// Distinct units that were exposed.
pub(crate) fn distinct_units(counts: &GenerationCounts) -> u64 {
    counts.cells.iter().filter(|(key, _)| key.metric.is_none()).map(|(_, cell)| cell.first).sum()
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

/// What one kill took away.
pub(crate) struct Killed {
    at: Timestamp,
    generation: Option<u32>,
    /// Empty if they were killed before: then that kill keeps their results.
    arms: Vec<Arm>,
}

impl Killed {
    /// Keeps the results of what this kill took away. The experiment may have changed since they were computed.
    fn keep(&self, experiment: &mut Experiment, results: Vec<KillResult>) {
        let kept = results.into_iter().filter(|r| self.arms.contains(&r.arm) && Some(r.generation) == self.generation);
        kept.for_each(|result| experiment.record_kill_result(KillResult { at: self.at, ..result }));
    }
}

/// Kills variations and keeps these results of those that it takes away.
///
/// # Errors
/// [`ServerError::Change`] if the experiment cannot be killed.
pub(crate) fn kill_with_results(
    experiment: &mut Experiment,
    target: KillTarget,
    results: Vec<KillResult>,
    now: Timestamp,
) -> Result<Killed, ServerError> {
    let generation = experiment.generation().map(|generation| generation.number);
    let killed = Killed { at: now, generation, arms: killed_arms(experiment, target) };
    experiment.set_killed(target, true, now)?;
    killed.keep(experiment, results);
    Ok(killed)
}

/// Kills variations and keeps their results by these counts, which it returns. `metric` is the metric that caused the kill;
/// without one the primary metric. If the results cannot be computed, the variations are killed without them. Takes long:
/// do not call it from an async task.
///
/// # Errors
/// [`ServerError::Change`] if the experiment cannot be killed.
pub(crate) fn kill_and_keep_results(
    experiment: &mut Experiment,
    target: KillTarget,
    counts: &GenerationCounts,
    metric: Option<&str>,
    (now, actor): (Timestamp, &str),
) -> Result<Vec<KillResult>, ServerError> {
    let arms = killed_arms(experiment, target);
    let results = results_before_kill(experiment, &arms, counts, metric, (now, actor));
    kill_with_results(experiment, target, results.clone(), now)?;
    Ok(results)
}

/// The results of these arms: their exposures always, and their estimates if there is a metric and they can be computed.
fn results_before_kill(
    experiment: &Experiment,
    arms: &[Arm],
    counts: &GenerationCounts,
    metric: Option<&str>,
    (now, actor): (Timestamp, &str),
) -> Vec<KillResult> {
    let definition = &experiment.definition;
    let Some(generation) = experiment.generation().filter(|generation| generation.ended_at().is_none()) else {
        return Vec::new();
    };
    if arms.is_empty() {
        return Vec::new();
    }
    let first_exposures = first_exposures_at(experiment, generation, counts, now);
    let exposures = |arm: &Arm| KillResult {
        generation: generation.number,
        arm: *arm,
        at: now,
        actor: actor.to_owned(),
        metric: String::new(),
        exposed: exposed_units(counts, *arm),
        units: 0,
        converted: 0,
        open: 0,
        mean: None,
        control_mean: None,
        lift: None,
        p_worse: None,
        first_exposures: first_exposures.clone(),
    };
    let named = metric.and_then(|name| definition.metrics().iter().position(|metric| metric.key.as_str() == name));
    let found =
        named.or(definition.decision_metric()).and_then(|index| Some((index, definition.metrics().get(index)?)));
    let Some((index, metric)) = found else {
        return arms.iter().map(exposures).filter(|result| result.exposed > 0).collect();
    };
    let summary = summary_before_kill(experiment, generation, counts, index).unwrap_or_else(|error| {
        let key = definition.key().as_str();
        tracing::warn!(experiment = key, %error, "a variation is killed without its estimates; its exposures are kept");
        Vec::new()
    });
    let control_mean = summary.first().and_then(|control| control.mean);
    let result = |arm: &Arm| {
        let Some(found) = summary.get(arm.index()) else { return exposures(arm) };
        let is_relative = found.lift.as_ref().is_some_and(|lift| lift.relative().is_some());
        KillResult {
            metric: metric.key.to_string(),
            units: found.n,
            converted: found.s,
            open: open_records(experiment, counts, *arm, index, now),
            mean: found.mean,
            control_mean,
            // A difference in the metric's own unit is not a lift.
            lift: found.anytime.filter(|_| is_relative).map(|lift| KillLift {
                estimate: lift.estimate,
                low: lift.low,
                high: lift.high,
            }),
            p_worse: found.p_above_control.map(|p| 1.0 - p),
            ..exposures(arm)
        }
    };
    arms.iter().map(result).collect()
}

/// The estimates of all arms by a metric.
fn summary_before_kill(
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
    index: usize,
) -> Result<Vec<ArmSummary>, ServerError> {
    let definition = &experiment.definition;
    let Some(metric) = definition.metrics().get(index) else { return Ok(Vec::new()) };
    let epochs = epoch_tallies(experiment, generation, counts, Some(index));
    let all = (0..definition.variations().len()).filter_map(Arm::new);
    let live: Vec<bool> = all.map(|arm| !experiment.kills.is_arm_killed(arm)).collect();
    let defaults = ThompsonSettings::default();
    let settings = match definition.policy() {
        Policy::Thompson(settings) => settings,
        Policy::Manual { .. } => &defaults,
    };
    let input = SummaryInput {
        epochs: &epochs,
        measure: measure(metric).suited_to(&epochs),
        better: better(metric),
        live: &live,
        tau: settings.tau,
        // The metric may be a guardrail's, to which another posterior does not apply.
        posterior: defaults.posterior,
        seed: SEED,
        draws_log2: RESULT_DRAWS_LOG2,
    };
    Ok(summarise(&input, &mut DrawsCache::default())?.arms)
}

/// The first exposures so far in the reporting interval and under the revision of `now`.
fn first_exposures_at(
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
    now: Timestamp,
) -> Option<FirstExposures> {
    let tick = now.tick(experiment.definition.policy().tick());
    let revision = generation.revision_in_effect(now)?.number;
    let mut by_arm = vec![0; experiment.definition.variations().len()];
    let is_current = |key: &CellKey| key.metric.is_none() && (key.tick, key.revision) == (tick, revision);
    for (key, cell) in counts.cells.iter().filter(|(key, _)| is_current(key)) {
        *by_arm.get_mut(key.arm.index())? += cell.first;
    }
    Some(FirstExposures { tick, revision, by_arm, kills: experiment.kills })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{DefinitionDoc, Salt};

    #[test]
    fn result_without_a_relative_lift_has_both_means() {
        let result = KillResult {
            generation: 1,
            arm: Arm::new(1).unwrap(),
            at: Timestamp::default(),
            actor: "ann".to_owned(),
            metric: "bought".to_owned(),
            exposed: 984,
            units: 984,
            converted: 46,
            open: 0,
            mean: Some(0.0467),
            control_mean: Some(0.0),
            lift: None,
            p_worse: Some(0.0001),
            first_exposures: None,
        };
        let text = crate::kill_texts::kill_result_in_words("green", &result);
        let expected = "green was killed by ann: bought 0.0467 per unit, 0 in control, from 984 units at that time, <0.1% \
                        probability of being worse than control (with the prior).";
        assert_eq!(text, expected);
    }

    #[test]
    fn exposures_are_kept_without_a_primary_metric() {
        let doc = serde_json::json!({"key": "e", "variations": [
            {"key": "control", "payload": false}, {"key": "green", "payload": true, "share": 0.25}
        ]});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let now = Timestamp::default();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), now);
        experiment.start(now, Salt::parse("s").unwrap()).unwrap();
        let green = Arm::new(1).unwrap();
        let mut counts = GenerationCounts::default();
        let key = CellKey { metric: None, tick: 0, revision: 1, arm: green };
        counts.cells.entry(key).or_default().units = 7;
        kill_and_keep_results(&mut experiment, KillTarget::Variation(green), &counts, None, (now, "ann")).unwrap();
        let [kept] = experiment.kill_results.as_slice() else { panic!("{:?}", experiment.kill_results) };
        assert_eq!((kept.exposed, kept.metric.as_str()), (7, ""));
        assert!(kept.first_exposures.is_some());
    }
}
