//! Files that an earlier release wrote.

use super::*;

/// The fixtures are files as the first release wrote them. Never regenerate them: they must stay readable.
#[test]
fn store_of_the_first_release_is_opened_and_continues() {
    let folder = folder();
    let dumps =
        [("inroad.db", include_str!("../fixtures/state-1.sql")), ("log.db", include_str!("../fixtures/log-1.sql"))];
    for (file, dump) in dumps {
        Connection::open(folder.path().join(file)).unwrap().execute_batch(dump).unwrap();
    }
    block_on(async {
        let store = open(folder.path()).unwrap();
        assert_eq!(store.store_id(), "00112233445566778899aabbccddeeff");
        let (version, stored) = store.load().await.unwrap();
        let experiment = &stored[0].experiment;
        assert_eq!((version, stored.len(), experiment.generations[0].revisions.len()), (2, 1, 2));
        assert!(experiment.kills.is_arm_killed(arm(2)));
        assert_eq!((store.head(), store.folded()), (6, 6));
        let events: Vec<_> = store.read_log(0, 10).await.unwrap().into_iter().map(|logged| logged.event).collect();
        let generation = &experiment.generations[0];
        let want = contract::oracle::counts(experiment, generation, &events);
        let known = Arc::new(stored.iter().map(|stored| Arc::clone(&stored.experiment)).collect::<Vec<_>>());
        while store.fold(Arc::clone(&known), 100).await.unwrap().has_more_work() {}
        let got = store.counts(&key("checkout"), 1).await.unwrap();
        assert_eq!(got, inroad_store::GenerationCounts { folded: 6, ..want });
        assert_eq!(store.offset("sink").await.unwrap(), 3);
        let all = PageRequest { before: u64::MAX, limit: 10, max_bytes: 1 << 20 };
        assert_eq!(store.decisions(&key("checkout"), 1, all).await.unwrap().len(), 1);
        // A repeated event changes nothing, and a new unit is counted.
        let next = exposure("checkout", 1, "new unit", Arm::CONTROL, 1, at(20));
        store.append(at(1), [events, vec![next]].concat()).await.unwrap();
        while store.fold(Arc::default(), 100).await.unwrap().has_more_work() {}
        let firsts =
            |counts: &inroad_store::GenerationCounts| counts.cells.values().map(|cell| cell.first).sum::<u64>();
        assert_eq!(firsts(&store.counts(&key("checkout"), 1).await.unwrap()), firsts(&got) + 1);
    });
}

/// Earlier releases had the counts in the same file as the catalogue. A crash may come after they were copied and before
/// the old tables were dropped.
#[test]
fn counts_are_moved_to_their_file_again_after_a_crash() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    Connection::open(file("inroad.db")).unwrap().execute_batch(include_str!("../fixtures/state-1.sql")).unwrap();
    Connection::open(file("log.db")).unwrap().execute_batch(include_str!("../fixtures/log-1.sql")).unwrap();
    let old = std::fs::read(file("inroad.db")).unwrap();
    let open_and_count = || {
        block_on(async {
            let store = open(folder.path()).unwrap();
            let counts = store.counts(&key("checkout"), 1).await.unwrap();
            assert_eq!((store.folded(), counts.cells.is_empty()), (6, false));
            store.close().await.unwrap();
            counts
        })
    };
    let moved = open_and_count();
    std::fs::write(file("inroad.db"), old).unwrap();
    assert_eq!(open_and_count(), moved);
    assert_eq!(open_and_count(), moved, "nothing is moved twice");
    let tables = |name: &str| {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('unit', 'outcome', 'counted', 'tally')";
        Connection::open(file(name)).unwrap().query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap()
    };
    assert_eq!((tables("inroad.db"), tables("counts.db")), (0, 4));
}

