//! The texts of an action: the label of its button, and what it does to which units.

use std::time::Duration;

use inroad_assignment::{Arm, Experiment, KillTarget};
use inroad_dashboard::format::{NumberFormat, count, counted, number};
use maud::{Markup, html};

use super::super::Pages;
use super::super::allocation::is_within_audience;
use super::Action;
use crate::ended_run::{Conclusion, conclusion, shipped_now};

/// The label of the button. `subject` is the key of the variation, or `experiment`.
pub(super) fn button_label(action: Action, subject: &str) -> String {
    match action {
        Action::Start => "Start experiment".to_owned(),
        Action::Pause => "Pause experiment".to_owned(),
        Action::Resume => "Resume experiment".to_owned(),
        Action::Grow => format!("Grow {subject}"),
        Action::Kill => format!("Kill {subject}"),
        Action::Restore => format!("Restore {subject}"),
        Action::Restart => "Restart experiment".to_owned(),
        Action::Conclude => "Conclude experiment".to_owned(),
        Action::Archive => "Archive experiment".to_owned(),
        Action::Reallocate => "Reallocate now".to_owned(),
    }
}

/// Which clients get a change that takes effect immediately, and when.
fn immediate_delivery(clients: usize) -> Markup {
    html! {
        @match clients {
            0 => "No client is connected. New clients get this on connecting.",
            1 => "The connected client gets this immediately.",
            _ => { (count(clients as u64)) " connected clients get this immediately." }
        }
        " Server-side calls update immediately."
    }
}

/// The share of traffic that sees a variation other than control now: killed variations are not seen.
fn seen_share(experiment: &Experiment) -> f64 {
    let allocation = experiment.latest_allocation();
    (0..experiment.definition.variations().len())
        .filter_map(Arm::new)
        .filter(|arm| !experiment.kills.served_arm(*arm).is_control())
        .map(|arm| allocation.width_of(arm).share())
        .sum()
}

/// What a kill, a restore or a restart of a concluded experiment does: its allocation does not decide what units get. None
/// for other actions, and for an experiment that is not concluded.
fn after_conclusion(experiment: &Experiment, action: Action, arm: Option<Arm>, subject: &str) -> Option<Vec<String>> {
    let how = conclusion(experiment)?;
    let shipped = match how {
        Conclusion::Shipped(arm) => Some(arm),
        Conclusion::RolledBack => None,
    };
    let name = |arm: Arm| experiment.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let units = |arm: Arm| if is_within_audience(experiment, arm) { "Units in the audience" } else { "All units" };
    let concluded = if shipped.is_some() { "concluded" } else { "rolled back" };
    let served = shipped_now(experiment, how);
    let all_control = "All units get control already".to_owned();
    let is_shipped = arm.is_none() || arm == shipped;
    Some(match (action, served, shipped) {
        (Action::Kill | Action::Restore, ..) if !is_shipped => vec![
            format!("No unit gets {subject}: the experiment is {concluded}."),
            match action {
                Action::Kill => "It stays killed in the next run.".to_owned(),
                _ => "It is not killed in the next run.".to_owned(),
            },
        ],
        (Action::Kill, Some(served), _) if arm.is_some() => vec![
            format!("{} get control instead of {subject} immediately.", units(served)),
            format!("Restoring gives {subject} back to them."),
        ],
        (Action::Kill, Some(served), _) => vec![
            format!("All units get control immediately: {} stop getting {}.", lowercase(units(served)), name(served)),
            format!("Restoring gives {} back to them.", name(served)),
        ],
        (Action::Kill, None, _) => vec![format!("{all_control}. The kill stays in effect in the next run.")],
        (Action::Restore, _, Some(shipped)) if is_served_after_restore(experiment, shipped, arm) => {
            vec![format!("{} get {} again, immediately.", units(shipped), name(shipped))]
        }
        (Action::Restore, ..) => vec![format!("{all_control}, and still do after the restore.")],
        (Action::Restart, Some(served), _) => vec![
            "A new run begins under a new salt. Every unit gets a new point.".to_owned(),
            format!("{} get {} now and may get another variation or control.", units(served), name(served)),
            "Results start from zero. Results of earlier runs stay available.".to_owned(),
        ],
        (Action::Restart, None, _) => vec![
            "A new run begins under a new salt. Every unit gets a new point.".to_owned(),
            "All units get control now. In the new run, units may get a variation.".to_owned(),
            "Results start from zero. Results of earlier runs stay available.".to_owned(),
        ],
        _ => return None,
    })
}

fn lowercase(sentence: &str) -> String {
    let (first, rest) = sentence.split_at_checked(1).unwrap_or_default();
    first.to_lowercase() + rest
}

/// Whether the shipped variation is served after a restore of `arm`, or of the whole experiment.
fn is_served_after_restore(experiment: &Experiment, shipped: Arm, arm: Option<Arm>) -> bool {
    let target = arm.map_or(KillTarget::Everything, KillTarget::Variation);
    experiment.kills.with_change(target, false).served_arm(shipped) == shipped
}

