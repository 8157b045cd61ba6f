//! The catalogue: changes by compare-and-set, history that only grows, an audit entry for every change.

use inroad_assignment::experiment::{RevisionCause, ShippingScope};
use inroad_assignment::{Arm, Bucket, KillTarget, Point, Salt, Status};
use inroad_store::{DecisionRecord, PageRequest, Store, StoreError};

use super::TestStore;
use super::world::{TestRng, all_metrics, arm, at, change_randomly, experiment_change, key, share, started_experiment};

const FIRST_PAGE: PageRequest = PageRequest { before: u64::MAX, limit: 100, max_bytes: 1 << 20 };

pub async fn change_needs_the_current_version(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = started_experiment("a", false, &all_metrics(), 2);
    let version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    assert!(
        matches!(store.commit(experiment_change(&experiment, None, "create")).await, Err(StoreError::ExperimentExists(k)) if k == "a")
    );
    experiment.pause().unwrap();
    let next = store.commit(experiment_change(&experiment, Some(version), "pause")).await.unwrap();
    assert!(next > version);
    assert!(matches!(
        store.commit(experiment_change(&experiment, Some(version), "pause")).await,
        Err(StoreError::Conflict)
    ));
    let unknown = started_experiment("b", false, &[], 1);
    assert!(matches!(store.commit(experiment_change(&unknown, Some(1), "pause")).await, Err(StoreError::Conflict)));
    let (catalogue_version, stored) = store.load().await.unwrap();
    assert_eq!((catalogue_version, stored.len(), stored[0].version), (next, 1, next));
    assert_eq!(stored[0].experiment.status, Status::Paused);
}

pub async fn changes_of_many_experiments_are_stored_together_or_not_at_all(test_store: TestStore) {
    let store = test_store.open();
    let mut first = started_experiment("a", false, &all_metrics(), 2);
    let version = store.commit(experiment_change(&first, None, "create")).await.unwrap();
    first.pause().unwrap();
    let second = started_experiment("b", false, &[], 1);
    let outdated = vec![experiment_change(&second, None, "create"), experiment_change(&first, Some(9), "pause")];
    assert!(matches!(store.commit_all(outdated).await, Err(StoreError::Conflict)));
    let twice = vec![experiment_change(&second, None, "create"), experiment_change(&second, None, "create")];
    assert!(matches!(store.commit_all(twice).await, Err(StoreError::ExperimentExists(key)) if key == "b"));
    let (catalogue_version, stored) = store.load().await.unwrap();
    assert_eq!((catalogue_version, stored.len()), (version, 1), "a refused change leaves nothing");
    assert_eq!(store.audit(None, FIRST_PAGE).await.unwrap().len(), 1);
    let both = vec![experiment_change(&second, None, "create"), experiment_change(&first, Some(version), "pause")];
    let versions = store.commit_all(both).await.unwrap();
    assert_eq!(versions, [version + 1, version + 2]);
    let (catalogue_version, stored) = store.load().await.unwrap();
    assert_eq!((catalogue_version, stored.len()), (version + 2, 2));
    assert_eq!(stored[0].experiment.status, Status::Paused);
    assert_eq!(store.audit(None, FIRST_PAGE).await.unwrap().len(), 3);
}

pub async fn prepared_changes_are_stored_only_if_no_experiment_was_changed_since(test_store: TestStore) {
    let store = test_store.open();
    let mut first = started_experiment("a", false, &all_metrics(), 2);
    let version = store.commit(experiment_change(&first, None, "create")).await.unwrap();
    let second = started_experiment("b", false, &[], 1);
    let mut paused = first.clone();
    paused.pause().unwrap();
    let both = vec![experiment_change(&second, None, "create"), experiment_change(&paused, Some(version), "pause")];
    let prepared = store.prepare(both).await.unwrap();
    assert_eq!(store.load().await.unwrap().0, version, "nothing is stored yet");
    first.set_killed(KillTarget::Everything, true, at(1)).unwrap();
    let killed = store.commit(experiment_change(&first, Some(version), "kill")).await.unwrap();
    assert!(matches!(store.commit_prepared(prepared).await, Err(StoreError::Conflict)));
    let (catalogue_version, stored) = store.load().await.unwrap();
    assert_eq!((catalogue_version, stored.len()), (killed, 1), "refused changes leave nothing");
    paused = first.clone();
    paused.pause().unwrap();
    let both = vec![experiment_change(&second, None, "create"), experiment_change(&paused, Some(killed), "pause")];
    let prepared = store.prepare(both).await.unwrap();
    assert_eq!(store.commit_prepared(prepared).await.unwrap(), [killed + 1, killed + 2]);
    let entries = store.audit(None, FIRST_PAGE).await.unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["pause", "create", "kill", "create"]);
}

