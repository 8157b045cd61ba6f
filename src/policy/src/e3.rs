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
//! trend, time of day, or conversions still to come, cancels.
//!
//! What is not a Poisson count has the same score with another variance, a *quasi-likelihood* (McCullagh & Nelder 1989,
//! ch. 9): sums of any numbers take the place of conversions, denominators that of units, and Var(x_ke) = φ_k·E(x_ke).
//! The dispersion φ is what units were seen to vary by within their own cells, pooled over arms and epochs, so that a
//! tiny foothold without a conversion claims no certainty; ℓ is divided by it. What an arm's own dispersion φ_k differs
//! by enters through the sandwich (White 1982; with the prior as a datum of its own variance):
//!
//! - B = Σ_e A_e·diag(μ_ke·φ_k/φ²)·A_eᵀ, A_e = I − π_e·1ᵀ, μ_ke = s_·e·π_ke
//! - covariance = H⁻¹·(B + I/τ²)·H⁻¹, which is H⁻¹ again where all φ_k are φ
//!
//! For conversions φ is 1 − p. Without it ([`Measure::Poisson`]) the variance is 1/(1−p) too large.

use serde::{Deserialize, Serialize};

use crate::tallies::{Spread, in_order};
use crate::{Better, EpochTally, Measure, PolicyError, dense};

/// Newton steps longer than this, in any coordinate, are shortened to it.
const STEP_MAX: f64 = 0.5;
/// Settled when the squared length of the step, in standard deviations of the posterior (the Newton decrement gᵀH⁻¹g), is
/// below this; the step is still taken, and squares what is left.
const SETTLED: f64 = 1e-14;
/// Settled as well when ℓ no longer rises and the decrement is below this: where data say next to nothing in some
/// direction, rounding keeps the step from getting shorter.
const SETTLED_BY_ROUNDING: f64 = 1e-9;
/// A step is not shortened below this.
const STEP_MIN: f64 = 1e-10;
const ITERATIONS_MAX: usize = 400;
/// Precision that stands in for "no prior": so small that an arm with data does not feel it, large enough that one
/// without conversions stays finite.
const FLAT_PRECISION: f64 = 1e-6;
/// How many units' worth of the pooled dispersion an arm's own is shrunk with.
const DISPERSION_UNITS: f64 = 100.0;

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
    /// The same as benefits: lifts turned round where less is better.
    #[must_use]
    pub fn benefit(mut self, better: Better) -> Self {
        if better == Better::Less {
            self.mean.iter_mut().for_each(|mean| *mean = -*mean);
        }
        self
    }

    /// Standard deviation of an arm's log-lift; control's is 0.
    #[must_use]
    pub fn sd(&self, arm: usize) -> f64 {
        self.covariance[arm][arm].sqrt()
    }
}

/// Estimates E3 over and over, keeping its buffers.
#[derive(Debug, Default)]
pub struct Estimator {
    /// Records, one row per informative epoch, control first.
    n: Vec<f64>,
    /// Conversions per informative epoch.
    epoch_s: Vec<f64>,
    /// Conversions per treated arm.
    arm_s: Vec<f64>,
    /// φ_k/φ, control first.
    dispersion: Vec<f64>,
    odds: Vec<f64>,
    share: Vec<f64>,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
    b: Vec<f64>,
    step: Vec<f64>,
}

/// [`Estimator::fit`] for those who estimate once.
pub fn estimate(measure: Measure, arms: usize, epochs: &[EpochTally], prior: Prior) -> Result<Posterior, PolicyError> {
    Estimator::default().fit(measure, arms, epochs, prior)
}

