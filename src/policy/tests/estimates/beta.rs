//! Pooled Betas against mpmath: P(best) and expected loss by quadrature in 35 digits (up to four arms; more arms in double
//! precision, which was checked against it), P(above control) by a finite sum that is exact.

use inroad_assignment::PosteriorKind;
use inroad_policy::{ArmTally, Better, EpochKey, EpochTally, Measure, PointsCache, SummaryQuestion, summarise};
use serde::Deserialize;

use crate::oracle::{Ledger, problems};

#[derive(Deserialize)]
struct Expected {
    p_best: Vec<f64>,
    /// ln(E[max]/E[k]); where less is better, ln(E[k]/E[min]).
    loss: Vec<Option<f64>>,
    above: Vec<f64>,
}

#[test]
fn pooled_betas_agree_with_exact_values() {
    let expected: Vec<Option<Expected>> = serde_json::from_str(include_str!("../oracle/betas.json")).unwrap();
    let mut ledger = Ledger::default();
    let mut points = PointsCache::default();
    for (problem, wanted) in problems().iter().zip(&expected) {
        let Some(wanted) = wanted else { continue };
        let question = SummaryQuestion {
            epochs: &problem.epochs(),
            measure: problem.measure,
            better: problem.better,
            live: &problem.live,
            tau: problem.tau,
            posterior: PosteriorKind::Pooled,
            seed: 1,
            draws_log2: 8,
        };
        let found = summarise(&question, &mut points).unwrap();
        for (k, arm) in found.arms.iter().enumerate() {
            let name = format!("{}, arm {k}", problem.name);
            ledger.see(&format!("{name}, P(best)"), arm.p_best, wanted.p_best[k], 1e-6);
            ledger.see(&format!("{name}, above"), arm.p_above_control, wanted.above[k], 1e-6);
            ledger.holds(&format!("{name}, loss known"), arm.expected_loss.is_some() == wanted.loss[k].is_some());
            if let (Some(found), Some(loss)) = (arm.expected_loss, wanted.loss[k]) {
                ledger.see(&format!("{name}, loss"), found, 1.0 - (-loss).exp(), 1e-6);
            }
        }
    }
    ledger.close("pooled Betas");
}

#[test]
fn ten_thousand_million_units_are_no_more_than_a_normal_limit() {
    let n = 10_000_000_000;
    let arm = ArmTally { first: n, n, s: n / 20, ..ArmTally::default() };
    let epoch = EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms: vec![arm; 3], shares: Vec::new() };
    let question = SummaryQuestion {
        epochs: &[epoch],
        measure: Measure::Conversion,
        better: Better::More,
        live: &[true; 3],
        tau: 0.25,
        posterior: PosteriorKind::Pooled,
        seed: 1,
        draws_log2: 8,
    };
    let found = summarise(&question, &mut PointsCache::default()).unwrap();
    // The largest of three standard normals is expected at 3/(2√π).
    let loss = 1.5 / std::f64::consts::PI.sqrt() * (19.0 / n as f64).sqrt();
    for arm in &found.arms {
        assert!((arm.p_best - 1.0 / 3.0).abs() < 1e-9, "{}", arm.p_best);
        assert!((arm.expected_loss.unwrap() - loss).abs() < 1e-8, "{:?} {loss}", arm.expected_loss);
    }
}
