//! The store's throughput: appends, compared with plain SQLite writing the same rows in the same groups; and the fold
//! in a store that already has millions of units. With `--experiments`, only the fold of outcomes while that many
//! experiments measure their event.
//!
//! `cargo bench -p inroad-store --bench events -- [--units N] [--rounds N] [--folder PATH] [--json]`
//! `cargo bench -p inroad-store --bench events -- --experiments 10000 [--units N] [--outcomes N] [--folder PATH] [--json]`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic")]

mod many_experiments;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use inroad_assignment::{Arm, Experiment, ExperimentKey, Salt, Timestamp};
use inroad_store::{Event, ExperimentChange, ExposureEvent, SqliteOptions, SqliteStore, Store};
use rusqlite::types::Null;
use rusqlite::{Connection, params};

const GROUP: usize = 1_000;
const GROUPS: usize = 50;

struct Args {
    units: usize,
    rounds: usize,
    folder: Option<PathBuf>,
    json: bool,
    /// Measures the case with many experiments instead.
    experiments: Option<usize>,
    outcomes: usize,
    /// Only fills this folder for the case with many experiments.
    fill: Option<PathBuf>,
}

fn args() -> Args {
    let mut args = Args {
        units: 1_000_000,
        rounds: 9,
        folder: None,
        json: false,
        experiments: None,
        outcomes: 1_000_000,
        fill: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--units" => args.units = given.next().unwrap().parse().unwrap(),
            "--rounds" => args.rounds = given.next().unwrap().parse().unwrap(),
            "--folder" => args.folder = Some(given.next().unwrap().into()),
            "--json" => args.json = true,
            "--experiments" => args.experiments = Some(given.next().unwrap().parse().unwrap()),
            "--outcomes" => args.outcomes = given.next().unwrap().parse().unwrap(),
            "--fill" => args.fill = Some(given.next().unwrap().into()),
            // Cargo adds this argument.
            "--bench" => {}
            other => {
                panic!("unknown argument {other}; use --units, --rounds, --folder, --json, --experiments, --outcomes")
            }
        }
    }
    args
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000 + micros)
}

fn exposure(key: &ExperimentKey, unit: usize, when: usize) -> Event {
    Event::Exposure(ExposureEvent {
        experiment: key.clone(),
        generation: 1,
        unit: format!("user-{unit:012}"),
        arm: Arm::CONTROL,
        revision: 1,
        occurred_at: at(when as i64),
        context: String::new(),
    })
}

/// Units in an order that is unrelated to the line and to the table.
fn some_unit(n: usize, of: usize) -> usize {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7) % of
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn bare(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("bare.db")).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").unwrap();
    let table = "CREATE TABLE log (
        seq INTEGER PRIMARY KEY, received_at INTEGER NOT NULL, occurred_at INTEGER NOT NULL,
        experiment TEXT, generation INTEGER, unit TEXT, arm INTEGER, revision INTEGER, context TEXT,
        units TEXT, event TEXT, value_micros INTEGER, event_id TEXT, clock TEXT) STRICT";
    connection.execute_batch(table).unwrap();
    connection
}

fn append_bare(connection: &mut Connection, seq: &mut i64, groups: &[Vec<Event>]) {
    for group in groups {
        let transaction = connection.transaction().unwrap();
        let sql = "INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
        let mut insert = transaction.prepare_cached(sql).unwrap();
        for event in group {
            let Event::Exposure(e) = event else { continue };
            *seq += 1;
            let (received, occurred) = (at(0).as_micros(), e.occurred_at.as_micros());
            let (key, arm) = (e.experiment.as_str(), e.arm.index() as i64);
            let row = params![
                *seq,
                received,
                occurred,
                key,
                e.generation,
                e.unit,
                arm,
                e.revision,
                Null,
                Null,
                Null,
                Null,
                Null,
                Null
            ];
            insert.execute(row).unwrap();
        }
        drop(insert);
        transaction.commit().unwrap();
    }
}

async fn append(store: &dyn Store, events: Vec<Event>) {
    for group in events.chunks(20_000) {
        store.append(at(0), group.to_vec()).await.unwrap();
    }
}

/// Folds all events and returns the events per second.
async fn fold(store: &dyn Store, experiments: &Arc<Vec<Arc<Experiment>>>) -> f64 {
    let (begun, mut events) = (Instant::now(), 0);
    loop {
        let step = store.fold(Arc::clone(experiments), usize::MAX).await.unwrap();
        if step.events == 0 {
            return events as f64 / begun.elapsed().as_secs_f64();
        }
        events += step.events;
    }
}

