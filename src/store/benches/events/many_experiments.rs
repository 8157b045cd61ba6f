//! The fold of outcomes while thousands of experiments measure their event. Each unit was exposed by one to three of
//! them. What an outcome costs must depend on these, and not on how many experiments there are.
//!
//! Another process fills the folder, so that the peak of the memory is that of opening and folding.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use inroad_assignment::{Arm, Experiment, ExperimentKey, Salt, UnitHasher, UnitKey};
use inroad_store::{Event, ExperimentChange, ExposureEvent, OutcomeEvent, SqliteOptions, SqliteStore, Store};

use super::{append, at, fold, some_unit};

/// The size of the case.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) experiments: usize,
    pub(crate) units: usize,
    pub(crate) outcomes: usize,
}

fn experiment(number: usize) -> Experiment {
    let document = serde_json::json!({
        "key": key(number), "unit": "user", "policy": {"kind": "thompson", "tick": "1h"},
        "variations": [{"key": "control", "payload": false}, {"key": "new", "payload": true}],
        "metrics": [{"key": "buy", "event": "buy", "decision": true}],
    });
    let mut experiment = Experiment::create(serde_json::from_value(document).unwrap(), at(0));
    experiment.start(at(0), Salt::parse(&format!("bench{number}")).unwrap()).unwrap();
    experiment
}

fn key(number: usize) -> ExperimentKey {
    ExperimentKey::parse(&format!("experiment-{number:05}")).unwrap()
}

fn unit_key(unit: usize) -> String {
    format!("user-{unit:012}")
}

/// The arm that the first revision gives a unit.
fn arm(experiment: &Experiment, unit: &str) -> Arm {
    let generation = experiment.generation().unwrap();
    let hasher = UnitHasher::new(experiment.definition.key(), &generation.salt);
    generation.latest().unwrap().allocation.owner(hasher.digest(UnitKey::parse(unit).unwrap()).point())
}

/// The exposures of a unit: to one, two or three experiments.
fn exposures(unit: usize, experiments: &[Arc<Experiment>]) -> impl Iterator<Item = Event> {
    (0..=unit % 3).map(move |n| {
        let experiment = &experiments[some_unit(unit * 3 + n + 1, experiments.len())];
        let unit_key = unit_key(unit);
        Event::Exposure(ExposureEvent {
            experiment: experiment.definition.key().clone(),
            generation: 1,
            arm: arm(experiment, &unit_key),
            unit: unit_key,
            revision: 1,
            occurred_at: at(unit as i64),
            context: String::new(),
        })
    })
}

fn outcome(number: usize, size: Size) -> Event {
    Event::Outcome(OutcomeEvent {
        units: vec![("user".to_owned(), unit_key(some_unit(number, size.units)))],
        event: "buy".to_owned(),
        value_micros: 1_000_000,
        occurred_at: at(60_000_000 + number as i64),
        event_id: format!("order-{number}"),
        clock: String::new(),
    })
}

/// Writes the catalogue and the exposures, and folds them.
pub(crate) async fn fill(folder: &Path, size: Size) {
    let options = SqliteOptions { fold_step_events: 500_000, remembered_exposures: 0, ..SqliteOptions::default() };
    let store = SqliteStore::open(folder, options).unwrap();
    let experiments: Arc<Vec<_>> = Arc::new((0..size.experiments).map(|n| Arc::new(experiment(n))).collect());
    for part in experiments.chunks(500) {
        let create = |experiment: &Arc<Experiment>| ExperimentChange {
            expected_version: None,
            experiment: Arc::clone(experiment),
            actor: "bench".to_owned(),
            action: "create".to_owned(),
            at: at(0),
            decision: None,
        };
        store.commit_all(part.iter().map(create).collect()).await.unwrap();
    }
    for first in (0..size.units).step_by(200_000) {
        let last = size.units.min(first + 200_000);
        append(&store, (first..last).flat_map(|unit| exposures(unit, &experiments)).collect()).await;
        eprintln!("{last} units: {:.0} exposures per second", fold(&store, &experiments).await);
    }
    store.close().await.unwrap();
}

/// Fills the folder unless that was done before, then measures.
pub(crate) async fn measure(folder: &Path, size: Size) -> Vec<(&'static str, f64)> {
    let state = folder.join(format!("experiments-{}-units-{}", size.experiments, size.units));
    if !state.exists() {
        let filling = folder.join("filling");
        let mut fill = Command::new(std::env::current_exe().unwrap());
        fill.arg("--fill").arg(&filling);
        fill.args(["--experiments", &size.experiments.to_string(), "--units", &size.units.to_string()]);
        assert!(fill.status().unwrap().success(), "could not fill {}", filling.display());
        std::fs::rename(&filling, &state).unwrap();
    }
    let begun = Instant::now();
    let store = SqliteStore::open(&state, SqliteOptions::default()).unwrap();
    let (_, stored) = store.load().await.unwrap();
    let experiments: Arc<Vec<_>> = Arc::new(stored.into_iter().map(|s| s.experiment).collect());
    store.fold(Arc::clone(&experiments), 1).await.unwrap();
    let opening = begun.elapsed().as_secs_f64();
    // The folder may have been measured before. An outcome with a known id would change nothing.
    let first = store.head() as usize;
    let parts: Vec<usize> = (0..size.outcomes).step_by(200_000).collect();
    let (mut folding, mut longest) = (0.0, 0.0f64);
    for part in parts {
        let last = size.outcomes.min(part + 200_000);
        append(&store, (first + part..first + last).map(|n| outcome(n, size)).collect()).await;
        loop {
            let begun = Instant::now();
            let step = store.fold(Arc::clone(&experiments), usize::MAX).await.unwrap();
            let took = begun.elapsed().as_secs_f64();
            if step.events == 0 {
                break;
            }
            folding += took;
            longest = longest.max(took);
            eprintln!("{} outcomes in {took:.2} s", step.events);
        }
    }
    let peak = peak_memory_mib();
    let mut counted = 0;
    for experiment in experiments.iter() {
        let counts = store.counts(experiment.definition.key(), 1).await.unwrap();
        counted += counts.cells.values().map(|cell| cell.outcomes).sum::<u64>();
    }
    assert!(counted as usize >= size.outcomes, "only {counted} outcomes were counted");
    store.close().await.unwrap();
    vec![
        ("open_s", opening),
        ("outcomes_per_s", size.outcomes as f64 / folding),
        ("longest_step_s", longest),
        ("peak_rss_mib", peak),
    ]
}

/// The largest resident memory of this process so far, in MiB.
fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}
