//! Replications put together, with the error that comes from there being only so many of them.

use serde::Serialize;

use crate::results::RunResult;
use crate::scenario::Scenario;

/// A mean with its Monte-Carlo standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; 0 for a single replication.
    pub se: f64,
}

/// Three quantiles of a number over replications.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// A tenth of the replications is below.
    pub p10: f64,
    /// Half of them.
    pub p50: f64,
    /// Nine tenths.
    pub p90: f64,
}

/// One policy over all replications.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The policy's name.
    pub policy: String,
    /// How many replications.
    pub replications: u32,
    /// Relative regret, 0 to 1.
    pub regret: Mean,
    /// Outcomes forgone up to the end of each tick.
    pub forgone: Vec<Quantiles>,
    /// Mean shares served per tick and arm.
    pub shares: Vec<Vec<f64>>,
    /// Changes of boundaries.
    pub revisions: Mean,
    /// Kills per run of each arm.
    pub killed: Vec<Mean>,
    /// Probability that the leader at the end is the best arm; none if all arms are alike.
    pub correct: Option<Mean>,
    /// Probability that some arm is found clearly best, rightly or not.
    pub concluded: Mean,
    /// Probability that an arm is ever found clearly best that is not.
    pub false_winner: Mean,
    /// Units moved from one variation to another, all replications together: counted over all units.
    pub moved_between_variations: u64,
    /// Part of the units that ever moved from one variation to another, 0 to 1.
    pub moved_between: Mean,
    /// Part that ever moved from control into a variation.
    pub moved_into: Mean,
    /// Part that ever moved from a variation back to control.
    pub moved_back: Mean,
    /// Part that ever moved at all.
    pub moved_any: Mean,
    /// Part of the units whose record the data rule dropped.
    pub dropped: Mean,
    /// Each estimator, each treated arm.
    pub estimators: Vec<EstimatorSummary>,
    /// Probability that the sample ratio alarm ever speaks.
    pub srm_alarm: Mean,
    /// Probability that it freezes growth.
    pub srm_frozen: Mean,
    /// Probability that χ² in the end has a p-value below .01.
    pub srm_chi_squared: Mean,
    /// Probability per treated arm that a guardrail on this metric kills it at any tick (family-wise error .05).
    pub guardrail_kill: Vec<Mean>,
    /// Probability that it kills any arm that is no worse than control; none if all are.
    pub guardrail_false: Option<Mean>,
    /// Probability that a person is ever prompted to ship a variation.
    pub prompted: Mean,
    /// Probability that a person is ever prompted to ship a variation that is no better than control.
    pub false_prompt: Mean,
    /// Days until a person is prompted to ship a variation, over the runs in which that happens.
    pub prompted_after_days: Option<Quantiles>,
}

/// One estimator over all replications.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EstimatorSummary {
    /// Its name.
    pub estimator: String,
    /// How many intervals it gave of lifts with a truth.
    pub intervals: usize,
    /// Which part of them holds it, each counting once; none without any.
    pub coverage: Option<Mean>,
    /// Mean error of those lifts, in points of lift: 0.01 is one point of a hundred.
    pub bias: Option<Mean>,
    /// One per treated arm.
    pub arms: Vec<ArmEstimates>,
}

/// One estimator's answers about one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmEstimates {
    /// The true relative lift; none where it changes over time.
    pub truth: Option<f64>,
    /// Mean estimate.
    pub lift: Option<Mean>,
    /// Mean error.
    pub bias: Option<Mean>,
    /// Root of the mean squared error.
    pub rmse: Option<f64>,
    /// Coverage of its 95% intervals.
    pub coverage: Option<Mean>,
    /// Mean width of the intervals.
    pub width: Option<Mean>,
}

/// The mean of some numbers; none of none.
fn mean(values: impl IntoIterator<Item = f64>) -> Option<Mean> {
    let values: Vec<f64> = values.into_iter().collect();
    let n = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    let se = if values.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
    Some(Mean { mean, se })
}

