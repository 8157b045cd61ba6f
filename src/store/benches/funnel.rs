//! How long a person waits for a funnel in a store with ten million outcomes, with the files in the system's page cache
//! as far as they fit.
//!
//! `cargo bench -p inroad-store --bench funnel -- [--outcomes N] [--units N] [--rounds N] [--folder PATH] [--json]`
//!
//! Units are exposed through the log and the fold. Outcomes are written to their table directly, in sorted batches as
//! the fold writes them: going through the fold takes ten minutes and gives the same rows.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use inroad_assignment::{Experiment, Salt, Timestamp, UnitHasher, UnitKey, unit_digest};
use inroad_policy::attribution::funnel::TimeRange;
use inroad_store::{
    Cancellation, Event, ExperimentChange, ExposureEvent, FunnelQuery, SqliteOptions, SqliteStore, Store,
};
use rusqlite::{Connection, params};

const EVENTS: [&str; 8] = ["view", "cart", "address", "payment", "purchase", "review", "share", "refund"];
/// Outcomes in one batch.
const BATCH: usize = 250_000;

struct Args {
    outcomes: usize,
    units: usize,
    rounds: usize,
    folder: Option<PathBuf>,
    json: bool,
}

fn args() -> Args {
    let mut args = Args { outcomes: 10_000_000, units: 2_000_000, rounds: 9, folder: None, json: false };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--outcomes" => args.outcomes = given.next().unwrap().parse().unwrap(),
            "--units" => args.units = given.next().unwrap().parse().unwrap(),
            "--rounds" => args.rounds = given.next().unwrap().parse().unwrap(),
            "--folder" => args.folder = Some(given.next().unwrap().into()),
            "--json" => args.json = true,
            // Cargo adds this argument.
            "--bench" => {}
            other => panic!("unknown argument {other}; use --outcomes, --units, --rounds, --folder, --json"),
        }
    }
    args
}

fn at(seconds: usize) -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000 + 1_000_000 * seconds as i64)
}

fn pseudo_random(n: usize) -> usize {
    let n = (n as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20) as usize
}

fn name(unit: usize) -> String {
    format!("user-{unit:012}")
}

/// In seconds.
const FOUR_WEEKS: usize = 28 * 86_400;

fn experiment() -> Experiment {
    let document = serde_json::json!({
        "key": "checkout", "policy": {"kind": "thompson", "tick": "1h"},
        "variations": [
            {"key": "control", "payload": 0}, {"key": "a", "payload": 1, "share": 0.3},
            {"key": "b", "payload": 2, "share": 0.3},
        ],
        "metrics": [{"key": "bought", "event": "purchase", "decision": true}],
    });
    let mut experiment = Experiment::create(serde_json::from_value(document).unwrap(), at(0));
    experiment.start(at(0), Salt::parse("bench").unwrap()).unwrap();
    experiment
}

