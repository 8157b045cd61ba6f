//! A decision in plain words, from its stored record alone.

use inroad_assignment::{Experiment, GuardrailAction};
use inroad_policy::{BurnInGap, Decision, Freeze, HoldReason, Ship, TickInput};
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use crate::tick::hold_reason;

/// A decision as callers get it.
pub fn decision_to_wire(
    experiment: &Experiment,
    generation: u32,
    revision: Option<u32>,
    input: &TickInput,
    decision: &Decision,
) -> v1::Decision {
    let name = |i: usize| experiment.definition.variations().get(i).map(|v| v.key.to_string()).unwrap_or_default();
    let taken: u128 = decision.arms.iter().map(|arm| arm.grow_by.get()).sum();
    let arms = decision.arms.iter().zip(&input.arms).enumerate().map(|(i, (decided, state))| {
        let before = state.owned.share();
        let after = match i {
            0 => state.owned.get().saturating_sub(taken) as f64 / inroad_assignment::Width::LINE.get() as f64,
            _ => state.owned.saturating_add(decided.grow_by).share(),
        };
        v1::ArmDecision {
            variation: name(i),
            p_best: decided.p_best,
            p_above_control: decided.p_above_control,
            // The policy tells losses on the log scale; a caller reads a share of the conversions.
            expected_loss: -(-decided.expected_loss.unwrap_or_default()).exp_m1(),
            share_before: before,
            share_after: after,
            why: why(i, input, decision),
        }
    });
    v1::Decision {
        at: Some(timestamp_to_wire(input.now)),
        generation,
        revision: revision.unwrap_or_default(),
        arms: arms.collect(),
        hold: if input.settings.shadow { "SHADOW" } else { hold_reason(decision) }.to_owned(),
        killed: decision.kill.iter().copied().chain(decision.guardrail_kills()).map(name).collect(),
        shadow: input.settings.shadow,
        conclude: decision.conclude.map(|c| name(c.arm)).unwrap_or_default(),
        summary: summary(input, decision, &name),
    }
}

/// Odds beyond which nobody reads the digits.
pub(crate) const MOST_ODDS: f64 = 1e6;
/// Beyond it nothing is said that has not been said, and infinity cannot be stored as JSON.
const LOG_ODDS_MAX: f64 = 600.0;

/// The odds of evidence, always finite.
pub(crate) fn odds(log_evidence: f64) -> f64 {
    log_evidence.min(LOG_ODDS_MAX).exp()
}

/// The same in words.
fn odds_text(log_evidence: f64) -> String {
    match odds(log_evidence) {
        odds if odds > MOST_ODDS => "over 1,000,000 to 1".to_owned(),
        odds => format!("{odds:.0} to 1"),
    }
}

fn summary(input: &TickInput, decision: &Decision, name: &dyn Fn(usize) -> String) -> String {
    let mut said = Vec::new();
    for spoken in &decision.guardrails {
        let (arm, metric) = (name(spoken.arm), &spoken.metric);
        let evidence = odds_text(spoken.log_evidence);
        said.push(format!("guardrail {metric}: {arm} does harm (evidence {evidence}); {}", done(spoken.action)));
    }
    if input.settings.shadow {
        said.push("in shadow, nothing is done of what the policy says".to_owned());
    }
    for arm in &decision.kill {
        let below = decision.arms.get(*arm).map_or(0.0, |d| 1.0 - d.p_above_control);
        said.push(format!("{} is killed: worse than control with probability {:.1}%", name(*arm), 100.0 * below));
    }
    for (i, arm) in decision.arms.iter().enumerate().filter(|(_, arm)| arm.grow_by.get() > 0) {
        said.push(format!(
            "{} grows by {:.2}% of the line into control: {:.1}% likely best, it deserves {:.1}%",
            name(i),
            100.0 * arm.grow_by.share(),
            100.0 * arm.p_best,
            100.0 * arm.target_share
        ));
    }
    if let Some(hold) = decision.hold {
        said.push(match (hold, decision.frozen, decision.burn_in.missing) {
            (HoldReason::Frozen, Some(Freeze::SampleRatioMismatch { p_value, .. }), _) => {
                format!("frozen: exposures do not fall as the shares say (p = {p_value:.2e}); look for lost or doubled exposures")
            }
            (HoldReason::Frozen, ..) => "frozen: events were not all counted in time".to_owned(),
            (HoldReason::BurnIn, _, gap) => burn_in(input, gap, name),
            (HoldReason::NotDue, ..) => "only guardrails were asked".to_owned(),
            (HoldReason::NobodyDeserves, ..) => "nothing grows: nobody deserves more than it has".to_owned(),
            (HoldReason::NoHeadroom, ..) => "nothing grows: control is at its floor".to_owned(),
            (HoldReason::Accruing, ..) => {
                "nothing grows yet: what may grow since the last growth is less than a revision is worth, and accrues".to_owned()
            }
            (HoldReason::BelowMinStep, ..) => "nothing grows: the step would be too small to be worth a revision".to_owned(),
        });
    }
    if let Some(conclude) = decision.conclude {
        let head = format!("{} is {:.1}% likely best", name(conclude.arm), 100.0 * conclude.p_best);
        let advice = if conclude.arm == 0 { "roll back" } else { "ship it" };
        let waits = decision.ship.map(waits_for).unwrap_or_default();
        said.push(if waits.is_empty() { format!("{head}: {advice}?") } else { format!("{head}, but {waits}") });
    }
    said.join("; ")
}

