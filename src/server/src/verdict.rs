//! The state of an experiment in a sentence or two. What everybody gets comes first where it is not what the line says;
//! then what was measured, and only of one that can still move what to do about it.

use inroad_assignment::{Arm, Experiment, Status};

use crate::explain::waits_for;
use crate::report::Report;

/// Of one generation: its number, its report and how many units were moved; of none before the first.
pub(crate) fn verdict(experiment: &Experiment, measured: Option<(u32, &Report, u64)>) -> String {
    let state = state(experiment);
    let Some((number, report, moved)) = measured else {
        return state.unwrap_or_else(|| "not started: nothing has been measured yet".to_owned());
    };
    let is_over = experiment.generation().is_some_and(|running| running.number != number);
    let state =
        if is_over { Some(format!("generation {number} is over: the experiment was restarted")) } else { state };
    let Some(state) = state else { return advice(experiment, report, moved) };
    if report.is_compared { format!("{state}; {}", standing(experiment, report, moved)) } else { state }
}

fn name(experiment: &Experiment, arm: usize) -> String {
    experiment.definition.variations().get(arm).map(|v| v.key.to_string()).unwrap_or_default()
}

/// What everybody gets where the line does not say it, or what has stopped; none of one that simply runs or never did.
fn state(experiment: &Experiment) -> Option<String> {
    let control = match name(experiment, 0) {
        key if key == "control" => key,
        key => format!("control ({key})"),
    };
    let killed = experiment.kills.everything;
    match experiment.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => {
            let word = experiment.status.name();
            let until = if word == "concluded" { " until it is restarted" } else { "" };
            let shipped_name = if shipped.is_control() { control.clone() } else { name(experiment, shipped.index()) };
            Some(if experiment.kills.served(shipped) != shipped {
                format!("killed: everybody gets {control}, not {shipped_name}, which it was {word} with")
            } else if killed {
                format!("killed, and {word}: everybody gets {control}{until}")
            } else {
                format!("{word}: everybody gets {shipped_name}{until}")
            })
        }
        Status::Draft if killed => {
            Some(format!("killed, and not started: everybody gets {control} until it is started and restored"))
        }
        Status::Running | Status::Paused if killed => {
            let paused = if experiment.status == Status::Paused { ", and paused" } else { "" };
            Some(format!("killed{paused}: everybody gets {control} until it is restored"))
        }
        Status::Paused => Some(
            "paused: everybody keeps what they have; no exposure is recorded and nothing grows by itself until it is resumed"
                .to_owned(),
        ),
        Status::Draft | Status::Running => None,
    }
}

/// Who leads, by how much.
fn standing(experiment: &Experiment, report: &Report, moved: u64) -> String {
    let leader = report.summary.leader;
    let arm = report.summary.arms.get(leader);
    let lift = arm.and_then(|arm| arm.lift.as_ref());
    let lift = lift.map(|lift| format!(", {:+.1}% over control", 100.0 * lift.estimate)).unwrap_or_default();
    let best = 100.0 * arm.map_or(0.0, |arm| arm.p_best);
    format!("{} leads: {best:.1}% likely best{lift}; {moved} units moved", name(experiment, leader))
}

/// The same of one that runs, and what to do.
fn advice(experiment: &Experiment, report: &Report, moved: u64) -> String {
    if experiment.definition.decision_metric().is_none() {
        return "no decision metric: nothing is compared".to_owned();
    }
    if !report.is_compared {
        return format!("nothing is measured yet; {moved} units moved; keep going");
    }
    let head = standing(experiment, report, moved);
    match (report.ship, Arm::new(report.summary.leader)) {
        (None, _) => format!("{head}; keep going"),
        (Some(ship), _) if !ship.ready() => format!("{head}; wait: {}", waits_for(ship)),
        (Some(_), Some(Arm::CONTROL)) => format!("{head}; conclude and roll back?"),
        (Some(_), _) => format!("{head}; ship it?"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{DefinitionDoc, Salt, Target, Timestamp};
    use inroad_store::Counts;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn draft(control: &str, metrics: serde_json::Value) -> Experiment {
        let variations = serde_json::json!([{"key": control, "payload": false}, {"key": "green", "payload": true}]);
        let doc = serde_json::json!({"key": "e", "variations": variations, "metrics": metrics});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        Experiment::create(doc.try_into().unwrap(), NOW)
    }

    fn started(metrics: serde_json::Value) -> Experiment {
        let mut experiment = draft("control", metrics);
        experiment.start(NOW, Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn said(experiment: &Experiment, number: u32) -> String {
        let generation = experiment.generation_numbered(number).unwrap();
        let report = Report::new(experiment, generation, &Counts::default(), NOW).unwrap();
        verdict(experiment, Some((number, &report, 0)))
    }

    #[test]
    fn what_everybody_gets_comes_before_what_is_compared() {
        let mut experiment = started(serde_json::json!([]));
        assert_eq!(said(&experiment, 1), "no decision metric: nothing is compared");
        experiment.switch(Target::Everything, true, NOW).unwrap();
        assert_eq!(said(&experiment, 1), "killed: everybody gets control until it is restored");
        experiment.pause().unwrap();
        assert_eq!(said(&experiment, 1), "killed, and paused: everybody gets control until it is restored");
        experiment.switch(Target::Everything, false, NOW).unwrap();
        assert!(said(&experiment, 1).starts_with("paused: everybody keeps what they have"));
        let green = experiment.arm("green").unwrap();
        experiment.conclude(green, Timestamp::default()).unwrap();
        assert_eq!(said(&experiment, 1), "concluded: everybody gets green until it is restarted");
        experiment.switch(Target::Variation(green), true, NOW).unwrap();
        assert_eq!(said(&experiment, 1), "killed: everybody gets control, not green, which it was concluded with");
        experiment.switch(Target::Variation(green), false, NOW).unwrap();
        experiment.archive().unwrap();
        assert_eq!(said(&experiment, 1), "archived: everybody gets green");
    }

    #[test]
    fn one_that_runs_is_told_what_to_do_and_one_that_is_over_is_not() {
        let metrics = serde_json::json!([{"key": "bought", "event": "purchase", "decision": true}]);
        let mut experiment = started(metrics);
        assert_eq!(said(&experiment, 1), "nothing is measured yet; 0 units moved; keep going");
        experiment.restart(NOW, Salt::parse("t").unwrap()).unwrap();
        assert_eq!(said(&experiment, 1), "generation 1 is over: the experiment was restarted");
        assert_eq!(said(&experiment, 2), "nothing is measured yet; 0 units moved; keep going");
    }

    #[test]
    fn a_draft_has_not_started_and_control_is_called_by_its_name() {
        let mut experiment = draft("blue", serde_json::json!([]));
        assert_eq!(verdict(&experiment, None), "not started: nothing has been measured yet");
        experiment.switch(Target::Everything, true, NOW).unwrap();
        let told = verdict(&experiment, None);
        assert_eq!(told, "killed, and not started: everybody gets control (blue) until it is started and restored");
    }
}
