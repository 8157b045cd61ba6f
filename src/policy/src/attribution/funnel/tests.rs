//! Tests of funnels: examples, and a comparison with a brute-force search over the events of one unit.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{KillChange, Revision, RevisionCause};
use inroad_assignment::{Allocation, Bucket, KillTarget, Salt};
use proptest::prelude::*;

use super::*;
use crate::attribution::UnitRecord;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

fn exposure(arm_index: usize, seconds: i64, revision: u32) -> Exposure {
    Exposure { at: at(seconds), revision, arm: arm(arm_index) }
}

fn outcome(event: u8, seconds: i64) -> StepOutcome {
    StepOutcome { at: at(seconds), event }
}

fn range(from: i64, to: i64) -> TimeRange {
    TimeRange { from: at(from), to: at(to) }
}

fn record(exposures: &[Exposure]) -> UnitRecord {
    let mut record = UnitRecord::default();
    for exposure in exposures {
        record.add_exposure(*exposure);
    }
    record
}

fn history(generation: &Generation) -> History<'_> {
    History {
        counts_early: true,
        tolerates: true,
        activity_ends: true,
        generation,
        metrics: &[],
        tick: Duration::from_secs(60),
    }
}

/// The number of steps that the unit reached, by arm.
fn funnel(exposures: &[Exposure], range: TimeRange, steps: &[u8], outcomes: &[StepOutcome]) -> Vec<(usize, usize)> {
    let mut outcomes: Vec<StepOutcome> = outcomes.iter().copied().filter(|o| range.contains(o.at)).collect();
    outcomes.sort_unstable();
    let mut found = Vec::new();
    let record = record(exposures);
    let generation = generation(vec![]);
    visits(
        record.exposures(),
        range,
        &history(&generation),
        |_, _| true,
        |v| found.push((v.arm.index(), steps_reached(&v, steps, &outcomes))),
    );
    found.sort_unstable();
    found
}

/// The most steps that any choice of outcomes reaches, with one outcome per step in the order of time.
fn most_steps(steps: &[u8], outcomes: &[StepOutcome], since: Timestamp) -> usize {
    let Some((next, rest)) = steps.split_first() else { return 0 };
    let choices = outcomes.iter().enumerate().filter(|(_, o)| o.event == *next && o.at >= since);
    let with = |(i, chosen): (usize, &StepOutcome)| {
        let others = [&outcomes[..i], &outcomes[i + 1..]].concat();
        1 + most_steps(rest, &others, chosen.at)
    };
    choices.map(with).max().unwrap_or(0)
}

/// The same by brute force: every outcome is assigned to the arm that was served at its time.
fn brute_force(
    exposures: &[Exposure],
    range: TimeRange,
    steps: &[u8],
    outcomes: &[StepOutcome],
) -> Vec<(usize, usize)> {
    let record = record(exposures);
    let mut found = Vec::new();
    for index in 0..4 {
        let first = exposures.iter().filter(|e| e.arm == arm(index)).map(|e| e.at).min();
        let Some(first) = first.filter(|at| *at >= range.from && *at < range.to) else { continue };
        let is_first = record.first().is_some_and(|e| e.arm == arm(index));
        let since = if is_first { first.minus(Duration::from_secs(60)) } else { first };
        let belongs = |o: &&StepOutcome| {
            let served = record.served_at(o.at).or(record.first().map(|e| e.arm));
            o.at >= range.from && o.at < range.to && served == Some(arm(index)) && o.at >= since
        };
        let outcomes: Vec<StepOutcome> = outcomes.iter().filter(belongs).copied().collect();
        found.push((index, most_steps(steps, &outcomes, since)));
    }
    found
}

