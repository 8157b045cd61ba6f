//! The fold running at the same time as other callers.

use super::*;

/// However long a transaction of the fold takes, a change of the catalogue, such as a kill, does not wait for it, and
/// neither does a reader of the counts.
#[test]
fn neither_changes_nor_readers_wait_for_the_fold() {
    let folder = folder();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    block_on(async {
        let store = Arc::new(open(folder.path()).unwrap());
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        let unit = |i: i64| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1));
        store.append(at(1), (0..100).map(unit).collect()).await.unwrap();
        store.fold(Arc::clone(&experiments), 50).await.unwrap();
        // Another process has the counts locked, so the step cannot go on until it lets them go.
        let other = Connection::open(folder.path().join("counts.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let folding = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.fold(experiments, 50).await }
        });
        for name in ["b", "c", "d"] {
            store.commit(experiment_change(&started_experiment(name, false, &[], 1), None, "create")).await.unwrap();
            let counts = store.counts(&key("a"), 1).await.unwrap();
            assert_eq!((counts.folded, counts.cells.values().map(|cell| cell.first).sum::<u64>()), (50, 50));
        }
        assert!(!folding.is_finished(), "the step has not waited for the lock");
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(folding.await.unwrap().unwrap().folded, 100);
    });
}

/// The events of a step may concern far more records than it has events. Such a step is taken with fewer of them.
#[test]
fn step_that_concerns_too_many_records_is_divided_and_counts_the_same() {
    let experiments: Vec<_> =
        (0..100).map(|i| started_experiment(&format!("e{i}"), false, &all_metrics(), 1)).collect();
    let exposures = experiments.iter().flat_map(|experiment| {
        let key = experiment.definition.key().to_string();
        (0..8).map(move |i| exposure(&key, 1, &format!("u{i}"), Arm::CONTROL, 1, at(i)))
    });
    let outcomes = (0..40).map(|i| outcome(&format!("u{}", i % 8), "signup", 1, at(9), &i.to_string(), ""));
    let (exposures, outcomes): (Vec<_>, Vec<_>) = (exposures.collect(), outcomes.collect());
    let fold_all = |options: SqliteOptions| {
        let folder = folder();
        block_on(async {
            let store = SqliteStore::open(folder.path(), options).unwrap();
            for experiment in &experiments {
                store.commit(experiment_change(experiment, None, "create")).await.unwrap();
            }
            let known = Arc::new(experiments.iter().cloned().map(Arc::new).collect::<Vec<_>>());
            let mut largest_step = 0;
            for events in [&exposures, &outcomes] {
                store.append(at(1), events.clone()).await.unwrap();
                largest_step = 0;
                loop {
                    let step = store.fold(Arc::clone(&known), usize::MAX).await.unwrap();
                    largest_step = largest_step.max(step.events);
                    if !step.has_more_work() {
                        break;
                    }
                }
            }
            let mut counts = Vec::new();
            for experiment in &experiments {
                counts.push(store.counts(experiment.definition.key(), 1).await.unwrap());
            }
            (counts, largest_step)
        })
    };
    let (whole, of_whole) = fold_all(SqliteOptions::default());
    // Five records per event: a step may concern 200, which two units have.
    let (divided, of_divided) = fold_all(SqliteOptions { fold_step_events: 40, ..SqliteOptions::default() });
    assert_eq!(of_whole, 40);
    assert!((1..=2).contains(&of_divided), "{of_divided}");
    assert!(whole == divided, "the counts differ");
}

/// A step takes at least one event, whatever it concerns, and counts all of it.
#[test]
fn single_event_that_concerns_too_many_records_is_counted_whole() {
    let experiments: Vec<_> = (0..6).map(|i| started_experiment(&format!("e{i}"), false, &all_metrics(), 1)).collect();
    for largest_step in [1, 2] {
        let folder = folder();
        let options = SqliteOptions { fold_step_events: largest_step, ..SqliteOptions::default() };
        let counts = block_on(async {
            let store = SqliteStore::open(folder.path(), options).unwrap();
            for experiment in &experiments {
                store.commit(experiment_change(experiment, None, "create")).await.unwrap();
            }
            let exposures = experiments.iter().flat_map(|experiment| {
                let key = experiment.definition.key().to_string();
                (0..3).map(move |i| exposure(&key, 1, &format!("u{i}"), Arm::CONTROL, 1, at(i)))
            });
            let mut both = outcome("u0", "signup", 1, at(9), "both", "");
            let Event::Outcome(event) = &mut both else { unreachable!("an outcome") };
            event.units.push(("user".to_owned(), "u1".to_owned()));
            event.units.push(("user".to_owned(), "u2".to_owned()));
            let one = outcome("u0", "signup", 1, at(9), "one", "");
            store.append(at(1), exposures.chain([one, both]).collect()).await.unwrap();
            let known = Arc::new(experiments.iter().cloned().map(Arc::new).collect::<Vec<_>>());
            while store.fold(Arc::clone(&known), usize::MAX).await.unwrap().has_more_work() {}
            store.counts(&key("e5"), 1).await.unwrap()
        });
        let outcomes = counts.cells.values().map(|cell| cell.outcomes).sum::<u64>();
        assert_eq!(outcomes % 4, 0, "the metrics that count signups have four outcomes each");
        assert!(outcomes > 0);
    }
}

/// Results that readers share are computed again once the counts change, so a repeat must not count as a change, however
/// old it is.
#[test]
fn repeat_that_is_not_remembered_changes_no_counts() {
    let folder = folder();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let known = Arc::new(vec![Arc::new(experiment.clone())]);
    block_on(async {
        let options = SqliteOptions { remembered_exposures: 0, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        let mut states = Vec::new();
        for _ in 0..3 {
            store.append(at(1), vec![exposure("a", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
            while store.fold(Arc::clone(&known), 10).await.unwrap().has_more_work() {}
            states.push(store.counts_state(&key("a"), 1));
        }
        assert_eq!(states, [1, 1, 1]);
    });
}

/// All threads of the pool that queries share are busy, as if many had been called and abandoned.
#[test]
fn queries_that_fill_the_pool_of_threads_delay_neither_commits_nor_the_fold() {
    let folder = folder();
    let store = open(folder.path()).unwrap();
    let pool = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let done = pool.block_on(async {
        let query = tokio::task::spawn_blocking(move || ends.recv());
        let work = async {
            let experiment = started_experiment("checkout", false, &all_metrics(), 1);
            store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
            store.append(at(1), vec![exposure("checkout", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
            store.fold(Arc::new(vec![Arc::new(experiment)]), 10).await.unwrap().folded
        };
        let done = tokio::time::timeout(std::time::Duration::from_secs(20), work).await;
        drop(end);
        let _ = query.await;
        done
    });
    assert_eq!(done.expect("commits and the fold wait for queries"), 1);
}
