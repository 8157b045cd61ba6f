//! Tests of attribution: examples, and a comparison with a brute-force count over all events of one unit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{KillChange, Revision, RevisionCause};
use inroad_assignment::{Allocation, Bucket, GenerationEnd, KillTarget, Salt};
use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

fn exposure(arm_index: usize, seconds: i64, revision: u32) -> Exposure {
    Exposure { at: at(seconds), revision, arm: arm(arm_index) }
}

fn outcome(event: &str, seconds: i64, value: i64) -> Outcome<'_> {
    Outcome { event, at: at(seconds), value_micros: value * 1_000_000 }
}

/// A line in four quarters: arm 1, control, arm 2, control. Revision 2, effective at 100 s, gives arm 1 the second
/// quarter.
fn generation(kill_changes: Vec<KillChange>) -> Generation {
    let line = |owners: [usize; 4]| {
        let buckets = (0u64..).zip(owners).map(|(i, o)| Bucket { start: Point::new(i << 62), owner: arm(o) });
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
        revisions: vec![revision(1, 0, [1, 0, 2, 0]), revision(2, 100, [1, 1, 2, 0])],
        kill_changes,
        endings: vec![],
    }
}

fn set_killed(target: KillTarget, seconds: i64, killed: bool) -> KillChange {
    KillChange { at: at(seconds), target, killed }
}

fn metrics() -> Vec<Metric> {
    let document = serde_json::json!({
        "key": "x", "variations": [{"key": "a", "payload": true}, {"key": "b", "payload": true}],
        "metrics": [
            {"key": "buys", "event": "buy", "window": "2m"},
            {"key": "count", "event": "buy", "kind": "count", "window": "2m"},
            {"key": "spend", "event": "buy", "kind": "mean", "cap": 5.0, "window": "3m"},
            {"key": "ratio", "event": "buy", "kind": "ratio", "denominator": "view", "window": "1m"},
        ],
    });
    let definition: Definition = serde_json::from_value(document).unwrap();
    definition.metrics().to_vec()
}

/// A point in a quarter (0 to 3) of the line.
fn point_in_quarter(quarter: u64) -> Point {
    Point::new((quarter << 62) + 12345)
}

