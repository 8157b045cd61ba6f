//! SQLite behind the trait: `inroad.db` with the catalogue and the counts, `log.db` with the log, in one folder that one
//! process holds. Two files have two writers: an acknowledgement never waits behind the fold.

mod backup;
mod catalogue;
mod database;
mod erase;
mod fold;
mod funnel;
mod history;
mod log;
mod rows;
mod scan;
mod schema;
mod slots;
mod tallies;
mod tidying;
mod units;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use inroad_assignment::{Experiment, ExperimentKey, Timestamp, UnitKey, unit_digest};
use rusqlite::{OptionalExtension, params};

use crate::catalogue::{AuditEntry, Change, DecisionRecord, Page, Stored, StoredDecision};
use crate::counts::{Counts, FoldStep};
use crate::error::StoreError;
use crate::event::{Event, LoggedEvent, Seq};
use crate::funnel::{FunnelCounts, FunnelQuestion};
use crate::upkeep::{Copied, Forget, Forgotten};
use database::{Readers, Tuning};
use fold::{Fold, Shared};
use log::LogWriter;
use rows::{bound, damaged};
use schema::{LOG, STATE};
use tallies::Tallies;
use tidying::Tidying;
use writer::Writer;

/// Pages in a write-ahead log after which the committing connection itself folds them back.
const LOG_CHECKPOINT_PAGES: i64 = 4_000;
/// The fold does this for the state at a better time; this is for a catalogue that changes while nothing is folded.
const STATE_CHECKPOINT_PAGES: i64 = 200_000;

/// What can be set about a store.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Events that may wait for the log; beyond that callers are told to come back.
    pub queue: usize,
    /// Page cache of the state, in MiB.
    pub cache_mib: u32,
    /// The most events that one transaction of the fold takes: what bounds how long a change of the catalogue waits.
    pub fold_step: usize,
    /// Exposures that the fold remembers, to know a repeat without looking it up; about 100 bytes each.
    pub remembered: usize,
    /// The most pages of 4 KiB that either file may grow to; the disk is the limit if there is none.
    pub max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { queue: 200_000, cache_mib: 512, fold_step: 50_000, remembered: 1_000_000, max_pages: None }
    }
}

/// How many events one transaction prunes: what bounds how long an append waits for it.
const PRUNE_PIECE: u64 = 20_000;