/// What an action does, as sentences.
pub(super) fn consequences(
    pages: &Pages,
    experiment: &Experiment,
    action: Action,
    arm: Option<Arm>,
    subject: &str,
) -> Vec<Markup> {
    if let Some(lines) = after_conclusion(experiment, action, arm, subject) {
        let delivery = (action != Action::Restart).then(|| immediate_delivery(pages.shared.clients.list().len()));
        return lines.into_iter().map(|line| html! { (line) }).chain(delivery).collect();
    }
    let allocation = experiment.latest_allocation();
    let percent = |share: f64| number(share, NumberFormat::Percent2);
    let share = percent(arm.map_or(0.0, |arm| allocation.width_of(arm).share()));
    let variations_share = percent(seen_share(experiment));
    let delivery = immediate_delivery(pages.shared.clients.list().len());
    match action {
        Action::Start => vec![
            html! { "Every variation gets the traffic share shown below. All other units get control." },
            html! { "Exposures are recorded from now on. The unit, the salt and the order of variations are fixed until a restart." },
            delivery,
        ],
        Action::Pause => vec![
            html! { "All units keep their variation." },
            html! { "No exposures are recorded and no variation grows automatically until you resume the experiment." },
        ],
        Action::Resume => vec![html! { "Exposures are recorded again, and the traffic allocation can change again." }],
        Action::Grow => vec![
            html! { (subject) " has " (share) " of traffic now. The additional traffic comes only from control." },
            html! { "You cannot make a variation smaller. To take it away, kill it." },
            html! { "The change is published immediately and takes effect after " (lead_time(pages.shared.config.lead)) ", everywhere at the same time." },
        ],
        Action::Kill if arm.is_some() => vec![
            html! { "Units with " (share) " of traffic switch from " (subject) " to control immediately." },
            html! { "The variation keeps its buckets, and no other variation grows into them. Restoring gives the same units back." },
            delivery,
        ],
        Action::Kill => vec![
            html! { "All units get control immediately. Units with " (variations_share) " of traffic stop seeing their variation." },
            html! { "All buckets are kept. Restoring gives every unit its variation back." },
            delivery,
        ],
        Action::Restore if arm.is_some() => vec![
            html! { "The same units see it again, immediately." },
            html! { "Automatic kill rules no longer apply to it." },
            delivery,
        ],
        Action::Restore => vec![
            html! { "All units see the same variation as before, immediately. A variation that was killed separately stays killed." },
            delivery,
        ],
        Action::Restart => vec![
            html! { "A new run begins under a new salt. Every unit gets a new point." },
            html! { "Units with up to " (variations_share) " of traffic that see a variation now may see another one or control. Only a restart does this." },
            html! { "Results start from zero. Results of earlier runs stay available." },
        ],
        Action::Conclude => vec![
            html! {
                @if experiment.definition.audience().is_none() { "All units get" } @else { "The chosen units get" }
                " the chosen variation until a restart. To roll back, choose control."
            },
            html! { "No more exposures are recorded. Results are kept." },
        ],
        Action::Archive => vec![
            html! { "The experiment disappears from the list and can no longer be changed." },
            html! {
                "Clients that still ask for it get "
                @if matches!(conclusion(experiment), Some(Conclusion::Shipped(_))) { "the shipped variation." } @else { "control." }
            },
        ],
        Action::Reallocate => vec![html! {
            "The policy decides with the current counts instead of waiting for the next update. It may grow variations into control, kill a variation, or change nothing."
        }],
    }
}

/// A lead time in seconds, or in milliseconds if it is not a whole number of seconds.
fn lead_time(lead: Duration) -> Markup {
    html! {
        @if lead.subsec_millis() == 0 { (counted(lead.as_secs(), "second")) } @else { (count(lead.as_millis() as u64)) " ms" }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use inroad_assignment::{DefinitionDoc, Salt, Timestamp};

    use super::*;

    #[test]
    fn killed_variations_have_no_part_in_the_share_that_is_seen() {
        let doc = serde_json::json!({
            "key": "e", "policy": {"kind": "manual", "tick": "1d"},
            "variations": [
                {"key": "off", "payload": 0}, {"key": "b", "payload": 1, "share": 0.2},
                {"key": "c", "payload": 2, "share": 0.1},
            ],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let at = Timestamp::default();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), at);
        experiment.start(at, Salt::parse("s").unwrap()).unwrap();
        let is_seen = |experiment: &Experiment, share: f64| (seen_share(experiment) - share).abs() < 1e-9;
        assert!(is_seen(&experiment, 0.3), "both variations are seen");
        experiment.set_killed(KillTarget::Variation(Arm::new(1).unwrap()), true, at).unwrap();
        assert!(is_seen(&experiment, 0.1), "only c is seen");
        experiment.set_killed(KillTarget::Everything, true, at).unwrap();
        assert!(is_seen(&experiment, 0.0), "only control is seen");
    }
}
