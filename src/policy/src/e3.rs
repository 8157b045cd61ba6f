//! E3, the default estimate: how much better than control each arm is, from comparisons within the same epoch only.
//!
//! Every unit counts once, in the epoch of its first exposure. The counts form a table of epochs by arms. One
//! log-linear model explains the table: each epoch e has a free baseline a_e, and each arm k has one log-lift b_k in
//! all epochs. An epoch with n_ek units of arm k expects this many conversions:
//!
//! ```text
//!             control, b_0 = 0     arm 1                    arm 2
//!   epoch 1   n_10·exp(a_1)        n_11·exp(a_1 + b_1)      n_12·exp(a_1 + b_2)
//!   epoch 2   n_20·exp(a_2)        n_21·exp(a_2 + b_1)      n_22·exp(a_2 + b_2)
//!   …
//!                │                    │                        │
//!                └── only ratios within a row matter: a_e cancels
//! ```
//!
//! - **Why within an epoch:** a change of the baseline (trend, time of day, conversions still to come) multiplies a
//!   whole row and cancels. So shares that change over time cannot bias the lifts, as they bias rates pooled over time.
//! - **Prior:** b_k ~ N(0, τ²), usually τ = 0.25: most lifts are within ±25% or so. [`Prior::Flat`] leaves it out.
//! - **Posterior:** normal around the most likely lifts, MVN(b̂, C). [`Posterior`] contains b̂ and C; control's
//!   entries are 0.
//! - **Other numbers:** revenue, counts and ratios use the same model with sums in place of conversions and with a
//!   variance that is measured from the units.
//!
//! - **Metrics that can be negative:** arms are compared by absolute differences, with the same baselines per epoch;
//!   see `differences`.
//!
//! The formulas are in the documentation of [`Estimator`]. `tests/oracle/glm.py` fits the whole regression instead,
//! with every a_e as a parameter, and the tests compare the two.

mod differences;

use serde::{Deserialize, Serialize};

use crate::cholesky;
use crate::error::PolicyError;
use crate::tallies::{BetterDirection, EpochTally, MAX_ARMS, Measure, Spread, checked_in_order};

/// Longest Newton step in any coordinate; longer steps are shortened to it.
const STEP_MAX: f64 = 0.5;
/// Newton's method has converged when the squared length of the step, in standard deviations of the posterior (the
/// Newton decrement gᵀH⁻¹g), is below this. The last step is still taken, which squares the remaining error.
const CONVERGED: f64 = 1e-14;
/// It has also converged when ℓ no longer rises and the decrement is below this: where the data carry almost no
/// information in some direction, rounding keeps the step from getting shorter.
const CONVERGED_BY_ROUNDING: f64 = 1e-9;
/// Halving stops when the step is shorter than this.
const STEP_MIN: f64 = 1e-10;
const ITERATIONS_MAX: usize = 400;
/// Precision that replaces "no prior": small enough not to affect an arm with data, large enough to keep an arm without
/// conversions finite.
const FLAT_PRECISION: f64 = 1e-6;
/// Weight of the pooled dispersion, in units, when the dispersion of one arm is estimated.
const DISPERSION_UNITS: f64 = 100.0;

/// The prior distribution of a log-lift.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prior {
    /// b_k ~ N(0, τ²). The value is τ, on the log scale, above 0.
    Normal(f64),
    /// No prior, for intervals that must not depend on one. Arms without information get a huge variance.
    Flat,
}

/// The lift distribution: log-lifts over control, jointly normal. For a metric that can be negative: differences.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Posterior {
    /// Means b̂, one per arm; control's is 0.
    pub mean: Vec<f64>,
    /// Covariance H⁻¹, or the sandwich; one row per arm. Control's row and column are 0.
    pub covariance: Vec<Vec<f64>>,
    /// None for log-lifts. Otherwise `mean` and `covariance` are of absolute differences from control in multiples of
    /// this, which is above 0 and in the metric's own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<f64>,
}

