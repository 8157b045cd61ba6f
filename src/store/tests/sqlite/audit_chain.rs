//! The chain of the audit log: each way to tamper with stored entries is found, and nothing else is.

use inroad_store::{AuditHash, AuditVerification, ChainFault};

use super::*;

/// A store with six entries: three experiments, a kill, a forgotten unit and a restore.
fn six_entries() -> tempfile::TempDir {
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        for name in ["a", "b", "c"] {
            let created = experiment_change(&started_experiment(name, false, &[], 1), None, "create");
            store.commit(created).await.unwrap();
        }
        let mut experiment = started_experiment("a", false, &[], 1);
        experiment.set_killed(inroad_assignment::KillTarget::Everything, true, at(5)).unwrap();
        let version = store.commit(experiment_change(&experiment, Some(1), "kill")).await.unwrap();
        // A refused change leaves no trace.
        assert!(store.commit(experiment_change(&experiment, Some(1), "kill")).await.is_err());
        let forget =
            ForgetRequest { unit_type: "user".to_owned(), unit: "ann".to_owned(), actor: "eve".to_owned(), at: at(6) };
        store.forget_unit(forget).await.unwrap();
        experiment.set_killed(inroad_assignment::KillTarget::Everything, false, at(7)).unwrap();
        store.commit(experiment_change(&experiment, Some(version), "restore")).await.unwrap();
        store.close().await.unwrap();
    });
    folder
}

fn verify(folder: &Path, expected: Option<AuditHash>) -> AuditVerification {
    SqliteStore::verify_audit(folder, expected).unwrap()
}

/// The fault after somebody ran SQL on the file.
fn fault_after(sql: &str) -> Option<ChainFault> {
    let folder = six_entries();
    Connection::open(folder.path().join("inroad.db")).unwrap().execute_batch(sql).unwrap();
    verify(folder.path(), None).fault
}