/// The record and the tally of one unit.
fn count(
    generation: &Generation,
    quarter: u64,
    exposures: &[Exposure],
    outcomes: &[Outcome<'_>],
) -> (UnitRecord, Tally) {
    let metrics = metrics();
    let mut record = UnitRecord::default();
    for exposure in exposures {
        record.add_exposure(*exposure);
    }
    let history =
        History { counts_early: true, tolerates: true, activity_ends: true, generation, metrics: &metrics, tick: TICK };
    outcomes.iter().for_each(|outcome| record.add_outcome(history, 0, outcome));
    let tally = unit_contribution(&record, point_in_quarter(quarter), history, outcomes.iter().copied());
    (record, tally)
}

fn cell_key(metric: Option<u16>, tick: i64, revision: u32, arm_index: usize) -> CellKey {
    CellKey { metric, tick, revision, arm: arm(arm_index) }
}

#[test]
fn unit_counts_in_the_epoch_and_arm_of_its_first_exposure() {
    let generation = generation(vec![]);
    let outcomes = [outcome("buy", 130, 4), outcome("view", 140, 2), outcome("buy", 150, 3), outcome("buy", 250, 9)];
    let (_, tally) = count(&generation, 1, &[exposure(1, 125, 2)], &outcomes);
    let cell = |metric| tally.cells[&cell_key(metric, 2, 2, 1)];
    assert_eq!(cell(None).first, 1);
    let numbers = |metric| (cell(metric).n, cell(metric).s, cell(metric).x, cell(metric).y);
    assert_eq!(numbers(Some(0)), (1, 1, 1_000_000, 0), "a unit converts once");
    assert_eq!(numbers(Some(1)), (1, 1, 2_000_000, 0), "the third outcome came after the window ended at 245 s");
    assert_eq!(numbers(Some(2)), (1, 1, 5_000_000, 0), "the sum of 16 is limited by the cap of 5");
    assert_eq!(numbers(Some(3)), (1, 1, 7_000_000, 2_000_000));
    let ratio = cell(Some(3));
    let squares = [49, 4, 14].map(|n| I256::new(n * 10i128.pow(12)));
    assert_eq!([ratio.xx, ratio.yy, ratio.xy], squares);
    let activity = tally.cells[&cell_key(Some(0), 2, 0, 1)];
    assert_eq!((activity.outcomes, activity.outcome_units, activity.outcome_sum), (2, 1, 7_000_000));
    assert_eq!(tally.cells[&cell_key(Some(0), 4, 0, 1)].outcomes, 1, "activity counts have no window");
    assert_eq!(tally.cells[&cell_key(None, 2, 0, 1)].units, 1);
}

#[test]
fn unit_whose_served_arm_changes_within_its_window_is_dropped() {
    let generation = generation(vec![]);
    let result = |quarter, exposure: Exposure| {
        let (_, tally) = count(&generation, quarter, &[exposure], &[outcome("buy", 60, 1)]);
        let revision = if exposure.at < at(100) { 1 } else { 2 };
        let tick = exposure.at.tick(TICK);
        let cell = tally.cells[&cell_key(Some(0), tick, revision, exposure.arm.index())];
        (cell.n, cell.s, cell.x, cell.dropped)
    };
    assert_eq!(
        result(1, exposure(0, 50, 1)),
        (0, 0, 0, 1),
        "arm 1 took its quarter at 100 s; its earlier conversion is dropped too"
    );
    assert_eq!(result(3, exposure(0, 50, 1)), (1, 1, 1_000_000, 0), "this quarter stays with control");
    assert_eq!(result(0, exposure(0, 50, 1)), (0, 0, 0, 1), "an outdated client served control in arm 1's quarter");
    assert_eq!(result(1, exposure(1, 120, 2)), (1, 1, 1_000_000, 0), "a minute before the first exposure is tolerated");
    assert_eq!(result(1, exposure(1, 121, 2)), (1, 0, 0, 0), "an outcome longer before the first exposure is not");
}

#[test]
fn kill_drops_units_exposed_before_and_counts_later_units_under_control() {
    let variation = KillTarget::Variation(arm(2));
    let generation = generation(vec![set_killed(variation, 30, true), set_killed(variation, 500, false)]);
    let result = |exposure: Exposure| {
        let (_, tally) = count(&generation, 2, &[exposure], &[]);
        let of_first_metric = |(key, _): &(&CellKey, &Cell)| key.metric == Some(0) && key.revision > 0;
        let (key, cell) = tally.cells.iter().find(of_first_metric).unwrap();
        (key.arm.index(), cell.n, cell.dropped)
    };
    assert_eq!(result(exposure(2, 10, 1)), (2, 0, 1));
    assert_eq!(result(exposure(0, 40, 1)), (0, 1, 0));
    assert_eq!(result(exposure(0, 450, 2)), (0, 0, 1), "the arm is restored within the window");
    assert_eq!(result(exposure(2, 600, 2)), (2, 1, 0));
}

#[test]
fn kill_of_at_most_a_hundredth_of_the_window_drops_nothing() {
    let killed_for = |micros: i64| {
        let kill = set_killed(KillTarget::Variation(arm(2)), 30, true);
        let restore = KillChange { at: Timestamp::from_micros(30_000_000 + micros), killed: false, ..kill };
        let (_, tally) = count(&generation(vec![kill, restore]), 2, &[exposure(2, 10, 1)], &[outcome("buy", 60, 1)]);
        let cell = tally.cells[&cell_key(Some(0), 0, 1, 2)];
        (cell.n, cell.s, cell.dropped, cell.dropped_by_kill)
    };
    assert_eq!(killed_for(1_200_000), (1, 1, 0, 0), "a hundredth of the window of two minutes");
    assert_eq!(killed_for(1_200_001), (0, 0, 1, 1));
    let days = |days: u64| Duration::from_secs(86_400 * days);
    assert_eq!([interruption_limit(days(14)), interruption_limit(TICK)], [TICK, TICK / 100], "never above a minute");
}

#[test]
fn interruptions_of_one_window_are_added_up() {
    let kills = |times: i64| {
        let toggle = |i| set_killed(KillTarget::Everything, 20 + i, i % 2 == 0);
        let (_, tally) = count(&generation((0..2 * times).map(toggle).collect()), 2, &[exposure(2, 10, 1)], &[]);
        // Two windows: a second of two minutes is below a hundredth, two seconds of three minutes are above it.
        [0, 2].map(|metric| tally.cells[&cell_key(Some(metric), 0, 1, 2)].n)
    };
    assert_eq!([kills(1), kills(2)], [[1, 1], [0, 0]]);
}

#[test]
fn dropped_units_have_a_reason() {
    let variation = KillTarget::Variation(arm(2));
    let mut generation = generation(vec![set_killed(variation, 30, true), set_killed(variation, 90, false)]);
    generation.endings = vec![GenerationEnd { at: at(500), shipped: None }];
    let reason = |quarter, exposure: Exposure| {
        let (_, tally) = count(&generation, quarter, &[exposure], &[]);
        let cells = tally.cells.iter().filter(|(key, cell)| key.metric == Some(0) && cell.dropped > 0);
        cells.map(|(_, cell)| (cell.dropped_by_kill, cell.dropped_after_end)).collect::<Vec<_>>()
    };
    assert_eq!(reason(2, exposure(2, 10, 1)), [(1, 0)], "killed within the window");
    assert_eq!(reason(2, exposure(0, 40, 1)), [(1, 0)], "first exposed to control while the variation was killed");
    assert_eq!(reason(1, exposure(0, 50, 1)), [(0, 0)], "moved by a revision");
    assert_eq!(reason(2, exposure(0, 200, 1)), [(0, 0)], "an outdated client served control");
    assert_eq!(reason(3, exposure(0, 500, 2)), [(0, 1)], "exposed after the end");
    assert_eq!(reason(3, exposure(0, 50, 1)), []);
}

#[test]
fn outcomes_outside_the_window_are_counted_beside_the_estimates() {
    let mut generation = generation(vec![]);
    generation.endings = vec![GenerationEnd { at: at(400), shipped: None }];
    let outcomes = [-5, 39, 40, 100, 219, 220, 399, 400].map(|seconds| outcome("buy", seconds, 1));
    let (_, tally) = count(&generation, 3, &[exposure(0, 100, 1)], &outcomes);
    let of_first_metric = tally.cells.iter().filter(|(key, _)| key.metric == Some(0));
    let mut sum = Cell::default();
    of_first_metric.for_each(|(_, cell)| sum.add(cell));
    assert_eq!((sum.too_early, sum.too_late, sum.outcomes), (1, 2, 5), "neither before the start nor after the end");
}

#[test]
fn end_of_a_generation_ends_all_windows() {
    let ended = |endings: &[(i64, Option<usize>)]| Generation {
        endings: endings
            .iter()
            .map(|(seconds, shipped)| GenerationEnd { at: at(*seconds), shipped: shipped.map(arm) })
            .collect(),
        ..generation(vec![set_killed(KillTarget::Everything, 320, true)])
    };
    let result = |generation: &Generation, quarter, exposure: Exposure| {
        let outcomes = [outcome("buy", 295, 1), outcome("buy", 300, 1), outcome("buy", 310, 1)];
        let (_, tally) = count(generation, quarter, &[exposure], &outcomes);
        let cell = tally.cells.iter().find(|(key, _)| key.metric == Some(1) && key.revision > 0).unwrap().1;
        (cell.n, cell.x / 1_000_000, cell.dropped)
    };
    for generation in [ended(&[(300, Some(2))]), ended(&[(300, None)]), ended(&[(300, Some(0)), (350, None)])] {
        assert_eq!(
            result(&generation, 2, exposure(2, 290, 2)),
            (1, 1, 0),
            "outcomes count up to the end, and a later kill changes nothing"
        );
        assert_eq!(result(&generation, 3, exposure(0, 290, 2)), (1, 1, 0));
        assert_eq!(
            result(&generation, 3, exposure(0, 180, 2)),
            (1, 1, 0),
            "the window of 120 s ends with the generation"
        );
        assert_eq!(result(&generation, 2, exposure(2, 300, 2)), (0, 0, 1), "no unit counts after the end");
    }
    let both = ended(&[(300, Some(2)), (350, None)]);
    assert_eq!(generation_as_of(&both, 2, 0, 0).ended_at(), None);
    assert_eq!(
        result(&generation_as_of(&both, 2, 0, 0), 2, exposure(2, 290, 2)),
        (1, 3, 0),
        "without the endings all outcomes count"
    );
}

#[test]
fn unit_counts_contain_moved_crossed_and_stale_units() {
    let generation = generation(vec![]);
    let result = |exposures: &[Exposure]| {
        let (_, tally) = count(&generation, 1, exposures, &[]);
        (tally.unit_counts.units_moved, tally.unit_counts.crossovers, tally.unit_counts.stale_exposures)
    };
    assert_eq!(result(&[exposure(0, 10, 1)]), (0, 0, 0));
    assert_eq!(result(&[exposure(0, 10, 1), exposure(1, 110, 2)]), (0, 1, 0));
    assert_eq!(
        result(&[exposure(1, 10, 1), exposure(0, 110, 1)]),
        (0, 0, 1),
        "from a variation to control is not a crossover, but the exposure is stale"
    );
    assert_eq!(result(&[exposure(1, 10, 1), exposure(2, 20, 1)]), (1, 0, 0));
    assert_eq!(
        result(&[exposure(0, 10, 1), exposure(1, 10, 1)]),
        (0, 1, 0),
        "control is first if both exposures have the same time"
    );
}

#[test]
fn outcome_is_credited_to_the_arm_served_last_before_it() {
    let generation = generation(vec![]);
    let outcomes = [outcome("buy", 5, 1), outcome("buy", 10, 1), outcome("buy", 115, 1), outcome("buy", 300, 1)];
    let (record, tally) = count(&generation, 1, &[exposure(0, 10, 1), exposure(1, 110, 2)], &outcomes);
    assert_eq!(record.served_at(at(9)), None, "but the outcome at 5 s is within the tolerance");
    let credited: BTreeMap<(usize, i64), u64> = tally
        .cells
        .iter()
        .filter(|(k, c)| k.metric == Some(0) && c.outcomes > 0)
        .map(|(k, c)| ((k.arm.index(), k.tick), c.outcomes))
        .collect();
    assert_eq!(credited, BTreeMap::from([((0, 0), 2), ((1, 1), 1), ((1, 5), 1)]));
}

#[test]
fn earlier_state_of_a_generation_gives_the_earlier_contribution() {
    let full = generation(vec![set_killed(KillTarget::Everything, 200, true)]);
    let before = generation_as_of(&full, 1, 0, 0);
    assert_eq!((before.revisions.len(), before.kill_changes.len()), (1, 0));
    let (_, earlier) = count(&before, 1, &[exposure(0, 50, 1)], &[]);
    let (_, now) = count(&full, 1, &[exposure(0, 50, 1)], &[]);
    assert_eq!(earlier.cells[&cell_key(Some(0), 0, 1, 0)].n, 1);
    assert_eq!(now.cells[&cell_key(Some(0), 0, 1, 0)].dropped, 1);
}

#[test]
fn subtracting_and_adding_the_same_tally_gives_zero() {
    let (_, tally) =
        count(&generation(vec![]), 1, &[exposure(1, 125, 2), exposure(0, 3, 1)], &[outcome("buy", 130, -4)]);
    let mut difference = Tally::default();
    difference.sub(&tally);
    assert!(!difference.is_zero());
    difference.add(&tally);
    assert!(difference.is_zero());
}

#[test]
fn huge_values_can_be_subtracted_again() {
    let huge: Vec<Outcome<'_>> = (0..5).map(|i| Outcome { event: "buy", at: at(i), value_micros: i64::MAX }).collect();
    let (_, tally) = count(&generation(vec![]), 3, &[exposure(0, 0, 1)], &huge);
    let mut sum = Tally::default();
    (0..100).for_each(|_| sum.add(&tally));
    (0..100).for_each(|_| sum.sub(&tally));
    assert!(sum.is_zero());
}

#[test]
fn sums_of_the_largest_values_are_exact() {
    let (units, each, value) = (4, 10_000, 1_000_000_000_000_000);
    let buys = (0..each).map(|_| Outcome { event: "buy", at: at(1), value_micros: value });
    let views = (0..each).map(|_| Outcome { event: "view", at: at(1), value_micros: -value });
    let outcomes: Vec<Outcome<'_>> = buys.chain(views).collect();
    let mut sum = Tally::default();
    (0..units).for_each(|_| sum.add(&count(&generation(vec![]), 3, &[exposure(0, 0, 1)], &outcomes).1));
    let cell = sum.cells[&cell_key(Some(3), 0, 1, 0)];
    let zeros = |digit: &str, zeros: usize| format!("{digit}{}", "0".repeat(zeros));
    assert_eq!((cell.x.to_string(), cell.y.to_string()), (zeros("4", 19), zeros("-4", 19)));
    assert_eq!((cell.xx.to_string(), cell.yy.to_string()), (zeros("4", 38), zeros("4", 38)), "i128 ends before 2e38");
    assert_eq!(cell.xy.to_string(), zeros("-4", 38));
}

/// The tally of one unit, counted by brute force from its events.
fn brute_force(generation: &Generation, point: Point, exposures: &[Exposure], outcomes: &[Outcome<'_>]) -> Tally {
    let mut first: Vec<Exposure> = Vec::new();
    let mut sorted = exposures.to_vec();
    sorted.sort_by_key(|e| (e.at, e.revision, e.arm));
    sorted.iter().for_each(|e| {
        if first.iter().all(|f| f.arm != e.arm) {
            first.push(*e)
        }
    });
    let mut tally = Tally::default();
    let Some(start) = first.first() else { return tally };
    let revision = |when: Timestamp| if when >= at(100) { 2 } else { 1 };
    let epoch = |metric| CellKey { metric, tick: start.at.tick(TICK), revision: revision(start.at), arm: start.arm };
    tally.add_cell(epoch(None), &Cell { first: 1, ..Cell::default() });
    for e in &first {
        let key = CellKey { metric: None, tick: e.at.tick(TICK), revision: 0, arm: e.arm };
        tally.add_cell(key, &Cell { units: 1, ..Cell::default() });
    }
    for (i, metric) in metrics().iter().enumerate() {
        let index = Some(i as u16);
        let end = start.at.plus(metric.window);
        let begin = at(start.at.as_micros() / 1_000_000 - 60).max(at(0));
        let within = |name: &str| -> Vec<i128> {
            let inside = outcomes.iter().filter(|o| o.event == name && o.at >= begin && o.at < end);
            inside.map(|o| i128::from(o.value_micros)).collect()
        };
        let (ours, views) = (within("buy"), within("view").iter().sum::<i128>());
        let (sum, any) = (ours.iter().sum::<i128>(), !ours.is_empty());
        // Check the served arm in every second of the window: it changes at whole seconds only.
        let seconds: Vec<Timestamp> =
            (0..).map(|s| start.at.plus(Duration::from_secs(s))).take_while(|t| *t < end).collect();
        let is_counted = |generation: &Generation| {
            let otherwise = seconds.iter().filter(|when| generation.served_arm(point, **when) != start.arm).count();
            otherwise as f64 <= metric.window.as_secs_f64() / 100.0
        };
        let stable = is_counted(generation);
        let without_kills = Generation { kill_changes: vec![], ..generation.clone() };
        let served_instead = generation.served_arm(point, start.at) != without_kills.served_arm(point, start.at);
        let during_kill = served_instead && generation.served_arm(point, start.at) == start.arm;
        let by_kill = u64::from(during_kill || is_counted(&without_kills));
        let (x, y) = match i {
            0 => (i128::from(any) * 1_000_000, 0),
            1 => (ours.len() as i128 * 1_000_000, 0),
            2 => (sum.min(5_000_000), 0),
            _ => (sum, views),
        };
        let quarter = start.at.plus(metric.window / 4);
        let early = outcomes.iter().any(|o| o.event == "buy" && o.at >= begin && o.at < quarter);
        let cell = match stable {
            true => Cell {
                n: 1,
                s: u64::from(any),
                early: u64::from(early),
                x,
                y,
                xx: I256::from(x) * I256::from(x),
                yy: I256::from(y) * I256::from(y),
                xy: I256::from(x) * I256::from(y),
                ..Cell::default()
            },
            false => Cell { dropped: 1, dropped_by_kill: by_kill, ..Cell::default() },
        };
        tally.add_cell(epoch(index), &cell);
        let mut credited: BTreeMap<Arm, Timestamp> = BTreeMap::new();
        for o in outcomes.iter().filter(|o| o.event == "buy") {
            let key = |arm| CellKey { metric: index, tick: o.at.tick(TICK), revision: 0, arm };
            let (too_early, too_late) = (u64::from(o.at < begin), u64::from(o.at >= end));
            if too_early + too_late > 0 {
                tally.add_cell(key(start.arm), &Cell { too_early, too_late, ..Cell::default() });
            }
            let served = first.iter().rfind(|e| e.at <= o.at);
            let Some(e) = served.or(Some(start).filter(|_| o.at >= begin)) else { continue };
            let key = key(e.arm);
            let sum = i128::from(o.value_micros);
            tally.add_cell(key, &Cell { outcomes: 1, outcome_sum: sum, ..Cell::default() });
            let earliest = credited.entry(e.arm).or_insert(o.at);
            *earliest = o.at.min(*earliest);
        }
        for (arm, when) in credited {
            let key = CellKey { metric: index, tick: when.tick(TICK), revision: 0, arm };
            tally.add_cell(key, &Cell { outcome_units: 1, ..Cell::default() });
        }
    }
    let treated = first.iter().filter(|e| !e.arm.is_control()).count();
    let control = first.iter().position(|e| e.arm.is_control());
    tally.unit_counts = UnitCounts {
        units_moved: u64::from(treated > 1),
        crossovers: u64::from(control.is_some_and(|c| first[c + 1..].iter().any(|e| !e.arm.is_control()))),
        stale_exposures: first.iter().filter(|e| e.revision < revision(e.at)).count() as u64,
    };
    tally
}

fn exposures() -> impl Strategy<Value = Vec<Exposure>> {
    let one = (0usize..3, 0i64..300, 1u32..3).prop_map(|(a, s, r)| exposure(a, s, r));
    prop::collection::vec(one, 1..6)
}

fn outcomes() -> impl Strategy<Value = Vec<Outcome<'static>>> {
    let one = (prop::sample::select(vec!["buy", "view", "other"]), 0i64..600, -5i64..9);
    prop::collection::vec(one.prop_map(|(event, s, v)| outcome(event, s, v)), 0..8)
}

fn kill_changes() -> impl Strategy<Value = Vec<KillChange>> {
    let targets = vec![KillTarget::Everything, KillTarget::Variation(arm(1)), KillTarget::Variation(arm(2))];
    let one = (prop::sample::select(targets), 0i64..400, any::<bool>()).prop_map(|(t, s, k)| set_killed(t, s, k));
    prop::collection::vec(one, 0..4).prop_map(|mut kill_changes| {
        kill_changes.sort_by_key(|s| s.at);
        kill_changes
    })
}

/// Counts a unit's events one after another, as the store does: a new exposure clears and adds the outcomes again, and
/// each outcome is added once.
fn count_step_by_step(generation: &Generation, point: Point, events: &[Result<Exposure, Outcome<'_>>]) -> Tally {
    let metrics = metrics();
    let history =
        History { counts_early: true, tolerates: true, activity_ends: true, generation, metrics: &metrics, tick: TICK };
    let (mut record, mut added, mut tally) = (UnitRecord::default(), Vec::new(), Tally::default());
    for event in events {
        match event {
            Ok(exposure) => {
                tally.sub(&unit_contribution(&record, point, history, added.iter().copied()));
                if record.add_exposure(*exposure) {
                    added.iter().for_each(|outcome| record.add_outcome(history, 0, outcome));
                }
                tally.add(&unit_contribution(&record, point, history, added.iter().copied()));
            }
            Err(outcome) => {
                let unit_counts = record_contribution(&record, point, history, |key, cell| tally.sub_cell(key, &cell));
                tally.unit_counts.sub(&unit_counts);
                record.add_outcome(history, 0, outcome);
                let unit_counts = record_contribution(&record, point, history, |key, cell| tally.add_cell(key, &cell));
                tally.unit_counts.add(&unit_counts);
                outcome_contribution(&record, history, outcome, 0, |key, cell| tally.add_cell(key, &cell));
                added.push(*outcome);
            }
        }
    }
    tally
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn events_in_any_order_with_repeats_give_the_brute_force_tally(
        exposed in exposures(), repeats in any::<u8>(), outcomes in outcomes(), kill_changes in kill_changes(),
        quarter in 0u64..4, order in any::<u64>(),
    ) {
        let generation = generation(kill_changes);
        let point = point_in_quarter(quarter);
        let mut events: Vec<Result<Exposure, Outcome<'_>>> = exposed.iter().map(|e| Ok(*e)).collect();
        events.extend(exposed.iter().enumerate().filter(|(i, _)| repeats >> (i % 8) & 1 == 1).map(|(_, e)| Ok(*e)));
        events.extend(outcomes.iter().map(|o| Err(*o)));
        let mut random = order;
        for last in (1..events.len()).rev() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            events.swap(last, (random >> 33) as usize % (last + 1));
        }
        let expected = brute_force(&generation, point, &exposed, &outcomes);
        prop_assert_eq!(count_step_by_step(&generation, point, &events), expected);
    }

    #[test]
    fn metric_added_later_counts_as_if_it_had_existed_from_the_start(
        exposed in exposures(), outcomes in outcomes(), quarter in 0u64..4, known in 0usize..4,
    ) {
        let (generation, metrics) = (generation(vec![]), metrics());
        let mut record = UnitRecord::default();
        for exposure in &exposed {
            record.add_exposure(*exposure);
        }
        let history = History { counts_early: true, tolerates: true, activity_ends: true, generation: &generation, metrics: &metrics, tick: TICK };
        outcomes.iter().for_each(|o| record.add_outcome(history.with_first_metrics(known), 0, o));
        outcomes.iter().for_each(|o| record.add_outcome(history, known, o));
        let found = unit_contribution(&record, point_in_quarter(quarter), history, outcomes.iter().copied());
        prop_assert_eq!(found, brute_force(&generation, point_in_quarter(quarter), &exposed, &outcomes));
    }
}
