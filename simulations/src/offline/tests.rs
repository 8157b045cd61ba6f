//! Compares estimates with results calculated by hand, and intervals with the true values over many logs.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::policies::{PolicyKind, ShipRule};

fn salt(text: &str) -> Salt {
    Salt::parse(text).unwrap()
}

fn row(i: usize, tick: u32, arm: usize, outcome: f64, propensity: Option<f64>) -> LoggedRow {
    LoggedRow { unit: i.to_string().into(), tick, arm, outcome, propensity }
}

fn fixed(shares: &[f64]) -> PolicyDoc {
    PolicyDoc { shares: Some(shares.to_vec()), ..PolicyDoc::with_defaults(PolicyKind::Fixed) }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} is not {b}");
}

/// Six rows of two arms. The propensity is 1/2, except in the last two rows: 1/4 and 3/4.
fn six_rows() -> OfflineLog {
    let rows = [(0, 1.0, 0.5), (1, 0.0, 0.5), (1, 1.0, 0.5), (0, 0.0, 0.5), (1, 1.0, 0.25), (0, 1.0, 0.75)];
    let rows = rows.iter().enumerate().map(|(i, (arm, outcome, p))| row(i, 0, *arm, *outcome, Some(*p)));
    OfflineLog::new(rows.collect(), 2, 1).unwrap()
}

#[test]
fn estimates_equal_hand_calculation() {
    let found = counterfactual(&six_rows(), &[fixed(&[0.25, 0.75])], &salt("s"), None).unwrap();
    let policy = &found.policies[0];
    // w = .5, 1.5, 1.5, .5, 3, 1/3 and w·r = .5, 0, 1.5, 0, 3, 1/3.
    let sum = 0.5 + 1.5 + 3.0 + 1.0 / 3.0;
    let ips = policy.ips.unwrap();
    close(ips.value, sum / 6.0);
    let squares = 0.25 + 2.25 + 9.0 + 1.0 / 9.0;
    close(ips.se * ips.se, (squares - sum * sum / 6.0) / 5.0 / 6.0);
    close(ips.high - ips.value, 1.959_963_984_540_054 * ips.se);
    let weights = 0.5 + 1.5 + 1.5 + 0.5 + 3.0 + 1.0 / 3.0;
    let snips = policy.snips.unwrap();
    close(snips.value, sum / weights);
    let v = sum / weights;
    let term = |w: f64, r: f64| (w * (r - v)).powi(2);
    let spread =
        term(0.5, 1.0) + term(1.5, 0.0) + term(1.5, 1.0) + term(0.5, 0.0) + term(3.0, 1.0) + term(1.0 / 3.0, 1.0);
    close(snips.se * snips.se, spread * 6.0 / 5.0 / (weights * weights));
    let square_weights = 0.25 + 2.25 + 2.25 + 0.25 + 9.0 + 1.0 / 9.0;
    close(policy.effective_rows.unwrap(), weights * weights / square_weights);
    // Predictions for (control, variation) before each row: (0,0), (1,1), (1,0), (1,1/2), (1/2,1/2), (1/2,2/3).
    let terms = [
        0.5,                             // 0 + ½·(1 − 0)
        1.0 - 1.5,                       // 1 + 1½·(0 − 1)
        0.25 + 1.5,                      // ¼ + 1½·(1 − 0)
        0.25 + 0.375 - 0.5,              // ⅝ + ½·(0 − 1)
        0.5 + 1.5,                       // ½ + 3·(1 − ½)
        0.125 + 0.5 + (1.0 / 3.0) * 0.5, // ⅝ + ⅓·(1 − ½)
    ];
    let dr = policy.dr.unwrap();
    close(dr.value, terms.iter().sum::<f64>() / 6.0);
    let mean = dr.value;
    close(dr.se * dr.se, terms.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / 30.0);
    let lift = policy.lift.unwrap();
    close(lift.value, mean / (4.0 / 6.0) - 1.0);
    let ratio = mean / (4.0 / 6.0);
    let outcomes = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0];
    let gain: f64 = terms.iter().zip(outcomes).map(|(z, r)| (z - ratio * r).powi(2)).sum();
    close(lift.se * lift.se, gain * 6.0 / 5.0 / 16.0);
    // The results of the log itself.
    close(found.mean.unwrap().value, 4.0 / 6.0);
    assert_eq!(found.arms.iter().map(|arm| arm.rows).collect::<Vec<_>>(), [3, 3]);
    close(found.arms[1].mean.unwrap().value, 2.0 / 3.0);
    close(found.arms[1].weight.unwrap().value, 8.0 / 6.0);
}

