//! An estimate with its interval. Every module that reports a lift or a difference to people builds its intervals here.

use serde::{Deserialize, Serialize};

use crate::e3::Posterior;

/// 95% of a normal distribution lies within this many standard deviations of its mean.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// The central part of a normal distribution within [`Z_DISPLAYED`]: what a displayed 95% interval aims at.
///
/// 1.5 points are reserved for what a quantile cannot correct. Growth gives more units to an arm that looks good, so the
/// estimate depends on the number of units behind it (coverage falls by up to one point in the grid of
/// docs/statistics.md), and the values of means are skewed (up to one point more). The constant was chosen on that grid.
pub const DISPLAYED_PART: f64 = 0.965;
/// [`DISPLAYED_PART`] of a normal distribution lies within this many standard deviations of its mean.
pub const Z_DISPLAYED: f64 = 2.108_358_399_169_109;

/// Half the width, in standard errors, of a displayed interval that holds at one fixed time. `outcomes` is the smaller number of
/// outcomes in the two arms that are compared, above 1.
///
/// The variance is measured from these outcomes, so the quantile is that of Student's t distribution. Its degrees of
/// freedom are one less than the smaller number of outcomes, the lower limit of Welch's (Welch 1938), which needs no
/// estimate of its own. By the expansion of Abramowitz & Stegun 1972, 26.7.5; with the fewest outcomes for which an
/// interval is shown (4 degrees of freedom), it is 2% too narrow.
#[must_use]
pub fn displayed_quantile(outcomes: f64) -> f64 {
    let (z, freedom) = (Z_DISPLAYED, outcomes - 1.0);
    let (z3, z5) = (z * z * z, z * z * z * z * z);
    let second = (5.0 * z5 + 16.0 * z3 + 3.0 * z) / 96.0;
    z + ((z3 + z) / 4.0 + second / freedom) / freedom
}

/// An estimate with its interval: of a relative lift over control (0.1 is ten per cent more) or, where the field says
/// so, of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate. For lifts it is the middle of the interval on the log scale.
    pub estimate: f64,
    /// Lower end; above −1 for lifts.
    pub low: f64,
    /// Upper end; it may be huge but is never infinite.
    pub high: f64,
}

impl Interval {
    /// Builds an interval from an estimate and a half width on the log scale.
    pub(crate) fn from_log(middle: f64, half_width: f64) -> Self {
        // Beyond a factor of e^±100 the ends carry no information, and JSON cannot store infinity.
        let lift = |log: f64| libm::expm1(log.clamp(-100.0, 100.0));
        Self { estimate: lift(middle), low: lift(middle - half_width), high: lift(middle + half_width) }
    }

    /// An arm's estimate, with an interval of `half_width` on the scale of the posterior. It is relative for a posterior
    /// of lifts, and in the metric's own unit for a posterior of differences.
    pub(crate) fn around(posterior: &Posterior, arm: usize, half_width: f64) -> Self {
        let middle = posterior.mean[arm];
        match posterior.unit {
            None => Self::from_log(middle, half_width),
            Some(unit) => {
                // JSON cannot store infinity.
                let value = |multiple: f64| unit * multiple.clamp(-1e100, 1e100);
                Self { estimate: value(middle), low: value(middle - half_width), high: value(middle + half_width) }
            }
        }
    }

    /// The central 95% of the distribution of an arm's lift or difference.
    pub(crate) fn central(posterior: &Posterior, arm: usize) -> Self {
        Self::around(posterior, arm, Z_95 * posterior.sd(arm))
    }

    /// Whether `value` is within the interval, ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normal::normal_cdf;

    #[test]
    fn displayed_quantile_is_that_of_student() {
        assert!((2.0 * normal_cdf(Z_DISPLAYED) - 1.0 - DISPLAYED_PART).abs() < 1e-9);
        // The distribution function of t with 4 degrees of freedom has a closed form.
        let part = |t: f64| {
            let r = t / (4.0 + t * t).sqrt();
            1.5 * (r - r * r * r / 3.0)
        };
        let few = displayed_quantile(5.0);
        assert!((part(few) - DISPLAYED_PART).abs() < 3e-3, "{few} {}", part(few));
        assert!((displayed_quantile(1e9) - Z_DISPLAYED).abs() < 1e-6);
        assert!((6..2_000).all(|n| displayed_quantile(f64::from(n)) < displayed_quantile(f64::from(n - 1))));
    }
}
