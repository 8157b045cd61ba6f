//! What stops an arm that does harm, however often one looks. Kill decisions are made at every tick, so they need
//! evidence that holds at any stopping time; a credible interval does not (coverage falls to about 89% under kills).
//! It knows counts; which metrics are guardrails, and what a kill does, is others' business.

use serde::{Deserialize, Serialize};

use crate::normal::log_normal_cdf;
use crate::tallies::in_order;
use crate::{EpochTally, PolicyError};

/// The mixture's scale: most powerful when the information V is a few times this.
const RHO: f64 = 12.0;

/// The evidence that an arm is worse than control by more than a margin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardrailEvidence {
    /// ln M of the one-sided e-process.
    pub log_evidence: f64,
    /// M ≥ 1/α: tell a person, freeze growth.
    pub alert: bool,
    /// M ≥ (K−1)·G/α: kill. The chance that any of the experiment's harmless arms is ever killed is then at most α.
    pub kill: bool,
}

/// Evidence that `arm` (1..) converts worse than (1 − `margin`) times control, `margin` in 0..1, in an experiment with
/// `guardrails` guardrails in all, at family-wise error `alpha` in 0..1 (0.05).
///
/// One-sided normal-mixture e-process (Howard, Ramdas, McAuliffe & Sekhon, *Time-uniform, nonparametric, nonasymptotic
/// confidence sequences*, Annals of Statistics 2021): log M = ½·ln(4ρ/(V+ρ)) + S²/2(V+ρ) + ln Φ(S/√(V+ρ)), ρ = 12.
/// S and V are the score and the information of the arm against control *at the margin*, given each epoch's conversions
/// of the two. To first order S is −(b̂ − ln(1−m))·V; the score stays sound where b̂ is infinite: an arm that converts
/// nobody is the clearest harm there is.
pub fn guardrail(
    epochs: &[EpochTally],
    arms: usize,
    arm: usize,
    margin: f64,
    guardrails: usize,
    alpha: f64,
) -> Result<GuardrailEvidence, PolicyError> {
    if arm == 0 || arm >= arms {
        return Err(PolicyError::ArmCount { expected: arms, found: arm });
    }
    if !(0.0..1.0).contains(&margin) {
        return Err(PolicyError::Setting { name: "margin" });
    }
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(PolicyError::Setting { name: "alpha" });
    }
    let (mut score, mut information) = (0.0, 0.0);
    for epoch in in_order(arms, epochs)? {
        let (control, treated) = (epoch.arms[0], epoch.arms[arm]);
        let conversions = (control.s + treated.s) as f64;
        if conversions == 0.0 {
            continue;
        }
        let odds = treated.n as f64 * (1.0 - margin);
        let share = odds / (odds + control.n as f64);
        score += conversions * share - treated.s as f64;
        information += conversions * share * (1.0 - share);
    }
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
