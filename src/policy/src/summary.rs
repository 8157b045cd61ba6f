//! What people are shown of each arm, now: raw rate, lift, who is probably best, and an interval that stays true however
//! often they look. It decides nothing.

use serde::{Deserialize, Serialize};

use crate::{EpochTally, Estimator, PointsCache, PolicyError, Posterior, Prior, compare};

/// The mixture's scale for [`anytime_half_width`]: tightest when V ≈ 300.
pub const ANYTIME_RHO: f64 = 40.0;
/// Standard deviations either side of the mean that hold 95% of a normal.
const Z_95: f64 = 1.959_963_984_540_054;
/// Error probability of the intervals.
const ALPHA: f64 = 0.05;
/// Information on a log-lift, in conversions, below which an estimate without prior is no estimate.
const INFORMATION_MIN: f64 = 1e-3;

/// An estimate with its interval, each as a relative lift over control: 0.1 is ten per cent more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The middle, on the log scale.
    pub estimate: f64,
    /// Lower end, above −1.
    pub low: f64,
    /// Upper end; it may be huge, never infinite.
    pub high: f64,
}

impl Interval {
    /// From an estimate and a half width on the log scale.
    fn from_log(middle: f64, half_width: f64) -> Self {
        // Beyond a factor of e^±100 the ends say nothing, and infinity cannot be stored as JSON.
        let lift = |log: f64| libm::expm1(log.clamp(-100.0, 100.0));
        Self { estimate: lift(middle), low: lift(middle - half_width), high: lift(middle + half_width) }
    }
}

/// One arm, as people are shown it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Stable records.
    pub n: u64,
    /// Converted among them.
    pub s: u64,
    /// s/n, 0..=1; none without records. Arms' raw rates are not comparable when shares have changed: `lift` is.
    pub rate: Option<f64>,
    /// Posterior lift over control with its 95% credible interval; none for control.
    pub lift: Option<Interval>,
    /// Lift over control without prior, with a 95% confidence *sequence*: true at every look at once, with probability
    /// 95%. None for control and where there is no information.
    pub anytime: Option<Interval>,
    /// Probability of being the best live arm, 0..=1.
    pub p_best: f64,
    /// Probability of being better than control; ½ for control.
    pub p_above_control: f64,
    /// The share of conversions that choosing it is expected to forgo, 0..=1; none for killed arms.
    pub expected_loss: Option<f64>,
}

/// Half the width, on the log scale, of the anytime-valid interval around an estimate of information `v` = 1/SE² > 0, at
/// error `alpha`: √((V+ρ)·ln((V+ρ)/(ρα²)))/V. The normal-mixture boundary of Howard et al. (Annals of Statistics 2021).
#[must_use]
pub fn anytime_half_width(v: f64, rho: f64, alpha: f64) -> f64 {
    ((v + rho) * libm::log((v + rho) / (rho * alpha * alpha))).sqrt() / v
}

/// The state of every arm. `live` has one entry per arm, control first and live; `tau` is the prior standard deviation of
/// a log-lift; `seed` and `draws_log2` (6..=16) choose the draws.
pub fn summarise(
    epochs: &[EpochTally],
    live: &[bool],
    tau: f64,
    seed: u64,
    draws_log2: u32,
    points: &mut PointsCache,
) -> Result<Vec<ArmSummary>, PolicyError> {
    let arms = live.len();
    if live.first() != Some(&true) {
        return Err(PolicyError::ControlKilled);
    }
    let mut estimator = Estimator::default();
    let posterior = estimator.fit(arms, epochs, Prior::Normal(tau))?;
    let flat = estimator.fit(arms, epochs, Prior::Flat)?;
    let treated = live.iter().filter(|live| **live).count() - 1;
    let comparison = compare(&posterior, live, points.get(seed, treated, draws_log2)?)?;
    let summary = |arm: usize| {
        let n: u64 = epochs.iter().map(|epoch| epoch.arms[arm].n).sum();
        let s: u64 = epochs.iter().map(|epoch| epoch.arms[arm].s).sum();
        ArmSummary {
            n,
            s,
            rate: (n > 0).then(|| s as f64 / n as f64),
            lift: (arm > 0).then(|| Interval::from_log(posterior.mean[arm], Z_95 * posterior.sd(arm))),
            anytime: anytime(&flat, arm),
            p_best: comparison.p_best[arm],
            p_above_control: comparison.p_above_control[arm],
            expected_loss: comparison.relative_loss(arm),
        }
    };
    Ok((0..arms).map(summary).collect())
}

fn anytime(flat: &Posterior, arm: usize) -> Option<Interval> {
    let information = 1.0 / flat.covariance[arm][arm];
    (arm > 0 && information > INFORMATION_MIN)
        .then(|| Interval::from_log(flat.mean[arm], anytime_half_width(information, ANYTIME_RHO, ALPHA)))
}