/// A folder with two SQLite databases. Clones nothing: share it behind an [`Arc`].
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    store_id: String,
    /// Before the lock: what is queued is written before another process may come in.
    log: LogWriter,
    writer: Writer,
    readers: Readers,
    log_readers: Readers,
    /// `None` once closed.
    fold: Mutex<Option<Fold>>,
    tallies: Tallies,
    folded: AtomicU64,
    /// Taken to count a funnel: it has every core and as much memory as it may.
    funnel: Mutex<()>,
    /// Taken to prune, blank or copy the log.
    tidying: Tidying,
    lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a folder; makes folder and files if need be, and brings older files up to date.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::Corrupt`], [`StoreError::Open`]: each says what to do.
    pub fn open(folder: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let lock = lock(folder)?;
        let cache_kib = i64::from(options.cache_mib) * 1024;
        let max_pages = options.max_pages;
        let tuning = Tuning { cache_kib, checkpoint_pages: STATE_CHECKPOINT_PAGES, max_pages };
        let state = database::open(folder, STATE, tuning)?;
        let tuning = Tuning { cache_kib: 16 * 1024, checkpoint_pages: LOG_CHECKPOINT_PAGES, max_pages };
        let log = database::open(folder, LOG, tuning)?;
        // Bytes that are given up are zeroed, from the first page on: raw keys leave the file with their events. Appends,
        // which give up nothing, pay nothing for it.
        log.pragma_update(None, "secure_delete", "ON").map_err(|e| StoreError::from(e).located(folder))?;
        let (state_path, log_path) = (folder.join(STATE.file), folder.join(LOG.file));
        let meta = |key: &str| {
            let sql = "SELECT CAST(value AS TEXT) FROM meta WHERE key = ?1";
            state
                .query_row(sql, [key], |row| row.get::<_, String>(0))
                .map_err(|e| StoreError::from(e).located(&state_path))
        };
        let store_id = meta("store_id")?;
        let folded: u64 = meta("folded")?.parse().map_err(|e| damaged("meta.folded", e).located(&state_path))?;
        let log = LogWriter::start(log, folder.to_path_buf(), options.queue).map_err(|e| e.located(&log_path))?;
        if log.head() < folded {
            // Events would be given places that count as folded, and would never be counted.
            let detail = format!("it ends at event {}, and {folded} were counted from it", log.head());
            return Err(StoreError::Corrupt { path: log_path.display().to_string(), detail });
        }
        let log_readers = Readers::new(log_path);
        let fold = Fold::new(log_readers.open()?, options.fold_step, options.remembered);
        let inner = Inner {
            folder: folder.to_path_buf(),
            store_id,
            log,
            writer: Writer::new(state, state_path.clone()),
            readers: Readers::new(state_path),
            log_readers,
            fold: Mutex::new(Some(fold)),
            tallies: Tallies::default(),
            folded: AtomicU64::new(folded),
            funnel: Mutex::new(()),
            tidying: Tidying::new(folder),
            lock: Mutex::new(Some(lock)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Copies the store of a folder into another, from outside the process that serves from it, if one does. Blocks.
    ///
    /// # Errors
    /// [`StoreError::NoStore`], [`StoreError::CopyExists`], [`StoreError::CannotCopy`], [`StoreError::Open`],
    /// [`StoreError::DiskFull`].
    pub fn copy(from: &Path, to: &Path) -> Result<Copied, StoreError> {
        if ![STATE, LOG].iter().all(|schema| from.join(schema.file).is_file()) {
            return Err(StoreError::NoStore { path: from.display().to_string() });
        }
        let _turn = tidying::turn_from_outside(from)?;
        backup::copy(from, to)
    }

    /// Does something that blocks where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(StoreError::Database(format!("the task failed: {error}"))))
    }

    /// How far every consumer of the log has come, the fold among them.
    async fn read_by_all(&self) -> Result<Seq, StoreError> {
        let named = self
            .blocking(|inner| {
                let sql = "SELECT coalesce(min(seq), ?1) FROM consumer";
                let least = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
                inner.readers.with(|connection| Ok(connection.query_row(sql, [i64::MAX], least)?))
            })
            .await?;
        Ok(self.inner.folded.load(Ordering::Acquire).min(named as Seq))
    }
}

/// Takes the folder for this process.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("inroad.lock");
    let refused =
        |error: std::io::Error| StoreError::Open { path: path.display().to_string(), detail: error.to_string() };
    std::fs::create_dir_all(folder).map_err(refused)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: folder.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

#[async_trait]
impl crate::Store for SqliteStore {
    fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    async fn load(&self) -> Result<(u64, Vec<Stored>), StoreError> {
        self.blocking(|inner| inner.readers.with(catalogue::load)).await
    }

    async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        self.blocking(move |inner| inner.writer.with(|connection| catalogue::commit(connection, &change))).await
    }

    async fn audit(&self, experiment: Option<&ExperimentKey>, page: Page) -> Result<Vec<AuditEntry>, StoreError> {
        let key = experiment.map(ToString::to_string);
        self.blocking(move |inner| inner.readers.with(|c| catalogue::audit(c, key.as_deref(), page))).await
    }

    async fn decisions(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        page: Page,
    ) -> Result<Vec<StoredDecision>, StoreError> {
        let key = experiment.to_string();
        self.blocking(move |inner| inner.readers.with(|c| catalogue::decisions(c, &key, generation, page))).await
    }

    async fn decision(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        revision: u32,
    ) -> Result<Option<DecisionRecord>, StoreError> {
        let key = experiment.to_string();
        self.blocking(move |inner| inner.readers.with(|c| catalogue::decision(c, &key, generation, revision))).await
    }

    async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        self.inner.log.append(received_at, events).await
    }

    fn head(&self) -> Seq {
        self.inner.log.head()
    }

    fn folded(&self) -> Seq {
        self.inner.folded.load(Ordering::Acquire)
    }

    async fn fold(&self, experiments: Arc<Vec<Arc<Experiment>>>, limit: usize) -> Result<FoldStep, StoreError> {
        self.blocking(move |inner| {
            let mut fold = inner.fold.lock().unwrap_or_else(PoisonError::into_inner);
            let fold = fold.as_mut().ok_or(StoreError::Closed)?;
            let Inner { writer, readers, tallies, folded, .. } = inner;
            let shared = Shared { writer, readers, tallies, folded };
            fold.step(shared, &experiments, limit).map_err(|error| error.located(&inner.folder))
        })
        .await
    }

    async fn counts(&self, experiment: &ExperimentKey, generation: u32) -> Result<Counts, StoreError> {
        let key = experiment.clone();
        self.blocking(move |inner| {
            // The offset first: counts may then reach further than they say, never less far.
            let folded = inner.folded.load(Ordering::Acquire);
            let kept = inner.tallies.get(&inner.readers, &key, generation)?;
            let flags = kept.tally.flags;
            Ok(Counts {
                folded,
                cells: kept.tally.cells.clone(),
                units_moved: flags.units_moved,
                crossovers: flags.crossovers,
                stale_exposures: flags.stale_exposures,
            })
        })
        .await
    }

    async fn funnel(&self, question: FunnelQuestion) -> Result<FunnelCounts, StoreError> {
        self.blocking(move |inner| {
            let _turn = inner.funnel.lock().unwrap_or_else(PoisonError::into_inner);
            let Inner { writer, readers, tallies, folded, .. } = inner;
            let source = funnel::Source { writer, readers, tallies, folded };
            funnel::funnel(source, &question).map_err(|error| error.located(&inner.folder))
        })
        .await
    }

    async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError> {
        self.blocking(move |inner| inner.log_readers.with(|connection| rows::read(connection, after, limit))).await
    }

    async fn set_offset(&self, consumer: &str, offset: Seq) -> Result<(), StoreError> {
        let consumer = consumer.to_owned();
        self.blocking(move |inner| {
            inner.writer.with(|connection| {
                let sql = "INSERT OR REPLACE INTO consumer VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute(params![consumer, bound(offset)])?;
                Ok(())
            })
        })
        .await
    }

    async fn offset(&self, consumer: &str) -> Result<Seq, StoreError> {
        let consumer = consumer.to_owned();
        self.blocking(move |inner| {
            inner.readers.with(|connection| {
                let mut statement = connection.prepare_cached("SELECT seq FROM consumer WHERE name = ?1")?;
                let seq: Option<i64> = statement.query_row([consumer], |row| row.get(0)).optional()?;
                Ok(seq.unwrap_or(0) as Seq)
            })
        })
        .await
    }

    async fn prune_log(&self, before: Timestamp) -> Result<u64, StoreError> {
        let _turn = self.inner.tidying.turn().await?;
        let read_by_all = self.read_by_all().await?;
        let mut pruned = 0;
        loop {
            let prune = move |connection: &mut _| erase::prune(connection, before, read_by_all, PRUNE_PIECE);
            let gone = self.inner.log.run(prune).await.map_err(|error| error.located(&self.inner.folder))?;
            pruned += gone;
            if gone < PRUNE_PIECE {
                return Ok(pruned);
            }
        }
    }

    async fn forget_unit(&self, forget: Forget) -> Result<Forgotten, StoreError> {
        let key = UnitKey::parse(&forget.unit).map_err(|error| StoreError::Database(error.to_string()))?;
        // As outcomes are kept under: whoever holds the key finds what was counted of it, and nobody reads it back.
        let digest = format!("{:?}", unit_digest("", &forget.unit_type, key));
        let _turn = self.inner.tidying.turn().await?;
        let read_by_all = self.read_by_all().await?;
        let (_, stored) = self.load().await?;
        let of_type = stored.iter().map(|s| &s.experiment.definition).filter(|d| d.unit() == forget.unit_type);
        let experiments: Vec<String> = of_type.map(|d| d.key().to_string()).collect();
        let Forget { unit_type, unit, actor, at } = forget;
        // The entry first: the log is another file, and nothing may be taken out of it that nobody asked for.
        let (kind, hex) = (unit_type.clone(), digest.clone());
        self.blocking(move |inner| inner.writer.with(|c| catalogue::audit_forget(c, &kind, &hex, &actor, at))).await?;
        let (unit_type, unit, mut named) = self
            .blocking(move |inner| {
                let read = |c: &mut rusqlite::Connection| erase::named(c, &unit_type, &unit, &experiments);
                let named = inner.log_readers.with(read)?;
                Ok((unit_type, unit, named))
            })
            .await?;
        let found = named.len();
        named.retain(|event| event.seq <= read_by_all);
        let waiting = (found - named.len()) as u64;
        let blank = move |connection: &mut _| erase::blank(connection, &unit_type, &unit, &named);
        let events = self.inner.log.run(blank).await.map_err(|error| error.located(&self.inner.folder))?;
        Ok(Forgotten { digest, events, waiting })
    }

    async fn backup(&self, folder: &Path) -> Result<Copied, StoreError> {
        let _turn = self.inner.tidying.turn().await?;
        let folder = folder.to_path_buf();
        self.blocking(move |inner| backup::copy(&inner.folder, &folder)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.blocking(|inner| {
            inner.log.stop();
            drop(inner.fold.lock().unwrap_or_else(PoisonError::into_inner).take());
            inner.readers.close();
            inner.log_readers.close();
            inner.writer.close()?;
            drop(inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        })
        .await
    }
}