impl Posterior {
    /// The same as benefits: lifts with their sign changed if lower values are better.
    #[must_use]
    pub fn into_benefit(mut self, better: BetterDirection) -> Self {
        if better == BetterDirection::Lower {
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

/// Estimates E3. It keeps its buffers between calls, because a tick estimates many experiments.
///
/// Conversions are Poisson given the records: s_ke ~ Poisson(n_ke·exp(a_e + b_k)), with control's b_0 = 0. Given the
/// epoch's total s_·e, the baseline a_e drops out and a multinomial likelihood remains (the classical equivalence of
/// conditional Poisson and a Poisson GLM with a free effect per epoch: McCullagh & Nelder, *Generalized Linear Models*,
/// 1989, §6.4). With π_ke = n_ke·e^{b_k} / Σ_j n_je·e^{b_j} and the prior b_k ~ N(0, τ²):
///
/// - ℓ(b) = Σ_e [Σ_k s_ke·b_k − s_·e·log Σ_k n_ke·e^{b_k}] − Σ_k b_k²/2τ²
/// - g_k = Σ_e (s_ke − s_·e·π_ke) − b_k/τ²
/// - H = Σ_e s_·e·(diag π_e − π_e·π_eᵀ) + I/τ²
///
/// The posterior is taken as normal: MVN(b̂, H⁻¹).
///
/// Numbers that are not Poisson counts have the same score with another variance, a *quasi-likelihood* (McCullagh &
/// Nelder 1989, ch. 9): sums of the units' numbers replace conversions, denominators replace units, and Var(x_ke) =
/// φ_k·E(x_ke). The dispersion φ is measured from the variation of units within their cells, pooled over arms and
/// epochs, so that a tiny initial share without a conversion does not look certain; ℓ is divided by φ. The difference
/// between an arm's dispersion φ_k and φ enters through the sandwich (White 1982; the prior counts as a datum with its
/// own variance):
///
/// - B = Σ_e A_e·diag(μ_ke·φ_k/φ²)·A_eᵀ, A_e = I − π_e·1ᵀ, μ_ke = s_·e·π_ke
/// - covariance = H⁻¹·(B + I/τ²)·H⁻¹, which equals H⁻¹ if all φ_k are φ
///
/// For conversions φ is 1 − p. Without φ ([`Measure::Poisson`]) the variance is too large by a factor of 1/(1−p).
#[derive(Debug, Default)]
pub struct Estimator {
    /// Units (for ratios, denominators) by arm, one row per epoch with conversions, control first.
    n: Vec<f64>,
    /// Conversions per epoch with conversions.
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

/// [`Estimator::fit`] for a single estimate.
pub fn estimate(measure: Measure, arms: usize, epochs: &[EpochTally], prior: Prior) -> Result<Posterior, PolicyError> {
    Estimator::default().fit(measure, arms, epochs, prior)
}

impl Estimator {
    /// The posterior of the log-lifts of `arms` arms (2..=[`MAX_ARMS`]), control included. Fails for impossible tallies
    /// and for a prior whose τ is not above 0.
    pub fn fit(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, PolicyError> {
        if !(2..=MAX_ARMS).contains(&arms) {
            return Err(PolicyError::ArmCount { expected: arms.clamp(2, MAX_ARMS), found: arms });
        }
        let precision = match prior {
            Prior::Normal(tau) if tau > 0.0 && tau.is_finite() => 1.0 / (tau * tau),
            Prior::Normal(_) => return Err(PolicyError::Setting { name: "tau" }),
            Prior::Flat => FLAT_PRECISION,
        };
        if measure.is_difference() {
            return self.fit_differences(measure, arms, epochs, precision);
        }
        self.load(measure, arms, epochs)?;
        self.maximise(arms, precision)?;
        self.posterior(measure, arms, precision)
    }

    /// Each arm against control alone, as if there were no other arms; covariances between arms are 0. These are the
    /// estimates that people see: an arm whose lift changes over time then does not affect the estimates of other arms,
    /// as it would if the baseline were estimated from all arms together.
    pub fn fit_each_against_control(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, PolicyError> {
        let mut each = Posterior { mean: vec![0.0; arms], covariance: vec![vec![0.0; arms]; arms], unit: None };
        for arm in 1..arms {
            self.fit_pair(measure, arms, epochs, prior, arm, &mut each)?;
        }
        Ok(each)
    }

    /// The same for one arm; the other arms' entries stay 0.
    pub(crate) fn fit_one_against_control(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
        arm: usize,
    ) -> Result<Posterior, PolicyError> {
        let mut only = Posterior { mean: vec![0.0; arms], covariance: vec![vec![0.0; arms]; arms], unit: None };
        self.fit_pair(measure, arms, epochs, prior, arm, &mut only)?;
        Ok(only)
    }

    fn fit_pair(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
        arm: usize,
        each: &mut Posterior,
    ) -> Result<(), PolicyError> {
        let ordered = checked_in_order(arms, epochs)?;
        let pairs: Vec<EpochTally> = ordered.iter().map(|epoch| epoch.pair_with_control(arm)).collect();
        let posterior = self.fit(measure, 2, &pairs, prior)?;
        // Differences of all arms get the unit of the first one.
        let factor = posterior.unit.map_or(1.0, |unit| unit / *each.unit.get_or_insert(unit));
        each.mean[arm] = factor * posterior.mean[1];
        each.covariance[arm][arm] = factor * factor * posterior.covariance[1][1];
        Ok(())
    }

    /// Fills the buffers. Sums are divided by φ, which is the only difference of a quasi-likelihood.
    fn load(&mut self, measure: Measure, arms: usize, epochs: &[EpochTally]) -> Result<(), PolicyError> {
        self.n.clear();
        self.epoch_s.clear();
        self.arm_s.clear();
        self.arm_s.resize(arms - 1, 0.0);
        let ordered = checked_in_order(arms, epochs)?;
        let dispersion = self.measure_dispersion(measure, arms, &ordered);
        for epoch in ordered {
            let cells = epoch.arms.iter().map(|arm| measure.cell(arm));
            let total: f64 = cells.clone().map(|cell| cell.sum).sum();
            // An epoch without conversions carries no information about the lifts.
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

    /// Returns the pooled dispersion φ and stores φ_k/φ in `dispersion`.
    fn measure_dispersion(&mut self, measure: Measure, arms: usize, epochs: &[&EpochTally]) -> f64 {
        self.dispersion.clear();
        self.dispersion.resize(arms, 1.0);
        if measure == Measure::Poisson {
            return 1.0;
        }
        let mut own = vec![Spread::default(); arms];
        for epoch in epochs {
            for (spread, tally) in own.iter_mut().zip(&epoch.arms) {
                spread.add_cell(&measure.cell(tally));
            }
        }
        let mut all = Spread::default();
        own.iter().for_each(|spread| all.add(spread));
        let Some(pooled) = all.dispersion(measure) else { return 1.0 };
        let prior = all.scaled_to(DISPERSION_UNITS);
        for (ratio, spread) in self.dispersion.iter_mut().zip(&mut own) {
            spread.add(&prior);
            *ratio = spread.dispersion(measure).unwrap_or(pooled) / pooled;
        }
        pooled
    }

    /// Maximises ℓ by Newton's method. ℓ is concave, so shortening each step that overshoots guarantees convergence.
    fn maximise(&mut self, arms: usize, precision: f64) -> Result<(), PolicyError> {
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
            if !cholesky::factor(&mut self.hessian, treated) {
                return Err(PolicyError::NotPositiveDefinite);
            }
            self.step.copy_from_slice(&self.gradient);
            cholesky::solve(&self.hessian, treated, &mut self.step);
            let mut longest = self.step.iter().fold(0.0_f64, |max, step| max.max(step.abs()));
            if !longest.is_finite() {
                return Err(PolicyError::DidNotConverge);
            }
            let decrement: f64 = self.gradient.iter().zip(&self.step).map(|(g, step)| g * step).sum();
            let converged = decrement < CONVERGED || (stuck && decrement < CONVERGED_BY_ROUNDING);
            if longest > STEP_MAX {
                // The whole step is scaled, so that its direction still increases ℓ.
                self.step.iter_mut().for_each(|step| *step *= STEP_MAX / longest);
                longest = STEP_MAX;
            }
            self.advance(1.0);
            let mut height = self.differentiate(arms, precision);
            // Differences below one part in 1e12 of ℓ are rounding, not overshoot.
            while height < reached - 1e-12 * reached.abs() && longest > STEP_MIN {
                self.step.iter_mut().for_each(|step| *step *= 0.5);
                longest *= 0.5;
                self.advance(-1.0);
                height = self.differentiate(arms, precision);
            }
            stuck = height <= reached + 1e-12 * reached.abs();
            reached = height;
            if converged {
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

    /// Computes gradient and negative Hessian (lower triangle) at `b` and returns ℓ.
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

    /// MVN(b̂, covariance) with control's zero row added. `hessian` is up to date, because `differentiate` follows the
    /// last step.
    fn posterior(&mut self, measure: Measure, arms: usize, precision: f64) -> Result<Posterior, PolicyError> {
        let treated = arms - 1;
        if !cholesky::factor(&mut self.hessian, treated) {
            return Err(PolicyError::NotPositiveDefinite);
        }
        cholesky::invert_factor(&mut self.hessian, treated);
        let inverse = &self.hessian;
        let mut covariance = vec![vec![0.0; arms]; arms];
        for i in 0..treated {
            for j in 0..=i {
                let value: f64 = (i..treated).map(|k| inverse[k * treated + i] * inverse[k * treated + j]).sum();
                covariance[i + 1][j + 1] = value;
                covariance[j + 1][i + 1] = value;
            }
        }
        let equal = self.dispersion.iter().all(|dispersion| (dispersion - 1.0).abs() < 1e-12);
        if measure != Measure::Poisson && !equal {
            let meat = self.meat(arms, precision);
            covariance = cholesky::sandwich(&covariance, &meat);
        }
        let mut mean = Vec::with_capacity(arms);
        mean.push(0.0);
        mean.extend_from_slice(&self.b);
        Ok(Posterior { mean, covariance, unit: None })
    }

    /// B + I/τ², the middle of the sandwich. Control's row and column are 0.
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
            // (I − π1ᵀ)·diag(v)·(I − π1ᵀ)ᵀ in full, with v = s·π·φ_k/φ and 1ᵀv = s·mixed.
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
        // Copy the lower triangle to the upper one.
        (0..arms).map(|i| (0..arms).map(|j| meat[i.max(j)][i.min(j)]).collect()).collect()
    }
}
