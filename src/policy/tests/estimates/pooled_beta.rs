//! Tests of the pooled Beta posteriors against mpmath. The expected probability to be best and loss are quadratures
//! with 35 digits for up to four arms, and in double precision (checked against those) for more arms. P(above control)
//! is a finite sum, which is exact.

use inroad_assignment::PosteriorKind;
use inroad_policy::{ArmTally, BetterDirection, DrawsCache, EpochKey, EpochTally, Measure, SummaryInput, summarise};
use serde::Deserialize;

use crate::oracle::{Comparisons, problems};

#[derive(Deserialize)]
struct Expected {
    p_best: Vec<f64>,
    /// ln(E[max]/E[k]); if lower values are better, ln(E[k]/E[min]).
    loss: Vec<Option<f64>>,
    above: Vec<f64>,
}

#[test]
fn pooled_betas_match_exact_values() {
    let expected: Vec<Option<Expected>> = serde_json::from_str(include_str!("../oracle/betas.json")).unwrap();
    let mut comparisons = Comparisons::default();
    let (mut draws, mut ranked) = (DrawsCache::default(), 0);
    for (problem, wanted) in problems().iter().zip(&expected) {
        let Some(wanted) = wanted else { continue };
        let input = SummaryInput {
            epochs: &problem.epochs(),
            measure: problem.measure,
            better: problem.better,
            live: &problem.live,
            tau: problem.tau,
            posterior: PosteriorKind::Pooled,
            seed: 1,
            draws_log2: 8,
        };
        let found = summarise(&input, &mut draws).unwrap();
        // Without conversions of control or of the arm, there is only a difference.
        let converts = |arm: usize| problem.epochs().iter().any(|epoch| epoch.arms[arm].s > 0);
        for (k, arm) in found.arms.iter().enumerate().filter(|_| found.is_ranked()) {
            ranked += 1;
            let name = format!("{}, arm {k}", problem.name);
            comparisons.compare(&format!("{name}, P(best)"), arm.p_best.unwrap(), wanted.p_best[k], 1e-6);
            if let Some(above) = arm.p_above_control {
                comparisons.compare(&format!("{name}, above"), above, wanted.above[k], 1e-6);
            }
            comparisons.check(
                &format!("{name}, loss known"),
                arm.expected_loss.is_some() == (converts(0) && converts(k) && wanted.loss[k].is_some()),
            );
            if let (Some(found), Some(loss)) = (arm.expected_loss, wanted.loss[k]) {
                comparisons.compare(&format!("{name}, loss"), found, 1.0 - (-loss).exp(), 1e-6);
            }
        }
    }
    assert!(ranked > 50, "{ranked}");
    comparisons.finish("pooled Betas");
}

#[test]
fn ten_billion_units_match_the_normal_limit() {
    let n = 10_000_000_000;
    let arm = ArmTally { first: n, n, s: n / 20, ..ArmTally::default() };
    let epoch = EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms: vec![arm; 3], shares: Vec::new() };
    let input = SummaryInput {
        epochs: &[epoch],
        measure: Measure::Conversion,
        better: BetterDirection::Higher,
        live: &[true; 3],
        tau: 0.25,
        posterior: PosteriorKind::Pooled,
        seed: 1,
        draws_log2: 8,
    };
    let found = summarise(&input, &mut DrawsCache::default()).unwrap();
    // The expectation of the largest of three standard normals is 3/(2√π).
    let loss = 1.5 / std::f64::consts::PI.sqrt() * (19.0 / n as f64).sqrt();
    for arm in &found.arms {
        assert!((arm.p_best.unwrap() - 1.0 / 3.0).abs() < 1e-9, "{:?}", arm.p_best);
        assert!((arm.expected_loss.unwrap() - loss).abs() < 1e-8, "{:?} {loss}", arm.expected_loss);
    }
}
