//! Combines the replications of each policy into means with their Monte-Carlo standard errors.

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

/// Three quantiles of a value over replications.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// 10% of the replications are below.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// 90% of the replications are below.
    pub p90: f64,
}

/// The results of one policy over all replications.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the policy.
    pub policy: String,
    /// Number of replications.
    pub replications: u32,
    /// Relative regret, 0 to 1.
    pub regret: Mean,
    /// Expected outcomes lost up to the end of each tick.
    pub forgone: Vec<Quantiles>,
    /// Mean shares served, 0 to 1, by tick and arm.
    pub shares: Vec<Vec<f64>>,
    /// Number of changes of the boundaries per run.
    pub revisions: Mean,
    /// Probability that each arm is killed.
    pub killed: Vec<Mean>,
    /// Probability that the leader at the end is the best arm; none if all arms are equal.
    pub correct: Option<Mean>,
    /// Probability that any arm is found clearly best, correctly or not.
    pub concluded: Mean,
    /// Probability that an arm that is not the best is ever found clearly best.
    pub false_winner: Mean,
    /// Moves of units from one variation to another, summed over all units and replications.
    pub moved_between_variations: u64,
    /// Fraction of units that ever moved from one variation to another, 0 to 1.
    pub moved_between: Mean,
    /// Fraction that ever moved from control into a variation.
    pub moved_into: Mean,
    /// Fraction that ever moved from a variation back to control.
    pub moved_back: Mean,
    /// Fraction that ever moved.
    pub moved_any: Mean,
    /// Fraction of units whose record was dropped because their arm changed within their window.
    pub dropped: Mean,
    /// One per estimator.
    pub estimators: Vec<EstimatorSummary>,
    /// Probability that there is ever a sample ratio alarm.
    pub srm_alarm: Mean,
    /// Probability that the alarm ever freezes growth.
    pub srm_frozen: Mean,
    /// Probability that the χ² test at the end has a p-value below 0.01.
    pub srm_chi_squared: Mean,
    /// Probability for each variation that a guardrail on this metric kills it at any tick (family-wise error rate
    /// 0.05).
    pub guardrail_kill: Vec<Mean>,
    /// Probability that the guardrail kills any arm that is not worse than control; none if all are worse.
    pub guardrail_false: Option<Mean>,
    /// Probability that a person is ever prompted to ship a variation; none if nobody is ever asked under this policy.
    pub prompted: Option<Mean>,
    /// Probability that a person is ever prompted to ship a variation that is not better than control; none as above.
    pub false_prompt: Option<Mean>,
    /// Probability that a person is ever prompted to roll back; none as above.
    pub roll_back: Option<Mean>,
    /// Probability that a person is ever prompted to roll back although a variation is at least as good as control; none
    /// as above.
    pub false_roll_back: Option<Mean>,
    /// Days until a person is prompted to ship a variation, over the runs with a prompt.
    pub prompted_after_days: Option<Quantiles>,
}

/// The results of one estimator over all replications.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EstimatorSummary {
    /// Name of the estimator.
    pub estimator: String,
    /// Number of intervals for lifts that have a constant true value.
    pub intervals: usize,
    /// Fraction of these intervals that contain the true lift, each counted once; none if there are none.
    pub coverage: Option<Mean>,
    /// Mean error of these lifts: 0.01 is one percentage point.
    pub bias: Option<Mean>,
    /// One per variation.
    pub arms: Vec<ArmEstimates>,
}

/// The results of one estimator for one variation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmEstimates {
    /// The true relative lift; none if it changes over time.
    pub truth: Option<f64>,
    /// Mean estimate.
    pub lift: Option<Mean>,
    /// Mean error.
    pub bias: Option<Mean>,
    /// Root mean squared error.
    pub rmse: Option<f64>,
    /// Coverage of the 95% intervals.
    pub coverage: Option<Mean>,
    /// Mean width of the intervals.
    pub width: Option<Mean>,
}

