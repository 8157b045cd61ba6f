//! What SQLite adds to the contract: files that are not ours, newer, damaged, in use, or on a full disk.

use std::sync::Arc;

use inroad_assignment::{Arm, Definition, DefinitionDoc, Experiment, ExperimentKey, Salt, Timestamp};

use super::{SqliteOptions, SqliteStore};
use crate::catalogue::Change;
use crate::error::StoreError;
use crate::event::{Event, ExposureEvent};
use crate::{Page, Store};

crate::store_contract_suite!(|folder: &std::path::Path| SqliteStore::open(folder, SqliteOptions::default()));

fn opened(folder: &std::path::Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(folder, SqliteOptions::default())
}

#[test]
fn a_second_process_is_told_that_the_folder_is_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let _first = opened(folder.path()).expect("open");
    assert!(matches!(opened(folder.path()), Err(StoreError::InUse { .. })));
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("inroad.db");
    let text = "this is not a database, but somebody's letters".repeat(100);
    std::fs::write(&file, &text).expect("write");
    assert!(matches!(opened(folder.path()), Err(StoreError::Corrupt { .. })));
    assert_eq!(std::fs::read_to_string(&file).expect("read"), text);
}

#[test]
fn a_damaged_file_is_told_apart_from_an_empty_one() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(opened(folder.path()).expect("open"));
    let file = folder.path().join("inroad.db");
    let mut bytes = std::fs::read(&file).expect("read");
    bytes.iter_mut().skip(100).for_each(|byte| *byte = 0x5a);
    std::fs::write(&file, bytes).expect("write");
    assert!(matches!(opened(folder.path()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn another_programs_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log.db");
    rusqlite::Connection::open(file).expect("open").execute_batch("CREATE TABLE theirs (x)").expect("create");
    assert!(matches!(opened(folder.path()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_newer_database_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(opened(folder.path()).expect("open"));
    let file = folder.path().join("inroad.db");
    rusqlite::Connection::open(file).expect("open").execute_batch("PRAGMA user_version = 99").expect("set");
    assert!(matches!(opened(folder.path()), Err(StoreError::Newer { found: 99, known: 1, .. })));
}

#[tokio::test]
async fn a_full_queue_takes_nothing_and_names_a_delay() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions { queue: 10, ..SqliteOptions::default() };
    let store = Arc::new(SqliteStore::open(folder.path(), options).expect("open"));
    let event = |i: usize| {
        Event::Exposure(ExposureEvent {
            experiment: ExperimentKey::parse("x").expect("a key"),
            generation: 1,
            unit: format!("u{i}"),
            arm: Arm::CONTROL,
            revision: 1,
            occurred_at: Timestamp::default(),
            context: String::new(),
        })
    };
    let many = (0..64).map(|i| {
        let store = Arc::clone(&store);
        tokio::spawn(
            async move { store.append(Timestamp::default(), (0..9).map(|j| event(i * 9 + j)).collect()).await },
        )
    });
    let mut taken = 0;
    for task in many.collect::<Vec<_>>() {
        match task.await.expect("a task") {
            Ok(_) => taken += 9,
            Err(StoreError::Busy { retry_after }) => assert!(!retry_after.is_zero()),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(store.head(), taken);
}

#[tokio::test]
async fn a_copy_made_while_serving_has_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy");
    let store = opened(&folder.path().join("store")).expect("open");
    let doc: DefinitionDoc = serde_json::from_value(serde_json::json!({
        "key": "x",
        "variations": [{"key": "a", "payload": true}, {"key": "b", "payload": false, "share": 0.5}],
    }))
    .expect("a document");
    let definition = Definition::try_from(doc).expect("a definition");
    let mut experiment = Experiment::create(definition, Timestamp::default());
    experiment.start(Timestamp::default(), Salt::parse("s").expect("a salt")).expect("start");
    let change = Change {
        expected_version: None,
        experiment: Arc::new(experiment.clone()),
        actor: "me".to_owned(),
        action: "create".to_owned(),
        at: Timestamp::default(),
        decision: None,
    };
    store.commit(change).await.expect("commit");
    store.backup(&copy).await.expect("backup");
    let copied = opened(&copy).expect("open the copy");
    let (version, stored) = copied.load().await.expect("load");
    assert_eq!((version, &*stored[0].experiment), (1, &experiment));
    assert_eq!(copied.store_id(), store.store_id());
    assert_eq!(copied.audit(None, Page { before: u64::MAX, limit: 10 }).await.expect("audit").len(), 1);
}
