//! Estimates against numbers worked out by hand, and intervals against the truth over many logs.

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
    PolicyDoc { shares: Some(shares.to_vec()), ..PolicyDoc::plain(PolicyKind::Fixed) }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} is not {b}");
}

/// Two arms, given with 1/2 each, but the last two rows with 1/4 and 3/4.
fn six() -> OfflineLog {
    let rows = [(0, 1.0, 0.5), (1, 0.0, 0.5), (1, 1.0, 0.5), (0, 0.0, 0.5), (1, 1.0, 0.25), (0, 1.0, 0.75)];
    let rows = rows.iter().enumerate().map(|(i, (arm, outcome, p))| row(i, 0, *arm, *outcome, Some(*p)));
    OfflineLog::new(rows.collect(), 2, 1).unwrap()
}

#[test]
fn six_rows_give_what_pencil_and_paper_give() {
    let found = counterfactual(&six(), &[fixed(&[0.25, 0.75])], &salt("s"), None).unwrap();
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
    let of = |w: f64, r: f64| (w * (r - v)).powi(2);
    let spread = of(0.5, 1.0) + of(1.5, 0.0) + of(1.5, 1.0) + of(0.5, 0.0) + of(3.0, 1.0) + of(1.0 / 3.0, 1.0);
    close(snips.se * snips.se, spread * 6.0 / 5.0 / (weights * weights));
    let square_weights = 0.25 + 2.25 + 2.25 + 0.25 + 9.0 + 1.0 / 9.0;
    close(policy.effective_rows.unwrap(), weights * weights / square_weights);
    // What was expected of (control, variation) before each row: (0,0), (1,1), (1,0), (1,1/2), (1/2,1/2), (1/2,2/3).
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
    // The log by itself.
    close(found.mean.unwrap().value, 4.0 / 6.0);
    assert_eq!(found.arms.iter().map(|arm| arm.rows).collect::<Vec<_>>(), [3, 3]);
    close(found.arms[1].mean.unwrap().value, 2.0 / 3.0);
    close(found.arms[1].weight.unwrap().value, 8.0 / 6.0);
}

#[test]
fn replay_counts_the_rows_that_got_what_the_policy_gives() {
    let log = six();
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
    assert!(used.len() >= 2, "the salt matches too few: {used:?}");
    close(policy.replay.unwrap().value, used.iter().sum::<f64>() / used.len() as f64);
}

#[test]
fn without_propensities_there_is_replay_alone() {
    let rows = (0..200).map(|i| row(i, 0, i % 2, f64::from(u8::from(i % 3 == 0)), None)).collect();
    let log = OfflineLog::new(rows, 2, 1).unwrap();
    let found = counterfactual(&log, &[PolicyDoc::plain(PolicyKind::Equal)], &salt("s"), None).unwrap();
    let policy = &found.policies[0];
    assert!(policy.ips.is_none() && policy.snips.is_none() && policy.dr.is_none() && policy.effective_rows.is_none());
    let (replay, lift) = (policy.replay.unwrap(), policy.lift.unwrap());
    close(lift.value, replay.value / found.mean.unwrap().value - 1.0);
    assert!(lift.se > 0.0 && lift.low < lift.high);
}

#[test]
fn the_lift_of_a_part_is_the_delta_methods() {
    let (mut part, mut whole) = (Ratio::default(), Ratio::default());
    let rows = [(true, 1.0), (false, 3.0), (true, 2.0), (true, 0.0), (false, 1.0), (true, 5.0), (false, 2.0)];
    for (inside, outcome) in rows {
        whole.push(outcome, 1.0);
        if inside {
            part.push(outcome, 1.0);
        }
    }
    let lift = estimate::lift_of_part(&part, &whole).unwrap();
    let (m, base) = (2.0, 2.0);
    let influence = |(inside, r): (bool, f64)| {
        let own = if inside { (r - m) / 4.0 } else { 0.0 };
        (own / base - (m / base) * (r - base) / 7.0 / base).powi(2)
    };
    let exact: f64 = rows.into_iter().map(influence).sum();
    // The degrees of freedom given back are all the difference.
    assert!(lift.se * lift.se >= exact && lift.se * lift.se < exact * 4.0 / 3.0 + 1e-12, "{} {exact}", lift.se.powi(2));
    close(lift.value, 0.0);
}

