//! Attribution against a count by brute force over the whole set of one unit's events, and by example.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{Cause, Revision, Switch};
use inroad_assignment::{Allocation, Bucket, Ending, Salt, Target};
use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

fn shown(arm_index: usize, seconds: i64, revision: u32) -> Exposure {
    Exposure { at: at(seconds), revision, arm: arm(arm_index) }
}

fn told(event: &str, seconds: i64, value: i64) -> Outcome<'_> {
    Outcome { event, at: at(seconds), value_micros: value * 1_000_000 }
}

/// A line in four quarters: arm 1, control, arm 2, control. From revision 2 on, effective at 100 s, arm 1 has two.
fn generation(switches: Vec<Switch>) -> Generation {
    let line = |owners: [usize; 4]| {
        let buckets = (0u64..).zip(owners).map(|(i, o)| Bucket { start: Point::new(i << 62), owner: arm(o) });
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
        revisions: vec![revision(1, 0, [1, 0, 2, 0]), revision(2, 100, [1, 1, 2, 0])],
        switches,
        endings: vec![],
    }
}

fn killed(target: Target, seconds: i64, killed: bool) -> Switch {
    Switch { at: at(seconds), target, killed }
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

/// In a quarter of the line: 0 to 3.
fn in_quarter(quarter: u64) -> Point {
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
        record.expose(*exposure);
    }
    let history = History { early: true, generation, metrics: &metrics, tick: TICK };
    outcomes.iter().for_each(|outcome| record.follow(history, 0, outcome));
    let tally = contribution(&record, in_quarter(quarter), history, outcomes.iter().copied());
    (record, tally)
}

fn estimates(metric: Option<u16>, tick: i64, revision: u32, arm_index: usize) -> CellKey {
    CellKey { metric, tick, revision, arm: arm(arm_index) }
}

#[test]
fn a_unit_is_counted_where_it_was_first_exposed() {
    let generation = generation(vec![]);
    let outcomes = [told("buy", 130, 4), told("view", 140, 2), told("buy", 150, 3), told("buy", 250, 9)];
    let (_, tally) = count(&generation, 1, &[shown(1, 125, 2)], &outcomes);
    let cell = |metric| tally.cells[&estimates(metric, 2, 2, 1)];
    assert_eq!(cell(None).first, 1);
    let numbers = |metric| (cell(metric).n, cell(metric).s, cell(metric).x, cell(metric).y);
    assert_eq!(numbers(Some(0)), (1, 1, 1_000_000, 0), "a conversion counts once");
    assert_eq!(numbers(Some(1)), (1, 1, 2_000_000, 0), "the third came when the window had closed, at 245 s");
    assert_eq!(numbers(Some(2)), (1, 1, 5_000_000, 0), "16 are held at the cap");
    assert_eq!(numbers(Some(3)), (1, 1, 7_000_000, 2_000_000));
    let ratio = cell(Some(3));
    assert_eq!((ratio.xx, ratio.yy, ratio.xy), (49 * 10i128.pow(12), 4 * 10i128.pow(12), 14 * 10i128.pow(12)));
    let watched = tally.cells[&estimates(Some(0), 2, 0, 1)];
    assert_eq!((watched.outcomes, watched.outcome_units, watched.outcome_sum), (2, 1, 7_000_000));
    assert_eq!(tally.cells[&estimates(Some(0), 4, 0, 1)].outcomes, 1, "what is watched knows no window");
    assert_eq!(tally.cells[&estimates(None, 2, 0, 1)].units, 1);
}

#[test]
fn a_unit_that_was_served_something_else_within_its_window_is_dropped() {
    let generation = generation(vec![]);
    let of = |quarter, exposure: Exposure| {
        let (_, tally) = count(&generation, quarter, &[exposure], &[told("buy", 60, 1)]);
        let revision = if exposure.at < at(100) { 1 } else { 2 };
        let tick = exposure.at.tick(TICK);
        let cell = tally.cells[&estimates(Some(0), tick, revision, exposure.arm.index())];
        (cell.n, cell.s, cell.x, cell.dropped)
    };
    assert_eq!(of(1, shown(0, 50, 1)), (0, 0, 0, 1), "its slice was taken at 100 s: early converters go with the rest");
    assert_eq!(of(3, shown(0, 50, 1)), (1, 1, 1_000_000, 0), "this part of control was left alone");
    assert_eq!(of(0, shown(0, 50, 1)), (0, 0, 0, 1), "a stale client served control where arm 1 lives");
    assert_eq!(of(1, shown(1, 110, 2)), (1, 0, 0, 0), "what happens before the window opens is none of its business");
}

