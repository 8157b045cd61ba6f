//! What every store must do, whatever is behind it: one suite, run over each by [`store_contract_suite`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use inroad_assignment::experiment::Cause;
use inroad_assignment::{
    Allocation, Arm, Definition, DefinitionDoc, Experiment, Salt, Target, Timestamp, UnitHasher, UnitKey, Width,
};
use inroad_policy::attribution::{Exposure, History, Outcome, Tally, UnitRecord, contribution};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{Change, Counts, Event, ExposureEvent, OutcomeEvent, Page, Store, StoreError};

/// Makes a test of each part of the contract; `$open` opens the store that lies in a folder, again and again.
#[macro_export]
#[cfg(test)]
macro_rules! store_contract_suite {
    ($open:expr) => {
        $crate::store_contract_suite!($open;
            a_change_is_kept_with_its_audit_entry,
            of_two_changes_at_one_version_the_second_is_refused,
            a_revision_that_takes_from_a_variation_is_refused,
            what_was_acknowledged_is_there_after_the_store_was_dropped,
            what_a_consumer_has_not_read_is_not_pruned,
            the_counts_are_a_function_of_the_set_of_events
        );
    };
    ($open:expr; $($name:ident),*) => {
        mod contract {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
                    $crate::contract::$name(&runtime, $open);
                }
            )*
        }
    };
}

type Runtime = tokio::runtime::Runtime;

fn micros(n: i64) -> Timestamp {
    Timestamp::from_micros(n)
}

/// Two variations beside control, three metrics, a window of 1,000 s, ticks of a minute.
fn definition() -> Definition {
    let metric = |key: &str, event: &str, kind: &str| {
        let mut m = serde_json::json!({"key": key, "event": event, "kind": kind, "window": "1000s"});
        if kind == "ratio" {
            m["denominator"] = "seen".into();
        }
        m
    };
    let doc: DefinitionDoc = serde_json::from_value(serde_json::json!({
        "key": "x",
        "unit": "user",
        "policy": {"kind": "manual", "tick": "1m"},
        "variations": [
            {"key": "a", "payload": 0.0}, {"key": "b", "payload": 1.0, "share": 0.1},
            {"key": "c", "payload": 2.0, "share": 0.1},
        ],
        "metrics": [metric("bought", "buy", "conversion"), metric("spent", "buy", "mean"), metric("per", "buy", "ratio")],
    }))
    .expect("a document");
    Definition::try_from(doc).expect("a definition")
}

fn started() -> Experiment {
    let mut experiment = Experiment::create(definition(), micros(0));
    experiment.start(micros(0), Salt::parse("salt").expect("a salt")).expect("start");
    experiment
}

fn change(expected_version: Option<u64>, experiment: &Experiment) -> Change {
    Change {
        expected_version,
        experiment: Arc::new(experiment.clone()),
        actor: "somebody".to_owned(),
        action: "something".to_owned(),
        at: micros(7),
        decision: None,
    }
}

const FIRST_PAGE: Page = Page { before: u64::MAX, limit: 100 };

