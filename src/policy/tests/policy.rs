//! Tests of the allocation policy: its limits hold for any tallies, and it finds winners and kills bad arms.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::time::Duration;

use common::{DAY_US, SimulatedExperiment, apply, new_experiment, served, share};
use inroad_assignment::{GuardrailAction, Timestamp, Width};
use inroad_policy::{
    ArmTally, BetterDirection, BurnInGap, Decider, Decision, DrawsCache, EpochKey, EpochTally, Freeze, GuardedMetric,
    HoldReason, Measure, PolicyError, TickInput, decide,
};
use proptest::prelude::*;

/// An experiment after ten equal days with these records and conversions per arm and day.
fn after_ten_days(n: &[u64], s: &[u64]) -> TickInput {
    let mut input = new_experiment(n.len());
    let arms: Vec<ArmTally> =
        n.iter().zip(s).map(|(&n, &s)| ArmTally { first: n, n, s, ..ArmTally::default() }).collect();
    input.epochs = (0..10)
        .map(|tick| EpochTally { epoch: EpochKey { tick, revision: 1 }, arms: arms.clone(), shares: Vec::new() })
        .collect();
    input.now = Timestamp::from_micros(10 * DAY_US);
    input.last_growth_at = Timestamp::from_micros(9 * DAY_US);
    input
}

fn decided(input: &TickInput) -> Decision {
    decide(input, &mut DrawsCache::default()).unwrap()
}

/// Whether the policy uses the higher daily cap, by the documented rule.
fn variation_likely_best(input: &TickInput, decision: &Decision) -> bool {
    decision.conclude.is_some_and(|conclude| {
        conclude.arm > 0
            && conclude.p_best >= input.settings.conclude_probability
            && conclude.loss <= input.settings.conclude_loss
    })
}

fn grown(decision: &Decision) -> u128 {
    decision.arms.iter().map(|arm| arm.grow_by.get()).sum()
}

