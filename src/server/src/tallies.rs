//! Converts the store's counts into the policy's input: the tallies of one metric by epoch, with the shares served in
//! each.

use std::collections::BTreeMap;
use std::time::Duration;

use inroad_assignment::{Arm, Direction, Experiment, Generation, Metric, MetricKind, Timestamp, Width};
use inroad_policy::attribution::Cell;
use inroad_policy::{ArmTally, BetterDirection, EpochKey, EpochTally, GuardedMetric, Measure, Moments};
use inroad_store::GenerationCounts;

/// The estimator that a metric needs by its kind. Metrics with negative values need another one:
/// [`Measure::suited_to`].
pub fn measure(metric: &Metric) -> Measure {
    match metric.kind {
        MetricKind::Conversion => Measure::Conversion,
        MetricKind::Count | MetricKind::Mean { .. } => Measure::Mean,
        MetricKind::Ratio { .. } => Measure::Ratio,
    }
}

/// The direction in which a metric improves.
pub fn better(metric: &Metric) -> BetterDirection {
    match metric.direction {
        Direction::Up => BetterDirection::Higher,
        Direction::Down => BetterDirection::Lower,
    }
}

/// One metric's tallies by epoch, the earliest first; without a metric, only the first exposures.
pub fn epoch_tallies(
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
    metric: Option<usize>,
) -> Vec<EpochTally> {
    let arms = experiment.definition.variations().len();
    let index = metric.and_then(|i| u16::try_from(i).ok());
    let measured = metric.and_then(|i| experiment.definition.metrics().get(i)).map(measure);
    let mut epochs: BTreeMap<EpochKey, Vec<ArmTally>> = BTreeMap::new();
    for (key, cell) in &counts.cells {
        let epoch = EpochKey { tick: key.tick, revision: key.revision };
        if cell.first == 0 && cell.n == 0 && cell.dropped == 0 {
            continue;
        }
        let tallies = epochs.entry(epoch).or_insert_with(|| vec![ArmTally::default(); arms]);
        let Some(tally) = tallies.get_mut(key.arm.index()) else { continue };
        if key.metric.is_none() {
            tally.first += cell.first;
        } else if key.metric == index {
            tally.n += cell.n;
            tally.s += cell.s;
            tally.early += cell.early;
            tally.moments = measured.filter(|m| matches!(m, Measure::Mean | Measure::Ratio)).map(|_| moments(cell));
        }
    }
    let with_shares = |(epoch, arms): (EpochKey, Vec<ArmTally>)| {
        let shares = served_shares(experiment, generation, epoch);
        EpochTally { epoch, arms, shares }
    };
    epochs.into_iter().map(with_shares).collect()
}

/// Sums in the metric's unit; cells contain millionths.
fn moments(cell: &Cell) -> Moments {
    let (once, twice) = (|sum: i128| sum as f64 / 1e6, |sum: i128| sum as f64 / 1e12);
    Moments { x: once(cell.x), xx: twice(cell.xx), y: once(cell.y), yy: twice(cell.yy), xy: twice(cell.xy) }
}

/// The metrics that have a guardrail, with their tallies.
pub fn guarded_metrics(
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
) -> Vec<GuardedMetric> {
    let metrics = experiment.definition.metrics().iter().enumerate();
    let guarded = metrics.filter_map(|(i, metric)| Some((i, metric, metric.guardrail?)));
    guarded
        .map(|(i, metric, guardrail)| {
            let epochs = epoch_tallies(experiment, generation, counts, Some(i));
            GuardedMetric {
                metric: metric.key.to_string(),
                measure: measure(metric).suited_to(&epochs),
                better: better(metric),
                margin: guardrail.margin,
                action: guardrail.action,
                epochs,
            }
        })
        .collect()
}

/// The part of a tick, as a divisor, in which kills may change what is served without making the shares unknown. It
/// shifts the expected exposures by far less than their random error, up to 100 million of them.
const KILLED_PART: u32 = 10_000;