pub(crate) fn a_change_is_kept_with_its_audit_entry<S: Store>(
    runtime: &Runtime,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut experiment = started();
    runtime.block_on(async {
        let store = open(folder.path()).expect("open");
        let first = store.commit(change(None, &experiment)).await.expect("create");
        let grown = [(Arm::new(1).expect("an arm"), Width::from_share(0.2).expect("a share"))];
        experiment.grow(&grown, Cause::Grown, micros(5), micros(9)).expect("grow");
        experiment.switch(Target::Variation(Arm::new(2).expect("an arm")), true, micros(6)).expect("kill");
        store.commit(change(Some(first), &experiment)).await.expect("grow");
        store.close().await.expect("close");
    });
    runtime.block_on(async {
        let store = open(folder.path()).expect("open again");
        let (version, stored) = store.load().await.expect("load");
        assert_eq!((version, stored.len(), stored[0].version), (2, 1, 2));
        assert_eq!(*stored[0].experiment, experiment);
        let audit = store.audit(Some(experiment.definition.key()), FIRST_PAGE).await.expect("audit");
        assert_eq!(audit.iter().map(|e| e.id).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((audit[0].from.as_str(), audit[1].from.as_str()), (audit[1].to.as_str(), ""));
        assert_eq!(audit[0].actor, "somebody");
    });
}

pub(crate) fn of_two_changes_at_one_version_the_second_is_refused<S: Store>(
    runtime: &Runtime,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        let store = open(folder.path()).expect("open");
        let experiment = started();
        let version = store.commit(change(None, &experiment)).await.expect("create");
        assert!(matches!(store.commit(change(None, &experiment)).await, Err(StoreError::Exists(_))));
        store.commit(change(Some(version), &experiment)).await.expect("the first");
        assert!(matches!(store.commit(change(Some(version), &experiment)).await, Err(StoreError::Conflict)));
        assert_eq!(store.audit(None, FIRST_PAGE).await.expect("audit").len(), 2);
    });
}

pub(crate) fn a_revision_that_takes_from_a_variation_is_refused<S: Store>(
    runtime: &Runtime,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        let store = open(folder.path()).expect("open");
        let experiment = started();
        let version = store.commit(change(None, &experiment)).await.expect("create");
        let mut doctored = experiment.clone();
        let mut revision = experiment.generations[0].revisions[0].clone();
        revision.number = 2;
        revision.allocation = Arc::new(Allocation::all_control());
        doctored.generations[0].revisions.push(revision);
        let refused = store.commit(change(Some(version), &doctored)).await;
        assert!(matches!(refused, Err(StoreError::NotMonotone { revision: 2, .. })), "{refused:?}");
        assert_eq!(*store.load().await.expect("load").1[0].experiment, experiment);
    });
}

pub(crate) fn what_was_acknowledged_is_there_after_the_store_was_dropped<S: Store>(
    runtime: &Runtime,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let events: Vec<Event> = (0..50).map(|i| outcome(&format!("u{i}"), i, "buy", i, i)).collect();
    runtime.block_on(async {
        let store = open(folder.path()).expect("open");
        assert_eq!(store.append(micros(1), events[..20].to_vec()).await.expect("append"), 20);
        assert_eq!(store.append(micros(2), events[20..].to_vec()).await.expect("append"), 50);
    });
    runtime.block_on(async {
        let store = open(folder.path()).expect("open again");
        assert_eq!(store.head(), 50);
        let read = store.read_log(10, 25).await.expect("read");
        assert_eq!(read.iter().map(|e| e.seq).collect::<Vec<_>>(), (11..=35).collect::<Vec<_>>());
        assert!(read.iter().all(|e| e.event == events[e.seq as usize - 1]));
        assert_eq!(read[0].received_at, micros(1));
    });
}

pub(crate) fn what_a_consumer_has_not_read_is_not_pruned<S: Store>(
    runtime: &Runtime,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        let store = open(folder.path()).expect("open");
        let events = (0..30).map(|i| outcome("u", i, "buy", i, i)).collect();
        store.append(micros(1), events).await.expect("append");
        store.fold(Arc::default(), 100).await.expect("fold");
        store.set_offset("sink", 12).await.expect("say");
        assert_eq!(store.offset("sink").await.expect("ask"), 12);
        assert_eq!(store.prune_log(micros(100)).await.expect("prune"), 12);
        assert_eq!(store.read_log(0, 1).await.expect("read")[0].seq, 13);
        store.set_offset("sink", 30).await.expect("say");
        store.prune_log(micros(100)).await.expect("prune");
        assert_eq!(store.append(micros(2), vec![outcome("u", 99, "buy", 1, 1)]).await.expect("append"), 31);
    });
}

fn outcome(unit: &str, id: i64, event: &str, at: i64, value_micros: i64) -> Event {
    Event::Outcome(OutcomeEvent {
        units: vec![("user".to_owned(), unit.to_owned())],
        event: event.to_owned(),
        value_micros,
        occurred_at: micros(at * 1_000_000),
        event_id: format!("e{id}"),
        clock: String::new(),
    })
}