/// Somebody restores the catalogue of an earlier release beside newer counts.
#[test]
fn newer_counts_are_not_replaced_by_those_of_an_earlier_release() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    Connection::open(file("inroad.db")).unwrap().execute_batch(include_str!("../fixtures/state-1.sql")).unwrap();
    Connection::open(file("log.db")).unwrap().execute_batch(include_str!("../fixtures/log-1.sql")).unwrap();
    let old = std::fs::read(file("inroad.db")).unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.append(at(1), vec![exposure("checkout", 1, "new unit", Arm::CONTROL, 1, at(20))]).await.unwrap();
        while store.fold(Arc::default(), 100).await.unwrap().has_more_work() {}
        store.close().await.unwrap();
    });
    let counts = std::fs::read(file("counts.db")).unwrap();
    std::fs::write(file("inroad.db"), old).unwrap();
    for _ in 0..2 {
        let refused = open(folder.path()).unwrap_err();
        assert!(matches!(&refused, StoreError::Mismatch { detail, .. } if detail == "it is newer than inroad.db"));
    }
    assert_eq!(std::fs::read(file("counts.db")).unwrap(), counts);
}

/// The first release did not count early outcomes; its units are counted again.
#[test]
fn counts_without_early_outcomes_are_recounted() {
    let folder = folder();
    let early = |counts: &inroad_store::GenerationCounts| counts.cells.values().map(|cell| cell.early).sum::<u64>();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let complete = block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        let unit = |i: i64| {
            let name = format!("u{i}");
            let exposed = exposure("a", 1, &name, Arm::CONTROL, 1, at(i));
            [exposed, outcome(&name, "signup", 1_000_000, at(i + i % 60), &name, "")]
        };
        store.append(at(1), (0..60).flat_map(unit).collect()).await.unwrap();
        let known = Arc::new(vec![Arc::new(experiment.clone())]);
        while store.fold(Arc::clone(&known), 1_000).await.unwrap().has_more_work() {}
        let complete = store.counts(&key("a"), 1).await.unwrap();
        store.close().await.unwrap();
        complete
    });
    assert!(early(&complete) > 0);
    let state = Connection::open(folder.path().join("counts.db")).unwrap();
    state.execute_batch("UPDATE tally SET early = 0; UPDATE counted SET early = 0").unwrap();
    drop(state);
    block_on(async {
        let store = open(folder.path()).unwrap();
        assert_eq!(early(&store.counts(&key("a"), 1).await.unwrap()), 0);
        store.fold(Arc::new(vec![Arc::new(experiment.clone())]), 1).await.unwrap();
        assert_eq!(store.counts(&key("a"), 1).await.unwrap(), complete);
    });
}

