//! The log: acknowledged events stay, in order, until all consumers have read them and the operator deletes them.

use std::sync::Arc;

use inroad_assignment::{Arm, UnitKey, unit_digest};
use inroad_store::{Event, ExposureEvent, ForgetRequest, OutcomeEvent, PageRequest, StoreError};

use super::TestStore;
use super::world::{all_metrics, arm, at, experiment_change, exposure, key, outcome, started_experiment};

/// Events with unusual values.
fn odd_events() -> Vec<Event> {
    vec![
        Event::Exposure(ExposureEvent {
            experiment: key("a.b-c_1"),
            generation: u32::MAX,
            unit: "\u{0}ünit \"'\u{1f600}".to_owned(),
            arm: arm(64),
            revision: 7,
            occurred_at: inroad_assignment::Timestamp::MIN,
            context: "{\"plan\":\"pro\"}".to_owned(),
        }),
        Event::Outcome(OutcomeEvent {
            units: vec![("account".to_owned(), "a\"b".to_owned()), ("user".to_owned(), "ü".to_owned())],
            event: "order placed".to_owned(),
            value_micros: i64::MIN,
            occurred_at: inroad_assignment::Timestamp::MAX,
            event_id: String::new(),
            clock: "a.b-c_1".to_owned(),
        }),
        exposure("x", 1, "u", Arm::CONTROL, 1, at(3)),
    ]
}

fn some_events(from: usize, count: usize) -> Vec<Event> {
    (from..from + count).map(|i| exposure("x", 1, &format!("u{i}"), Arm::CONTROL, 1, at(i as i64))).collect()
}

pub async fn events_are_read_as_appended(test_store: TestStore) {
    let store = test_store.open();
    assert_eq!((store.head(), store.append(at(1), vec![]).await.unwrap()), (0, 0));
    assert_eq!(store.append(at(1), odd_events()).await.unwrap(), 3);
    assert_eq!(store.append(at(2), some_events(0, 5)).await.unwrap(), 8);
    assert_eq!(store.head(), 8);
    let read = store.read_log(0, 100).await.unwrap();
    let events: Vec<_> = read.iter().map(|logged| logged.event.clone()).collect();
    assert_eq!(events, [odd_events(), some_events(0, 5)].concat());
    assert_eq!(read.iter().map(|logged| logged.seq).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert_eq!((read[2].received_at, read[3].received_at), (at(1), at(2)));
    assert_eq!(store.read_log(3, 2).await.unwrap(), read[3..5]);
    assert_eq!(store.read_log(8, 2).await.unwrap(), []);
}

pub async fn acknowledged_events_survive_a_restart(test_store: TestStore) {
    for round in 0..3 {
        // The store is dropped without being closed, as if the process had been killed.
        let store = test_store.open();
        assert_eq!(store.head(), 10 * round);
        store.append(at(1), some_events(10 * round as usize, 10)).await.unwrap();
    }
    let store = test_store.open();
    store.close().await.unwrap();
    let store = test_store.open();
    let events: Vec<_> = store.read_log(0, 100).await.unwrap().into_iter().map(|logged| logged.event).collect();
    assert_eq!(events, some_events(0, 30));
}

pub async fn concurrent_appends_get_separate_places(test_store: TestStore) {
    let store = test_store.open();
    let tasks: Vec<_> = (0..20usize)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { (i, store.append(at(1), some_events(100 * i, 1 + i)).await.unwrap()) })
        })
        .collect();
    let mut ends = Vec::new();
    for task in tasks {
        ends.push(task.await.unwrap());
    }
    assert_eq!(store.head(), (1..=20).sum::<u64>());
    for (i, last) in ends {
        let first = last - i as u64;
        let read = store.read_log(first - 1, 1 + i).await.unwrap();
        let events: Vec<_> = read.into_iter().map(|logged| logged.event).collect();
        assert_eq!(events, some_events(100 * i, 1 + i), "a group stays together and in order");
    }
}

