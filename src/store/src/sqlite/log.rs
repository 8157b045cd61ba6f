//! Writes the log. One thread writes, so that the events of many callers share a commit; readers have their own
//! connections.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use inroad_assignment::Timestamp;
use rusqlite::types::Null;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::disk_reserve::DiskReserve;
use super::log_rows::units_to_json;
use crate::error::StoreError;
use crate::event::{Event, Seq};

/// The most events in one commit. It limits how long the first of them waits for the last.
const MAX_GROUP_EVENTS: usize = 20_000;
/// The approximate rate at which a full queue drains. The retry delay of a refused caller is computed from it.
const EVENTS_PER_MILLISECOND: usize = 200;

/// The events of one caller, and where to send the result.
struct AppendRequest {
    received_at: Timestamp,
    events: Vec<Event>,
    reply: oneshot::Sender<Result<Seq, StoreError>>,
}

/// A request to the writing thread.
enum LogRequest {
    Append(AppendRequest),
    /// Work that must not overlap with an append, such as pruning.
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
}

/// The handle of the writing thread.
pub(crate) struct LogWriter {
    requests: Mutex<Option<mpsc::Sender<LogRequest>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Events that wait or are being written.
    queued: Arc<AtomicUsize>,
    capacity: usize,
    head: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the thread.
    pub(crate) fn start(
        connection: Connection,
        folder: PathBuf,
        capacity: usize,
        reserve: Arc<DiskReserve>,
    ) -> Result<Self, StoreError> {
        let sql = "SELECT max((SELECT value FROM meta WHERE key = 'head'), coalesce((SELECT max(seq) FROM log), 0))";
        let last: i64 = connection.query_row(sql, [], |row| row.get(0))?;
        let head = Arc::new(AtomicU64::new(last as u64));
        let queued = Arc::new(AtomicUsize::new(0));
        let (requests, received) = mpsc::channel();
        let writer = LogThread { connection, folder, reserve, head: Arc::clone(&head), queued: Arc::clone(&queued) };
        let thread = std::thread::Builder::new()
            .name("inroad-log".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(|error| StoreError::Database(format!("cannot start the log's thread: {error}")))?;
        let (requests, thread) = (Mutex::new(Some(requests)), Mutex::new(Some(thread)));
        Ok(Self { requests, thread, queued, capacity, head })
    }

    /// The last place that is on disk.
    pub(crate) fn head(&self) -> Seq {
        self.head.load(Ordering::Acquire)
    }

    /// Events that wait or are being written.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Queues events and waits until they are on disk. Returns the place of the last one.
    pub(crate) async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        if events.is_empty() {
            return Ok(self.head());
        }
        let count = events.len();
        let before = self.queued.fetch_add(count, Ordering::AcqRel);
        // An empty queue accepts a batch larger than its capacity, which could never be appended otherwise.
        if before > 0 && before + count > self.capacity {
            self.queued.fetch_sub(count, Ordering::AcqRel);
            let millis = (before / EVENTS_PER_MILLISECOND).clamp(10, 5_000);
            return Err(StoreError::QueueFull { retry_after: Duration::from_millis(millis as u64) });
        }
        let (reply, written) = oneshot::channel();
        if let Err(error) = self.send(LogRequest::Append(AppendRequest { received_at, events, reply })) {
            self.queued.fetch_sub(count, Ordering::AcqRel);
            return Err(error);
        }
        written.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Runs `work` on the writing thread, between two appends.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, done) = oneshot::channel();
        self.send(LogRequest::Run(Box::new(move |connection| {
            // Sending fails if the caller gave up waiting; the work is done in any case.
            drop(reply.send(work(connection)));
        })))?;
        done.await.unwrap_or(Err(StoreError::Closed))
    }

    fn send(&self, request: LogRequest) -> Result<(), StoreError> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.as_ref().ok_or(StoreError::Closed)?.send(request).map_err(|_| StoreError::Closed)
    }

    /// Accepts no further events, and waits until the queued ones are on disk.
    pub(crate) fn stop(&self) {
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the log's thread panicked: events that it had not acknowledged may be missing");
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The state of the writing thread.
struct LogThread {
    connection: Connection,
    folder: PathBuf,
    reserve: Arc<DiskReserve>,
    head: Arc<AtomicU64>,
    queued: Arc<AtomicUsize>,
}

impl LogThread {
    fn run(mut self, received: &mpsc::Receiver<LogRequest>) {
        let mut next = None;
        while let Some(request) = next.take().or_else(|| received.recv().ok()) {
            let first = match request {
                LogRequest::Append(append) => append,
                LogRequest::Run(work) => {
                    work(&mut self.connection);
                    continue;
                }
            };
            let mut count = first.events.len();
            let mut group = vec![first];
            while count < MAX_GROUP_EVENTS && next.is_none() {
                match received.try_recv() {
                    Ok(LogRequest::Append(append)) => {
                        count += append.events.len();
                        group.push(append);
                    }
                    Ok(request) => next = Some(request),
                    Err(_) => break,
                }
            }
            self.write(group, count);
        }
        // The write-ahead log is durable without this; the checkpoint only leaves a complete main file.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the log was not checkpointed at the end");
        }
    }

    /// Writes the whole group in one commit: it succeeds or fails for all callers.
    fn write(&mut self, group: Vec<AppendRequest>, count: usize) {
        let before = self.head.load(Ordering::Acquire);
        let insert = || insert(&mut self.connection, before, &group).map_err(StoreError::from);
        let written = self.reserve.write(insert);
        self.queued.fetch_sub(count, Ordering::AcqRel);
        match written {
            Ok(()) => {
                self.head.store(before + count as u64, Ordering::Release);
                let mut last = before;
                for append in group {
                    last += append.events.len() as u64;
                    // Sending fails if the caller gave up waiting; its events are on disk in any case.
                    drop(append.reply.send(Ok(last)));
                }
            }
            Err(error) => {
                tracing::error!(%error, count, "events were refused: the log could not be written");
                for append in group {
                    drop(append.reply.send(Err(error.clone().located(&self.folder))));
                }
            }
        }
    }
}

const INSERT: &str = "INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

fn insert(connection: &mut Connection, mut seq: Seq, group: &[AppendRequest]) -> rusqlite::Result<()> {
    // Dropping the transaction after an error rolls it back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
        for (received, event) in group.iter().flat_map(|append| append.events.iter().map(|e| (append.received_at, e))) {
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
