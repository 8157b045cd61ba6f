//! Compares the optimised samplers with plain sampling of every arm: in single states, over whole runs, and with closed
//! forms. Seeds are fixed, so the results never change.

use rand::SeedableRng;
use rand_distr::{Beta, Distribution};
use rand_xoshiro::Xoshiro256PlusPlus;
use statrs::distribution::{Beta as BetaDistribution, ChiSquared, ContinuousCDF};

use super::posterior::Arm;
use super::{Bandit, BanditError, Sampler, play, replicate, run_pulls, thompson, top_two};

/// Smaller than every p-value of these seeds, larger than those of a wrong distribution.
const P_VALUE_MIN: f64 = 1e-3;

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn arm(paid: u32, unpaid: u32) -> Arm {
    let mut arm = Arm::default();
    (0..paid).for_each(|_| arm.record_pull(true));
    (0..unpaid).for_each(|_| arm.record_pull(false));
    arm
}

fn arms(pulls: &[(u32, u32)]) -> Vec<Arm> {
    pulls.iter().map(|(paid, unpaid)| arm(*paid, *unpaid)).collect()
}

fn betas(pulls: &[(u32, u32)]) -> Vec<Beta<f64>> {
    pulls.iter().map(|(p, q)| Beta::new(f64::from(p + 1), f64::from(q + 1)).unwrap()).collect()
}

/// Plain Thompson sampling with the Beta of rand_distr: draws every arm.
fn plain_thompson(betas: &[Beta<f64>], rng: &mut Xoshiro256PlusPlus) -> usize {
    let draws: Vec<f64> = betas.iter().map(|beta| beta.sample(rng)).collect();
    (0..draws.len()).max_by(|a, b| draws[*a].total_cmp(&draws[*b])).unwrap()
}

/// The p-value of Pearson's test that two rows of counts have the same distribution.
fn p_same_distribution(one: &[u64], other: &[u64]) -> f64 {
    let totals = [one, other].map(|row| row.iter().sum::<u64>() as f64);
    let (mut statistic, mut freedom) = (0.0, -1.0);
    for (a, b) in one.iter().zip(other).filter(|(a, b)| *a + *b > 0) {
        freedom += 1.0;
        for (count, total) in [(*a, totals[0]), (*b, totals[1])] {
            let expected = (a + b) as f64 * total / (totals[0] + totals[1]);
            statistic += (count as f64 - expected).powi(2) / expected;
        }
    }
    if freedom < 1.0 { 1.0 } else { ChiSquared::new(freedom).unwrap().sf(statistic) }
}

/// The p-value that the draws have the distribution, with 40 bins of equal probability.
fn p_has_distribution(draws: impl Iterator<Item = f64>, distribution: &BetaDistribution) -> f64 {
    let mut bins = [0_u64; 40];
    draws.for_each(|x| bins[((distribution.cdf(x) * 40.0) as usize).min(39)] += 1);
    let expected = bins.iter().sum::<u64>() as f64 / 40.0;
    let statistic = bins.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
    ChiSquared::new(39.0).unwrap().sf(statistic)
}

const SHAPES: [(u32, u32); 7] = [(0, 0), (0, 5), (1, 0), (3, 1), (12, 80), (700, 4_000), (0, 900)];

#[test]
fn draws_have_the_posterior_distribution() {
    for (seed, (paid, unpaid)) in (10..).zip(SHAPES) {
        let (arm, mut rng) = (arm(paid, unpaid), rng(seed));
        let distribution = BetaDistribution::new(f64::from(paid + 1), f64::from(unpaid + 1)).unwrap();
        let p = p_has_distribution((0..400_000).map(|_| arm.draw(&mut rng)), &distribution);
        assert!(p > P_VALUE_MIN, "Beta({}, {}): p = {p}", paid + 1, unpaid + 1);
    }
}

#[test]
fn tail_and_remainder_have_the_posterior_distribution_for_every_cut() {
    let mut cut = 0;
    for (seed, (paid, unpaid)) in (20..).zip(SHAPES) {
        let distribution = BetaDistribution::new(f64::from(paid + 1), f64::from(unpaid + 1)).unwrap();
        let (arm, mut rng) = (arm(paid, unpaid), rng(seed));
        for deviations in [0.8, 1.2, 2.0] {
            let Some(tail) = arm.tail_above(arm.mean + deviations * arm.standard_deviation()) else { continue };
            cut += 1;
            assert!(
                tail.mass >= distribution.sf(tail.from),
                "the mass of the envelope is below the probability of the tail"
            );
            let draws = (0..400_000).map(|_| {
                let proposes = rand::RngExt::random::<f64>(&mut rng) < tail.mass;
                let proposed = proposes.then(|| tail.propose(&mut rng));
                let proposed = proposed.filter(|x| arm.accepts(&tail, *x, &mut rng));
                proposed.unwrap_or_else(|| arm.draw_up_to(tail.from, &mut rng))
            });
            let p = p_has_distribution(draws, &distribution);
            assert!(p > P_VALUE_MIN, "Beta({}, {}) at {deviations}: p = {p}", paid + 1, unpaid + 1);
        }
    }
    assert!(cut > 10, "only {cut} posteriors were cut");
}

