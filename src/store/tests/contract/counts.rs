//! The counts: the same for the same set of events, whatever happened on the way (I5), and what brute force says.

use std::sync::Arc;

use inroad_assignment::experiment::Cause;
use inroad_assignment::{Arm, Experiment, Target, UnitHasher, UnitKey};
use inroad_policy::attribution::Cell;
use inroad_store::{Counts, Event, Store, StoreError};
use proptest::test_runner::{Config, TestRunner};

use super::world::{Chance, all_metrics, arm, at, change, event, exposure, key, mishap, outcome, share, started};
use super::{Place, block_on, oracle};

type Shared = Arc<Vec<Arc<Experiment>>>;

fn shared(experiments: &[Experiment]) -> Shared {
    Arc::new(experiments.iter().cloned().map(Arc::new).collect())
}

async fn fold_all(store: &dyn Store, experiments: &Shared, limit: usize) {
    while store.fold(Arc::clone(experiments), limit).await.unwrap().goes_on() {}
}

async fn check(store: &dyn Store, experiments: &[Experiment], events: &[Event], what: &str) {
    for experiment in experiments {
        for generation in &experiment.generations {
            let got = store.counts(experiment.definition.key(), generation.number).await.unwrap();
            let want = oracle::counts(experiment, generation, events);
            let want = Counts { folded: got.folded, ..want };
            assert_eq!(got, want, "{what}: {} generation {}", experiment.definition.key(), generation.number);
        }
    }
}

/// How many lives are lived. The default fits a test run; set `INROAD_CASES` to live more.
fn cases() -> u32 {
    std::env::var("INROAD_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

pub async fn the_counts_are_a_function_of_the_set_of_events(place: Place) {
    let open = place.open;
    let lived = tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config { cases: cases(), failure_persistence: None, ..Config::default() });
        runner.run(&proptest::num::u64::ANY, |seed| {
            block_on(live(Place::new(open), Place::new(open), seed));
            Ok(())
        })
    });
    lived.await.unwrap().unwrap();
}

/// One life, folded as it happens with restarts in between; then the same events again in another order and with
/// repeats, folded after the fact.
async fn live(place: Place, other: Place, seed: u64) {
    let mut chance = Chance(seed);
    let all = all_metrics();
    let mut experiments = [
        started("wall", false, &all[..2 + chance.below(4) as usize], 2),
        started("manual", true, &all[..1 + chance.below(5) as usize], 3),
    ];
    let mut store = place.open();
    let mut versions = Vec::new();
    for experiment in &experiments {
        versions.push(store.commit(change(experiment, None, "create")).await.unwrap());
    }
    let mut known = shared(&experiments);
    let (mut events, mut now) = (Vec::new(), 1);
    for _ in 0..12 + chance.below(20) {
        now += chance.below(60) as i64;
        let group: Vec<Event> = (0..chance.below(80)).map(|_| event(&experiments, now, &mut chance)).collect();
        events.extend(group.iter().cloned());
        store.append(at(now), group).await.unwrap();
        if chance.once_in(3) {
            let index = chance.below(2) as usize;
            mishap(&mut experiments[index], now, &mut chance);
            let made = change(&experiments[index], Some(versions[index]), "change");
            versions[index] = store.commit(made).await.unwrap();
        }
        // The fold may hold a catalogue that was overtaken.
        if !chance.once_in(4) {
            known = shared(&experiments);
        }
        for _ in 0..chance.below(4) {
            store.fold(Arc::clone(&known), 1 + chance.below(120) as usize).await.unwrap();
        }
        if chance.once_in(8) {
            if chance.once_in(2) {
                store.close().await.unwrap();
            }
            drop(store);
            store = place.open();
        }
    }
    fold_all(&*store, &known, 1_000).await;
    fold_all(&*store, &shared(&experiments), 1_000).await;
    check(&*store, &experiments, &events, "as it happened").await;
    drop(store);
    check(&*place.open(), &experiments, &events, "read from disk").await;

    let store = other.open();
    for experiment in &experiments {
        store.commit(change(experiment, None, "create")).await.unwrap();
    }
    let again: Vec<Event> = events.iter().filter(|_| chance.once_in(3)).cloned().collect();
    let mut shuffled = [events.clone(), again].concat();
    chance.shuffle(&mut shuffled);
    for group in shuffled.chunks(1 + chance.below(500) as usize) {
        store.append(at(now), group.to_vec()).await.unwrap();
    }
    fold_all(&*store, &shared(&experiments), 1 + chance.below(700) as usize).await;
    check(&*store, &experiments, &events, "in another order").await;
}

/// One wall-clock experiment with one conversion metric, in the store.
async fn simple(store: &dyn Store) -> Experiment {
    let experiment = started("a", false, &all_metrics()[..1], 1);
    store.commit(change(&experiment, None, "create")).await.unwrap();
    experiment
}

/// Whose stretch a unit lives in, by the first allocation.
fn owner_of(experiment: &Experiment, unit: &str) -> Arm {
    let generation = experiment.generation().unwrap();
    let hasher = UnitHasher::new(experiment.definition.key(), &generation.salt);
    generation.revisions[0].allocation.owner(hasher.digest(UnitKey::parse(unit).unwrap()).point())
}

/// A unit that lives in `owner`'s stretch, named after `prefix`.
fn unit_in(experiment: &Experiment, prefix: &str, owner: Arm) -> String {
    (0..).map(|i| format!("{prefix}{i}")).find(|unit| owner_of(experiment, unit) == owner).unwrap()
}