#[test]
fn replay_uses_only_rows_with_the_arm_of_the_policy() {
    let log = six_rows();
    let found = counterfactual(&log, &[fixed(&[0.25, 0.75])], &salt("s"), None).unwrap();
    let hasher = UnitHasher::new(&ExperimentKey::parse(EXPERIMENT).unwrap(), &salt("s"));
    let mut used = Vec::new();
    for row in log.rows() {
        let point = hasher.digest(UnitKey::parse(&row.unit).unwrap()).point().get();
        if usize::from(point >= 1 << 62) == row.arm {
            used.push(row.outcome);
        }
    }
    let policy = &found.policies[0];
    assert_eq!(policy.matched, used.len() as u64);
    assert!(used.len() >= 2, "too few rows match with this salt: {used:?}");
    close(policy.replay.unwrap().value, used.iter().sum::<f64>() / used.len() as f64);
}

#[test]
fn without_propensities_only_replay_is_estimated() {
    let rows = (0..200).map(|i| row(i, 0, i % 2, f64::from(u8::from(i % 3 == 0)), None)).collect();
    let log = OfflineLog::new(rows, 2, 1).unwrap();
    let found = counterfactual(&log, &[PolicyDoc::with_defaults(PolicyKind::Equal)], &salt("s"), None).unwrap();
    let policy = &found.policies[0];
    assert!(policy.ips.is_none() && policy.snips.is_none() && policy.dr.is_none() && policy.effective_rows.is_none());
    let (replay, lift) = (policy.replay.unwrap(), policy.lift.unwrap());
    close(lift.value, replay.value / found.mean.unwrap().value - 1.0);
    assert!(lift.se > 0.0 && lift.low < lift.high);
}

#[test]
fn lift_of_subset_has_the_delta_method_error() {
    let (mut subset, mut whole) = (Ratio::default(), Ratio::default());
    let rows = [(true, 1.0), (false, 3.0), (true, 2.0), (true, 0.0), (false, 1.0), (true, 5.0), (false, 2.0)];
    for (inside, outcome) in rows {
        whole.push(outcome, 1.0);
        if inside {
            subset.push(outcome, 1.0);
        }
    }
    let lift = estimate::lift_of_subset(&subset, &whole).unwrap();
    let (m, base) = (2.0, 2.0);
    let influence = |(inside, r): (bool, f64)| {
        let own = if inside { (r - m) / 4.0 } else { 0.0 };
        (own / base - (m / base) * (r - base) / 7.0 / base).powi(2)
    };
    let exact: f64 = rows.into_iter().map(influence).sum();
    // The factor n/(n − 1) is the only difference.
    assert!(lift.se * lift.se >= exact && lift.se * lift.se < exact * 4.0 / 3.0 + 1e-12, "{} {exact}", lift.se.powi(2));
    close(lift.value, 0.0);
}

/// A log of `rows` rows of three arms with these rates and propensities.
fn random_log(seed: u64, rows: usize, rates: [f64; 3], propensities: [f64; 3], ticks: u32) -> OfflineLog {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows = (0..rows).map(|i| {
        let u: f64 = rng.random();
        let arm = usize::from(u >= propensities[0]) + usize::from(u >= propensities[0] + propensities[1]);
        let outcome = f64::from(u8::from(rng.random_bool(rates[arm])));
        row(i, (i * ticks as usize / rows) as u32, arm, outcome, Some(propensities[arm]))
    });
    OfflineLog::new(rows.collect(), 3, 1).unwrap()
}

const RATES: [f64; 3] = [0.2, 0.3, 0.25];

/// For replay, IPS, SNIPS and DR: the fraction of intervals that contain the true value.
fn coverage(policy: &PolicyDoc, truth: f64, propensities: [f64; 3], repetitions: u64) -> [f64; 4] {
    let mut covered = [0_u32; 4];
    for seed in 0..repetitions {
        let log = random_log(seed, 900, RATES, propensities, 1);
        let found = counterfactual(&log, std::slice::from_ref(policy), &salt(&format!("s{seed}")), None).unwrap();
        let policy = &found.policies[0];
        let estimates = [policy.replay, policy.ips, policy.snips, policy.dr];
        for (covered, estimate) in covered.iter_mut().zip(estimates) {
            *covered += u32::from(estimate.unwrap().contains(truth));
        }
    }
    covered.map(|covered| f64::from(covered) / repetitions as f64)
}

