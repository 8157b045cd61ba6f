//! The results that people see for each arm: raw mean, lift, probability to be best, an always-valid interval, and
//! alternative estimates. Nothing here influences growth.
//!
//! Lifts and their intervals are without the policy's prior: it would pull them towards 0. P(best), P(> control) and
//! expected loss are those of the policy, with its prior, and only where all live arms are measured: before that they
//! would be little more than the prior.

use inroad_assignment::PosteriorKind;

use crate::alternative_estimates::{AlternativeEstimates, estimate_arm};
use crate::draws::DrawsCache;
use crate::e3::{Estimator, Posterior, Prior};
use crate::error::PolicyError;
use crate::interval::Interval;
use crate::lift_estimate::{
    ArmCounts, LiftEstimate, NoRelativeLift, NotMeasured, Progress, ShownLift, progress, shown_lifts_with_fits,
};
use crate::pooled_beta::{compare_pooled, pooled_value_remaining};
use crate::probability_best::{Comparison, compare, potential_value_remaining};
use crate::tallies::{BetterDirection, EpochTally, Measure, checked_in_order};

/// An arm leads only if its probability to be best exceeds that of every other arm by more than this. Smaller differences
/// are within the error of the draws, and look like a tie.
const LEAD_MIN: f64 = 0.01;

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
    /// The policy's prior standard deviation τ of a log-lift, above 0. It affects probabilities, not lifts.
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
    /// Raw mean per unit: s/n for conversions, the mean, or the ratio. None without records, or without denominators.
    /// Raw means of arms are not comparable if shares have changed; `lift` is.
    pub mean: Option<f64>,
    /// What can be said about the lift, against control alone and without prior. None for control.
    pub lift: Option<LiftEstimate>,
    /// The same quantity with a 95% confidence *sequence*: with a probability of 95% the interval contains the true value
    /// at all checks together. None for control and without an estimate.
    pub anytime: Option<Interval>,
    /// The difference of the means, arm minus control, in the metric's own unit, averaged over reporting intervals. None for
    /// control and with too few events. For a killed arm, the interval is as wide as one that is valid at any stopping time.
    pub difference: Option<Interval>,
    /// Estimates by other methods. None for control, with too few events, and for killed arms: these intervals are valid
    /// at a fixed time only.
    pub alternatives: Option<AlternativeEstimates>,
    /// With the policy's prior: probability to be the best live arm, 0..=1. None if [`Summary::ranking`] is not known.
    pub p_best: Option<f64>,
    /// With the policy's prior: probability to be better than control. None for control and without an estimate.
    pub p_above_control: Option<f64>,
    /// With the policy's prior: expected loss of choosing the arm, as a share of conversions, 0..=1. None for killed arms,
    /// where a difference replaces the relative lift, of all arms if that is because of control, and if the ranking is not
    /// known.
    pub expected_loss: Option<f64>,
}

/// How the live arms compare with each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ranking {
    /// All live arms are measured.
    Known {
        /// The live arm with the largest probability to be best. None for a tie.
        leader: Option<usize>,
        /// Maximum remaining gain: with 95% probability the best arm is better than the most likely best one by at most
        /// this, relative (Scott 2010). 0 if there is nothing left to learn. None for measures of differences, and if control
        /// has too few outcomes for relative lifts.
        potential_value_remaining: Option<f64>,
    },
    /// All variations are killed, so there is nothing to compare.
    AllKilled,
    /// A live arm has too few units or outcomes. The progress is that of all live arms together.
    TooEarly(Progress),
    /// A live arm cannot be measured.
    NotMeasured(NotMeasured),
}

/// The results of all arms by one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One per arm, control first.
    pub arms: Vec<ArmSummary>,
    /// How the live arms compare.
    pub ranking: Ranking,
}

impl Summary {
    /// The live arm that is most likely to be best, if the ranking is known and not a tie.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        match self.ranking {
            Ranking::Known { leader, .. } => leader,
            Ranking::AllKilled | Ranking::TooEarly(_) | Ranking::NotMeasured(_) => None,
        }
    }

    /// Whether the live arms can be compared with each other.
    #[must_use]
    pub fn is_ranked(&self) -> bool {
        matches!(self.ranking, Ranking::Known { .. })
    }
}