async fn totals(store: &dyn Store) -> Cell {
    let mut total = Cell::default();
    store.counts(&key("a"), 1).await.unwrap().cells.values().for_each(|cell| total.add(cell));
    total
}

pub async fn an_outcome_before_its_exposure_is_credited(place: Place) {
    let store = place.open();
    let experiment = simple(&*store).await;
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

pub async fn a_late_earlier_exposure_moves_the_unit(place: Place) {
    let store = place.open();
    let experiment = simple(&*store).await;
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
    // The first of the two lies in the window now; the other does not, and is watched all the same.
    assert_eq!((total.first, total.n, total.s, total.units, total.outcomes), (1, 1, 1, 1, 2));
}

pub async fn a_killed_stretch_counts_as_control(place: Place) {
    let store = place.open();
    let mut experiment = simple(&*store).await;
    let unit = unit_in(&experiment, "u", arm(1));
    store.append(at(1), vec![exposure("a", 1, &unit, arm(1), 1, at(10))]).await.unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 10).await;
    assert_eq!(totals(&*store).await.n, 1);
    // Within the window: what was served to the unit changed.
    experiment.switch(Target::Variation(arm(1)), true, at(20)).unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 10).await;
    let total = totals(&*store).await;
    assert_eq!((total.first, total.n, total.dropped), (1, 0, 1));
    // Exposed to control after the kill: served as it is meant to be.
    let late = unit_in(&experiment, "late", arm(1));
    store.append(at(1), vec![exposure("a", 1, &late, Arm::CONTROL, 1, at(30))]).await.unwrap();
    fold_all(&*store, &shared(&[experiment]), 10).await;
    let total = totals(&*store).await;
    assert_eq!((total.first, total.n, total.dropped), (2, 1, 1));
}

pub async fn an_exposure_from_a_clock_ahead_follows_a_later_revision(place: Place) {
    let store = place.open();
    let mut experiment = simple(&*store).await;
    let events: Vec<Event> = (0..60)
        .map(|i| {
            let unit = format!("unit-{i}");
            let owner = owner_of(&experiment, &unit);
            exposure("a", 1, &unit, owner, 1, at(100))
        })
        .collect();
    store.append(at(1), events.clone()).await.unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 100).await;
    // Published after they were counted, and in effect before they happened: they lie in its epoch, wherever they live.
    experiment.grow(&[(arm(1), share(0.2))], Cause::Grown, at(20), at(30)).unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 100).await;
    check(&*store, &[experiment.clone()], &events, "after the revision").await;
    experiment.switch(Target::Variation(arm(1)), true, at(50)).unwrap();
    fold_all(&*store, &shared(&[experiment.clone()]), 100).await;
    check(&*store, &[experiment], &events, "after the kill").await;
}

pub async fn of_two_exposures_at_one_instant_the_lower_revision_counts(place: Place) {
    let store = place.open();
    let mut experiment = simple(&*store).await;
    experiment.grow(&[(arm(1), share(0.2))], Cause::Grown, at(20), at(20)).unwrap();
    let known = shared(&[experiment.clone()]);
    let events = [2, 1, 2].map(|revision| exposure("a", 1, "u", Arm::CONTROL, revision, at(40)));
    for event in &events {
        store.append(at(1), vec![event.clone()]).await.unwrap();
        fold_all(&*store, &known, 10).await;
    }
    assert_eq!(store.counts(&key("a"), 1).await.unwrap().stale_exposures, 1);
    check(&*store, &[experiment], &events, "one by one").await;
}

pub async fn an_unknown_generation_is_looked_up(place: Place) {
    let store = place.open();
    let experiment = simple(&*store).await;
    store.append(at(1), vec![exposure("a", 1, "u", Arm::CONTROL, 1, at(10))]).await.unwrap();
    // The caller read the catalogue before the experiment was started; the exposure is counted all the same.
    fold_all(&*store, &Shared::default(), 10).await;
    assert_eq!(totals(&*store).await.first, 1);
    drop(experiment);
}

pub async fn an_older_catalogue_changes_nothing(place: Place) {
    let store = place.open();
    let before = simple(&*store).await;
    let mut after = before.clone();
    let units = (0..40).map(|i| format!("unit-{i}"));
    let events: Vec<Event> = units.map(|u| exposure("a", 1, &u, owner_of(&before, &u), 1, at(10))).collect();
    store.append(at(1), events.clone()).await.unwrap();
    after.grow(&[(arm(1), share(0.5))], Cause::Grown, at(20), at(30)).unwrap();
    after.switch(Target::Everything, true, at(25)).unwrap();
    fold_all(&*store, &shared(&[after.clone()]), 10).await;
    for experiment in [&before, &after, &before, &after] {
        fold_all(&*store, &shared(std::slice::from_ref(experiment)), 10).await;
        check(&*store, std::slice::from_ref(&after), &events, "whoever asks").await;
    }
}

pub async fn nobody_has_counted_nothing(place: Place) {
    let store = place.open();
    assert_eq!(store.counts(&key("nobody"), 1).await.unwrap(), Counts::default());
    let step = store.fold(Shared::default(), 10).await.unwrap();
    assert_eq!((step.events, step.folded), (0, 0));
    assert!(!matches!(store.load().await, Err(StoreError::Closed)));
}