pub async fn full_queue_refuses_whole_batches(test_store: TestStore) {
    let store = test_store.open();
    let tasks: Vec<_> = (0..64usize)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.append(at(1), some_events(10_000 * i, 10_000)).await })
        })
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => accepted += 10_000,
            Err(StoreError::QueueFull { retry_after }) => {
                assert!(!retry_after.is_zero());
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "640,000 events do not fit a queue of 200,000");
    assert_eq!(store.head(), accepted);
    store.append(at(1), some_events(0, 1)).await.unwrap();
}

pub async fn consumer_offsets_survive_a_restart(test_store: TestStore) {
    let store = test_store.open();
    assert_eq!(store.offset("sink").await.unwrap(), 0);
    store.set_offset("sink", 7).await.unwrap();
    store.set_offset("other", 9).await.unwrap();
    store.set_offset("sink", 8).await.unwrap();
    drop(store);
    let store = test_store.open();
    assert_eq!((store.offset("sink").await.unwrap(), store.offset("other").await.unwrap()), (8, 9));
}

pub async fn pruning_keeps_unread_and_recent_events(test_store: TestStore) {
    let store = test_store.open();
    store.append(at(10), some_events(0, 10)).await.unwrap();
    store.append(at(20), some_events(10, 10)).await.unwrap();
    assert_eq!(store.prune_log(at(100)).await.unwrap(), 0, "nothing is folded yet");
    while store.fold(Arc::default(), 7).await.unwrap().has_more_work() {}
    store.set_offset("sink", 4).await.unwrap();
    assert_eq!(store.prune_log(at(100)).await.unwrap(), 4);
    assert_eq!(store.read_log(0, 100).await.unwrap().len(), 16);
    store.set_offset("sink", 20).await.unwrap();
    assert_eq!(store.prune_log(at(20)).await.unwrap(), 6, "the others are too recent");
    assert_eq!(store.read_log(0, 100).await.unwrap()[0].seq, 11);
}

pub async fn places_are_not_reused_after_pruning(test_store: TestStore) {
    let store = test_store.open();
    store.append(at(10), some_events(0, 10)).await.unwrap();
    store.fold(Arc::default(), 100).await.unwrap();
    assert_eq!(store.prune_log(at(100)).await.unwrap(), 10);
    assert_eq!(store.head(), 10);
    drop(store);
    let store = test_store.open();
    assert_eq!(store.head(), 10);
    assert_eq!(store.append(at(11), some_events(0, 1)).await.unwrap(), 11);
    assert_eq!(store.fold(Arc::default(), 100).await.unwrap().events, 1);
}

pub async fn forgotten_unit_is_in_no_event(test_store: TestStore) {
    let store = test_store.open();
    let experiments = [started_experiment("a", false, &all_metrics(), 1)];
    store.commit(experiment_change(&experiments[0], None, "create")).await.unwrap();
    let shared = Arc::new(experiments.map(Arc::new).to_vec());
    let events = vec![
        exposure("a", 1, "ann", arm(1), 1, at(1)),
        exposure("a", 1, "bob", arm(1), 1, at(1)),
        outcome("ann", "signup", 1, at(2), "1", ""),
        outcome("bob", "signup", 1, at(2), "2", ""),
    ];
    store.append(at(1), events).await.unwrap();
    let forget = async |unit_type: &str, unit: &str| {
        let (unit_type, unit) = (unit_type.to_owned(), unit.to_owned());
        let forget = ForgetRequest { unit_type, unit, actor: "eve".to_owned(), at: at(7) };
        let forgotten = store.forget_unit(forget).await.unwrap();
        (forgotten.events, forgotten.waiting)
    };
    assert_eq!(forget("user", "ann").await, (0, 2), "they are not counted yet");
    store.fold(Arc::clone(&shared), 100).await.unwrap();
    let before = store.counts(&key("a"), 1).await.unwrap();
    store.set_offset("sink", 1).await.unwrap();
    assert_eq!(forget("user", "ann").await, (1, 1), "one is not read yet");
    store.set_offset("sink", 4).await.unwrap();
    assert_eq!(forget("user", "ann").await, (1, 0));
    assert_eq!(forget("user", "ann").await, (0, 0));
    assert_eq!(forget("account", "bob").await, (0, 0), "bob is not an account");
    let left = format!("{:?}", store.read_log(0, 100).await.unwrap());
    assert!(!left.contains("ann") && left.contains("bob"));
    assert_eq!(store.counts(&key("a"), 1).await.unwrap(), before);
    let page = PageRequest { before: u64::MAX, limit: 100, max_bytes: 1 << 20 };
    let audit = store.audit(None, page).await.unwrap();
    assert_eq!(audit.len(), 6, "every request is audited, even if there was nothing to forget");
    let entry = &audit[1];
    assert_eq!((entry.actor.as_str(), entry.action.as_str(), entry.at), ("eve", "forget", at(7)));
    assert_eq!((&entry.experiment, entry.from.as_str()), (&None, ""));
    let digest = unit_digest("", "user", UnitKey::parse("ann").unwrap());
    let unit = serde_json::json!({"unit_type": "user", "digest": format!("{digest:?}")});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&entry.to).unwrap(), unit);
    assert_eq!(store.audit(Some(&key("a")), page).await.unwrap().len(), 1);
}

