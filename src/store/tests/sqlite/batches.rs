//! Steps of the fold that are computed in several batches, with records that contain their sums and records that do not:
//! the counts equal those of the brute-force oracle.

use contract::world::{TestRng, change_randomly, random_event};
use inroad_store::GenerationCounts;

use super::*;

/// A step has more records than this, so it has several batches.
const STEP_EVENTS: usize = 24;
const EXPERIMENTS: usize = 4;

/// The first byte of each record, which says whether it contains sums.
fn layouts(folder: &Path) -> Vec<u8> {
    let counts = Connection::open(folder.join("counts.db")).unwrap();
    let mut records = counts.prepare("SELECT DISTINCT substr(record, 1, 1) FROM unit ORDER BY 1").unwrap();
    let layouts = records.query_map([], |row| row.get::<_, [u8; 1]>(0)).unwrap();
    layouts.map(|layout| layout.unwrap()[0]).collect()
}

/// Folds a random history, and checks the counts. Returns the most records that one step changed.
async fn check_history(seed: u64) -> usize {
    let (mut rng, folder) = (TestRng(seed), folder());
    let options =
        SqliteOptions { fold_step_events: STEP_EVENTS, outcomes_without_sums: 18, ..SqliteOptions::default() };
    let store = SqliteStore::open(folder.path(), options).unwrap();
    let mut experiments: Vec<_> = (0..EXPERIMENTS)
        .map(|i| started_experiment(&format!("experiment-{i}"), false, &all_metrics()[..=i], 2))
        .collect();
    let mut versions = Vec::new();
    for experiment in &experiments {
        versions.push(store.commit(experiment_change(experiment, None, "create")).await.unwrap());
    }
    let (mut events, mut largest) = (Vec::new(), 0);
    for round in 1..=12 {
        let now = 40 * round;
        let group: Vec<Event> = (0..120).map(|_| random_event(&experiments, now, &mut rng)).collect();
        events.extend(group.iter().cloned());
        store.append(at(now), group).await.unwrap();
        let index = rng.below(EXPERIMENTS as u64) as usize;
        change_randomly(&mut experiments[index], now, &mut rng);
        let change = experiment_change(&experiments[index], Some(versions[index]), "change");
        versions[index] = store.commit(change).await.unwrap();
        let known = Arc::new(experiments.iter().cloned().map(Arc::new).collect::<Vec<_>>());
        loop {
            let step = store.fold(Arc::clone(&known), 1_000).await.unwrap();
            if step.events > 0 {
                largest = largest.max(step.changed);
            }
            if !step.has_more_work() {
                break;
            }
        }
        if round == 12 {
            assert_eq!(layouts(folder.path()), [1, 2], "records with sums and without");
        }
    }
    for experiment in &experiments {
        for generation in &experiment.generations {
            let got = store.counts(experiment.definition.key(), generation.number).await.unwrap();
            let want = contract::oracle::counts(experiment, generation, &events);
            let want = GenerationCounts { folded: got.folded, ..want };
            assert_eq!(got, want, "seed {seed}: {} {}", experiment.definition.key(), generation.number);
        }
    }
    store.close().await.unwrap();
    largest
}

#[test]
fn steps_of_several_batches_and_both_kinds_of_records_count_as_the_oracle_does() {
    block_on(async {
        let mut largest = 0;
        for seed in 0..8 {
            largest = largest.max(check_history(seed).await);
        }
        // A batch ends at the first unit with which it has as many records as a step has events.
        assert!(largest > STEP_EVENTS + EXPERIMENTS, "one step changed {largest} records");
    });
}