/// Computes the results of all arms by one metric. `draws` only saves making the same draws again. Fails for impossible
/// tallies, a killed control, and settings out of range.
pub fn summarise(input: &SummaryInput<'_>, draws: &mut DrawsCache) -> Result<Summary, PolicyError> {
    let SummaryInput { epochs, measure, live, .. } = *input;
    let arms = live.len();
    if live.first() != Some(&true) {
        return Err(PolicyError::ControlKilled);
    }
    let ordered = checked_in_order(arms, epochs)?;
    let mut estimator = Estimator::default();
    let mut flat: Vec<Option<Posterior>> = vec![None; arms];
    let shown = shown_lifts_with_fits(&mut estimator, measure, epochs, live, &mut flat)?;
    let (posterior, comparison) = compare_live_arms(input, &mut estimator, draws)?;
    let ranking = rank(input, &shown, &posterior, &comparison, draws)?;
    let alternatives = |arm: usize| {
        // Where a difference replaces a lift, the other methods have too few outcomes for a lift.
        let is_comparable = matches!(shown[arm]?.estimate, LiftEstimate::Measured(_)) || measure.is_difference();
        flat[arm].as_ref().filter(|_| is_comparable).and_then(|flat| estimate_arm(measure, &ordered, flat, arm))
    };
    let is_ranked = matches!(ranking, Ranking::Known { .. });
    let has_losses = is_ranked && !measure.is_difference() && !lacks_control(&shown);
    let arm = |arm: usize| ArmSummary {
        expected_loss: comparison.relative_loss(arm).filter(|_| {
            let is_difference = shown[arm].is_some_and(|shown| shown.estimate.difference().is_some());
            has_losses && !is_difference
        }),
        ..arm_summary(input, arm, shown[arm], alternatives(arm), &comparison, is_ranked)
    };
    Ok(Summary { arms: (0..arms).map(arm).collect(), ranking })
}

/// The posterior of the policy, as measured, and the comparison of the live arms by it.
fn compare_live_arms(
    input: &SummaryInput<'_>,
    estimator: &mut Estimator,
    draws: &mut DrawsCache,
) -> Result<(Posterior, Comparison), PolicyError> {
    let SummaryInput { epochs, measure, better, live, tau, posterior, seed, draws_log2 } = *input;
    match posterior {
        PosteriorKind::E3 => {
            let posterior = estimator.fit(measure, live.len(), epochs, Prior::Normal(tau))?;
            let draws = draws.get(seed, treated(live), draws_log2)?;
            let comparison = compare(&posterior.clone().into_benefit(better), live, draws)?;
            Ok((posterior, comparison))
        }
        PosteriorKind::Pooled => compare_pooled(epochs, live, better),
    }
}

fn treated(live: &[bool]) -> usize {
    live.iter().filter(|live| **live).count() - 1
}

fn rank(
    input: &SummaryInput<'_>,
    shown: &[Option<ShownLift>],
    posterior: &Posterior,
    comparison: &Comparison,
    draws: &mut DrawsCache,
) -> Result<Ranking, PolicyError> {
    let SummaryInput { epochs, measure, better, live, posterior: kind, seed, draws_log2, .. } = *input;
    if treated(live) == 0 {
        return Ok(Ranking::AllKilled);
    }
    let estimates: Vec<LiftEstimate> =
        shown.iter().zip(live).filter(|(_, live)| **live).filter_map(|(lift, _)| Some((*lift)?.estimate)).collect();
    if let Some(reason) = estimates.iter().find_map(|estimate| match estimate {
        LiftEstimate::NotMeasured(reason) => Some(*reason),
        _ => None,
    }) {
        return Ok(Ranking::NotMeasured(reason));
    }
    let early = estimates.iter().filter_map(|estimate| match estimate {
        LiftEstimate::TooEarly(progress) => Some(*progress),
        _ => None,
    });
    if let Some(missing) = early.map(|pair| pair.missing()).reduce(f64::max) {
        let counts: Vec<ArmCounts> =
            (0..live.len()).filter(|arm| live[*arm]).map(|arm| ArmCounts::of(measure, epochs, arm)).collect();
        let all = progress(measure, &counts, 1.0);
        let is_enough = all.units_needed.is_some_and(|needed| needed <= all.units);
        return Ok(Ranking::TooEarly(if is_enough { progress(measure, &counts, missing) } else { all }));
    }
    let first = comparison.leader();
    let second = (0..live.len()).filter(|arm| *arm != first).map(|arm| comparison.p_best[arm]).fold(0.0, f64::max);
    let remaining = match kind {
        PosteriorKind::E3 => {
            let draws = draws.get(seed, treated(live), draws_log2)?;
            potential_value_remaining(&posterior.clone().into_benefit(better), live, first, draws)?
        }
        PosteriorKind::Pooled => pooled_value_remaining(epochs, live, better, first),
    };
    Ok(Ranking::Known {
        leader: (comparison.p_best[first] - second > LEAD_MIN).then_some(first),
        potential_value_remaining: (posterior.unit.is_none() && !lacks_control(shown)).then_some(remaining),
    })
}