#[test]
fn untouched_log_is_unbroken_also_in_a_copy_and_while_it_grows() {
    let folder = six_entries();
    let found = verify(folder.path(), None);
    assert_eq!((found.older, found.verified, &found.fault), (0, 6, &None));
    let copy = super::folder();
    let copied = copy.path().join("copy");
    SqliteStore::copy(folder.path(), &copied).unwrap();
    assert_eq!(verify(&copied, Some(found.newest)), found);
    block_on(async {
        let store = open(folder.path()).unwrap();
        let newest = store.audit(None, PageRequest { before: u64::MAX, limit: 1, max_bytes: 0 }).await.unwrap();
        assert_eq!(newest[0].hash, Some(found.newest));
        let store = Arc::new(store);
        let tasks: Vec<_> = (0..10)
            .map(|i| {
                let created = started_experiment(&format!("more-{i}"), false, &[], 1);
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.commit(experiment_change(&created, None, "create")).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        // The store still has the file open, and the earlier hash is still in the chain.
        let grown = verify(folder.path(), Some(found.newest));
        assert_eq!((grown.verified, &grown.fault), (16, &None));
        assert_ne!(grown.newest, found.newest);
    });
}

#[test]
fn changed_entry_is_found() {
    for column in ["at = at + 1", "actor = 'bob'", "action = 'restore'", "experiment = 'b'", "before = '{}'"] {
        let fault = fault_after(&format!("UPDATE audit SET {column} WHERE id = 4"));
        assert_eq!(fault, Some(ChainFault::Changed { entry: 4 }), "{column}");
    }
    for column in ["after = replace(after, 'true', 'false')", "context = '{}'", "hash = zeroblob(32)", "hash = NULL"] {
        let fault = fault_after(&format!("UPDATE audit SET {column} WHERE id = 4"));
        assert_eq!(fault, Some(ChainFault::Changed { entry: 4 }), "{column}");
    }
    assert_eq!(fault_after("UPDATE audit SET actor = 'bob' WHERE id = 1"), Some(ChainFault::Changed { entry: 1 }));
}

#[test]
fn text_moved_between_fields_is_found() {
    let sql = "UPDATE audit SET actor = actor || substr(action, 1, 1), action = substr(action, 2) WHERE id = 4";
    assert_eq!(fault_after(sql), Some(ChainFault::Changed { entry: 4 }));
}

#[test]
fn deleted_entry_is_found() {
    let delete = |ids: &str| fault_after(&format!("DELETE FROM audit WHERE id IN ({ids})"));
    assert_eq!(delete("1"), Some(ChainFault::Missing { first: 1, last: 1 }));
    assert_eq!(delete("3, 4"), Some(ChainFault::Missing { first: 3, last: 4 }));
    // Renumbering does not hide it.
    let renumbered = "DELETE FROM audit WHERE id = 3; UPDATE audit SET id = id - 1 WHERE id > 3";
    assert_eq!(fault_after(renumbered), Some(ChainFault::Changed { entry: 3 }));
    // Nor does calling the first entries older than the chain.
    let older = "UPDATE audit SET hash = NULL WHERE id <= 2; UPDATE meta SET value = 2 WHERE key = 'audit_older'";
    assert_eq!(fault_after(older), Some(ChainFault::Changed { entry: 3 }));
}

#[test]
fn inserted_entry_is_found() {
    let copy = "INSERT INTO audit (id, at, actor, action, experiment, before, after, context, hash)
                SELECT {id}, at, 'bob', action, experiment, before, after, context, hash FROM audit WHERE id = 4";
    let appended = copy.replace("{id}", "7");
    assert_eq!(fault_after(&appended), Some(ChainFault::Changed { entry: 7 }));
    let shifted = format!(
        "UPDATE audit SET id = -id WHERE id >= 5; UPDATE audit SET id = 1 - id WHERE id < 0; {}",
        copy.replace("{id}", "5")
    );
    assert_eq!(fault_after(&shifted), Some(ChainFault::Changed { entry: 5 }));
    let swapped = "UPDATE audit SET id = -1 WHERE id = 2; UPDATE audit SET id = 2 WHERE id = 3;
                   UPDATE audit SET id = 3 WHERE id = -1";
    assert_eq!(fault_after(swapped), Some(ChainFault::Changed { entry: 2 }));
}

#[test]
fn truncated_log_is_found_against_a_remembered_hash() {
    let truncated = "DELETE FROM audit WHERE id > 4";
    assert_eq!(fault_after(truncated), Some(ChainFault::Truncated { first: 5 }));
    // Somebody who also rewrites the stored head leaves a shorter chain, which is unbroken in itself.
    let folder = six_entries();
    let remembered = verify(folder.path(), None).newest;
    let sql =
        format!("{truncated}; UPDATE meta SET value = (SELECT hash FROM audit WHERE id = 4) WHERE key = 'audit_head'");
    Connection::open(folder.path().join("inroad.db")).unwrap().execute_batch(&sql).unwrap();
    let found = verify(folder.path(), None);
    assert_eq!((found.verified, found.fault), (4, None));
    let found = verify(folder.path(), Some(remembered));
    assert_eq!(found.fault, Some(ChainFault::Unexpected { expected: remembered }));
}

#[test]
fn truncated_log_stays_broken_when_it_grows_again() {
    let folder = six_entries();
    Connection::open(folder.path().join("inroad.db")).unwrap().execute_batch("DELETE FROM audit WHERE id > 4").unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&started_experiment("d", false, &[], 1), None, "create")).await.unwrap();
    });
    assert_eq!(verify(folder.path(), None).fault, Some(ChainFault::Changed { entry: 5 }));
}

#[test]
fn chain_begins_with_the_upgrade() {
    let folder = folder();
    let state = folder.path().join("inroad.db");
    Connection::open(&state).unwrap().execute_batch(include_str!("../fixtures/state-1.sql")).unwrap();
    let log = Connection::open(folder.path().join("log.db")).unwrap();
    log.execute_batch(include_str!("../fixtures/log-1.sql")).unwrap();
    let before = verify(folder.path(), None);
    assert_eq!((before.older, before.verified, before.fault), (2, 0, None), "a database of the first release");
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&started_experiment("d", false, &[], 1), None, "create")).await.unwrap();
    });
    let found = verify(folder.path(), None);
    assert_eq!((found.older, found.verified, found.fault), (2, 1, None));
    let file = Connection::open(&state).unwrap();
    file.execute_batch("DELETE FROM audit WHERE id = 3").unwrap();
    assert_eq!(verify(folder.path(), None).fault, Some(ChainFault::Truncated { first: 3 }));
}

#[test]
fn folder_without_a_store_is_refused() {
    let folder = folder();
    assert!(matches!(SqliteStore::verify_audit(folder.path(), None), Err(StoreError::NoStore { .. })));
    Connection::open(folder.path().join("inroad.db")).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(SqliteStore::verify_audit(folder.path(), None), Err(StoreError::Corrupt { .. })));
}
