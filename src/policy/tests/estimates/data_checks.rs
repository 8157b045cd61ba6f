//! Tests of guardrails, sample ratio, delay and novelty checks against other methods.

use core::time::Duration;

use inroad_assignment::Timestamp;
use inroad_policy::{GuardrailInput, Interval, check_delay, check_novelty, check_sample_ratio, evaluate_guardrail};
use serde::Deserialize;

use crate::oracle::{Comparisons, problems};

#[derive(Deserialize)]
struct Expected {
    /// ln M, one per treated arm.
    guardrail: Vec<f64>,
    sample_ratio: Option<SampleRatio>,
    /// Early part of the arm, early part of control, p-value.
    delay: Vec<Option<[f64; 3]>>,
    novelty: Vec<Option<Novelty>>,
}

#[derive(Deserialize)]
struct SampleRatio {
    chi_squared: f64,
    df: usize,
    p_value: f64,
    epoch_p_value: f64,
    log_evidence: f64,
    peak: f64,
}

#[derive(Deserialize)]
struct Novelty {
    early: [f64; 3],
    late: [f64; 3],
    p_value: f64,
}

fn expected() -> Vec<Expected> {
    serde_json::from_str(include_str!("../oracle/data_checks.json")).unwrap()
}

/// Tolerance for p-values and similar numbers: relative, with a minimum for values near 0.
fn relative(value: f64) -> f64 {
    1e-6 * value.abs() + 1e-300
}

#[test]
fn guardrail_evidence_matches_the_mixture_integral() {
    let mut comparisons = Comparisons::default();
    for (problem, wanted) in problems().iter().zip(&expected()) {
        let input = GuardrailInput {
            epochs: &problem.epochs(),
            measure: problem.measure,
            better: problem.better,
            arms: problem.arms(),
            margin: problem.margin,
            guardrails: 2,
            alpha: 0.05,
        };
        for (k, &log) in (1..).zip(&wanted.guardrail) {
            let found = evaluate_guardrail(&input, k).unwrap();
            let name = format!("{}, arm {k}", problem.name);
            comparisons.compare(&name, found.log_evidence, log, 1e-6 * (1.0 + log.abs()));
            comparisons.check(&format!("{name}, alert"), found.alert == (log >= 20.0_f64.ln()));
            let family = 2.0 * (problem.arms() - 1) as f64;
            comparisons.check(&format!("{name}, kill"), found.kill == (log >= (20.0 * family).ln()));
        }
    }
    comparisons.finish("guardrails");
}

#[test]
fn sample_ratio_matches_a_pseudoinverse_and_multinomials() {
    let mut comparisons = Comparisons::default();
    for (problem, wanted) in problems().iter().zip(&expected()) {
        let Some(wanted) = &wanted.sample_ratio else { continue };
        let found =
            check_sample_ratio(problem.arms(), &problem.epochs(), Duration::from_secs(86_400), Timestamp::default())
                .unwrap();
        let name = &problem.name;
        comparisons.compare(
            &format!("{name}, χ²"),
            found.chi_squared,
            wanted.chi_squared,
            relative(1.0 + wanted.chi_squared),
        );
        comparisons.check(&format!("{name}, degrees of freedom"), found.degrees_of_freedom == wanted.df);
        comparisons.compare(&format!("{name}, p"), found.p_value, wanted.p_value, relative(wanted.p_value));
        comparisons.compare(
            &format!("{name}, epoch p"),
            found.epoch_p_value,
            wanted.epoch_p_value,
            relative(wanted.epoch_p_value),
        );
        let tolerance = 1e-6 * (1.0 + wanted.log_evidence.abs());
        comparisons.compare(&format!("{name}, ln M"), found.log_evidence, wanted.log_evidence, tolerance);
        comparisons.compare(&format!("{name}, peak"), found.peak_log_evidence, wanted.peak, 1e-6 * (1.0 + wanted.peak));
    }
    comparisons.finish("sample ratio");
}

#[test]
fn delay_and_novelty_checks_match() {
    let mut comparisons = Comparisons::default();
    for (problem, wanted) in problems().iter().zip(&expected()) {
        let (name, epochs) = (&problem.name, problem.epochs());
        for (k, (found, wanted)) in check_delay(problem.arms(), &epochs).unwrap().iter().zip(&wanted.delay).enumerate()
        {
            comparisons.check(&format!("{name}, delay {k} known"), found.is_some() == wanted.is_some());
            if let (Some(found), Some([early, control, p])) = (found, *wanted) {
                comparisons.compare(&format!("{name}, early {k}"), found.early, early, 1e-9);
                comparisons.compare(&format!("{name}, control early {k}"), found.control_early, control, 1e-9);
                comparisons.compare(&format!("{name}, delay {k}"), found.p_value, p, relative(p));
                comparisons
                    .check(&format!("{name}, differs {k}"), found.differs == (p * (problem.arms() - 1) as f64 <= 0.01));
            }
        }
        let found = check_novelty(problem.measure, problem.arms(), &epochs).unwrap();
        for (k, (found, wanted)) in found.iter().zip(&wanted.novelty).enumerate() {
            comparisons.check(&format!("{name}, novelty {k} known"), found.is_some() == wanted.is_some());
            if let (Some(found), Some(wanted)) = (found, wanted) {
                // The relative error of the p-value grows with the size of the difference.
                let tolerance = 1e-5 * wanted.p_value + 1e-300;
                comparisons.compare(&format!("{name}, novelty {k}"), found.p_value, wanted.p_value, tolerance);
                for (half, wanted) in [(found.early, wanted.early), (found.late, wanted.late)] {
                    let width = wanted[2].ln_1p() - wanted[1].ln_1p();
                    let Interval { estimate, low, high } = half;
                    for (found, wanted) in [estimate, low, high].into_iter().zip(wanted) {
                        comparisons.compare(&format!("{name}, half {k}"), found.ln_1p(), wanted.ln_1p(), 1e-6 * width);
                    }
                }
            }
        }
    }
    comparisons.finish("delay and novelty");
}