/// Earlier releases had no tolerances; their units are counted again.
#[test]
fn counts_without_tolerances_are_recounted() {
    let mut experiment = started_experiment("a", false, &all_metrics(), 1);
    let generation = experiment.generation().unwrap().clone();
    let hasher = inroad_assignment::UnitHasher::new(&key("a"), &generation.salt);
    let exposures = (0..60).map(|i| {
        let unit = format!("u{i}");
        let point = hasher.digest(inroad_assignment::UnitKey::parse(&unit).unwrap()).point();
        exposure("a", 1, &unit, generation.served_arm(point, at(100 + i)), 1, at(100 + i))
    });
    let outcomes = (0..60).map(|i| outcome(&format!("u{i}"), "signup", 1, at(130 + 8 * i), "after", ""));
    let tolerated = (0..60).map(|i| outcome(&format!("u{i}"), "signup", 1, at(99), "before", ""));
    experiment.set_killed(inroad_assignment::KillTarget::Everything, true, at(150)).unwrap();
    let known = Arc::new(vec![Arc::new(experiment.clone())]);
    let fold_all = async |folder: &std::path::Path, events: Vec<inroad_store::Event>| {
        let store = open(folder).unwrap();
        if !events.is_empty() {
            store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
            store.append(at(1), events).await.unwrap();
        }
        while store.fold(Arc::clone(&known), 7).await.unwrap().has_more_work() {}
        let counts = store.counts(&key("a"), 1).await.unwrap();
        store.close().await.unwrap();
        inroad_store::GenerationCounts { folded: 0, ..counts }
    };
    let (folder, complete) = (folder(), super::folder());
    let events: Vec<_> = exposures.chain(outcomes).collect();
    let complete = block_on(fold_all(complete.path(), events.iter().cloned().chain(tolerated).collect()));
    let without = block_on(fold_all(folder.path(), events));
    let sum = |count: fn(&inroad_policy::attribution::Cell) -> u64, counts: &inroad_store::GenerationCounts| {
        counts.cells.values().map(count).sum::<u64>()
    };
    assert!(sum(|cell| cell.too_late, &without) > 0 && sum(|cell| cell.dropped_by_kill, &without) > 0);
    assert!(sum(|cell| cell.s, &complete) > sum(|cell| cell.s, &without));
    // The tables as an earlier release left them: outcomes before the exposure are stored and credited nowhere.
    let state = Connection::open(folder.path().join("counts.db")).unwrap();
    for i in 0..60 {
        let unit = format!("u{i}");
        let unit = inroad_assignment::UnitKey::parse(&unit).unwrap();
        let row = (inroad_assignment::unit_digest("", "user", unit).as_bytes().to_vec(), 99_000_000);
        state.execute("INSERT INTO outcome VALUES (?1, 'before', 'signup', ?2, 1)", row).unwrap();
    }
    state
        .execute_batch(
            "UPDATE tally SET dropped_by_kill = 0, dropped_after_end = 0, too_early = 0, too_late = 0;
             UPDATE counted SET tolerances = 0",
        )
        .unwrap();
    drop(state);
    assert_eq!(block_on(fold_all(folder.path(), Vec::new())), complete);
}

/// Earlier releases credited outcomes after the end of a run; units of ended runs are counted again.
#[test]
fn counts_with_outcomes_after_the_end_are_recounted() {
    let folder = folder();
    let mut experiment = started_experiment("a", false, &all_metrics(), 1);
    let unit = |i: i64| {
        let name = format!("u{i}");
        let outcomes = [20, 200].map(|time| outcome(&name, "signup", 1, at(time + i), &time.to_string(), ""));
        [exposure("a", 1, &name, Arm::CONTROL, 1, at(i))].into_iter().chain(outcomes)
    };
    let events: Vec<_> = (0..20).flat_map(unit).collect();
    let count = async |experiment: &inroad_assignment::Experiment, version: Option<u64>, events: Vec<Event>| {
        let store = open(folder.path()).unwrap();
        store.append(at(1), events).await.unwrap();
        store.commit(experiment_change(experiment, version, "change")).await.unwrap();
        if version.is_none() {
            let known = Arc::new(vec![Arc::new(experiment.clone())]);
            while store.fold(Arc::clone(&known), 1_000).await.unwrap().has_more_work() {}
        }
        store.close().await.unwrap();
    };
    block_on(count(&experiment, None, events.clone()));
    experiment.conclude(Arm::CONTROL, inroad_assignment::experiment::ShippingScope::Audience, at(100)).unwrap();
    block_on(count(&experiment, Some(1), vec![]));
    // The tables as an earlier release left them after the end.
    let counts = Connection::open(folder.path().join("counts.db")).unwrap();
    counts
        .execute_batch(
            "ALTER TABLE counted DROP COLUMN activity_ends; PRAGMA user_version = 2;
             UPDATE counted SET endings = 1; UPDATE tally SET too_late = 0",
        )
        .unwrap();
    drop(counts);
    let want = contract::oracle::counts(&experiment, experiment.generation().unwrap(), &events);
    let want = inroad_store::GenerationCounts { folded: events.len() as u64, ..want };
    block_on(async {
        let store = open(folder.path()).unwrap();
        assert!(store.counts(&key("a"), 1).await.unwrap() != want, "outcomes after the end are counted");
        let known = Arc::new(vec![Arc::new(experiment.clone())]);
        while store.fold(Arc::clone(&known), 7).await.unwrap().has_more_work() {}
        assert_eq!(store.counts(&key("a"), 1).await.unwrap(), want);
    });
}

