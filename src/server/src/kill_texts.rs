//! The kept results of a killed variation, for people and in wire form.

use inroad_assignment::experiment::KillResult;
use inroad_assignment::{Experiment, Generation, KillChange, KillTarget};
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use crate::explain::probability_in_words;

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