/// One thing that happens, before it is known who owns what.
#[derive(Debug, Clone)]
enum Happening {
    /// A unit sees what it is served at a second, or what it was served under the first revision: a stale client.
    Seen { unit: u8, at: i64, stale: bool },
    /// A unit does something.
    Did { unit: u8, id: i64, event: bool, at: i64, value: i64 },
}

/// A change of what is served.
#[derive(Debug, Clone)]
enum Turn {
    Grow { arm: usize, share: f64 },
    Switch { arm: Option<usize>, killed: bool },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0u8..24, 0i64..4_000, prop::bool::weighted(0.2)).prop_map(|(unit, at, stale)| Happening::Seen {
            unit,
            at,
            stale
        }),
        (0u8..24, 0i64..200, any::<bool>(), 0i64..5_000, -5i64..50)
            .prop_map(|(unit, id, event, at, value)| Happening::Did { unit, id, event, at, value }),
    ]
}

fn turn() -> impl Strategy<Value = (i64, Turn)> {
    let what = prop_oneof![
        (1usize..3, 0.01f64..0.3).prop_map(|(arm, share)| Turn::Grow { arm, share }),
        (prop::option::weighted(0.8, 1usize..3), any::<bool>()).prop_map(|(arm, killed)| Turn::Switch { arm, killed }),
    ];
    (1i64..4_000, what)
}

fn take_turns(mut turns: Vec<(i64, Turn)>) -> Vec<Experiment> {
    turns.sort_by_key(|(at, _)| *at);
    let mut life = vec![started()];
    for (at, turn) in turns {
        let mut next = life.last().expect("one").clone();
        let at = micros(at * 1_000_000);
        // What is not possible (past the floor, a killed arm) does not happen.
        let done = match turn {
            Turn::Grow { arm, share } => {
                let arm = Arm::new(arm).expect("an arm");
                next.grow(&[(arm, Width::from_share(share).expect("a share"))], Cause::Grown, at, at).map(drop)
            }
            Turn::Switch { arm, killed } => {
                let target = arm.map_or(Target::Everything, |arm| Target::Variation(Arm::new(arm).expect("an arm")));
                next.switch(target, killed, at)
            }
        };
        if done.is_ok() {
            life.push(next);
        }
    }
    life
}

fn events(happenings: &[Happening], experiment: &Experiment) -> Vec<Event> {
    let generation = experiment.generation().expect("a generation");
    let hasher = UnitHasher::new(experiment.definition.key(), &generation.salt);
    let event = |happening: &Happening| match happening {
        Happening::Seen { unit, at, stale } => {
            let (unit, at) = (format!("u{unit}"), micros(at * 1_000_000));
            let point = hasher.digest(UnitKey::parse(&unit).expect("a key")).point();
            let revision =
                if *stale { &generation.revisions[0] } else { generation.in_effect(at).expect("a revision") };
            let arm = generation.kills(at).served(revision.allocation.owner(point));
            Event::Exposure(ExposureEvent {
                experiment: experiment.definition.key().clone(),
                generation: 1,
                unit,
                arm,
                revision: revision.number,
                occurred_at: at,
                context: String::new(),
            })
        }
        Happening::Did { unit, id, event, at, value } => {
            outcome(&format!("u{unit}"), *id, if *event { "buy" } else { "seen" }, *at, value * 1_000_000)
        }
    };
    happenings.iter().map(event).collect()
}

