//! Absolute differences from control, for metrics that can be negative (profit, refunds). A mean near or below 0 has no
//! relative lift, but a difference of means is always defined.
//!
//! The structure is that of E3: a free baseline per epoch and one effect per arm, but added instead of multiplied. With n
//! units (for ratios, denominators) and sums x per epoch e and arm k, N_e = Σ_k n_ke, π_ke = n_ke/N_e:
//!
//! - x_ke ~ N(n_ke·(a_e + u·d_k), n_ke·σ²), d_0 = 0: a Gaussian quasi-likelihood. σ² is the variance of a unit within its
//!   cell, pooled over all cells.
//! - The baseline that is most likely given d is the epoch's mean without the effects, so a_e cancels:
//!   g_k = (u/σ²)·Σ_e (x_ke − π_ke·Σ_j x_je), H = (u²/σ²)·Σ_e N_e·(diag π_e − π_e·π_eᵀ) + I/τ², d̂ = H⁻¹·g.
//! - The covariance is the sandwich of E3, with the variance of each arm in place of its dispersion.
//!
//! **The unit u** makes the prior, the kill and growth rules and the intervals mean the same as for lifts: differences are
//! multiples of u = √(m² + (σ/5)²), with the mean m of all units. Where the mean is far from 0, u is |m| and d is nearly
//! the relative lift. Where it is near 0, u is a fifth of a standard deviation, the ratio of mean to standard deviation
//! of a conversion rate of 4%. So d ~ N(0, τ²) with the same τ.

use super::{Estimator, Posterior};
use crate::cholesky;
use crate::error::PolicyError;
use crate::tallies::{EpochTally, Measure, MeasuredCell, checked_in_order};

/// The part of a standard deviation that replaces the mean where the mean is near 0.
const DEVIATION_SHARE: f64 = 0.2;
/// Units differ by at least this part of the mean, so that equal values do not claim certainty.
const VARIATION_MIN: f64 = 0.01;
/// Weight of the pooled variance, in units, when the variance of one arm is estimated.
const PRIOR_UNITS: f64 = 100.0;

/// The variance of units within their cells, summed over many cells.
#[derive(Debug, Clone, Copy, Default)]
struct Variation {
    /// Σ of the estimated variances of the cells' sums.
    variance: f64,
    size: f64,
    units: f64,
}

impl Variation {
    fn add(&mut self, cell: &MeasuredCell) {
        if let Some(variance) = cell.variance() {
            self.variance += variance;
            self.size += cell.size;
            self.units += cell.units;
        }
    }

    fn merge(&mut self, other: &Self, weight: f64) {
        self.variance += weight * other.variance;
        self.size += weight * other.size;
        self.units += weight * other.units;
    }

    /// The variance per unit of size; none without two units in any cell.
    fn per_size(&self) -> Option<f64> {
        (self.size > 0.0).then(|| self.variance / self.size)
    }
}

/// Which variance each arm has in the sandwich.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variances {
    /// Its own.
    OfEachArm,
    /// The larger one, for intervals that people see and for statements about a winner. Values that can be negative are
    /// often rare large ones less a small cost. An arm in which few of them were found then has a low mean and a small
    /// variance, both by the same chance, so its interval would be short just where it is wrong.
    Largest,
}

/// The scale of a metric.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// u, above 0.
    unit: f64,
    /// σ² per unit of size; none where the data show no scale.
    variance: Option<f64>,
}

impl Scale {
    fn measure(measure: Measure, epochs: &[&EpochTally]) -> Self {
        let (mut all, mut sum, mut size) = (Variation::default(), 0.0, 0.0);
        for cell in epochs.iter().flat_map(|epoch| &epoch.arms).map(|tally| measure.cell(tally)) {
            all.add(&cell);
            sum += cell.sum;
            size += cell.size;
        }
        let mean = if size > 0.0 { sum / size } else { 0.0 };
        let variance = all.per_size().map(|variance| variance.max(VARIATION_MIN * VARIATION_MIN * mean * mean));
        let unit = variance.map(|variance| (mean * mean + DEVIATION_SHARE * DEVIATION_SHARE * variance).sqrt());
        match unit {
            Some(unit) if unit > 0.0 && unit.is_finite() => Self { unit, variance },
            _ => Self { unit: 1.0, variance: None },
        }
    }
}

impl Estimator {
    /// The posterior of the differences, in multiples of [`Posterior::unit`]. The precision is that of the prior.
    pub(super) fn fit_differences(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        precision: f64,
    ) -> Result<Posterior, PolicyError> {
        self.fit_differences_with(measure, arms, epochs, precision, Variances::OfEachArm)
    }