#[test]
fn a_kill_drops_who_saw_it_and_counts_who_came_after_as_control() {
    let variation = Target::Variation(arm(2));
    let generation = generation(vec![killed(variation, 30, true), killed(variation, 500, false)]);
    let of = |exposure: Exposure| {
        let (_, tally) = count(&generation, 2, &[exposure], &[]);
        let of_first_metric = |(key, _): &(&CellKey, &Cell)| key.metric == Some(0) && key.revision > 0;
        let (key, cell) = tally.cells.iter().find(of_first_metric).unwrap();
        (key.arm.index(), cell.n, cell.dropped)
    };
    assert_eq!(of(shown(2, 10, 1)), (2, 0, 1));
    assert_eq!(of(shown(0, 40, 1)), (0, 1, 0));
    assert_eq!(of(shown(0, 450, 2)), (0, 0, 1), "restored within its window");
    assert_eq!(of(shown(2, 600, 2)), (2, 1, 0));
}

#[test]
fn an_end_cuts_every_window_alike() {
    let ended = |endings: &[(i64, Option<usize>)]| Generation {
        endings: endings.iter().map(|(seconds, who)| Ending { at: at(*seconds), shipped: who.map(arm) }).collect(),
        ..generation(vec![killed(Target::Everything, 320, true)])
    };
    let of = |generation: &Generation, quarter, exposure: Exposure| {
        let outcomes = [told("buy", 295, 1), told("buy", 300, 1), told("buy", 310, 1)];
        let (_, tally) = count(generation, quarter, &[exposure], &outcomes);
        let cell = tally.cells.iter().find(|(key, _)| key.metric == Some(1) && key.revision > 0).unwrap().1;
        (cell.n, cell.x / 1_000_000, cell.dropped)
    };
    for generation in [ended(&[(300, Some(2))]), ended(&[(300, None)]), ended(&[(300, Some(0)), (350, None)])] {
        assert_eq!(
            of(&generation, 2, shown(2, 290, 2)),
            (1, 1, 0),
            "up to the end, and what is thrown later is nothing"
        );
        assert_eq!(of(&generation, 3, shown(0, 290, 2)), (1, 1, 0));
        assert_eq!(of(&generation, 3, shown(0, 180, 2)), (1, 1, 0), "120 s after 180 is the end as well");
        assert_eq!(of(&generation, 2, shown(2, 300, 2)), (0, 0, 1), "nobody is drawn any more");
    }
    let both = ended(&[(300, Some(2)), (350, None)]);
    assert_eq!(known_up_to(&both, 2, 0, 0).ended_at(), None);
    assert_eq!(of(&known_up_to(&both, 2, 0, 0), 2, shown(2, 290, 2)), (1, 3, 0), "as it was known before");
}

#[test]
fn flags_tell_who_moved() {
    let generation = generation(vec![]);
    let of = |exposures: &[Exposure]| {
        let (_, tally) = count(&generation, 1, exposures, &[]);
        (tally.flags.units_moved, tally.flags.crossovers, tally.flags.stale_exposures)
    };
    assert_eq!(of(&[shown(0, 10, 1)]), (0, 0, 0));
    assert_eq!(of(&[shown(0, 10, 1), shown(1, 110, 2)]), (0, 1, 0));
    assert_eq!(of(&[shown(1, 10, 1), shown(0, 110, 1)]), (0, 0, 1), "back to control is no crossover, but stale");
    assert_eq!(of(&[shown(1, 10, 1), shown(2, 20, 1)]), (1, 0, 0));
    assert_eq!(of(&[shown(0, 10, 1), shown(1, 10, 1)]), (0, 1, 0), "at one instant control comes first");
}

