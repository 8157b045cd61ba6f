//! What people are shown of each arm, now: raw means, lift, who is probably best, an interval that stays true however
//! often they look, and what others make of the same tallies. It decides nothing.

use serde::{Deserialize, Serialize};

use crate::anytime::{ALPHA, ANYTIME_RHO, anytime_half_width, confidence_sequence};
use crate::beta::compare_pooled;
use crate::opinion::{Opinion, Z_95, opinions};
use crate::{
    Better, Comparison, EpochTally, Estimator, Measure, PointsCache, PolicyError, Posterior, Prior, compare,
    potential_value_remaining,
};
use inroad_assignment::PosteriorKind;

/// An estimate with its interval: of a relative lift over control (0.1 is ten per cent more), or where it says so of a
/// difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The middle; for lifts on the log scale.
    pub estimate: f64,
    /// Lower end; of a lift, above −1.
    pub low: f64,
    /// Upper end; it may be huge, never infinite.
    pub high: f64,
}

impl Interval {
    /// From an estimate and a half width on the log scale.
    pub(crate) fn from_log(middle: f64, half_width: f64) -> Self {
        // Beyond a factor of e^±100 the ends say nothing, and infinity cannot be stored as JSON.
        let lift = |log: f64| libm::expm1(log.clamp(-100.0, 100.0));
        Self { estimate: lift(middle), low: lift(middle - half_width), high: lift(middle + half_width) }
    }

    /// The middle 95% of an arm's lift.
    pub(crate) fn credible(posterior: &Posterior, arm: usize) -> Self {
        Self::from_log(posterior.mean[arm], Z_95 * posterior.sd(arm))
    }

    /// Whether `value` lies within, ends included.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct SummaryQuestion<'a> {
    /// A metric's tallies.
    pub epochs: &'a [EpochTally],
    /// How it is measured.
    pub measure: Measure,
    /// Which way it is better.
    pub better: Better,
    /// One per arm, control first and live.
    pub live: &'a [bool],
    /// Prior standard deviation of a log-lift.
    pub tau: f64,
    /// What P(best) is computed from.
    pub posterior: PosteriorKind,
    /// Chooses the draws.
    pub seed: u64,
    /// How many, as a power of two, 6..=16.
    pub draws_log2: u32,
}

/// One arm, as people are shown it.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmSummary {
    /// Stable records.
    pub n: u64,
    /// Those of them with an outcome.
    pub s: u64,
    /// What a unit has come to on average: s/n for conversions, the mean, the ratio. None without records. Arms' raw means
    /// are not comparable when shares have changed: `lift` is.
    pub mean: Option<f64>,
    /// Posterior lift, against control alone, with its 95% credible interval; none for control, nor while it would be the
    /// prior alone: before both have records, and either an outcome. Of a killed arm see [`shown_lift`].
    pub lift: Option<Interval>,
    /// Lift over control without prior, with a 95% confidence *sequence*: true at every look at once, with probability
    /// 95%. None for control and where there is no information.
    pub anytime: Option<Interval>,
    /// What others make of it; none for control and with too few events.
    pub opinion: Option<Opinion>,
    /// Probability of being the best live arm, 0..=1.
    pub p_best: f64,
    /// Probability of being better than control; ½ for control.
    pub p_above_control: f64,
    /// The share of conversions that choosing it is expected to forgo, 0..=1; none for killed arms.
    pub expected_loss: Option<f64>,
}

/// The state of every arm, and of the whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One per arm, control first.
    pub arms: Vec<ArmSummary>,
    /// The live arm with the largest P(best).
    pub leader: usize,
    /// What the best arm may still be better by than the leader, relative, with 95% probability (Scott 2010); 0 is
    /// nothing left to learn.
    pub potential_value_remaining: f64,
}

