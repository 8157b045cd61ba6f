//! Guardrails, sample ratio, delay and novelty.

use core::time::Duration;

use inroad_assignment::Timestamp;
use inroad_policy::{GuardrailQuestion, Interval, check_delay, check_novelty, check_sample_ratio, guardrail};
use serde::Deserialize;

use crate::oracle::{Ledger, problems};

#[derive(Deserialize)]
struct Expected {
    /// ln M, one per treated arm.
    guardrail: Vec<f64>,
    sample_ratio: Option<SampleRatio>,
    /// Early part, control's, and p-value.
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
    serde_json::from_str(include_str!("../oracle/doubts.json")).unwrap()
}

/// Of p-values and the like: relative, but not where they are hardly above nothing.
fn relative(value: f64) -> f64 {
    1e-6 * value.abs() + 1e-300
}

#[test]
fn the_evidence_of_guardrails_agrees_with_the_mixture_it_is() {
    let mut ledger = Ledger::default();
    for (problem, wanted) in problems().iter().zip(&expected()) {
        let question = GuardrailQuestion {
            epochs: &problem.epochs(),
            measure: problem.measure,
            better: problem.better,
            arms: problem.arms(),
            margin: problem.margin,
            guardrails: 2,
            alpha: 0.05,
        };
        for (k, &log) in (1..).zip(&wanted.guardrail) {
            let found = guardrail(&question, k).unwrap();
            let name = format!("{}, arm {k}", problem.name);
            ledger.see(&name, found.log_evidence, log, 1e-6 * (1.0 + log.abs()));
            ledger.holds(&format!("{name}, alert"), found.alert == (log >= 20.0_f64.ln()));
            let family = 2.0 * (problem.arms() - 1) as f64;
            ledger.holds(&format!("{name}, kill"), found.kill == (log >= (20.0 * family).ln()));
        }
    }
    ledger.close("guardrails");
}

#[test]
fn the_sample_ratio_agrees_with_a_pseudoinverse_and_with_multinomials() {
    let mut ledger = Ledger::default();
    for (problem, wanted) in problems().iter().zip(&expected()) {
        let Some(wanted) = &wanted.sample_ratio else { continue };
        let found =
            check_sample_ratio(problem.arms(), &problem.epochs(), Duration::from_secs(86_400), Timestamp::default())
                .unwrap();
        let name = &problem.name;
        ledger.see(&format!("{name}, χ²"), found.chi_squared, wanted.chi_squared, relative(1.0 + wanted.chi_squared));
        ledger.holds(&format!("{name}, degrees of freedom"), found.degrees_of_freedom == wanted.df);
        ledger.see(&format!("{name}, p"), found.p_value, wanted.p_value, relative(wanted.p_value));
        ledger.see(
            &format!("{name}, epoch p"),
            found.epoch_p_value,
            wanted.epoch_p_value,
            relative(wanted.epoch_p_value),
        );
        let tolerance = 1e-6 * (1.0 + wanted.log_evidence.abs());
        ledger.see(&format!("{name}, ln M"), found.log_evidence, wanted.log_evidence, tolerance);
        ledger.see(&format!("{name}, peak"), found.peak_log_evidence, wanted.peak, 1e-6 * (1.0 + wanted.peak));
    }
    ledger.close("sample ratio");
}

#[test]
fn delay_and_novelty_agree() {
    let mut ledger = Ledger::default();
    for (problem, wanted) in problems().iter().zip(&expected()) {
        let (name, epochs) = (&problem.name, problem.epochs());
        for (k, (found, wanted)) in check_delay(problem.arms(), &epochs).unwrap().iter().zip(&wanted.delay).enumerate()
        {
            ledger.holds(&format!("{name}, delay {k} known"), found.is_some() == wanted.is_some());
            if let (Some(found), Some([early, control, p])) = (found, *wanted) {
                ledger.see(&format!("{name}, early {k}"), found.early, early, 1e-9);
                ledger.see(&format!("{name}, control early {k}"), found.control_early, control, 1e-9);
                ledger.see(&format!("{name}, delay {k}"), found.p_value, p, relative(p));
                ledger
                    .holds(&format!("{name}, differs {k}"), found.differs == (p * (problem.arms() - 1) as f64 <= 0.01));
            }
        }
        let found = check_novelty(problem.measure, problem.arms(), &epochs).unwrap();
        for (k, (found, wanted)) in found.iter().zip(&wanted.novelty).enumerate() {
            ledger.holds(&format!("{name}, novelty {k} known"), found.is_some() == wanted.is_some());
            if let (Some(found), Some(wanted)) = (found, wanted) {
                // The p-value is of a difference whose relative error its size multiplies.
                let tolerance = 1e-5 * wanted.p_value + 1e-300;
                ledger.see(&format!("{name}, novelty {k}"), found.p_value, wanted.p_value, tolerance);
                for (half, wanted) in [(found.early, wanted.early), (found.late, wanted.late)] {
                    let width = wanted[2].ln_1p() - wanted[1].ln_1p();
                    let Interval { estimate, low, high } = half;
                    for (found, wanted) in [estimate, low, high].into_iter().zip(wanted) {
                        ledger.see(&format!("{name}, half {k}"), found.ln_1p(), wanted.ln_1p(), 1e-6 * width);
                    }
                }
            }
        }
    }
    ledger.close("delay and novelty");
}
