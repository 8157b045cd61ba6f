//! Measures how many events per second the server acknowledges, compared with writing the same rows to SQLite directly:
//! `Record` with batches of 1,000 exposures from 4 concurrent callers, each with its own connection, while the fold
//! runs.
//!
//! ```text
//! cargo bench -p inroad-server --bench record -- [--quick] [--json]
//! ```
//!
//! Exposures are as the SDK sends them, with a context of four attributes. Every unit is new, every exposure is valid
//! and is checked, and an acknowledgement means that it is on disk. The baseline is one thread and one connection with
//! a prepared statement (WAL, `synchronous=FULL`). It appends the rows that the server has just written, in groups of
//! 1,000; it decodes, checks and counts nothing.

#![allow(clippy::print_stdout)]

mod harness;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use harness::bench_server::{BenchServer, assign_request, connect, key};
use harness::{BenchArgs, BenchReport, BenchResult, PairedRounds, cpu_seconds, median};
use inroad_assignment::{Context, ServedExperiment, Timestamp};
use inroad_wire::snapshot::snapshot_from_wire;
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use inroad_wire::v1::{Exposure, ExposureMode, GetResultsRequest, RecordRequest, WatchSnapshotsRequest};
use prost::Message;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use tokio::task::JoinSet;
use tonic::transport::Channel;

const CALLERS: usize = 4;
const BATCH: usize = 1_000;

/// The experiments from a snapshot stream; exposures are made by assigning units locally, as a client does.
async fn watch_experiments(address: &str) -> BenchResult<Vec<ServedExperiment>> {
    let mut client = AssignmentServiceClient::new(connect(address).await?);
    let mut messages = client.watch_snapshots(WatchSnapshotsRequest::default()).await?.into_inner();
    let snapshot = messages.message().await?.ok_or("the stream ended before a snapshot")?;
    let mut served = snapshot.experiments.into_iter().map(snapshot_from_wire).collect::<Result<Vec<_>, _>>()?;
    served.sort_by(|a, b| a.parts().key.cmp(&b.parts().key));
    Ok(served)
}

/// A valid exposure of a unit.
fn exposure(experiments: &[ServedExperiment], unit: usize) -> Exposure {
    let n = unit % experiments.len();
    let name = format!("user-{unit:07}");
    let answer = experiments[n].assign(&Context::new(name.clone()), Timestamp::from_micros(i64::MAX));
    let mut context = assign_request(n, unit, ExposureMode::None).context.unwrap_or_default();
    context.fields.remove("targetingKey");
    Exposure {
        experiment: key(n),
        generation: answer.generation,
        unit: name,
        variation: answer.variation.map(|v| v.key.to_string()).unwrap_or_default(),
        revision: answer.revision,
        occurred_at: None,
        context: Some(context),
    }
}

/// The n-th batch. No two batches share a unit.
fn batch_of(experiments: &[ServedExperiment], batch: usize) -> RecordRequest {
    let units = batch * BATCH..(batch + 1) * BATCH;
    RecordRequest { exposures: units.map(|unit| exposure(experiments, unit)).collect(), outcomes: Vec::new() }
}