/// The state of every arm by one metric.
pub fn summarise(question: &SummaryQuestion<'_>, points: &mut PointsCache) -> Result<Summary, PolicyError> {
    let SummaryQuestion { epochs, measure, better, live, tau, posterior: kind, seed, draws_log2 } = *question;
    let arms = live.len();
    if live.first() != Some(&true) {
        return Err(PolicyError::ControlKilled);
    }
    let mut estimator = Estimator::default();
    let flat = estimator.fit_each(measure, arms, epochs, Prior::Flat)?;
    let shown = estimator.fit_each(measure, arms, epochs, Prior::Normal(tau))?;
    let treated = live.iter().filter(|live| **live).count() - 1;
    let points = points.get(seed, treated, draws_log2)?;
    let (posterior, comparison) = match kind {
        PosteriorKind::E3 => {
            let posterior = estimator.fit(measure, arms, epochs, Prior::Normal(tau))?;
            let comparison = compare(&posterior.clone().benefit(better), live, points)?;
            (posterior, comparison)
        }
        PosteriorKind::Pooled => compare_pooled(epochs, live, better)?,
    };
    let leader = comparison.leader();
    let potential_value_remaining =
        potential_value_remaining(&posterior.clone().benefit(better), live, leader, points)?;
    let opinions = opinions(measure, arms, epochs, &flat)?;
    let arm = |arm: usize| arm_summary(question, arm, &shown, &flat, &comparison, opinions[arm]);
    Ok(Summary { arms: (0..arms).map(arm).collect(), leader, potential_value_remaining })
}

/// An arm's lift as people are shown it: the posterior with its 95% interval. What was stopped by its own data has an
/// interval that holds at whatever instant it was stopped: one for a fixed time would be too short (its coverage falls to
/// about 88% in A/A tests).
#[must_use]
pub fn shown_lift(posterior: &Posterior, arm: usize, live: bool) -> Interval {
    if live {
        return Interval::credible(posterior, arm);
    }
    let information = 1.0 / posterior.covariance[arm][arm];
    Interval::from_log(posterior.mean[arm], anytime_half_width(information, ANYTIME_RHO, ALPHA))
}

fn arm_summary(
    question: &SummaryQuestion<'_>,
    arm: usize,
    posterior: &Posterior,
    flat: &Posterior,
    comparison: &Comparison,
    opinion: Option<Opinion>,
) -> ArmSummary {
    let cells = || question.epochs.iter().map(|epoch| question.measure.cell(&epoch.arms[arm]));
    let (sum, size): (f64, f64) = cells().fold((0.0, 0.0), |(sum, size), cell| (sum + cell.sum, size + cell.size));
    let counted = |arm: usize| {
        question.epochs.iter().fold((0, 0), |(n, s), epoch| (n + epoch.arms[arm].n, s + epoch.arms[arm].s))
    };
    let (n, s) = counted(arm);
    let (control_n, control_s) = counted(0);
    // Without these there is nothing but the prior to tell, and it is no measurement.
    let is_known = n > 0 && control_n > 0 && s + control_s > 0;
    ArmSummary {
        n,
        s,
        mean: (size > 0.0).then(|| sum / size),
        lift: (arm > 0 && is_known).then(|| shown_lift(posterior, arm, question.live[arm])),
        anytime: confidence_sequence(flat, arm, ALPHA),
        opinion,
        p_best: comparison.p_best[arm],
        p_above_control: comparison.p_above_control[arm],
        expected_loss: comparison.relative_loss(arm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArmTally, EpochKey};

    fn lift(control: (u64, u64), arm: (u64, u64)) -> Option<Interval> {
        let tally = |(n, s): (u64, u64)| ArmTally { first: n, n, s, ..ArmTally::default() };
        let epoch = EpochTally {
            epoch: EpochKey { tick: 0, revision: 1 },
            shares: vec![0.5, 0.5],
            arms: vec![tally(control), tally(arm)],
        };
        let question = SummaryQuestion {
            epochs: &[epoch],
            measure: Measure::Conversion,
            better: Better::More,
            live: &[true, true],
            tau: 0.25,
            posterior: PosteriorKind::E3,
            seed: 1,
            draws_log2: 6,
        };
        summarise(&question, &mut PointsCache::default()).unwrap().arms[1].lift
    }

    #[test]
    fn the_prior_alone_is_no_lift() {
        for nothing in [((0, 0), (0, 0)), ((100, 10), (0, 0)), ((0, 0), (100, 10)), ((100, 0), (100, 0))] {
            assert_eq!(lift(nothing.0, nothing.1), None, "{nothing:?}");
        }
        assert!(lift((100, 10), (100, 0)).is_some() && lift((100, 0), (100, 10)).is_some());
    }
}
