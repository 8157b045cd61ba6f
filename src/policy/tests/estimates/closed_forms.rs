//! Tests of the estimates against closed forms and constructed examples.

use inroad_assignment::PosteriorKind;
use inroad_policy::{
    ArmTally, BetterDirection, DrawsCache, EpochKey, EpochTally, LiftEstimate, Measure, Moments, NormalDraws,
    PolicyError, Posterior, Prior, SummaryInput, anytime_half_width, compare, normal_cdf, summarise,
};

use crate::oracle::problems;

fn epochs(n: &[Vec<u64>], s: &[Vec<u64>]) -> Vec<EpochTally> {
    let epoch = |(tick, (n, s)): (usize, (&Vec<u64>, &Vec<u64>))| EpochTally {
        epoch: EpochKey { tick: tick as i64, revision: 1 },
        arms: n.iter().zip(s).map(|(&n, &s)| ArmTally { first: n, n, s, ..ArmTally::default() }).collect(),
        shares: Vec::new(),
    };
    n.iter().zip(s).enumerate().map(epoch).collect()
}

fn estimate(arms: usize, epochs: &[EpochTally], prior: Prior) -> Result<Posterior, PolicyError> {
    inroad_policy::estimate(Measure::Poisson, arms, epochs, prior)
}

#[test]
fn two_arms_match_closed_forms() {
    let mut draws = DrawsCache::default();
    for (i, (mean, sd)) in [(0.0, 0.1), (0.02, 0.1), (-0.3, 0.2), (0.05, 0.01), (1.0, 0.3)].into_iter().enumerate() {
        let posterior =
            Posterior { mean: vec![0.0, mean], covariance: vec![vec![0.0; 2], vec![0.0, sd * sd]], unit: None };
        let found = compare(&posterior, &[true, true], draws.get(i as u64, 1, 14).unwrap()).unwrap();
        let p = normal_cdf(mean / sd);
        assert!((found.p_best[1] - p).abs() <= 2.0 / 16384.0, "{mean} {sd}: {} {p}", found.p_best[1]);
        assert!((found.p_best.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(found.p_above_control[1], p);
        // E[max(0, b)] = μ·Φ(μ/σ) + σ·φ(μ/σ).
        let density = (-0.5 * (mean / sd) * (mean / sd)).exp() / (2.0 * core::f64::consts::PI).sqrt();
        let best = mean * p + sd * density;
        assert!((found.expected_loss[0].unwrap() - best).abs() < 1e-3 * sd);
        assert!((found.expected_loss[1].unwrap() - (best - mean)).abs() < 1e-3 * sd);
    }
}

#[test]
fn killed_arms_are_not_compared() {
    let problem = &problems()[3];
    let posterior = estimate(5, &problem.epochs(), Prior::Normal(problem.tau)).unwrap();
    let draws = NormalDraws::new(1, 4, 14).unwrap();
    // Arm 3 is the best. Without it, the others share its probability.
    let found = compare(&posterior, &[true, true, true, false, true], &draws).unwrap();
    assert_eq!((found.p_best[3], found.expected_loss[3]), (0.0, None));
    assert!((found.p_best.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let only_control = compare(&posterior, &[true, false, false, false, false], &draws).unwrap();
    assert_eq!((only_control.p_best[0], only_control.expected_loss[0]), (1.0, Some(0.0)));
}

#[test]
fn two_to_sixty_five_arms_are_compared() {
    for arms in [2, 9, 10, 33, 65] {
        let n = vec![vec![1000; arms]; 5];
        let s = vec![vec![50; arms]; 5];
        let posterior = estimate(arms, &epochs(&n, &s), Prior::Normal(0.25)).unwrap();
        let live = vec![true; arms];
        let found = compare(&posterior, &live, &NormalDraws::new(3, arms - 1, 14).unwrap()).unwrap();
        assert!(posterior.mean.iter().all(|mean| mean.abs() < 1e-9));
        // Exchangeable arms are equally likely to be best. Only the prior distinguishes control, with a small effect.
        for p in &found.p_best[1..] {
            assert!((p * arms as f64 - 1.0).abs() < 0.25, "{arms}: {p}");
        }
    }
    assert!(estimate(66, &[], Prior::Normal(0.25)).is_err());
    assert!(estimate(1, &[], Prior::Normal(0.25)).is_err());
}

#[test]
fn drifting_baseline_with_changing_shares_gives_no_bias() {
    // Equal arms. The variation grows from 10% to 90% while the rate falls by three quarters; pooled rates would make
    // it look bad.
    let n: Vec<Vec<u64>> = (0..9).map(|e| vec![90_000 - e * 10_000, 10_000 + e * 10_000]).collect();
    let s: Vec<Vec<u64>> =
        n.iter().enumerate().map(|(e, n)| n.iter().map(|n| n * (400 - 37 * e as u64) / 10_000).collect()).collect();
    let posterior = estimate(2, &epochs(&n, &s), Prior::Normal(0.25)).unwrap();
    assert!(posterior.mean[1].abs() < 1e-3, "{}", posterior.mean[1]);
}

#[test]
fn summary_leaves_out_values_without_data() {
    let mut draws = DrawsCache::default();
    let n = vec![vec![1000, 500, 500, 0]; 10];
    let s = vec![vec![100, 60, 0, 0]; 10];
    let live = [true, true, true, false];
    let input = SummaryInput {
        epochs: &epochs(&n, &s),
        measure: Measure::Poisson,
        better: BetterDirection::Higher,
        live: &live,
        tau: 0.25,
        posterior: PosteriorKind::E3,
        seed: 5,
        draws_log2: 12,
    };
    let whole = summarise(&input, &mut draws).unwrap();
    assert_eq!(whole.leader(), Some(1));
    let summary = whole.arms;
    assert_eq!((summary[0].n, summary[0].s, summary[0].mean), (10_000, 1_000, Some(0.1)));
    assert!(summary[0].lift.is_none() && summary[0].anytime.is_none());
    let (lift, anytime) = (summary[1].lift.unwrap().relative().unwrap(), summary[1].anytime.unwrap());
    assert!((lift.estimate - 0.2).abs() < 1e-6, "without prior the lift is the plain ratio");
    assert!(anytime.low < lift.low && lift.high < anytime.high);
    let LiftEstimate::Difference { difference, .. } = summary[2].lift.unwrap() else { panic!("{:?}", summary[2]) };
    assert!((difference.estimate + 0.1).abs() < 1e-4, "without a conversion there is no relative lift: {difference:?}");
    assert!(difference.high < -0.09 && summary[2].anytime.unwrap().high < -0.05);
    assert_eq!((summary[3].mean, summary[3].expected_loss, summary[3].p_best), (None, None, Some(0.0)));
}

#[test]
fn anytime_interval_matches_its_published_tuning() {
    // The package confseq gives ρ = 12.60056 for V_opt = 100 at α = 0.05. The half width relative to √V is smallest
    // near V_opt.
    let rho = |v: f64, alpha: f64| v / (2.0 * (1.0 / alpha).ln() + (1.0 + 2.0 * (1.0 / alpha).ln()).ln());
    assert!((rho(100.0, 0.05) - 12.60056).abs() < 1e-4);
    let relative = |v: f64| anytime_half_width(v, rho(300.0, 0.05), 0.05) * v.sqrt();
    assert!(relative(300.0) < relative(100.0) && relative(300.0) < relative(900.0));
}

#[test]
fn impossible_tallies_are_refused() {
    let impossible = epochs(&[vec![10, 10]], &[vec![1, 11]]);
    assert!(estimate(2, &impossible, Prior::Normal(0.25)).is_err());
    assert!(estimate(3, &epochs(&[vec![10, 10]], &[vec![1, 1]]), Prior::Normal(0.25)).is_err());
    let mut repeated = epochs(&[vec![10, 10], vec![10, 10]], &[vec![1, 1], vec![2, 2]]);
    repeated[1].epoch = repeated[0].epoch;
    assert!(matches!(estimate(2, &repeated, Prior::Flat), Err(PolicyError::RepeatedEpoch { .. })));
    assert!(estimate(2, &[], Prior::Normal(0.0)).is_err());
    assert!(estimate(2, &[], Prior::Normal(f64::NAN)).is_err());
}

#[test]
fn numbers_without_spread_have_an_estimate() {
    let arm = |n: u64, value: f64| {
        let (x, xx) = (n as f64 * value, n as f64 * value * value);
        ArmTally { first: n, n, s: n, moments: Some(Moments { x, xx, ..Moments::default() }), ..ArmTally::default() }
    };
    for scale in [1e-6, 1.0, 1e9] {
        let arms = vec![arm(1_000, scale), arm(200, 1.1 * scale), arm(1, 3.0 * scale)];
        let epochs = [EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: Vec::new() }];
        let found = inroad_policy::estimate(Measure::Mean, 3, &epochs, Prior::Normal(0.25)).unwrap();
        assert!((found.mean[1] - 1.1_f64.ln()).abs() < 1e-3, "{found:?}");
        compare(&found, &[true; 3], &NormalDraws::new(1, 2, 10).unwrap()).unwrap();
    }
}