impl Estimator {
    /// The posterior of the log-lifts of `arms` arms, control included.
    pub fn fit(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, PolicyError> {
        if !(2..=crate::MAX_ARMS).contains(&arms) {
            return Err(PolicyError::ArmCount { expected: arms.clamp(2, crate::MAX_ARMS), found: arms });
        }
        let precision = match prior {
            Prior::Normal(tau) if tau > 0.0 && tau.is_finite() => 1.0 / (tau * tau),
            Prior::Normal(_) => return Err(PolicyError::Setting { name: "tau" }),
            Prior::Flat => FLAT_PRECISION,
        };
        self.load(measure, arms, epochs)?;
        self.climb(arms, precision)?;
        self.posterior(measure, arms, precision)
    }

    /// Each arm against control alone, as if there were no others; covariances between arms are left 0. What people are
    /// shown: an arm whose lift changes over time then spoils no other arm's estimate, as it does where the baseline is
    /// estimated from all arms together.
    pub fn fit_each(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, PolicyError> {
        let mut each = Posterior { mean: vec![0.0; arms], covariance: vec![vec![0.0; arms]; arms] };
        for arm in 1..arms {
            self.fit_one(measure, arms, epochs, prior, arm, &mut each)?;
        }
        Ok(each)
    }

    /// The same for one arm; nothing is said of the others.
    pub(crate) fn fit_only(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
        arm: usize,
    ) -> Result<Posterior, PolicyError> {
        let mut only = Posterior { mean: vec![0.0; arms], covariance: vec![vec![0.0; arms]; arms] };
        self.fit_one(measure, arms, epochs, prior, arm, &mut only)?;
        Ok(only)
    }

    fn fit_one(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
        arm: usize,
        each: &mut Posterior,
    ) -> Result<(), PolicyError> {
        let ordered = in_order(arms, epochs)?;
        let pair = |epoch: &&EpochTally| EpochTally {
            epoch: epoch.epoch,
            arms: vec![epoch.arms[0], epoch.arms[arm]],
            shares: Vec::new(),
        };
        let pairs: Vec<EpochTally> = ordered.iter().map(pair).collect();
        let posterior = self.fit(measure, 2, &pairs, prior)?;
        each.mean[arm] = posterior.mean[1];
        each.covariance[arm][arm] = posterior.covariance[1][1];
        Ok(())
    }

    /// Sums are divided by φ on the way in: that is all that a quasi-likelihood differs by.
    fn load(&mut self, measure: Measure, arms: usize, epochs: &[EpochTally]) -> Result<(), PolicyError> {
        self.n.clear();
        self.epoch_s.clear();
        self.arm_s.clear();
        self.arm_s.resize(arms - 1, 0.0);
        let ordered = in_order(arms, epochs)?;
        let dispersion = self.disperse(measure, arms, &ordered);
        for epoch in ordered {
            let cells = epoch.arms.iter().map(|arm| measure.cell(arm));
            let total: f64 = cells.clone().map(|cell| cell.sum).sum();
            // An epoch without conversions carries no information about who converts better.
            if total <= 0.0 {
                continue;
            }
            self.epoch_s.push(total / dispersion);
            self.n.extend(cells.clone().map(|cell| cell.size));
            for (sum, cell) in self.arm_s.iter_mut().zip(cells.skip(1)) {
                *sum += cell.sum / dispersion;
            }
        }
        Ok(())
    }

    /// The pooled dispersion φ; leaves φ_k/φ in `dispersion`.
    fn disperse(&mut self, measure: Measure, arms: usize, epochs: &[&EpochTally]) -> f64 {
        self.dispersion.clear();
        self.dispersion.resize(arms, 1.0);
        if measure == Measure::Poisson {
            return 1.0;
        }
        let mut own = vec![Spread::default(); arms];
        for epoch in epochs {
            for (spread, tally) in own.iter_mut().zip(&epoch.arms) {
                spread.see(&measure.cell(tally));
            }
        }
        let mut all = Spread::default();
        own.iter().for_each(|spread| all.add(spread));
        let Some(pooled) = all.dispersion(measure) else { return 1.0 };
        let prior = all.of_units(DISPERSION_UNITS);
        for (ratio, spread) in self.dispersion.iter_mut().zip(&mut own) {
            spread.add(&prior);
            *ratio = spread.dispersion(measure).unwrap_or(pooled) / pooled;
        }
        pooled
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
        let mut stuck = false;
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
            let decrement: f64 = self.gradient.iter().zip(&self.step).map(|(g, step)| g * step).sum();
            let settled = decrement < SETTLED || (stuck && decrement < SETTLED_BY_ROUNDING);
            if longest > STEP_MAX {
                // The whole step, not each coordinate, so that the direction still climbs.
                self.step.iter_mut().for_each(|step| *step *= STEP_MAX / longest);
                longest = STEP_MAX;
            }
            self.advance(1.0);
            let mut height = self.differentiate(arms, precision);
            // Rounding hides differences below one part in 1e12 of ℓ: those are not overshoot.
            while height < reached - 1e-12 * reached.abs() && longest > STEP_MIN {
                self.step.iter_mut().for_each(|step| *step *= 0.5);
                longest *= 0.5;
                self.advance(-1.0);
                height = self.differentiate(arms, precision);
            }
            stuck = height <= reached + 1e-12 * reached.abs();
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

    /// MVN(b̂, covariance), with control's zero row put back. `hessian` is fresh: the last step was followed by
    /// `differentiate`.
    fn posterior(&mut self, measure: Measure, arms: usize, precision: f64) -> Result<Posterior, PolicyError> {
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
        let even = self.dispersion.iter().all(|dispersion| (dispersion - 1.0).abs() < 1e-12);
        if measure != Measure::Poisson && !even {
            let meat = self.meat(arms, precision);
            covariance = dense::sandwich(&covariance, &meat);
        }
        let mut mean = Vec::with_capacity(arms);
        mean.push(0.0);
        mean.extend_from_slice(&self.b);
        Ok(Posterior { mean, covariance })
    }

    /// B + I/τ², with control's row and column left 0.
    fn meat(&self, arms: usize, precision: f64) -> Vec<Vec<f64>> {
        let mut meat = vec![vec![0.0; arms]; arms];
        let mut share = vec![0.0; arms];
        for (n, &s) in self.n.chunks_exact(arms).zip(&self.epoch_s) {
            let total: f64 = n.iter().zip(&self.odds).map(|(n, odds)| n * odds).sum();
            let mut mixed = 0.0;
            for k in 0..arms {
                share[k] = n[k] * self.odds[k] / total;
                mixed += share[k] * self.dispersion[k];
            }
            // (I − π1ᵀ)·diag(v)·(I − π1ᵀ)ᵀ written out, with v = s·π·φ_k/φ and 1ᵀv = s·mixed.
            for i in 1..arms {
                for j in 1..=i {
                    let cross = mixed - self.dispersion[i] - self.dispersion[j];
                    meat[i][j] += s * share[i] * share[j] * cross;
                }
                meat[i][i] += s * share[i] * self.dispersion[i];
            }
        }
        for (i, row) in meat.iter_mut().enumerate().skip(1) {
            row[i] += precision;
        }
        // The lower triangle is the upper one's mirror.
        (0..arms).map(|i| (0..arms).map(|j| meat[i.max(j)][i.min(j)]).collect()).collect()
    }
}
