//! The estimators that a run's data are put before in the end, by name. To add one, write a function and list it.

use inroad_policy::{
    ANYTIME_RHO, EpochTally, Interval, Measure, Moments, Opinion, Posterior, Prior, anytime_half_width, opinions,
    shown_lift,
};

use crate::SimulationError;
use crate::judge::Judge;
use crate::results::{Estimate, NamedEstimates};
use crate::scenario::{ArmSpec, Scenario};

/// Standard deviations either side of the mean that hold 95% of a normal.
const Z_95: f64 = 1.959_963_984_540_054;
const ALPHA: f64 = 0.05;
/// Information on a log-lift below which an estimate without prior is no estimate.
const INFORMATION_MIN: f64 = 1e-3;
/// The name of the estimator that must hold at every look.
pub const CONFIDENCE_SEQUENCE: &str = "cs";

/// What an estimator may look at.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// How many arms, control included.
    pub arms: usize,
    /// Tallies per epoch.
    pub epochs: &'a [EpochTally],
    /// How it is measured.
    pub measure: Measure,
    /// Prior standard deviation of a log-lift.
    pub tau: f64,
    /// One per arm: whether it was never killed.
    pub live: &'a [bool],
}

/// A log-lift over control with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogInterval {
    /// The estimate.
    pub middle: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// An estimator: one answer per treated arm, none where there is nothing to go by.
pub type Estimator = fn(&Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError>;

/// All estimators by name.
pub const ESTIMATORS: &[(&str, Estimator)] = &[
    ("pooled", pooled),
    ("period", period),
    ("e3", e3),
    ("e3-killed", e3_killed),
    ("e3-flat", e3_flat),
    ("e3-joint", e3_joint),
    ("bols", batched),
    (CONFIDENCE_SEQUENCE, confidence_sequence),
];

/// The ratio of raw rates over the whole run, with the delta method's variance: what drifts and shifting shares mislead.
fn pooled(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let log_rates: Vec<Option<(f64, f64)>> = (0..observed.arms).map(|arm| log_rate(observed, arm)).collect();
    let control = log_rates[0];
    let lift = |rate: &Option<(f64, f64)>| {
        let ((log, variance), (base, base_variance)) = ((*rate)?, control?);
        Some(LogInterval::around(log - base, Z_95 * (variance + base_variance).sqrt()))
    };
    Ok(log_rates[1..].iter().map(lift).collect())
}

/// The logarithm of an arm's rate over all epochs and its variance.
fn log_rate(observed: &Observed<'_>, arm: usize) -> Option<(f64, f64)> {
    let n: u64 = observed.epochs.iter().map(|epoch| epoch.arms[arm].n).sum();
    let mut total = Moments::default();
    for tally in observed.epochs.iter().map(|epoch| &epoch.arms[arm]) {
        let s = tally.s as f64;
        let sums = tally.moments.unwrap_or(Moments { x: s, xx: s, ..Moments::default() });
        total.x += sums.x;
        total.xx += sums.xx;
        total.y += sums.y;
        total.yy += sums.yy;
        total.xy += sums.xy;
    }
    if total.x <= 0.0 {
        return None;
    }
    let (denominator, y_squares, xy) = match observed.measure {
        Measure::Ratio => (total.y, total.yy, total.xy),
        _ => (n as f64, n as f64, total.x),
    };
    let rate = total.x / denominator;
    let residual = total.xx - 2.0 * rate * xy + rate * rate * y_squares;
    Some((rate.ln(), residual / (total.x * total.x)))
}

fn normal(posterior: &Posterior) -> Vec<Option<LogInterval>> {
    let interval = |arm| {
        let sd = posterior.sd(arm);
        let known = sd * sd < 1.0 / INFORMATION_MIN;
        known.then(|| LogInterval::around(posterior.mean[arm], Z_95 * sd))
    };
    (1..posterior.mean.len()).map(interval).collect()
}

/// E3, each arm against control alone: the lift that people are shown of live arms.
fn e3(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    shown(observed, true)
}

/// The same of killed arms, whose interval holds at whatever instant they were stopped.
fn e3_killed(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    shown(observed, false)
}

fn shown(observed: &Observed<'_>, live: bool) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let each = Judge::new(observed.measure).each(observed.arms, observed.epochs, Prior::Normal(observed.tau))?;
    let lift = |arm: usize| {
        let asked = observed.live[arm] == live;
        asked.then(|| LogInterval::from_lifts(shown_lift(&each, arm, live))).flatten()
    };
    Ok((1..observed.arms).map(lift).collect())
}

/// E3 of all arms together: what the policy steers by. An arm whose lift changes spoils the others'.
fn e3_joint(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    Ok(normal(&Judge::new(observed.measure).posterior(observed.arms, observed.epochs, Prior::Normal(observed.tau))?))
}

/// E3 without prior.
fn e3_flat(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let posterior = Judge::new(observed.measure).flat(observed.arms, observed.epochs)?;
    Ok(posterior.map_or(vec![None; observed.arms - 1], |posterior| normal(&posterior)))
}

/// The policy's second opinions: period-weighted, and batched with fixed weights.
fn second(
    observed: &Observed<'_>,
    which: fn(&Opinion) -> Interval,
) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let Some(flat) = Judge::new(observed.measure).flat(observed.arms, observed.epochs)? else {
        return Ok(vec![None; observed.arms - 1]);
    };
    let all = opinions(observed.measure, observed.arms, observed.epochs, &flat)?;
    Ok(all[1..].iter().map(|opinion| LogInterval::from_lifts(which(opinion.as_ref()?))).collect())
}

