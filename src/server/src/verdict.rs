//! The verdict: the state of an experiment in a sentence or two. If all units get one variation, or the experiment is
//! paused, that comes first. Otherwise the verdict starts with what to do next.

use inroad_assignment::{Arm, Experiment, Status};
use inroad_dashboard::format::NumberFormat;
use inroad_policy::Ranking;

use crate::ended_run::{Conclusion, conclusion, conclusion_of_run, end_in_words};
use crate::explain::{basis_in_words, probability_in_words, ship_blockers};
use crate::report::Report;

/// The verdict on one generation, given its number, its report and the number of units moved between variations; `None`
/// before the first generation.
pub(crate) fn verdict(experiment: &Experiment, measured: Option<(u32, &Report, u64)>) -> String {
    let state = state(experiment);
    let Some((number, report, moved)) = measured else {
        return state.unwrap_or_else(|| "Not started: nothing has been measured yet.".to_owned());
    };
    let has_ended = experiment.generation().is_some_and(|running| running.number != number);
    let state = if has_ended {
        let run = experiment.generation_by_number(number).and_then(conclusion_of_run).map(|(_, how)| how);
        Some(format!("Run {number} has ended: {}.", end_in_words(experiment, run, true)))
    } else {
        state
    };
    let Some(state) = state else { return advice(experiment, report, moved) };
    match (report.is_compared, report.summary.leader()) {
        (true, Some(leader)) => {
            format!("{state} {} leads: {}", name(experiment, leader), leader_estimates(report, leader, moved))
        }
        (true, None) => format!("{state} {NO_LEADER} {}", moved_units(moved)),
        (false, _) => state,
    }
}

fn name(experiment: &Experiment, arm: usize) -> String {
    experiment.definition.variations().get(arm).map(|v| v.key.to_string()).unwrap_or_default()
}

/// The state, if all units get one variation for another reason than the allocation, or the experiment is paused.
fn state(experiment: &Experiment) -> Option<String> {
    let control = match name(experiment, 0) {
        key if key == "control" => key,
        key => format!("control ({key})"),
    };
    let killed = experiment.kills.everything;
    match experiment.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => {
            let (word, title) = match (experiment.status, conclusion(experiment)) {
                (Status::Concluded { .. }, Some(Conclusion::RolledBack)) => ("concluded", "Rolled back"),
                (Status::Concluded { .. }, _) => ("concluded", "Concluded"),
                (_, Some(Conclusion::RolledBack)) => ("archived", "Archived after a rollback"),
                (_, _) => ("archived", "Archived"),
            };
            let until = if word == "concluded" { " until it is restarted" } else { "" };
            let shipped_name = if shipped.is_control() { control.clone() } else { name(experiment, shipped.index()) };
            Some(if experiment.kills.served_arm(shipped) != shipped {
                format!("Killed and {word}: all units get {control} instead of {shipped_name}, the shipped variation.")
            } else if killed {
                format!("Killed and {word}: all units get {control}{until}.")
            } else {
                let within_audience = experiment.shipped_within_audience && !shipped.is_control();
                match experiment.definition.audience().filter(|_| within_audience) {
                    Some(_) => format!("{title}: units in the audience get {shipped_name}, all others {control}{until}."),
                    None => format!("{title}: all units get {shipped_name}{until}."),
                }
            })
        }
        Status::Draft if killed => {
            Some(format!("Killed and not started: all units get {control} until it is started and restored."))
        }
        Status::Running | Status::Paused if killed => {
            let paused = if experiment.status == Status::Paused { " and paused" } else { "" };
            Some(format!("Killed{paused}: all units get {control} until it is restored."))
        }
        Status::Paused => Some(
            "Paused: all units keep their variation. No exposures are recorded and the allocation policy does nothing until it \
             is resumed."
                .to_owned(),
        ),
        Status::Draft | Status::Running => None,
    }
}

/// What is said of a tie.
const NO_LEADER: &str = "No variation leads.";

/// How good the leader is, and how many units moved between variations.
fn leader_estimates(report: &Report, leader: usize, moved: u64) -> String {
    let arm = report.summary.arms.get(leader);
    let lift = arm.and_then(|arm| arm.lift?.relative());
    let lift =
        lift.map(|lift| format!(", {} over control", NumberFormat::Lift.text(lift.estimate))).unwrap_or_default();
    let best = probability_in_words(arm.and_then(|arm| arm.p_best).unwrap_or_default());
    format!("{best} probability of being best{lift}. {}", moved_units(moved))
}

fn moved_units(moved: u64) -> String {
    let units = if moved == 1 { "unit" } else { "units" };
    format!("{moved} {units} moved between variations.")
}

