//! Tests of the sample ratio check and the guardrail. They must rarely raise false alarms, however often they run, and
//! must find real problems.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use core::time::Duration;

use inroad_assignment::Timestamp;
use inroad_policy::{
    ArmTally, BetterDirection, EpochKey, EpochTally, GuardrailInput, Measure, PolicyError, SampleRatio, SrmAlarm,
    check_sample_ratio, evaluate_guardrail,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

const DAY: Duration = Duration::from_secs(86_400);

/// The sample ratio check with daily ticks, at the end of the last one.
fn check(arms: usize, epochs: &[EpochTally]) -> Result<SampleRatio, PolicyError> {
    let end = epochs.iter().map(|epoch| epoch.epoch.tick + 1).max().unwrap_or(0);
    check_sample_ratio(arms, epochs, DAY, Timestamp::start_of_tick(end, DAY))
}

/// 28 epochs of 4,000 units. Arm 1 grows from 5% to 60% and loses the share `loss` of its exposures.
fn growing_arm_that_loses(loss: f64, rng: &mut impl Rng) -> Vec<EpochTally> {
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
fn sample_ratio_alarm_finds_lost_exposures_with_few_false_alarms() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let runs = cases(400);
    let mut alarms = |loss: f64| {
        let (mut alarms, mut reports) = (0, 0);
        for _ in 0..runs {
            let ratio = check(4, &growing_arm_that_loses(loss, &mut rng)).unwrap();
            alarms += usize::from(ratio.alarm >= SrmAlarm::Alarm);
            reports += usize::from(ratio.p_value < 0.01);
            assert_eq!(ratio.degrees_of_freedom, 3);
        }
        (alarms, reports)
    };
    // In a larger simulation of the same loss the report found 92%, with 1% false alarms.
    let (alarmed, reported) = alarms(0.03);
    println!("found {alarmed} of {runs}; once at the end {reported}");
    assert!(alarmed > runs * 17 / 20 && reported > runs * 17 / 20, "{alarmed} {reported} of {runs}");
    let (alarmed, reported) = alarms(0.0);
    println!("false {alarmed} of {runs}; once at the end {reported}");
    assert!(alarmed <= runs / 50 && reported <= runs / 25, "{alarmed} {reported} of {runs}");
}

/// 28 days of 1,000 units in two equal arms. Arm 1 loses `lost` exposures a day in the first week.
fn lost_in_the_first_week(lost: u64) -> Vec<EpochTally> {
    let epoch = |tick: i64| {
        let first = [500, if tick < 7 { 500 - lost } else { 500 }];
        let arms = first.map(|first| ArmTally { first, n: 0, s: 0, ..ArmTally::default() }).to_vec();
        EpochTally { epoch: EpochKey { tick, revision: 1 }, arms, shares: vec![0.5, 0.5] }
    };
    (0..28).map(epoch).collect()
}

#[test]
fn scheduled_check_runs_when_its_week_has_ended_and_its_alarm_remains() {
    // 3,500 and 3,262 of 6,762 exposures: z = -2.9, p = .0038, above the first week's α of .0005. A larger loss is
    // below it.
    let week = |lost| check(2, &lost_in_the_first_week(lost)[..7]).unwrap();
    assert_eq!(week(34).alarm, SrmAlarm::Quiet);
    assert_eq!(week(46).alarm, SrmAlarm::Alarm);
    assert!(week(46).evidence >= 100.0 && week(46).peak_log_evidence < 100.0_f64.ln());
    // The same exposures one microsecond before the week ends.
    let epochs = lost_in_the_first_week(46);
    let end = Timestamp::start_of_tick(7, DAY);
    let before = Timestamp::from_micros(end.as_micros() - 1);
    let early = check_sample_ratio(2, &epochs[..7], DAY, before).unwrap();
    assert_eq!(early.alarm, SrmAlarm::Quiet);
    // After four weeks the loss is diluted, but the alarm remains. With ticks of six hours, 28 ticks are only one week.
    assert_eq!(check(2, &epochs).unwrap().alarm, SrmAlarm::Alarm);
    let quarter = Duration::from_secs(86_400 / 4);
    let quarters = check_sample_ratio(2, &epochs, quarter, Timestamp::start_of_tick(28, quarter)).unwrap();
    assert!(quarters.chi_squared > 0.0 && quarters.alarm == SrmAlarm::Quiet);
}

/// One epoch with these exposures and shares, in the middle of its tick.
fn first_look(first: &[u64], shares: &[f64]) -> SampleRatio {
    let arms = first.iter().map(|&first| ArmTally { first, n: 0, s: 0, ..ArmTally::default() }).collect();
    let epoch = EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: shares.to_vec() };
    check_sample_ratio(first.len(), &[epoch], DAY, Timestamp::from_micros(3_600_000_000)).unwrap()
}