/// What the counts must be, from the set of events and the whole history alone.
fn oracle(events: &[Event], experiment: &Experiment) -> Tally {
    let generation = experiment.generation().expect("a generation");
    let hasher = UnitHasher::new(experiment.definition.key(), &generation.salt);
    let mut exposures: BTreeMap<&str, BTreeSet<Exposure>> = BTreeMap::new();
    let mut outcomes: BTreeMap<&str, BTreeMap<&str, (i64, i64, &str)>> = BTreeMap::new();
    for event in events {
        match event {
            Event::Exposure(e) => {
                let exposure = Exposure { at: e.occurred_at, revision: e.revision, arm: e.arm };
                exposures.entry(&e.unit).or_default().insert(exposure);
            }
            Event::Outcome(o) => {
                let told = (o.occurred_at.as_micros(), o.value_micros, o.event.as_str());
                let kept = outcomes.entry(&o.units[0].1).or_default().entry(&o.event_id).or_insert(told);
                *kept = told.min(*kept);
            }
        }
    }
    let history = History::new(&experiment.definition, generation);
    let mut tally = Tally::default();
    for (unit, exposures) in exposures {
        let mut record = UnitRecord::default();
        exposures.into_iter().for_each(|exposure| {
            record.expose(exposure);
        });
        let did = outcomes.remove(unit).unwrap_or_default();
        let views = || did.values().map(|(at, value, event)| Outcome { event, at: micros(*at), value_micros: *value });
        views().for_each(|outcome| record.follow(history.metrics, 0, &outcome));
        let point = hasher.digest(UnitKey::parse(unit).expect("a key")).point();
        tally.add(&contribution(&record, point, history, views()));
    }
    tally
}

fn same(counts: &Counts, tally: &Tally) -> Result<(), TestCaseError> {
    prop_assert_eq!(&counts.cells, &tally.cells);
    let flags = (counts.units_moved, counts.crossovers, counts.stale_exposures);
    prop_assert_eq!(flags, (tally.flags.units_moved, tally.flags.crossovers, tally.flags.stale_exposures));
    Ok(())
}

/// I5: shuffled, repeated, cut into steps of any size, folded while history was made, over restarts: the same numbers.
pub(crate) fn the_counts_are_a_function_of_the_set_of_events<S: Store>(
    runtime: &Runtime,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    let cases = (
        prop::collection::vec(happening(), 1..120),
        prop::collection::vec(turn(), 0..8),
        prop::collection::vec((any::<prop::sample::Index>(), 1usize..40, any::<bool>()), 1..60),
    );
    let mut runner =
        TestRunner::new(Config { cases: 48, max_shrink_iters: 40, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&cases, |(happenings, turns, arrivals)| {
        let life = take_turns(turns);
        let last = life.last().expect("one");
        let events = events(&happenings, last);
        // Every event at least once, in an order and with repeats that the case chooses.
        let mut order: Vec<usize> = (0..events.len()).collect();
        for (index, by, _) in &arrivals {
            let at = index.index(order.len());
            order.rotate_left(at);
            let again = order[at % order.len()];
            order.insert((at * by) % order.len(), again);
        }
        let folder = tempfile::tempdir().expect("a folder");
        runtime.block_on(async {
            let mut store = open(folder.path()).expect("open");
            store.commit(change(None, last)).await.expect("create");
            let mut known = 0;
            for (i, chunk) in order.chunks(order.len() / arrivals.len() + 1).enumerate() {
                let (_, limit, reopen) = arrivals[i % arrivals.len()];
                let batch = chunk.iter().map(|i| events[*i].clone()).collect();
                store.append(micros(0), batch).await.expect("append");
                known = (known + 1).min(life.len() - 1);
                let experiments = Arc::new(vec![Arc::new(life[known].clone())]);
                store.fold(experiments, limit).await.expect("fold");
                if reopen {
                    drop(store);
                    store = open(folder.path()).expect("open again");
                }
            }
            let experiments = Arc::new(vec![Arc::new(last.clone())]);
            while store.fold(Arc::clone(&experiments), 50).await.expect("fold").folded < store.head() {}
            let counts = store.counts(last.definition.key(), 1).await.expect("counts");
            same(&counts, &oracle(&events, last))?;
            drop(store);
            let store = open(folder.path()).expect("open again");
            store.fold(experiments, 1).await.expect("fold nothing");
            same(&store.counts(last.definition.key(), 1).await.expect("counts"), &oracle(&events, last))
        })
    });
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}
