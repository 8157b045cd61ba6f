//! Funnels: the same for the same set of events, whatever happened on the way (I5), and what brute force says.

use std::collections::BTreeMap;
use std::sync::Arc;

use inroad_assignment::{Arm, Experiment, Generation, Timestamp, UnitHasher, UnitKey};
use inroad_policy::EpochKey;
use inroad_policy::attribution::funnel::{FunnelTally, Steps, TimeRange};
use inroad_store::{Event, FunnelCounts, FunnelQuestion, Store};

use super::Place;
use super::world::{Chance, all_metrics, arm, at, change, event, exposure, key, mishap, outcome, started};

const ALL: TimeRange = TimeRange { from: Timestamp::MIN, to: Timestamp::MAX };

async fn fold_all(store: &dyn Store, experiments: &[Experiment], limit: usize) {
    let known = Arc::new(experiments.iter().cloned().map(Arc::new).collect::<Vec<_>>());
    while store.fold(Arc::clone(&known), limit).await.unwrap().goes_on() {}
}

fn question(experiment: &Experiment, generation: u32, steps: &[&str], range: TimeRange) -> FunnelQuestion {
    let steps = steps.iter().map(|step| (*step).to_owned()).collect();
    FunnelQuestion { experiment: Arc::new(experiment.clone()), generation, steps, range }
}

/// (event, time)
type Told = (Timestamp, String);

/// The funnel from the whole set of events, with the counts' own oracle's ways and none of the store's.
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
    let mut shown: BTreeMap<&str, BTreeMap<Arm, (Timestamp, u32)>> = BTreeMap::new();
    let mut said: BTreeMap<(&str, &str), (Timestamp, String, i64)> = BTreeMap::new();
    for event in events {
        match event {
            Event::Exposure(e) if e.experiment == *definition.key() && e.generation == generation.number => {
                let this = (e.occurred_at, e.revision);
                let first = shown.entry(&e.unit).or_default().entry(e.arm).or_insert(this);
                *first = this.min(*first);
            }
            Event::Outcome(o) if o.clock == clock => {
                for (_, unit) in o.units.iter().filter(|(kind, _)| kind == definition.unit()) {
                    let this = (o.occurred_at, o.event.clone(), o.value_micros);
                    let kept = said.entry((unit, &o.event_id)).or_insert_with(|| this.clone());
                    *kept = this.min(kept.clone());
                }
            }
            _ => {}
        }
    }
    let hasher = UnitHasher::new(definition.key(), &generation.salt);
    let arms = definition.variations().len();
    let mut tally = FunnelTally::new(arms);
    for (unit, arms_seen) in shown {
        let mut seen: Vec<(Timestamp, u32, Arm)> = arms_seen.into_iter().map(|(arm, (at, r))| (at, r, arm)).collect();
        seen.sort();
        let point = hasher.digest(UnitKey::parse(unit).unwrap()).point();
        for (i, (from, _, arm)) in seen.iter().enumerate().filter(|(_, (at, ..))| *at >= range.from && *at < range.to) {
            let ours = |at: Timestamp| {
                let served = seen.iter().rfind(|(shown, ..)| *shown <= at).map(|(.., arm)| *arm);
                served == Some(*arm) && at >= range.from && at < range.to
            };
            let mut left: Vec<Told> = said
                .iter()
                .filter(|((of, _), (at, ..))| *of == unit && ours(*at))
                .map(|(_, (at, event, _))| (*at, event.clone()))
                .collect();
            // The earliest outcome that will do is as good as any: what comes after it comes after it still.
            let (mut since, mut reached) = (*from, 0);
            for step in steps {
                let fits = |(_, (at, event)): &(usize, &Told)| event == step && *at >= since;
                let Some((at, told)) = left.iter().enumerate().filter(fits).min_by_key(|(_, (at, _))| *at) else {
                    break;
                };
                since = told.0;
                left.remove(at);
                reached += 1;
            }
            let count = |steps: &mut Steps| {
                steps.units += 1;
                steps.reached[..reached].iter_mut().for_each(|step| *step += 1);
            };
            count(&mut tally.watched[arm.index()]);
            if i == 0 && generation.serves_throughout(point, *arm, *from, range.to) {
                let tick = from.tick(definition.policy().tick());
                let revision = generation.revisions.iter().rfind(|r| r.effective_at <= *from).map_or(1, |r| r.number);
                let epoch = EpochKey { tick, revision };
                let compared = tally.compared.entry(epoch).or_insert_with(|| vec![Steps::default(); arms]);
                count(&mut compared[arm.index()]);
            }
        }
    }
    tally
}

