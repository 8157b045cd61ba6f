//! Tests of the statements about a winner, "clearly best", "ready to ship" and "ready to roll back": what they need, what
//! they rest on, and how often they are false.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

#[allow(dead_code, reason = "the other test program uses the rest")]
mod common;

use common::{DAY_US, SimulatedExperiment, new_experiment};
use inroad_assignment::Timestamp;
use inroad_policy::{
    ArmTally, BetterDirection, ClearlyBest, Decider, Decision, DrawsCache, EpochKey, EpochTally, EvidenceBasis,
    FIRST_LOOK_DAY, Measure, Moments, PLANNED_DAYS, TickInput, decide,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal, Poisson};

/// Adds equal days with these records and conversions per arm and day, and moves the clock to their end.
fn add_days(input: &mut TickInput, days: i64, n: &[u64], s: &[u64]) {
    let arms: Vec<ArmTally> =
        n.iter().zip(s).map(|(&n, &s)| ArmTally { first: n, n, s, ..ArmTally::default() }).collect();
    let start = input.epochs.len() as i64;
    input.epochs.extend((start..start + days).map(|tick| EpochTally {
        epoch: EpochKey { tick, revision: 1 },
        arms: arms.clone(),
        shares: Vec::new(),
    }));
    input.now = Timestamp::from_micros((start + days) * DAY_US);
}

fn after(days: i64, n: &[u64], s: &[u64]) -> TickInput {
    let mut input = new_experiment(n.len());
    input.settings.draws_log2 = 10;
    add_days(&mut input, days, n, s);
    input
}

fn decided(input: &TickInput) -> Decision {
    decide(input, &mut DrawsCache::default()).unwrap()
}

fn scheduled(arm: usize, day: u16) -> Option<ClearlyBest> {
    Some(ClearlyBest { arm, basis: EvidenceBasis::ScheduledLook { day } })
}

#[test]
fn first_statement_is_made_at_the_first_look() {
    let large = |days| after(days, &[1000, 1000], &[100, 160]);
    let before = decided(&large(i64::from(FIRST_LOOK_DAY) - 1));
    assert!(!before.ship.unwrap().ready(), "a full week is missing");
    let first = decided(&large(i64::from(FIRST_LOOK_DAY)));
    assert_eq!(first.clearly_best, scheduled(1, FIRST_LOOK_DAY));
    let ship = first.ship.unwrap();
    assert_eq!((ship.ready(), ship.basis), (true, Some(EvidenceBasis::ScheduledLook { day: FIRST_LOOK_DAY })));
}

#[test]
fn no_statement_without_data_or_without_conversions_of_an_arm() {
    let empty = after(20, &[0, 0, 0], &[0, 0, 0]);
    assert_eq!(decided(&empty).clearly_best, None);
    assert!(decided(&empty).ship.is_none_or(|ship| !ship.ready()));
    let mut none_in_control = after(20, &[1000, 1000], &[0, 40]);
    none_in_control.settings.burn_in_conversions = 0;
    let decision = decided(&none_in_control);
    assert_eq!(decision.clearly_best, None, "a relative lift over nothing cannot be tested");
    assert!(!decision.ship.unwrap().ready());
    // A few conversions are not enough for a scheduled look, and equal arms never are.
    assert_eq!(decided(&after(10, &[100, 100], &[0, 1])).clearly_best, None);
    assert_eq!(decided(&after(40, &[1000, 1000], &[100, 100])).clearly_best, None);
}

#[test]
fn late_evidence_rests_on_the_always_valid_interval() {
    // The planned information is reached without a difference, so nothing is left to spend at later looks.
    let mut input = after(i64::from(PLANNED_DAYS) + 2, &[1000, 1000], &[100, 100]);
    assert_eq!(decided(&input).clearly_best, None);
    add_days(&mut input, 60, &[1000, 1000], &[100, 140]);
    assert_eq!(decided(&input).clearly_best, Some(ClearlyBest { arm: 1, basis: EvidenceBasis::AlwaysValid }));
}

#[test]
fn more_arms_need_more_evidence() {
    // Two arms with the same tallies each time. The other arms are far worse, but not killed.
    let clear = |others: usize| {
        let (mut n, mut s) = (vec![1000, 1000], vec![100, 114]);
        n.extend(vec![1000; others]);
        s.extend(vec![40; others]);
        let mut input = after(7, &n, &s);
        input.arms.iter_mut().for_each(|arm| arm.kill_exempt = true);
        let decision = decided(&input);
        (decision.clearly_best.is_some(), decision.ship.unwrap().beyond_chance)
    };
    assert_eq!(clear(0), (true, true));
    assert_eq!(clear(30), (false, false));
}