pub async fn backup_is_a_complete_store(test_store: TestStore) {
    let store = test_store.open();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let shared = Arc::new(vec![Arc::new(experiment.clone())]);
    let unit = |i: usize| exposure("a", 1, &format!("u{i}"), arm(1), 1, at(1));
    store.append(at(1), (0..50).map(unit).collect()).await.unwrap();
    while store.folded() < 30 {
        store.fold(Arc::clone(&shared), 30).await.unwrap();
    }
    let copy = TestStore { folder: tempfile::tempdir().unwrap(), open: test_store.open };
    // The store changes at the same time; the copy must still show one moment.
    let (copied, _) = tokio::join!(store.backup(copy.path()), async {
        for i in 50..100 {
            store.append(at(1), vec![unit(i)]).await.unwrap();
            store.fold(Arc::clone(&shared), 10).await.unwrap();
        }
    });
    let copied = copied.unwrap();
    assert_eq!(copied.experiments, 1);
    assert!(copied.folded >= 30 && copied.head >= copied.folded.max(50) && copied.bytes > 0, "{copied:?}");
    let again = store.backup(copy.path()).await;
    assert!(matches!(again, Err(StoreError::CopyExists { .. })), "a backup is never overwritten: {again:?}");
    // A store with a pruned log can be copied as well: the pruned events are counted.
    let pruned = TestStore { folder: tempfile::tempdir().unwrap(), open: test_store.open };
    while store.fold(Arc::clone(&shared), 100).await.unwrap().has_more_work() {}
    assert_eq!(store.prune_log(at(2)).await.unwrap(), 100);
    let copied = store.backup(pruned.path()).await.unwrap();
    assert_eq!((copied.head, copied.folded), (100, 100));
    let (id, want) = (store.store_id().to_owned(), store.counts(&key("a"), 1).await.unwrap().cells);
    drop(store);
    let restored = copy.open();
    assert_ne!(restored.store_id(), id, "clients must not take it for a replica that is behind");
    assert_eq!(*restored.load().await.unwrap().1[0].experiment, experiment);
    assert!(restored.head() >= 50 && restored.folded() >= 30 && restored.head() >= restored.folded());
    // Senders would resend the events that are missing in the copy.
    restored.append(at(1), (0..100).map(unit).collect()).await.unwrap();
    while restored.fold(Arc::clone(&shared), 1_000).await.unwrap().has_more_work() {}
    assert_eq!(restored.counts(&key("a"), 1).await.unwrap().cells, want);
}

pub async fn closed_store_returns_closed_errors(test_store: TestStore) {
    let store = test_store.open();
    store.append(at(1), some_events(0, 3)).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.append(at(1), some_events(0, 1)).await, Err(StoreError::Closed)));
    assert!(matches!(store.load().await, Err(StoreError::Closed)));
    assert!(matches!(store.fold(Arc::default(), 1).await, Err(StoreError::Closed)));
    // The folder is free, although the closed store still exists.
    assert_eq!(test_store.open().head(), 3);
}