/// Sends all batches from all callers concurrently. Returns events per second until the last acknowledgement.
async fn record(clients: &[EventServiceClient<Channel>], batches: Vec<RecordRequest>) -> BenchResult<f64> {
    let events = batches.len() * BATCH;
    let batches = Arc::new(Mutex::new(batches));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for client in clients {
        let (mut client, batches) = (client.clone(), Arc::clone(&batches));
        tasks.spawn(async move {
            loop {
                let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(batch) = batch else { return Ok(()) };
                let answer = client.record(batch).await?.into_inner();
                if answer.accepted as usize != BATCH {
                    return Err(tonic::Status::internal(format!("refused: {:?}", answer.rejections.first())));
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(events as f64 / begun.elapsed().as_secs_f64())
}

/// The values of a column of the schema table.
fn schema_values(connection: &Connection, column: &str, only: &str) -> BenchResult<Vec<String>> {
    let query =
        format!("SELECT {column} FROM sqlite_master WHERE {only} AND sql IS NOT NULL AND name NOT LIKE 'sqlite_%'");
    let mut statement = connection.prepare(&query)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Reads the log of a server from its file.
struct LogReader {
    connection: Connection,
    table: String,
    read: i64,
}

impl LogReader {
    /// Opens a log that contains events: the table with the most rows is the one of the events.
    fn open(data: &Path) -> BenchResult<Self> {
        let connection = Connection::open_with_flags(data.join("log.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut table = (0, String::new());
        for name in schema_values(&connection, "name", "type = 'table'")? {
            let rows = connection.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get::<_, i64>(0))?;
            table = table.max((rows, name));
        }
        Ok(Self { connection, table: table.1, read: 0 })
    }

    /// The rows added since the last call.
    fn rows(&mut self) -> BenchResult<Vec<Vec<Value>>> {
        let query = format!("SELECT rowid, * FROM {} WHERE rowid > ?1 ORDER BY rowid", self.table);
        let mut statement = self.connection.prepare(&query)?;
        let columns = statement.column_count();
        let mut found = statement.query([self.read])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            self.read = row.get(0)?;
            rows.push((1..columns).map(|n| row.get(n)).collect::<Result<Vec<Value>, _>>()?);
        }
        Ok(rows)
    }
}

/// The baseline: a database with the tables of the log and no server.
struct BareSqlite {
    connection: Connection,
    insert: String,
}

impl BareSqlite {
    fn create(path: &Path, like: &LogReader) -> BenchResult<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        for sql in schema_values(&like.connection, "sql", "true")? {
            connection.execute_batch(&sql)?;
        }
        let columns = like.connection.prepare(&format!("SELECT * FROM {}", like.table))?.column_count();
        let places = vec!["?"; columns].join(", ");
        Ok(Self { connection, insert: format!("INSERT INTO {} VALUES ({places})", like.table) })
    }

    /// Appends rows in transactions of `group` rows. Returns rows per second.
    fn append(&mut self, rows: &[Vec<Value>], group: usize) -> BenchResult<f64> {
        let begun = Instant::now();
        for group in rows.chunks(group) {
            let transaction = self.connection.transaction()?;
            let mut statement = transaction.prepare_cached(&self.insert)?;
            for row in group {
                statement.execute(rusqlite::params_from_iter(row))?;
            }
            drop(statement);
            transaction.commit()?;
        }
        Ok(rows.len() as f64 / begun.elapsed().as_secs_f64())
    }
}

async fn run(args: BenchArgs) -> BenchResult<()> {
    let quick = args.quick();
    let rounds = args.number("--rounds", if quick { 2 } else { 9 });
    let batches = args.number("--batches", if quick { 20 } else { 200 });
    let server = BenchServer::start(20).await?;
    let experiments = watch_experiments(&server.address).await?;
    let mut results = ResultServiceClient::new(connect(&server.address).await?);
    let mut clients = Vec::new();
    for _ in 0..CALLERS {
        clients.push(EventServiceClient::new(connect(&server.address).await?));
    }
    // The first batches make the server create the tables of its log.
    let first: Vec<_> = (0..CALLERS).map(|batch| batch_of(&experiments, batch)).collect();
    record(&clients, first).await?;
    let mut log = LogReader::open(&server.folder().join("data"))?;
    log.rows()?;
    let mut bare = BareSqlite::create(&server.folder().join("bare-1000.db"), &log)?;
    let mut grouped = BareSqlite::create(&server.folder().join("bare-4000.db"), &log)?;

    let (mut single, mut several) = (PairedRounds::default(), PairedRounds::default());
    let (mut cpu, mut backlogs, mut folded) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for round in 0..=rounds {
        let first = CALLERS + round * batches;
        let sent: Vec<_> = (first..first + batches).map(|batch| batch_of(&experiments, batch)).collect();
        bytes = sent[0].encoded_len();
        let (begun, before) = (Instant::now(), cpu_seconds());
        let inroad = record(&clients, sent).await?;
        let results_request = |wait| GetResultsRequest { key: key(0), generation: 0, wait };
        let backlog = results.get_results(results_request(false)).await?.into_inner().backlog;
        // Wait for the fold, so that the baseline has the machine to itself.
        results.get_results(results_request(true)).await?;
        let events = (batches * BATCH) as f64;
        let (processed, used) = (events / begun.elapsed().as_secs_f64(), cpu_seconds() - before);
        let rows = tokio::task::block_in_place(|| log.rows())?;
        // The comparison needs one row per event.
        if rows.len() != batches * BATCH {
            return Err(format!("{} rows for {events} events", rows.len()).into());
        }
        let baselines = tokio::task::block_in_place(|| -> BenchResult<_> {
            tokio::runtime::Handle::current().block_on(tokio::time::sleep(Duration::from_millis(200)));
            Ok((bare.append(&rows, BATCH)?, grouped.append(&rows, CALLERS * BATCH)?))
        })?;
        if round > 0 {
            single.push(inroad, baselines.0);
            several.push(inroad, baselines.1);
            cpu.push(used * 1e6 / events);
            backlogs.push(backlog as f64);
            folded.push(processed);
        }
    }
    let mut report = BenchReport::new("record", &args);
    report.add_comparison("Record, against groups of 1,000", "events/s", &single, None);
    report.add_comparison("Record, against groups of 4,000", "events/s", &several, None);
    report.add_note(format!(
        "{rounds} rounds of {batches} batches; a batch has {bytes} bytes. Acknowledged and folded: {:.0} events/s; not yet \
         folded at the last acknowledgement: {:.0} events. CPU of sending, accepting and folding one event: {:.1} µs.",
        median(&folded),
        median(&backlogs),
        median(&cpu),
    ));
    report.print();
    server.shutdown().await
}

fn main() -> BenchResult<()> {
    harness::runtime()?.block_on(run(BenchArgs::read()))
}