/// The mean of numbers that come in clusters, each number counting once; none of none. Numbers of one cluster go up and
/// down together: the error is that of a ratio of sums over clusters (Cochran, *Sampling Techniques*, 1977, §6.4).
fn mean_in_clusters(clusters: impl IntoIterator<Item = Vec<f64>>) -> Option<Mean> {
    let sums = |cluster: Vec<f64>| (cluster.iter().sum::<f64>(), cluster.len() as f64);
    let clusters: Vec<(f64, f64)> = clusters.into_iter().map(sums).filter(|(_, n)| *n > 0.0).collect();
    let n: f64 = clusters.iter().map(|(_, n)| n).sum();
    if clusters.is_empty() {
        return None;
    }
    let mean = clusters.iter().map(|(sum, _)| sum).sum::<f64>() / n;
    let squares: f64 = clusters.iter().map(|(sum, n)| (sum - mean * n) * (sum - mean * n)).sum();
    let m = clusters.len() as f64;
    let se = if clusters.len() > 1 { (squares * m / (m - 1.0)).sqrt() / n } else { 0.0 };
    Some(Mean { mean, se })
}

fn chance(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn part(count: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

/// Quantiles by linear interpolation between order statistics.
fn quantiles(mut values: Vec<f64>) -> Quantiles {
    values.sort_by(f64::total_cmp);
    let at = |p: f64| {
        let place = p * (values.len() - 1) as f64;
        let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
        low + (high - low) * (place - place.floor())
    };
    Quantiles { p10: at(0.1), p50: at(0.5), p90: at(0.9) }
}

/// Puts the runs of each policy together, in the scenario's order. A policy without runs has no summary.
#[must_use]
pub fn summarise(scenario: &Scenario, runs: &[RunResult]) -> Vec<Summary> {
    let of = |name: &str| runs.iter().filter(|run| run.policy == name).collect::<Vec<_>>();
    scenario.policies().iter().filter_map(|policy| one(scenario, &policy.name, &of(&policy.name))).collect()
}

fn one(scenario: &Scenario, policy: &str, runs: &[&RunResult]) -> Option<Summary> {
    let first = runs.first()?;
    let arms = first.shares.first().map_or(0, Vec::len);
    let ticks = first.forgone.len();
    let over = |number: &dyn Fn(&RunResult) -> f64| mean(runs.iter().map(|run| number(run)));
    let followed = |run: &RunResult, moved: u64| part(moved, run.moves.followed);
    let killed = |arm: usize| over(&|run| chance(run.kills.iter().any(|kill| kill.arm == arm)));
    let kills = |run: &RunResult, i: usize| run.guardrail[i] >= ((arms - 1) as f64 / 0.05).ln();
    let guarded = |i: usize| over(&|run| chance(kills(run, i)));
    let harmless: Vec<usize> =
        (0..arms - 1).filter(|i| scenario.doc().arms[i + 1].lift >= scenario.doc().arms[0].lift).collect();
    let killed_harmless = |run: &RunResult| harmless.iter().any(|i| kills(run, *i));
    let per_day = f64::from(scenario.doc().ticks_per_day);
    let days: Vec<f64> = runs.iter().filter_map(|run| Some(f64::from(run.prompted?.tick) / per_day)).collect();
    Some(Summary {
        policy: policy.to_owned(),
        replications: runs.len() as u32,
        regret: over(&|run| run.regret)?,
        forgone: (0..ticks).map(|t| quantiles(runs.iter().map(|run| run.forgone[t]).collect())).collect(),
        shares: (0..ticks).map(|tick| mean_shares(runs, tick, arms)).collect(),
        revisions: over(&|run| f64::from(run.revisions))?,
        killed: (0..arms).filter_map(killed).collect(),
        correct: mean(runs.iter().filter_map(|run| run.correct).map(chance)),
        concluded: over(&|run| chance(run.concluded.is_some()))?,
        false_winner: over(&|run| chance(run.false_winner))?,
        moved_between_variations: runs.iter().map(|run| run.moves.between_variations).sum(),
        moved_between: over(&|run| followed(run, run.moves.followed_between))?,
        moved_into: over(&|run| followed(run, run.moves.followed_into))?,
        moved_back: over(&|run| followed(run, run.moves.followed_back))?,
        moved_any: over(&|run| followed(run, run.moves.followed_any))?,
        dropped: over(&|run| part(run.dropped, run.units))?,
        estimators: (0..first.estimates.len()).map(|i| estimator(runs, i, arms)).collect(),
        srm_alarm: over(&|run| chance(run.sample_ratio.alarm))?,
        srm_frozen: over(&|run| chance(run.sample_ratio.frozen))?,
        srm_chi_squared: over(&|run| chance(run.sample_ratio.p_value < 0.01))?,
        guardrail_kill: (0..arms.saturating_sub(1)).filter_map(guarded).collect(),
        guardrail_false: if harmless.is_empty() { None } else { over(&|run| chance(killed_harmless(run))) },
        prompted: over(&|run| chance(run.prompted.is_some()))?,
        false_prompt: over(&|run| chance(run.false_prompt))?,
        prompted_after_days: (!days.is_empty()).then(|| quantiles(days)),
    })
}

fn mean_shares(runs: &[&RunResult], tick: usize, arms: usize) -> Vec<f64> {
    let sum = |arm: usize| runs.iter().map(|run| run.shares[tick][arm]).sum::<f64>();
    (0..arms).map(|arm| sum(arm) / runs.len() as f64).collect()
}

fn estimator(runs: &[&RunResult], index: usize, arms: usize) -> EstimatorSummary {
    let name = runs.first().map(|run| run.estimates[index].estimator.clone()).unwrap_or_default();
    let answers = |arm: usize| runs.iter().filter_map(move |run| run.estimates[index].arms[arm]);
    // Arms share a replication. An interval counts once all the same, however many others its replication has: a mean over
    // replications would give one that has few survivors the weight of one that has many.
    let told = |number: &dyn Fn(&crate::results::Estimate) -> Option<f64>| {
        let of_run = |run: &&RunResult| run.estimates[index].arms.iter().flatten().filter_map(number).collect();
        mean_in_clusters(runs.iter().map(of_run))
    };
    let arm = |arm: usize| {
        let errors = || answers(arm).filter_map(|estimate| Some(estimate.lift - estimate.truth?));
        ArmEstimates {
            truth: answers(arm).find_map(|estimate| estimate.truth),
            lift: mean(answers(arm).map(|estimate| estimate.lift)),
            bias: mean(errors()),
            rmse: mean(errors().map(|error| error * error)).map(|mean| mean.mean.sqrt()),
            coverage: mean(answers(arm).filter_map(|estimate| estimate.covers).map(chance)),
            width: mean(answers(arm).map(|estimate| estimate.high - estimate.low)),
        }
    };
    EstimatorSummary {
        estimator: name,
        intervals: (0..arms.saturating_sub(1)).flat_map(answers).filter(|e| e.covers.is_some()).count(),
        coverage: told(&|estimate| estimate.covers.map(chance)),
        bias: told(&|estimate| Some(estimate.lift - estimate.truth?)),
        arms: (0..arms.saturating_sub(1)).map(arm).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test may panic")]
    fn in_clusters_every_number_counts_once_and_the_error_is_that_of_the_clusters() {
        let found = mean_in_clusters([vec![1.0; 3], vec![0.0], Vec::new()]).unwrap();
        assert!((found.mean - 0.75).abs() < 1e-12);
        // Sums differ from three quarters of 3 and of 1 by 0.75 either way: √(2/(2 − 1)·2·0.75²) over four numbers.
        assert!((found.se - 1.5 / 4.0).abs() < 1e-12);
        // Clusters of one are plain numbers.
        let numbers = [1.0, 0.0, 0.5, 0.25];
        assert_eq!(mean_in_clusters(numbers.map(|x| vec![x])).unwrap().mean, mean(numbers).unwrap().mean);
        assert!((mean_in_clusters(numbers.map(|x| vec![x])).unwrap().se - mean(numbers).unwrap().se).abs() < 1e-12);
        assert!(mean_in_clusters([Vec::new()]).is_none());
    }
}
