//! A full disk, simulated by SQLite's own page limit: SQLite returns SQLITE_FULL as it would for the disk.

use super::*;

#[test]
fn full_disk_refuses_whole_batches_and_recovers() {
    let folder = folder();

    let options = SqliteOptions { max_pages: Some(120), ..SqliteOptions::default() };
    let group = |n: usize| -> Vec<_> {
        (0..100).map(|i| exposure("x", 1, &format!("unit-{n}-{i}"), Arm::CONTROL, 1, at(1))).collect()
    };
    block_on(async {
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let mut accepted = 0;
        let refused = loop {
            match store.append(at(1), group(accepted)).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&refused, StoreError::DiskFull { path } if !path.is_empty()), "{refused:?}");
        assert!(accepted > 10);
        assert_eq!(store.head(), 100 * accepted as u64);
        // Other work continues, and so does the log once there is space, without a restart.
        store
            .commit(experiment_change(&started_experiment("a", false, &all_metrics(), 1), None, "create"))
            .await
            .unwrap();
        while store.fold(Arc::default(), 1_000).await.unwrap().has_more_work() {}
        assert_eq!(store.prune_log(at(2)).await.unwrap(), 100 * accepted as u64);
        store.append(at(1), group(accepted)).await.unwrap();
        assert_eq!(store.head(), 100 * (accepted + 1) as u64);
        drop(store);
        let store = open(folder.path()).unwrap();
        let events: Vec<_> = store.read_log(0, 10_000).await.unwrap().into_iter().map(|logged| logged.event).collect();
        assert_eq!(events, group(accepted));
    });
}

#[test]
fn fold_on_a_full_disk_counts_nothing_twice() {
    let folder = folder();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    let events: Vec<_> = (0..20_000).map(|i| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1))).collect();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        store.append(at(1), events.clone()).await.unwrap();
        store.close().await.unwrap();
        let options = SqliteOptions { max_pages: Some(120), ..SqliteOptions::default() };
        // The log is already larger than this, so its current size is its limit.
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let refused = loop {
            match store.fold(Arc::clone(&experiments), 1_000).await {
                Ok(step) => assert!(step.events > 0),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused:?}");
        let reached = store.folded();
        let counted = store.counts(&key("a"), 1).await.unwrap();
        assert_eq!(counted.cells.values().map(|cell| cell.first).sum::<u64>(), reached);
        drop(store);
        let store = open(folder.path()).unwrap();
        assert_eq!((store.folded(), store.counts(&key("a"), 1).await.unwrap()), (reached, counted));
        while store.fold(Arc::clone(&experiments), 7_000).await.unwrap().has_more_work() {}
        let want = contract::oracle::counts(&experiment, &experiment.generations[0], &events);
        assert_eq!(store.counts(&key("a"), 1).await.unwrap().cells, want.cells);
    });
}

/// The recount for a new metric completes before any further event is folded, even if it fails several times.
#[test]
fn recount_on_a_full_disk_continues_where_it_stopped() {
    check_recount_on_a_full_disk(|i| {
        let name = format!("u{i}");
        // So many that the record of the unit contains their sums.
        let outcomes = (0..36).map(|n| {
            let event = ["signup", "view", "order"][n % 3];
            outcome(&name, event, i, at(2), &format!("{event}{n}"), "")
        });
        [exposure("a", 1, &name, Arm::CONTROL, 1, at(1))].into_iter().chain(outcomes).collect()
    });
}

/// The recount of records without sums writes tallies only: here of other ticks for each unit.
#[test]
fn recount_of_records_without_sums_on_a_full_disk_continues_where_it_stopped() {
    check_recount_on_a_full_disk(|i| {
        let (name, tick) = (format!("u{i}"), 60 * i);
        let outcomes = ["signup", "view", "order"].map(|event| outcome(&name, event, i, at(tick + 2), event, ""));
        [exposure("a", 1, &name, Arm::CONTROL, 1, at(tick + 1))].into_iter().chain(outcomes).collect()
    });
}

/// `unit` gives all events of a unit, as many for each.
fn check_recount_on_a_full_disk(unit: fn(i64) -> Vec<Event>) {
    let folder = folder();
    let mut experiment = started_experiment("a", false, &all_metrics()[..1], 1);
    let events: Vec<_> = (0..1_010).flat_map(unit).collect();
    let (known, waiting) = events.split_at(unit(0).len() * 1_000);
    let known_events = known.len() as u64;
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        store.append(at(1), known.to_vec()).await.unwrap();
        let before = Arc::new(vec![Arc::new(experiment.clone())]);
        while store.fold(Arc::clone(&before), 5_000).await.unwrap().has_more_work() {}
        experiment.update(contract::world::definition("a", false, &all_metrics(), 1), at(3), at(3)).unwrap();
        store.commit(experiment_change(&experiment, Some(1), "update")).await.unwrap();
        store.append(at(1), waiting.to_vec()).await.unwrap();
        store.close().await.unwrap();
        let after = Arc::new(vec![Arc::new(experiment.clone())]);
        let counts = Connection::open(folder.path().join("counts.db")).unwrap();
        let pages: u32 = counts.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        drop(counts);
        let options = SqliteOptions { max_pages: Some(pages + 8), fold_step_events: 300, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let mut recounted = 0;
        // After a failure the next step is smaller, and may succeed.
        let mut failures = 0;
        while failures < 4 {
            match store.fold(Arc::clone(&after), 1_000).await {
                Ok(step) => {
                    assert!(step.is_behind && step.events == 0, "no event is folded before the recount: {step:?}");
                    recounted += step.changed;
                    failures = 0;
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
                    failures += 1;
                }
            }
        }
        assert!((1..1_000).contains(&recounted), "{recounted}");
        assert_eq!(store.folded(), known_events);
        drop(store);
        let options = SqliteOptions { fold_step_events: 300, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let mut rest = 0;
        while store.folded() == known_events {
            let step = store.fold(Arc::clone(&after), 1_000).await.unwrap();
            rest += if step.events == 0 { step.changed } else { 0 };
        }
        assert!(rest <= 1_000 - recounted, "{rest} and {recounted}");
        while store.fold(Arc::clone(&after), 1_000).await.unwrap().has_more_work() {}
        let want = contract::oracle::counts(&experiment, &experiment.generations[0], &events);
        assert_eq!(store.counts(&key("a"), 1).await.unwrap().cells, want.cells);
    });
}