#[test]
fn an_outcome_goes_to_what_was_served_last_before_it() {
    let generation = generation(vec![]);
    let outcomes = [told("buy", 5, 1), told("buy", 10, 1), told("buy", 115, 1), told("buy", 300, 1)];
    let (record, tally) = count(&generation, 1, &[shown(0, 10, 1), shown(1, 110, 2)], &outcomes);
    assert_eq!(record.served_at(at(9)), None);
    let watched: BTreeMap<(usize, i64), u64> = tally
        .cells
        .iter()
        .filter(|(k, c)| k.metric == Some(0) && c.outcomes > 0)
        .map(|(k, c)| ((k.arm.index(), k.tick), c.outcomes))
        .collect();
    assert_eq!(watched, BTreeMap::from([((0, 0), 1), ((1, 1), 1), ((1, 5), 1)]));
}

#[test]
fn a_generation_is_known_as_it_was() {
    let full = generation(vec![killed(Target::Everything, 200, true)]);
    let before = known_up_to(&full, 1, 0, 0);
    assert_eq!((before.revisions.len(), before.switches.len()), (1, 0));
    let (_, then) = count(&before, 1, &[shown(0, 50, 1)], &[]);
    let (_, now) = count(&full, 1, &[shown(0, 50, 1)], &[]);
    assert_eq!(then.cells[&estimates(Some(0), 0, 1, 0)].n, 1);
    assert_eq!(now.cells[&estimates(Some(0), 0, 1, 0)].dropped, 1);
}

#[test]
fn nothing_is_left_of_what_is_taken_away() {
    let (_, tally) = count(&generation(vec![]), 1, &[shown(1, 125, 2), shown(0, 3, 1)], &[told("buy", 130, -4)]);
    let mut difference = Tally::default();
    difference.sub(&tally);
    assert!(!difference.is_zero());
    difference.add(&tally);
    assert!(difference.is_zero());
}

#[test]
fn no_value_is_too_large_to_be_taken_away_again() {
    let huge: Vec<Outcome<'_>> = (0..5).map(|i| Outcome { event: "buy", at: at(i), value_micros: i64::MAX }).collect();
    let (_, tally) = count(&generation(vec![]), 3, &[shown(0, 0, 1)], &huge);
    let mut sum = Tally::default();
    (0..100).for_each(|_| sum.add(&tally));
    (0..100).for_each(|_| sum.sub(&tally));
    assert!(sum.is_zero());
}

/// Estimates of one unit, told from its events alone.
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
        let within = |name: &str| -> Vec<i128> {
            let inside = outcomes.iter().filter(|o| o.event == name && o.at >= start.at && o.at < end);
            inside.map(|o| i128::from(o.value_micros)).collect()
        };
        let (ours, views) = (within("buy"), within("view").iter().sum::<i128>());
        let (sum, any) = (ours.iter().sum::<i128>(), !ours.is_empty());
        // Every microsecond of the window would do; every second is close enough, and both ends.
        let mut instants: Vec<Timestamp> =
            (0..).map(|s| start.at.plus(Duration::from_secs(s))).take_while(|t| *t < end).collect();
        instants
            .extend(generation.switches.iter().map(|s| s.at).chain([at(100)]).filter(|t| *t >= start.at && *t < end));
        let stable = instants.iter().all(|when| generation.served(point, *when) == start.arm);
        let (x, y) = match i {
            0 => (i128::from(any) * 1_000_000, 0),
            1 => (ours.len() as i128 * 1_000_000, 0),
            2 => (sum.min(5_000_000), 0),
            _ => (sum, views),
        };
        let quarter = start.at.plus(metric.window / 4);
        let early = outcomes.iter().any(|o| o.event == "buy" && o.at >= start.at && o.at < quarter);
        let cell = match stable {
            true => Cell {
                n: 1,
                s: u64::from(any),
                early: u64::from(early),
                x,
                y,
                xx: x * x,
                yy: y * y,
                xy: x * y,
                ..Cell::default()
            },
            false => Cell { dropped: 1, ..Cell::default() },
        };
        tally.add_cell(epoch(index), &cell);
        let mut credited: BTreeMap<Arm, Timestamp> = BTreeMap::new();
        for o in outcomes.iter().filter(|o| o.event == "buy") {
            let Some(e) = first.iter().rfind(|e| e.at <= o.at) else { continue };
            let key = CellKey { metric: index, tick: o.at.tick(TICK), revision: 0, arm: e.arm };
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
    tally.flags = Flags {
        units_moved: u64::from(treated > 1),
        crossovers: u64::from(control.is_some_and(|c| first[c + 1..].iter().any(|e| !e.arm.is_control()))),
        stale_exposures: first.iter().filter(|e| e.revision < revision(e.at)).count() as u64,
    };
    tally
}

