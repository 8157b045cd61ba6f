//! Top-two Thompson sampling: draw, and with probability 1 − β draw again until another arm is the best.
//!
//! When one arm is almost certainly the best, this would take millions of draws. So after some redraws the result is
//! drawn from its computed distribution: arm j with probability P(j best) ÷ Σ P(i best) over all arms except the first.
//! Redraws are independent, so the distribution is the same. P(j best) = ∫ fⱼ(x) Π Fᵢ(x) dx over i ≠ j is computed as a
//! sum with equal steps of a quarter of the smallest standard deviation of all posteriors; over a step, each Fᵢ is
//! integrated by the two-point Hermite rule of order six. A test compares it with the closed form for two arms: the
//! relative error is below 10⁻⁴.

use rand::{Rng, RngExt};

use super::posterior::Arm;
use super::thompson;

/// Number of redraws before the distribution is computed. They cost about as much.
const REDRAWS: u32 = 64;
/// Integration steps per standard deviation of the narrowest posterior.
const STEPS: f64 = 4.0;
/// The integral is evaluated from this x to 1 minus it, because x and 1 − x are divisors.
const X_MIN: f64 = 1e-9;
/// A density with a smaller logarithm counts as 0.
const LOG_DENSITY_MIN: f64 = -600.0;

/// The density of one arm and its first two derivatives at a step, and its distribution function up to there.
#[derive(Debug, Clone, Copy, Default)]
struct DensityAtStep {
    density: [f64; 3],
    cumulative: f64,
}

/// Chooses arms. It keeps the buffers of the computation.
#[derive(Debug, Default)]
pub(super) struct TopTwoSampler {
    /// P(best) of each arm, up to a common factor.
    weights: Vec<f64>,
    curves: Vec<DensityAtStep>,
    /// For each arm: the exponents of x and 1 − x, and the logarithm of the normalising constant.
    densities: Vec<(f64, f64, f64)>,
}

impl TopTwoSampler {
    /// The arm to pull.
    pub(super) fn choose<R: Rng>(&mut self, arms: &mut [Arm], beta: f64, rng: &mut R) -> usize {
        let first = thompson::arm_with_largest_draw(arms, rng);
        if rng.random::<f64>() < beta {
            return first;
        }
        if arms.len() == 2 {
            return 1 - first;
        }
        for _ in 0..REDRAWS {
            let other = thompson::arm_with_largest_draw(arms, rng);
            if other != first {
                return other;
            }
        }
        let total = self.compute_weights(arms, first);
        let mut left = rng.random::<f64>() * total;
        let mut last = first;
        for (arm, weight) in self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            last = arm;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// Computes P(best) of every arm except `first`, which gets 0, up to a common factor. Returns their sum.
    pub(super) fn compute_weights(&mut self, arms: &[Arm], first: usize) -> f64 {
        self.densities.clear();
        self.densities.extend(arms.iter().map(|arm| {
            let (p, q) = arm.exponents();
            (p, q, arm.log_beta())
        }));
        self.integrate(arms);
        self.weights[first] = 0.0;
        let total: f64 = self.weights.iter().sum();
        if total > 0.0 { total } else { self.approximate_weights(first) }
    }

    /// Integrates P(best) of every arm.
    fn integrate(&mut self, arms: &[Arm]) {
        let narrowest = arms.iter().map(Arm::standard_deviation).fold(1.0, f64::min);
        let steps = (STEPS / narrowest).ceil() as u32;
        let h = 1.0 / f64::from(steps);
        self.weights.clear();
        self.weights.resize(arms.len(), 0.0);
        self.curves.clear();
        self.curves.resize(arms.len(), DensityAtStep::default());
        for step in 0..=steps {
            let x = (f64::from(step) * h).clamp(X_MIN, 1.0 - X_MIN);
            let (log_x, log_rest) = (x.ln(), (1.0 - x).ln());
            for (curve, (p, q, log_beta)) in self.curves.iter_mut().zip(&self.densities) {
                let log = p * log_x + q * log_rest - log_beta;
                let mut density = [0.0; 3];
                if log > LOG_DENSITY_MIN {
                    let (left, right) = (p / x, q / (1.0 - x));
                    let f = log.exp();
                    let g = left - right;
                    density = [f, f * g, f * (g * g - left / x - right / (1.0 - x))];
                }
                if step > 0 {
                    let previous = curve.density;
                    let increase = h / 2.0 * (previous[0] + density[0])
                        + h * h / 10.0 * (previous[1] - density[1])
                        + h * h * h / 120.0 * (previous[2] + density[2]);
                    // In the far tail the rule may give a result slightly below 0.
                    curve.cumulative += increase.max(0.0);
                }
                curve.density = density;
            }
            for (arm, weight) in self.weights.iter_mut().enumerate() {
                let mut product = self.curves[arm].density[0];
                if product > 0.0 {
                    for (other, curve) in self.curves.iter().enumerate() {
                        product *= if other == arm { 1.0 } else { curve.cumulative };
                    }
                    *weight += product * h;
                }
            }
        }
    }

    /// The weights when all integrals underflow to 0: P(j above the first) is approximated by the maximum of the
    /// product of the two densities, at (pⱼ + p) ÷ (nⱼ + n). This is Laplace's method; the omitted factor does not grow
    /// with the number of pulls.
    fn approximate_weights(&mut self, first: usize) -> f64 {
        let (p, q, log_beta) = self.densities[first];
        let log_maximum = |&(other_p, other_q, other_log_beta): &(f64, f64, f64)| {
            let (p, q) = (p + other_p, q + other_q);
            let x = (p / (p + q)).clamp(X_MIN, 1.0 - X_MIN);
            p * x.ln() + q * (1.0 - x).ln() - log_beta - other_log_beta
        };
        self.weights.clear();
        self.weights.extend(self.densities.iter().map(log_maximum));
        self.weights[first] = f64::NEG_INFINITY;
        let largest = self.weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for weight in &mut self.weights {
            *weight = (*weight - largest).exp();
        }
        self.weights.iter().sum()
    }
}