#[test]
fn steps_are_reached_in_order() {
    let result = |outcomes: &[StepOutcome]| funnel(&[exposure(1, 10, 1)], range(0, 1_000), &[0, 1, 2], outcomes)[0].1;
    assert_eq!(result(&[]), 0);
    assert_eq!(result(&[outcome(0, 10), outcome(1, 10), outcome(2, 10)]), 3, "all at the instant of the exposure");
    assert_eq!(
        result(&[outcome(0, 9), outcome(1, 20), outcome(2, 30)]),
        3,
        "the first outcome is stamped a second before the exposure"
    );
    let late = |outcomes: &[StepOutcome]| funnel(&[exposure(1, 90, 1)], range(0, 1_000), &[0, 1], outcomes)[0].1;
    assert_eq!([late(&[outcome(0, 29), outcome(1, 95)]), late(&[outcome(0, 30), outcome(1, 95)])], [0, 2]);
    assert_eq!(
        result(&[outcome(1, 20), outcome(0, 30), outcome(2, 40)]),
        1,
        "the second step's outcome came before the first's"
    );
    assert_eq!(result(&[outcome(1, 20), outcome(0, 30), outcome(1, 40), outcome(0, 50), outcome(2, 60)]), 3);
    assert_eq!(result(&[outcome(0, 20), outcome(2, 30)]), 1, "steps cannot be skipped");
}

#[test]
fn two_steps_of_the_same_event_need_two_outcomes() {
    let result = |outcomes: &[StepOutcome]| funnel(&[exposure(1, 10, 1)], range(0, 1_000), &[0, 0], outcomes)[0].1;
    assert_eq!(
        [
            result(&[outcome(0, 20)]),
            result(&[outcome(0, 20), outcome(0, 20)]),
            result(&[outcome(0, 20), outcome(0, 30)])
        ],
        [1, 2, 2]
    );
}

#[test]
fn crossover_is_in_both_funnels_each_for_its_period() {
    let crossed = [exposure(0, 10, 1), exposure(1, 100, 2)];
    let outcomes = [outcome(0, 20), outcome(1, 120), outcome(0, 130), outcome(1, 140)];
    assert_eq!(funnel(&crossed, range(0, 1_000), &[0, 1], &outcomes), [(0, 1), (1, 2)]);
    assert_eq!(funnel(&crossed, range(0, 100), &[0, 1], &outcomes), [(0, 1)], "the range ends before the crossover");
    assert_eq!(
        funnel(&crossed, range(11, 140), &[0, 1], &outcomes),
        [(1, 1)],
        "the range begins after the first exposure"
    );
    let both = [exposure(0, 10, 1), exposure(1, 10, 1)];
    assert_eq!(
        funnel(&both, range(0, 1_000), &[0], &outcomes),
        [(0, 0), (1, 1)],
        "with equal times the variation is served last"
    );
}

#[test]
fn only_units_first_exposed_in_the_range_and_served_one_arm_are_compared() {
    let compared = |exposures: &[Exposure], range, served_throughout: bool| {
        let mut found = Vec::new();
        let (generation, served) = (generation(vec![]), |_, _| served_throughout);
        visits(exposures, range, &history(&generation), served, |v| found.push((v.arm.index(), v.compared)));
        found
    };
    let crossed = [exposure(0, 10, 1), exposure(1, 100, 2)];
    assert_eq!(compared(&crossed, range(0, 1_000), true), [(0, true), (1, false)]);
    assert_eq!(compared(&crossed, range(0, 1_000), false), [(0, false), (1, false)]);
    assert_eq!(
        compared(&crossed, range(50, 1_000), true),
        [(1, false)],
        "its first exposure, to control, is before the range"
    );
}

#[test]
fn parts_of_a_funnel_add_up_to_the_whole() {
    let generation = generation(vec![]);
    let history = history(&generation);
    let visit = |arm_index, from, compared| Visit {
        from: at(from),
        counts_from: at(from),
        until: at(999),
        arm: arm(arm_index),
        compared,
    };
    let visited =
        [(visit(0, 10, true), 2), (visit(1, 70, true), 0), (visit(1, 130, true), 1), (visit(1, 140, false), 2)];
    let mut whole = FunnelTally::new(3);
    let (mut even, mut odd) = (FunnelTally::new(3), FunnelTally::new(3));
    for (i, (visit, reached)) in visited.iter().enumerate() {
        whole.count(visit, *reached, &history);
        if i % 2 == 0 { &mut even } else { &mut odd }.count(visit, *reached, &history);
    }
    odd.add(&even);
    assert_eq!(odd, whole);
    assert_eq!(whole.all_visits.iter().map(|arm| arm.units).collect::<Vec<_>>(), [1, 3, 0]);
    assert_eq!((whole.all_visits[1].reached[0], whole.all_visits[1].reached[1]), (2, 1));
    let epochs = whole.epochs(0);
    let keys: Vec<_> = epochs.iter().map(|epoch| (epoch.epoch.tick, epoch.epoch.revision)).collect();
    assert_eq!(keys, [(0, 1), (1, 1), (2, 2)]);
    assert_eq!((epochs[2].arms[1].n, epochs[2].arms[1].s, epochs[1].arms[1].s), (1, 1, 0));
}

