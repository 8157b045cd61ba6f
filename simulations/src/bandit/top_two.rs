//! Top-two Thompson sampling: draw, and with probability 1 − β draw again until another arm is the best.
//!
//! Once one arm is all but certain, that takes millions of draws. So after a few it is not drawn but computed whom they
//! would end with: arm j with probability P(j best) ÷ Σ P(i best) over all but the first. That the redraws so far have
//! failed says nothing of the next, hence the law is the same. P(j best) = ∫ fⱼ(x) Π Fᵢ(x) dx over i ≠ j is a sum on even
//! steps of a quarter of the narrowest posterior's standard deviation; each Fᵢ grows over a step by the two-point Hermite
//! rule of order six. The test against the closed form for two arms finds the relative error below 10⁻⁴.

use rand::{Rng, RngExt};

use super::posterior::Arm;
use super::thompson;

/// Redraws before it is computed: about as dear.
const REDRAWS: u32 = 64;
/// Steps in the narrowest posterior's standard deviation.
const STEPS: f64 = 4.0;
/// Where the ends of the line are looked at: x and 1 − x are divided by.
const EDGE: f64 = 1e-9;
/// Logarithm of a density below which it is 0.
const NOTHING: f64 = -600.0;

/// A density and its two derivatives at a step, and the distribution function up to it.
#[derive(Debug, Clone, Copy, Default)]
struct Curve {
    density: [f64; 3],
    below: f64,
}

/// Chooses arms, and keeps the room that computing takes.
#[derive(Debug, Default)]
pub(super) struct Challenge {
    /// P(best) of each arm, up to a factor.
    weights: Vec<f64>,
    curves: Vec<Curve>,
    /// Exponents of x and 1 − x, and the logarithm of what is divided by.
    forms: Vec<(f64, f64, f64)>,
}

impl Challenge {
    /// The arm to pull.
    pub(super) fn choose<R: Rng>(&mut self, arms: &mut [Arm], beta: f64, rng: &mut R) -> usize {
        let first = thompson::best(arms, rng);
        if rng.random::<f64>() < beta {
            return first;
        }
        if arms.len() == 2 {
            return 1 - first;
        }
        for _ in 0..REDRAWS {
            let other = thompson::best(arms, rng);
            if other != first {
                return other;
            }
        }
        let total = self.weigh(arms, first);
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

    /// P(best) of every arm but `first`, which has 0, up to a factor; their sum.
    pub(super) fn weigh(&mut self, arms: &[Arm], first: usize) -> f64 {
        self.forms.clear();
        self.forms.extend(arms.iter().map(|arm| {
            let (p, q) = arm.exponents();
            (p, q, arm.log_beta())
        }));
        self.integrate(arms);
        self.weights[first] = 0.0;
        let total: f64 = self.weights.iter().sum();
        if total > 0.0 { total } else { self.weigh_by_exponents(first) }
    }

    fn integrate(&mut self, arms: &[Arm]) {
        let narrowest = arms.iter().map(Arm::deviation).fold(1.0, f64::min);
        let steps = (STEPS / narrowest).ceil() as u32;
        let h = 1.0 / f64::from(steps);
        self.weights.clear();
        self.weights.resize(arms.len(), 0.0);
        self.curves.clear();
        self.curves.resize(arms.len(), Curve::default());
        for step in 0..=steps {
            let x = (f64::from(step) * h).clamp(EDGE, 1.0 - EDGE);
            let (log_x, log_rest) = (x.ln(), (1.0 - x).ln());
            for (curve, (p, q, log_beta)) in self.curves.iter_mut().zip(&self.forms) {
                let log = p * log_x + q * log_rest - log_beta;
                let mut now = [0.0; 3];
                if log > NOTHING {
                    let (left, right) = (p / x, q / (1.0 - x));
                    let f = log.exp();
                    let g = left - right;
                    now = [f, f * g, f * (g * g - left / x - right / (1.0 - x))];
                }
                if step > 0 {
                    let was = curve.density;
                    let grown = h / 2.0 * (was[0] + now[0])
                        + h * h / 10.0 * (was[1] - now[1])
                        + h * h * h / 120.0 * (was[2] + now[2]);
                    // Far down a tail the rule may fall a hair below 0.
                    curve.below += grown.max(0.0);
                }
                curve.density = now;
            }
            for (arm, weight) in self.weights.iter_mut().enumerate() {
                let mut product = self.curves[arm].density[0];
                if product > 0.0 {
                    for (other, curve) in self.curves.iter().enumerate() {
                        product *= if other == arm { 1.0 } else { curve.below };
                    }
                    *weight += product * h;
                }
            }
        }
    }

    /// What is left when all is less than an f64 can tell from 0: P(j above the first) by the largest value that the two
    /// densities' product has, at (pⱼ + p) ÷ (nⱼ + n). Laplace's method; what it leaves out does not grow with the pulls.
    fn weigh_by_exponents(&mut self, first: usize) -> f64 {
        let (p, q, log_beta) = self.forms[first];
        let log_at_most = |&(other_p, other_q, other_log_beta): &(f64, f64, f64)| {
            let (p, q) = (p + other_p, q + other_q);
            let x = (p / (p + q)).clamp(EDGE, 1.0 - EDGE);
            p * x.ln() + q * (1.0 - x).ln() - log_beta - other_log_beta
        };
        self.weights.clear();
        self.weights.extend(self.forms.iter().map(log_at_most));
        self.weights[first] = f64::NEG_INFINITY;
        let most = self.weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for weight in &mut self.weights {
            *weight = (*weight - most).exp();
        }
        self.weights.iter().sum()
    }
}
