//! Funnels: they depend only on the set of events (I5) and equal those of a brute-force oracle.

use std::collections::BTreeMap;
use std::sync::Arc;

use inroad_assignment::{Arm, Experiment, Generation, Timestamp, UnitHasher, UnitKey};
use inroad_policy::EpochKey;
use inroad_policy::attribution::funnel::{FunnelTally, StepCounts, TimeRange};
use inroad_store::{Cancellation, Event, FunnelCounts, FunnelQuery, Store, StoreError};

use super::TestStore;
use super::world::{
    TestRng, all_metrics, arm, at, change_randomly, experiment_change, exposure, key, outcome, random_event,
    started_experiment,
};

const ALL: TimeRange = TimeRange { from: Timestamp::MIN, to: Timestamp::MAX };

async fn fold_all(store: &dyn Store, experiments: &[Experiment], limit: usize) {
    let known = Arc::new(experiments.iter().cloned().map(Arc::new).collect::<Vec<_>>());
    while store.fold(Arc::clone(&known), limit).await.unwrap().has_more_work() {}
}

fn query(experiment: &Experiment, generation: u32, steps: &[&str], range: TimeRange) -> FunnelQuery {
    let steps = steps.iter().map(|step| (*step).to_owned()).collect();
    let (experiment, cancellation) = (Arc::new(experiment.clone()), Cancellation::default());
    FunnelQuery { experiment, generation, steps, range, cancellation }
}

/// (time, event)
type SentOutcome = (Timestamp, String);

/// The funnel by brute force from the whole set of events, without the code under test.
fn oracle(
    experiment: &Experiment,
    generation: &Generation,
    events: &[Event],
    steps: &[&str],
    range: TimeRange,
) -> FunnelTally {
    let end = generation.endings.iter().map(|ending| ending.at).min();
    let range = TimeRange { to: range.to.min(end.unwrap_or(Timestamp::MAX)), ..range };
    let definition = &experiment.definition;
    let clock = if experiment.manual_now.is_some() { definition.key().as_str() } else { "" };
    let mut exposures: BTreeMap<&str, BTreeMap<Arm, (Timestamp, u32)>> = BTreeMap::new();
    let mut outcomes: BTreeMap<(&str, &str), (Timestamp, String, i64)> = BTreeMap::new();
    for event in events {
        match event {
            Event::Exposure(e) if e.experiment == *definition.key() && e.generation == generation.number => {
                let this = (e.occurred_at, e.revision);
                let first = exposures.entry(&e.unit).or_default().entry(e.arm).or_insert(this);
                *first = this.min(*first);
            }
            Event::Outcome(o) if o.clock == clock => {
                for (_, unit) in o.units.iter().filter(|(kind, _)| kind == definition.unit()) {
                    let this = (o.occurred_at, o.event.clone(), o.value_micros);
                    let least = outcomes.entry((unit, &o.event_id)).or_insert_with(|| this.clone());
                    *least = this.min(least.clone());
                }
            }
            _ => {}
        }
    }
    let hasher = UnitHasher::new(definition.key(), &generation.salt);
    let arms = definition.variations().len();
    let mut tally = FunnelTally::new(arms);
    for (unit, arms_seen) in exposures {
        let mut seen: Vec<(Timestamp, u32, Arm)> = arms_seen.into_iter().map(|(arm, (at, r))| (at, r, arm)).collect();
        seen.sort();
        let point = hasher.digest(UnitKey::parse(unit).unwrap()).point();
        for (i, (from, _, arm)) in seen.iter().enumerate().filter(|(_, (at, ..))| *at >= range.from && *at < range.to) {
            let minute = std::time::Duration::from_secs(60);
            let begin = seen[0].0.minus(minute).max(generation.started_at).min(seen[0].0);
            let is_credited = |at: Timestamp| {
                let served = seen.iter().rfind(|(exposed, ..)| *exposed <= at).map(|(.., arm)| *arm);
                let served = served.or(Some(seen[0].2).filter(|_| at >= begin));
                served == Some(*arm) && at >= range.from && at < range.to
            };
            let mut unused: Vec<SentOutcome> = outcomes
                .iter()
                .filter(|((of, _), (at, ..))| *of == unit && is_credited(*at))
                .map(|(_, (at, event, _))| (*at, event.clone()))
                .collect();
            // Taking the earliest matching outcome is optimal: it leaves the most outcomes for the next step.
            let (mut since, mut reached) = (if i == 0 { begin } else { *from }, 0);
            for step in steps {
                let matches = |(_, (at, event)): &(usize, &SentOutcome)| event == step && *at >= since;
                let earliest = unused.iter().enumerate().filter(matches).min_by_key(|(_, (at, _))| *at);
                let Some((index, outcome)) = earliest else { break };
                since = outcome.0;
                unused.remove(index);
                reached += 1;
            }
            let count = |steps: &mut StepCounts| {
                steps.units += 1;
                steps.reached[..reached].iter_mut().for_each(|step| *step += 1);
            };
            count(&mut tally.all_visits[arm.index()]);
            let limit = (range.to.since(*from) / 100).min(minute);
            if i == 0 && generation.serves_except(point, *arm, (*from, range.to), limit) {
                let tick = from.tick(definition.policy().tick());
                let revision = generation.revisions.iter().rfind(|r| r.effective_at <= *from).map_or(1, |r| r.number);
                let epoch = EpochKey { tick, revision };
                let compared = tally.compared.entry(epoch).or_insert_with(|| vec![StepCounts::default(); arms]);
                count(&mut compared[arm.index()]);
            }
        }
    }
    tally
}

