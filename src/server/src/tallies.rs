//! Converts the store's counts into the policy's input: the tallies of one metric by epoch, with the shares served in
//! each.

use std::collections::BTreeMap;
use std::time::Duration;

use inroad_assignment::experiment::{FirstExposures, KillResult};
use inroad_assignment::{
    Arm, Direction, Experiment, Generation, Kills, Metric, MetricKind, Revision, Timestamp, Width,
};
use inroad_policy::attribution::{Cell, I256};
use inroad_policy::{ArmTally, BetterDirection, EpochKey, EpochTally, GuardedMetric, Measure, Moments};
use inroad_store::GenerationCounts;

/// The seed of the Sobol points from which decisions and results are computed: fixed, so that all readers see the same
/// numbers, and a decision those of the results before it.
pub(crate) const SEED: u64 = 1;

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
    let (once, twice) = (|sum: i128| sum as f64 / 1e6, |sum: I256| sum.as_f64() / 1e12);
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

/// What an epoch served: its revision, and the kills during it.
struct ServedEpoch<'a> {
    revision: &'a Revision,
    /// The kills at its start.
    kills: Kills,
    /// The periods in which other arms were served than at the start: when each began, how long it lasted, and its
    /// kills.
    others: Vec<(Timestamp, Duration, Kills)>,
    arms: usize,
}

impl<'a> ServedEpoch<'a> {
    fn new(experiment: &Experiment, generation: &'a Generation, epoch: EpochKey) -> Option<Self> {
        let length = experiment.definition.policy().tick();
        let arms = experiment.definition.variations().len();
        let revision = generation.revision(epoch.revision)?;
        // Exposures before the first revision took effect count under it.
        let from = if revision.number == 1 { generation.started_at } else { revision.effective_at };
        let until = generation.revision(revision.number + 1).map_or(Timestamp::MAX, |next| next.effective_at);
        let start = Timestamp::start_of_tick(epoch.tick, length).max(from);
        let end = Timestamp::start_of_tick(epoch.tick.saturating_add(1), length).min(until);
        let kills = generation.kills(start);
        let changes = generation.kill_changes.iter().map(|change| change.at).filter(|at| *at > start && *at < end);
        let (mut others, mut since) = (Vec::new(), start);
        for at in changes.chain([end]) {
            let now = generation.kills(since);
            if owners(arms).any(|arm| now.served_arm(arm) != kills.served_arm(arm)) {
                others.push((since, at.since(since), now));
            }
            since = at;
        }
        Some(Self { revision, kills, others, arms })
    }

    /// The traffic share that each arm was served at the start.
    fn shares(&self) -> Vec<f64> {
        self.shares_served_as(|owner| self.kills.served_arm(owner))
    }

    /// The shares if the owner of a bucket range is served as `served` says.
    fn shares_served_as(&self, served: impl Fn(Arm) -> Arm) -> Vec<f64> {
        // Widths are summed as integers and converted once: a sum of rounded shares may exceed 1.
        let mut widths = vec![Width::ZERO; self.arms];
        for owner in owners(self.arms) {
            if let Some(width) = widths.get_mut(served(owner).index()) {
                *width = width.saturating_add(self.revision.allocation.width_of(owner));
            }
        }
        widths.into_iter().map(Width::share).collect()
    }

    /// Whether a kill or a restore within the epoch changed what the units of `owner` got.
    fn changes(&self, owner: Arm) -> bool {
        self.others.iter().any(|(.., kills)| kills.served_arm(owner) != self.kills.served_arm(owner))
    }

