//! The results that people see for each arm: raw mean, lift, probability to be best, an always-valid interval, and
//! alternative estimates. Nothing here influences growth.

use inroad_assignment::PosteriorKind;

use crate::alternative_estimates::{AlternativeEstimates, alternative_estimates};
use crate::anytime::{ALPHA, ANYTIME_RHO, anytime_half_width, confidence_sequence};
use crate::draws::DrawsCache;
use crate::e3::{Estimator, Posterior, Prior};
use crate::error::PolicyError;
use crate::interval::Interval;
use crate::pooled_beta::{compare_pooled, pooled_value_remaining};
use crate::probability_best::{Comparison, compare, potential_value_remaining};
use crate::tallies::{BetterDirection, EpochTally, Measure};

/// The input of [`summarise`]: one metric of an experiment.
#[derive(Debug, Clone, Copy)]
pub struct SummaryInput<'a> {
    /// The metric's tallies.
    pub epochs: &'a [EpochTally],
    /// What the metric measures.
    pub measure: Measure,
    /// Which values are better.
    pub better: BetterDirection,
    /// Whether each arm is live (not killed), control first. Control must be live.
    pub live: &'a [bool],
    /// Prior standard deviation τ of a log-lift, above 0.
    pub tau: f64,
    /// The posterior from which the probability to be best is computed.
    pub posterior: PosteriorKind,
    /// Seed of the draws.
    pub seed: u64,
    /// Number of draws as a power of two, 6..=16.
    pub draws_log2: u32,
}

/// The results of one arm.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmSummary {
    /// Stable records.
    pub n: u64,
    /// Those of `n` with an outcome.
    pub s: u64,
    /// Raw mean per unit: s/n for conversions, the mean, or the ratio. None without records. Raw means of arms are not
    /// comparable if shares have changed; `lift` is.
    pub mean: Option<f64>,
    /// Posterior lift, against control alone, with its 95% credible interval. None for control, and none while it would
    /// be the prior alone: until both have records and one of them an outcome. For killed arms see [`displayed_lift`].
    pub lift: Option<Interval>,
    /// Lift over control without prior, with a 95% confidence *sequence*: with a probability of 95% the interval
    /// contains the true lift at all checks together. None for control and where there is no information.
    pub anytime: Option<Interval>,
    /// Estimates by other methods; none for control and with too few events.
    pub alternatives: Option<AlternativeEstimates>,
    /// Probability to be the best live arm, 0..=1.
    pub p_best: f64,
    /// Probability to be better than control; ½ for control.
    pub p_above_control: f64,
    /// Expected loss of choosing the arm, as a share of conversions, 0..=1; none for killed arms.
    pub expected_loss: Option<f64>,
}

/// The results of all arms by one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One per arm, control first.
    pub arms: Vec<ArmSummary>,
    /// The live arm with the largest probability to be best.
    pub leader: usize,
    /// Maximum remaining gain: with 95% probability the best arm is better than the leader by at most this, relative
    /// (Scott 2010). 0 if there is nothing left to learn.
    pub potential_value_remaining: f64,
}

/// Computes the results of all arms by one metric. `draws` only saves making the same draws again. Fails for impossible
/// tallies, a killed control, and settings out of range.
pub fn summarise(input: &SummaryInput<'_>, draws: &mut DrawsCache) -> Result<Summary, PolicyError> {
    let SummaryInput { epochs, measure, better, live, tau, posterior: kind, seed, draws_log2 } = *input;
    let arms = live.len();
    if live.first() != Some(&true) {
        return Err(PolicyError::ControlKilled);
    }
    let mut estimator = Estimator::default();
    let flat = estimator.fit_each_against_control(measure, arms, epochs, Prior::Flat)?;
    let displayed = estimator.fit_each_against_control(measure, arms, epochs, Prior::Normal(tau))?;
    let treated = live.iter().filter(|live| **live).count() - 1;
    let draws = draws.get(seed, treated, draws_log2)?;
    let (comparison, potential_value_remaining) = match kind {
        PosteriorKind::E3 => {
            let posterior = estimator.fit(measure, arms, epochs, Prior::Normal(tau))?.into_benefit(better);
            let comparison = compare(&posterior, live, draws)?;
            let remaining = potential_value_remaining(&posterior, live, comparison.leader(), draws)?;
            (comparison, remaining)
        }
        PosteriorKind::Pooled => {
            let (_, comparison) = compare_pooled(epochs, live, better)?;
            let remaining = pooled_value_remaining(epochs, live, better, comparison.leader());
            (comparison, remaining)
        }
    };
    let leader = comparison.leader();
    let alternatives = alternative_estimates(measure, arms, epochs, &flat)?;
    let arm = |arm: usize| arm_summary(input, arm, &displayed, &flat, &comparison, alternatives[arm]);
    Ok(Summary { arms: (0..arms).map(arm).collect(), leader, potential_value_remaining })
}