/// A log of `rows` rows of three arms, given uniformly or by `propensities`.
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

/// How often each estimate's interval holds the truth.
fn coverage(policy: &PolicyDoc, truth: f64, propensities: [f64; 3], repetitions: u64) -> [f64; 4] {
    let mut held = [0_u32; 4];
    for seed in 0..repetitions {
        let log = random_log(seed, 900, RATES, propensities, 1);
        let found = counterfactual(&log, std::slice::from_ref(policy), &salt(&format!("s{seed}")), None).unwrap();
        let policy = &found.policies[0];
        let estimates = [policy.replay, policy.ips, policy.snips, policy.dr];
        for (held, estimate) in held.iter_mut().zip(estimates) {
            *held += u32::from(estimate.unwrap().holds(truth));
        }
    }
    held.map(|held| f64::from(held) / repetitions as f64)
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let (uniform, repetitions) = ([1.0 / 3.0; 3], 500);
    // Four standard deviations of so many coin tosses.
    let slack = 4.0 * (0.95 * 0.05 / repetitions as f64).sqrt();
    let equal = PolicyDoc::plain(PolicyKind::Equal);
    let cases = [(equal, 0.25), (fixed(&[0.1, 0.6, 0.3]), 0.1 * 0.2 + 0.6 * 0.3 + 0.3 * 0.25)];
    for (policy, truth) in cases {
        for held in coverage(&policy, truth, uniform, repetitions) {
            assert!((held - 0.95).abs() < slack, "{}: {held}", policy.name);
        }
    }
    // Where arms are not logged alike, weights mend it and replay cannot.
    let skewed = coverage(&fixed(&[0.1, 0.6, 0.3]), 0.275, [0.6, 0.25, 0.15], repetitions);
    for held in &skewed[1..] {
        assert!((held - 0.95).abs() < slack, "{skewed:?}");
    }
}

#[test]
fn only_the_unconstrained_policy_moves_units() {
    let log = random_log(7, 12_000, [0.1, 0.2, 0.12], [1.0 / 3.0; 3], 20);
    let found = counterfactual(&log, &PolicyDoc::usual(), &salt("s"), None).unwrap();
    let [growth, equal, thompson] = found.policies.as_slice() else { panic!("{found:?}") };
    assert_eq!([growth, equal].map(|policy| policy.moves.between_variations), [0, 0]);
    assert!(thompson.moves.between_variations > 0);
    assert!(growth.revisions > 0 && equal.revisions == 0 && thompson.revisions > 0);
    assert_eq!([growth.leader, equal.leader, thompson.leader], [1, 1, 1]);
    assert!(growth.shares[1] > 0.5 && growth.shares[0] >= 0.05 - 1e-9, "{:?}", growth.shares);
    // Under an equal split of a uniform log all weights are 1 (up to how the line divides by 3).
    assert!((equal.ips.unwrap().value - found.mean.unwrap().value).abs() < 1e-9);
    // Growth begins with nearly all in control, the worst arm; the reference soon has most in the best.
    assert!(thompson.dr.unwrap().value > equal.dr.unwrap().value && thompson.lift.unwrap().low > 0.0);
    assert!(growth.dr.unwrap().value > 0.12, "{:?}", growth.dr);
    let again = counterfactual(&log, &PolicyDoc::usual(), &salt("s"), None).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&found).unwrap());
    let other = counterfactual(&log, &PolicyDoc::usual(), &salt("t"), None).unwrap();
    assert_ne!(other.policies, found.policies);
}

