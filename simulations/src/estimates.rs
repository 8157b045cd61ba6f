//! The estimators of lift that are applied to every run at its end, by name. Each interval is then compared with the
//! true lift. To add an estimator, write a function and list it in [`ESTIMATORS`].

use inroad_policy::{
    ANYTIME_RHO, AlternativeEstimates, EpochTally, Interval, LiftEstimate, Measure, Moments, Posterior, Prior,
    alternative_estimates, anytime_half_width,
};

use crate::SimulationError;
use crate::results::{Estimate, NamedEstimates};
use crate::scenario::{ArmSpec, Scenario};
use crate::statistics::Statistics;

/// 97.5% quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;
const ALPHA: f64 = 0.05;
/// Information (1/variance) on a log-lift below which an estimate without prior is left out.
const INFORMATION_MIN: f64 = 1e-3;
/// Name of the estimator that people are shown.
pub const DISPLAYED: &str = "displayed";
/// Name of the estimator of killed arms.
const E3_KILLED: &str = "e3-killed";
/// Name of the estimator whose interval must contain the truth at every tick.
pub const CONFIDENCE_SEQUENCE: &str = "cs";

/// The data of one run, as an estimator gets it.
#[derive(Debug, Clone, Copy)]
pub struct RunData<'a> {
    /// Number of arms, control included.
    pub arms: usize,
    /// The tallies of all epochs.
    pub epochs: &'a [EpochTally],
    /// How estimates treat the metric.
    pub measure: Measure,
    /// Prior standard deviation of a log-lift.
    pub tau: f64,
    /// One per arm: whether it was never killed.
    pub live: &'a [bool],
}

/// A log-lift over control with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogInterval {
    /// The estimate.
    pub middle: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// An estimator. It returns one interval per variation, none where it has too little data. Its results for killed arms are
