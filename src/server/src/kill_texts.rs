//! The kept results of a killed variation, for people and in wire form.

use inroad_assignment::experiment::KillResult;
use inroad_assignment::{Arm, Definition, Experiment, Generation, KillChange, Kills, Revision, Timestamp};
use inroad_dashboard::format::{NumberFormat, plural};
use inroad_store::AuditEntry;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;
use serde::Deserialize;

use crate::explain::probability_in_words;

/// The results as a sentence: "green was killed by ann: bought −32.0% (−41.0% to −20.1%, always-valid) from 812 units at
/// that time, >99.9% probability of being worse than control (with the prior)."
pub(crate) fn kill_result_in_words(variation: &str, result: &KillResult) -> String {
    let KillResult { actor, metric, units, lift, p_worse, exposed, mean, control_mean, .. } = result;
    if metric.is_empty() {
        let exposed = plural(*exposed, "unit");
        return format!("{variation} was killed by {actor}: {exposed} exposed at that time, without a primary metric.");
    }
    let percent = |share: f64| NumberFormat::Lift.text(share);
    let units = plural(*units, "unit");
    let worse = p_worse
        .map(|p| format!(", {} probability of being worse than control (with the prior)", probability_in_words(p)));
    let worse = worse.unwrap_or_default();
    let estimate = match (lift, mean.zip(*control_mean).filter(|_| p_worse.is_some())) {
        (Some(lift), _) => format!(
            "{metric} {} ({} to {}, always-valid) from {units} at that time{worse}",
            percent(lift.estimate),
            percent(lift.low),
            percent(lift.high),
        ),
        // There is no relative lift, but the difference was known.
        (None, Some((mean, control))) => {
            let number = |value: f64| NumberFormat::Estimate.text(value);
            format!(
                "{metric} {} per unit, {} in control, from {units} at that time{worse}",
                number(mean),
                number(control)
            )
        }
        (None, None) => format!("{units} counted at that time, too few to compare {metric}"),
    };
    format!("{variation} was killed by {actor}: {estimate}.")
}

/// The part of an entry of the audit log that the results kept with a kill need.
#[derive(Deserialize)]
struct AuditedKill {
    kill_results: Vec<KillResult>,
}

/// The results that were kept with the kill of an entry of the audit log, as sentences.
pub(crate) fn kept_results_in_words(entry: &AuditEntry) -> Vec<String> {
    // Nearly all entries have none, and a new experiment may have megabytes.
    if !entry.to.contains("\"kill_results\"") {
        return Vec::new();
    }
    let Ok(AuditedKill { kill_results }) = serde_json::from_str(&entry.to) else { return Vec::new() };
    let key = |arm: Arm| entry.context.variations.get(&arm.index()).cloned().unwrap_or_default();
    kill_results.iter().map(|result| kill_result_in_words(&key(result.arm), result)).collect()
}

fn key_of(definition: &Definition, arm: Arm) -> String {
    definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default()
}

/// The results of kills that happened while a revision was the newest one, oldest first.
pub(crate) fn kills_during_revision(
    experiment: &Experiment,
    generation: &Generation,
    revision: &Revision,
) -> Vec<v1::KillResult> {
    let next = generation.revision(revision.number + 1).map_or(Timestamp::MAX, |next| next.created_at);
    let is_during = |result: &&KillResult| {
        // A decision that kills and grows does both at once.
        result.generation == generation.number && (revision.created_at..next).contains(&result.at)
    };
    let during = experiment.kill_results.iter().filter(is_during);
    during.map(|result| kill_result_to_wire(experiment, generation, result)).collect()
}

/// The results in wire form, with the time at which the variation was restored.
pub(crate) fn kill_result_to_wire(
    experiment: &Experiment,
    generation: &Generation,
    result: &KillResult,
) -> v1::KillResult {
    let restored_at = restored_at(experiment, generation, result);
    let variation = key_of(&experiment.definition, result.arm);
    v1::KillResult {
        summary: kill_result_in_words(&variation, result),
        variation,
        at: Some(timestamp_to_wire(result.at)),
        restored_at: restored_at.map(timestamp_to_wire),
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
    }
}

