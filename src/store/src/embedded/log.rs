//! The log: one thread takes whatever waits, writes it in one transaction and only then acknowledges. Many callers so
//! share one flush of the disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use inroad_assignment::{Arm, ExperimentKey, Timestamp};
use rusqlite::{CachedStatement, Connection, params};
use tokio::sync::oneshot;

use super::database::{Files, Inner};
use crate::error::StoreError;
use crate::event::{Event, ExposureEvent, LoggedEvent, OutcomeEvent, Seq};

/// The most events in one transaction.
const GROUP: usize = 20_000;
/// When a caller that met a full queue should come again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Answer = oneshot::Sender<Result<u64, StoreError>>;

/// What the thread is asked to do.
enum Work {
    Append { received_at: Timestamp, events: Vec<Event>, done: Answer },
    Prune { before: Timestamp, up_to: Seq, done: Answer },
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    events: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    head: AtomicU64,
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way into the log.
pub(super) struct LogWriter {
    shared: Arc<Shared>,
    limit: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LogWriter {
    pub(super) fn start(files: Files, db: Connection, limit: u64) -> Result<Self, StoreError> {
        let head = db
            .query_row("SELECT coalesce(max(seq), 0) FROM log", [], |row| row.get::<_, i64>(0))
            .map_err(|e| Inner::from(e).at(files.log()))?;
        let shared = Arc::new(Shared::default());
        shared.head.store(head as u64, Ordering::Release);
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("inroad-log".to_owned()).spawn(move || write(&ours, &files, db));
        let thread = thread.map_err(|e| StoreError::Database(format!("cannot start the log's thread: {e}")))?;
        Ok(Self { shared, limit, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn head(&self) -> Seq {
        self.shared.head.load(Ordering::Acquire)
    }

    pub(super) async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        let count = events.len() as u64;
        let (done, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.closed {
                return Err(StoreError::Closed);
            }
            // A batch that alone is over the limit is taken when nothing else waits, or it never could be.
            if queue.events > 0 && queue.events + count > self.limit {
                return Err(StoreError::Busy { retry_after: RETRY_AFTER });
            }
            queue.events += count;
            queue.work.push_back(Work::Append { received_at, events, done });
        }
        self.shared.wake.notify_one();
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) async fn prune(&self, before: Timestamp, up_to: Seq) -> Result<u64, StoreError> {
        let (done, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.closed {
                return Err(StoreError::Closed);
            }
            queue.work.push_back(Work::Prune { before, up_to, done });
        }
        self.shared.wake.notify_one();
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Writes what waits, and ends the thread.
    pub(super) async fn close(&self) {
        let thread = self.end();
        if let Some(thread) = thread {
            // Joining may take as long as the last commit.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn end(&self) -> Option<JoinHandle<()>> {
        self.shared.queue().closed = true;
        self.shared.wake.notify_one();
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            let _ = thread.join();
        }
    }
}

/// Takes what waits, up to a group; `None` when the log is closed and nothing is left.
fn take(shared: &Shared) -> Option<Vec<Work>> {
    let mut queue = shared.queue();
    while queue.work.is_empty() {
        if queue.closed {
            return None;
        }
        queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    let (mut group, mut events) = (Vec::new(), 0);
    while let Some(work) = queue.work.pop_front() {
        if let Work::Append { events: batch, .. } = &work {
            events += batch.len();
        }
        group.push(work);
        if events >= GROUP {
            break;
        }
    }
    queue.events = queue.events.saturating_sub(events as u64);
    Some(group)
}

fn write(shared: &Shared, files: &Files, mut db: Connection) {
    while let Some(group) = take(shared) {
        let head = shared.head.load(Ordering::Acquire);
        let written = write_group(&mut db, &group, head);
        if let Ok(head) = &written {
            shared.head.store(*head, Ordering::Release);
        }
        let failed = written.map_err(|e| e.at(files.log()));
        for work in group {
            match work {
                Work::Append { done, .. } => {
                    let _ = done.send(failed.as_ref().map(|head| *head).map_err(again));
                }
                Work::Prune { before, up_to, done } => {
                    let pruned = prune(&db, before, up_to).map_err(|e| Inner::from(e).at(files.log()));
                    let _ = done.send(pruned);
                }
            }
        }
    }
}

/// The same error for each of the callers that share a group.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::DiskFull { path } => StoreError::DiskFull { path: path.clone() },
        StoreError::Corrupt { path, detail } => StoreError::Corrupt { path: path.clone(), detail: detail.clone() },
        other => StoreError::Database(other.to_string()),
    }
}

fn write_group(db: &mut Connection, group: &[Work], mut seq: Seq) -> Result<Seq, Inner> {
    let group = group.iter().filter_map(|work| match work {
        Work::Append { received_at, events, .. } => Some((*received_at, events)),
        Work::Prune { .. } => None,
    });
    let transaction = db.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO log (seq, received_at, occurred_at, experiment, generation, arm, revision, units, context,
                 event, event_id, value_micros, clock)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        for (received_at, events) in group {
            for event in events {
                seq += 1;
                insert_event(&mut insert, seq, received_at, event)?;
            }
        }
    }
    transaction.commit()?;
    Ok(seq)
}

fn insert_event(
    insert: &mut CachedStatement<'_>,
    seq: Seq,
    received_at: Timestamp,
    event: &Event,
) -> Result<(), Inner> {
    let none: Option<&str> = None;
    let at = |t: Timestamp| t.as_micros();
    match event {
        Event::Exposure(e) => insert.execute(params![
            seq as i64,
            at(received_at),
            at(e.occurred_at),
            e.experiment.as_str(),
            e.generation,
            e.arm.index() as i64,
            e.revision,
            e.unit,
            (!e.context.is_empty()).then_some(e.context.as_str()),
            none,
            none,
            none,
            none
        ])?,
        Event::Outcome(o) => insert.execute(params![
            seq as i64,
            at(received_at),
            at(o.occurred_at),
            none,
            none,
            none,
            none,
            serde_json::to_string(&o.units)?,
            none,
            o.event,
            o.event_id,
            o.value_micros,
            o.clock
        ])?,
    };
    Ok(())
}

/// Deletes what is old and read by all, but for the newest event: the next one's place follows from it.
fn prune(db: &Connection, before: Timestamp, up_to: Seq) -> Result<u64, rusqlite::Error> {
    let sql = "DELETE FROM log WHERE seq <= ?1 AND received_at < ?2 AND seq < (SELECT max(seq) FROM log)";
    Ok(db.execute(sql, params![up_to as i64, before.as_micros()])? as u64)
}

/// Events after a place, in order.
pub(super) fn read(db: &Connection, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, Inner> {
    let mut rows = db.prepare_cached(
        "SELECT seq, received_at, occurred_at, experiment, generation, arm, revision, units, context, event, event_id,
             value_micros, clock
         FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = rows.query(params![after as i64, limit as i64])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let occurred_at = Timestamp::from_micros(row.get(2)?);
        let units: String = row.get(7)?;
        let event = match row.get_ref(3)?.as_str_or_null().map_err(rusqlite::Error::from)? {
            Some(key) => Event::Exposure(ExposureEvent {
                experiment: ExperimentKey::parse(key).map_err(Inner::unreadable)?,
                generation: row.get(4)?,
                unit: units,
                arm: Arm::new(row.get::<_, i64>(5)? as usize).ok_or_else(|| Inner::unreadable("no such arm"))?,
                revision: row.get(6)?,
                occurred_at,
                context: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
            }),
            None => Event::Outcome(OutcomeEvent {
                units: serde_json::from_str(&units)?,
                event: row.get(9)?,
                value_micros: row.get(11)?,
                occurred_at,
                event_id: row.get(10)?,
                clock: row.get(12)?,
            }),
        };
        events.push(LoggedEvent {
            seq: row.get::<_, i64>(0)? as u64,
            received_at: Timestamp::from_micros(row.get(1)?),
            event,
        });
    }
    Ok(events)
}
