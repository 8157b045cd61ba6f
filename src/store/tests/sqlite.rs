//! SQLite against the contract of every store, and what it adds: files that are damaged, foreign, older, newer, in use
//! or on a full disk.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "a test may panic, also in its helpers")]

mod contract;

use std::path::Path;
use std::sync::Arc;

use contract::block_on;
use contract::world::{all_metrics, arm, at, change, exposure, key, outcome, started};
use inroad_assignment::Arm;
use inroad_store::{Event, ExposureEvent, Forget, Page, SqliteOptions, SqliteStore, Store, StoreError};
use rusqlite::Connection;

store_contract_suite!(|folder| Ok(Arc::new(SqliteStore::open(folder, SqliteOptions::default())?) as Arc<dyn Store>));

/// The same with everything small, so that every path that only long runs take is taken.
mod cramped {
    use super::*;

    store_contract_suite!(|folder| {
        let options = SqliteOptions { fold_step: 17, remembered: 20, cache_mib: 1, ..SqliteOptions::default() };
        Ok(Arc::new(SqliteStore::open(folder, options)?) as Arc<dyn Store>)
    });
}

fn open(folder: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(folder, SqliteOptions::default())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_folder_belongs_to_one_process() {
    let folder = folder();
    let store = open(folder.path()).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::InUse { path } if *path == folder.path().display().to_string()));
    drop(store);
    open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_says_so() {
    let folder = folder();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();
    assert!(matches!(open(&folder.path().join("file").join("store")), Err(StoreError::Open { .. })));
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    for file in ["inroad.db", "log.db"] {
        for text in ["short", &"this is not a database, but somebody's letters".repeat(100)] {
            let folder = folder();
            let file = folder.path().join(file);
            std::fs::write(&file, text).unwrap();
            let refused = open(folder.path()).unwrap_err();
            assert!(
                matches!(&refused, StoreError::Corrupt { path, .. } if *path == file.display().to_string()),
                "{refused:?}"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }
}

#[test]
fn a_damaged_file_is_told_apart_from_an_empty_one() {
    let folder = folder();
    drop(open(folder.path()).unwrap());
    let file = folder.path().join("inroad.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.iter_mut().skip(100).for_each(|byte| *byte = 0x5a);
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Corrupt { .. })));
    std::fs::write(&file, "").unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn damage_met_on_the_way_is_called_by_its_name() {
    let folder = folder();
    let store = open(folder.path()).unwrap();
    block_on(async {
        store
            .append(at(1), (0..5_000).map(|i| exposure("x", 1, &format!("u{i}"), Arm::CONTROL, 1, at(1))).collect())
            .await
            .unwrap();
        store.close().await.unwrap();
    });
    let file = folder.path().join("log.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.iter_mut().skip(4_096 * 3).for_each(|byte| *byte = 0x5a);
    std::fs::write(&file, bytes).unwrap();
    // Whether it is found at the start or when it is read, it has one name.
    let met = open(folder.path()).and_then(|store| block_on(store.read_log(0, 10_000)).map(drop));
    assert!(matches!(&met, Err(StoreError::Corrupt { path, .. }) if path.ends_with("log.db")), "{met:?}");
}

#[test]
fn another_programs_database_is_refused() {
    let folder = folder();
    let theirs = Connection::open(folder.path().join("log.db")).unwrap();
    theirs.execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_newer_database_is_refused_with_both_versions() {
    for (file, last) in [("inroad.db", 3), ("log.db", 1)] {
        let folder = folder();
        drop(open(folder.path()).unwrap());
        Connection::open(folder.path().join(file)).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(open(folder.path()), Err(StoreError::Newer { found: 99, known, .. }) if known == last));
    }
}

#[test]
fn a_log_that_was_lost_is_not_begun_anew_behind_the_counts() {
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.append(at(1), vec![exposure("x", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
        store.fold(Arc::default(), 10).await.unwrap();
        store.close().await.unwrap();
    });
    std::fs::remove_file(folder.path().join("log.db")).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt { path, .. } if path.ends_with("log.db")), "{refused:?}");
}

/// Files as the first release wrote them. Never write these anew: what they hold must stay readable.
#[test]
fn version_one_is_opened_and_goes_on() {
    let folder = folder();
    let dumps = [("inroad.db", include_str!("fixtures/state-1.sql")), ("log.db", include_str!("fixtures/log-1.sql"))];
    for (file, dump) in dumps {
        Connection::open(folder.path().join(file)).unwrap().execute_batch(dump).unwrap();
    }
    block_on(async {
        let store = open(folder.path()).unwrap();
        assert_eq!(store.store_id(), "00112233445566778899aabbccddeeff");
        let (version, stored) = store.load().await.unwrap();
        let experiment = &stored[0].experiment;
        assert_eq!((version, stored.len(), experiment.generations[0].revisions.len()), (2, 1, 2));
        assert!(experiment.kills.arm(arm(2)));
        assert_eq!((store.head(), store.folded()), (6, 6));
        let events: Vec<_> = store.read_log(0, 10).await.unwrap().into_iter().map(|logged| logged.event).collect();
        let generation = &experiment.generations[0];
        let want = contract::oracle::counts(experiment, generation, &events);
        let got = store.counts(&key("checkout"), 1).await.unwrap();
        assert_eq!(got, inroad_store::Counts { folded: 6, ..want });
        assert_eq!(store.offset("sink").await.unwrap(), 3);
        let all = Page { before: u64::MAX, limit: 10 };
        assert_eq!(store.decisions(&key("checkout"), 1, all).await.unwrap().len(), 1);
        // A repeat is known, and a new unit is counted.
        let next = exposure("checkout", 1, "somebody new", Arm::CONTROL, 1, at(20));
        store.append(at(1), [events, vec![next]].concat()).await.unwrap();
        while store.fold(Arc::default(), 100).await.unwrap().goes_on() {}
        let firsts = |counts: &inroad_store::Counts| counts.cells.values().map(|cell| cell.first).sum::<u64>();
        assert_eq!(firsts(&store.counts(&key("checkout"), 1).await.unwrap()), firsts(&got) + 1);
    });
}

/// What the first release counted knows nothing of early outcomes; the units are counted again.
#[test]
fn counts_that_do_not_tell_early_outcomes_are_made_anew() {
    let folder = folder();
    let early = |counts: &inroad_store::Counts| counts.cells.values().map(|cell| cell.early).sum::<u64>();
    let experiment = started("a", false, &all_metrics(), 1);
    let whole = block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(change(&experiment, None, "create")).await.unwrap();
        let unit = |i: i64| {
            let name = format!("u{i}");
            let shown = exposure("a", 1, &name, Arm::CONTROL, 1, at(i));
            [shown, outcome(&name, "signup", 1_000_000, at(i + i % 60), &name, "")]
        };
        store.append(at(1), (0..60).flat_map(unit).collect()).await.unwrap();
        let known = Arc::new(vec![Arc::new(experiment.clone())]);
        while store.fold(Arc::clone(&known), 1_000).await.unwrap().goes_on() {}
        let whole = store.counts(&key("a"), 1).await.unwrap();
        store.close().await.unwrap();
        whole
    });
    assert!(early(&whole) > 0);
    let state = Connection::open(folder.path().join("inroad.db")).unwrap();
    state.execute_batch("UPDATE tally SET early = 0; UPDATE counted SET early = 0").unwrap();
    drop(state);
    block_on(async {
        let store = open(folder.path()).unwrap();
        assert_eq!(early(&store.counts(&key("a"), 1).await.unwrap()), 0);
        store.fold(Arc::new(vec![Arc::new(experiment.clone())]), 1).await.unwrap();
        assert_eq!(store.counts(&key("a"), 1).await.unwrap(), whole);
    });
}

