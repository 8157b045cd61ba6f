//! The checks that guard the rest: the sample ratio alarm and the guardrail must be silent when nothing is wrong, however
//! often they are asked, and speak when something is.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use inroad_policy::{
    ArmTally, Better, EpochKey, EpochTally, GuardrailQuestion, Measure, SrmAlarm, check_sample_ratio, guardrail,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

/// 28 epochs of 4,000 units; arm 1 grows from 5% to 60%, and loses `loss` of its exposures.
fn growing(loss: f64, rng: &mut impl Rng) -> Vec<EpochTally> {
    (0..28)
        .map(|tick| {
            let grown = 0.05 + 0.55 * tick as f64 / 27.0;
            let shares = vec![1.0 - grown - 0.1, grown, 0.05, 0.05];
            let mut left = 4000;
            let mut rest = 1.0;
            let arms = shares.iter().enumerate().map(|(k, share)| {
                let n = if k == 3 { left } else { Binomial::new(left, (share / rest).min(1.0)).unwrap().sample(rng) };
                (left, rest) = (left - n, rest - share);
                let lost = if k == 1 { Binomial::new(n, loss).unwrap().sample(rng) } else { 0 };
                ArmTally { first: n - lost, n: 0, s: 0, ..ArmTally::default() }
            });
            let arms = arms.collect();
            EpochTally { epoch: EpochKey { tick, revision: 1 }, arms, shares }
        })
        .collect()
}

#[test]
fn the_alarm_finds_lost_exposures_and_hardly_ever_cries_wolf() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let runs = 400;
    let mut alarms = |loss: f64| {
        let (mut alarms, mut reports) = (0, 0);
        for _ in 0..runs {
            let ratio = check_sample_ratio(4, &growing(loss, &mut rng)).unwrap();
            alarms += usize::from(ratio.alarm >= SrmAlarm::Alarm);
            reports += usize::from(ratio.p_value < 0.01);
            assert_eq!(ratio.degrees_of_freedom, 3);
        }
        (alarms, reports)
    };
    // A larger simulation of the same loss gave 84% and .4% for the alarm, 92% and 1% for the report.
    let (alarmed, reported) = alarms(0.03);
    assert!(alarmed > runs * 3 / 4 && reported > runs * 17 / 20, "{alarmed} {reported} of {runs}");
    let (alarmed, reported) = alarms(0.0);
    assert!(alarmed <= runs / 50 && reported <= runs / 25, "{alarmed} {reported} of {runs}");
}

#[test]
fn the_order_of_the_epochs_does_not_matter() {
    let mut epochs = growing(0.02, &mut ChaCha8Rng::seed_from_u64(9));
    let forwards = check_sample_ratio(4, &epochs).unwrap();
    epochs.reverse();
    let backwards = check_sample_ratio(4, &epochs).unwrap();
    assert_eq!(forwards.log_evidence.to_bits(), backwards.log_evidence.to_bits());
    assert_eq!(forwards, backwards);
}

#[test]
fn with_constant_shares_and_two_arms_the_report_is_pearsons() {
    let epoch = EpochTally {
        epoch: EpochKey { tick: 0, revision: 1 },
        arms: vec![
            ArmTally { first: 530, n: 0, s: 0, ..ArmTally::default() },
            ArmTally { first: 470, n: 0, s: 0, ..ArmTally::default() },
        ],
        shares: vec![0.5, 0.5],
    };
    let ratio = check_sample_ratio(2, &[epoch]).unwrap();
    assert!((ratio.chi_squared - 3.6).abs() < 1e-9 && ratio.degrees_of_freedom == 1);
    assert!((ratio.p_value - 0.057_779_571).abs() < 1e-8 && (ratio.epoch_p_value - ratio.p_value).abs() < 1e-12);
}

#[test]
fn arms_that_expect_nobody_are_left_out_with_their_degree_of_freedom() {
    let epoch = |shares: Vec<f64>, first: [u64; 3]| EpochTally {
        epoch: EpochKey { tick: 0, revision: 1 },
        arms: first.iter().map(|&first| ArmTally { first, n: 0, s: 0, ..ArmTally::default() }).collect(),
        shares,
    };
    let killed = check_sample_ratio(3, &[epoch(vec![0.6, 0.4, 0.0], [600, 400, 0])]).unwrap();
    assert_eq!((killed.degrees_of_freedom, killed.log_evidence, killed.p_value), (1, 0.0, 1.0));
    let tiny = check_sample_ratio(3, &[epoch(vec![0.6, 0.396, 0.004], [600, 396, 4])]).unwrap();
    assert_eq!(tiny.degrees_of_freedom, 1);
    let nothing = check_sample_ratio(3, &[]).unwrap();
    assert_eq!((nothing.degrees_of_freedom, nothing.p_value, nothing.alarm), (0, 1.0, SrmAlarm::Quiet));
    assert!(check_sample_ratio(3, &[epoch(vec![0.6, 0.6, 0.0], [1, 1, 1])]).is_err());
}

fn asked(epochs: &[EpochTally], margin: f64, alpha: f64) -> GuardrailQuestion<'_> {
    let (measure, better) = (Measure::Conversion, Better::More);
    GuardrailQuestion { epochs, measure, better, arms: 2, margin, guardrails: 1, alpha }
}

/// 110 looks at 240 units a look in the arm, 2,400 in control, 5% base.
fn kill_rate(lift: f64, runs: usize, rng: &mut impl Rng) -> f64 {
    let mut killed = 0;
    for _ in 0..runs {
        let mut epochs = Vec::new();
        for tick in 0..110 {
            let mut arm = |n: u64, rate: f64| ArmTally {
                first: n,
                n,
                s: Binomial::new(n, rate).unwrap().sample(rng),
                ..ArmTally::default()
            };
            let arms = vec![arm(2400 / 4, 0.05), arm(240 / 4, 0.05 * (1.0 + lift))];
            epochs.push(EpochTally { epoch: EpochKey { tick, revision: 1 }, arms, shares: Vec::new() });
            if guardrail(&asked(&epochs, 0.0, 0.05), 1).unwrap().kill {
                killed += 1;
                break;
            }
        }
    }
    killed as f64 / runs as f64
}

#[test]
fn the_guardrail_kills_harm_and_spares_the_harmless() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    assert!(kill_rate(0.0, 400, &mut rng) <= 0.05);
    assert!(kill_rate(-0.4, 100, &mut rng) >= 0.95);
}

#[test]
fn an_arm_that_converts_nobody_is_killed_by_its_guardrail() {
    let arms = vec![
        ArmTally { first: 2000, n: 2000, s: 100, ..ArmTally::default() },
        ArmTally { first: 500, n: 500, s: 0, ..ArmTally::default() },
    ];
    let epochs = [EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: Vec::new() }];
    let evidence = guardrail(&asked(&epochs, 0.02, 0.05), 1).unwrap();
    assert!(evidence.kill && evidence.alert);
    let twenty = guardrail(&asked(&epochs[..0], 0.02, 0.05), 1).unwrap();
    assert!(!twenty.alert && twenty.log_evidence.abs() < 1e-12, "no data, no evidence");
    assert!(guardrail(&asked(&epochs, 0.02, 0.05), 0).is_err());
    assert!(guardrail(&asked(&epochs, 1.0, 0.05), 1).is_err());
    assert!(guardrail(&asked(&epochs, 0.1, 0.0), 1).is_err());
}