#[test]
fn intervals_have_95_percent_coverage() {
    let (uniform, repetitions) = ([1.0 / 3.0; 3], 500);
    // Four standard deviations of the observed fraction.
    let slack = 4.0 * (0.95 * 0.05 / repetitions as f64).sqrt();
    let equal = PolicyDoc::with_defaults(PolicyKind::Equal);
    let cases = [(equal, 0.25), (fixed(&[0.1, 0.6, 0.3]), 0.1 * 0.2 + 0.6 * 0.3 + 0.3 * 0.25)];
    for (policy, truth) in cases {
        for covered in coverage(&policy, truth, uniform, repetitions) {
            assert!((covered - 0.95).abs() < slack, "{}: {covered}", policy.name);
        }
    }
    // If the log gave arms unequally often, the weighted estimates correct for it, and replay cannot.
    let skewed = coverage(&fixed(&[0.1, 0.6, 0.3]), 0.275, [0.6, 0.25, 0.15], repetitions);
    for covered in &skewed[1..] {
        assert!((covered - 0.95).abs() < slack, "{skewed:?}");
    }
}

#[test]
fn only_unconstrained_thompson_moves_units_between_variations() {
    let log = random_log(7, 12_000, [0.1, 0.2, 0.12], [1.0 / 3.0; 3], 20);
    let found = counterfactual(&log, &PolicyDoc::default_policies(), &salt("s"), None).unwrap();
    let [growth, equal, unconstrained] = found.policies.as_slice() else { panic!("{found:?}") };
    assert_eq!([growth, equal].map(|policy| policy.moves.between_variations), [0, 0]);
    assert!(unconstrained.moves.between_variations > 0);
    assert!(growth.revisions > 0 && equal.revisions == 0 && unconstrained.revisions > 0);
    assert_eq!([growth.leader, equal.leader, unconstrained.leader], [1, 1, 1]);
    assert!(growth.shares[1] > 0.5 && growth.shares[0] >= 0.05 - 1e-9, "{:?}", growth.shares);
    // With an equal split of a uniform log all weights are 1, up to the rounding of a third of the line.
    assert!((equal.ips.unwrap().value - found.mean.unwrap().value).abs() < 1e-9);
    // Growth starts with most units in control, the worst arm. The reference soon has most units in the best arm.
    assert!(unconstrained.dr.unwrap().value > equal.dr.unwrap().value && unconstrained.lift.unwrap().low > 0.0);
    assert!(growth.dr.unwrap().value > 0.12, "{:?}", growth.dr);
    let again = counterfactual(&log, &PolicyDoc::default_policies(), &salt("s"), None).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&found).unwrap());
    let other = counterfactual(&log, &PolicyDoc::default_policies(), &salt("t"), None).unwrap();
    assert_ne!(other.policies, found.policies);
}

#[test]
fn learning_policy_estimates_cover_the_value_of_its_shares() {
    // Shares depend on earlier outcomes here. Coverage relies on the martingale argument.
    let (repetitions, policies) = (200, [PolicyKind::Growth, PolicyKind::Unconstrained].map(PolicyDoc::with_defaults));
    let mut covered = [[0_u32; 3]; 2];
    for seed in 0..repetitions {
        let log = random_log(seed, 4000, RATES, [1.0 / 3.0; 3], 8);
        let found = counterfactual(&log, &policies, &salt(&format!("s{seed}")), None).unwrap();
        for (covered, policy) in covered.iter_mut().zip(&found.policies) {
            let value = |shares: &Vec<f64>| shares.iter().zip(RATES).map(|(share, rate)| share * rate).sum::<f64>();
            let truth = log.rows().iter().map(|row| value(&policy.course[row.tick as usize])).sum::<f64>() / 4000.0;
            for (covered, estimate) in covered.iter_mut().zip([policy.ips, policy.snips, policy.dr]) {
                *covered += u32::from(estimate.unwrap().contains(truth));
            }
        }
    }
    for covered in covered.as_flattened() {
        let covered = f64::from(*covered) / f64::from(repetitions as u32);
        assert!((covered - 0.95).abs() < 4.0 * (0.95 * 0.05 / repetitions as f64).sqrt(), "{covered}");
    }
}