pub async fn audit_search_filters_and_pages(test_store: TestStore) {
    let store = test_store.open();
    for (name, actor, action) in [("a.one", "Ann", "create"), ("a.two", "Ben", "create"), ("b", "ann b", "tick")] {
        let change = experiment_change(&started_experiment(name, false, &[], 1), None, action);
        store.commit(inroad_store::ExperimentChange { actor: actor.to_owned(), ..change }).await.unwrap();
    }
    let find = async |experiment: &str, actor: &str, action: &str, skip, limit| {
        let filter = inroad_store::AuditFilter {
            experiment: experiment.to_owned(),
            actor: actor.to_owned(),
            action: action.to_owned(),
        };
        let total = store.count_audit(filter.clone()).await.unwrap();
        let entries = store.search_audit(filter, skip, limit, 1 << 20).await.unwrap();
        (entries.into_iter().map(|e| e.experiment.unwrap().to_string()).collect::<Vec<_>>(), total)
    };
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    assert_eq!(find("", "", "", 0, 9).await, (keys(&["a.two", "a.one"]), 2), "automatic decisions only on request");
    assert_eq!(find("", "", "tick", 0, 9).await, (keys(&["b"]), 1));
    assert_eq!(find("", "ANN", "", 0, 9).await, (keys(&["a.one"]), 1));
    assert_eq!(find("two", "", "create", 0, 9).await, (keys(&["a.two"]), 1));
    assert_eq!(find("", "", "", 1, 1).await, (keys(&["a.one"]), 2));
    assert_eq!(find("%", "", "", 0, 9).await, (keys(&[]), 0), "text is not a pattern");
}

pub async fn committed_experiment_is_loaded_unchanged(test_store: TestStore) {
    let store = test_store.open();
    let id = store.store_id().to_owned();
    let mut experiment = started_experiment("a", true, &all_metrics(), 3);
    let mut version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    experiment.grow(&[(arm(1), share(0.25))], RevisionCause::Policy, at(10), at(20)).unwrap();
    experiment.set_killed(KillTarget::Variation(arm(2)), true, at(11)).unwrap();
    version = store.commit(experiment_change(&experiment, Some(version), "tick")).await.unwrap();
    experiment.set_killed(KillTarget::Everything, true, at(12)).unwrap();
    experiment.restart(at(30), Salt::parse("other").unwrap()).unwrap();
    experiment.advance_clock(at(31)).unwrap();
    experiment.grow(&[(arm(1), share(0.1))], RevisionCause::Grown, at(31), at(31)).unwrap();
    version = store.commit(experiment_change(&experiment, Some(version), "restart")).await.unwrap();
    experiment.conclude(Arm::CONTROL, ShippingScope::Audience, at(50)).unwrap();
    store.commit(experiment_change(&experiment, Some(version), "conclude")).await.unwrap();
    assert_eq!(*store.load().await.unwrap().1[0].experiment, experiment);
    drop(store);
    let store = test_store.open();
    assert_eq!(*store.load().await.unwrap().1[0].experiment, experiment);
    assert_eq!(store.store_id(), id);
}