fn report(args: &Args, figures: &[(&str, f64)]) {
    if args.json {
        let figures: serde_json::Map<_, _> = figures.iter().map(|(n, f)| ((*n).to_owned(), (*f).into())).collect();
        println!("{}", serde_json::json!({"units": args.units, "figures": figures}));
    } else {
        println!("in a store of {} units", args.units);
        figures.iter().for_each(|(name, figure)| println!("{name:>28} {figure:>14.2}"));
    }
}

#[tokio::main]
async fn main() {
    let args = args();
    let temporary = tempfile::tempdir().unwrap();
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    if let Some(experiments) = args.experiments {
        let size = many_experiments::Size { experiments, units: args.units, outcomes: args.outcomes };
        match &args.fill {
            Some(filling) => many_experiments::fill(filling, size).await,
            None => report(&args, &many_experiments::measure(&folder, size).await),
        }
        return;
    }
    let key = ExperimentKey::parse("checkout").unwrap();
    let mut figures: Vec<(&str, f64)> = Vec::new();

    let (mut bare, mut seq) = (bare(temporary.path()), 0);
    let store = SqliteStore::open(&temporary.path().join("append"), SqliteOptions::default()).unwrap();
    let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..=args.rounds {
        let groups: Vec<Vec<Event>> =
            (0..GROUPS).map(|g| (0..GROUP).map(|i| exposure(&key, g * GROUP + i, round)).collect()).collect();
        let begun = Instant::now();
        append_bare(&mut bare, &mut seq, &groups);
        let bare_rate = (GROUP * GROUPS) as f64 / begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for group in groups {
            store.append(at(0), group).await.unwrap();
        }
        let rate = (GROUP * GROUPS) as f64 / begun.elapsed().as_secs_f64();
        // The first round only warms up caches.
        if round > 0 {
            ours.push(rate);
            theirs.push(bare_rate);
            ratios.push(rate / bare_rate);
        }
    }
    store.close().await.unwrap();
    figures.push(("append_rows_per_s", median(ours)));
    figures.push(("bare_rusqlite_rows_per_s", median(theirs)));
    figures.push(("append_over_bare", median(ratios)));

    let document = serde_json::json!({
        "key": "checkout", "policy": {"kind": "thompson", "tick": "1h"},
        "variations": [{"key": "control", "payload": false}, {"key": "new", "payload": true}],
        "metrics": [{"key": "signup", "event": "signup", "decision": true}],
    });
    let mut experiment = Experiment::create(serde_json::from_value(document).unwrap(), at(0));
    experiment.start(at(0), Salt::parse("bench").unwrap()).unwrap();
    let experiments = Arc::new(vec![Arc::new(experiment)]);
    let state = folder.join(format!("units-{}", args.units));
    let filled = SqliteOptions { fold_step_events: 1_000_000, remembered_exposures: 0, ..SqliteOptions::default() };
    let store = SqliteStore::open(&state, filled).unwrap();
    if store.head() == 0 {
        let change = ExperimentChange {
            expected_version: None,
            experiment: Arc::clone(&experiments[0]),
            actor: "bench".to_owned(),
            action: "create".to_owned(),
            at: at(0),
            decision: None,
        };
        store.commit(change).await.unwrap();
        for first in (0..args.units).step_by(1_000_000) {
            let last = args.units.min(first + 1_000_000);
            append(&store, (first..last).map(|unit| exposure(&key, unit, unit)).collect()).await;
            eprintln!("{last} units: {:.0} per second", fold(&store, &experiments).await);
        }
    }
    store.close().await.unwrap();
    drop(store);

    let store = SqliteStore::open(&state, SqliteOptions::default()).unwrap();
    let new = 400_000;
    // The folder may have been measured before.
    let first = args.units + store.head() as usize;
    append(&store, (first..first + new).map(|unit| exposure(&key, unit, unit)).collect()).await;
    figures.push(("new_units_per_s", fold(&store, &experiments).await));
    append(&store, (0..500_000).map(|n| exposure(&key, first + some_unit(n, new), usize::MAX >> 16)).collect()).await;
    figures.push(("recent_repeats_per_s", fold(&store, &experiments).await));
    append(&store, (0..500_000).map(|n| exposure(&key, some_unit(n, args.units), usize::MAX >> 16)).collect()).await;
    figures.push(("old_repeats_per_s", fold(&store, &experiments).await));
    store.close().await.unwrap();

    report(&args, &figures);
}