async fn fill(store: &dyn Store, folder: &std::path::Path, experiment: &Arc<Experiment>, args: &Args) {
    let change = ExperimentChange {
        expected_version: None,
        experiment: Arc::clone(experiment),
        actor: "bench".to_owned(),
        action: "create".to_owned(),
        at: at(0),
        decision: None,
    };
    store.commit(change).await.unwrap();
    let generation = experiment.generation().unwrap();
    let hasher = UnitHasher::new(experiment.definition.key(), &generation.salt);
    let exposure = |unit: usize| {
        let (unit, when) = (name(unit), at(pseudo_random(unit) % FOUR_WEEKS));
        let arm = generation.served_arm(hasher.digest(UnitKey::parse(&unit).unwrap()).point(), when);
        let (experiment, context) = (experiment.definition.key().clone(), String::new());
        Event::Exposure(ExposureEvent { experiment, generation: 1, unit, arm, revision: 1, occurred_at: when, context })
    };
    let experiments = Arc::new(vec![Arc::clone(experiment)]);
    for first in (0..args.units).step_by(500_000) {
        let last = args.units.min(first + 500_000);
        for group in (first..last).collect::<Vec<_>>().chunks(20_000) {
            store.append(at(0), group.iter().map(|unit| exposure(*unit)).collect()).await.unwrap();
        }
        while store.fold(Arc::clone(&experiments), usize::MAX).await.unwrap().has_more_work() {}
        eprintln!("{last} units");
    }
    let mut counts = Connection::open(folder.join("counts.db")).unwrap();
    counts.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000").unwrap();
    for first in (0..args.outcomes).step_by(BATCH) {
        let last = args.outcomes.min(first + BATCH);
        let row = |n: usize| {
            // A unit produces the eight events roughly in order, some of them twice; most units do not reach the last.
            let (unit, nth) = (pseudo_random(n) % args.units, pseudo_random(n + 7) % 1_000);
            let event = [300, 500, 650, 750, 850, 900, 950].iter().filter(|bound| nth >= **bound).count();
            let when = at(pseudo_random(unit) % FOUR_WEEKS + 3_600 * event + pseudo_random(n + 3) % 7_200);
            let kind = experiment.definition.unit();
            let digest = unit_digest("", kind, UnitKey::parse(&name(unit)).unwrap());
            (*digest.as_bytes(), format!("{n:08x}-0000-4000-8000-{:012x}", pseudo_random(n) & 0xffff_ffff), event, when)
        };
        let mut rows: Vec<_> = (first..last).map(row).collect();
        rows.sort_unstable();
        let transaction = counts.transaction().unwrap();
        let mut insert = transaction.prepare_cached("INSERT INTO outcome VALUES (?1, ?2, ?3, ?4, ?5)").unwrap();
        for (digest, id, event, when) in rows {
            insert.execute(params![digest, id, EVENTS[event], when.as_micros(), 1_000_000]).unwrap();
        }
        drop(insert);
        transaction.commit().unwrap();
        if last.is_multiple_of(2_000_000) {
            eprintln!("{last} outcomes");
        }
    }
    counts.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[tokio::main]
async fn main() {
    let args = args();
    let temporary = tempfile::tempdir().unwrap();
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    let folder = folder.join(format!("funnel-{}-{}", args.units, args.outcomes));
    let experiment = Arc::new(experiment());
    let store = SqliteStore::open(&folder, SqliteOptions::default()).unwrap();
    if store.head() == 0 {
        fill(&store, &folder, &experiment, &args).await;
    }
    let all = TimeRange { from: Timestamp::MIN, to: Timestamp::MAX };
    let week = TimeRange { from: at(FOUR_WEEKS / 4), to: at(FOUR_WEEKS / 2) };
    let mut figures: Vec<(&str, f64, f64)> = Vec::new();
    for (what, steps, range) in [
        ("one step", &EVENTS[4..5], all),
        ("four steps", &EVENTS[..4], all),
        ("eight steps", &EVENTS[..], all),
        ("eight steps, one week", &EVENTS[..], week),
    ] {
        let mut took = Vec::new();
        for round in 0..=args.rounds {
            let steps = steps.iter().map(|step| (*step).to_owned()).collect();
            let query = FunnelQuery {
                experiment: Arc::clone(&experiment),
                generation: 1,
                steps,
                range,
                cancellation: Cancellation::default(),
            };
            let begun = Instant::now();
            let counts = store.funnel(query).await.unwrap();
            // The first round only warms up caches.
            if round > 0 {
                took.push(begun.elapsed().as_secs_f64());
            } else {
                eprintln!("{what}: {:?}", counts.tally.all_visits);
            }
        }
        took.sort_unstable_by(f64::total_cmp);
        figures.push((what, took[took.len() / 2], took[took.len() - 1]));
    }
    store.close().await.unwrap();
    if args.json {
        let of = |(n, median, worst): &(&str, f64, f64)| {
            ((*n).to_owned(), serde_json::json!({"median_s": median, "worst_s": worst}))
        };
        let figures: serde_json::Map<_, _> = figures.iter().map(of).collect();
        println!("{}", serde_json::json!({"units": args.units, "outcomes": args.outcomes, "figures": figures}));
    } else {
        println!("in a store of {} units and {} outcomes", args.units, args.outcomes);
        figures.iter().for_each(|(what, median, worst)| println!("{what:>28} {median:>8.3} s, slowest {worst:.3} s"));
    }
}
