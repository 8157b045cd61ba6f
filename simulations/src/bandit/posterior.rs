//! The Beta posterior of one arm. It is kept as the two Gamma distributions that a draw needs, with an envelope of its
//! upper tail.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Exp1, StandardNormal};

/// With a larger mass, an envelope costs more than it saves.
const ENVELOPE_MASS_MAX: f64 = 0.35;
/// With a smaller mass, an envelope is computed again when its arm is pulled: updates would keep a mass of 0 at 0.
const ENVELOPE_MASS_MIN: f64 = 1e-200;

/// A Gamma distribution with integer shape from 1 and scale 1, drawn by Marsaglia and Tsang (2000), "A simple method
/// for generating gamma variables". Constants that depend on the shape are stored, because a pull changes only one of
/// the two shapes of a posterior.
#[derive(Debug, Clone, Copy)]
struct Gamma {
    shape: f64,
    d: f64,
    c: f64,
}

impl Gamma {
    fn new(shape: f64) -> Self {
        let d = shape - 1.0 / 3.0;
        Self { shape, d, c: 1.0 / (9.0 * d).sqrt() }
    }

    #[inline]
    fn draw<R: Rng>(&self, rng: &mut R) -> f64 {
        loop {
            let x: f64 = StandardNormal.sample(rng);
            let t = self.c * x;
            let root = 1.0 + t;
            if root <= 0.0 {
                continue;
            }
            let v = root * root * root;
            let u: f64 = rng.random();
            // x is accepted if ln u < x²/2 + d (1 − v + ln v). As 9dc² = 1, the right side is −3d Σ (−t)ᵏ/k over k ≥ 4,
            // at least −(3/2) d t⁴ while |t| ≤ 1/2; and ln u < u − 1. So the first condition implies the second and
            // needs no logarithm. Unlike the squeeze of the paper it rarely fails for large shapes.
            let square = t * t;
            if (square <= 0.25 && u < 1.0 - 1.5 * self.d * square * square)
                || u.ln() < 0.5 * x * x + self.d * (1.0 - v + v.ln())
            {
                return self.d * v;
            }
        }
    }
}

/// An exponential envelope of the upper tail. Above `from`, the density of the posterior is at most `mass · slope ·
/// exp(−slope · (x − from))`: the logarithm of the density is concave, so a tangent is above it. `mass` is the integral
/// of the envelope, at least the probability of the tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct TailEnvelope {
    pub(super) from: f64,
    pub(super) mass: f64,
    slope: f64,
    /// A paid pull decreases the slope by the first, 1 ÷ `from`; an unpaid pull increases it by the second, 1 ÷ (1 −
    /// `from`).
    slope_steps: (f64, f64),
}

impl TailEnvelope {
    /// A draw from the envelope.
    #[inline]
    pub(super) fn propose<R: Rng>(&self, rng: &mut R) -> f64 {
        self.from + Distribution::<f64>::sample(&Exp1, rng) / self.slope
    }

    /// The envelope at the same point after a pull of the arm, which had this mean before. A pull multiplies the
    /// density by x ÷ mean or by (1 − x) ÷ (1 − mean), so the update needs no logarithm and no Gamma function. None if
    /// the mass becomes too large, or too small to be updated.
    fn after_pull(&self, paid: bool, mean: f64) -> Option<Self> {
        let (factor, slope) = if paid {
            (self.from / mean, self.slope - self.slope_steps.0)
        } else {
            ((1.0 - self.from) / (1.0 - mean), self.slope + self.slope_steps.1)
        };
        let mass = self.mass * self.slope * factor / slope;
        (slope > 0.0 && mass > ENVELOPE_MASS_MIN && mass < ENVELOPE_MASS_MAX).then_some(Self { mass, slope, ..*self })
    }
}

