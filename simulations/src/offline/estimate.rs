//! Means and ratios of sums with their normal intervals, added up in one pass.

use serde::Serialize;

/// The standard normal's 97.5% quantile.
const Z_95: f64 = 1.959_963_984_540_054;

/// A number with its standard error and its 95% interval, value ± 1.96·se.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its standard error.
    pub se: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Estimate {
    pub(super) fn new(value: f64, variance: f64) -> Option<Self> {
        let se = variance.max(0.0).sqrt();
        let estimate = Self { value, se, low: value - Z_95 * se, high: value + Z_95 * se };
        (value.is_finite() && se.is_finite()).then_some(estimate)
    }

    /// Whether the interval holds a number.
    #[must_use]
    pub fn holds(&self, number: f64) -> bool {
        (self.low..=self.high).contains(&number)
    }

    /// The same of the number less so much.
    pub(super) fn minus(self, number: f64) -> Self {
        Self { value: self.value - number, low: self.low - number, high: self.high - number, ..self }
    }
}

/// Σa/Σb over pairs; with b = 1 throughout, a mean.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ratio {
    n: u64,
    a: f64,
    b: f64,
    aa: f64,
    ab: f64,
    bb: f64,
}

impl Ratio {
    pub(super) fn push(&mut self, a: f64, b: f64) {
        self.n += 1;
        self.a += a;
        self.b += b;
        self.aa += a * a;
        self.ab += a * b;
        self.bb += b * b;
    }

    pub(super) fn count(&self) -> u64 {
        self.n
    }

    pub(super) fn value(&self) -> f64 {
        self.a / self.b
    }

    /// Σ (a − R·b)², with the sample's degree of freedom given back: of means, n times the unbiased variance.
    pub(super) fn spread(&self) -> f64 {
        let ratio = self.value();
        let sum = self.aa - 2.0 * ratio * self.ab + ratio * ratio * self.bb;
        let n = self.n as f64;
        sum.max(0.0) * n / (n - 1.0)
    }

    /// By the delta method, Σ (a − R·b)²/(Σb)²; of means, it is the variance of the mean. None of fewer than two pairs.
    pub(super) fn estimate(&self) -> Option<Estimate> {
        if self.n < 2 || self.b == 0.0 {
            return None;
        }
        Estimate::new(self.value(), self.spread() / (self.b * self.b))
    }

    /// (Σb)²/Σb², where b are weights.
    pub(super) fn effective(&self) -> Option<f64> {
        (self.bb > 0.0).then(|| self.b * self.b / self.bb)
    }
}

/// A part's mean relative to that of the whole it belongs to, less 1, by the delta method. With h_i the influence of row
/// i, Σh² expands to sums over the part and over the whole, for the cross term Σ(r − m)(r − M) over the part is Σ(r − m)².
pub(super) fn lift_of_part(part: &Ratio, whole: &Ratio) -> Option<Estimate> {
    let (n, all, base) = (part.count() as f64, whole.count() as f64, whole.value());
    if part.count() < 2 || base == 0.0 {
        return None;
    }
    let ratio = part.value() / base;
    let inside = part.spread() * (1.0 / (n * n) - 2.0 * ratio / (n * all));
    let outside = whole.spread() * ratio * ratio / (all * all);
    Estimate::new(ratio - 1.0, (inside + outside) / (base * base))
}