    fn fit_differences_with(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        precision: f64,
        variances: Variances,
    ) -> Result<Posterior, PolicyError> {
        let ordered = checked_in_order(arms, epochs)?;
        let scale = Scale::measure(measure, &ordered);
        self.load_differences(measure, arms, &ordered, scale);
        if variances == Variances::Largest {
            let largest = self.dispersion.iter().copied().fold(0.0, f64::max);
            self.dispersion.fill(largest);
        }
        let treated = arms - 1;
        for buffer in [&mut self.b, &mut self.step, &mut self.gradient, &mut self.share] {
            buffer.clear();
            buffer.resize(treated, 0.0);
        }
        self.hessian.clear();
        self.hessian.resize(treated * treated, 0.0);
        // With all effects 0, gradient and Hessian of E3 are g and H. The likelihood is quadratic: one step is exact.
        self.differentiate(arms, precision);
        self.step.copy_from_slice(&self.gradient);
        if !cholesky::factor(&mut self.hessian, treated) {
            return Err(PolicyError::NotPositiveDefinite);
        }
        cholesky::solve(&self.hessian, treated, &mut self.step);
        self.differentiate(arms, precision);
        self.b.copy_from_slice(&self.step);
        let posterior = self.posterior(measure, arms, precision)?;
        Ok(Posterior { unit: Some(scale.unit), ..posterior })
    }

    /// One arm's difference from control alone, without prior; the other arms' entries stay 0. Works for every measure:
    /// this is what people see where a relative lift does not exist. Where values can be negative, both arms get the larger
    /// of their variances: see [`Variances::Largest`].
    pub(crate) fn fit_difference(
        &mut self,
        measure: Measure,
        arms: usize,
        epochs: &[EpochTally],
        arm: usize,
    ) -> Result<Posterior, PolicyError> {
        let pairs: Vec<EpochTally> =
            checked_in_order(arms, epochs)?.iter().map(|epoch| epoch.pair_with_control(arm)).collect();
        let pair = self.fit_difference_of_pair(measure, &pairs)?;
        let mut only = Posterior { mean: vec![0.0; arms], covariance: vec![vec![0.0; arms]; arms], unit: pair.unit };
        only.mean[arm] = pair.mean[1];
        only.covariance[arm][arm] = pair.covariance[1][1];
        Ok(only)
    }

    /// The same where `pairs` are the tallies of the arm and of another one, which comes first.
    pub(crate) fn fit_difference_of_pair(
        &mut self,
        measure: Measure,
        pairs: &[EpochTally],
    ) -> Result<Posterior, PolicyError> {
        let variances = if measure.is_difference() { Variances::Largest } else { Variances::OfEachArm };
        self.fit_differences_with(measure, 2, pairs, super::FLAT_PRECISION, variances)
    }