async fn check(store: &dyn Store, experiments: &[Experiment], events: &[Event], chance: &mut Chance, what: &str) {
    let names = ["signup", "view", "order", "nothing", "never"];
    for experiment in experiments {
        for generation in &experiment.generations {
            for _ in 0..4 {
                let steps: Vec<&str> = (0..1 + chance.below(5)).map(|_| names[chance.below(5) as usize]).collect();
                let from = chance.below(1_200) as i64;
                let range = match chance.below(3) {
                    0 => ALL,
                    1 => TimeRange { from: at(from), to: Timestamp::MAX },
                    _ => TimeRange { from: at(from), to: at(from + 1 + chance.below(600) as i64) },
                };
                let got = store.funnel(question(experiment, generation.number, &steps, range)).await.unwrap();
                let want = oracle(experiment, generation, events, &steps, range);
                assert_eq!(got.folded, store.folded());
                assert_eq!(got.tally, want, "{what}: {} {steps:?} {range:?}", experiment.definition.key());
            }
        }
    }
}

pub async fn a_funnel_is_a_function_of_the_set_of_events(place: Place) {
    for seed in 0..12 {
        let (place, other) = (Place::new(place.open), Place::new(place.open));
        let mut chance = Chance(seed);
        let metrics = all_metrics();
        let mut experiments = [started("wall", false, &metrics[..2], 2), started("manual", true, &metrics, 3)];
        let store = place.open();
        let mut versions = Vec::new();
        for experiment in &experiments {
            versions.push(store.commit(change(experiment, None, "create")).await.unwrap());
        }
        let (mut events, mut now) = (Vec::new(), 1);
        for _ in 0..15 {
            now += chance.below(60) as i64;
            let group: Vec<Event> = (0..chance.below(100)).map(|_| event(&experiments, now, &mut chance)).collect();
            events.extend(group.iter().cloned());
            store.append(at(now), group).await.unwrap();
            if chance.once_in(2) {
                let index = chance.below(2) as usize;
                mishap(&mut experiments[index], now, &mut chance);
                let made = change(&experiments[index], Some(versions[index]), "change");
                versions[index] = store.commit(made).await.unwrap();
            }
            fold_all(&*store, &experiments, 1 + chance.below(200) as usize).await;
        }
        check(&*store, &experiments, &events, &mut chance, "as it happened").await;

        let store = other.open();
        for experiment in &experiments {
            store.commit(change(experiment, None, "create")).await.unwrap();
        }
        let again: Vec<Event> = events.iter().filter(|_| chance.once_in(3)).cloned().collect();
        let mut shuffled = [events.clone(), again].concat();
        chance.shuffle(&mut shuffled);
        store.append(at(now), shuffled).await.unwrap();
        fold_all(&*store, &experiments, 300).await;
        check(&*store, &experiments, &events, &mut chance, "in another order").await;
    }
}

pub async fn a_funnel_of_nothing_has_nobody_in_it(place: Place) {
    let store = place.open();
    let experiment = started("a", false, &all_metrics(), 1);
    let got = store.funnel(question(&experiment, 1, &["signup"], ALL)).await.unwrap();
    assert_eq!(got, FunnelCounts { folded: 0, tally: FunnelTally::new(2) }, "an experiment that was never stored");
    store.commit(change(&experiment, None, "create")).await.unwrap();
    let got = store.funnel(question(&experiment, 1, &["signup"], ALL)).await.unwrap();
    assert_eq!(got.tally, FunnelTally::new(2));
    let got = store.funnel(question(&experiment, 7, &["signup"], ALL)).await.unwrap();
    assert_eq!(got.tally, FunnelTally::default());
}

/// Far more outcomes of strangers than of the units exposed, and units that did nothing.
pub async fn units_without_outcomes_and_outcomes_without_units_are_told_apart(place: Place) {
    let store = place.open();
    let experiment = started("a", false, &all_metrics(), 1);
    store.commit(change(&experiment, None, "create")).await.unwrap();
    let mut events: Vec<Event> =
        (0..6_000).map(|i| outcome(&format!("stranger-{i}"), "signup", 1, at(50), "1", "")).collect();
    for i in 0..30 {
        let unit = format!("unit-{i}");
        events.push(exposure(key("a").as_str(), 1, &unit, arm(i % 2), 1, at(10)));
        events.extend((i % 3 == 0).then(|| outcome(&unit, "signup", 1, at(20), "1", "")));
        events.extend((i % 6 == 0).then(|| outcome(&unit, "order", 1, at(30), "2", "")));
    }
    store.append(at(60), events.clone()).await.unwrap();
    fold_all(&*store, std::slice::from_ref(&experiment), 10_000).await;
    let got = store.funnel(question(&experiment, 1, &["signup", "order"], ALL)).await.unwrap();
    let of = |arm: usize| (got.tally.watched[arm].units, got.tally.watched[arm].reached[..2].to_vec());
    assert_eq!([of(0), of(1)], [(15, vec![5, 5]), (15, vec![5, 0])]);
    assert_eq!(got.tally, oracle(&experiment, &experiment.generations[0], &events, &["signup", "order"], ALL));
}