/// A line in eighths. Both variations take one more eighth from control at 100 s and again at 200 s.
fn generation(kill_changes: Vec<KillChange>) -> Generation {
    let line = |owners: [usize; 8]| {
        let buckets = (0u64..).zip(owners).map(|(i, o)| Bucket { start: Point::new(i << 61), owner: arm(o) });
        Arc::new(Allocation::new(buckets).unwrap())
    };
    let revision = |number, seconds, owners| Revision {
        number,
        created_at: at(seconds),
        effective_at: at(seconds),
        cause: RevisionCause::Grown,
        allocation: line(owners),
    };
    Generation {
        number: 1,
        salt: Salt::parse("s").unwrap(),
        started_at: at(0),
        revisions: vec![
            revision(1, 0, [1, 0, 0, 2, 0, 0, 0, 0]),
            revision(2, 100, [1, 1, 0, 2, 2, 0, 0, 0]),
            revision(3, 200, [1, 1, 1, 2, 2, 2, 0, 0]),
        ],
        kill_changes,
        endings: vec![],
    }
}

fn exposures() -> impl Strategy<Value = Vec<Exposure>> {
    let one = (0usize..4, 0i64..90, 1u32..3).prop_map(|(a, s, r)| exposure(a, s, r));
    prop::collection::vec(one, 1..7)
}

fn outcomes() -> impl Strategy<Value = Vec<StepOutcome>> {
    let one = (0u8..4, 0i64..90).prop_map(|(event, seconds)| outcome(event, seconds));
    prop::collection::vec(one, 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn reached_steps_match_the_best_choice_of_outcomes(
        exposed in exposures(), outcomes in outcomes(), steps in prop::collection::vec(0u8..3, 1..5),
        from in 0i64..70, length in 1i64..90, order in any::<usize>(),
    ) {
        let range = range(from, from + length);
        let expected = brute_force(&exposed, range, &steps, &outcomes);
        let (mut exposed, mut outcomes) = (exposed, outcomes);
        let by = order % exposed.len();
        exposed.rotate_left(by);
        exposed.push(exposed[0]);
        let by = order % outcomes.len().max(1);
        outcomes.rotate_left(by);
        prop_assert_eq!(funnel(&exposed, range, &steps, &outcomes), expected);
    }

    #[test]
    fn serving_periods_agree_with_the_generation(
        kill_changes in prop::collection::vec((0usize..4, 0i64..320, any::<bool>()), 0..5),
        point in any::<u64>(), served in 0usize..3, from in 0i64..320, length in 1i64..320,
    ) {
        let target = |a| if a == 0 { KillTarget::Everything } else { KillTarget::Variation(arm(a)) };
        let kill_change = |(a, seconds, killed)| KillChange { at: at(seconds), target: target(a), killed };
        let mut kill_changes: Vec<KillChange> = kill_changes.into_iter().map(kill_change).collect();
        kill_changes.sort_by_key(|change| change.at);
        let generation = generation(kill_changes);
        let (from, until) = (at(from), at(from + length));
        let (point, served) = (Point::new(point), arm(served));
        let limit = interruption_limit(until.since(from));
        let expected = generation.serves_except(point, served, (from, until), limit);
        prop_assert_eq!(ServingPeriods::new(&generation, until).serves_throughout(point, served, from), expected);
    }
}