#[test]
fn a_full_disk_refuses_whole_groups_and_is_survived() {
    let folder = folder();
    // SQLite's own limit: it answers SQLITE_FULL where the disk would.
    let options = SqliteOptions { max_pages: Some(120), ..SqliteOptions::default() };
    let group = |n: usize| -> Vec<_> {
        (0..100).map(|i| exposure("x", 1, &format!("unit-{n}-{i}"), Arm::CONTROL, 1, at(1))).collect()
    };
    block_on(async {
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let mut taken = 0;
        let refused = loop {
            match store.append(at(1), group(taken)).await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&refused, StoreError::DiskFull { path } if !path.is_empty()), "{refused:?}");
        assert!(taken > 10);
        assert_eq!(store.head(), 100 * taken as u64);
        // Other work goes on, and so does the log once there is room, without anybody's help.
        store.commit(change(&started("a", false, &all_metrics(), 1), None, "create")).await.unwrap();
        while store.fold(Arc::default(), 1_000).await.unwrap().goes_on() {}
        assert_eq!(store.prune_log(at(2)).await.unwrap(), 100 * taken as u64);
        store.append(at(1), group(taken)).await.unwrap();
        assert_eq!(store.head(), 100 * (taken + 1) as u64);
        drop(store);
        let store = open(folder.path()).unwrap();
        let events: Vec<_> = store.read_log(0, 10_000).await.unwrap().into_iter().map(|logged| logged.event).collect();
        assert_eq!(events, group(taken));
    });
}