#[test]
fn shipped_arm_serves_all_units() {
    let log = random_log(3, 12_000, [0.1, 0.3, 0.1], [1.0 / 3.0; 3], 20);
    let ship = PolicyDoc { ship: ShipRule::ClearlyBest, ..PolicyDoc::with_defaults(PolicyKind::Equal) };
    let found = counterfactual(&log, &[ship], &salt("s"), None).unwrap();
    assert_eq!((found.policies[0].shipped, found.policies[0].leader), (Some(1), 1));
    assert_eq!(found.policies[0].shares, [0.0, 1.0, 0.0]);
    assert!(found.policies[0].dr.unwrap().value > 0.25);
}

#[test]
fn policies_learn_from_outcomes_that_are_amounts() {
    let rows = (0..6000).map(|i| {
        let arm = i % 3;
        row(i, (i / 300) as u32, arm, if i % 7 == 0 { [1.0, 9.0, 1.5][arm] } else { 0.0 }, Some(1.0 / 3.0))
    });
    let log = OfflineLog::new(rows.collect(), 3, 1).unwrap();
    let found = counterfactual(&log, &PolicyDoc::default_policies(), &salt("s"), None).unwrap();
    assert!(found.policies.iter().all(|policy| policy.leader == 1), "{found:?}");
}

#[test]
fn invalid_rows_are_refused_with_row_and_reason() {
    let error = |change: fn(&mut LoggedRow)| {
        let mut rows = six_rows().rows().to_vec();
        change(&mut rows[2]);
        OfflineLog::new(rows, 2, 1).unwrap_err().to_string()
    };
    assert_eq!(error(|row| row.arm = 2), "row 3: arm 2 is not declared. Arms are 0 to 1");
    assert!(error(|row| row.propensity = Some(0.0)).contains("row 3: propensity 0 is not valid. Use a number above 0"));
    assert!(error(|row| row.propensity = Some(1.5)).contains("row 3: propensity 1.5"));
    assert!(error(|row| row.propensity = Some(f64::NAN)).contains("row 3: propensity NaN"));
    assert!(error(|row| row.propensity = None).contains("some have none"));
    assert!(error(|row| row.outcome = -1.0).contains("outcome -1"));
    assert!(error(|row| row.tick = 9).contains("row 4: the row is earlier than the row before it"));
    assert!(error(|row| row.unit = "".into()).contains("unit"));
    assert!(OfflineLog::new(six_rows().rows().to_vec(), 2, 5).is_err());
    let bad =
        counterfactual(&six_rows(), &[PolicyDoc::with_defaults(PolicyKind::Fixed)], &salt("s"), None).unwrap_err();
    assert!(bad.to_string().contains("policies[0].shares"), "{bad}");
}

#[test]
fn csv_has_one_row_per_policy() {
    let found = counterfactual(&six_rows(), &PolicyDoc::default_policies(), &salt("s"), None).unwrap();
    let mut text = Vec::new();
    write_policies(&found, &["control", "v1"], &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("policy,rows,matched,replay,replay_low,replay_high,ips"));
    assert!(lines[0].ends_with("share_control,share_v1,p_best_control,p_best_v1"));
    assert!(lines.iter().all(|line| line.split(',').count() == lines[0].split(',').count()));
}

#[test]
fn lift_is_missing_rather_than_below_minus_100_percent() {
    // Rare outcomes and propensities far from the shares: the estimate is mostly noise.
    let rare = |rows: usize, every: usize| {
        let arm = |i: usize| usize::from(i % 20 == 0);
        let outcome = |i: usize| f64::from(u8::from(i % every == 0));
        let p = |i: usize| if arm(i) == 1 { 0.05 } else { 0.95 };
        OfflineLog::new((0..rows).map(|i| row(i, 0, arm(i), outcome(i), Some(p(i)))).collect(), 2, 1).unwrap()
    };
    let lift = |log: &OfflineLog| {
        let found = counterfactual(log, &[fixed(&[0.05, 0.95])], &salt("s"), None).unwrap();
        (found.policies[0].lift, found.policies[0].dr)
    };
    let (none, dr) = lift(&rare(400, 150));
    assert!(none.is_none() && dr.is_some(), "{none:?}");
    let enough = lift(&rare(40_000, 3)).0.unwrap();
    assert!(enough.low > -1.0 && enough.low < enough.high);
}
