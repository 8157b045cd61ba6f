//! Tests of the probability to be best, expected loss and maximum remaining gain from draws. They must be within three
//! standard errors of the same number of independent draws. Scrambled Sobol draws are better, but not in 64 dimensions.

use inroad_policy::{NormalDraws, Posterior, Prior, compare, estimate, normal_cdf, potential_value_remaining};
use serde::Deserialize;

use crate::oracle::{Comparisons, problems};

#[derive(Deserialize)]
struct Expected {
    p_best: Vec<f64>,
    /// None for killed arms.
    loss: Vec<Option<f64>>,
    /// Standard error of the loss over 2¹⁴ draws.
    loss_error: Vec<Option<f64>>,
    leader: usize,
    /// Quantiles of the remaining gain: at 95% minus three standard errors of the level, at 95%, and at 95% plus three.
    remaining: [f64; 3],
}

#[derive(Deserialize)]
struct Factored {
    name: String,
    mean: Vec<f64>,
    /// Standard deviations of independent arms, control first.
    sd: Vec<f64>,
    #[serde(flatten)]
    expected: Expected,
}

fn check(comparisons: &mut Comparisons, name: &str, posterior: &Posterior, live: &[bool], wanted: &Expected) {
    let draws = NormalDraws::new(99, live.len() - 1, 14).unwrap();
    let found = compare(posterior, live, &draws).unwrap();
    assert!((found.p_best.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{name}");
    for (k, &p) in wanted.p_best.iter().enumerate() {
        let tolerance = 3.0 * (p * (1.0 - p) / draws.draws() as f64).sqrt() + 3e-5;
        comparisons.compare(&format!("{name}, P(best) {k}"), found.p_best[k], p, tolerance);
        comparisons
            .check(&format!("{name}, loss {k} known"), found.expected_loss[k].is_some() == wanted.loss[k].is_some());
        if let (Some(found), Some(loss), Some(error)) = (found.expected_loss[k], wanted.loss[k], wanted.loss_error[k]) {
            // Draws are in single precision.
            let tolerance = 3.0 * error + 1e-6 * (1.0 + loss);
            comparisons.compare(&format!("{name}, loss {k}"), found, loss, tolerance);
        }
        if k > 0 {
            let above = normal_cdf(posterior.mean[k] / posterior.sd(k));
            comparisons.compare(&format!("{name}, above control {k}"), found.p_above_control[k], above, 1e-12);
            comparisons.compare(&format!("{name}, below control {k}"), found.p_below_control[k], 1.0 - above, 1e-12);
        }
    }
    let found = potential_value_remaining(posterior, live, wanted.leader, &draws).unwrap();
    let [low, _, high] = wanted.remaining;
    let slack = 1e-6 + 1e-3 * (high - low);
    let inside = (low - slack..=high + slack).contains(&found);
    comparisons.check(&format!("{name}, remaining {found}: {:?}", wanted.remaining), inside);
}

#[test]
fn lifts_over_a_shared_control_match_exact_integrals() {
    let cases: Vec<Factored> = serde_json::from_str(include_str!("../oracle/posteriors.json")).unwrap();
    let mut comparisons = Comparisons::default();
    for case in &cases {
        let control = case.sd[0] * case.sd[0];
        let arms = case.sd.len();
        let entry = |i: usize, j: usize| match (i, j) {
            (0, _) | (_, 0) => 0.0,
            (i, j) if i == j => control + case.sd[i] * case.sd[i],
            _ => control,
        };
        let covariance = (0..arms).map(|i| (0..arms).map(|j| entry(i, j)).collect()).collect();
        let posterior = Posterior { mean: case.mean.clone(), covariance, unit: None };
        check(&mut comparisons, &case.name, &posterior, &vec![true; arms], &case.expected);
    }
    comparisons.finish("shared control");
}

#[test]
fn estimated_posteriors_match_the_distribution_function_or_many_more_draws() {
    let expected: Vec<Expected> = serde_json::from_str(include_str!("../oracle/comparisons.json")).unwrap();
    let mut comparisons = Comparisons::default();
    for (problem, wanted) in problems().iter().zip(&expected) {
        let posterior =
            estimate(problem.measure, problem.arms(), &problem.epochs(), Prior::Normal(problem.tau)).unwrap();
        check(&mut comparisons, &problem.name, &posterior.into_benefit(problem.better), &problem.live, wanted);
    }
    comparisons.finish("estimated posteriors");
}
