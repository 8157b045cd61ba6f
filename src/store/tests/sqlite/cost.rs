//! What work costs must depend on the work, not on how much else the store holds.

use std::time::{Duration, Instant};

use super::*;

/// How long it takes to fold outcomes of units that one experiment exposed, while `experiments` measure their event.
fn fold_time(experiments: usize) -> Duration {
    let folder = folder();
    let units = 1_000;
    block_on(async {
        let store = open(folder.path()).unwrap();
        let all: Vec<_> = (0..experiments)
            .map(|i| started_experiment(&format!("experiment-{i}"), false, &all_metrics(), 1))
            .collect();
        for experiment in &all {
            store.commit(experiment_change(experiment, None, "create")).await.unwrap();
        }
        let known = Arc::new(all.into_iter().map(Arc::new).collect::<Vec<_>>());
        let fold_all = async || while store.fold(Arc::clone(&known), 1_000).await.unwrap().has_more_work() {};
        let exposed = |i: i64| exposure("experiment-0", 1, &format!("u{i}"), Arm::CONTROL, 1, at(i));
        store.append(at(1), (0..units).map(exposed).collect()).await.unwrap();
        fold_all().await;
        let signed_up = |i: i64| outcome(&format!("u{i}"), "signup", 1_000_000, at(i + 1), "once", "");
        store.append(at(1), (0..units).map(signed_up).collect()).await.unwrap();
        let begun = Instant::now();
        fold_all().await;
        let took = begun.elapsed();
        let counts = store.counts(&key("experiment-0"), 1).await.unwrap();
        assert!(counts.cells.values().map(|cell| cell.s).sum::<u64>() >= units as u64);
        took
    })
}

#[test]
fn outcome_costs_no_more_when_other_experiments_measure_its_event() {
    let (alone, among_many) = (fold_time(1), fold_time(60));
    // Comparing with each experiment would take 60 times as long. The factor leaves room for a busy machine.
    assert!(among_many < 8 * alone, "one experiment: {alone:?}; 60 experiments: {among_many:?}");
}

/// Pages that change are the larger part of what an outcome costs in a store with many units.
#[test]
fn outcome_of_a_unit_with_few_changes_no_record() {
    let folder = folder();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let known = Arc::new(vec![Arc::new(experiment.clone())]);
    let record = || {
        let counts = Connection::open(folder.path().join("counts.db")).unwrap();
        counts.query_row("SELECT record FROM unit", [], |row| row.get::<_, Vec<u8>>(0)).unwrap()
    };
    block_on(async {
        let options = SqliteOptions { outcomes_without_sums: 3, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        store.append(at(1), vec![exposure("a", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
        let fold_all = async || while store.fold(Arc::clone(&known), 1_000).await.unwrap().has_more_work() {};
        fold_all().await;
        let exposed = record();
        for n in 1..=5 {
            let signed_up = outcome("u", "signup", 1_000_000, at(1 + n), &n.to_string(), "");
            store.append(at(1), vec![signed_up]).await.unwrap();
            fold_all().await;
            assert_eq!(record() == exposed, n <= 3, "after outcome {n}");
            let counts = store.counts(&key("a"), 1).await.unwrap();
            let most = counts.cells.values().map(|cell| cell.outcomes).max();
            assert_eq!(most, Some(n as u64));
        }
        store.close().await.unwrap();
    });
}

/// A unit takes part in ever more experiments over the years, and most of them have ended.
#[test]
fn outcome_after_the_end_of_runs_costs_nothing_for_them() {
    const ENDED: usize = 100;
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let mut all: Vec<_> =
            (0..=ENDED).map(|i| started_experiment(&format!("experiment-{i}"), false, &all_metrics(), 1)).collect();
        for experiment in &mut all[..ENDED] {
            experiment.conclude(Arm::CONTROL, inroad_assignment::experiment::ShippingScope::Audience, at(50)).unwrap();
        }
        for experiment in &all {
            store.commit(experiment_change(experiment, None, "create")).await.unwrap();
        }
        let known = Arc::new(all.iter().cloned().map(Arc::new).collect::<Vec<_>>());
        let exposed = (0..=ENDED).map(|i| exposure(&format!("experiment-{i}"), 1, "u", Arm::CONTROL, 1, at(10)));
        store.append(at(1), exposed.collect()).await.unwrap();
        let fold_all = async || {
            let mut changed = 0;
            loop {
                let step = store.fold(Arc::clone(&known), 1_000).await.unwrap();
                changed += step.changed;
                if !step.has_more_work() {
                    return changed;
                }
            }
        };
        assert_eq!(fold_all().await, ENDED + 1);
        for (time, expected) in [(49, ENDED + 1), (50, 1), (60, 1)] {
            let signed_up = outcome("u", "signup", 1_000_000, at(time), &time.to_string(), "");
            store.append(at(1), vec![signed_up]).await.unwrap();
            assert_eq!(fold_all().await, expected, "records that an outcome at {time} s changes");
        }
        for (key_of, expected) in [("experiment-0", 1), (&*format!("experiment-{ENDED}"), 3)] {
            let counts = store.counts(&key(key_of), 1).await.unwrap();
            let most = counts.cells.values().map(|cell| cell.outcomes).sum::<u64>();
            // Two metrics count this event.
            assert_eq!(most, 2 * expected, "{key_of}");
        }
    });
}