prop_compose! {
    /// Any experiment: any owned points, footholds and floor, killed arms, any tallies.
    fn any_input()(arms in 2_usize..=9)(
        weights in prop::collection::vec(1_u32..1000, arms),
        footholds in prop::collection::vec(0.0..0.4_f64, arms),
        killed in prop::collection::vec(prop::bool::weighted(0.2), arms),
        cells in prop::collection::vec(prop::collection::vec((0_u64..3000, 0.0..1.0_f64), arms), 0..12),
        floor in 0.0..0.6_f64,
        (cap, cap_conclude, min_step) in (0.0..=1.0_f64, 0.0..=1.0_f64, prop_oneof![Just(0.0), 0.0..0.02_f64]),
        (since_growth, age) in (0..20 * DAY_US, 0..40 * DAY_US),
        seed in 0_u64..3,
        late in prop::bool::weighted(0.05),
        burn_in_units in prop_oneof![Just(0_u64), Just(100)],
        known_shares in any::<bool>(),
    ) -> TickInput {
        let mut input = new_experiment(weights.len());
        let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
        let mut left = Width::LINE.get();
        for (k, arm) in input.arms.iter_mut().enumerate().skip(1) {
            arm.owned = Width::new(Width::LINE.get() * u128::from(weights[k]) / total / 2).unwrap();
            left -= arm.owned.get();
            arm.foothold = share(footholds[k]);
            arm.killed = killed[k];
        }
        input.arms[0].owned = Width::new(left).unwrap();
        input.floor = share(floor);
        input.seed = seed;
        input.data_late = late;
        input.settings.draws_log2 = 8;
        input.settings.daily_cap = cap;
        input.settings.daily_cap_conclude = cap_conclude;
        input.settings.min_step = min_step;
        input.settings.burn_in_units = burn_in_units;
        input.settings.burn_in_conversions = burn_in_units / 4;
        input.now = Timestamp::from_micros(age.max(since_growth));
        input.last_growth_at = Timestamp::from_micros(age.max(since_growth) - since_growth);
        let shares = if known_shares { served(&input) } else { Vec::new() };
        input.epochs = cells.iter().enumerate().map(|(tick, cells)| EpochTally {
            epoch: EpochKey { tick: tick as i64, revision: 1 },
            arms: cells.iter().map(|&(n, rate)| ArmTally { first: n, n, s: (n as f64 * rate * rate) as u64, ..ArmTally::default() }).collect(),
            shares: shares.clone(),
        }).collect();
        input
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn control_keeps_its_floor_and_only_live_arms_above_control_grow(input in any_input()) {
        let decision = decided(&input);
        let headroom = input.arms[0].owned.get().saturating_sub(input.floor.get());
        prop_assert!(grown(&decision) <= headroom);
        prop_assert_eq!(decision.arms[0].grow_by, Width::ZERO);
        for (k, arm) in decision.arms.iter().enumerate().filter(|(_, arm)| arm.grow_by > Width::ZERO) {
            prop_assert!(!input.arms[k].killed && !decision.kill.contains(&k) && arm.p_above_control > 0.5);
            let after = input.arms[k].owned.checked_add(arm.grow_by).unwrap().share();
            prop_assert!(after <= arm.target_share + 1e-12, "arm {} grows beyond its target", k);
        }
        prop_assert_eq!(decision.grows(), decision.hold.is_none());
    }

    #[test]
    fn growth_stays_within_the_daily_cap(input in any_input()) {
        let decision = decided(&input);
        let settings = &input.settings;
        let cap = if variation_likely_best(&input, &decision) { settings.daily_cap_conclude } else { settings.daily_cap };
        let days = input.now.since(input.last_growth_at).min(Duration::from_secs(86_400)).as_secs_f64() / 86_400.0;
        prop_assert!(grown(&decision) <= share((cap * days).min(1.0)).get());
        if decision.grows() {
            // Rounding down loses less than a point per arm. With a cap below the minimum step, growth is the cap.
            prop_assert!(grown(&decision) + input.arms.len() as u128 >= share(settings.min_step.min(cap)).get());
        }
    }

    #[test]
    fn frozen_or_young_experiment_does_not_grow_or_conclude(input in any_input()) {
        let decision = decided(&input);
        if decision.frozen.is_some() {
            prop_assert!(decision.kill.is_empty());
        }
        if decision.frozen.is_some() || !decision.burn_in.met {
            prop_assert!(!decision.grows() && decision.conclude.is_none() && decision.clearly_best.is_none());
        }
        prop_assert_eq!(decision.burn_in.met, decision.burn_in.missing.is_none());
    }

    #[test]
    fn stored_decision_is_reproduced_to_the_last_bit(input in any_input()) {
        let decision = decided(&input);
        let (stored_input, stored) = (serde_json::to_string(&input).unwrap(), serde_json::to_string(&decision).unwrap());
        let mut read: TickInput = serde_json::from_str(&stored_input).unwrap();
        prop_assert_eq!(&read, &input);
        prop_assert_eq!(&serde_json::from_str::<Decision>(&stored).unwrap(), &decided(&read));
        // A decider that was used for another experiment gives the same, also with the epochs in another order.
        let mut decider = Decider::default();
        decider.decide(&new_experiment(12)).unwrap();
        read.epochs.reverse();
        prop_assert_eq!(&serde_json::to_string(&decider.decide(&read).unwrap()).unwrap(), &stored);
    }

    #[test]
    fn probabilities_and_shares_are_in_range(input in any_input()) {
        let decision = decided(&input);
        let total: f64 = decision.arms.iter().map(|arm| arm.p_best).sum();
        prop_assert!((total - 1.0).abs() < 1e-9);
        for (arm, state) in decision.arms.iter().zip(&input.arms) {
            prop_assert!((0.0..=1.0).contains(&arm.p_best) && (0.0..=1.0).contains(&arm.p_above_control));
            prop_assert!((0.0..=1.0).contains(&arm.target_share));
            prop_assert_eq!(state.killed, arm.expected_loss.is_none());
            prop_assert!(arm.expected_loss.is_none_or(|loss| loss >= 0.0));
        }
    }
}

#[test]
fn decision_matches_the_documented_formula() {
    // Two arms. The target is f + S·w² with S = 1 − .05 − .2, far above the owned share, so the daily cap limits
    // growth.
    let decision = decided(&after_ten_days(&[4000, 1000], &[400, 115]));
    let w = decision.arms[1].p_best;
    assert!(w > 0.9 && decision.conclude.is_some_and(|conclude| conclude.arm == 1));
    assert!((decision.arms[1].target_share - (0.2 + 0.75 * w * w)).abs() < 1e-9);
    let cap = if w >= 0.96 { 0.5 } else { 0.25 };
    assert_eq!(decision.arms[1].grow_by, share(cap));
}

#[test]
fn clearly_worse_arm_is_killed_during_the_burn_in_and_does_not_grow() {
    let mut input = after_ten_days(&[4000, 500, 500], &[400, 20, 60]);
    input.settings.burn_in = Duration::from_secs(86_400 * 30);
    let decision = decided(&input);
    assert_eq!((decision.kill.as_slice(), decision.hold), (&[1_usize][..], Some(HoldReason::BurnIn)));
    input.settings.burn_in = Duration::ZERO;
    let decision = decided(&input);
    assert_eq!(decision.arms[1].grow_by, Width::ZERO);
    apply(&mut input, &decision);
    assert!(decided(&input).kill.is_empty(), "a killed arm is not killed again");
}

#[test]
fn control_can_be_the_advised_arm() {
    let decision = decided(&after_ten_days(&[4000, 500, 500], &[400, 30, 35]));
    assert_eq!(decision.conclude.map(|conclude| conclude.arm), Some(0));
    assert_eq!(decision.hold, Some(HoldReason::NoArmDeservesMore));
}

#[test]
fn burn_in_names_the_missing_condition() {
    let mut input = after_ten_days(&[4000, 9, 50], &[400, 1, 5]);
    let missing = |input: &TickInput| decided(input).burn_in.missing;
    assert_eq!(missing(&input), Some(BurnInGap::Units { arm: 1, found: 90 }));
    input.settings.burn_in_units = 90;
    input.settings.burn_in_conversions = 25;
    assert_eq!(missing(&input), Some(BurnInGap::Conversions { arm: 1, found: 10 }));
    input.arms[1].killed = true;
    assert_eq!(missing(&input), None, "a killed arm needs no burn-in");
    input.generation_started_at = input.now;
    assert_eq!(missing(&input), Some(BurnInGap::Age { age_us: 0 }));
}

#[test]
fn late_data_and_sample_ratio_mismatch_freeze_the_experiment() {
    let mut input = after_ten_days(&[4000, 500, 500], &[400, 20, 80]);
    input.data_late = true;
    assert_eq!(decided(&input).frozen, Some(Freeze::DataLate));
    input.data_late = false;
    assert_eq!(decided(&input).frozen, None);
    // The tallies match a control share of 80%. With a served share of 70%, exposures of the variations were lost.
    for epoch in &mut input.epochs {
        epoch.shares = vec![0.8, 0.1, 0.1];
    }
    assert_eq!(decided(&input).frozen, None);
    for epoch in &mut input.epochs {
        epoch.shares = vec![0.7, 0.15, 0.15];
    }
    let decision = decided(&input);
    assert!(matches!(decision.frozen, Some(Freeze::SampleRatioMismatch { .. })));
    assert!(decision.kill.is_empty() && decision.hold == Some(HoldReason::Frozen));
}

#[test]
fn arm_with_guardrail_alert_or_sample_ratio_alarm_is_not_ready_to_ship() {
    let mut input = after_ten_days(&[2000, 2000], &[200, 320]);
    let ready = |input: &TickInput| {
        let decision = decided(input);
        assert_eq!(decision.conclude.unwrap().arm, 1);
        let ship = decision.ship.unwrap();
        (ship.no_guardrail_alert, ship.sample_ratio_ok, ship.ready())
    };
    assert_eq!(ready(&input), (true, true, true));
    input.arms[1].guardrail_alerted = true;
    assert_eq!(ready(&input), (false, true, false), "a guardrail raised an alert at an earlier tick");
    input.arms[1].guardrail_alerted = false;
    // Three times as many crashes as in control.
    let crashes = after_ten_days(&[2000, 2000], &[20, 60]).epochs;
    input.guardrails = vec![GuardedMetric {
        metric: "crashes".to_owned(),
        measure: Measure::Conversion,
        better: BetterDirection::Lower,
        margin: 0.0,
        action: GuardrailAction::Alert,
        epochs: crashes,
    }];
    assert_eq!(ready(&input), (false, true, false));
    input.guardrails.clear();
    let uneven = |first: u64| {
        let mut input = input.clone();
        for epoch in &mut input.epochs {
            epoch.shares = vec![0.5, 0.5];
            epoch.arms[0].first = first;
        }
        input
    };
    assert_eq!(ready(&uneven(2000)), (true, true, true));
    let alarmed = (2001..2200).map(uneven).find(|input| decided(input).ship.is_none_or(|ship| !ship.sample_ratio_ok));
    assert_eq!(ready(&alarmed.unwrap()), (true, false, false), "an alarm that does not freeze growth");
    // Rolling back to control needs only a full week and evidence.
    let mut worse = after_ten_days(&[2000, 2000], &[320, 200]);
    worse.arms[1].kill_exempt = true;
    worse.arms[0].guardrail_alerted = true;
    assert!(decided(&worse).ship.unwrap().ready());
}

#[test]
fn winner_grows_equally_fast_with_ticks_of_any_length() {
    let grown_in_a_day = |ticks: i64| {
        let mut input = after_ten_days(&[20_000, 20_000], &[2000, 2600]);
        input.settings.daily_cap_conclude = input.settings.daily_cap;
        input.settings.tick = Duration::from_secs(86_400 / ticks as u64);
        input.last_growth_at = input.now;
        let (before, mut accruing_ticks) = (input.arms[1].owned.share(), 0);
        for _ in 0..ticks {
            input.now = Timestamp::from_micros(input.now.as_micros() + DAY_US / ticks);
            let decision = decided(&input);
            accruing_ticks += usize::from(decision.hold == Some(HoldReason::Accruing));
            apply(&mut input, &decision);
        }
        (input.arms[1].owned.share() - before, accruing_ticks)
    };
    assert!((grown_in_a_day(1).0 - 0.25).abs() < 1e-9);
    let (hourly, accruing_ticks) = grown_in_a_day(24);
    assert!((hourly - 0.25).abs() < 1e-9 && accruing_ticks == 0, "{hourly} {accruing_ticks}");
    // The allowance of one minute is far below the minimum step, so the arm grows every 29th tick.
    let (every_minute, accruing_ticks) = grown_in_a_day(1440);
    assert!(every_minute > 0.245 && every_minute <= 0.25 && accruing_ticks > 1380, "{every_minute} {accruing_ticks}");
}

#[test]
fn impossible_experiment_is_refused() {
    let refused = |change: fn(&mut TickInput)| {
        let mut input = new_experiment(3);
        change(&mut input);
        decide(&input, &mut DrawsCache::default()).unwrap_err()
    };
    assert_eq!(refused(|input| input.arms[0].killed = true), PolicyError::ControlKilled);
    assert!(matches!(refused(|input| input.arms[1].owned = Width::ZERO), PolicyError::NotAPartition { .. }));
    assert!(matches!(refused(|input| input.arms.truncate(1)), PolicyError::ArmCount { .. }));
    assert_eq!(refused(|input| input.settings.daily_cap = 1.5), PolicyError::Setting { name: "daily_cap" });
    assert_eq!(refused(|input| input.settings.tau = 0.0), PolicyError::Setting { name: "tau" });
}

#[test]
fn winner_with_ten_per_cent_lift_gets_most_of_the_traffic() {
    // S1: base 10%, lift 10%, 1,500 a day, four ticks a day for 28 days.
    let simulated = SimulatedExperiment {
        base: 0.1,
        lifts: vec![0.0, 0.1],
        per_day: 1500.0,
        ticks_per_day: 4,
        diurnal: 0.0,
        trend: 0.0,
    };
    let mut decider = Decider::default();
    let runs = 60;
    let (mut prompted, mut shares, mut killed) = (0, 0.0, 0);
    for seed in 0..runs {
        let result = simulated.run(28, seed, &mut decider);
        prompted += usize::from(result.prompted == Some(1));
        killed += result.killed.len();
        shares += result.input.arms[1].owned.share() / runs as f64;
        assert!(result.input.arms[0].owned >= result.input.floor);
    }
    // About half of the runs.
    assert!(prompted >= 20 && killed <= 2 && shares > 0.75, "{prompted} {killed} {shares}");
}

#[test]
fn equal_arms_are_rarely_winners_while_the_baseline_doubles() {
    // S6: A/A/A/A with trend and daily cycles. A policy on pooled rates reports a winner in 73% of runs.
    let simulated = SimulatedExperiment {
        base: 0.05,
        lifts: vec![0.0; 4],
        per_day: 4000.0,
        ticks_per_day: 1,
        diurnal: 0.4,
        trend: 1.0,
    };
    let mut decider = Decider::default();
    let runs = 200;
    let (mut false_winners, mut kills) = (0, 0);
    for seed in 0..runs {
        let result = simulated.run(28, 1000 + seed, &mut decider);
        false_winners += usize::from(result.clearly_best.is_some());
        kills += result.killed.len();
    }
    // 5% of 200 runs are 10; more than 18 have a probability below 1%.
    assert!(false_winners <= 18, "{false_winners} of {runs} runs reported a false winner");
    assert!(kills <= 60, "{kills} of 600 harmless arms were killed");
}

#[test]
fn bad_arms_are_killed_and_control_keeps_its_traffic() {
    let simulated = SimulatedExperiment {
        base: 0.02,
        lifts: vec![0.0, -0.1, -0.3, -0.4],
        per_day: 8000.0,
        ticks_per_day: 1,
        diurnal: 0.0,
        trend: 1.0,
    };
    let mut decider = Decider::default();
    let (mut killed, mut control) = (0, 0.0);
    for seed in 0..20 {
        let result = simulated.run(28, 7000 + seed, &mut decider);
        killed += result.killed.iter().filter(|&&arm| arm >= 2).count();
        control += served(&result.input)[0] / 20.0;
    }
    assert!(killed >= 36 && control > 0.85, "{killed} {control}");
}