    /// Makes the exposures comparable with shares, if a kill or a restore within the epoch changed what was served: only
    /// those before the first change count. Where they are not known, control and the changed arms count as one, because
    /// together they were served the same share throughout.
    fn make_comparable(&self, epoch: &mut EpochTally, experiment: &Experiment, generation: &Generation) {
        let key = (epoch.epoch.tick, epoch.epoch.revision);
        let is_earlier = |result: &KillResult| self.others.first().is_none_or(|(at, ..)| result.at <= *at);
        // With simulated time, kills and exposures may have the same instant, which the kept results still order.
        let kills = experiment.kill_results.iter().filter(|result| result.generation == generation.number);
        let kills: Vec<(&KillResult, &FirstExposures)> = kills
            .filter_map(|result| Some((result, result.first_exposures.as_ref()?)))
            .filter(|(_, before)| (before.tick, before.revision) == key)
            .collect();
        let before = kills.first().filter(|(result, _)| is_earlier(result)).map(|(_, before)| before);
        if let Some(before) = before.filter(|before| before.by_arm.iter().any(|units| *units > 0)) {
            epoch.arms.iter_mut().zip(&before.by_arm).for_each(|(tally, units)| tally.first = *units);
            epoch.shares = self.shares_served_as(|owner| before.kills.served_arm(owner));
            return;
        }
        let is_changed = |arm: Arm| self.changes(arm) || kills.iter().any(|(result, _)| result.arm == arm);
        let changed: Vec<Arm> = owners(self.arms).filter(|arm| is_changed(*arm)).collect();
        if changed.is_empty() {
            return;
        }
        let mut joined = 0;
        for arm in &changed {
            joined += epoch.arms.get_mut(arm.index()).map_or(0, |tally| std::mem::take(&mut tally.first));
        }
        if let Some(control) = epoch.arms.first_mut() {
            control.first += joined;
        }
        let served = |owner| if changed.contains(&owner) { Arm::CONTROL } else { self.kills.served_arm(owner) };
        epoch.shares = self.shares_served_as(served);
    }
}

fn owners(arms: usize) -> impl Iterator<Item = Arm> {
    (0..arms).filter_map(Arm::new)
}

/// The traffic share that each arm was served in an epoch; empty if kills and restores changed it within the epoch for
/// more than a moment.
fn served_shares(experiment: &Experiment, generation: &Generation, epoch: EpochKey) -> Vec<f64> {
    let Some(served) = ServedEpoch::new(experiment, generation, epoch) else { return Vec::new() };
    let otherwise = served.others.iter().fold(Duration::ZERO, |sum, (_, lasted, _)| sum.saturating_add(*lasted));
    if otherwise > experiment.definition.policy().tick() / KILLED_PART { Vec::new() } else { served.shares() }
}

/// The first exposures by epoch for the sample ratio check, with the shares that they are expected to follow. Exposures
/// during a kill do not follow the allocation, and those before it are not lost.
pub fn exposure_tallies(
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
) -> Vec<EpochTally> {
    let mut epochs = epoch_tallies(experiment, generation, counts, None);
    for epoch in &mut epochs {
        if let Some(served) = ServedEpoch::new(experiment, generation, epoch.epoch) {
            served.make_comparable(epoch, experiment, generation);
        }
    }
    epochs
}

