//! Tests of explanations: what is said where numbers look contradictory.

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Arm, DefinitionDoc, Salt, Timestamp};
use inroad_policy::attribution::CellKey;
use inroad_policy::{Decider, TickScope};
use inroad_store::GenerationCounts;

use super::*;
use crate::tick::tick_input;

#[test]
fn missing_evidence_is_named_for_the_step_that_it_blocks() {
    let ship = ShipCheck {
        full_week: true,
        alternatives_agree: true,
        beyond_chance: false,
        basis: None,
        no_guardrail_alert: true,
        sample_ratio_ok: true,
    };
    let blockers = |arm, hours: u64| ship_blockers(ship, arm, Duration::from_secs(3600 * hours), None);
    assert_eq!(blockers(2, 3), "it is not better than control beyond chance yet (next look: day 7)");
    assert_eq!(blockers(2, 7 * 24), "it is not better than control beyond chance yet (next look: day 8)");
    assert_eq!(blockers(0, 200 * 24), "it is not better than every variation beyond chance yet");
    let above_0 = Interval { estimate: 0.2, low: 0.1, high: 0.3 };
    let text = ship_blockers(ship, 2, Duration::ZERO, Some(above_0));
    assert!(text.contains("although its 95% interval excludes 0: that holds at one check"), "{text}");
    let around_0 = Some(Interval { low: -0.1, ..above_0 });
    assert!(!ship_blockers(ship, 2, Duration::ZERO, around_0).contains("although"));
    assert_eq!(ship_blockers(ShipCheck { beyond_chance: true, ..ship }, 2, Duration::ZERO, None), "");
    assert_eq!(basis_in_words(EvidenceBasis::ScheduledLook { day: 9 }), "scheduled look of day 9");
}

#[test]
fn share_kept_for_evidence_and_the_minimum_step_are_explained_where_they_look_contradictory() {
    let share = |share| Width::from_share(share).expect("a share");
    let ship = |beyond_chance| ShipCheck {
        full_week: true,
        alternatives_agree: true,
        beyond_chance,
        basis: None,
        no_guardrail_alert: true,
        sample_ratio_ok: true,
    };
    let text = kept_for_evidence(share(0.15), share(0.05), share(0.6), Some(ship(false))).expect("it is kept");
    assert!(text.contains("leaves control 15.0%") && text.contains("minimum share of 5.00%"), "{text}");
    assert!(
        kept_for_evidence(share(0.15), share(0.05), share(0.15), None)
            .is_some_and(|text| text.contains("leaves control"))
    );
    let text = kept_for_evidence(share(0.15), share(0.05), share(0.0761), Some(ship(false))).expect("it is kept");
    assert!(text.starts_with("control has less than the 15.0% that automatic growth leaves it until"), "{text}");
    assert_eq!(kept_for_evidence(share(0.15), share(0.05), share(0.6), Some(ship(true))), None);
    assert_eq!(kept_for_evidence(share(0.15), share(0.2), share(0.6), None), None);

    let note = " (the minimum step of 0.50% is for all variations together)";
    assert_eq!(min_step_note(0.005, 0.136, 0.0037), note);
    assert_eq!(min_step_note(0.005, 0.136, 0.132), "");
    assert_eq!(min_step_note(0.005, 0.004, 0.004), "", "a daily cap below the minimum step");
}

#[test]
fn probable_winner_that_cannot_grow_is_not_said_to_deserve_no_more() {
    let share = |share| Width::from_share(share).expect("a share");
    assert_eq!(
        why_no_target(0.995, share(0.583), Some(share(0.15))),
        "does not grow: 99.5% probability of being best, but growth leaves control its 15.0%"
    );
    let deserves_no_more =
        "does not grow: 2.2% probability of being best, so its target is not above its 44.1%".to_owned();
    assert_eq!(why_no_target(0.022, share(0.441), Some(share(0.15))), deserves_no_more);
    assert_eq!(why_no_target(0.022, share(0.441), None), deserves_no_more);
}

#[test]
fn strong_evidence_is_shown_as_a_finite_bound() {
    assert!(odds(1e4).is_finite());
    assert_eq!([odds_in_words(20_f64.ln()), odds_in_words(1e4)], ["20 to 1", "over 1,000,000 to 1"]);
}

/// The summary of the policy's decision, and the reasons of the variations. Green owns 85% of the line, and is better than
/// control and red.
fn explained_without_control_to_take(green_converted: u64) -> (String, Vec<String>) {
    let doc = serde_json::json!({
        "key": "e", "policy": {"kind": "thompson", "burn_in": "0s", "burn_in_units": 1, "burn_in_conversions": 1},
        "variations": [{"key": "control", "payload": 0}, {"key": "green", "payload": 1, "share": 0.5}],
        "metrics": [{"key": "bought", "event": "purchase", "decision": true}],
    });
    let doc: DefinitionDoc = serde_json::from_value(doc).expect("a definition");
    let (start, green) = (Timestamp::default(), Arm::new(1).expect("an arm"));
    let mut experiment = Experiment::create(doc.try_into().expect("a definition"), start);
    experiment.start(start, Salt::parse("s").expect("a salt")).expect("it starts");
    let width = Width::from_share(0.35).expect("a share");
    experiment.grow(&[(green, width)], RevisionCause::Grown, start, start).expect("it grows");
    let mut counts = GenerationCounts::default();
    for (arm, units, converted) in [(Arm::CONTROL, 150, 12), (green, 850, green_converted)] {
        let key = CellKey { metric: None, tick: 0, revision: 2, arm };
        let exposed = counts.cells.entry(key).or_default();
        (exposed.units, exposed.first) = (units, units);
        let counted = counts.cells.entry(CellKey { metric: Some(0), ..key }).or_default();
        (counted.n, counted.s, counted.x, counted.y) = (units, converted, i128::from(converted) * 1_000_000, 0);
    }
    let now = start.plus(Duration::from_secs(30 * 3600));
    let input = tick_input(&experiment, &counts, TickScope::Growth, now, false).expect("an input");
    let decision = Decider::default().decide(&input).expect("a decision");
    assert_eq!(decision.hold, Some(HoldReason::NoArmDeservesMore), "{decision:?}");
    let decision = decision_to_wire(&experiment, 1, None, &input, &decision);
    (decision.summary, decision.arms.into_iter().map(|arm| arm.why).collect())
}

#[test]
fn summary_and_reasons_give_the_same_cause_of_no_growth() {
    let (summary, reasons) = explained_without_control_to_take(110);
    assert!(reasons[1].contains("but growth leaves control its 15.0%"), "{reasons:?}");
    assert!(summary.contains("No growth: growth leaves control its 15.0%."), "{summary}");
    let (summary, reasons) = explained_without_control_to_take(75);
    assert!(reasons[1].contains("so its target is not above its 85.0%"), "{reasons:?}");
    assert!(summary.contains("No growth: no variation has a target above its current share."), "{summary}");
}
