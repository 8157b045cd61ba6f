//! Opening a folder whose files are in use, damaged, foreign, newer or missing.

use super::*;

#[test]
fn second_store_in_a_folder_is_refused() {
    let folder = folder();
    let store = open(folder.path()).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::InUse { path } if *path == folder.path().display().to_string()));
    drop(store);
    open(folder.path()).unwrap();
}

#[test]
fn folder_that_cannot_be_created_is_reported() {
    let folder = folder();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();
    assert!(matches!(open(&folder.path().join("file").join("store")), Err(StoreError::CannotOpen { .. })));
}

#[test]
fn file_that_is_not_a_database_is_refused_and_unchanged() {
    for file in ["inroad.db", "counts.db", "log.db"] {
        for text in ["short", &"this is not a database, but a text".repeat(100)] {
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
fn damaged_file_is_refused_and_empty_file_is_opened() {
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
fn damage_found_while_reading_is_reported_as_corrupt() {
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
    // The error is the same whether the damage is found on opening or on reading.
    let found = open(folder.path()).and_then(|store| block_on(store.read_log(0, 10_000)).map(drop));
    assert!(matches!(&found, Err(StoreError::Corrupt { path, .. }) if path.ends_with("log.db")), "{found:?}");
}

#[test]
fn another_programs_database_is_refused() {
    let folder = folder();
    let theirs = Connection::open(folder.path().join("log.db")).unwrap();
    theirs.execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn newer_database_is_refused_with_both_versions() {
    for file in ["inroad.db", "counts.db", "log.db"] {
        let folder = folder();
        drop(open(folder.path()).unwrap());
        let connection = Connection::open(folder.path().join(file)).unwrap();
        let last: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        connection.execute_batch("PRAGMA user_version = 99").unwrap();
        drop(connection);
        assert!(matches!(open(folder.path()), Err(StoreError::NewerSchema { found: 99, known, .. }) if known == last));
    }
}

#[test]
fn missing_log_is_refused_when_events_were_counted() {
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.append(at(1), vec![exposure("x", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
        store.fold(Arc::default(), 10).await.unwrap();
        store.close().await.unwrap();
    });
    std::fs::remove_file(folder.path().join("log.db")).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::Mismatch { path, .. } if path.ends_with("log.db")), "{refused:?}");
}

/// A folder with an experiment and an exposure that was counted.
fn counted_folder() -> tempfile::TempDir {
    let folder = folder();
    count_an_exposure(folder.path());
    folder
}

/// Creates an experiment and counts an exposure to it.
fn count_an_exposure(folder: &Path) {
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    block_on(async {
        let store = open(folder).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        store.append(at(1), vec![exposure("a", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
        store.fold(Arc::new(vec![Arc::new(experiment)]), 10).await.unwrap();
        store.close().await.unwrap();
    });
}

fn refused_counts(folder: &std::path::Path) -> String {
    match open(folder).unwrap_err() {
        StoreError::Mismatch { path, detail } if path.ends_with("counts.db") => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_counts_are_refused_and_not_created() {
    let folder = counted_folder();
    std::fs::remove_file(folder.path().join("counts.db")).unwrap();
    assert_eq!(refused_counts(folder.path()), "it is missing");
    assert!(!folder.path().join("counts.db").exists());
}

#[test]
fn counts_of_another_store_or_copy_are_refused() {
    let (folder, other) = (counted_folder(), counted_folder());
    std::fs::copy(other.path().join("counts.db"), folder.path().join("counts.db")).unwrap();
    assert_eq!(refused_counts(folder.path()), "it belongs to another inroad.db");
    let copies = super::folder();
    let copy = |name: &str| {
        SqliteStore::copy(other.path(), &copies.path().join(name)).unwrap();
        copies.path().join(name)
    };
    let (first, second) = (copy("first"), copy("second"));
    std::fs::copy(first.join("counts.db"), second.join("counts.db")).unwrap();
    assert_eq!(refused_counts(&second), "it belongs to another inroad.db");
    open(&first).unwrap();
}

#[test]
fn new_catalogue_beside_used_counts_is_refused() {
    let folder = counted_folder();
    std::fs::remove_file(folder.path().join("inroad.db")).unwrap();
    assert_eq!(refused_counts(folder.path()), "it belongs to another inroad.db");
}

#[test]
fn log_that_begins_after_the_counted_events_is_refused() {
    let folder = counted_folder();
    let file = |name: &str| folder.path().join(name);
    let old = std::fs::read(file("counts.db")).unwrap();
    let known = Arc::new(vec![Arc::new(started_experiment("a", false, &all_metrics(), 1))]);
    block_on(async {
        let store = open(folder.path()).unwrap();
        let unit = |i: i64| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1));
        store.append(at(1), (0..10).map(unit).collect()).await.unwrap();
        store.fold(Arc::clone(&known), 5).await.unwrap();
        store.prune_log(at(2)).await.unwrap();
        store.close().await.unwrap();
    });
    open(folder.path()).unwrap();
    std::fs::write(file("counts.db"), old).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Mismatch { path, detail }
        if path.ends_with("log.db") && detail == "it has events 7 to 11, but 1 were counted from it"),
        "{refused:?}"
    );
}

/// A recount changes the counts without folding an event.
#[test]
fn catalogue_that_is_older_than_a_recount_is_refused() {
    let folder = counted_folder();
    let old = std::fs::read(folder.path().join("inroad.db")).unwrap();
    let mut experiment = started_experiment("a", false, &all_metrics(), 1);
    experiment.set_killed(inroad_assignment::KillTarget::Everything, true, at(2)).unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&experiment, Some(1), "kill")).await.unwrap();
        while store.fold(Arc::new(vec![Arc::new(experiment.clone())]), 10).await.unwrap().has_more_work() {}
        store.close().await.unwrap();
    });
    std::fs::write(folder.path().join("inroad.db"), old).unwrap();
    assert_eq!(refused_counts(folder.path()), "it was made with version 2 of inroad.db, which has version 1");
}

#[test]
fn catalogue_that_is_older_than_the_counts_is_refused() {
    let folder = folder();
    block_on(async { open(folder.path()).unwrap().close().await.unwrap() });
    let old = std::fs::read(folder.path().join("inroad.db")).unwrap();
    count_an_exposure(folder.path());
    std::fs::write(folder.path().join("inroad.db"), old).unwrap();
    let expected = "it was made with version 1 of inroad.db, which has version 0";
    assert_eq!(refused_counts(folder.path()), expected);
}
