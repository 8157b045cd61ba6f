//! How many events a second the server acknowledges, beside the same rows written to SQLite by nobody else: `Record` with
//! batches of 1,000 exposures from 4 callers at once, each with a connection of its own, while the fold counts them.
//!
//! ```text
//! cargo bench -p inroad-server --bench record -- [--quick] [--json]
//! ```
//!
//! Exposures are as the SDK sends them, with a context of four attributes; every unit is new, every exposure agrees with
//! the line and is checked against it, and an acknowledgement means that it is on disk. The floor is one thread and one
//! connection with a prepared statement (WAL, `synchronous=FULL`), which appends the very rows that the server has just
//! written, in groups of 1,000; it decodes nothing, checks nothing and counts nothing.

#![allow(clippy::print_stdout)]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::world::{World, connect, key, question};
use common::{Fallible, Flags, Pairs, Report, cpu_seconds, median};
use inroad_assignment::{Context, ServedExperiment, Timestamp};
use inroad_wire::snapshot::served_from_wire;
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

/// The experiments as clients get them: who sees what is decided here as it is there.
async fn served(address: &str) -> Fallible<Vec<ServedExperiment>> {
    let mut client = AssignmentServiceClient::new(connect(address).await?);
    let mut messages = client.watch_snapshots(WatchSnapshotsRequest::default()).await?.into_inner();
    let snapshot = messages.message().await?.ok_or("no snapshot came")?;
    let mut served = snapshot.experiments.into_iter().map(served_from_wire).collect::<Result<Vec<_>, _>>()?;
    served.sort_by(|a, b| a.parts().key.cmp(&b.parts().key));
    Ok(served)
}

/// An exposure of a unit, as true as any.
fn exposure(experiments: &[ServedExperiment], unit: usize) -> Exposure {
    let n = unit % experiments.len();
    let name = format!("user-{unit:07}");
    let answer = experiments[n].assign(&Context::new(name.clone()), Timestamp::from_micros(i64::MAX));
    let mut context = question(n, unit, ExposureMode::None).context.unwrap_or_default();
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

/// The n-th batch: each has units of its own.
fn batch_of(experiments: &[ServedExperiment], batch: usize) -> RecordRequest {
    let units = batch * BATCH..(batch + 1) * BATCH;
    RecordRequest { exposures: units.map(|unit| exposure(experiments, unit)).collect(), outcomes: Vec::new() }
}

/// Sends all batches from all callers at once; events a second, until the last is acknowledged.
async fn record(clients: &[EventServiceClient<Channel>], batches: Vec<RecordRequest>) -> Fallible<f64> {
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

/// A column of the schema.
fn names(connection: &Connection, column: &str, only: &str) -> Fallible<Vec<String>> {
    let query =
        format!("SELECT {column} FROM sqlite_master WHERE {only} AND sql IS NOT NULL AND name NOT LIKE 'sqlite_%'");
    let mut statement = connection.prepare(&query)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// The log of a server, read from beside it.
struct Log {
    connection: Connection,
    table: String,
    read: i64,
}

impl Log {
    /// Once there is something in it: the table with the most rows is that of the events.
    fn open(data: &Path) -> Fallible<Self> {
        let connection = Connection::open_with_flags(data.join("log.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut table = (0, String::new());
        for name in names(&connection, "name", "type = 'table'")? {
            let rows = connection.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get::<_, i64>(0))?;
            table = table.max((rows, name));
        }
        Ok(Self { connection, table: table.1, read: 0 })
    }

    /// The rows that are new since the last call.
    fn rows(&mut self) -> Fallible<Vec<Vec<Value>>> {
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

/// A database with the log's tables, and nobody behind it.
struct Bare {
    connection: Connection,
    insert: String,
}

impl Bare {
    fn create(path: &Path, like: &Log) -> Fallible<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        for sql in names(&like.connection, "sql", "true")? {
            connection.execute_batch(&sql)?;
        }
        let columns = like.connection.prepare(&format!("SELECT * FROM {}", like.table))?.column_count();
        let places = vec!["?"; columns].join(", ");
        Ok(Self { connection, insert: format!("INSERT INTO {} VALUES ({places})", like.table) })
    }

    /// Appends rows, in transactions of so many; rows a second.
    fn append(&mut self, rows: &[Vec<Value>], group: usize) -> Fallible<f64> {
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

async fn run(flags: Flags) -> Fallible<()> {
    let quick = flags.quick();
    let rounds = flags.number("--rounds", if quick { 2 } else { 9 });
    let batches = flags.number("--batches", if quick { 20 } else { 200 });
    let world = World::start(20).await?;
    let experiments = served(&world.address).await?;
    let mut results = ResultServiceClient::new(connect(&world.address).await?);
    let mut clients = Vec::new();
    for _ in 0..CALLERS {
        clients.push(EventServiceClient::new(connect(&world.address).await?));
    }
    // With the first batches the log has its tables, whatever they are.
    let first: Vec<_> = (0..CALLERS).map(|batch| batch_of(&experiments, batch)).collect();
    record(&clients, first).await?;
    let mut log = Log::open(&world.folder().join("data"))?;
    log.rows()?;
    let mut bare = Bare::create(&world.folder().join("bare-1000.db"), &log)?;
    let mut grouped = Bare::create(&world.folder().join("bare-4000.db"), &log)?;

    let (mut single, mut several) = (Pairs::default(), Pairs::default());
    let (mut cpu, mut backlogs, mut folded) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for round in 0..=rounds {
        let first = CALLERS + round * batches;
        let sent: Vec<_> = (first..first + batches).map(|batch| batch_of(&experiments, batch)).collect();
        bytes = sent[0].encoded_len();
        let (begun, before) = (Instant::now(), cpu_seconds());
        let ours = record(&clients, sent).await?;
        let asked = |wait| GetResultsRequest { key: key(0), generation: 0, wait };
        let backlog = results.get_results(asked(false)).await?.into_inner().backlog;
        // The floor has the machine to itself.
        results.get_results(asked(true)).await?;
        let events = (batches * BATCH) as f64;
        let (counted, used) = (events / begun.elapsed().as_secs_f64(), cpu_seconds() - before);
        let rows = tokio::task::block_in_place(|| log.rows())?;
        // A log that holds several events in a row would be held against something else than the same rows.
        if rows.len() != batches * BATCH {
            return Err(format!("{} rows for {events} events", rows.len()).into());
        }
        let floors = tokio::task::block_in_place(|| -> Fallible<_> {
            tokio::runtime::Handle::current().block_on(tokio::time::sleep(Duration::from_millis(200)));
            Ok((bare.append(&rows, BATCH)?, grouped.append(&rows, CALLERS * BATCH)?))
        })?;
        if round > 0 {
            single.push(ours, floors.0);
            several.push(ours, floors.1);
            cpu.push(used * 1e6 / events);
            backlogs.push(backlog as f64);
            folded.push(counted);
        }
    }
    let mut report = Report::new("record", &flags);
    report.compare("Record, against groups of 1,000", "events/s", &single, None);
    report.compare("Record, against groups of 4,000", "events/s", &several, None);
    report.note(format!(
        "{rounds} rounds of {batches} batches; a batch is {bytes} bytes. Acknowledged and counted: {:.0} events/s; not yet \
         counted when the last was acknowledged: {:.0} events. CPU of sending, taking and counting one: {:.1} µs.",
        median(&folded),
        median(&backlogs),
        median(&cpu),
    ));
    report.print();
    world.shutdown().await
}

fn main() -> Fallible<()> {
    common::runtime()?.block_on(run(Flags::read()))
}