/// The mean of the values; none if there are no values.
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

/// The mean of values in clusters, each value counted once; none if there are no values. Values of one cluster are
/// correlated, so the standard error is that of a ratio of sums over clusters (Cochran, *Sampling Techniques*, 1977,
/// §6.4).
fn clustered_mean(clusters: impl IntoIterator<Item = Vec<f64>>) -> Option<Mean> {
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

fn indicator(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn fraction(count: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { count as f64 / total as f64 }
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

/// Summarises the runs of each policy, in the order of the scenario. A policy without runs has no summary.
#[must_use]
pub fn summarise(scenario: &Scenario, runs: &[RunResult]) -> Vec<Summary> {
    let runs_of = |name: &str| runs.iter().filter(|run| run.policy == name).collect::<Vec<_>>();
    scenario
        .policies()
        .iter()
        .filter_map(|policy| summarise_policy(scenario, &policy.name, &runs_of(&policy.name)))
        .collect()
}

fn summarise_policy(scenario: &Scenario, policy: &str, runs: &[&RunResult]) -> Option<Summary> {
    let first = runs.first()?;
    let arms = first.shares.first().map_or(0, Vec::len);
    let ticks = first.forgone.len();
    let mean_over_runs = |value: &dyn Fn(&RunResult) -> f64| mean(runs.iter().map(|run| value(run)));
    let sampled = |run: &RunResult, moved: u64| fraction(moved, run.moves.followed);
    let killed = |arm: usize| mean_over_runs(&|run| indicator(run.kills.iter().any(|kill| kill.arm == arm)));
    let guardrail_kills = |run: &RunResult, i: usize| run.guardrail[i] >= ((arms - 1) as f64 / 0.05).ln();
    let guardrail_kill = |i: usize| mean_over_runs(&|run| indicator(guardrail_kills(run, i)));
    let harmless: Vec<usize> =
        (0..arms - 1).filter(|i| scenario.doc().arms[i + 1].lift >= scenario.doc().arms[0].lift).collect();
    let killed_harmless = |run: &RunResult| harmless.iter().any(|i| guardrail_kills(run, *i));
    let per_day = f64::from(scenario.doc().ticks_per_day);
    let asked = || runs.iter().filter(|run| run.false_prompt.is_some());
    let days: Vec<f64> = runs.iter().filter_map(|run| Some(f64::from(run.prompted?.tick) / per_day)).collect();
    Some(Summary {
        policy: policy.to_owned(),
        replications: runs.len() as u32,
        regret: mean_over_runs(&|run| run.regret)?,
        forgone: (0..ticks).map(|t| quantiles(runs.iter().map(|run| run.forgone[t]).collect())).collect(),
        shares: (0..ticks).map(|tick| mean_shares(runs, tick, arms)).collect(),
        revisions: mean_over_runs(&|run| f64::from(run.revisions))?,
        killed: (0..arms).filter_map(killed).collect(),
        correct: mean(runs.iter().filter_map(|run| run.correct).map(indicator)),
        concluded: mean_over_runs(&|run| indicator(run.concluded.is_some()))?,
        false_winner: mean_over_runs(&|run| indicator(run.false_winner))?,
        moved_between_variations: runs.iter().map(|run| run.moves.between_variations).sum(),
        moved_between: mean_over_runs(&|run| sampled(run, run.moves.followed_between))?,
        moved_into: mean_over_runs(&|run| sampled(run, run.moves.followed_into))?,
        moved_back: mean_over_runs(&|run| sampled(run, run.moves.followed_back))?,
        moved_any: mean_over_runs(&|run| sampled(run, run.moves.followed_any))?,
        dropped: mean_over_runs(&|run| fraction(run.dropped, run.units))?,
        estimators: (0..first.estimates.len()).map(|i| summarise_estimator(runs, i, arms)).collect(),
        srm_alarm: mean_over_runs(&|run| indicator(run.sample_ratio.alarm))?,
        srm_frozen: mean_over_runs(&|run| indicator(run.sample_ratio.frozen))?,
        srm_chi_squared: mean_over_runs(&|run| indicator(run.sample_ratio.p_value < 0.01))?,
        guardrail_kill: (0..arms.saturating_sub(1)).filter_map(guardrail_kill).collect(),
        guardrail_false: if harmless.is_empty() {
            None
        } else {
            mean_over_runs(&|run| indicator(killed_harmless(run)))
        },
        prompted: mean(asked().map(|run| indicator(run.prompted.is_some()))),
        false_prompt: mean(asked().filter_map(|run| run.false_prompt).map(indicator)),
        roll_back: mean(asked().map(|run| indicator(run.roll_back.is_some()))),
        false_roll_back: mean(asked().filter_map(|run| run.false_roll_back).map(indicator)),
        prompted_after_days: (!days.is_empty()).then(|| quantiles(days)),
    })
}

fn mean_shares(runs: &[&RunResult], tick: usize, arms: usize) -> Vec<f64> {
    let sum = |arm: usize| runs.iter().map(|run| run.shares[tick][arm]).sum::<f64>();
    (0..arms).map(|arm| sum(arm) / runs.len() as f64).collect()
}

fn summarise_estimator(runs: &[&RunResult], index: usize, arms: usize) -> EstimatorSummary {
    let name = runs.first().map(|run| run.estimates[index].estimator.clone()).unwrap_or_default();
    let estimates = |arm: usize| runs.iter().filter_map(move |run| run.estimates[index].arms[arm]);
    // Every interval counts once, however many others its replication has. A mean over replications would give too much
    // weight to intervals of replications in which few arms are left.
    let over_all_arms = |value: &dyn Fn(&crate::results::Estimate) -> Option<f64>| {
        let of_run = |run: &&RunResult| run.estimates[index].arms.iter().flatten().filter_map(value).collect();
        clustered_mean(runs.iter().map(of_run))
    };
    let arm = |arm: usize| {
        let errors = || estimates(arm).filter_map(|estimate| Some(estimate.lift - estimate.truth?));
        ArmEstimates {
            truth: estimates(arm).find_map(|estimate| estimate.truth),
            lift: mean(estimates(arm).map(|estimate| estimate.lift)),
            bias: mean(errors()),
            rmse: mean(errors().map(|error| error * error)).map(|mean| mean.mean.sqrt()),
            coverage: mean(estimates(arm).filter_map(|estimate| estimate.covers).map(indicator)),
            width: mean(estimates(arm).map(|estimate| estimate.high - estimate.low)),
        }
    };
    EstimatorSummary {
        estimator: name,
        intervals: (0..arms.saturating_sub(1)).flat_map(estimates).filter(|e| e.covers.is_some()).count(),
        coverage: over_all_arms(&|estimate| estimate.covers.map(indicator)),
        bias: over_all_arms(&|estimate| Some(estimate.lift - estimate.truth?)),
        arms: (0..arms.saturating_sub(1)).map(arm).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test may panic")]
    fn clustered_mean_counts_each_value_once_and_has_the_error_of_clusters() {
        let found = clustered_mean([vec![1.0; 3], vec![0.0], Vec::new()]).unwrap();
        assert!((found.mean - 0.75).abs() < 1e-12);
        // The sums differ from 0.75·3 and 0.75·1 by ±0.75: the error is √(2/(2 − 1)·2·0.75²) over four values.
        assert!((found.se - 1.5 / 4.0).abs() < 1e-12);
        // With clusters of one value each, it is the plain mean.
        let numbers = [1.0, 0.0, 0.5, 0.25];
        assert_eq!(clustered_mean(numbers.map(|x| vec![x])).unwrap().mean, mean(numbers).unwrap().mean);
        assert!((clustered_mean(numbers.map(|x| vec![x])).unwrap().se - mean(numbers).unwrap().se).abs() < 1e-12);
        assert!(clustered_mean([Vec::new()]).is_none());
    }
}
