//! The counts: they depend only on the set of events (I5) and equal those of a brute-force oracle.

use std::sync::Arc;

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Arm, Experiment, KillTarget, UnitHasher, UnitKey};
use inroad_policy::attribution::Cell;
use inroad_store::{Event, GenerationCounts, Store, StoreError};
use proptest::test_runner::{Config, TestRunner};

use super::world::{
    TestRng, all_metrics, arm, at, change_randomly, experiment_change, exposure, key, outcome, random_event, share,
    started_experiment,
};
use super::{TestStore, block_on, oracle};

type Shared = Arc<Vec<Arc<Experiment>>>;

fn shared(experiments: &[Experiment]) -> Shared {
    Arc::new(experiments.iter().cloned().map(Arc::new).collect())
}

async fn fold_all(store: &dyn Store, experiments: &Shared, limit: usize) {
    while store.fold(Arc::clone(experiments), limit).await.unwrap().has_more_work() {}
}

async fn check(store: &dyn Store, experiments: &[Experiment], events: &[Event], what: &str) {
    for experiment in experiments {
        for generation in &experiment.generations {
            let got = store.counts(experiment.definition.key(), generation.number).await.unwrap();
            let want = oracle::counts(experiment, generation, events);
            let want = GenerationCounts { folded: got.folded, ..want };
            assert_eq!(got, want, "{what}: {} generation {}", experiment.definition.key(), generation.number);
        }
    }
}

/// How many random histories are checked. The default suits a test run; set `INROAD_CASES` to check more.
fn cases() -> u32 {
    std::env::var("INROAD_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

pub async fn counts_depend_only_on_the_set_of_events(test_store: TestStore) {
    let open = test_store.open;
    // A failure names the seed of its history. Set `INROAD_SEED` to repeat it alone.
    if let Some(seed) = std::env::var("INROAD_SEED").ok().and_then(|text| text.parse().ok()) {
        return check_random_history(TestStore::new(open), TestStore::new(open), seed).await;
    }
    let checked = tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config { cases: cases(), failure_persistence: None, ..Config::default() });
        runner.run(&proptest::num::u64::ANY, |seed| {
            block_on(check_random_history(TestStore::new(open), TestStore::new(open), seed));
            Ok(())
        })
    });
    checked.await.unwrap().unwrap();
}

/// Checks one random history, folded as it happens with restarts in between; then the same events in another order and
/// with repeats, folded at the end.
async fn check_random_history(test_store: TestStore, other: TestStore, seed: u64) {
    let mut rng = TestRng(seed);
    let all = all_metrics();
    let mut experiments = [
        started_experiment("wall", false, &all[..2 + rng.below(4) as usize], 2),
        started_experiment("manual", true, &all[..1 + rng.below(5) as usize], 3),
    ];
    let mut store = test_store.open();
    let mut versions = Vec::new();
    for experiment in &experiments {
        versions.push(store.commit(experiment_change(experiment, None, "create")).await.unwrap());
    }
    let mut known = shared(&experiments);
    let (mut events, mut now) = (Vec::new(), 1);
    for _ in 0..12 + rng.below(20) {
        now += rng.below(60) as i64;
        let group: Vec<Event> = (0..rng.below(80)).map(|_| random_event(&experiments, now, &mut rng)).collect();
        events.extend(group.iter().cloned());
        store.append(at(now), group).await.unwrap();
        if rng.once_in(3) {
            let index = rng.below(2) as usize;
            change_randomly(&mut experiments[index], now, &mut rng);
            let made = experiment_change(&experiments[index], Some(versions[index]), "change");
            versions[index] = store.commit(made).await.unwrap();
        }
        // The fold may get an outdated catalogue.
        if !rng.once_in(4) {
            known = shared(&experiments);
        }
        for _ in 0..rng.below(4) {
            // It may also get only some of the experiments.
            let given: Vec<_> = known.iter().filter(|_| !rng.once_in(3)).cloned().collect();
            store.fold(Arc::new(given), 1 + rng.below(120) as usize).await.unwrap();
        }
        if rng.once_in(8) {
            if rng.once_in(2) {
                store.close().await.unwrap();
            }
            drop(store);
            store = test_store.open();
        }
    }
    fold_all(&*store, &known, 1_000).await;
    fold_all(&*store, &shared(&experiments), 1_000).await;
    check(&*store, &experiments, &events, "as it happened").await;
    drop(store);
    check(&*test_store.open(), &experiments, &events, "read from disk").await;

    let store = other.open();
    for experiment in &experiments {
        store.commit(experiment_change(experiment, None, "create")).await.unwrap();
    }
    let again: Vec<Event> = events.iter().filter(|_| rng.once_in(3)).cloned().collect();
    let mut shuffled = [events.clone(), again].concat();
    rng.shuffle(&mut shuffled);
    for group in shuffled.chunks(1 + rng.below(500) as usize) {
        store.append(at(now), group.to_vec()).await.unwrap();
    }
    fold_all(&*store, &shared(&experiments), 1 + rng.below(700) as usize).await;
    check(&*store, &experiments, &events, "in another order").await;
}

