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

/// A store whose fold counts the rows that it reads and writes: what a step costs, without the speed of the machine.
struct CountedFold {
    store: SqliteStore,
    known: Arc<Vec<Arc<inroad_assignment::Experiment>>>,
    _folder: tempfile::TempDir,
}

impl CountedFold {
    /// A store with so many started experiments, each with one metric of signups.
    async fn new(experiments: usize) -> Self {
        let folder = folder();
        let options = SqliteOptions { remembered_exposures: 0, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let all: Vec<_> = (0..experiments)
            .map(|i| started_experiment(&format!("experiment-{i}"), false, &all_metrics()[..1], 1))
            .collect();
        for experiment in &all {
            store.commit(experiment_change(experiment, None, "create")).await.unwrap();
        }
        Self { store, known: Arc::new(all.into_iter().map(Arc::new).collect()), _folder: folder }
    }

    /// Folds these events and returns how many rows were read and written.
    async fn rows(&self, events: Vec<Event>) -> usize {
        self.store.append(at(1), events).await.unwrap();
        let mut rows = 0;
        loop {
            let step = self.store.fold(Arc::clone(&self.known), 10_000).await.unwrap();
            rows += step.rows;
            if !step.has_more_work() {
                return rows;
            }
        }
    }
}

/// An exposure of the unit under test in one of the experiments.
fn exposed(experiment: usize, arm: Arm, seconds: i64) -> Event {
    exposure(&format!("experiment-{experiment}"), 1, "u", arm, 1, at(seconds))
}

/// Outcomes of the unit under test, and of an account, at this time.
fn signups(ids: std::ops::Range<usize>, seconds: i64) -> Vec<Event> {
    ids.map(|id| outcome("u", "signup", 1_000_000, at(seconds), &id.to_string(), "")).collect()
}

#[test]
fn exposures_of_a_unit_in_many_generations_read_its_outcomes_once() {
    block_on(async {
        let fold = CountedFold::new(200).await;
        let rows = fold.rows(signups(0..32, 20)).await;
        assert!(rows < 80, "32 outcomes that no generation counts yet: {rows} rows");
        let all = (0..200).map(|i| exposed(i, Arm::CONTROL, 10)).collect();
        let rows = fold.rows(all).await;
        // Each generation: a search for the record, the new one, and four cells. The outcomes for each would be 6,400.
        assert!((200..2_000).contains(&rows), "200 exposures: {rows} rows");
        let rows = fold.rows(vec![exposed(7, arm(1), 15)]).await;
        assert!(rows < 100, "an exposure in one of 200 generations: {rows} rows");
        let rows = fold.rows(vec![exposed(7, arm(1), 16)]).await;
        assert!(rows < 5, "a repeat: {rows} rows");
    });
}

#[test]
fn repeats_of_a_unit_with_many_outcomes_look_up_each_alone() {
    block_on(async {
        let fold = CountedFold::new(1).await;
        fold.rows([vec![exposed(0, Arm::CONTROL, 10)], signups(0..3_000, 20)].concat()).await;
        let rows = fold.rows(signups(0..100, 20)).await;
        assert!(rows < 400, "100 repeated outcomes: {rows} rows");
        let rows = fold.rows(vec![exposed(0, Arm::CONTROL, 10); 100]).await;
        assert!(rows < 5, "100 repeated exposures: {rows} rows");
        let rows = fold.rows(signups(3_000..3_001, 20)).await;
        assert!(rows < 100, "one more outcome: {rows} rows");
    });
}

#[test]
fn outcome_of_a_unit_with_many_cells_writes_its_own_cells() {
    block_on(async {
        let fold = CountedFold::new(1).await;
        let ticks = (0..2_000).flat_map(|tick| signups(tick..tick + 1, 60 * tick as i64 + 20));
        fold.rows([exposed(0, Arm::CONTROL, 10)].into_iter().chain(ticks).collect()).await;
        let counts = fold.store.counts(&key("experiment-0"), 1).await.unwrap();
        assert!(counts.cells.len() > 2_000, "{}", counts.cells.len());
        let rows = fold.rows(signups(2_000..2_001, 60 * 1_000)).await;
        assert!(rows < 100, "{rows} rows");
    });
}

#[test]
fn replaced_outcomes_of_a_unit_with_many_read_the_others_once() {
    block_on(async {
        let fold = CountedFold::new(5).await;
        let exposures = (0..5).map(|i| exposed(i, Arm::CONTROL, 10)).collect();
        fold.rows([exposures, signups(0..3_000, 30)].concat()).await;
        let rows = fold.rows(signups(0..50, 20)).await;
        // For each of five generations, or for each of fifty outcomes, they would be at least 15,000.
        assert!((3_000..3_500).contains(&rows), "{rows} rows");
    });
}