async fn check(store: &dyn Store, experiments: &[Experiment], events: &[Event], rng: &mut TestRng, what: &str) {
    let names = ["signup", "view", "order", "nothing", "never"];
    for experiment in experiments {
        for generation in &experiment.generations {
            for _ in 0..4 {
                let steps: Vec<&str> = (0..1 + rng.below(5)).map(|_| names[rng.below(5) as usize]).collect();
                let from = rng.below(1_200) as i64;
                let range = match rng.below(3) {
                    0 => ALL,
                    1 => TimeRange { from: at(from), to: Timestamp::MAX },
                    _ => TimeRange { from: at(from), to: at(from + 1 + rng.below(600) as i64) },
                };
                let got = store.funnel(query(experiment, generation.number, &steps, range)).await.unwrap();
                let want = oracle(experiment, generation, events, &steps, range);
                assert_eq!(got.folded, store.folded());
                assert_eq!(got.tally, want, "{what}: {} {steps:?} {range:?}", experiment.definition.key());
            }
        }
    }
}

pub async fn funnel_depends_only_on_the_set_of_events(test_store: TestStore) {
    for seed in 0..12 {
        let (test_store, other) = (TestStore::new(test_store.open), TestStore::new(test_store.open));
        let mut rng = TestRng(seed);
        let metrics = all_metrics();
        let mut experiments =
            [started_experiment("wall", false, &metrics[..2], 2), started_experiment("manual", true, &metrics, 3)];
        let store = test_store.open();
        let mut versions = Vec::new();
        for experiment in &experiments {
            versions.push(store.commit(experiment_change(experiment, None, "create")).await.unwrap());
        }
        let (mut events, mut now) = (Vec::new(), 1);
        for _ in 0..15 {
            now += rng.below(60) as i64;
            let group: Vec<Event> = (0..rng.below(100)).map(|_| random_event(&experiments, now, &mut rng)).collect();
            events.extend(group.iter().cloned());
            store.append(at(now), group).await.unwrap();
            if rng.once_in(2) {
                let index = rng.below(2) as usize;
                change_randomly(&mut experiments[index], now, &mut rng);
                let made = experiment_change(&experiments[index], Some(versions[index]), "change");
                versions[index] = store.commit(made).await.unwrap();
            }
            fold_all(&*store, &experiments, 1 + rng.below(200) as usize).await;
        }
        check(&*store, &experiments, &events, &mut rng, "as it happened").await;

        let store = other.open();
        for experiment in &experiments {
            store.commit(experiment_change(experiment, None, "create")).await.unwrap();
        }
        let again: Vec<Event> = events.iter().filter(|_| rng.once_in(3)).cloned().collect();
        let mut shuffled = [events.clone(), again].concat();
        rng.shuffle(&mut shuffled);
        store.append(at(now), shuffled).await.unwrap();
        fold_all(&*store, &experiments, 300).await;
        check(&*store, &experiments, &events, &mut rng, "in another order").await;
    }
}