fn done(action: GuardrailAction) -> &'static str {
    match action {
        GuardrailAction::Alert => "somebody should look",
        GuardrailAction::Freeze => "it grows no more",
        GuardrailAction::Kill => "it is killed",
    }
}

/// What speaks against shipping yet; nothing if nothing does.
pub fn waits_for(ship: Ship) -> String {
    let reasons = [
        (ship.full_week, "it has not seen every day of a week"),
        // What was recorded does not tell which of these it is.
        (
            ship.opinions_agree,
            "the second opinions (period-weighted and batched) do not both agree, or have too few events to say",
        ),
        (ship.beyond_chance, "chance is not excluded at every look (the confidence sequence holds 0)"),
        (ship.harmless, "a guardrail says that it does harm"),
        (ship.ratio_sound, "exposures do not fall as the shares say"),
    ];
    let missing: Vec<&str> = reasons.iter().filter(|(holds, _)| !holds).map(|(_, said)| *said).collect();
    missing.join(" and ")
}

/// Why one arm's share moved, or did not.
fn why(arm: usize, input: &TickInput, decision: &Decision) -> String {
    let (Some(state), Some(decided)) = (input.arms.get(arm), decision.arms.get(arm)) else { return String::new() };
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    let harms = |action| decision.guardrails.iter().find(|g| g.arm == arm && g.action == action);
    if arm == 0 {
        let given: u128 = decision.arms.iter().map(|arm| arm.grow_by.get()).sum();
        let given = given as f64 / inroad_assignment::Width::LINE.get() as f64;
        return if given > 0.0 { format!("gives {}", percent(given)) } else { "gives nothing".to_owned() };
    }
    if state.killed {
        return "is killed: its units are served control".to_owned();
    }
    if let Some(guard) = harms(GuardrailAction::Kill) {
        return format!("is killed by guardrail {}", guard.metric);
    }
    if decision.kill.contains(&arm) {
        return format!("is killed: {} likely to be worse than control", percent(1.0 - decided.p_above_control));
    }
    let (target, owned) = (percent(decided.target_share), percent(state.owned.share()));
    if decided.grow_by.get() > 0 {
        let lacking = decided.target_share - state.owned.share();
        let capped =
            if decided.grow_by.share() < lacking - 1e-9 { "; the rest has to wait: cap or headroom" } else { "" };
        let step = percent(decided.grow_by.share());
        return format!(
            "grows by {step} from {owned} towards {target}, being {} likely best{capped}",
            percent(decided.p_best)
        );
    }
    if let Some(guard) = harms(GuardrailAction::Freeze) {
        return format!("is held back by guardrail {}", guard.metric);
    }
    if decided.p_above_control <= 0.5 {
        return format!("stays: only {} likely to be better than control", percent(decided.p_above_control));
    }
    if decided.target_share <= state.owned.share() {
        return format!("stays: being {} likely best, it deserves no more than its {owned}", percent(decided.p_best));
    }
    format!("stays at {owned}, though it deserves {target}: see the decision's summary")
}

fn burn_in(input: &TickInput, gap: Option<BurnInGap>, name: &dyn Fn(usize) -> String) -> String {
    let settings = &input.settings;
    match gap {
        Some(BurnInGap::Age { age_us }) => {
            let hours = settings.burn_in.as_secs_f64() / 3600.0;
            format!("burn-in: {:.1} of {hours:.1} hours have passed", age_us as f64 / 3.6e9)
        }
        Some(BurnInGap::Units { arm, found }) => {
            format!("burn-in: units of {}: {found} of {}", name(arm), settings.burn_in_units)
        }
        Some(BurnInGap::Conversions { arm, found }) => {
            format!("burn-in: conversions of {}: {found} of {}", name(arm), settings.burn_in_conversions)
        }
        None => "burn-in".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strong_evidence_is_finite_and_short() {
        assert!(odds(1e4).is_finite());
        assert_eq!([odds_text(20_f64.ln()), odds_text(1e4)], ["20 to 1", "over 1,000,000 to 1"]);
    }
}
