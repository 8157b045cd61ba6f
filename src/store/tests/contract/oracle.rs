//! The counts by brute force, from the whole set of events and the final history, without any state between calls.
//! Slow, simple, and independent of the code that it checks.

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::{Arm, Experiment, Generation, MetricKind, Point, Timestamp, UnitHasher, UnitKey};
use inroad_policy::attribution::{Cell, CellKey, I256};
use inroad_store::{Event, GenerationCounts};

/// (time, event, value)
type SentOutcome = (Timestamp, String, i64);
/// (time, revision, arm)
type FirstExposure = (Timestamp, u32, Arm);

pub fn counts(experiment: &Experiment, generation: &Generation, events: &[Event]) -> GenerationCounts {
    let definition = &experiment.definition;
    let clock = if experiment.manual_now.is_some() { definition.key().as_str() } else { "" };
    let mut exposed: BTreeMap<String, BTreeMap<Arm, (Timestamp, u32)>> = BTreeMap::new();
    let mut sent: BTreeMap<(String, String), SentOutcome> = BTreeMap::new();
    for event in events {
        match event {
            Event::Exposure(e) if e.experiment == *definition.key() && e.generation == generation.number => {
                let arms = exposed.entry(e.unit.clone()).or_default();
                let this = (e.occurred_at, e.revision);
                arms.entry(e.arm).and_modify(|first| *first = this.min(*first)).or_insert(this);
            }
            Event::Outcome(o) if o.clock == clock => {
                for (_, unit) in o.units.iter().filter(|(kind, _)| kind == definition.unit()) {
                    let this = (o.occurred_at, o.event.clone(), o.value_micros);
                    let least = sent.entry((unit.clone(), o.event_id.clone())).or_insert_with(|| this.clone());
                    *least = this.min(least.clone());
                }
            }
            _ => {}
        }
    }
    let hasher = UnitHasher::new(definition.key(), &generation.salt);
    let mut counts = GenerationCounts::default();
    for (unit, arms) in exposed {
        let mut exposures: Vec<FirstExposure> =
            arms.into_iter().map(|(arm, (at, revision))| (at, revision, arm)).collect();
        exposures.sort();
        let outcomes: Vec<&SentOutcome> =
            sent.iter().filter(|((u, _), _)| *u == unit).map(|(_, outcome)| outcome).collect();
        let point = hasher.digest(UnitKey::parse(&unit).unwrap()).point();
        count_unit(experiment, generation, point, &exposures, &outcomes, &mut counts);
    }
    counts.cells.retain(|_, cell| *cell != Cell::default());
    counts
}