#[test]
fn variation_without_exposures_raises_the_alarm_within_its_first_tick() {
    let missing = first_look(&[0, 2_600], &[0.5, 0.5]);
    assert_eq!(missing.alarm, SrmAlarm::Freeze);
    assert_eq!(
        missing.in_words(),
        "exposures do not match the shares (p < 0.001, evidence overwhelming (over 10^12 to 1))"
    );
    assert!(missing.evidence.is_finite());
    assert!(first_look(&[0, 20], &[0.5, 0.5]).alarm >= SrmAlarm::Alarm, "p = 0.000002");
    assert_eq!(first_look(&[0, 6], &[0.5, 0.5]).alarm, SrmAlarm::Quiet, "p = 0.03");
    // One of 64 small variations is missing.
    let mut many = vec![40_u64; 64];
    many[7] = 0;
    assert_eq!(first_look(&many, &[1.0 / 64.0; 64]).alarm, SrmAlarm::Freeze);
    assert_eq!(first_look(&[40; 64], &[1.0 / 64.0; 64]).alarm, SrmAlarm::Quiet);
    // An arm with twice its share of the exposures.
    assert_eq!(first_look(&[900, 200], &[0.9, 0.1]).alarm, SrmAlarm::Freeze);
}

/// A/A: exposures by the served shares, checked several times within each of `ticks` ticks. Returns in how many of
/// `runs` the alarm was raised at any look.
fn false_alarms(arms: usize, units: u64, ticks: i64, runs: usize, rng: &mut impl Rng) -> usize {
    let alarmed = |rng: &mut _| {
        let mut epochs: Vec<EpochTally> = Vec::new();
        for tick in 0..ticks {
            // Control gives up its share over time.
            let control = 0.8 - 0.7 * tick as f64 / ticks as f64;
            let shares: Vec<f64> =
                (0..arms).map(|k| if k == 0 { control } else { (1.0 - control) / (arms - 1) as f64 }).collect();
            let zero = vec![ArmTally::default(); arms];
            epochs.push(EpochTally { epoch: EpochKey { tick, revision: 1 }, arms: zero, shares: shares.clone() });
            for look in 1..=4 {
                let (mut left, mut rest) = (units / 4, 1.0);
                for (k, share) in shares.iter().enumerate() {
                    let part = if k + 1 == arms { 1.0 } else { (share / rest).min(1.0) };
                    let n = Binomial::new(left, part).unwrap().sample(rng);
                    (left, rest) = (left - n, rest - share);
                    epochs.last_mut().unwrap().arms[k].first += n;
                }
                let now = Timestamp::start_of_tick(tick, DAY).plus(DAY / 4 * look - Duration::from_micros(1));
                if check_sample_ratio(arms, &epochs, DAY, now).unwrap().alarm > SrmAlarm::Quiet {
                    return true;
                }
            }
        }
        false
    };
    (0..runs).filter(|_| alarmed(rng)).count()
}

#[test]
fn alarm_is_rarely_false_at_any_look_for_any_number_of_arms() {
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let runs = cases(250);
    for arms in [2, 3, 10, 64] {
        let alarms = false_alarms(arms, 800, 14, runs, &mut rng);
        // At most 1% are promised. Five standard errors above it.
        let limit = 0.01 * runs as f64 + 5.0 * (0.01 * runs as f64).sqrt();
        assert!((alarms as f64) < limit, "{alarms} of {runs} with {arms} arms");
        println!("{arms} arms: {alarms} false alarms in {runs} runs");
    }
}

