//! Funnels against a search by brute force over the events of one unit, and by example.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{Cause, Revision, Switch};
use inroad_assignment::{Allocation, Bucket, Salt, Target};
use proptest::prelude::*;

use super::*;
use crate::attribution::UnitRecord;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

fn shown(arm_index: usize, seconds: i64, revision: u32) -> Exposure {
    Exposure { at: at(seconds), revision, arm: arm(arm_index) }
}

fn told(event: u8, seconds: i64) -> StepOutcome {
    StepOutcome { at: at(seconds), event }
}

fn range(from: i64, to: i64) -> TimeRange {
    TimeRange { from: at(from), to: at(to) }
}

fn record(exposures: &[Exposure]) -> UnitRecord {
    let mut record = UnitRecord::default();
    for exposure in exposures {
        record.expose(*exposure);
    }
    record
}

/// By arm, how far the unit got in its funnel.
fn funnel(exposures: &[Exposure], range: TimeRange, steps: &[u8], outcomes: &[StepOutcome]) -> Vec<(usize, usize)> {
    let mut outcomes: Vec<StepOutcome> = outcomes.iter().copied().filter(|o| range.holds(o.at)).collect();
    outcomes.sort_unstable();
    let mut found = Vec::new();
    let record = record(exposures);
    visits(record.exposures(), range, |_, _| true, |v| found.push((v.arm.index(), reached(&v, steps, &outcomes))));
    found.sort_unstable();
    found
}

/// The most steps that any choice of outcomes, one a step and none twice, in the order of time, gets to.
fn furthest(steps: &[u8], outcomes: &[StepOutcome], since: Timestamp) -> usize {
    let Some((next, rest)) = steps.split_first() else { return 0 };
    let choices = outcomes.iter().enumerate().filter(|(_, o)| o.event == *next && o.at >= since);
    let with = |(i, chosen): (usize, &StepOutcome)| {
        let others = [&outcomes[..i], &outcomes[i + 1..]].concat();
        1 + furthest(rest, &others, chosen.at)
    };
    choices.map(with).max().unwrap_or(0)
}

/// Told from the events alone: outcomes are asked one by one whom they belong to.
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
        let ours = |o: &&StepOutcome| {
            o.at >= range.from && o.at < range.to && record.served_at(o.at) == Some(arm(index)) && o.at >= first
        };
        let ours: Vec<StepOutcome> = outcomes.iter().filter(ours).copied().collect();
        found.push((index, furthest(steps, &ours, first)));
    }
    found
}

#[test]
fn steps_are_reached_in_order() {
    let of = |outcomes: &[StepOutcome]| funnel(&[shown(1, 10, 1)], range(0, 1_000), &[0, 1, 2], outcomes)[0].1;
    assert_eq!(of(&[]), 0);
    assert_eq!(of(&[told(0, 10), told(1, 10), told(2, 10)]), 3, "at one instant, and that of the exposure");
    assert_eq!(of(&[told(0, 9), told(1, 20), told(2, 30)]), 0, "the first came before the exposure");
    assert_eq!(of(&[told(1, 20), told(0, 30), told(2, 40)]), 1, "the second came before the first");
    assert_eq!(of(&[told(1, 20), told(0, 30), told(1, 40), told(0, 50), told(2, 60)]), 3);
    assert_eq!(of(&[told(0, 20), told(2, 30)]), 1, "no step is left out");
}

#[test]
fn two_steps_of_one_event_take_two_outcomes() {
    let of = |outcomes: &[StepOutcome]| funnel(&[shown(1, 10, 1)], range(0, 1_000), &[0, 0], outcomes)[0].1;
    assert_eq!([of(&[told(0, 20)]), of(&[told(0, 20), told(0, 20)]), of(&[told(0, 20), told(0, 30)])], [1, 2, 2]);
}

#[test]
fn who_crosses_over_is_in_both_funnels_each_in_its_time() {
    let crossed = [shown(0, 10, 1), shown(1, 100, 2)];
    let outcomes = [told(0, 20), told(1, 120), told(0, 130), told(1, 140)];
    assert_eq!(funnel(&crossed, range(0, 1_000), &[0, 1], &outcomes), [(0, 1), (1, 2)]);
    assert_eq!(funnel(&crossed, range(0, 100), &[0, 1], &outcomes), [(0, 1)], "the range ends before it crosses");
    assert_eq!(funnel(&crossed, range(11, 140), &[0, 1], &outcomes), [(1, 1)], "and begins after the first exposure");
    let both = [shown(0, 10, 1), shown(1, 10, 1)];
    assert_eq!(funnel(&both, range(0, 1_000), &[0], &outcomes), [(0, 0), (1, 1)], "at one instant the latter is last");
}

