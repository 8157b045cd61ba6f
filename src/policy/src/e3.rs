//! E3, the epoch-conditional log-lift: how much better than control each arm is, comparing arms within the same epoch
//! only. It knows counts, not what they count; it keeps its buffers between calls because a tick re-estimates many
//! experiments.
//!
//! Conversions are Poisson given the records, s_ke ~ Poisson(n_ke·exp(a_e + b_k)), with control's b_0 = 0. Conditioning
//! on the epoch's total s_·e removes the baseline a_e and leaves a multinomial likelihood (the classical equivalence of
//! conditional Poisson and a Poisson GLM with a free effect per epoch: McCullagh & Nelder, *Generalized Linear Models*,
//! 1989, §6.4). With π_ke = n_ke·e^{b_k} / Σ_j n_je·e^{b_j} and a prior b_k ~ N(0, τ²):
//!
//! - ℓ(b) = Σ_e [Σ_k s_ke·b_k − s_·e·log Σ_k n_ke·e^{b_k}] − Σ_k b_k²/2τ²
//! - g_k = Σ_e (s_ke − s_·e·π_ke) − b_k/τ²
//! - H = Σ_e s_·e·(diag π_e − π_e·π_eᵀ) + I/τ²
//!
//! The posterior is taken as normal: MVN(b̂, H⁻¹). Any multiplier of the baseline that arms share within an epoch, be it
//! trend, time of day, or conversions still to come, cancels. The Poisson variance overstates a binary one by
//! 1/(1−p); at conversion rates above about 20% that makes the estimate cautious.

use serde::{Deserialize, Serialize};

use crate::tallies::in_order;
use crate::{EpochTally, PolicyError, dense};

/// Newton steps longer than this, in any coordinate, are shortened to it.
const STEP_MAX: f64 = 0.5;
/// Settled when no coordinate moves further than this.
const STEP_SETTLED: f64 = 1e-10;
const ITERATIONS_MAX: usize = 400;
/// Precision that stands in for "no prior": so small that an arm with data does not feel it, large enough that one
/// without conversions stays finite.
const FLAT_PRECISION: f64 = 1e-9;

/// What is believed about a log-lift before data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prior {
    /// b_k ~ N(0, τ²): the value is τ, on the log scale, above 0.
    Normal(f64),
    /// None, for intervals that must not lean on one. Arms without information come out with a huge variance.
    Flat,
}

/// Log-lifts over control, jointly normal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Posterior {
    /// b̂, one per arm; control's is 0.
    pub mean: Vec<f64>,
    /// H⁻¹, one row per arm; control's row and column are 0.
    pub covariance: Vec<Vec<f64>>,
}

impl Posterior {
    /// Standard deviation of an arm's log-lift; control's is 0.
    #[must_use]
    pub fn sd(&self, arm: usize) -> f64 {
        self.covariance[arm][arm].sqrt()
    }
}

/// Estimates E3 over and over, without allocating anything but its answers.
#[derive(Debug, Default)]
pub struct Estimator {
    /// Records, one row per informative epoch, control first.
    n: Vec<f64>,
    /// Conversions per informative epoch.
    epoch_s: Vec<f64>,
    /// Conversions per treated arm.
    arm_s: Vec<f64>,
    odds: Vec<f64>,
    share: Vec<f64>,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
    b: Vec<f64>,
    step: Vec<f64>,
}

/// [`Estimator::fit`] for those who estimate once.
pub fn estimate(arms: usize, epochs: &[EpochTally], prior: Prior) -> Result<Posterior, PolicyError> {
    Estimator::default().fit(arms, epochs, prior)
}

impl Estimator {
    /// The posterior of the log-lifts of `arms` arms, control included.
    pub fn fit(&mut self, arms: usize, epochs: &[EpochTally], prior: Prior) -> Result<Posterior, PolicyError> {
        if !(2..=crate::MAX_ARMS).contains(&arms) {
            return Err(PolicyError::ArmCount { expected: arms.clamp(2, crate::MAX_ARMS), found: arms });
        }
        let precision = match prior {
            Prior::Normal(tau) if tau > 0.0 && tau.is_finite() => 1.0 / (tau * tau),
            Prior::Normal(_) => return Err(PolicyError::Setting { name: "tau" }),
            Prior::Flat => FLAT_PRECISION,
        };
        self.load(arms, epochs)?;
        self.climb(arms, precision)?;
        self.posterior(arms)
    }

