//! An estimate with its interval. Every module that reports a lift or a difference to people builds its intervals here.

use serde::{Deserialize, Serialize};

use crate::e3::Posterior;

/// 95% of a normal distribution lies within this many standard deviations of its mean.
pub const Z_95: f64 = 1.959_963_984_540_054;

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