/// The verdict on a running experiment: what to do next, and why.
fn advice(experiment: &Experiment, report: &Report, moved: u64) -> String {
    if experiment.definition.decision_metric().is_none() {
        return "No primary metric: variations are not compared.".to_owned();
    }
    if report.summary.ranking == Ranking::AllKilled {
        let control = name(experiment, Arm::CONTROL.index());
        return format!(
            "All variations are killed: all units get {control}, and nothing is compared. Restore a variation, or \
             conclude the experiment. {}",
            moved_units(moved)
        );
    }
    if !report.is_compared {
        let is_empty = report.summary.arms.iter().all(|arm| arm.n == 0);
        let why = if is_empty { "nothing has been measured yet" } else { &report.not_ranked };
        return format!("Keep running: {why}. {}", moved_units(moved));
    }
    let Some(arm) = report.summary.leader() else {
        return format!("Keep running: no variation leads. {}", moved_units(moved));
    };
    let (leader, estimates) = (name(experiment, arm), leader_estimates(report, arm, moved));
    let clearly_best = report.clearly_best.map(|best| {
        let basis = basis_in_words(best.basis);
        format!(" {} is better than every other variation ({basis}).", name(experiment, best.arm))
    });
    let estimates = estimates + &clearly_best.unwrap_or_default();
    let step = if arm == Arm::CONTROL.index() { "roll back" } else { "ship" };
    match report.ship {
        None => format!("Keep running: {leader} leads, {estimates}"),
        Some(ship) if !ship.ready() => {
            let blockers = ship_blockers(ship, arm, report.age, report.shown_interval(arm));
            format!("Keep running: {leader} leads, {estimates} Not ready to {step}: {blockers}.")
        }
        Some(ship) => {
            let basis = ship.basis.map(|basis| format!(" Evidence: {}.", basis_in_words(basis))).unwrap_or_default();
            format!("Ready to {step}: {leader} leads, {estimates}{basis}")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::experiment::ShippingScope;
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt, Timestamp};
    use inroad_store::GenerationCounts;

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

    fn verdict_on(experiment: &Experiment, number: u32) -> String {
        let generation = experiment.generation_by_number(number).unwrap();
        let report = Report::new(experiment, generation, &GenerationCounts::default(), NOW).unwrap();
        verdict(experiment, Some((number, &report, 0)))
    }

    #[test]
    fn state_comes_before_the_comparison() {
        let mut experiment = started(serde_json::json!([]));
        assert_eq!(verdict_on(&experiment, 1), "No primary metric: variations are not compared.");
        experiment.set_killed(KillTarget::Everything, true, NOW).unwrap();
        assert_eq!(verdict_on(&experiment, 1), "Killed: all units get control until it is restored.");
        experiment.pause().unwrap();
        assert_eq!(verdict_on(&experiment, 1), "Killed and paused: all units get control until it is restored.");
        experiment.set_killed(KillTarget::Everything, false, NOW).unwrap();
        assert!(verdict_on(&experiment, 1).starts_with("Paused: all units keep their variation."));
        let green = experiment.arm("green").unwrap();
        experiment.conclude(green, ShippingScope::Audience, Timestamp::default()).unwrap();
        assert_eq!(verdict_on(&experiment, 1), "Concluded: all units get green until it is restarted.");
        experiment.set_killed(KillTarget::Variation(green), true, NOW).unwrap();
        assert_eq!(
            verdict_on(&experiment, 1),
            "Killed and concluded: all units get control instead of green, the shipped variation."
        );
        experiment.set_killed(KillTarget::Variation(green), false, NOW).unwrap();
        experiment.archive().unwrap();
        assert_eq!(verdict_on(&experiment, 1), "Archived: all units get green.");
    }

    #[test]
    fn only_a_running_generation_gets_advice() {
        let metrics = serde_json::json!([{"key": "bought", "event": "purchase", "decision": true}]);
        let mut experiment = started(metrics);
        assert_eq!(
            verdict_on(&experiment, 1),
            "Keep running: nothing has been measured yet. 0 units moved between variations."
        );
        experiment.restart(NOW, Salt::parse("t").unwrap()).unwrap();
        assert_eq!(verdict_on(&experiment, 1), "Run 1 has ended: the experiment was restarted.");
        assert_eq!(
            verdict_on(&experiment, 2),
            "Keep running: nothing has been measured yet. 0 units moved between variations."
        );
    }

    #[test]
    fn nothing_leads_if_all_variations_are_killed() {
        let metrics = serde_json::json!([{"key": "bought", "event": "purchase", "decision": true}]);
        let mut experiment = started(metrics);
        experiment.set_killed(KillTarget::Variation(experiment.arm("green").unwrap()), true, NOW).unwrap();
        assert_eq!(
            verdict_on(&experiment, 1),
            "All variations are killed: all units get control, and nothing is compared. Restore a variation, or conclude \
             the experiment. 0 units moved between variations."
        );
    }

    #[test]
    fn draft_has_not_started_and_control_is_shown_with_its_key() {
        let mut experiment = draft("blue", serde_json::json!([]));
        assert_eq!(verdict(&experiment, None), "Not started: nothing has been measured yet.");
        experiment.set_killed(KillTarget::Everything, true, NOW).unwrap();
        let text = verdict(&experiment, None);
        assert_eq!(text, "Killed and not started: all units get control (blue) until it is started and restored.");
    }
}