#[test]
fn a_fold_that_finds_the_disk_full_counts_nothing_twice() {
    let folder = folder();
    let experiment = started("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    let events: Vec<_> = (0..20_000).map(|i| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1))).collect();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(change(&experiment, None, "create")).await.unwrap();
        store.append(at(1), events.clone()).await.unwrap();
        store.close().await.unwrap();
        let options = SqliteOptions { max_pages: Some(120), ..SqliteOptions::default() };
        // The log is larger than that already, which its limit then is.
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
        while store.fold(Arc::clone(&experiments), 7_000).await.unwrap().goes_on() {}
        let want = contract::oracle::counts(&experiment, &experiment.generations[0], &events);
        assert_eq!(store.counts(&key("a"), 1).await.unwrap().cells, want.cells);
    });
}

/// What a new metric asks of known units is done before any event, however often that fails.
#[test]
fn a_recount_that_finds_the_disk_full_is_taken_up_again_where_it_stopped() {
    let folder = folder();
    let mut experiment = started("a", false, &all_metrics()[..1], 1);
    let unit = |i: i64| {
        let name = format!("u{i}");
        let told = ["signup", "view", "order"].map(|event| outcome(&name, event, i, at(2), &format!("{event}{i}"), ""));
        [vec![exposure("a", 1, &name, Arm::CONTROL, 1, at(1))], told.to_vec()].concat()
    };
    let events: Vec<_> = (0..4_010).flat_map(unit).collect();
    let (known, waiting) = events.split_at(16_000);
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(change(&experiment, None, "create")).await.unwrap();
        store.append(at(1), known.to_vec()).await.unwrap();
        let before = Arc::new(vec![Arc::new(experiment.clone())]);
        while store.fold(Arc::clone(&before), 5_000).await.unwrap().goes_on() {}
        experiment.update(contract::world::definition("a", false, &all_metrics(), 1), at(3), at(3)).unwrap();
        store.commit(change(&experiment, Some(1), "update")).await.unwrap();
        store.append(at(1), waiting.to_vec()).await.unwrap();
        store.close().await.unwrap();
        let after = Arc::new(vec![Arc::new(experiment.clone())]);
        let state = Connection::open(folder.path().join("inroad.db")).unwrap();
        let pages: u32 = state.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        drop(state);
        let options = SqliteOptions { max_pages: Some(pages + 20), fold_step: 300, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let mut recounted = 0;
        let refused = loop {
            match store.fold(Arc::clone(&after), 1_000).await {
                Ok(step) => {
                    assert!(step.behind && step.events == 0, "{step:?}");
                    recounted += step.changed;
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused:?}");
        assert!((1..4_000).contains(&recounted), "{recounted}");
        for _ in 0..3 {
            assert!(store.fold(Arc::clone(&after), 1_000).await.is_err(), "the same catalogue is not learnt twice");
            assert_eq!(store.folded(), 16_000);
        }
        drop(store);
        let options = SqliteOptions { fold_step: 300, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        let mut rest = 0;
        while store.folded() == 16_000 {
            let step = store.fold(Arc::clone(&after), 1_000).await.unwrap();
            rest += if step.events == 0 { step.changed } else { 0 };
        }
        assert!(rest <= 4_000 - recounted, "{rest} and {recounted}");
        while store.fold(Arc::clone(&after), 1_000).await.unwrap().goes_on() {}
        let want = contract::oracle::counts(&experiment, &experiment.generations[0], &events);
        assert_eq!(store.counts(&key("a"), 1).await.unwrap().cells, want.cells);
    });
}

/// A change of the catalogue, such as a kill, waits for the writing half of one step at the most.
#[test]
fn a_change_does_not_wait_for_the_whole_fold() {
    let folder = folder();
    let experiment = started("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    block_on(async {
        let options = SqliteOptions { fold_step: 500, ..SqliteOptions::default() };
        let store = Arc::new(SqliteStore::open(folder.path(), options).unwrap());
        store.commit(change(&experiment, None, "create")).await.unwrap();
        let events = (0..20_000).map(|i| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1))).collect();
        store.append(at(1), events).await.unwrap();
        let folding = tokio::spawn({
            let store = Arc::clone(&store);
            async move { while store.fold(Arc::clone(&experiments), 50_000).await.unwrap().goes_on() {} }
        });
        for name in ["b", "c", "d"] {
            let before = store.folded();
            store.commit(change(&started(name, false, &[], 1), None, "create")).await.unwrap();
            // In turn: at most the step that was being written, and the one that was waiting already.
            assert!(store.folded() <= before + 3 * 500, "{} after {before}", store.folded());
        }
        folding.await.unwrap();
        assert_eq!(store.folded(), 20_000);
    });
}