#[test]
fn updated_envelope_equals_a_newly_computed_envelope() {
    let mut learning = arm(40, 200);
    learning.tail = learning.tail_above(0.21);
    for pull in 0..3_000 {
        learning.record_pull(pull % 7 == 0);
    }
    let (updated, computed) = (learning.tail.unwrap(), learning.tail_above(0.21).unwrap());
    assert!((updated.mass / computed.mass - 1.0).abs() < 1e-9, "{updated:?}, expected {computed:?}");
    (0..800).for_each(|_| learning.record_pull(true));
    assert!(learning.tail.is_none(), "the mass is too large");
    learning.tail = learning.tail_above(0.9);
    assert!(learning.tail.is_some_and(|tail| tail.mass < 1e-300));
    learning.record_pull(false);
    assert!(learning.tail.is_none(), "the mass is too small to be updated");
}

#[test]
fn arms_win_as_often_as_with_plain_sampling_in_every_state() {
    let states: [&[(u32, u32)]; 6] = [
        &[(0, 0), (0, 0), (0, 0)],
        &[(3, 20), (2, 20), (6, 25), (0, 4), (1, 1)],
        &[(30, 270), (40, 280), (60, 300), (10, 120), (90, 380)],
        &[(12, 110), (20, 150), (30, 190), (50, 260), (1_800, 7_300)],
        &[(0, 30), (1, 40), (300, 900), (0, 0)],
        &[(500, 500), (520, 500)],
    ];
    for (seed, state) in (30..).zip(states) {
        let (mut arms, betas) = (arms(state), betas(state));
        let (mut optimised, mut plain) = (vec![0; state.len()], vec![0; state.len()]);
        let mut rng = rng(seed);
        for _ in 0..1_000_000 {
            optimised[thompson::arm_with_largest_draw(&mut arms, &mut rng)] += 1;
            plain[plain_thompson(&betas, &mut rng)] += 1;
        }
        let p = p_same_distribution(&optimised, &plain);
        assert!(p > P_VALUE_MIN, "{state:?}: {optimised:?} against {plain:?}, p = {p}");
    }
}

/// Checks that the pulls of every arm over many runs have the same distribution with both methods. The bins are the
/// deciles of both together.
fn check_pulls_of_runs(bandit: &Bandit, runs: u64) {
    let optimised: Vec<Vec<u64>> =
        (0..runs).map(|run| play(bandit, &Sampler::Thompson, 7, run).unwrap().pulls).collect();
    let mut rng = rng(8);
    let plain: Vec<Vec<u64>> = (0..runs)
        .map(|_| {
            let mut seen = vec![(0, 0); bandit.rates.len()];
            for _ in 0..bandit.horizon {
                let chosen = plain_thompson(&betas(&seen), &mut rng);
                let paid = rand::RngExt::random::<f64>(&mut rng) < bandit.rates[chosen];
                if paid { seen[chosen].0 += 1 } else { seen[chosen].1 += 1 }
            }
            seen.iter().map(|(p, q)| u64::from(p + q)).collect()
        })
        .collect();
    for arm in 0..bandit.rates.len() {
        let mut all: Vec<u64> = optimised.iter().chain(&plain).map(|pulls| pulls[arm]).collect();
        all.sort_unstable();
        let edges: Vec<u64> = (1..10).map(|tenth| all[all.len() * tenth / 10]).collect();
        let binned = |runs: &[Vec<u64>]| {
            let mut bins = [0; 10];
            runs.iter().for_each(|pulls| bins[edges.partition_point(|edge| *edge < pulls[arm])] += 1);
            bins
        };
        let p = p_same_distribution(&binned(&optimised), &binned(&plain));
        assert!(p > P_VALUE_MIN, "arm {arm} of {bandit:?}: p = {p}");
    }
}

#[test]
fn pulls_of_runs_have_the_distribution_of_plain_sampling() {
    check_pulls_of_runs(&Bandit { rates: vec![0.10, 0.12, 0.14, 0.16, 0.20], horizon: 150 }, 20_000);
    check_pulls_of_runs(&Bandit { rates: vec![0.05, 0.5, 0.6], horizon: 1_500 }, 3_000);
    check_pulls_of_runs(&Bandit { rates: vec![0.0, 1.0, 0.9], horizon: 60 }, 20_000);
}