fn exposures() -> impl Strategy<Value = Vec<Exposure>> {
    let one = (0usize..3, 0i64..300, 1u32..3).prop_map(|(a, s, r)| shown(a, s, r));
    prop::collection::vec(one, 1..6)
}

fn outcomes() -> impl Strategy<Value = Vec<Outcome<'static>>> {
    let one = (prop::sample::select(vec!["buy", "view", "other"]), 0i64..600, -5i64..9);
    prop::collection::vec(one.prop_map(|(event, s, v)| told(event, s, v)), 0..8)
}

fn switches() -> impl Strategy<Value = Vec<Switch>> {
    let targets = vec![Target::Everything, Target::Variation(arm(1)), Target::Variation(arm(2))];
    let one = (prop::sample::select(targets), 0i64..400, any::<bool>()).prop_map(|(t, s, k)| killed(t, s, k));
    prop::collection::vec(one, 0..4).prop_map(|mut switches| {
        switches.sort_by_key(|s| s.at);
        switches
    })
}

/// A unit's events, one after another, as a store that keeps tallies takes them: each exposure makes it forget what it
/// made of the outcomes so far, and each outcome is added once.
fn step_by_step(generation: &Generation, point: Point, events: &[Result<Exposure, Outcome<'_>>]) -> Tally {
    let metrics = metrics();
    let history = History { early: true, generation, metrics: &metrics, tick: TICK };
    let (mut record, mut seen, mut tally) = (UnitRecord::default(), Vec::new(), Tally::default());
    for event in events {
        match event {
            Ok(exposure) => {
                tally.sub(&contribution(&record, point, history, seen.iter().copied()));
                if record.expose(*exposure) {
                    seen.iter().for_each(|outcome| record.follow(history, 0, outcome));
                }
                tally.add(&contribution(&record, point, history, seen.iter().copied()));
            }
            Err(outcome) => {
                let flags = settled(&record, point, history, |key, cell| tally.sub_cell(key, &cell));
                tally.flags.sub(&flags);
                record.follow(history, 0, outcome);
                let flags = settled(&record, point, history, |key, cell| tally.add_cell(key, &cell));
                tally.flags.add(&flags);
                watched(&record, history, outcome, 0, |key, cell| tally.add_cell(key, &cell));
                seen.push(*outcome);
            }
        }
    }
    tally
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_order_and_any_repeat_tell_what_brute_force_tells(
        shown in exposures(), repeats in any::<u8>(), told in outcomes(), switches in switches(),
        quarter in 0u64..4, order in any::<u64>(),
    ) {
        let generation = generation(switches);
        let point = in_quarter(quarter);
        let mut events: Vec<Result<Exposure, Outcome<'_>>> = shown.iter().map(|e| Ok(*e)).collect();
        events.extend(shown.iter().enumerate().filter(|(i, _)| repeats >> (i % 8) & 1 == 1).map(|(_, e)| Ok(*e)));
        events.extend(told.iter().map(|o| Err(*o)));
        let mut chance = order;
        for last in (1..events.len()).rev() {
            chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            events.swap(last, (chance >> 33) as usize % (last + 1));
        }
        let want = brute_force(&generation, point, &shown, &told);
        prop_assert_eq!(step_by_step(&generation, point, &events), want);
    }

    #[test]
    fn an_added_metric_counts_as_if_it_had_always_been_there(
        shown in exposures(), told in outcomes(), quarter in 0u64..4, known in 0usize..4,
    ) {
        let (generation, metrics) = (generation(vec![]), metrics());
        let mut record = UnitRecord::default();
        for exposure in &shown {
            record.expose(*exposure);
        }
        let history = History { early: true, generation: &generation, metrics: &metrics, tick: TICK };
        told.iter().for_each(|o| record.follow(history.with_metrics(known), 0, o));
        told.iter().for_each(|o| record.follow(history, known, o));
        let got = contribution(&record, in_quarter(quarter), history, told.iter().copied());
        prop_assert_eq!(got, brute_force(&generation, in_quarter(quarter), &shown, &told));
    }
}