/// How many runs are simulated. Set `INROAD_CASES` for more.
fn cases(default: usize) -> usize {
    std::env::var("INROAD_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn results_are_given_in_words_that_do_not_contradict_the_alarm() {
    use inroad_policy::{evidence_in_words, p_value_in_words};
    let words = |first: &[u64]| first_look(first, &[0.5, 0.5]).in_words();
    assert_eq!([words(&[1, 1]), words(&[500, 510])], ["too early to say", "none detected (p = 0.753)"]);
    let doubtful = words(&[500, 620]);
    assert!(doubtful.starts_with("no alert yet (p < 0.001 if this were the only check; evidence "), "{doubtful}");
    assert_eq!(
        [1.0, 9.96, 104.6, 1_234_567.0, 1e13, f64::INFINITY].map(evidence_in_words),
        [
            "1.0 to 1",
            "10 to 1",
            "105 to 1",
            "1,230,000 to 1",
            "overwhelming (over 10^12 to 1)",
            "overwhelming (over 10^12 to 1)"
        ]
    );
    assert_eq!([0.0, 0.000_9, 0.021].map(p_value_in_words), ["p < 0.001", "p < 0.001", "p = 0.021"]);
}

#[test]
fn mismatches_that_cancel_are_reported_for_single_periods() {
    let arms = |first: [u64; 2]| first.map(|first| ArmTally { first, ..ArmTally::default() }).to_vec();
    let epoch =
        |tick, first| EpochTally { epoch: EpochKey { tick, revision: 1 }, arms: arms(first), shares: vec![0.5, 0.5] };
    let found = check(2, &[epoch(0, [700, 300]), epoch(1, [302, 700])]).unwrap();
    assert_eq!(found.alarm, SrmAlarm::Freeze);
    let words = found.in_words();
    let wanted =
        "exposures do not match the shares within single periods (p < 0.001 in the worst one, p = 0.964 over all;";
    assert!(words.starts_with(wanted), "{words}");
}

#[test]
fn evidence_without_exposures_is_one() {
    let nothing = check(2, &[]).unwrap();
    assert!((nothing.evidence - 1.0).abs() < 1e-12, "{nothing:?}");
}

#[test]
fn order_of_the_epochs_does_not_change_the_result() {
    let mut epochs = growing_arm_that_loses(0.02, &mut ChaCha8Rng::seed_from_u64(9));
    let forwards = check(4, &epochs).unwrap();
    epochs.reverse();
    let backwards = check(4, &epochs).unwrap();
    assert_eq!(forwards.log_evidence.to_bits(), backwards.log_evidence.to_bits());
    assert_eq!(forwards, backwards);
}

#[test]
fn two_arms_with_constant_shares_give_pearsons_chi_squared() {
    let epoch = EpochTally {
        epoch: EpochKey { tick: 0, revision: 1 },
        arms: vec![
            ArmTally { first: 530, n: 0, s: 0, ..ArmTally::default() },
            ArmTally { first: 470, n: 0, s: 0, ..ArmTally::default() },
        ],
        shares: vec![0.5, 0.5],
    };
    let ratio = check(2, &[epoch]).unwrap();
    assert!((ratio.chi_squared - 3.6).abs() < 1e-9 && ratio.degrees_of_freedom == 1);
    assert!((ratio.p_value - 0.057_779_571).abs() < 1e-8 && (ratio.epoch_p_value - ratio.p_value).abs() < 1e-12);
}

#[test]
fn arms_without_expected_exposures_are_left_out_with_their_degree_of_freedom() {
    let epoch = |shares: Vec<f64>, first: [u64; 3]| EpochTally {
        epoch: EpochKey { tick: 0, revision: 1 },
        arms: first.iter().map(|&first| ArmTally { first, n: 0, s: 0, ..ArmTally::default() }).collect(),
        shares,
    };
    let killed = check(3, &[epoch(vec![0.6, 0.4, 0.0], [600, 400, 0])]).unwrap();
    assert_eq!((killed.degrees_of_freedom, killed.log_evidence, killed.p_value), (1, 0.0, 1.0));
    let tiny = check(3, &[epoch(vec![0.6, 0.396, 0.004], [600, 396, 4])]).unwrap();
    assert_eq!(tiny.degrees_of_freedom, 1);
    let nothing = check(3, &[]).unwrap();
    assert_eq!((nothing.degrees_of_freedom, nothing.p_value, nothing.alarm), (0, 1.0, SrmAlarm::Quiet));
    assert!(check(3, &[epoch(vec![0.6, 0.6, 0.0], [1, 1, 1])]).is_err());
}

fn guardrail_input(epochs: &[EpochTally], margin: f64, alpha: f64) -> GuardrailInput<'_> {
    let (measure, better) = (Measure::Conversion, BetterDirection::Higher);
    GuardrailInput { epochs, measure, better, arms: 2, margin, guardrails: 1, alpha }
}

/// How often the guardrail kills the arm in 110 ticks with a base rate of 5%: control gets 600 units per tick, the arm
/// 60.
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
            if evaluate_guardrail(&guardrail_input(&epochs, 0.0, 0.05), 1).unwrap().kill {
                killed += 1;
                break;
            }
        }
    }
    killed as f64 / runs as f64
}

#[test]
fn guardrail_kills_a_harmful_arm_and_rarely_a_harmless_one() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    assert!(kill_rate(0.0, 400, &mut rng) <= 0.05);
    assert!(kill_rate(-0.4, 100, &mut rng) >= 0.95);
}

#[test]
fn arm_without_conversions_is_killed_by_its_guardrail() {
    let arms = vec![
        ArmTally { first: 2000, n: 2000, s: 100, ..ArmTally::default() },
        ArmTally { first: 500, n: 500, s: 0, ..ArmTally::default() },
    ];
    let epochs = [EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: Vec::new() }];
    let evidence = evaluate_guardrail(&guardrail_input(&epochs, 0.02, 0.05), 1).unwrap();
    assert!(evidence.kill && evidence.alert);
    let nothing = evaluate_guardrail(&guardrail_input(&epochs[..0], 0.02, 0.05), 1).unwrap();
    assert!(!nothing.alert && nothing.log_evidence.abs() < 1e-12, "no data, no evidence");
    assert!(evaluate_guardrail(&guardrail_input(&epochs, 0.02, 0.05), 0).is_err());
    assert!(evaluate_guardrail(&guardrail_input(&epochs, 1.0, 0.05), 1).is_err());
    assert!(evaluate_guardrail(&guardrail_input(&epochs, 0.1, 0.0), 1).is_err());
}