#[test]
fn roll_back_needs_evidence_against_every_variation() {
    let ready = |s: &[u64], killed: Option<usize>| {
        let mut input = after(10, &[1000, 1000, 1000], s);
        input.arms.iter_mut().for_each(|arm| arm.kill_exempt = true);
        if let Some(arm) = killed {
            input.arms[arm].killed = true;
        }
        let decision = decided(&input);
        assert_eq!(decision.conclude.map(|conclude| conclude.arm), Some(0));
        decision.ship.unwrap().ready()
    };
    assert!(ready(&[120, 70, 80], None));
    assert!(!ready(&[120, 70, 117], None), "the second variation may be as good as control");
    assert!(!ready(&[120, 70, 117], Some(2)), "a killed variation is judged by its data as well");
    assert!(ready(&[120, 70, 80], Some(2)));
}

#[test]
fn two_good_arms_that_are_alike_are_not_clearly_best_but_one_is_ready_to_ship() {
    let decision = decided(&after(14, &[1000, 1000, 1000], &[100, 150, 149]));
    assert_eq!(decision.clearly_best, None);
    assert_eq!(decision.conclude.map(|conclude| conclude.arm), Some(1));
    assert!(decision.ship.unwrap().ready());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn lower_is_better_mirrors_higher_is_better(
        days in prop::collection::vec((200_u64..2000, 0.02..0.2_f64, 0.02..0.2_f64), 1..40),
    ) {
        let input = |better, swap: bool| {
            let mut input = after(0, &[0, 0], &[0, 0]);
            for &(n, a, b) in &days {
                let (a, b) = ((n as f64 * a) as u64, (n as f64 * b) as u64);
                add_days(&mut input, 1, &[n, n], &if swap { [b, a] } else { [a, b] });
            }
            input.better = better;
            input.arms[1].kill_exempt = true;
            input
        };
        let higher = decided(&input(BetterDirection::Higher, false));
        let lower = decided(&input(BetterDirection::Lower, true));
        prop_assert_eq!(higher.clearly_best, lower.clearly_best);
        prop_assert_eq!(higher.conclude.map(|c| c.arm), lower.conclude.map(|c| c.arm));
        prop_assert_eq!(higher.ship.and_then(|ship| ship.basis), lower.ship.and_then(|ship| ship.basis));
    }

    #[test]
    fn statement_does_not_depend_on_the_order_of_epochs_or_on_earlier_decisions(
        rates in prop::collection::vec(prop::collection::vec(0.02..0.2_f64, 3), 7..40),
    ) {
        let mut input = after(0, &[0; 3], &[0; 3]);
        for rates in &rates {
            let s: Vec<u64> = rates.iter().map(|rate| (rate * 800.0) as u64).collect();
            add_days(&mut input, 1, &[800; 3], &s);
        }
        let expected = decided(&input);
        input.epochs.reverse();
        let mut decider = Decider::default();
        decider.decide(&after(9, &[500, 500], &[30, 60])).unwrap();
        prop_assert_eq!(&decider.decide(&input).unwrap(), &expected);
        // Only the leader is ever clearly best.
        if let (Some(best), Some(conclude)) = (expected.clearly_best, expected.conclude) {
            prop_assert_eq!(best.arm, conclude.arm);
        }
    }
}

#[test]
fn equal_arms_are_rarely_clearly_best() {
    let simulated = SimulatedExperiment {
        base: 0.06,
        lifts: vec![0.0; 2],
        per_day: 2000.0,
        ticks_per_day: 1,
        diurnal: 0.3,
        trend: 0.5,
    };
    let mut decider = Decider::default();
    let runs = 300;
    let (mut clearly_best, mut prompts) = (0, 0);
    for seed in 0..runs {
        let result = simulated.run(28, 50_000 + seed, &mut decider);
        clearly_best += usize::from(result.clearly_best.is_some());
        prompts += usize::from(result.prompted.is_some());
    }
    // 5% of 300 runs are 15; more than 25 have a probability below 1%. P(best) ≥ .96 at daily checks reports 75 or more.
    assert!(clearly_best <= 25, "{clearly_best} of {runs} runs reported a winner");
    // Ship and roll back each have their own 5%.
    assert!(prompts <= 43, "{prompts} of {runs} runs prompted somebody to ship or to roll back");
}

