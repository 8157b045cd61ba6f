//! Evidence that an arm does harm. Arms can be killed at every tick, so the evidence must be valid at any stopping
//! time; a credible interval is not (its coverage falls to about 89% under kills). The experiment's settings define
//! which metrics are guardrails, and [`decide`](crate::decide()) acts on the evidence.

use serde::{Deserialize, Serialize};

use crate::e3::{Estimator, Prior};
use crate::error::PolicyError;
use crate::normal::log_normal_cdf;
use crate::tallies::{BetterDirection, EpochTally, Measure, Spread, checked_in_order};

/// Scale ρ of the mixture: the test is most powerful when the information V is a few times ρ.
const RHO: f64 = 12.0;

/// The evidence that an arm is worse than control by more than a margin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardrailEvidence {
    /// ln M of the one-sided e-process.
    pub log_evidence: f64,
    /// M ≥ 1/α: alert people and freeze the arm's growth.
    pub alert: bool,
    /// M ≥ (K−1)·G/α for K arms and G guardrails: kill. The probability that any harmless arm of the experiment is ever
    /// killed is then at most α.
    pub kill: bool,
}

/// The input of [`evaluate_guardrail`]: one guardrail metric of an experiment.
#[derive(Debug, Clone, Copy)]
pub struct GuardrailInput<'a> {
    /// The metric's tallies.
    pub epochs: &'a [EpochTally],
    /// What the metric measures.
    pub measure: Measure,
    /// Which values are better; harm is in the other direction.
    pub better: BetterDirection,
    /// Number of arms, control included.
    pub arms: usize,
    /// Allowed degradation relative to control, 0..1.
    pub margin: f64,
    /// Number of guardrails of the experiment.
    pub guardrails: usize,
    /// Family-wise error probability, 0..1, usually 0.05.
    pub alpha: f64,
}

/// Evidence that `arm` (1..) is worse than (1 − margin) times control or, if lower values are better, than (1 + margin)
/// times control. Fails for an unknown arm, a margin or alpha out of range, and impossible tallies.
///
/// One-sided normal-mixture e-process (Howard, Ramdas, McAuliffe & Sekhon, *Time-uniform, nonparametric, nonasymptotic
/// confidence sequences*, Annals of Statistics 2021): log M = ½·ln(4ρ/(V+ρ)) + S²/2(V+ρ) + ln Φ(S/√(V+ρ)), ρ = 12.
/// S and V are the score and the information of the arm against control *at the margin*, given each epoch's conversions
/// of the two (for other measures, sums over the dispersion as in [`Estimator`](crate::Estimator)). To first order S is
/// −(b̂ − ln(1−m))·V. The score remains valid where b̂ is infinite: an arm without conversions is the clearest harm.
///
/// A measure of differences has no share of control that could be lost. There the margin is a part of the metric's unit
/// ([`Posterior::unit`](crate::Posterior::unit), about the size of the mean), and S = −(d̂ + m)·V.
pub fn evaluate_guardrail(input: &GuardrailInput<'_>, arm: usize) -> Result<GuardrailEvidence, PolicyError> {
    let GuardrailInput { measure, arms, margin, guardrails, alpha, .. } = *input;
    if arm == 0 || arm >= arms {
        return Err(PolicyError::ArmCount { expected: arms, found: arm });
    }
    if !(0.0..1.0).contains(&margin) {
        return Err(PolicyError::Setting { name: "margin" });
    }
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(PolicyError::Setting { name: "alpha" });
    }
    let (score, information) = match measure.is_difference() {
        true => difference_score(input, arm)?,
        false => lift_score(input, arm)?,
    };
    let scale = information + RHO;
    let log_evidence =
        0.5 * libm::log(4.0 * RHO / scale) + score * score / (2.0 * scale) + log_normal_cdf(score / scale.sqrt());
    let family = ((arms - 1) * guardrails.max(1)) as f64;
    Ok(GuardrailEvidence {
        log_evidence,
        alert: log_evidence >= libm::log(1.0 / alpha),
        kill: log_evidence >= libm::log(family / alpha),
    })
}

/// S and V of a lift.
fn lift_score(input: &GuardrailInput<'_>, arm: usize) -> Result<(f64, f64), PolicyError> {
    let GuardrailInput { epochs, measure, better, arms, margin, .. } = *input;
    let cells: Vec<_> = checked_in_order(arms, epochs)?
        .iter()
        .map(|e| [measure.cell(&e.arms[0]), measure.cell(&e.arms[arm])])
        .collect();
    let mut spread = Spread::default();
    cells.iter().flatten().for_each(|cell| spread.add_cell(cell));
    let dispersion = spread.dispersion(measure).unwrap_or(1.0);
    let (mut score, mut information) = (0.0, 0.0);
    for [control, treated] in cells {
        let sum = (control.sum + treated.sum) / dispersion;
        if sum <= 0.0 {
            continue;
        }
        let odds = treated.size * (1.0 - better.sign() * margin);
        let share = odds / (odds + control.size);
        score += better.sign() * (sum * share - treated.sum / dispersion);
        information += sum * share * (1.0 - share);
    }
    Ok((score, information))
}

/// S and V of a difference, in multiples of the metric's unit.
fn difference_score(input: &GuardrailInput<'_>, arm: usize) -> Result<(f64, f64), PolicyError> {
    let GuardrailInput { epochs, measure, better, arms, margin, .. } = *input;
    let flat = Estimator::default().fit_one_against_control(measure, arms, epochs, Prior::Flat, arm)?;
    let information = 1.0 / flat.covariance[arm][arm];
    Ok((-(better.sign() * flat.mean[arm] + margin) * information, information))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tallies::{ArmTally, EpochKey, Measure, Moments};

    #[test]
    fn loss_of_profit_is_harm_and_gain_is_none() {
        let cell = |mean: f64| {
            let moments = Moments { x: 1_000.0 * mean, xx: 1_000.0 * (mean * mean + 4.0), ..Moments::default() };
            ArmTally { first: 1_000, n: 1_000, s: 1_000, moments: Some(moments), early: 0 }
        };
        let evidence = |better, mean| {
            let arms = vec![cell(-2.0), cell(mean)];
            let epochs = [EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: Vec::new() }];
            let measure = Measure::MeanDifference;
            let (arms, margin, guardrails, alpha) = (2, 0.05, 1, 0.05);
            let input = GuardrailInput { epochs: &epochs, measure, better, arms, margin, guardrails, alpha };
            evaluate_guardrail(&input, 1).unwrap()
        };
        assert!(evidence(BetterDirection::Higher, -3.0).kill && !evidence(BetterDirection::Higher, -1.0).alert);
        assert!(evidence(BetterDirection::Lower, -1.0).kill && !evidence(BetterDirection::Lower, -3.0).alert);
        assert!(!evidence(BetterDirection::Higher, -2.05).alert, "within the margin");
    }
}