    fn load(&mut self, arms: usize, epochs: &[EpochTally]) -> Result<(), PolicyError> {
        self.n.clear();
        self.epoch_s.clear();
        self.arm_s.clear();
        self.arm_s.resize(arms - 1, 0.0);
        for epoch in in_order(arms, epochs)? {
            let total: u64 = epoch.arms.iter().map(|arm| arm.s).sum();
            // An epoch without conversions carries no information about who converts better.
            if total == 0 {
                continue;
            }
            self.epoch_s.push(total as f64);
            self.n.extend(epoch.arms.iter().map(|arm| arm.n as f64));
            for (sum, arm) in self.arm_s.iter_mut().zip(&epoch.arms[1..]) {
                *sum += arm.s as f64;
            }
        }
        Ok(())
    }

    /// Newton's method. ℓ is concave, so a step that is shortened whenever it overshoots cannot fail to arrive.
    fn climb(&mut self, arms: usize, precision: f64) -> Result<(), PolicyError> {
        let treated = arms - 1;
        for buffer in [&mut self.b, &mut self.step, &mut self.gradient, &mut self.share] {
            buffer.clear();
            buffer.resize(treated, 0.0);
        }
        self.hessian.clear();
        self.hessian.resize(treated * treated, 0.0);
        let mut reached = self.differentiate(arms, precision);
        for _ in 0..ITERATIONS_MAX {
            if !dense::factor(&mut self.hessian, treated) {
                return Err(PolicyError::NotPositiveDefinite);
            }
            self.step.copy_from_slice(&self.gradient);
            dense::solve(&self.hessian, treated, &mut self.step);
            let mut longest = self.step.iter().fold(0.0_f64, |max, step| max.max(step.abs()));
            if !longest.is_finite() {
                return Err(PolicyError::DidNotConverge);
            }
            let settled = longest < STEP_SETTLED;
            if longest > STEP_MAX {
                // The whole step, not each coordinate, so that the direction still climbs.
                self.step.iter_mut().for_each(|step| *step *= STEP_MAX / longest);
                longest = STEP_MAX;
            }
            self.advance(1.0);
            let mut height = self.differentiate(arms, precision);
            // Rounding hides differences below one part in 1e12 of ℓ: those are not overshoot.
            while height < reached - 1e-12 * reached.abs() && longest > STEP_SETTLED {
                self.step.iter_mut().for_each(|step| *step *= 0.5);
                longest *= 0.5;
                self.advance(-1.0);
                height = self.differentiate(arms, precision);
            }
            reached = height;
            if settled {
                return Ok(());
            }
        }
        Err(PolicyError::DidNotConverge)
    }

    fn advance(&mut self, sign: f64) {
        for (b, step) in self.b.iter_mut().zip(&self.step) {
            *b += sign * step;
        }
    }

    /// Gradient and negative Hessian (lower triangle) at `b`; returns ℓ.
    fn differentiate(&mut self, arms: usize, precision: f64) -> f64 {
        let treated = arms - 1;
        self.odds.clear();
        self.odds.push(1.0);
        self.odds.extend(self.b.iter().map(|b| libm::exp(*b)));
        self.hessian.fill(0.0);
        let mut height = 0.0;
        for k in 0..treated {
            let b = self.b[k];
            self.gradient[k] = self.arm_s[k] - precision * b;
            self.hessian[k * treated + k] = precision;
            height += self.arm_s[k] * b - 0.5 * precision * b * b;
        }
        for (n, &s) in self.n.chunks_exact(arms).zip(&self.epoch_s) {
            let total: f64 = n.iter().zip(&self.odds).map(|(n, odds)| n * odds).sum();
            height -= s * libm::log(total);
            let inverse = 1.0 / total;
            for k in 0..treated {
                self.share[k] = n[k + 1] * self.odds[k + 1] * inverse;
            }
            for i in 0..treated {
                let expected = s * self.share[i];
                self.gradient[i] -= expected;
                let row = &mut self.hessian[i * treated..=i * treated + i];
                for (h, share) in row.iter_mut().zip(&self.share) {
                    *h -= expected * share;
                }
                row[i] += expected;
            }
        }
        height
    }

    /// MVN(b̂, H⁻¹), with control's zero row put back. `hessian` is fresh: the last step was followed by `differentiate`.
    fn posterior(&mut self, arms: usize) -> Result<Posterior, PolicyError> {
        let treated = arms - 1;
        if !dense::factor(&mut self.hessian, treated) {
            return Err(PolicyError::NotPositiveDefinite);
        }
        dense::invert_factor(&mut self.hessian, treated);
        let inverse = &self.hessian;
        let mut covariance = vec![vec![0.0; arms]; arms];
        for i in 0..treated {
            for j in 0..=i {
                let value: f64 = (i..treated).map(|k| inverse[k * treated + i] * inverse[k * treated + j]).sum();
                covariance[i + 1][j + 1] = value;
                covariance[j + 1][i + 1] = value;
            }
        }
        let mut mean = Vec::with_capacity(arms);
        mean.push(0.0);
        mean.extend_from_slice(&self.b);
        Ok(Posterior { mean, covariance })
    }
}