/// Whether control has too few outcomes for anything relative to it.
fn lacks_control(shown: &[Option<ShownLift>]) -> bool {
    let is_few = |lift: &ShownLift| {
        let LiftEstimate::Difference { reason: NoRelativeLift::FewOutcomes { control, arm }, .. } = lift.estimate
        else {
            return false;
        };
        control <= arm
    };
    shown.iter().flatten().any(is_few)
}

fn arm_summary(
    input: &SummaryInput<'_>,
    arm: usize,
    shown: Option<ShownLift>,
    alternatives: Option<AlternativeEstimates>,
    comparison: &Comparison,
    is_ranked: bool,
) -> ArmSummary {
    let ArmCounts { n, s, size, sum, .. } = ArmCounts::of(input.measure, input.epochs, arm);
    let widened = |difference: Interval| {
        let factor = shown.map_or(1.0, |shown| shown.widening);
        let end = |end: f64| difference.estimate + factor * (end - difference.estimate);
        Interval { estimate: difference.estimate, low: end(difference.low), high: end(difference.high) }
    };
    let estimate = shown.map(|shown| shown.estimate);
    let instead = estimate.and_then(|estimate| estimate.difference());
    ArmSummary {
        n,
        s,
        mean: (size > 0.0).then(|| sum / size),
        lift: estimate,
        anytime: shown.and_then(|shown| shown.anytime),
        difference: instead.or_else(|| alternatives.map(|found| widened(found.difference))),
        alternatives: alternatives.filter(|_| input.live[arm]),
        p_best: is_ranked.then(|| comparison.p_best[arm]),
        p_above_control: estimate.filter(LiftEstimate::is_known).map(|_| comparison.p_above_control[arm]),
        expected_loss: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tallies::{ArmTally, EpochKey, Moments};

    fn summary(measure: Measure, arms: Vec<ArmTally>, live: &[bool]) -> Summary {
        let epochs = [EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: Vec::new() }];
        let input = SummaryInput {
            epochs: &epochs,
            measure,
            better: BetterDirection::Higher,
            live,
            tau: 0.25,
            posterior: PosteriorKind::E3,
            seed: 1,
            draws_log2: 12,
        };
        summarise(&input, &mut DrawsCache::default()).unwrap()
    }

    fn conversions(arms: &[(u64, u64)]) -> Summary {
        let tally = |&(n, s): &(u64, u64)| ArmTally { first: n, n, s, ..ArmTally::default() };
        summary(Measure::Conversion, arms.iter().map(tally).collect(), &vec![true; arms.len()])
    }

    #[test]
    fn prior_alone_is_never_reported() {
        for arms in [[(0, 0), (0, 0)], [(15, 1), (15, 3)], [(100, 10), (0, 0)], [(100, 0), (100, 0)]] {
            let found = conversions(&arms);
            assert!(matches!(found.ranking, Ranking::TooEarly(_)), "{arms:?} {found:?}");
            for arm in &found.arms {
                assert!(arm.p_best.is_none() && arm.p_above_control.is_none() && arm.expected_loss.is_none());
                assert!(arm.anytime.is_none() && arm.difference.is_none() && arm.alternatives.is_none());
            }
        }
    }

    #[test]
    fn one_arm_without_data_withholds_the_ranking_but_not_the_other_lifts() {
        let found = conversions(&[(2_000, 100), (2_000, 120), (40, 1)]);
        assert!(found.arms[1].lift.unwrap().relative().is_some() && found.arms[1].p_above_control.is_some());
        assert_eq!((found.arms[1].p_best, found.leader()), (None, None));
        let Ranking::TooEarly(progress) = found.ranking else { panic!("{found:?}") };
        // 5.5% of the units convert, so the small arm needs about 92 units.
        assert_eq!((progress.units, progress.outcomes, progress.units_needed), (4_040, 1, Some(9_300)));
    }

    #[test]
    fn nothing_is_relative_to_control_without_outcomes() {
        let found = conversions(&[(985, 0), (1_015, 53)]);
        assert!(found.arms[1].lift.unwrap().difference().is_some(), "{found:?}");
        assert!(found.arms.iter().all(|arm| arm.expected_loss.is_none() && arm.p_best.is_some()), "{found:?}");
        let Ranking::Known { potential_value_remaining, .. } = found.ranking else { panic!("{found:?}") };
        assert_eq!(potential_value_remaining, None);
        // An arm without outcomes has no relative lift, but the others have.
        let found = conversions(&[(2_000, 100), (2_000, 0), (2_000, 120)]);
        let known: Vec<bool> = found.arms.iter().map(|arm| arm.expected_loss.is_some()).collect();
        assert_eq!(known, [true, false, true], "{found:?}");
    }

    #[test]
    fn tie_has_no_leader() {
        let tie = conversions(&[(1_000, 70), (1_000, 70)]);
        assert!(tie.is_ranked() && tie.leader().is_none(), "{tie:?}");
        assert!((tie.arms[0].p_best.unwrap() - 0.5).abs() < 0.01);
        assert_eq!(conversions(&[(1_000, 70), (1_000, 90)]).leader(), Some(1));
    }

    #[test]
    fn nothing_is_compared_if_all_variations_are_killed() {
        let tally = |s| ArmTally { first: 2_000, n: 2_000, s, ..ArmTally::default() };
        let found = summary(Measure::Conversion, vec![tally(200), tally(120)], &[true, false]);
        assert_eq!((found.ranking, found.leader()), (Ranking::AllKilled, None));
        assert!(found.arms.iter().all(|arm| arm.p_best.is_none() && arm.expected_loss.is_none()), "{found:?}");
        assert!(found.arms[1].lift.unwrap().relative().is_some());
    }

    #[test]
    fn killed_arm_has_no_interval_for_a_fixed_time() {
        let tally = |s| ArmTally { first: 2_000, n: 2_000, s, ..ArmTally::default() };
        let arms = || vec![tally(200), tally(120), tally(220)];
        let (live, killed) = (
            summary(Measure::Conversion, arms(), &[true; 3]),
            summary(Measure::Conversion, arms(), &[true, false, true]),
        );
        let width = |interval: Option<Interval>| interval.map(|i| i.high - i.low).unwrap();
        assert!(killed.arms[1].alternatives.is_none() && live.arms[1].alternatives.is_some());
        assert!(width(killed.arms[1].difference) > 1.3 * width(live.arms[1].difference));
        assert_eq!(killed.arms[1].lift.unwrap().relative(), killed.arms[1].anytime);
        assert_eq!(killed.arms[2].difference, live.arms[2].difference);
    }

    #[test]
    fn losses_are_means_and_the_smaller_loss_is_best() {
        let cell = |n: u64, mean: f64| {
            let (units, xx) = (n as f64, mean * mean + 1.0);
            let moments = Moments { x: units * mean, xx: units * xx, ..Moments::default() };
            ArmTally { first: n, n, s: n, moments: Some(moments), early: 0 }
        };
        let found = summary(Measure::MeanDifference, vec![cell(300, -2.0), cell(300, -1.0)], &[true, true]);
        assert_eq!((found.arms[0].mean, found.arms[1].mean), (Some(-2.0), Some(-1.0)));
        assert_eq!(found.leader(), Some(1));
        assert!(found.arms[1].p_best.unwrap() > 0.999 && found.arms[1].expected_loss.is_none());
        let alternatives = found.arms[1].alternatives.unwrap();
        assert!((alternatives.batched.estimate - 1.0).abs() < 1e-9 && !alternatives.disagrees, "{alternatives:?}");
    }
}