/// Records with the sums of few outcomes, as earlier releases wrote them, count the same as those without, and are replaced
/// once an outcome changes them.
#[test]
fn records_of_an_earlier_release_count_the_same_and_lose_their_sums() {
    let folder = folder();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let known = Arc::new(vec![Arc::new(experiment.clone())]);
    let of_unit = |i: i64, part: i64| {
        let name = format!("u{i}");
        let outcomes = (0..i % 5).map(|n| outcome(&name, "order", n + 1, at(i + n), &format!("{part}-{n}"), ""));
        [exposure("a", 1, &name, Arm::CONTROL, 1, at(i))].into_iter().chain(outcomes).collect::<Vec<_>>()
    };
    let events = |part: i64| (0..60).flat_map(move |i| of_unit(i, part)).collect::<Vec<_>>();
    let fold_all = async |events: Vec<inroad_store::Event>, outcomes_without_sums: usize| {
        let options = SqliteOptions { outcomes_without_sums, ..SqliteOptions::default() };
        let store = SqliteStore::open(folder.path(), options).unwrap();
        if store.head() == 0 {
            store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        }
        store.append(at(1), events).await.unwrap();
        while store.fold(Arc::clone(&known), 1_000).await.unwrap().has_more_work() {}
        let counts = store.counts(&key("a"), 1).await.unwrap();
        store.close().await.unwrap();
        counts
    };
    let layouts = || -> Vec<u8> {
        let counts = Connection::open(folder.path().join("counts.db")).unwrap();
        let mut records = counts.prepare("SELECT substr(record, 1, 1) FROM unit ORDER BY 1").unwrap();
        let layouts = records.query_map([], |row| row.get::<_, [u8; 1]>(0)).unwrap();
        layouts.map(|layout| layout.unwrap()[0]).collect()
    };
    block_on(fold_all(events(0), 0));
    assert_eq!(layouts().iter().filter(|layout| **layout == 1).count(), 48, "units with outcomes");
    let counts = Connection::open(folder.path().join("counts.db")).unwrap();
    let downgrade = "DROP INDEX unit_by_unit_digest; CREATE INDEX unit_by_unit_digest ON unit (unit_digest);
        ALTER TABLE counted DROP COLUMN activity_ends; PRAGMA user_version = 1";
    counts.execute_batch(downgrade).unwrap();
    drop(counts);
    let got = block_on(fold_all(events(1), 32));
    assert!(layouts().iter().all(|layout| *layout == 2), "{:?}", layouts());
    let all = [events(0), events(1)].concat();
    let want = contract::oracle::counts(&experiment, experiment.generation().unwrap(), &all);
    assert_eq!(got, inroad_store::GenerationCounts { folded: all.len() as u64, ..want });
}

/// Earlier releases stored the whole experiment twice in each entry of the audit log.
#[test]
fn audit_entries_with_whole_states_are_read_as_what_changed() {
    let folder = folder();
    let state = Connection::open(folder.path().join("inroad.db")).unwrap();
    state.execute_batch(include_str!("../fixtures/state-1.sql")).unwrap();
    let log = Connection::open(folder.path().join("log.db")).unwrap();
    log.execute_batch(include_str!("../fixtures/log-1.sql")).unwrap();
    drop((state, log));
    block_on(async {
        let store = open(folder.path()).unwrap();
        let entries = store.audit(None, PageRequest { before: u64::MAX, limit: 10, max_bytes: 1 << 20 }).await.unwrap();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let (tick, create) = (&entries[0], &entries[1]);
        assert_eq!((create.from.as_str(), &json(&create.to)["definition"]["key"]), ("", &"checkout".into()));
        let (from, to) = (json(&tick.from), json(&tick.to));
        assert!(from["definition"].is_null() && to["definition"].is_null(), "{from} {to}");
        assert_eq!((&from["kills"]["arms"], &to["kills"]["arms"]), (&serde_json::json!([]), &serde_json::json!([2])));
        assert!(tick.context.variations.contains_key(&2), "{:?}", tick.context);
    });
}