#[test]
fn top_two_chooses_as_often_as_plain_redraws() {
    // P(leader is best) is 0.995: high enough that most calls compute, low enough that plain redraws end.
    let state = [(20, 180), (30, 200), (50, 300), (1_000, 4_300)];
    let (mut arms, betas) = (arms(&state), betas(&state));
    let (mut optimised, mut plain) = (vec![0; 4], vec![0; 4]);
    let (mut top_two, mut rng) = (top_two::TopTwoSampler::default(), rng(40));
    for _ in 0..40_000 {
        optimised[top_two.choose(&mut arms, 0.5, &mut rng)] += 1;
        let mut chosen = plain_thompson(&betas, &mut rng);
        if rand::RngExt::random::<f64>(&mut rng) >= 0.5 {
            let first = chosen;
            while chosen == first {
                chosen = plain_thompson(&betas, &mut rng);
            }
        }
        plain[chosen] += 1;
    }
    let p = p_same_distribution(&optimised, &plain);
    assert!(p > P_VALUE_MIN, "{optimised:?} against {plain:?}, p = {p}");
}

/// P(first above second) for two Betas with integer shapes from 1, a sum over the first shape (Evan Miller 2015).
fn probability_above((p, q): (u32, u32), (r, s): (u32, u32)) -> f64 {
    let beta = |a: f64, b: f64| libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let (b, c, d) = (f64::from(q + 1), f64::from(r + 1), f64::from(s + 1));
    (0..=p).map(f64::from).map(|i| (beta(c + i, d + b) - (b + i).ln() - beta(1.0 + i, b) - beta(c, d)).exp()).sum()
}

#[test]
fn computed_weights_equal_the_closed_form() {
    let leader = (1_000, 4_000);
    for other in [(300, 1_500), (80, 600), (5, 60), (0, 40), (700, 4_000), (0, 0)] {
        // The third arm cannot be the best, so that the closed form for two arms applies.
        let state = arms(&[other, leader, (0, 100_000)]);
        let mut top_two = top_two::TopTwoSampler::default();
        let total = top_two.compute_weights(&state, 1);
        let expected = probability_above(other, leader);
        assert!((total / expected - 1.0).abs() < 1e-4, "{other:?}: {total:e}, expected {expected:e}");
    }
}

#[test]
fn weights_that_underflow_are_approximated() {
    let state = arms(&[(9_000, 1_000), (1_000, 9_000), (1_050, 8_950)]);
    let mut top_two = top_two::TopTwoSampler::default();
    let (mut state, mut rng) = (state, rng(50));
    let chosen: Vec<usize> = (0..200).map(|_| top_two.choose(&mut state, 0.5, &mut rng)).collect();
    assert!(chosen.contains(&0) && chosen.contains(&2) && !chosen.contains(&1));
}

#[test]
fn top_two_pulls_the_best_arm_with_probability_beta() {
    let bandit = Bandit { rates: vec![0.1, 0.3, 0.7], horizon: 4_000 };
    for beta in [0.3, 0.5] {
        let summary = replicate(&bandit, &Sampler::TopTwo { beta }, 1, 20).unwrap();
        let share = summary.pulls[2] / f64::from(bandit.horizon);
        assert!((share - beta).abs() < 0.03, "{share} for {beta}");
    }
    let (one, thompson) = (Sampler::TopTwo { beta: 1.0 }, Sampler::Thompson);
    let [one, thompson] = [one, thompson].map(|sampler| replicate(&bandit, &sampler, 1, 200).unwrap());
    assert!((one.pulls[2] / thompson.pulls[2] - 1.0).abs() < 0.01);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let bandit = Bandit { rates: vec![0.1, 0.2, 0.15], horizon: 700 };
    for sampler in [Sampler::Thompson, Sampler::TopTwo { beta: 0.5 }, Sampler::EpsilonGreedy { epsilon: 0.1 }] {
        let run_on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| replicate(&bandit, &sampler, 3, 60).unwrap())
        };
        assert_eq!(run_on(1), run_on(3));
        assert_ne!(run_on(1), replicate(&bandit, &sampler, 4, 60).unwrap());
    }
}

#[test]
fn uniform_sampler_pulls_evenly_with_known_regret() {
    let bandit = Bandit { rates: vec![0.1, 0.2, 0.4], horizon: 3_000 };
    let summary = replicate(&bandit, &Sampler::Uniform, 1, 50).unwrap();
    assert_eq!(summary.pulls, [1_000.0; 3]);
    assert!((summary.regret.last().unwrap() - 500.0).abs() < 1e-9 && *summary.regret_error.last().unwrap() < 1e-9);
    assert!((summary.reward - 700.0).abs() < 20.0, "{}", summary.reward);
    assert_eq!(summary.checkpoints, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 3_000]);
}