/// An arm with the posterior Beta(1 + paid pulls, 1 + unpaid pulls).
#[derive(Debug, Clone)]
pub(super) struct Arm {
    paid: Gamma,
    unpaid: Gamma,
    /// Mean of the posterior.
    pub(super) mean: f64,
    pub(super) tail: Option<TailEnvelope>,
    /// Number of draws of this arm left before its envelope is computed again.
    pub(super) draws_left: u32,
}

impl Default for Arm {
    fn default() -> Self {
        Self { paid: Gamma::new(1.0), unpaid: Gamma::new(1.0), mean: 0.5, tail: None, draws_left: 0 }
    }
}

impl Arm {
    /// Updates the posterior after a pull.
    #[inline]
    pub(super) fn record_pull(&mut self, paid: bool) {
        self.tail = self.tail.and_then(|tail| tail.after_pull(paid, self.mean));
        let shape = if paid { &mut self.paid } else { &mut self.unpaid };
        *shape = Gamma::new(shape.shape + 1.0);
        self.mean = self.paid.shape / (self.paid.shape + self.unpaid.shape);
    }

    /// Number of pulls so far.
    pub(super) fn pulls(&self) -> u64 {
        (self.paid.shape + self.unpaid.shape - 2.0) as u64
    }

    /// Fraction of pulls that paid; 0 before the first pull.
    pub(super) fn sample_mean(&self) -> f64 {
        (self.paid.shape - 1.0) / (self.paid.shape + self.unpaid.shape - 2.0).max(1.0)
    }

    /// Standard deviation of the posterior.
    pub(super) fn standard_deviation(&self) -> f64 {
        (self.mean * (1.0 - self.mean) / (self.paid.shape + self.unpaid.shape + 1.0)).sqrt()
    }

    /// A draw of the rate: X ÷ (X + Y) with two Gamma draws.
    #[inline]
    pub(super) fn draw<R: Rng>(&self, rng: &mut R) -> f64 {
        let paid = self.paid.draw(rng);
        paid / (paid + self.unpaid.draw(rng))
    }

    /// A draw of the rate, conditional on being at most `limit`.
    pub(super) fn draw_up_to<R: Rng>(&self, limit: f64, rng: &mut R) -> f64 {
        loop {
            let x = self.draw(rng);
            if x <= limit {
                return x;
            }
        }
    }

    /// The exponents of x and 1 − x in the density.
    pub(super) fn exponents(&self) -> (f64, f64) {
        (self.paid.shape - 1.0, self.unpaid.shape - 1.0)
    }

    /// The logarithm of the normalising constant B(p + 1, q + 1) of the density x^p (1 − x)^q.
    pub(super) fn log_beta(&self) -> f64 {
        let (a, b) = (self.paid.shape, self.unpaid.shape);
        libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
    }

    /// The envelope of the tail above `from`. None if the density does not decrease there or the mass is too large.
    pub(super) fn tail_above(&self, from: f64) -> Option<TailEnvelope> {
        let (p, q) = self.exponents();
        let slope = q / (1.0 - from) - p / from;
        if !(from > 0.0 && from < 1.0 && slope > 0.0) {
            return None;
        }
        let mass = (p * from.ln() + q * (1.0 - from).ln() - self.log_beta()).exp() / slope;
        (mass < ENVELOPE_MASS_MAX).then_some(TailEnvelope {
            from,
            mass,
            slope,
            slope_steps: (1.0 / from, 1.0 / (1.0 - from)),
        })
    }

    /// Whether to accept `x`, which the envelope proposed: with probability density ÷ envelope. If `propose` is called
    /// with probability `tail.mass`, accepted values above `tail.from` have exactly the density of the posterior.
    pub(super) fn accepts<R: Rng>(&self, tail: &TailEnvelope, x: f64, rng: &mut R) -> bool {
        if x >= 1.0 {
            return false;
        }
        let (p, q) = self.exponents();
        let log = p * (x / tail.from).ln() + q * ((1.0 - x) / (1.0 - tail.from)).ln() + tail.slope * (x - tail.from);
        // A draw of Exp(1) is above −log with probability exp(log).
        Distribution::<f64>::sample(&Exp1, rng) > -log
    }
}