pub async fn reopened_data_continues_its_lineages_and_a_copy_none_that_went_on_without_it(test_store: TestStore) {
    let commit = async |store: &dyn Store, name: &str| {
        store.commit(experiment_change(&started_experiment(name, false, &[], 1), None, "create")).await.unwrap()
    };
    let store = test_store.open();
    let first = store.lineage_id().to_owned();
    let version = commit(&*store, "a").await;
    assert!(store.continues(&first, version) && store.continues(&first, version + 9), "its own lineage has no end");
    assert!(!store.continues("another", 0));
    drop(store);
    let store = test_store.open();
    let second = store.lineage_id().to_owned();
    assert!(store.continues(&first, version));
    if first != second {
        assert!(!store.continues(&first, version + 1), "it was made by a process that had this data no more");
    }
    let version = commit(&*store, "b").await;
    assert!(store.continues(&second, version));
    drop(store);
    let store = test_store.open();
    assert!(store.continues(&first, version - 1) && store.continues(&second, version));
}

pub async fn versions_rise_across_experiments(test_store: TestStore) {
    let store = test_store.open();
    let mut last = 0;
    for name in ["c", "a", "b"] {
        let version =
            store.commit(experiment_change(&started_experiment(name, false, &[], 1), None, "create")).await.unwrap();
        assert!(version > last);
        last = version;
    }
    assert_eq!(store.load().await.unwrap().0, last);
}

pub async fn revision_that_takes_points_from_a_variation_is_refused(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = started_experiment("a", false, &[], 2);
    let version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let valid = experiment.clone();
    experiment.grow(&[(arm(1), share(0.2))], RevisionCause::Grown, at(2), at(2)).unwrap();
    let reduced =
        [(0, arm(2)), (1 << 62, Arm::CONTROL)].map(|(start, owner)| Bucket { start: Point::new(start), owner });
    let allocation = inroad_assignment::Allocation::new(reduced).unwrap();
    experiment.generations[0].revisions[1].allocation = std::sync::Arc::new(allocation);
    let refused = store.commit(experiment_change(&experiment, Some(version), "grow")).await;
    assert!(matches!(refused, Err(StoreError::NotMonotone { revision: 2, .. })), "{refused:?}");
    let (catalogue_version, stored) = store.load().await.unwrap();
    assert_eq!((catalogue_version, &*stored[0].experiment), (version, &valid), "nothing was stored");
    assert_eq!(store.audit(None, FIRST_PAGE).await.unwrap().len(), 1);
}

pub async fn change_that_removes_history_is_refused(test_store: TestStore) {
    let store = test_store.open();
    let before = started_experiment("a", false, &[], 2);
    let mut experiment = before.clone();
    experiment.grow(&[(arm(1), share(0.2))], RevisionCause::Grown, at(2), at(2)).unwrap();
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(3)).unwrap();
    let version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    assert!(store.commit(experiment_change(&before, Some(version), "undo")).await.is_err());
    let mut gap = experiment.clone();
    gap.set_killed(KillTarget::Variation(arm(1)), false, at(4)).unwrap();
    gap.grow(&[(arm(1), share(0.2))], RevisionCause::Grown, at(5), at(5)).unwrap();
    gap.generations[0].revisions[2].number = 4;
    assert!(store.commit(experiment_change(&gap, Some(version), "gap")).await.is_err());
    assert_eq!(*store.load().await.unwrap().1[0].experiment, experiment);
}

pub async fn every_change_is_audited(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = started_experiment("a", false, &[], 1);
    let version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    store.commit(experiment_change(&started_experiment("b", false, &[], 1), None, "create")).await.unwrap();
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(5)).unwrap();
    store.commit(experiment_change(&experiment, Some(version), "kill")).await.unwrap();
    let all = store.audit(None, FIRST_PAGE).await.unwrap();
    let actions: Vec<_> = all.iter().map(|e| (e.experiment.as_ref().unwrap().as_str(), e.action.as_str())).collect();
    assert_eq!(actions, [("a", "kill"), ("b", "create"), ("a", "create")]);
    assert!(all.windows(2).all(|pair| pair[0].id > pair[1].id));
    let of_a = store.audit(Some(&key("a")), FIRST_PAGE).await.unwrap();
    assert_eq!(of_a.len(), 2);
    assert_eq!(of_a[1].from, "");
    assert_eq!((of_a[0].actor.as_str(), of_a[0].at), ("test", at(1)));
    let [from, to] = [&of_a[0].from, &of_a[0].to].map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap());
    assert_ne!(from["kills"], to["kills"]);
    let created: serde_json::Value = serde_json::from_str(&of_a[1].to).unwrap();
    assert_eq!((&created["definition"]["key"], &created["status"]["state"]), (&"a".into(), &"running".into()));
    assert_eq!(of_a[0].context.variations, [(1, "v1".to_owned())].into());
    let page = PageRequest { before: all[0].id, limit: 1, ..FIRST_PAGE };
    assert_eq!(store.audit(None, page).await.unwrap(), all[1..2]);
}