/// The same; empty if they are those of `epochs`.
pub fn exposures_besides(
    epochs: &[EpochTally],
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
) -> Vec<EpochTally> {
    let exposures = exposure_tallies(experiment, generation, counts);
    let first = |epoch: &EpochTally| -> Vec<u64> { epoch.arms.iter().map(|arm| arm.first).collect() };
    let is_same =
        |(a, b): (&EpochTally, &EpochTally)| a.epoch == b.epoch && a.shares == b.shares && first(a) == first(b);
    if exposures.len() == epochs.len() && exposures.iter().zip(epochs).all(is_same) { Vec::new() } else { exposures }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use crate::kill_results::kill_and_keep_results;
    use crate::tick::tick_input;
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt};
    use inroad_policy::attribution::CellKey;
    use inroad_policy::{SrmAlarm, TickScope, check_sample_ratio};

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

    /// Control 60%, on 20%, v2 20%, with a tick of a day.
    fn three_arms() -> Experiment {
        let variations = serde_json::json!([
            {"key": "control", "payload": 0}, {"key": "on", "payload": 1, "share": 0.2},
            {"key": "v2", "payload": 2, "share": 0.2}
        ]);
        let metrics = serde_json::json!([{"key": "bought", "event": "purchase", "decision": true}]);
        let policy = serde_json::json!({"kind": "thompson", "tick": "1d"});
        let doc = serde_json::json!({"key": "e", "policy": policy, "variations": variations, "metrics": metrics});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
        experiment.start(Timestamp::default(), Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn counts(first: [u64; 3]) -> GenerationCounts {
        let key = |arm| CellKey { metric: None, tick: 0, revision: 1, arm: Arm::new(arm).unwrap() };
        let cell = |first| Cell { first, ..Cell::default() };
        let cells = first.into_iter().enumerate().map(|(arm, first)| (key(arm), cell(first)));
        GenerationCounts { cells: cells.collect(), ..GenerationCounts::default() }
    }

    fn after(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    fn alarm(experiment: &Experiment, first: [u64; 3]) -> (SrmAlarm, SrmAlarm) {
        let (generation, counts) = (experiment.generation().unwrap(), counts(first));
        let exposures = exposure_tallies(experiment, generation, &counts);
        let tick = experiment.definition.policy().tick();
        let shown = check_sample_ratio(3, &exposures, tick, after(80_000)).unwrap().alarm;
        let input = tick_input(experiment, &counts, TickScope::Growth, after(80_000), false).unwrap();
        let epochs = if input.exposures.is_empty() { &input.epochs } else { &input.exposures };
        (shown, check_sample_ratio(3, epochs, tick, after(80_000)).unwrap().alarm)
    }

    #[test]
    fn kill_within_the_tick_does_not_remove_the_sample_ratio_alarm() {
        let (on, v2) = (Arm::new(1).unwrap(), Arm::new(2).unwrap());
        let lossy = [3_600, 400, 1_200];
        let alarmed = (SrmAlarm::Freeze, SrmAlarm::Freeze);
        assert_eq!(alarm(&three_arms(), lossy), alarmed);
        for target in [KillTarget::Variation(on), KillTarget::Variation(v2), KillTarget::Everything] {
            let mut experiment = three_arms();
            kill_and_keep_results(&mut experiment, target, &counts(lossy), None, (after(60), "ann")).unwrap();
            assert_eq!(alarm(&experiment, [4_600, 400, 1_200]), alarmed, "{target:?}");
            experiment.set_killed(target, false, after(70)).unwrap();
            assert_eq!(alarm(&experiment, [5_200, 500, 1_400]), alarmed, "{target:?}");
        }
        // Simulated time does not move by itself.
        let mut experiment = three_arms();
        let (target, known) = (KillTarget::Variation(on), counts(lossy));
        kill_and_keep_results(&mut experiment, target, &known, None, (after(0), "ann")).unwrap();
        experiment.set_killed(target, false, after(0)).unwrap();
        assert_eq!(alarm(&experiment, [5_200, 500, 1_400]), alarmed);
        // Without kept results, on is still compared with all others.
        let mut experiment = three_arms();
        experiment.set_killed(KillTarget::Variation(v2), true, after(60)).unwrap();
        assert_eq!(alarm(&experiment, [4_600, 400, 1_200]), alarmed);
    }

    #[test]
    fn exposures_during_a_kill_raise_no_sample_ratio_alarm() {
        let even = [600, 200, 200];
        let quiet = (SrmAlarm::Quiet, SrmAlarm::Quiet);
        for target in [KillTarget::Variation(Arm::new(1).unwrap()), KillTarget::Everything] {
            for (keeps_results, seconds) in [(true, 60), (false, 60), (true, 0), (false, 0)] {
                let mut experiment = three_arms();
                let known = if keeps_results { counts(even) } else { GenerationCounts::default() };
                kill_and_keep_results(&mut experiment, target, &known, None, (after(seconds), "ann")).unwrap();
                experiment.set_killed(target, false, after(seconds + seconds / 60)).unwrap();
                // 500 units are first exposed during the kill.
                let served = if target == KillTarget::Everything { [1_100, 200, 200] } else { [1_000, 200, 300] };
                assert_eq!(alarm(&experiment, served), quiet, "{target:?} {keeps_results}");
            }
        }
    }
}