/// 20 days of 2,000 units an arm, whose values have these means and a standard deviation of 4.
fn profits(means: [f64; 2], better: BetterDirection) -> Decision {
    let mut input = new_experiment(2);
    (input.measure, input.better, input.settings.draws_log2) = (Measure::MeanDifference, better, 10);
    let arms = means.map(|mean| {
        let moments = Moments { x: 2_000.0 * mean, xx: 2_000.0 * (mean * mean + 16.0), ..Moments::default() };
        ArmTally { first: 2_000, n: 2_000, s: 2_000, moments: Some(moments), early: 0 }
    });
    input.arms[1].kill_exempt = true;
    let epoch = |tick| EpochTally { epoch: EpochKey { tick, revision: 1 }, arms: arms.to_vec(), shares: Vec::new() };
    input.epochs.extend((0..20).map(epoch));
    input.now = Timestamp::from_micros(20 * DAY_US);
    decided(&input)
}

#[test]
fn statement_about_differences_mirrors_and_needs_neither_positive_means_nor_a_positive_sign() {
    let best = |means, better| profits(means, better).clearly_best.map(|best| best.arm);
    // Both lose money; the one that loses less is better, by the sign of the metric.
    assert_eq!(best([-2.0, -1.5], BetterDirection::Higher), Some(1));
    assert_eq!(best([-1.5, -2.0], BetterDirection::Higher), Some(0));
    assert_eq!(best([-2.0, -1.5], BetterDirection::Lower), Some(0));
    assert_eq!(best([2.0, 1.5], BetterDirection::Lower), Some(1));
    assert_eq!(best([-2.0, -2.0], BetterDirection::Higher), None);
    let mut empty = new_experiment(2);
    empty.measure = Measure::MeanDifference;
    add_days(&mut empty, 20, &[0, 0], &[0, 0]);
    assert_eq!(decided(&empty).clearly_best, None);
}

/// The statements about two equal arms whose units rarely have a large value and always a small cost, in 28 days of 300
/// units a day with these shares of the variation: clearly best, and ready to ship or to roll back.
fn equal_profits(share: f64, rng: &mut ChaCha8Rng, decider: &mut Decider) -> (bool, bool) {
    let mut input = new_experiment(2);
    (input.measure, input.settings.draws_log2) = (Measure::MeanDifference, 8);
    input.arms.iter_mut().for_each(|arm| arm.kill_exempt = true);
    let values = LogNormal::new(4.0, 1.0).unwrap();
    let (mut clearly_best, mut ready) = (false, false);
    for day in 0..28 {
        let mut arm = |share: f64| {
            let n = Poisson::new(300.0 * share).unwrap().sample(rng) as u64;
            let mut moments = Moments::default();
            for _ in 0..n {
                let value = if rng.random_bool(0.02) { values.sample(rng) } else { 0.0 };
                moments.x += value - 1.0;
                moments.xx += (value - 1.0) * (value - 1.0);
            }
            ArmTally { first: n, n, s: n, moments: Some(moments), early: 0 }
        };
        let arms = vec![arm(1.0 - share), arm(share)];
        input.epochs.push(EpochTally { epoch: EpochKey { tick: day, revision: 1 }, arms, shares: Vec::new() });
        input.now = Timestamp::from_micros((day + 1) * DAY_US);
        let decision = decider.decide(&input).unwrap();
        clearly_best |= decision.clearly_best.is_some();
        ready |= decision.ship.is_some_and(|ship| ship.ready());
    }
    (clearly_best, ready)
}

#[test]
fn equal_arms_with_rare_large_profits_are_rarely_clearly_best() {
    // A small arm seldom has the largest values, so its mean and its variance are both too low by the same chance.
    for share in [0.5, 0.15, 0.85] {
        let (mut rng, mut decider) = (ChaCha8Rng::seed_from_u64(81), Decider::default());
        let runs = 200;
        let found = (0..runs).map(|_| equal_profits(share, &mut rng, &mut decider));
        let (clearly_best, ready) =
            found.fold((0, 0), |sum, found| (sum.0 + usize::from(found.0), sum.1 + usize::from(found.1)));
        println!("share {share}: {clearly_best} clearly best, {ready} ready in {runs} runs");
        // 5% of 200 runs are 10; more than 18 have a probability below 1%. Ship and roll back each have their own 5%.
        assert!(clearly_best <= 18, "share {share}: {clearly_best} of {runs} runs reported a winner");
        assert!(ready <= 31, "share {share}: {ready} of {runs} runs prompted somebody to ship or to roll back");
    }
}