#[test]
fn only_who_is_first_exposed_within_the_range_and_stays_is_compared() {
    let compared = |exposures: &[Exposure], range, stays: bool| {
        let mut found = Vec::new();
        visits(exposures, range, |_, _| stays, |visit| found.push((visit.arm.index(), visit.compared)));
        found
    };
    let crossed = [shown(0, 10, 1), shown(1, 100, 2)];
    assert_eq!(compared(&crossed, range(0, 1_000), true), [(0, true), (1, false)]);
    assert_eq!(compared(&crossed, range(0, 1_000), false), [(0, false), (1, false)]);
    assert_eq!(compared(&crossed, range(50, 1_000), true), [(1, false)], "it has a past in control");
}

#[test]
fn a_tally_adds_up_in_any_parts() {
    let generation = generation(vec![]);
    let history = History { early: true, generation: &generation, metrics: &[], tick: Duration::from_secs(60) };
    let visit = |arm_index, from, compared| Visit { from: at(from), until: at(999), arm: arm(arm_index), compared };
    let seen = [(visit(0, 10, true), 2), (visit(1, 70, true), 0), (visit(1, 130, true), 1), (visit(1, 140, false), 2)];
    let mut whole = FunnelTally::new(3);
    let (mut even, mut odd) = (FunnelTally::new(3), FunnelTally::new(3));
    for (i, (visit, reached)) in seen.iter().enumerate() {
        whole.count(visit, *reached, &history);
        if i % 2 == 0 { &mut even } else { &mut odd }.count(visit, *reached, &history);
    }
    odd.add(&even);
    assert_eq!(odd, whole);
    assert_eq!(whole.watched.iter().map(|arm| arm.units).collect::<Vec<_>>(), [1, 3, 0]);
    assert_eq!((whole.watched[1].reached[0], whole.watched[1].reached[1]), (2, 1));
    let epochs = whole.epochs(0);
    let keys: Vec<_> = epochs.iter().map(|epoch| (epoch.epoch.tick, epoch.epoch.revision)).collect();
    assert_eq!(keys, [(0, 1), (1, 1), (2, 2)]);
    assert_eq!((epochs[2].arms[1].n, epochs[2].arms[1].s, epochs[1].arms[1].s), (1, 1, 0));
}

/// A line in eighths whose odd ones grow out of control at 100 s and at 200 s.
fn generation(switches: Vec<Switch>) -> Generation {
    let line = |owners: [usize; 8]| {
        let buckets = (0u64..).zip(owners).map(|(i, o)| Bucket { start: Point::new(i << 61), owner: arm(o) });
        Arc::new(Allocation::new(buckets).unwrap())
    };
    let revision = |number, seconds, owners| Revision {
        number,
        created_at: at(seconds),
        effective_at: at(seconds),
        cause: Cause::Grown,
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
        switches,
        endings: vec![],
    }
}

fn exposures() -> impl Strategy<Value = Vec<Exposure>> {
    let one = (0usize..4, 0i64..60, 1u32..3).prop_map(|(a, s, r)| shown(a, s, r));
    prop::collection::vec(one, 1..7)
}

fn outcomes() -> impl Strategy<Value = Vec<StepOutcome>> {
    let one = (0u8..4, 0i64..60).prop_map(|(event, seconds)| told(event, seconds));
    prop::collection::vec(one, 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_unit_gets_as_far_as_any_choice_of_its_outcomes(
        shown in exposures(), told in outcomes(), steps in prop::collection::vec(0u8..3, 1..5),
        from in 0i64..40, length in 1i64..60, order in any::<usize>(),
    ) {
        let range = range(from, from + length);
        let want = brute_force(&shown, range, &steps, &told);
        let (mut shown, mut told) = (shown, told);
        let by = order % shown.len();
        shown.rotate_left(by);
        shown.push(shown[0]);
        let by = order % told.len().max(1);
        told.rotate_left(by);
        prop_assert_eq!(funnel(&shown, range, &steps, &told), want);
    }

    #[test]
    fn stays_agrees_with_the_generation(
        switches in prop::collection::vec((0usize..4, 0i64..320, any::<bool>()), 0..5),
        point in any::<u64>(), served in 0usize..3, from in 0i64..320, length in 1i64..320,
    ) {
        let target = |a| if a == 0 { Target::Everything } else { Target::Variation(arm(a)) };
        let switch = |(a, seconds, killed)| Switch { at: at(seconds), target: target(a), killed };
        let mut switches: Vec<Switch> = switches.into_iter().map(switch).collect();
        switches.sort_by_key(|switch| switch.at);
        let generation = generation(switches);
        let (from, until) = (at(from), at(from + length));
        let (point, served) = (Point::new(point), arm(served));
        let want = generation.serves_throughout(point, served, from, until);
        prop_assert_eq!(Stays::new(&generation, until).serves(point, served, from), want);
    }
}