/// left out if its intervals hold at a fixed time only.
pub type Estimator = fn(&RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError>;

/// All estimators by name.
pub const ESTIMATORS: &[(&str, Estimator)] = &[
    ("pooled", pooled_rates),
    ("period", period_weighted),
    (DISPLAYED, displayed),
    ("e3", e3),
    (E3_KILLED, e3_killed),
    ("e3-flat", e3_flat),
    ("e3-joint", e3_joint),
    ("bols", batched),
    (CONFIDENCE_SEQUENCE, confidence_sequence),
];

/// Ratio of raw rates over the whole run, with the variance by the delta method. It is biased when rates drift while
/// shares change.
fn pooled_rates(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let log_rates: Vec<Option<(f64, f64)>> = (0..data.arms).map(|arm| log_rate(data, arm)).collect();
    let control = log_rates[0];
    let lift = |rate: &Option<(f64, f64)>| {
        let ((log, variance), (base, base_variance)) = ((*rate)?, control?);
        Some(LogInterval::around(log - base, Z_95 * (variance + base_variance).sqrt()))
    };
    Ok(log_rates[1..].iter().map(lift).collect())
}

/// The logarithm of the rate of an arm over all epochs, and its variance; none without outcomes.
fn log_rate(data: &RunData<'_>, arm: usize) -> Option<(f64, f64)> {
    let n: u64 = data.epochs.iter().map(|epoch| epoch.arms[arm].n).sum();
    let mut total = Moments::default();
    for tally in data.epochs.iter().map(|epoch| &epoch.arms[arm]) {
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
    let (denominator, y_squares, xy) = match data.measure {
        Measure::Ratio => (total.y, total.yy, total.xy),
        _ => (n as f64, n as f64, total.x),
    };
    let rate = total.x / denominator;
    let residual = total.xx - 2.0 * rate * xy + rate * rate * y_squares;
    Some((rate.ln(), residual / (total.x * total.x)))
}

/// Normal intervals from a posterior; none where the information is too small.
fn normal_intervals(posterior: &Posterior) -> Vec<Option<LogInterval>> {
    let interval = |arm| {
        let sd = posterior.sd(arm);
        let informative = sd * sd < 1.0 / INFORMATION_MIN;
        informative.then(|| LogInterval::around(posterior.mean[arm], Z_95 * sd))
    };
    (1..posterior.mean.len()).map(interval).collect()
}

/// What people are shown of each variation: E3 without prior, compared with control only; an always-valid interval if the
/// arm was killed; nothing while it is too early, or where a difference is shown instead.
fn displayed(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let shown = Statistics::new(data.measure).shown_lifts(data.epochs, data.live)?;
    let lift = |shown: Option<LiftEstimate>| LogInterval::from_lifts(shown?.relative()?);
    Ok(shown.into_iter().skip(1).map(lift).collect())
}

/// The displayed lifts of live arms.
fn e3(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let lifts = displayed(data)?.into_iter().zip(&data.live[1..]);
    Ok(lifts.map(|(lift, live)| lift.filter(|_| *live)).collect())
}

/// The displayed lifts of killed arms. Their interval is valid at any time at which they may have been stopped.
fn e3_killed(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let lifts = displayed(data)?.into_iter().zip(&data.live[1..]);
    Ok(lifts.map(|(lift, live)| lift.filter(|_| !*live)).collect())
}

/// E3 of all arms together: the posterior that the policy decides by. An arm whose lift changes biases the others.
fn e3_joint(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    Ok(normal_intervals(&Statistics::new(data.measure).joint_posterior(
        data.arms,
        data.epochs,
        Prior::Normal(data.tau),
    )?))
}

/// E3 without a prior.
fn e3_flat(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let posterior = Statistics::new(data.measure).posterior_without_prior(data.arms, data.epochs)?;
    Ok(posterior.map_or(vec![None; data.arms - 1], |posterior| normal_intervals(&posterior)))
}

/// One of the policy crate's other estimates: period-weighted, or batched with fixed weights.
fn other_estimate(
    data: &RunData<'_>,
    which: fn(&AlternativeEstimates) -> Interval,
) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let Some(flat) = Statistics::new(data.measure).posterior_without_prior(data.arms, data.epochs)? else {
        return Ok(vec![None; data.arms - 1]);
    };
    let all = alternative_estimates(data.measure, data.arms, data.epochs, &flat)?;
    Ok(all[1..].iter().map(|alternatives| LogInterval::from_lifts(which(alternatives.as_ref()?))).collect())
}

fn period_weighted(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    other_estimate(data, |alternatives| alternatives.period)
}

fn batched(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    other_estimate(data, |alternatives| alternatives.batched)
}

/// The always-valid interval around E3 without a prior.
fn confidence_sequence(data: &RunData<'_>) -> Result<Vec<Option<LogInterval>>, SimulationError> {
    let posterior = Statistics::new(data.measure).posterior_without_prior(data.arms, data.epochs)?;
    Ok((1..data.arms).map(|arm| always_valid_interval(posterior.as_ref()?, arm)).collect())
}

/// The interval of the confidence sequence at one tick.
pub(crate) fn always_valid_interval(posterior: &Posterior, arm: usize) -> Option<LogInterval> {
    let information = 1.0 / posterior.covariance[arm][arm];
    let half_width = || anytime_half_width(information, ANYTIME_RHO, ALPHA);
    (information > INFORMATION_MIN).then(|| LogInterval::around(posterior.mean[arm], half_width()))
}

impl LogInterval {
    fn around(middle: f64, half_width: f64) -> Self {
        Self { middle, low: middle - half_width, high: middle + half_width }
    }

    /// From relative lifts; none if the estimate is a lift of −100% or less, which has no logarithm.
    fn from_lifts(lifts: Interval) -> Option<Self> {
        let log = |lift: f64| lift.max(-1.0).ln_1p();
        (lifts.estimate > -1.0).then(|| Self {
            middle: log(lifts.estimate),
            low: log(lifts.low),
            high: log(lifts.high),
        })
    }

    /// Whether the interval contains a log-lift.
    #[must_use]
    pub fn contains(&self, log_lift: f64) -> bool {
        (self.low..=self.high).contains(&log_lift)
    }
}

/// The true log-lift of each variation; none if it changes over time, or if the metric has no relative lift.
#[must_use]
pub fn true_log_lifts(scenario: &Scenario) -> Vec<Option<f64>> {
    let arms = &scenario.doc().arms;
    let has_lifts = !scenario.measure().is_difference();
    let is_constant = |arm: &ArmSpec| has_lifts && arm.novelty.is_none();
    let log = |arm: &ArmSpec| is_constant(arm).then(|| arm.lift.ln_1p()).filter(|log| log.is_finite());
    let control = log(&arms[0]);
    arms[1..].iter().map(|arm| Some(log(arm)? - control?)).collect()
}

/// Applies every estimator. `excluded` has one entry per variation: whether the confidence sequence ever excluded the
/// true lift.
pub(crate) fn apply_all(
    data: &RunData<'_>,
    truths: &[Option<f64>],
    excluded: &[bool],
) -> Result<Vec<NamedEstimates>, SimulationError> {
    let named = |(name, estimator): &(&str, Estimator)| {
        let at_every_tick = *name == CONFIDENCE_SEQUENCE;
        let any_time = at_every_tick || [DISPLAYED, E3_KILLED].contains(name);
        let arm = |(i, interval): (usize, Option<LogInterval>)| {
            // An arm was killed because of its data. Intervals for a fixed time do not hold for it.
            let interval = interval.filter(|_| any_time || data.live[i + 1])?;
            let truth = truths[i];
            let covers = truth.map(|truth| interval.contains(truth) && !(at_every_tick && excluded[i]));
            // Ends beyond a factor of e^±100 carry no information, and JSON cannot store infinity.
            let lift = |log: f64| log.clamp(-100.0, 100.0).exp_m1();
            Some(Estimate {
                lift: lift(interval.middle),
                low: lift(interval.low),
                high: lift(interval.high),
                truth: truth.map(f64::exp_m1),
                covers,
            })
        };
        // All estimators are of relative lifts.
        let lifts = if data.measure.is_difference() { vec![None; data.arms - 1] } else { estimator(data)? };
        let arms = lifts.into_iter().enumerate().map(arm).collect();
        Ok(NamedEstimates { estimator: (*name).to_owned(), arms })
    };
    ESTIMATORS.iter().map(named).collect()
}