/// Commits an experiment with the wall clock and one conversion metric.
async fn commit_simple_experiment(store: &dyn Store) -> Experiment {
    let experiment = started_experiment("a", false, &all_metrics()[..1], 1);
    store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    experiment
}

/// The owner of a unit's point in the first allocation.
fn owner_of(experiment: &Experiment, unit: &str) -> Arm {
    let generation = experiment.generation().unwrap();
    let hasher = UnitHasher::new(experiment.definition.key(), &generation.salt);
    generation.revisions[0].allocation.owner(hasher.digest(UnitKey::parse(unit).unwrap()).point())
}

/// A unit whose point belongs to `owner`; its key starts with `prefix`.
fn unit_in(experiment: &Experiment, prefix: &str, owner: Arm) -> String {
    (0..).map(|i| format!("{prefix}{i}")).find(|unit| owner_of(experiment, unit) == owner).unwrap()
}

async fn totals(store: &dyn Store) -> Cell {
    let mut total = Cell::default();
    store.counts(&key("a"), 1).await.unwrap().cells.values().for_each(|cell| total.add(cell));
    total
}

pub async fn outcome_received_before_its_exposure_is_credited(test_store: TestStore) {
    let store = test_store.open();
    let experiment = commit_simple_experiment(&*store).await;
    let unit = unit_in(&experiment, "u", arm(1));
    let known = shared(&[experiment]);
    store.append(at(1), vec![outcome(&unit, "signup", 1, at(70), "1", "")]).await.unwrap();
    fold_all(&*store, &known, 10).await;
    assert_eq!(totals(&*store).await, Cell::default());
    store.append(at(1), vec![exposure("a", 1, &unit, arm(1), 1, at(60))]).await.unwrap();
    fold_all(&*store, &known, 10).await;
    let total = totals(&*store).await;
    assert_eq!((total.first, total.n, total.s, total.outcomes, total.outcome_units), (1, 1, 1, 1, 1));
}

pub async fn late_report_of_an_earlier_exposure_moves_the_unit(test_store: TestStore) {
    let store = test_store.open();
    let experiment = commit_simple_experiment(&*store).await;
    let unit = unit_in(&experiment, "u", arm(1));
    let known = shared(&[experiment]);
    let events = vec![
        exposure("a", 1, &unit, arm(1), 1, at(200)),
        outcome(&unit, "signup", 1, at(210), "1", ""),
        outcome(&unit, "signup", 1, at(20), "2", ""),
    ];
    store.append(at(1), events).await.unwrap();
    fold_all(&*store, &known, 1).await;
    assert_eq!(totals(&*store).await.s, 1);
    store.append(at(1), vec![exposure("a", 1, &unit, arm(1), 1, at(10))]).await.unwrap();
    fold_all(&*store, &known, 10).await;
    let counts = store.counts(&key("a"), 1).await.unwrap();
    assert!(counts.cells.keys().all(|cell| cell.tick == 0 || cell.revision == 0), "{:?}", counts.cells);
    let total = totals(&*store).await;
    // Only the outcome at 20 s is within the window now; the other one is still in the activity counts.
    assert_eq!((total.first, total.n, total.s, total.units, total.outcomes), (1, 1, 1, 1, 2));
}

pub async fn kill_drops_exposed_units_and_counts_new_ones_as_control(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = commit_simple_experiment(&*store).await;
    let unit = unit_in(&experiment, "u", arm(1));
    store.append(at(1), vec![exposure("a", 1, &unit, arm(1), 1, at(10))]).await.unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 10).await;
    assert_eq!(totals(&*store).await.n, 1);
    // The kill changes what the unit is served within its window.
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(20)).unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 10).await;
    let total = totals(&*store).await;
    assert_eq!((total.first, total.n, total.dropped), (1, 0, 1));
    // A unit exposed to control after the kill was served correctly.
    let late = unit_in(&experiment, "late", arm(1));
    store.append(at(1), vec![exposure("a", 1, &late, Arm::CONTROL, 1, at(30))]).await.unwrap();
    fold_all(&*store, &shared(&[experiment]), 10).await;
    let total = totals(&*store).await;
    assert_eq!((total.first, total.n, total.dropped), (2, 1, 1));
}