fn period(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    second(observed, |opinion| opinion.period)
}

fn batched(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    second(observed, |opinion| opinion.batched)
}

/// The anytime-valid interval about E3 without prior.
fn confidence_sequence(observed: &Observed<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let posterior = Judge::new(observed.measure).flat(observed.arms, observed.epochs)?;
    Ok((1..observed.arms).map(|arm| anytime(posterior.as_ref()?, arm)).collect())
}

/// The confidence sequence's interval at one look.
pub(crate) fn anytime(posterior: &Posterior, arm: usize) -> Option<LogInterval> {
    let information = 1.0 / posterior.covariance[arm][arm];
    let half_width = || anytime_half_width(information, ANYTIME_RHO, ALPHA);
    (information > INFORMATION_MIN).then(|| LogInterval::around(posterior.mean[arm], half_width()))
}

impl LogInterval {
    fn around(middle: f64, half_width: f64) -> Self {
        Self { middle, low: middle - half_width, high: middle + half_width }
    }

    /// From relative lifts; none where the estimate is no positive rate.
    fn from_lifts(lifts: Interval) -> Option<Self> {
        let log = |lift: f64| lift.max(-1.0).ln_1p();
        (lifts.estimate > -1.0).then(|| Self {
            middle: log(lifts.estimate),
            low: log(lifts.low),
            high: log(lifts.high),
        })
    }

    /// Whether it holds a log-lift.
    #[must_use]
    pub fn holds(&self, log_lift: f64) -> bool {
        (self.low..=self.high).contains(&log_lift)
    }
}

/// The true log-lift of each treated arm; none where it changes over time.
#[must_use]
pub fn truths(scenario: &Scenario) -> Vec<Option<f64>> {
    let arms = &scenario.doc().arms;
    let log = |arm: &ArmSpec| arm.novelty.is_none().then(|| arm.lift.ln_1p()).filter(|log| log.is_finite());
    let control = log(&arms[0]);
    arms[1..].iter().map(|arm| Some(log(arm)? - control?)).collect()
}

/// Puts the data before every estimator. `excluded` says of each treated arm whether the confidence sequence ever
/// excluded its truth.
pub(crate) fn all(
    observed: &Observed<'_>,
    truths: &[Option<f64>],
    excluded: &[bool],
) -> Result<Vec<NamedEstimates>, SimulationError> {
    let named = |(name, estimator): &(&str, Estimator)| {
        let at_every_look = *name == CONFIDENCE_SEQUENCE;
        let arm = |(i, interval): (usize, Option<LogInterval>)| {
            let interval = interval?;
            let truth = truths[i];
            let covers = truth.map(|truth| interval.holds(truth) && !(at_every_look && excluded[i]));
            // Beyond a factor of e^±100 the ends say nothing, and infinity cannot be stored as JSON.
            let lift = |log: f64| log.clamp(-100.0, 100.0).exp_m1();
            Some(Estimate {
                lift: lift(interval.middle),
                low: lift(interval.low),
                high: lift(interval.high),
                truth: truth.map(f64::exp_m1),
                covers,
            })
        };
        let arms = estimator(observed)?.into_iter().enumerate().map(arm).collect();
        Ok(NamedEstimates { estimator: (*name).to_owned(), arms })
    };
    ESTIMATORS.iter().map(named).collect()
}