fn count_unit(
    experiment: &Experiment,
    generation: &Generation,
    point: Point,
    exposures: &[FirstExposure],
    outcomes: &[&SentOutcome],
    counts: &mut GenerationCounts,
) {
    let length = experiment.definition.policy().tick();
    let (t0, _, arm0) = exposures[0];
    let epoch =
        |metric| CellKey { metric, tick: t0.tick(length), revision: revision_in_effect(generation, t0), arm: arm0 };
    let activity = |metric, at: Timestamp, arm| CellKey { metric, tick: at.tick(length), revision: 0, arm };
    counts.cells.entry(epoch(None)).or_default().first += 1;
    for (at, _, arm) in exposures {
        counts.cells.entry(activity(None, *at, *arm)).or_default().units += 1;
    }
    for (i, metric) in experiment.definition.metrics().iter().enumerate() {
        let index = Some(i as u16);
        let ended = generation.endings.iter().map(|ending| ending.at).min().unwrap_or(Timestamp::MAX);
        let end = t0.plus(metric.window).min(ended);
        let minute = std::time::Duration::from_secs(60);
        let begin = t0.minus(minute).max(generation.started_at).min(t0);
        let within = |event: &str| {
            outcomes
                .iter()
                .filter(|(at, name, _)| name == event && *at >= begin && *at < end)
                .map(|t| i128::from(t.2))
                .collect::<Vec<_>>()
        };
        let values = within(&metric.event);
        let cell = counts.cells.entry(epoch(index)).or_default();
        let limit = (metric.window / 100).min(minute);
        let otherwise = time_served_otherwise(generation, point, arm0, (t0, end));
        if t0 < ended && otherwise <= limit {
            let sum: i128 = values.iter().sum();
            let (x, y) = match &metric.kind {
                MetricKind::Conversion => (if values.is_empty() { 0 } else { 1_000_000 }, 0),
                MetricKind::Count => (1_000_000 * values.len() as i128, 0),
                MetricKind::Mean { cap: None } => (sum, 0),
                MetricKind::Mean { cap: Some(cap) } => (sum.min((cap * 1e6).round() as i128), 0),
                MetricKind::Ratio { denominator } => (sum, within(denominator).iter().sum()),
            };
            cell.n += 1;
            cell.s += u64::from(!values.is_empty());
            let quarter = t0.plus(metric.window / 4);
            let is_early =
                |(at, name, _): &&&SentOutcome| *name == metric.event && *at >= begin && *at < quarter.min(end);
            cell.early += u64::from(outcomes.iter().any(|outcome| is_early(&outcome)));
            cell.x += x;
            cell.xx += I256::from(x) * I256::from(x);
            cell.y += y;
            cell.yy += I256::from(y) * I256::from(y);
            cell.xy += I256::from(x) * I256::from(y);
        } else {
            cell.dropped += 1;
            let without_kills = Generation { kill_changes: vec![], ..generation.clone() };
            let killed_then = arm0 != served(&without_kills, point, t0) && arm0 == served(generation, point, t0);
            if t0 >= ended {
                cell.dropped_after_end += 1;
            } else if killed_then || time_served_otherwise(&without_kills, point, arm0, (t0, end)) <= limit {
                cell.dropped_by_kill += 1;
            }
        }
        let mut credited: BTreeMap<Arm, Timestamp> = BTreeMap::new();
        for (at, _, value) in outcomes.iter().filter(|(at, name, _)| *name == metric.event && *at < ended) {
            if *at >= generation.started_at {
                let cell = counts.cells.entry(activity(index, *at, arm0)).or_default();
                cell.too_early += u64::from(*at < begin);
                cell.too_late += u64::from(*at >= t0.plus(metric.window));
            }
            let last = exposures.iter().rfind(|(seen, _, _)| seen <= at).map(|(_, _, arm)| arm);
            let Some(arm) = last.or(Some(&arm0).filter(|_| *at >= begin)) else { continue };
            let cell = counts.cells.entry(activity(index, *at, *arm)).or_default();
            cell.outcomes += 1;
            cell.outcome_sum += i128::from(*value);
            credited.entry(*arm).and_modify(|first| *first = *at.min(first)).or_insert(*at);
        }
        for (arm, at) in credited {
            counts.cells.entry(activity(index, at, arm)).or_default().outcome_units += 1;
        }
    }
    let treated: BTreeSet<Arm> = exposures.iter().map(|s| s.2).filter(|arm| !arm.is_control()).collect();
    counts.units_moved += u64::from(treated.len() > 1);
    let control = exposures.iter().position(|s| s.2.is_control());
    counts.crossovers += u64::from(control.is_some_and(|at| at < exposures.len() - 1));
    counts.stale_exposures +=
        exposures.iter().filter(|(at, revision, _)| *revision < revision_in_effect(generation, *at)).count() as u64;
}

/// How long the generation serves another arm than `arm` in a period.
fn time_served_otherwise(
    generation: &Generation,
    point: Point,
    arm: Arm,
    (from, to): (Timestamp, Timestamp),
) -> std::time::Duration {
    let changes = generation.revisions.iter().map(|r| r.effective_at);
    let changes = changes.chain(generation.kill_changes.iter().map(|s| s.at)).filter(|at| *at > from && *at < to);
    let instants: BTreeSet<Timestamp> = changes.chain([from, to]).collect();
    let instants: Vec<Timestamp> = instants.into_iter().collect();
    let periods = instants.windows(2).filter(|pair| served(generation, point, pair[0]) != arm);
    periods.map(|pair| pair[1].since(pair[0])).sum()
}

fn revision_in_effect(generation: &Generation, at: Timestamp) -> u32 {
    generation.revisions.iter().rfind(|r| r.effective_at <= at).map_or(1, |r| r.number)
}

/// The arm that the generation serves at this point and time, which is before the generation's end.
fn served(generation: &Generation, point: Point, at: Timestamp) -> Arm {
    let number = revision_in_effect(generation, at);
    let allocation = &generation.revisions.iter().find(|r| r.number == number).unwrap().allocation;
    let owner = allocation.buckets().filter(|bucket| bucket.start <= point).last().unwrap().owner;
    let mut killed = BTreeSet::new();
    let mut everything = false;
    for change in generation.kill_changes.iter().filter(|s| s.at <= at) {
        match change.target {
            inroad_assignment::KillTarget::Everything => everything = change.killed,
            inroad_assignment::KillTarget::Variation(arm) if change.killed => drop(killed.insert(arm)),
            inroad_assignment::KillTarget::Variation(arm) => drop(killed.remove(&arm)),
        }
    }
    if everything || killed.contains(&owner) { Arm::CONTROL } else { owner }
}
