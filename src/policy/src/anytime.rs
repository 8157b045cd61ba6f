//! Intervals that stay valid however often the data are checked. Stops, kills and conclusions happen at an instant that
//! depends on the data, and an interval for one fixed time is too narrow then. The module needs only an estimate and
//! its information.

use crate::e3::Posterior;
use crate::interval::Interval;

/// Scale ρ of the mixture: the interval is tightest when the information V is about 300.
pub const ANYTIME_RHO: f64 = 40.0;
/// Error probability of the intervals that people are shown.
pub const ALPHA: f64 = 0.05;
/// Smallest information on a log-lift, in conversions, for which an estimate without prior is reported.
const INFORMATION_MIN: f64 = 1e-3;

/// Half the width, on the log scale, of the anytime-valid interval around an estimate of information `v` = 1/SE² > 0,
/// at error `alpha`: √((V+ρ)·ln((V+ρ)/(ρα²)))/V. The normal-mixture boundary of Howard, Ramdas, McAuliffe & Sekhon
/// (*Time-uniform, nonparametric, nonasymptotic confidence sequences*, Annals of Statistics 2021).
#[must_use]
pub fn anytime_half_width(v: f64, rho: f64, alpha: f64) -> f64 {
    ((v + rho) * libm::log((v + rho) / (rho * alpha * alpha))).sqrt() / v
}

/// The confidence sequence of an arm's lift (or difference) at error `alpha`, from a posterior without prior. None for
/// control and where there is no information.
#[must_use]
pub fn confidence_sequence(flat: &Posterior, arm: usize, alpha: f64) -> Option<Interval> {
    let information = 1.0 / flat.covariance[arm][arm];
    (arm > 0 && information > INFORMATION_MIN)
        .then(|| Interval::around(flat, arm, anytime_half_width(information, ANYTIME_RHO, alpha)))
}