#[test]
fn a_learning_policy_is_worth_what_its_own_course_is_worth() {
    // Shares hang on earlier outcomes here, so that this is where the martingale argument is needed.
    let (repetitions, policies) = (200, [PolicyKind::Growth, PolicyKind::Thompson].map(PolicyDoc::plain));
    let mut held = [[0_u32; 3]; 2];
    for seed in 0..repetitions {
        let log = random_log(seed, 4000, RATES, [1.0 / 3.0; 3], 8);
        let found = counterfactual(&log, &policies, &salt(&format!("s{seed}")), None).unwrap();
        for (held, policy) in held.iter_mut().zip(&found.policies) {
            let worth = |shares: &Vec<f64>| shares.iter().zip(RATES).map(|(share, rate)| share * rate).sum::<f64>();
            let truth = log.rows().iter().map(|row| worth(&policy.course[row.tick as usize])).sum::<f64>() / 4000.0;
            for (held, estimate) in held.iter_mut().zip([policy.ips, policy.snips, policy.dr]) {
                *held += u32::from(estimate.unwrap().holds(truth));
            }
        }
    }
    for held in held.as_flattened() {
        let held = f64::from(*held) / f64::from(repetitions as u32);
        assert!((held - 0.95).abs() < 4.0 * (0.95 * 0.05 / repetitions as f64).sqrt(), "{held}");
    }
}

#[test]
fn a_policy_that_ships_gives_everyone_the_winner() {
    let log = random_log(3, 12_000, [0.1, 0.3, 0.1], [1.0 / 3.0; 3], 20);
    let ship = PolicyDoc { ship: ShipRule::ClearlyBest, ..PolicyDoc::plain(PolicyKind::Equal) };
    let found = counterfactual(&log, &[ship], &salt("s"), None).unwrap();
    assert_eq!((found.policies[0].shipped, found.policies[0].leader), (Some(1), 1));
    assert_eq!(found.policies[0].shares, [0.0, 1.0, 0.0]);
    assert!(found.policies[0].dr.unwrap().value > 0.25);
}

#[test]
fn outcomes_that_are_amounts_drive_policies_too() {
    let rows = (0..6000).map(|i| {
        let arm = i % 3;
        row(i, (i / 300) as u32, arm, if i % 7 == 0 { [1.0, 9.0, 1.5][arm] } else { 0.0 }, Some(1.0 / 3.0))
    });
    let log = OfflineLog::new(rows.collect(), 3, 1).unwrap();
    let found = counterfactual(&log, &PolicyDoc::usual(), &salt("s"), None).unwrap();
    assert!(found.policies.iter().all(|policy| policy.leader == 1), "{found:?}");
}

#[test]
fn what_is_wrong_with_a_row_is_said() {
    let fault = |change: fn(&mut LoggedRow)| {
        let mut rows = six().rows().to_vec();
        change(&mut rows[2]);
        OfflineLog::new(rows, 2, 1).unwrap_err().to_string()
    };
    assert_eq!(fault(|row| row.arm = 2), "row 3: arm 2 is not declared, there are 2");
    assert!(fault(|row| row.propensity = Some(0.0)).contains("row 3: propensity 0 is not above 0"));
    assert!(fault(|row| row.propensity = Some(1.5)).contains("row 3: propensity 1.5"));
    assert!(fault(|row| row.propensity = Some(f64::NAN)).contains("row 3: propensity NaN"));
    assert!(fault(|row| row.propensity = None).contains("some have none"));
    assert!(fault(|row| row.outcome = -1.0).contains("outcome -1"));
    assert!(fault(|row| row.tick = 9).contains("row 4: rows are not in the order of time"));
    assert!(fault(|row| row.unit = "".into()).contains("unit"));
    assert!(OfflineLog::new(six().rows().to_vec(), 2, 5).is_err());
    let bad = counterfactual(&six(), &[PolicyDoc::plain(PolicyKind::Fixed)], &salt("s"), None).unwrap_err();
    assert!(bad.to_string().contains("policies[0].shares"), "{bad}");
}

#[test]
fn the_csv_has_a_line_for_each_policy() {
    let found = counterfactual(&six(), &PolicyDoc::usual(), &salt("s"), None).unwrap();
    let mut text = Vec::new();
    write_policies(&found, &["control", "v1"], &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("policy,rows,matched,replay,replay_low,replay_high,ips"));
    assert!(lines[0].ends_with("share_control,share_v1,p_best_control,p_best_v1"));
    assert!(lines.iter().all(|line| line.split(',').count() == lines[0].split(',').count()));
}
