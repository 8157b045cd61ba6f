//! Explains a decision of the policy in words, from its stored record alone.

use core::time::Duration;

use inroad_assignment::{Experiment, GuardrailAction, Width};
use inroad_dashboard::format::NumberFormat;
use inroad_policy::{
    ArmDecision, ArmState, BurnInGap, Decision, EvidenceBasis, FIRST_LOOK_DAY, Freeze, HoldReason, Interval,
    OUTCOMES_MIN, PLANNED_DAYS, ShipCheck, TickInput, p_value_in_words,
};
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use crate::tick::hold_reason;

/// A decision in wire form. `revision` is the revision that it made, if any.
pub fn decision_to_wire(
    experiment: &Experiment,
    generation: u32,
    revision: Option<u32>,
    input: &TickInput,
    decision: &Decision,
) -> v1::Decision {
    let name = |i: usize| experiment.definition.variations().get(i).map(|v| v.key.to_string()).unwrap_or_default();
    let taken: u128 = decision.arms.iter().map(|arm| arm.grow_by.get()).sum();
    let control_outcomes: u64 = input.epochs.iter().filter_map(|epoch| epoch.arms.first()).map(|arm| arm.s).sum();
    let has_relative_lifts = !input.measure.is_difference() && control_outcomes >= OUTCOMES_MIN;
    let arms = decision.arms.iter().zip(&input.arms).enumerate().map(|(i, (decided, state))| {
        let before = state.owned.share();
        let after = match i {
            0 => state.owned.get().saturating_sub(taken) as f64 / Width::LINE.get() as f64,
            _ => state.owned.saturating_add(decided.grow_by).share(),
        };
        v1::ArmDecision {
            variation: name(i),
            p_best: decided.p_best,
            p_above_control: decided.p_above_control,
            // The policy computes losses on the log scale; callers get a share of the conversions.
            expected_loss: decided.expected_loss.filter(|_| has_relative_lifts).map(|loss| -(-loss).exp_m1()),
            share_before: before,
            share_after: after,
            why: arm_reason(i, input, decision),
            killed: state.killed,
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
        // Records made before the conditions were stored have a proposal without them.
        conclude: decision
            .conclude
            .filter(|_| decision.ship.is_none_or(|ship| ship.ready()))
            .map(|conclude| name(conclude.arm))
            .unwrap_or_default(),
        conclude_rests_on: decision
            .ship
            .filter(|ship| ship.ready())
            .and_then(|ship| ship.basis)
            .map(basis_in_words)
            .unwrap_or_default(),
        clearly_best: decision.clearly_best.map(|best| name(best.arm)).unwrap_or_default(),
        clearly_best_rests_on: decision.clearly_best.map(|best| basis_in_words(best.basis)).unwrap_or_default(),
        summary: summary(input, decision, &name),
    }
}

/// The largest odds that are shown as a number.
pub(crate) const MAX_SHOWN_ODDS: f64 = 1e6;
/// Log odds are limited to this, because JSON has no infinity. More would say nothing new.
const LOG_ODDS_MAX: f64 = 600.0;

/// The odds that correspond to log evidence, always finite.
pub(crate) fn odds(log_evidence: f64) -> f64 {
    log_evidence.min(LOG_ODDS_MAX).exp()
}

fn odds_in_words(log_evidence: f64) -> String {
    match odds(log_evidence) {
        odds if odds > MAX_SHOWN_ODDS => "over 1,000,000 to 1".to_owned(),
        odds => format!("{odds:.0} to 1"),
    }
}

/// A probability as a percentage; near 0 and 1 only a bound, because further digits mean nothing.
pub(crate) fn probability_in_words(probability: f64) -> String {
    match probability {
        p if p > 0.999 => ">99.9%".to_owned(),
        p if p < 0.001 => "<0.1%".to_owned(),
        p => format!("{:.1}%", 100.0 * p),
    }
}

/// A traffic share as a percentage, with about three significant digits.
pub(crate) fn share_in_words(share: f64) -> String {
    let percent = 100.0 * share;
    if percent.abs() >= 10.0 { format!("{percent:.1}%") } else { format!("{percent:.2}%") }
}

/// An estimated rate or loss as a percentage, as the pages show it: a bound near 0.
pub fn estimate_in_words(estimate: f64) -> String {
    NumberFormat::PercentEstimate.text(estimate)
}

fn summary(input: &TickInput, decision: &Decision, name: &dyn Fn(usize) -> String) -> String {
    let mut sentences = Vec::new();
    for finding in &decision.guardrails {
        sentences.push(format!(
            "Guardrail {}: evidence of harm by {} (odds {}); {}.",
            finding.metric,
            name(finding.arm),
            odds_in_words(finding.log_evidence),
            action_taken(finding.action)
        ));
    }
    if input.settings.shadow {
        sentences.push("Shadow mode: the decision is not applied.".to_owned());
    }
    for arm in &decision.kill {
        let below = decision.arms.get(*arm).map_or(0.0, |d| 1.0 - d.p_above_control);
        let below = probability_in_words(below);
        sentences.push(format!("{} is killed: {below} probability of being worse than control.", name(*arm)));
    }
    let total: f64 = decision.arms.iter().map(|arm| arm.grow_by.share()).sum();
    for (i, arm) in decision.arms.iter().enumerate().filter(|(_, arm)| arm.grow_by.get() > 0) {
        sentences.push(format!(
            "{} grows by {} of all traffic, taken from control: {} probability of being best, target share {}{}.",
            name(i),
            share_in_words(arm.grow_by.share()),
            probability_in_words(arm.p_best),
            share_in_words(arm.target_share),
            min_step_note(input.settings.min_step, total, arm.grow_by.share())
        ));
    }
    if let Some(hold) = decision.hold {
        sentences.push(match (hold, decision.frozen, decision.burn_in.missing) {
            (HoldReason::Frozen, Some(Freeze::SampleRatioMismatch { p_value, .. }), _) => {
                // A mismatch within single periods may not show in the sums.
                let p = if p_value < 0.01 { format!(" ({})", p_value_in_words(p_value)) } else { String::new() };
                format!("Automatic growth is frozen: sample ratio mismatch{p}. Check for lost or duplicated exposures.")
            }
            (HoldReason::Frozen, ..) => "Automatic growth is frozen: events were not processed in time.".to_owned(),
            (HoldReason::BurnIn, _, gap) => burn_in(input, gap, name),
            (HoldReason::NotDue, ..) => "Only guardrails were checked.".to_owned(),
            (HoldReason::NoArmDeservesMore, ..) => match limit_of_probable_winners(input, decision) {
                Some(limit) => format!("No growth: {limit}."),
                None => "No growth: no variation has a target above its current share.".to_owned(),
            },
            (HoldReason::NoHeadroom, ..) => {
                let control = input.arms.first().map_or(Width::ZERO, |arm| arm.owned);
                match kept_for_evidence(input.evidence_share, input.floor, control, decision.ship) {
                    Some(kept) => format!("No growth: {kept}."),
                    None => "No growth: control is at its minimum share.".to_owned(),
                }
            }
            (HoldReason::Accruing, ..) => {
                "No growth yet: the growth allowed so far is too small for a revision; it accumulates.".to_owned()
            }
            (HoldReason::BelowMinStep, ..) => {
                "No growth: all variations together would grow by less than the minimum step.".to_owned()
            }
        });
    }
    if let Some(best) = decision.clearly_best {
        let basis = basis_in_words(best.basis);
        sentences.push(format!("{} is better than every other variation ({basis}).", name(best.arm)));
    }
    if let Some(conclude) = decision.conclude.filter(|conclude| {
        // Without evidence and with a small probability, there is nothing to report.
        let has_evidence = decision.ship.is_none_or(|ship| ship.beyond_chance);
        has_evidence || conclude.p_best >= input.settings.conclude_probability
    }) {
        let step = if conclude.arm == 0 { "roll back" } else { "ship" };
        let age = input.now.since(input.generation_started_at);
        let blockers = decision.ship.map(|ship| ship_blockers(ship, conclude.arm, age, None)).unwrap_or_default();
        let basis = decision.ship.and_then(|ship| ship.basis).map(basis_in_words);
        let advice = match basis {
            _ if !blockers.is_empty() => format!("Not ready to {step}: {blockers}"),
            Some(basis) => format!("Ready to {step} ({basis})"),
            None => format!("Ready to {step}"),
        };
        let p_best = probability_in_words(conclude.p_best);
        sentences.push(format!("{} has a {p_best} probability of being best. {advice}.", name(conclude.arm)));
    }
    sentences.join(" ")
}

/// What growth leaves to control, which has the share `control`, although its minimum share is smaller; none if there is a
/// winner beyond chance. Control may have less already: people can grow variations further, and a winner may stop being one.
pub(crate) fn kept_for_evidence(kept: Width, floor: Width, control: Width, ship: Option<ShipCheck>) -> Option<String> {
    let is_kept = floor < kept && ship.is_none_or(|ship| !ship.beyond_chance);
    is_kept.then(|| {
        let then = format!(
            "until a variation is better beyond chance, then its minimum share of {}",
            share_in_words(floor.share())
        );
        let (is_less, kept) = (control < kept, share_in_words(kept.share()));
        match is_less {
            true => format!("control has less than the {kept} that automatic growth leaves it {then}"),
            false => format!("automatic growth leaves control {kept} {then}"),
        }
    })
}

/// Why a variation may grow by less than the minimum step; empty if it does not.
fn min_step_note(min_step: f64, total: f64, step: f64) -> String {
    if step < min_step && total >= min_step {
        return format!(" (the minimum step of {} is for all variations together)", share_in_words(min_step));
    }
    String::new()
}

fn action_taken(action: GuardrailAction) -> &'static str {
    match action {
        GuardrailAction::Alert => "no automatic action, please review",
        GuardrailAction::Freeze => "its growth is stopped",
        GuardrailAction::Kill => "it is killed",
    }
}

/// What a statement about a winner rests on.
pub fn basis_in_words(basis: EvidenceBasis) -> String {
    match basis {
        EvidenceBasis::ScheduledLook { day } => format!("scheduled look of day {day}"),
        EvidenceBasis::AlwaysValid => "always-valid interval".to_owned(),
    }
}

/// When the next scheduled look is, after this time since the start; empty after the planned days.
fn next_look(age: Duration) -> String {
    let next = (age.as_secs() / 86_400 + 1).max(FIRST_LOOK_DAY.into());
    if next > PLANNED_DAYS.into() { String::new() } else { format!(" (next look: day {next})") }
}

/// The reasons against shipping `arm` at this time since the start, or against rolling back if it is control, joined with
/// "; "; empty if there are none.
///
/// `shown` is the 95% interval that the reader sees beside them, if there is one.
pub fn ship_blockers(ship: ShipCheck, arm: usize, age: Duration, shown: Option<Interval>) -> String {
    let others = if arm == 0 { "every variation" } else { "control" };
    let both = match shown.is_some_and(|shown| shown.low > 0.0 || shown.high < 0.0) {
        true => ", although its 95% interval excludes 0: that holds at one check, the test at all checks together",
        false => "",
    };
    let not_beyond_chance = format!("it is not better than {others} beyond chance yet{}{both}", next_look(age));
    let checks = [
        (ship.full_week, "it has not run for a full week"),
        // The record does not say which of these it is.
        (
            ship.alternatives_agree,
            "the other estimates (averaged over reporting intervals, and batched) disagree or have too few events",
        ),
        (ship.beyond_chance, not_beyond_chance.as_str()),
        (ship.no_guardrail_alert, "a guardrail has evidence of harm"),
        (ship.sample_ratio_ok, "there is a sample ratio mismatch"),
    ];
    let failed: Vec<&str> = checks.iter().filter(|(passed, _)| !passed).map(|(_, text)| *text).collect();
    failed.join("; ")
}

/// Why a variation's share changed or did not: a phrase that follows the variation's key.
fn arm_reason(arm: usize, input: &TickInput, decision: &Decision) -> String {
    let (Some(state), Some(decided)) = (input.arms.get(arm), decision.arms.get(arm)) else { return String::new() };
    let guardrail = |action| decision.guardrails.iter().find(|g| g.arm == arm && g.action == action);
    if arm == 0 {
        let given: u128 = decision.arms.iter().map(|arm| arm.grow_by.get()).sum();
        let given = given as f64 / Width::LINE.get() as f64;
        return if given > 0.0 { format!("gives up {}", share_in_words(given)) } else { "keeps its share".to_owned() };
    }
    if state.killed {
        return "is killed: its units get control".to_owned();
    }
    if let Some(guardrail) = guardrail(GuardrailAction::Kill) {
        return format!("is killed by guardrail {}", guardrail.metric);
    }
    if decision.kill.contains(&arm) {
        let below = probability_in_words(1.0 - decided.p_above_control);
        return format!("is killed: {below} probability of being worse than control");
    }
    let (target, owned) = (share_in_words(decided.target_share), share_in_words(state.owned.share()));
    if decided.grow_by.get() > 0 {
        let missing = decided.target_share - state.owned.share();
        let limited = if decided.grow_by.share() < missing - 1e-9 {
            "; limited by the growth cap or by the control traffic that growth may take"
        } else {
            ""
        };
        let step = share_in_words(decided.grow_by.share());
        let p_best = probability_in_words(decided.p_best);
        return format!("grows by {step} from {owned} towards {target}: {p_best} probability of being best{limited}");
    }
    if let Some(guardrail) = guardrail(GuardrailAction::Freeze) {
        return format!("does not grow: stopped by guardrail {}", guardrail.metric);
    }
    if !decision.burn_in.met {
        return "does not grow during burn-in".to_owned();
    }
    if decided.p_above_control <= 0.5 {
        let above = probability_in_words(decided.p_above_control);
        return format!("does not grow: only {above} probability of being better than control");
    }
    if decided.target_share <= state.owned.share() {
        return why_no_target(decided.p_best, state.owned, used_up_control(input, decision));
    }
    if owned == target {
        return format!("does not grow: it has its target of {target}");
    }
    format!("stays at {owned}, below its target of {target}: see the summary of the decision")
}

/// The share of control, if growth may take none of it.
fn used_up_control(input: &TickInput, decision: &Decision) -> Option<Width> {
    let is_proven = decision.ship.is_some_and(|ship| ship.beyond_chance);
    let left = if is_proven { input.floor } else { input.floor.max(input.evidence_share) };
    let control = input.arms.first().map_or(Width::ZERO, |arm| arm.owned);
    (control.share() - left.share() < input.settings.min_step).then_some(control)
}

/// Why variations do not grow although they are probably best, if that is so for all that could.
fn limit_of_probable_winners(input: &TickInput, decision: &Decision) -> Option<String> {
    let control = used_up_control(input, decision)?;
    let is_probable =
        |(state, decided): (&ArmState, &ArmDecision)| !state.killed && decided.p_best > state.owned.share();
    let is_limited = input.arms.iter().zip(&decision.arms).skip(1).any(is_probable);
    is_limited.then(|| growth_limit(control))
}

fn growth_limit(control: Width) -> String {
    format!("growth leaves control its {}", share_in_words(control.share()))
}

/// Why the target of a variation is not above its share `owned`: its probability to be best, or because there is no control
/// traffic that growth may take; then `used_up` is the share of control.
fn why_no_target(p_best: f64, owned: Width, used_up: Option<Width>) -> String {
    let best = probability_in_words(p_best);
    match used_up.filter(|_| p_best > owned.share()) {
        Some(control) => format!("does not grow: {best} probability of being best, but {}", growth_limit(control)),
        None => {
            let owned = share_in_words(owned.share());
            format!("does not grow: {best} probability of being best, so its target is not above its {owned}")
        }
    }
}

fn burn_in(input: &TickInput, gap: Option<BurnInGap>, name: &dyn Fn(usize) -> String) -> String {
    let settings = &input.settings;
    match gap {
        Some(BurnInGap::Age { age_us }) => {
            let hours = settings.burn_in.as_secs_f64() / 3600.0;
            format!("No growth during burn-in: {:.1} of {hours:.1} hours have passed.", age_us as f64 / 3.6e9)
        }
        Some(BurnInGap::Units { arm, found }) => {
            format!("No growth during burn-in: {} has {found} of {} units.", name(arm), settings.burn_in_units)
        }
        Some(BurnInGap::Conversions { arm, found }) => {
            let needed = settings.burn_in_conversions;
            format!("No growth during burn-in: {} has {found} of {needed} conversions.", name(arm))
        }
        None => "No growth during burn-in.".to_owned(),
    }
}

#[cfg(test)]
mod tests;