/// The traffic share that each arm was served in an epoch; empty if kills and restores changed it within the epoch for
/// more than a moment.
fn served_shares(experiment: &Experiment, generation: &Generation, epoch: EpochKey) -> Vec<f64> {
    let length = experiment.definition.policy().tick();
    let start = Timestamp::start_of_tick(epoch.tick, length).max(generation.started_at);
    let end = Timestamp::start_of_tick(epoch.tick.saturating_add(1), length);
    let Some(revision) = generation.revision(epoch.revision) else { return Vec::new() };
    let kills = generation.kills(start);
    let changes = generation.kill_changes.iter().map(|change| change.at).filter(|at| *at > start && *at < end);
    let (mut otherwise, mut since) = (Duration::ZERO, start);
    for at in changes.chain([end]) {
        if generation.kills(since) != kills {
            otherwise = otherwise.saturating_add(at.since(since));
        }
        since = at;
    }
    if otherwise > length / KILLED_PART {
        return Vec::new();
    }
    // Widths are summed as integers and converted once: a sum of rounded shares may exceed 1.
    let mut widths = vec![Width::ZERO; experiment.definition.variations().len()];
    for owner in (0..widths.len()).filter_map(Arm::new) {
        if let Some(width) = widths.get_mut(kills.served_arm(owner).index()) {
            *width = width.saturating_add(revision.allocation.width_of(owner));
        }
    }
    widths.into_iter().map(Width::share).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt};
    use inroad_policy::check_sample_ratio;

    #[test]
    fn kill_of_a_moment_leaves_the_shares_of_its_tick_known() {
        let variations = serde_json::json!([
            {"key": "control", "payload": false}, {"key": "green", "payload": true, "share": 0.25}
        ]);
        let doc = serde_json::json!({"key": "e", "policy": {"kind": "manual", "tick": "1d"}, "variations": variations});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut started = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
        started.start(Timestamp::default(), Salt::parse("s").unwrap()).unwrap();
        let green = KillTarget::Variation(Arm::new(1).unwrap());
        let shares = |killed_for: Duration, tick: i64| {
            let mut experiment = started.clone();
            let at = Timestamp::default().plus(Duration::from_secs(3_600));
            experiment.set_killed(green, true, at).unwrap();
            experiment.set_killed(green, false, at.plus(killed_for)).unwrap();
            served_shares(&experiment, experiment.generation().unwrap(), EpochKey { tick, revision: 1 })
        };
        assert_eq!(shares(Duration::from_millis(8_640), 0), [0.75, 0.25]);
        assert!(shares(Duration::from_millis(8_641), 0).is_empty());
        assert_eq!(shares(Duration::from_secs(86_400), 2), [0.75, 0.25], "restored before the tick");
    }

    #[test]
    fn shares_sum_to_one_whichever_variation_is_killed() {
        for arms in 2..=12_usize {
            let share = 0.95 / arms as f64;
            let variations: Vec<_> = (0..=arms)
                .map(|i| match i {
                    0 => serde_json::json!({"key": "control", "payload": true}),
                    _ => serde_json::json!({"key": format!("v{i}"), "payload": true, "share": share / i as f64}),
                })
                .collect();
            let doc: DefinitionDoc =
                serde_json::from_value(serde_json::json!({"key": "e", "variations": variations})).unwrap();
            let mut experiment = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
            experiment.start(Timestamp::default(), Salt::parse("s").unwrap()).unwrap();
            for arm in (1..=arms).filter_map(Arm::new) {
                experiment.set_killed(KillTarget::Variation(arm), true, Timestamp::default()).unwrap();
                let generation = experiment.generation().unwrap();
                let shares = served_shares(&experiment, generation, EpochKey { tick: 1, revision: 1 });
                let arms = vec![ArmTally::default(); shares.len()];
                let epoch = EpochTally { epoch: EpochKey { tick: 1, revision: 1 }, arms, shares };
                let tick = experiment.definition.policy().tick();
                check_sample_ratio(epoch.arms.len(), std::slice::from_ref(&epoch), tick, Timestamp::default()).unwrap();
            }
        }
    }
}