/// Every file of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn has(files: &[(String, Vec<u8>)], text: &str) -> bool {
    files.iter().any(|(_, bytes)| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn exposure_of(experiment: &str, unit: &str) -> ExposureEvent {
    match exposure(experiment, 1, unit, Arm::CONTROL, 1, at(1)) {
        Event::Exposure(exposure) => exposure,
        Event::Outcome(_) => unreachable!("it was asked for an exposure"),
    }
}

#[test]
fn a_forgotten_key_is_in_no_byte_of_any_file() {
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let experiment = started("a", false, &all_metrics(), 1);
        store.commit(change(&experiment, None, "create")).await.unwrap();
        let experiments = Arc::new(vec![Arc::new(experiment)]);
        let name =
            |i: usize| if i.is_multiple_of(7) { "ann-of-the-green-gables".to_owned() } else { format!("unit-{i}") };
        let events = (0..2_000).map(|i| exposure("a", 1, &name(i), Arm::CONTROL, 1, at(1))).collect();
        store.append(at(1), events).await.unwrap();
        let elsewhere = Event::Exposure(ExposureEvent {
            context: r#"{"account":"acme","partner":{"user":"ann-of-the-green-gables"}}"#.to_owned(),
            ..exposure_of("a", "acme")
        });
        store.append(at(1), vec![elsewhere]).await.unwrap();
        while store.fold(Arc::clone(&experiments), 1_000).await.unwrap().goes_on() {}
        assert!(has(&files(folder.path()), "ann-of-the-green-gables"));
        let (unit_type, unit) = ("user".to_owned(), "ann-of-the-green-gables".to_owned());
        let forget = Forget { unit_type, unit, actor: "test".to_owned(), at: at(2) };
        assert_eq!(store.forget_unit(forget).await.unwrap().events, 287);
        let files = files(folder.path());
        assert!(!has(&files, "ann-of-the-green-gables") && has(&files, "unit-1999") && has(&files, "acme"));
    });
}

#[test]
fn a_copy_from_outside_is_whole_whatever_the_store_does_meanwhile() {
    let (copies, folder) = (folder(), folder());
    let experiment = started("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    let unit = |i: usize| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1));
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(change(&experiment, None, "create")).await.unwrap();
        let (from, to) = (folder.path().to_owned(), copies.path().to_owned());
        let copying = tokio::task::spawn_blocking(move || {
            (0..10).map(|n| SqliteStore::copy(&from, &to.join(n.to_string()))).collect::<Vec<_>>()
        });
        let mut sent = 0;
        while !copying.is_finished() {
            store.append(at(1), (sent..sent + 200).map(unit).collect()).await.unwrap();
            sent += 200;
            store.fold(Arc::clone(&experiments), 150).await.unwrap();
            store.prune_log(at(2)).await.unwrap();
        }
        let copied = copying.await.unwrap();
        while store.fold(Arc::clone(&experiments), 1_000).await.unwrap().goes_on() {}
        let want = store.counts(&key("a"), 1).await.unwrap().cells;
        for (n, copied) in copied.into_iter().enumerate() {
            let (copied, at_place) = (copied.unwrap(), copies.path().join(n.to_string()));
            let names: Vec<_> = files(&at_place).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["inroad.db", "log.db"], "and nothing beside them");
            let copy = open(&at_place).unwrap();
            assert_eq!((copy.head(), copy.folded()), (copied.head, copied.folded));
            copy.append(at(1), (0..sent).map(unit).collect()).await.unwrap();
            while copy.fold(Arc::clone(&experiments), 50_000).await.unwrap().goes_on() {}
            assert_eq!(copy.counts(&key("a"), 1).await.unwrap().cells, want, "copy {n}");
        }
    });
}

#[test]
fn a_copy_of_nothing_and_a_copy_onto_a_store_are_refused() {
    let (empty, folder) = (tempfile::tempdir().unwrap(), folder());
    let refused = SqliteStore::copy(empty.path(), &folder.path().join("copy"));
    assert!(matches!(refused, Err(StoreError::NoStore { .. })), "{refused:?}");
    assert!(files(empty.path()).is_empty(), "nothing is made where there was nothing");
    block_on(async { open(folder.path()).unwrap().close().await.unwrap() });
    let before = files(folder.path());
    let refused = SqliteStore::copy(folder.path(), folder.path());
    assert!(matches!(refused, Err(StoreError::CopyExists { .. })), "{refused:?}");
    let mut after = files(folder.path());
    after.retain(|(name, _)| name != "inroad.tidying");
    assert_eq!(after, before);
    // A copy that cannot be finished leaves nothing that could pass for one.
    std::fs::write(folder.path().join("log.db"), "a poem").unwrap();
    let to = empty.path().join("copy");
    assert!(SqliteStore::copy(folder.path(), &to).is_err());
    assert!(files(&to).is_empty());
}
