//! Means and ratios of sums with normal intervals, computed in one pass.

use serde::Serialize;

/// 97.5% quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// An estimate with its standard error and its 95% interval, value ± 1.96·se.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its standard error.
    pub se: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Estimate {
    pub(super) fn new(value: f64, variance: f64) -> Option<Self> {
        let se = variance.max(0.0).sqrt();
        let estimate = Self { value, se, low: value - Z_95 * se, high: value + Z_95 * se };
        (value.is_finite() && se.is_finite()).then_some(estimate)
    }

    /// Whether the interval contains a number.
    #[must_use]
    pub fn contains(&self, number: f64) -> bool {
        (self.low..=self.high).contains(&number)
    }

    /// The estimate of the value minus a constant.
    pub(super) fn minus(self, number: f64) -> Self {
        Self { value: self.value - number, low: self.low - number, high: self.high - number, ..self }
    }
}

/// The ratio Σa/Σb over pairs. If every b is 1, it is a mean.
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

    /// Σ (a − R·b)² · n/(n − 1). For means, it is n times the unbiased variance.
    pub(super) fn residual_sum(&self) -> f64 {
        let ratio = self.value();
        let sum = self.aa - 2.0 * ratio * self.ab + ratio * ratio * self.bb;
        let n = self.n as f64;
        sum.max(0.0) * n / (n - 1.0)
    }

    /// The ratio with the variance by the delta method, Σ (a − R·b)²/(Σb)²; for means, the variance of the mean. None
    /// for fewer than two pairs.
    pub(super) fn estimate(&self) -> Option<Estimate> {
        if self.n < 2 || self.b == 0.0 {
            return None;
        }
        Estimate::new(self.value(), self.residual_sum() / (self.b * self.b))
    }

    /// The effective number of pairs, (Σb)²/Σb², where b are weights.
    pub(super) fn effective_count(&self) -> Option<f64> {
        (self.bb > 0.0).then(|| self.b * self.b / self.bb)
    }
}

/// The mean of a subset relative to the mean of the whole, minus 1, with the variance by the delta method. The variance
/// is Σh² with the influence h_i of row i. It reduces to sums over the subset and over the whole, because the cross
/// term Σ(r − m)(r − M) over the subset equals Σ(r − m)².
pub(super) fn lift_of_subset(subset: &Ratio, whole: &Ratio) -> Option<Estimate> {
    let (n, all, base) = (subset.count() as f64, whole.count() as f64, whole.value());
    if subset.count() < 2 || base == 0.0 {
        return None;
    }
    let ratio = subset.value() / base;
    let inside = subset.residual_sum() * (1.0 / (n * n) - 2.0 * ratio / (n * all));
    let outside = whole.residual_sum() * ratio * ratio / (all * all);
    Estimate::new(ratio - 1.0, (inside + outside) / (base * base))
}