pub async fn audit_entry_has_only_what_changed(test_store: TestStore) {
    let store = test_store.open();
    let large = |text: &str| {
        let mut document = serde_json::to_value(started_experiment("a", false, &[], 1).definition).unwrap();
        for variation in document["variations"].as_array_mut().unwrap() {
            variation["payload"] = "x".repeat(16_000).into();
        }
        document["owner"] = text.into();
        serde_json::from_value::<inroad_assignment::Definition>(document).unwrap()
    };
    let mut experiment = started_experiment("a", false, &[], 1);
    experiment.definition = large("ann");
    let mut version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(5)).unwrap();
    version = store.commit(experiment_change(&experiment, Some(version), "kill")).await.unwrap();
    experiment.definition = large("bob");
    version = store.commit(experiment_change(&experiment, Some(version), "update")).await.unwrap();
    store.commit(experiment_change(&experiment, Some(version), "tick")).await.unwrap();
    let texts = |entry: &inroad_store::AuditEntry| {
        [&entry.from, &entry.to].map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap_or_default())
    };
    let entries = store.audit(None, FIRST_PAGE).await.unwrap();
    let [tick, update, kill, create] = [0, 1, 2, 3].map(|i| texts(&entries[i]));
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(tick, [json("{}"), json("{}")]);
    assert_eq!(update, [json(r#"{"definition":{"owner":"ann"}}"#), json(r#"{"definition":{"owner":"bob"}}"#)]);
    assert_eq!(kill, [json(r#"{"kills":{"arms":[]}}"#), json(r#"{"kills":{"arms":[1]}}"#)]);
    assert!(create[0].is_null() && create[1]["definition"]["owner"] == "ann", "a creation has the whole experiment");
}

pub async fn earlier_states_are_found_in_the_audit_log(test_store: TestStore) {
    for seed in 0..20 {
        let store = test_store.open();
        let mut rng = TestRng(seed);
        let name = format!("e{seed}");
        let mut experiment = started_experiment(&name, false, &all_metrics(), 3);
        let mut version = None;
        let mut states = Vec::new();
        for now in 1..30 {
            let mut change = experiment_change(&experiment, version, "change");
            change.at = at(10 * now);
            version = Some(store.commit(change).await.unwrap());
            states.push((10 * now, experiment.clone()));
            change_randomly(&mut experiment, 10 * now + 1, &mut rng);
        }
        assert_eq!(store.audited_state(&key(&name), at(9)).await.unwrap(), None);
        assert_eq!(store.audited_state(&key("unknown"), at(1_000)).await.unwrap(), None);
        for (time, experiment) in states {
            let state = store.audited_state(&key(&name), at(time + 5)).await.unwrap().unwrap();
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            let expected = [
                serde_json::to_value(&experiment.definition).unwrap(),
                serde_json::to_value(experiment.status).unwrap(),
                serde_json::to_value(experiment.kills).unwrap(),
            ];
            assert_eq!([&state["definition"], &state["status"], &state["kills"]], expected.each_ref(), "{seed} {time}");
        }
    }
}

pub async fn pages_of_audit_entries_are_limited_by_bytes(test_store: TestStore) {
    let store = test_store.open();
    for key in ["a", "b", "c", "d"] {
        store.commit(experiment_change(&started_experiment(key, false, &[], 1), None, "create")).await.unwrap();
    }
    let all = store.audit(None, FIRST_PAGE).await.unwrap();
    let two = all[0].to.len() + all[1].to.len();
    for (max_bytes, expected) in [(two, &all[..2]), (two + 10, &all[..2]), (two - 1, &all[..1]), (0, &all[..1])] {
        assert_eq!(store.audit(None, PageRequest { max_bytes, ..FIRST_PAGE }).await.unwrap(), expected);
        let found = store.search_audit(inroad_store::AuditFilter::default(), 0, 100, max_bytes).await.unwrap();
        assert_eq!(found, expected);
    }
}

pub async fn decisions_are_stored_byte_for_byte(test_store: TestStore) {
    let store = test_store.open();
    let experiment = started_experiment("a", false, &[], 1);
    let mut version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let decision = |n: i64, revision| DecisionRecord {
        generation: 1,
        at: at(n),
        revision,
        input: format!("{{\"x\":0.{n}000000000000001}}"),
        output: "{\"π\":\"\u{1f600}\"}".to_owned(),
    };
    let made = [decision(1, None), decision(2, Some(2)), decision(3, None)];
    for decision in &made {
        let change = inroad_store::ExperimentChange {
            decision: Some(decision.clone()),
            ..experiment_change(&experiment, Some(version), "tick")
        };
        version = store.commit(change).await.unwrap();
    }
    let listed = store.decisions(&key("a"), 1, FIRST_PAGE).await.unwrap();
    assert!(listed.iter().map(|decision| &decision.record).eq(made.iter().rev()));
    assert!(listed.windows(2).all(|pair| pair[0].id > pair[1].id));
    let page = PageRequest { before: listed[0].id, limit: 1, ..FIRST_PAGE };
    assert_eq!(store.decisions(&key("a"), 1, page).await.unwrap(), listed[1..2]);
    assert_eq!(store.decisions(&key("a"), 2, FIRST_PAGE).await.unwrap(), []);
    assert_eq!(store.decisions(&key("unknown"), 1, FIRST_PAGE).await.unwrap(), []);
    assert_eq!(store.decision(&key("a"), 1, 2).await.unwrap().as_ref(), Some(&made[1]));
    for (experiment, generation, revision) in [("a", 1, 1), ("a", 2, 2), ("unknown", 1, 2)] {
        assert_eq!(store.decision(&key(experiment), generation, revision).await.unwrap(), None);
    }
}

pub async fn concurrent_changes_are_all_stored(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = started_experiment("a", false, &[], 1);
    experiment.definition = started_experiment("a", false, &[], 1).definition;
    store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    let stored = store.load().await.unwrap().1.remove(0);
                    let mut next = (*stored.experiment).clone();
                    let kills = next.generations[0].kill_changes.len() as i64;
                    next.set_killed(KillTarget::Variation(arm(1)), kills % 2 == 0, at(kills + 1)).unwrap();
                    match store.commit(experiment_change(&next, Some(stored.version), &format!("by {task}"))).await {
                        Ok(_) => done += 1,
                        Err(StoreError::Conflict) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.load().await.unwrap().1[0].experiment.generations[0].kill_changes.len(), 40);
    assert_eq!(store.audit(None, FIRST_PAGE).await.unwrap().len(), 41);
}

pub async fn last_arm_can_be_killed(test_store: TestStore) {
    // Its bit does not fit into 64 bits, which is the usual limit of JSON numbers.
    let store = test_store.open();
    let variations: Vec<_> = (0..=64).map(|i| serde_json::json!({"key": format!("v{i}"), "payload": true})).collect();
    let document = serde_json::json!({"key": "many", "policy": {"kind": "manual"}, "variations": variations});
    let mut experiment = inroad_assignment::Experiment::create(serde_json::from_value(document).unwrap(), at(0));
    experiment.start(at(0), Salt::parse("s").unwrap()).unwrap();
    experiment.set_killed(KillTarget::Variation(arm(64)), true, at(1)).unwrap();
    let version = store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    store.commit(experiment_change(&experiment, Some(version), "again")).await.unwrap();
    assert!(store.load().await.unwrap().1[0].experiment.kills.is_arm_killed(arm(64)));
}