#[test]
fn epsilon_is_the_fraction_of_random_pulls() {
    // Only one arm pays: once it has paid, the greedy choice never changes.
    let bandit = Bandit { rates: vec![0.0, 0.0, 1.0, 0.0], horizon: 10_000 };
    let summary = replicate(&bandit, &Sampler::EpsilonGreedy { epsilon: 0.2 }, 1, 40).unwrap();
    for arm in [0, 1, 3] {
        assert!((summary.pulls[arm] - 500.0).abs() < 15.0, "{:?}", summary.pulls);
    }
    let ties =
        replicate(&Bandit { rates: vec![0.0; 4], horizon: 8_000 }, &Sampler::EpsilonGreedy { epsilon: 0.0 }, 1, 9);
    assert!(ties.unwrap().pulls.iter().all(|pulls| (pulls - 2_000.0).abs() < 80.0));
}

#[test]
fn thompson_regret_agrees_with_the_literature() {
    // The Lai–Robbins bound is reached in the limit. At this horizon the regret is between a fifth of the bound and the
    // bound.
    let bandit = Bandit { rates: vec![0.10, 0.12, 0.14, 0.16, 0.20], horizon: 10_000 };
    let regret = *replicate(&bandit, &Sampler::Thompson, 1, 200).unwrap().regret.last().unwrap();
    let kl = |p: f64, q: f64| p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
    let bound: f64 = bandit.rates[..4].iter().map(|rate| (0.2 - rate) / kl(*rate, 0.2)).sum::<f64>() * 1e4_f64.ln();
    assert!(regret > 0.2 * bound && regret < bound, "{regret}, bound {bound}");
}

#[test]
fn counts_of_a_run_are_consistent() {
    let bandit = Bandit { rates: vec![0.3, 0.6], horizon: 777 };
    let mut step = 0;
    let counted = run_pulls(&bandit, &mut rng(1), |arms, at, _| {
        assert_eq!(at, step);
        step += 1;
        assert_eq!(arms.iter().map(Arm::pulls).sum::<u64>(), u64::from(at));
        0
    });
    assert_eq!(counted.pulls, [777, 0]);
    assert!((counted.regret.last().unwrap() - 0.3 * 777.0).abs() < 1e-9);
    assert_eq!(counted.regret.len(), bandit.checkpoints().len());
}

#[test]
fn bandit_and_samplers_are_read_from_toml() {
    let bandit: Bandit = toml::from_str("rates = [0.1, 0.2]\nhorizon = 100").unwrap();
    assert_eq!(bandit, Bandit { rates: vec![0.1, 0.2], horizon: 100 });
    let sampler = |text: &str| toml::from_str::<Sampler>(text);
    assert_eq!(sampler("kind = 'thompson'").unwrap(), Sampler::Thompson);
    assert_eq!(sampler("kind = 'top-two'").unwrap(), Sampler::TopTwo { beta: 0.5 });
    assert_eq!(sampler("kind = 'epsilon-greedy'\nepsilon = 0.1").unwrap(), Sampler::EpsilonGreedy { epsilon: 0.1 });
    assert_eq!(sampler("kind = 'uniform'").unwrap(), Sampler::Uniform);
    assert!(sampler("kind = 'epsilon-greedy'").is_err() && sampler("kind = 'top-two'\nbet = 1").is_err());
}

#[test]
fn invalid_bandits_and_samplers_are_refused() {
    let valid = Bandit { rates: vec![0.1, 0.2], horizon: 10 };
    let refused = |rates: &[f64], horizon| {
        replicate(&Bandit { rates: rates.to_vec(), horizon }, &Sampler::Thompson, 1, 1).unwrap_err()
    };
    assert_eq!(refused(&[0.1], 10), BanditError::Arms(1));
    assert_eq!(refused(&[0.1, 1.5], 10), BanditError::Rate { arm: 1, rate: 1.5 });
    assert!(matches!(refused(&[f64::NAN, 0.5], 10), BanditError::Rate { arm: 0, .. }));
    assert_eq!(refused(&[0.1, 0.2], 0), BanditError::Horizon);
    assert_eq!(replicate(&valid, &Sampler::Thompson, 1, 0), Err(BanditError::Replications));
    for sampler in [
        Sampler::TopTwo { beta: 0.0 },
        Sampler::TopTwo { beta: f64::NAN },
        Sampler::EpsilonGreedy { epsilon: 1.1 },
        Sampler::EpsilonGreedy { epsilon: f64::NAN },
    ] {
        assert!(matches!(play(&valid, &sampler, 1, 0), Err(BanditError::Sampler { .. })), "{sampler:?}");
    }
}