/// An arm's lift as people see it: the posterior with its 95% credible interval. An arm that was killed was stopped by
/// its own data, so it gets an interval that is valid at any stopping time. An interval for a fixed time would be too
/// short (its coverage falls to about 88% in A/A tests).
#[must_use]
pub fn displayed_lift(posterior: &Posterior, arm: usize, live: bool) -> Interval {
    if live {
        return Interval::credible(posterior, arm);
    }
    let information = 1.0 / posterior.covariance[arm][arm];
    Interval::from_log(posterior.mean[arm], anytime_half_width(information, ANYTIME_RHO, ALPHA))
}

fn arm_summary(
    input: &SummaryInput<'_>,
    arm: usize,
    posterior: &Posterior,
    flat: &Posterior,
    comparison: &Comparison,
    alternatives: Option<AlternativeEstimates>,
) -> ArmSummary {
    let cells = || input.epochs.iter().map(|epoch| input.measure.cell(&epoch.arms[arm]));
    let (sum, size): (f64, f64) = cells().fold((0.0, 0.0), |(sum, size), cell| (sum + cell.sum, size + cell.size));
    let counted =
        |arm: usize| input.epochs.iter().fold((0, 0), |(n, s), epoch| (n + epoch.arms[arm].n, s + epoch.arms[arm].s));
    let (n, s) = counted(arm);
    let (control_n, control_s) = counted(0);
    // Without these the lift would be the prior alone, which is not a measurement.
    let is_known = n > 0 && control_n > 0 && s + control_s > 0;
    ArmSummary {
        n,
        s,
        mean: (size > 0.0).then(|| sum / size),
        lift: (arm > 0 && is_known).then(|| displayed_lift(posterior, arm, input.live[arm])),
        anytime: confidence_sequence(flat, arm, ALPHA),
        alternatives,
        p_best: comparison.p_best[arm],
        p_above_control: comparison.p_above_control[arm],
        expected_loss: comparison.relative_loss(arm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tallies::{ArmTally, EpochKey};

    fn lift(control: (u64, u64), arm: (u64, u64)) -> Option<Interval> {
        let tally = |(n, s): (u64, u64)| ArmTally { first: n, n, s, ..ArmTally::default() };
        let epoch = EpochTally {
            epoch: EpochKey { tick: 0, revision: 1 },
            shares: vec![0.5, 0.5],
            arms: vec![tally(control), tally(arm)],
        };
        let input = SummaryInput {
            epochs: &[epoch],
            measure: Measure::Conversion,
            better: BetterDirection::Higher,
            live: &[true, true],
            tau: 0.25,
            posterior: PosteriorKind::E3,
            seed: 1,
            draws_log2: 6,
        };
        summarise(&input, &mut DrawsCache::default()).unwrap().arms[1].lift
    }

    #[test]
    fn prior_alone_is_not_reported_as_a_lift() {
        for nothing in [((0, 0), (0, 0)), ((100, 10), (0, 0)), ((0, 0), (100, 10)), ((100, 0), (100, 0))] {
            assert_eq!(lift(nothing.0, nothing.1), None, "{nothing:?}");
        }
        assert!(lift((100, 10), (100, 0)).is_some() && lift((100, 0), (100, 10)).is_some());
    }
}
