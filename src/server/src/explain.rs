//! A decision in plain words, from its stored record alone.

use inroad_assignment::Experiment;
use inroad_policy::{BurnInGap, Decision, Freeze, HoldReason, TickInput};
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
        }
    });
    v1::Decision {
        at: Some(timestamp_to_wire(input.now)),
        generation,
        revision: revision.unwrap_or_default(),
        arms: arms.collect(),
        hold: hold_reason(decision).to_owned(),
        killed: decision.kill.iter().map(|arm| name(*arm)).collect(),
        conclude: decision.conclude.map(|c| name(c.arm)).unwrap_or_default(),
        summary: summary(input, decision, &name),
    }
}

fn summary(input: &TickInput, decision: &Decision, name: &dyn Fn(usize) -> String) -> String {
    let mut said = Vec::new();
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
            (HoldReason::NobodyDeserves, ..) => "nothing grows: nobody deserves more than it has".to_owned(),
            (HoldReason::NoHeadroom, ..) => "nothing grows: control is at its floor".to_owned(),
            (HoldReason::BelowMinStep, ..) => "nothing grows: the step would be too small to be worth a revision".to_owned(),
        });
    }
    if let Some(conclude) = decision.conclude {
        let advice = if conclude.arm == 0 { "roll back" } else { "ship it" };
        said.push(format!("{} is {:.1}% likely best: {advice}?", name(conclude.arm), 100.0 * conclude.p_best));
    }
    said.join("; ")
}

fn burn_in(input: &TickInput, gap: Option<BurnInGap>, name: &dyn Fn(usize) -> String) -> String {
    let settings = &input.settings;
    match gap {
        Some(BurnInGap::Age { age_us }) => {
            let hours = settings.burn_in.as_secs_f64() / 3600.0;
            format!("burn-in: {:.1} of {hours:.1} hours have passed", age_us as f64 / 3.6e9)
        }
        Some(BurnInGap::Units { arm, found }) => {
            format!("burn-in: {} has {found} of {} units", name(arm), settings.burn_in_units)
        }
        Some(BurnInGap::Conversions { arm, found }) => {
            format!("burn-in: {} has {found} of {} conversions", name(arm), settings.burn_in_conversions)
        }
        None => "burn-in".to_owned(),
    }
}