pub async fn exposure_from_a_fast_clock_counts_under_the_later_revision(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = commit_simple_experiment(&*store).await;
    let events: Vec<Event> = (0..60)
        .map(|i| {
            let unit = format!("unit-{i}");
            let owner = owner_of(&experiment, &unit);
            exposure("a", 1, &unit, owner, 1, at(100))
        })
        .collect();
    store.append(at(1), events.clone()).await.unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 100).await;
    // The revision is published after the exposures were counted and takes effect before they happened: all of them
    // belong to its epoch.
    experiment.grow(&[(arm(1), share(0.2))], RevisionCause::Grown, at(20), at(30)).unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 100).await;
    check(&*store, &[experiment.clone()], &events, "after the revision").await;
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(50)).unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 100).await;
    check(&*store, &[experiment], &events, "after the kill").await;
}

pub async fn simultaneous_exposures_count_under_the_lowest_revision(test_store: TestStore) {
    let store = test_store.open();
    let mut experiment = commit_simple_experiment(&*store).await;
    experiment.grow(&[(arm(1), share(0.2))], RevisionCause::Grown, at(20), at(20)).unwrap();
    let known = shared(&[experiment.clone()]);
    let events = [2, 1, 2].map(|revision| exposure("a", 1, "u", Arm::CONTROL, revision, at(40)));
    for event in &events {
        store.append(at(1), vec![event.clone()]).await.unwrap();
        fold_all(&*store, &known, 10).await;
    }
    assert_eq!(store.counts(&key("a"), 1).await.unwrap().stale_exposures, 1);
    check(&*store, &[experiment], &events, "one by one").await;
}

pub async fn exposure_of_an_unknown_generation_reloads_the_catalogue(test_store: TestStore) {
    let store = test_store.open();
    fold_all(&*store, &Shared::default(), 10).await;
    let experiment = commit_simple_experiment(&*store).await;
    store.append(at(1), vec![exposure("a", 1, "u", Arm::CONTROL, 1, at(10))]).await.unwrap();
    // The caller read the catalogue before the experiment was started; the exposure must be counted nevertheless.
    fold_all(&*store, &Shared::default(), 10).await;
    assert_eq!(totals(&*store).await.first, 1);
    drop(experiment);
}

pub async fn older_catalogue_changes_no_counts(test_store: TestStore) {
    let store = test_store.open();
    let before = commit_simple_experiment(&*store).await;
    let mut after = before.clone();
    let units = (0..40).map(|i| format!("unit-{i}"));
    let events: Vec<Event> = units.map(|u| exposure("a", 1, &u, owner_of(&before, &u), 1, at(10))).collect();
    store.append(at(1), events.clone()).await.unwrap();
    after.grow(&[(arm(1), share(0.5))], RevisionCause::Grown, at(20), at(30)).unwrap();
    after.set_killed(KillTarget::Everything, true, at(25)).unwrap();
    fold_all(&*store, &shared(&[after.clone()]), 10).await;
    for experiment in [&before, &after, &before, &after] {
        fold_all(&*store, &shared(std::slice::from_ref(experiment)), 10).await;
        check(&*store, std::slice::from_ref(&after), &events, "with either catalogue").await;
    }
}

/// The first catalogue after a restart may be older than the one that was counted before it.
pub async fn older_catalogue_after_a_restart_changes_no_counts(test_store: TestStore) {
    let mut store = test_store.open();
    let started = commit_simple_experiment(&*store).await;
    let mut ended = started.clone();
    ended.set_killed(KillTarget::Variation(arm(1)), true, at(25)).unwrap();
    ended.conclude(Arm::CONTROL, inroad_assignment::experiment::ShippingScope::Everyone, at(40)).unwrap();
    store.commit(experiment_change(&ended, Some(1), "end")).await.unwrap();
    let units: Vec<String> = (0..40).map(|i| format!("unit-{i}")).collect();
    let mut events: Vec<Event> = units.iter().map(|u| exposure("a", 1, u, owner_of(&started, u), 1, at(10))).collect();
    events.extend(units.iter().map(|u| outcome(u, "signup", 1, at(50), "1", "")));
    store.append(at(1), events.clone()).await.unwrap();
    fold_all(&*store, &shared(&[ended.clone()]), 10).await;
    let late: Vec<Event> = units.iter().map(|u| outcome(u, "signup", 1, at(30), "2", "")).collect();
    for outdated in [Shared::default(), shared(&[started])] {
        store.close().await.unwrap();
        drop(store);
        store = test_store.open();
        store.append(at(1), late.clone()).await.unwrap();
        fold_all(&*store, &outdated, 10).await;
        let events = [events.clone(), late.clone()].concat();
        check(&*store, &[ended.clone()], &events, "after a restart with an older catalogue").await;
    }
}

pub async fn counts_of_an_unknown_experiment_are_empty(test_store: TestStore) {
    let store = test_store.open();
    assert_eq!(store.counts(&key("unknown"), 1).await.unwrap(), GenerationCounts::default());
    let step = store.fold(Shared::default(), 10).await.unwrap();
    assert_eq!((step.events, step.folded), (0, 0));
    assert!(!matches!(store.load().await, Err(StoreError::Closed)));
}
