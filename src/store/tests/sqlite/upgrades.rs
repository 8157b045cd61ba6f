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
        let got = store.counts(&key("checkout"), 1).await.unwrap();
        assert_eq!(got, inroad_store::GenerationCounts { folded: 6, ..want });
        assert_eq!(store.offset("sink").await.unwrap(), 3);
        let all = PageRequest { before: u64::MAX, limit: 10 };
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
    let state = Connection::open(folder.path().join("inroad.db")).unwrap();
    state.execute_batch("UPDATE tally SET early = 0; UPDATE counted SET early = 0").unwrap();
    drop(state);
    block_on(async {
        let store = open(folder.path()).unwrap();
        assert_eq!(early(&store.counts(&key("a"), 1).await.unwrap()), 0);
        store.fold(Arc::new(vec![Arc::new(experiment.clone())]), 1).await.unwrap();
        assert_eq!(store.counts(&key("a"), 1).await.unwrap(), complete);
    });
}