/// When the variation was served again after the kill that kept this result. With simulated time, several kills and
/// restores may have the same time: results and changes are both in their order.
fn restored_at(experiment: &Experiment, generation: &Generation, result: &KillResult) -> Option<Timestamp> {
    let same =
        |other: &&KillResult| (other.generation, other.arm, other.at) == (result.generation, result.arm, result.at);
    let earlier =
        experiment.kill_results.iter().filter(same).position(|other| std::ptr::eq(other, result)).unwrap_or(0);
    let (mut kills, mut kills_of_arm) = (Kills::default(), 0);
    for KillChange { at, target, killed } in &generation.kill_changes {
        let was_served = kills.served_arm(result.arm) == result.arm;
        kills = kills.with_change(*target, *killed);
        match (was_served, kills.served_arm(result.arm) == result.arm) {
            (true, false) if *at == result.at => kills_of_arm += 1,
            (false, true) if kills_of_arm > earlier => return Some(*at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use std::time::Duration;

    use inroad_assignment::{DefinitionDoc, KillTarget, Salt};
    use inroad_policy::attribution::{Cell, CellKey};
    use inroad_store::GenerationCounts;

    use crate::kill_results::{kill_and_keep_results, kill_effect, killed_arms};

    fn at(hours: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(3_600 * hours))
    }

    /// 1,000 units in each arm on the first day: 100 of control convert, 40 of green.
    fn counted() -> (Experiment, GenerationCounts) {
        let doc = serde_json::json!({
            "key": "e", "policy": {"kind": "manual", "tick": "1d"},
            "variations": [{"key": "off", "payload": false}, {"key": "green", "payload": true, "share": 0.5}],
            "metrics": [{"key": "bought", "event": "purchase", "window": "2d", "decision": true}],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), at(0));
        experiment.start(at(0), Salt::parse("s").unwrap()).unwrap();
        let mut counts = GenerationCounts::default();
        for (arm, s) in [(0, 100), (1, 40)] {
            let key = |metric, revision| CellKey { metric, tick: 0, revision, arm: Arm::new(arm).unwrap() };
            counts.cells.insert(key(None, 1), Cell { first: 1_000, ..Cell::default() });
            counts.cells.insert(key(None, 0), Cell { units: 1_000, ..Cell::default() });
            counts.cells.insert(key(Some(0), 1), Cell { n: 1_000, s, ..Cell::default() });
        }
        (experiment, counts)
    }

    #[test]
    fn results_are_kept_with_the_kill_and_the_restore_is_named() {
        let (mut experiment, counts) = counted();
        let green = KillTarget::Variation(Arm::new(1).unwrap());
        let arms = killed_arms(&experiment, green);
        let effect = |hours| kill_effect(&experiment, &counts, &arms, at(hours));
        assert_eq!(
            [(effect(71).exposed, effect(71).open), (effect(72).exposed, effect(72).open)],
            [(1_000, 1_000), (1_000, 0)]
        );
        kill_and_keep_results(&mut experiment, green, &counts, None, (at(5), "ann")).unwrap();
        kill_and_keep_results(&mut experiment, green, &counts, None, (at(6), "bob")).unwrap();
        assert_eq!(experiment.kill_results.len(), 1, "it is killed already");
        let wire = |experiment: &Experiment| {
            kill_result_to_wire(experiment, experiment.generation().unwrap(), &experiment.kill_results[0])
        };
        assert_eq!(wire(&experiment).restored_at, None);
        experiment.set_killed(KillTarget::Everything, true, at(7)).unwrap();
        experiment.set_killed(green, false, at(8)).unwrap();
        assert_eq!(wire(&experiment).restored_at, None, "the whole experiment is still killed");
        experiment.set_killed(KillTarget::Everything, false, at(9)).unwrap();
        let result = wire(&experiment);
        assert_eq!(result.restored_at, Some(timestamp_to_wire(at(9))));
        let (lift, known) = (result.lift.unwrap(), (result.units, result.converted, result.mean, result.control_mean));
        assert_eq!(known, (1_000, 40, Some(0.04), Some(0.1)));
        assert!(lift.low < -0.6 && lift.high < 0.0 && result.p_worse.is_some_and(|p| p > 0.999), "{lift:?}");
        assert!(
            result.summary.starts_with("green was killed by ann: bought −60.0% (")
                && result.summary.contains("from 1,000 units at that time, >99.9% probability"),
            "{}",
            result.summary
        );
    }

    #[test]
    fn restores_of_kills_at_one_simulated_time_are_told_apart() {
        let (mut experiment, counts) = counted();
        let green = KillTarget::Variation(Arm::new(1).unwrap());
        let kill = |experiment: &mut Experiment| {
            kill_and_keep_results(experiment, green, &counts, None, (at(5), "ann")).unwrap();
        };
        kill(&mut experiment);
        experiment.set_killed(green, false, at(5)).unwrap();
        kill(&mut experiment);
        let restored = |experiment: &Experiment| {
            let generation = experiment.generation().unwrap();
            experiment.kill_results.iter().map(|r| restored_at(experiment, generation, r)).collect::<Vec<_>>()
        };
        assert_eq!(restored(&experiment), [Some(at(5)), None]);
        experiment.set_killed(green, false, at(9)).unwrap();
        assert_eq!(restored(&experiment), [Some(at(5)), Some(at(9))]);
    }

    #[test]
    fn kill_of_everything_keeps_the_results_of_each_variation_that_was_served() {
        let (mut experiment, _) = counted();
        let none = GenerationCounts::default();
        kill_and_keep_results(&mut experiment, KillTarget::Everything, &none, None, (at(5), "ann")).unwrap();
        let result = &experiment.kill_results[0];
        assert_eq!((experiment.kill_results.len(), result.units, result.lift), (1, 0, None));
        let words = kill_result_in_words("green", result);
        assert_eq!(words, "green was killed by ann: 0 units counted at that time, too few to compare bought.");
    }
}
