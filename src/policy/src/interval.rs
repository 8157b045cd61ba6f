//! An estimate with its interval. Every module that reports a lift to people builds its intervals here.

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

    /// The central 95% of the posterior of an arm's lift.
    pub(crate) fn credible(posterior: &Posterior, arm: usize) -> Self {
        Self::from_log(posterior.mean[arm], Z_95 * posterior.sd(arm))
    }

    /// Whether `value` is within the interval, ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}
