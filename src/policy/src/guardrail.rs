//! What stops an arm that does harm, however often one looks. Kill decisions are made at every tick, so they need
//! evidence that holds at any stopping time; a credible interval does not (coverage falls to about 89% under kills).
//! It knows counts; which metrics are guardrails, and what a kill does, is others' business.

use serde::{Deserialize, Serialize};

use crate::normal::log_normal_cdf;
use crate::tallies::{Spread, in_order};
use crate::{Better, EpochTally, Measure, PolicyError};

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

/// What is asked: has an arm done harm to a metric?
#[derive(Debug, Clone, Copy)]
pub struct GuardrailQuestion<'a> {
    /// The metric's tallies.
    pub epochs: &'a [EpochTally],
    /// How it is measured.
    pub measure: Measure,
    /// Which way is better: harm is the other way.
    pub better: Better,
    /// How many arms there are, control included.
    pub arms: usize,
    /// How much worse than control is borne, relative, 0..1.
    pub margin: f64,
    /// How many guardrails the experiment has.
    pub guardrails: usize,
    /// Family-wise error, 0..1: 0.05.
    pub alpha: f64,
}

/// Evidence that `arm` (1..) is worse than (1 − margin) times control, or, where less is better, than (1 + margin) times.
///
/// One-sided normal-mixture e-process (Howard, Ramdas, McAuliffe & Sekhon, *Time-uniform, nonparametric, nonasymptotic
/// confidence sequences*, Annals of Statistics 2021): log M = ½·ln(4ρ/(V+ρ)) + S²/2(V+ρ) + ln Φ(S/√(V+ρ)), ρ = 12.
/// S and V are the score and the information of the arm against control *at the margin*, given each epoch's conversions
/// of the two (for other measures: sums over the dispersion, see the module `e3`). To first order S is
/// −(b̂ − ln(1−m))·V; the score stays sound where b̂ is infinite: an arm that converts nobody is the clearest harm there is.
pub fn guardrail(question: &GuardrailQuestion<'_>, arm: usize) -> Result<GuardrailEvidence, PolicyError> {
    let GuardrailQuestion { epochs, measure, better, arms, margin, guardrails, alpha } = *question;
    if arm == 0 || arm >= arms {
        return Err(PolicyError::ArmCount { expected: arms, found: arm });
    }
    if !(0.0..1.0).contains(&margin) {
        return Err(PolicyError::Setting { name: "margin" });
    }
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(PolicyError::Setting { name: "alpha" });
    }
    let cells: Vec<_> =
        in_order(arms, epochs)?.iter().map(|e| [measure.cell(&e.arms[0]), measure.cell(&e.arms[arm])]).collect();
    let mut spread = Spread::default();
    cells.iter().flatten().for_each(|cell| spread.see(cell));
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