    /// Fills the buffers so that E3's score and information at 0 are those of the differences.
    fn load_differences(&mut self, measure: Measure, arms: usize, epochs: &[&EpochTally], scale: Scale) {
        self.n.clear();
        self.epoch_s.clear();
        self.arm_s.clear();
        self.arm_s.resize(arms - 1, 0.0);
        self.dispersion.clear();
        self.dispersion.resize(arms, 1.0);
        let Some(variance) = scale.variance else { return };
        let mut own = vec![Variation::default(); arms];
        for epoch in epochs {
            let cells: Vec<MeasuredCell> = epoch.arms.iter().map(|arm| measure.cell(arm)).collect();
            own.iter_mut().zip(&cells).for_each(|(own, cell)| own.add(cell));
            let size: f64 = cells.iter().map(|cell| cell.size).sum();
            if size <= 0.0 {
                continue;
            }
            let information = scale.unit * scale.unit / variance;
            self.epoch_s.push(information * size);
            self.n.extend(cells.iter().map(|cell| cell.size));
            let mean = cells.iter().map(|cell| cell.sum).sum::<f64>() / size;
            for (sum, cell) in self.arm_s.iter_mut().zip(cells.iter().skip(1)) {
                // E3's score subtracts the expectation, n at 0. What remains is the excess over the epoch's mean.
                *sum += information * (cell.size + (cell.sum - cell.size * mean) / scale.unit);
            }
        }
        let mut pooled = Variation::default();
        own.iter().for_each(|own| pooled.merge(own, 1.0));
        for (ratio, own) in self.dispersion.iter_mut().zip(&mut own) {
            own.merge(&pooled, PRIOR_UNITS / pooled.units.max(1.0));
            *ratio = own.per_size().map_or(1.0, |own| (own / variance).max(VARIATION_MIN * VARIATION_MIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e3::{Prior, estimate};
    use crate::tallies::{ArmTally, EpochKey, Moments};

    /// A cell of `n` units with this mean and standard deviation (with n − 1 in the denominator).
    fn cell(n: u64, mean: f64, sd: f64) -> ArmTally {
        let units = n as f64;
        let xx = (units - 1.0) * sd * sd + units * mean * mean;
        ArmTally { first: n, n, s: n, moments: Some(Moments { x: units * mean, xx, ..Moments::default() }), early: 0 }
    }

    fn epoch(tick: i64, arms: Vec<ArmTally>) -> EpochTally {
        EpochTally { epoch: EpochKey { tick, revision: 1 }, arms, shares: Vec::new() }
    }

    #[test]
    fn one_epoch_gives_the_difference_of_means_with_the_larger_variance_of_both_arms() {
        let epochs = [epoch(0, vec![cell(40_000, -2.0, 1.0), cell(10_000, -1.0, 3.0)])];
        let found = Estimator::default().fit_difference(Measure::MeanDifference, 2, &epochs, 1).unwrap();
        let unit = found.unit.unwrap();
        assert!((found.mean[1] * unit - 1.0).abs() < 1e-6, "{found:?}");
        // The pooled variance counts as a hundred units of the arm.
        let variance = |found: &Posterior| found.covariance[1][1] * found.unit.unwrap() * found.unit.unwrap();
        let shown = variance(&found);
        assert!((shown / (9.0 / 40_000.0 + 9.0 / 10_000.0) - 1.0).abs() < 0.02, "{shown}");
        // The policy decides with the variance of each arm (Welch).
        let welch = variance(&estimate(Measure::MeanDifference, 2, &epochs, Prior::Flat).unwrap());
        assert!((welch / (1.0 / 40_000.0 + 9.0 / 10_000.0) - 1.0).abs() < 0.02, "{welch}");
    }

    #[test]
    fn baselines_of_epochs_cancel_and_every_arm_may_be_the_larger_one() {
        let arms = |shift: f64, n: [u64; 3]| {
            vec![cell(n[0], shift, 2.0), cell(n[1], shift - 0.5, 2.0), cell(n[2], shift + 0.25, 2.0)]
        };
        let epochs = [epoch(0, arms(-7.0, [900, 50, 50])), epoch(1, arms(3.0, [300, 500, 200]))];
        let found = estimate(Measure::MeanDifference, 3, &epochs, Prior::Flat).unwrap();
        let unit = found.unit.unwrap();
        assert!((found.mean[1] * unit + 0.5).abs() < 1e-6 && (found.mean[2] * unit - 0.25).abs() < 1e-6, "{found:?}");
        // The prior pulls towards 0, and with it the two arms keep their correlation through control.
        let pulled = estimate(Measure::MeanDifference, 3, &epochs, Prior::Normal(0.25)).unwrap();
        assert!(pulled.mean[1] < 0.0 && pulled.mean[1] > found.mean[1], "{pulled:?}");
        assert!(pulled.covariance[1][2] > 0.0);
    }

    #[test]
    fn scale_of_the_values_changes_nothing_but_the_unit() {
        let scaled = |factor: f64| {
            let arms = vec![cell(500, -2.0 * factor, factor), cell(400, -factor, 2.0 * factor)];
            estimate(Measure::MeanDifference, 2, &[epoch(0, arms)], Prior::Normal(0.25)).unwrap()
        };
        let (cents, euros) = (scaled(100.0), scaled(1.0));
        assert!((cents.mean[1] - euros.mean[1]).abs() < 1e-9);
        assert!((cents.covariance[1][1] - euros.covariance[1][1]).abs() < 1e-9);
        assert!((cents.unit.unwrap() / euros.unit.unwrap() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn far_from_zero_the_difference_is_the_relative_lift() {
        let epochs = [epoch(0, vec![cell(50_000, 100.0, 5.0), cell(50_000, 101.0, 5.0)])];
        let difference = estimate(Measure::MeanDifference, 2, &epochs, Prior::Normal(0.25)).unwrap();
        let lift = estimate(Measure::Mean, 2, &epochs, Prior::Normal(0.25)).unwrap();
        assert!((difference.mean[1] - lift.mean[1]).abs() < 2e-4, "{difference:?} {lift:?}");
        assert!((difference.sd(1) / lift.sd(1) - 1.0).abs() < 0.02, "{difference:?} {lift:?}");
    }

    #[test]
    fn values_without_a_scale_give_no_information() {
        for arms in [vec![ArmTally::default(); 2], vec![cell(1, -4.0, 0.0), cell(1, 4.0, 0.0)]] {
            let found = estimate(Measure::MeanDifference, 2, &[epoch(0, arms)], Prior::Normal(0.25)).unwrap();
            assert_eq!((found.mean[1], found.unit), (0.0, Some(1.0)));
            assert!((found.sd(1) - 0.25).abs() < 1e-12);
        }
    }
}