pub async fn funnel_without_events_is_empty(test_store: TestStore) {
    let store = test_store.open();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let got = store.funnel(query(&experiment, 1, &["signup"], ALL)).await.unwrap();
    assert_eq!(got, FunnelCounts { folded: 0, tally: FunnelTally::new(2) }, "an experiment that was never stored");
    store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let got = store.funnel(query(&experiment, 1, &["signup"], ALL)).await.unwrap();
    assert_eq!(got.tally, FunnelTally::new(2));
    let got = store.funnel(query(&experiment, 7, &["signup"], ALL)).await.unwrap();
    assert_eq!(got.tally, FunnelTally::default());
}

pub async fn funnel_whose_caller_left_is_not_counted(test_store: TestStore) {
    let store = test_store.open();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let abandoned = query(&experiment, 1, &["signup"], ALL);
    abandoned.cancellation.cancel();
    let stopped = store.funnel(abandoned).await;
    assert!(matches!(stopped, Err(StoreError::CallerLeft)), "{stopped:?}");
    let next = store.funnel(query(&experiment, 1, &["signup"], ALL)).await.unwrap();
    assert_eq!(next.tally, FunnelTally::new(2));
}

pub async fn state_of_counts_changes_with_the_counts_of_that_generation(test_store: TestStore) {
    let store = test_store.open();
    let experiments = [started_experiment("a", false, &all_metrics(), 1), started_experiment("b", false, &[], 1)];
    for experiment in &experiments {
        store.commit(experiment_change(experiment, None, "create")).await.unwrap();
    }
    let states = || experiments.each_ref().map(|e| store.counts_state(e.definition.key(), 1));
    let before = states();
    let event = exposure("a", 1, "unit", arm(1), 1, at(10));
    store.append(at(60), vec![event.clone()]).await.unwrap();
    fold_all(&*store, &experiments, 10).await;
    let counted = states();
    assert_ne!(counted[0], before[0]);
    assert_eq!(counted[1], before[1], "the other experiment has no new counts");
    store.append(at(60), vec![event]).await.unwrap();
    fold_all(&*store, &experiments, 10).await;
    assert_eq!(states(), counted, "a duplicate changes no counts");
}

/// Far more outcomes of unexposed units than of exposed ones, and exposed units without outcomes.
pub async fn only_outcomes_of_exposed_units_are_counted(test_store: TestStore) {
    let store = test_store.open();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
    let mut events: Vec<Event> =
        (0..6_000).map(|i| outcome(&format!("unexposed-{i}"), "signup", 1, at(50), "1", "")).collect();
    for i in 0..30 {
        let unit = format!("unit-{i}");
        events.push(exposure(key("a").as_str(), 1, &unit, arm(i % 2), 1, at(10)));
        events.extend((i % 3 == 0).then(|| outcome(&unit, "signup", 1, at(20), "1", "")));
        events.extend((i % 6 == 0).then(|| outcome(&unit, "order", 1, at(30), "2", "")));
    }
    store.append(at(60), events.clone()).await.unwrap();
    fold_all(&*store, std::slice::from_ref(&experiment), 10_000).await;
    let got = store.funnel(query(&experiment, 1, &["signup", "order"], ALL)).await.unwrap();
    let of = |arm: usize| (got.tally.all_visits[arm].units, got.tally.all_visits[arm].reached[..2].to_vec());
    assert_eq!([of(0), of(1)], [(15, vec![5, 5]), (15, vec![5, 0])]);
    assert_eq!(got.tally, oracle(&experiment, &experiment.generations[0], &events, &["signup", "order"], ALL));
}
