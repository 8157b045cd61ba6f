//! The log: one thread that writes, so that groups of many callers share a commit, and plain reads beside it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use inroad_assignment::Timestamp;
use rusqlite::types::Null;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::rows::units_to_json;
use crate::error::StoreError;
use crate::event::{Event, Seq};

/// The most events of one commit: what bounds how long the first of them waits for the last.
const GROUP: usize = 20_000;
/// What a full queue drains at, about; how long a refused caller is told to wait follows from it.
const EVENTS_A_MILLISECOND: usize = 200;

/// One caller's events.
struct Job {
    received_at: Timestamp,
    events: Vec<Event>,
    reply: oneshot::Sender<Result<Seq, StoreError>>,
}

/// What may be asked of the thread.
enum Order {
    Append(Job),
    /// Something that must not happen beside an append, such as pruning.
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
}

/// The way to the thread that writes.
pub(crate) struct LogWriter {
    orders: Mutex<Option<mpsc::Sender<Order>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Events that wait, or are being written.
    queued: Arc<AtomicUsize>,
    capacity: usize,
    head: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the thread.
    pub(crate) fn start(connection: Connection, folder: PathBuf, capacity: usize) -> Result<Self, StoreError> {
        let sql = "SELECT max((SELECT value FROM meta WHERE key = 'head'), coalesce((SELECT max(seq) FROM log), 0))";
        let last: i64 = connection.query_row(sql, [], |row| row.get(0))?;
        let head = Arc::new(AtomicU64::new(last as u64));
        let queued = Arc::new(AtomicUsize::new(0));
        let (orders, waiting) = mpsc::channel();
        let writer = Writer { connection, folder, head: Arc::clone(&head), queued: Arc::clone(&queued) };
        let thread = std::thread::Builder::new()
            .name("inroad-log".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| StoreError::Database(format!("cannot start the log's thread: {error}")))?;
        let (orders, thread) = (Mutex::new(Some(orders)), Mutex::new(Some(thread)));
        Ok(Self { orders, thread, queued, capacity, head })
    }

    /// The last place that is on disk.
    pub(crate) fn head(&self) -> Seq {
        self.head.load(Ordering::Acquire)
    }

    /// Queues events and waits for them to be on disk.
    pub(crate) async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        if events.is_empty() {
            return Ok(self.head());
        }
        let count = events.len();
        let before = self.queued.fetch_add(count, Ordering::AcqRel);
        // A group larger than the queue is let in when it is alone: it could never go otherwise.
        if before > 0 && before + count > self.capacity {
            self.queued.fetch_sub(count, Ordering::AcqRel);
            let millis = (before / EVENTS_A_MILLISECOND).clamp(10, 5_000);
            return Err(StoreError::Busy { retry_after: Duration::from_millis(millis as u64) });
        }
        let (reply, written) = oneshot::channel();
        if let Err(error) = self.send(Order::Append(Job { received_at, events, reply })) {
            self.queued.fetch_sub(count, Ordering::AcqRel);
            return Err(error);
        }
        written.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Does something with the log that only its writer may do.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, done) = oneshot::channel();
        self.send(Order::Run(Box::new(move |connection| {
            // Nobody waits any more if the caller gave up; the work is done all the same.
            drop(reply.send(work(connection)));
        })))?;
        done.await.unwrap_or(Err(StoreError::Closed))
    }

    fn send(&self, order: Order) -> Result<(), StoreError> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.as_ref().ok_or(StoreError::Closed)?.send(order).map_err(|_| StoreError::Closed)
    }

    /// Takes no more, and waits for what is queued to be on disk.
    pub(crate) fn stop(&self) {
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the log's thread panicked: what it had not acknowledged may be missing");
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's own.
struct Writer {
    connection: Connection,
    folder: PathBuf,
    head: Arc<AtomicU64>,
    queued: Arc<AtomicUsize>,
}

impl Writer {
    fn run(mut self, waiting: &mpsc::Receiver<Order>) {
        let mut held = None;
        while let Some(order) = held.take().or_else(|| waiting.recv().ok()) {
            let first = match order {
                Order::Append(job) => job,
                Order::Run(work) => {
                    work(&mut self.connection);
                    continue;
                }
            };
            let mut count = first.events.len();
            let mut group = vec![first];
            while count < GROUP && held.is_none() {
                match waiting.try_recv() {
                    Ok(Order::Append(job)) => {
                        count += job.events.len();
                        group.push(job);
                    }
                    Ok(order) => held = Some(order),
                    Err(_) => break,
                }
            }
            self.write(group, count);
        }
        // What is in the write-ahead log is durable as it is; a tidy file is only a courtesy.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the log was not checkpointed at the end");
        }
    }

    /// One commit for the whole group: it is on disk for everybody or for nobody.
    fn write(&mut self, group: Vec<Job>, count: usize) {
        let before = self.head.load(Ordering::Acquire);
        let written = insert(&mut self.connection, before, &group);
        self.queued.fetch_sub(count, Ordering::AcqRel);
        match written {
            Ok(()) => {
                self.head.store(before + count as u64, Ordering::Release);
                let mut last = before;
                for job in group {
                    last += job.events.len() as u64;
                    // A caller that gave up waiting has its events on disk all the same.
                    drop(job.reply.send(Ok(last)));
                }
            }
            Err(error) => {
                tracing::error!(%error, count, "events were refused: the log could not be written");
                for job in group {
                    drop(job.reply.send(Err(StoreError::from(repeated(&error)).located(&self.folder))));
                }
            }
        }
    }
}

/// The same error once more: each caller of the group gets one.
fn repeated(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => rusqlite::Error::SqliteFailure(*code, message.clone()),
        other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
    }
}

const INSERT: &str = "INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

fn insert(connection: &mut Connection, mut seq: Seq, group: &[Job]) -> rusqlite::Result<()> {
    // Rolled back when dropped, whatever went wrong.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
        for (received, event) in group.iter().flat_map(|job| job.events.iter().map(|e| (job.received_at, e))) {
            seq += 1;
            let (seq, received) = (seq as i64, received.as_micros());
            match event {
                Event::Exposure(e) => {
                    let (occurred, arm) = (e.occurred_at.as_micros(), e.arm.index() as i64);
                    let context = (!e.context.is_empty()).then_some(e.context.as_str());
                    let (key, unit) = (e.experiment.as_str(), &e.unit);
                    let row = params![
                        seq,
                        received,
                        occurred,
                        key,
                        e.generation,
                        unit,
                        arm,
                        e.revision,
                        context,
                        Null,
                        Null,
                        Null,
                        Null,
                        Null
                    ];
                    insert.execute(row)?
                }
                Event::Outcome(o) => {
                    let (occurred, units) = (o.occurred_at.as_micros(), units_to_json(&o.units));
                    let (event, value) = (&o.event, o.value_micros);
                    let row = params![
                        seq, received, occurred, Null, Null, Null, Null, Null, Null, units, event, value, o.event_id,
                        o.clock
                    ];
                    insert.execute(row)?
                }
            };
        }
    }
    transaction.commit()
}
