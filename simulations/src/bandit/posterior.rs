//! What is known of one arm: a Beta posterior, kept as what its draws are made of, and an envelope of its upper tail.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Exp1, StandardNormal};

/// An envelope that weighs more saves less than it costs.
const HEAVIEST: f64 = 0.35;
/// An envelope this light is made afresh when its arm is pulled: what has become 0 would stay 0.
const LIGHTEST: f64 = 1e-200;

/// Draws of a Gamma of whole shape from 1 and scale 1, by Marsaglia and Tsang (2000), "A simple method for generating
/// gamma variables". What depends on the shape alone is kept: a posterior changes in one of its two shapes at a time.
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
            // x is taken if ln u < x²/2 + d (1 − v + ln v). As 9dc² = 1, the right side is −3d Σ (−t)ᵏ/k over k ≥ 4, at least
            // −(3/2) d t⁴ while |t| ≤ 1/2; and ln u < u − 1. So the first condition implies the second and needs no logarithm;
            // unlike the squeeze of the paper it hardly ever fails where the shape is large.
            let square = t * t;
            if (square <= 0.25 && u < 1.0 - 1.5 * self.d * square * square)
                || u.ln() < 0.5 * x * x + self.d * (1.0 - v + v.ln())
            {
                return self.d * v;
            }
        }
    }
}

/// Above `from`, the posterior's density is at most `mass · slope · exp(−slope · (x − from))`: its logarithm is concave, so
/// a tangent stays above it. `mass` is what that envelope integrates to, at least the probability of the tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) from: f64,
    pub(super) mass: f64,
    slope: f64,
    /// By how much one more paid pull lowers the slope, 1 ÷ `from`, and one more unpaid pull raises it, 1 ÷ (1 − `from`).
    steps: (f64, f64),
}

impl Tail {
    /// A draw from the envelope.
    #[inline]
    pub(super) fn propose<R: Rng>(&self, rng: &mut R) -> f64 {
        self.from + Distribution::<f64>::sample(&Exp1, rng) / self.slope
    }

    /// The same place's tangent after a pull of an arm that had this mean. The density there is multiplied by x ÷ mean, or
    /// by (1 − x) ÷ (1 − mean): neither a logarithm nor a Gamma function is needed to keep up. None if it weighs too much, or too little to go on
    /// from.
    fn after(&self, paid: bool, mean: f64) -> Option<Self> {
        let (factor, slope) = if paid {
            (self.from / mean, self.slope - self.steps.0)
        } else {
            ((1.0 - self.from) / (1.0 - mean), self.slope + self.steps.1)
        };
        let mass = self.mass * self.slope * factor / slope;
        (slope > 0.0 && mass > LIGHTEST && mass < HEAVIEST).then_some(Self { mass, slope, ..*self })
    }
}

/// An arm that has been pulled so far as it has: Beta(1 + paid, 1 + unpaid).
#[derive(Debug, Clone)]
pub(super) struct Arm {
    paid: Gamma,
    unpaid: Gamma,
    pub(super) mean: f64,
    pub(super) tail: Option<Tail>,
    /// How often the tail, or that there is none, may yet fail to save a draw before another is tried.
    pub(super) patience: u32,
}

impl Default for Arm {
    fn default() -> Self {
        Self { paid: Gamma::new(1.0), unpaid: Gamma::new(1.0), mean: 0.5, tail: None, patience: 0 }
    }
}

impl Arm {
    /// Counts a pull.
    #[inline]
    pub(super) fn learn(&mut self, paid: bool) {
        self.tail = self.tail.and_then(|tail| tail.after(paid, self.mean));
        let shape = if paid { &mut self.paid } else { &mut self.unpaid };
        *shape = Gamma::new(shape.shape + 1.0);
        self.mean = self.paid.shape / (self.paid.shape + self.unpaid.shape);
    }

    /// Pulls so far.
    pub(super) fn pulls(&self) -> u64 {
        (self.paid.shape + self.unpaid.shape - 2.0) as u64
    }

    /// Paid by pulled; 0 before the first.
    pub(super) fn sample_mean(&self) -> f64 {
        (self.paid.shape - 1.0) / (self.paid.shape + self.unpaid.shape - 2.0).max(1.0)
    }

    /// The posterior's standard deviation.
    pub(super) fn deviation(&self) -> f64 {
        (self.mean * (1.0 - self.mean) / (self.paid.shape + self.unpaid.shape + 1.0)).sqrt()
    }

    /// A draw of the rate: X ÷ (X + Y) of two Gammas.
    #[inline]
    pub(super) fn draw<R: Rng>(&self, rng: &mut R) -> f64 {
        let paid = self.paid.draw(rng);
        paid / (paid + self.unpaid.draw(rng))
    }

    /// A draw of the rate given that it is not above `limit`.
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

    /// The logarithm of what the density's x^p (1 − x)^q is divided by: of B(p + 1, q + 1).
    pub(super) fn log_beta(&self) -> f64 {
        let (a, b) = (self.paid.shape, self.unpaid.shape);
        libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
    }

    /// The envelope of the tail above `from`, if the density falls there and the envelope is not too heavy.
    pub(super) fn tail(&self, from: f64) -> Option<Tail> {
        let (p, q) = self.exponents();
        let slope = q / (1.0 - from) - p / from;
        if !(from > 0.0 && from < 1.0 && slope > 0.0) {
            return None;
        }
        let mass = (p * from.ln() + q * (1.0 - from).ln() - self.log_beta()).exp() / slope;
        (mass < HEAVIEST).then_some(Tail { from, mass, slope, steps: (1.0 / from, 1.0 / (1.0 - from)) })
    }

    /// Whether `x`, which the tail proposed, is the posterior's draw: with probability density ÷ envelope. Where `propose`
    /// is called with probability `tail.mass`, every x above `tail.from` then comes at exactly the posterior's density.
    pub(super) fn accepts<R: Rng>(&self, tail: &Tail, x: f64, rng: &mut R) -> bool {
        if x >= 1.0 {
            return false;
        }
        let (p, q) = self.exponents();
        let log = p * (x / tail.from).ln() + q * ((1.0 - x) / (1.0 - tail.from)).ln() + tail.slope * (x - tail.from);
        // An Exp(1) is above −log with probability exp(log).
        Distribution::<f64>::sample(&Exp1, rng) > -log
    }
}
