//! The store on SQLite. `inroad.db` contains the catalogue, `counts.db` the counts and `log.db` the log. All are in one
//! folder that one process locks. Each file has its own writer, so neither a change of the catalogue nor an
//! acknowledgement waits for the fold.

mod audit;
mod audit_verification;
mod backup;
mod catalogue;
mod column_values;
mod counts_file;
mod database;
mod decisions;
mod disk_reserve;
mod fold;
mod folder_lock;
mod forget_unit;
mod from_outside;
mod funnel;
mod lineages;
mod log;
mod log_erasure;
mod log_rows;
mod log_scan;
mod maintenance_lock;
mod options;
mod own_thread;
mod recent_exposures;
mod schema;
mod state_writer;
mod tallies;
mod thread_share;
mod tracked_generations;
mod units;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use inroad_assignment::{Experiment, ExperimentKey, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use crate::catalogue::{
    AuditEntry, AuditFilter, DecisionRecord, ExperimentChange, PageRequest, StoredDecision, StoredExperiment,
};
use crate::counts::{FoldStep, GenerationCounts};
use crate::error::StoreError;
use crate::event::{Event, LoggedEvent, Seq};
use crate::funnel::{FunnelCounts, FunnelQuery};
use crate::maintenance::{BackupSummary, DiskState, ForgetRequest, ForgetResult};
pub use catalogue::PreparedChanges;
use column_values::to_sql_integer;
use counts_file::StateAndCounts;
use database::{Readers, Tuning};
use disk_reserve::DiskReserve;
use fold::{Fold, StoreHandles};
use folder_lock::FolderLock;
use lineages::Lineages;
use log::LogWriter;
use log_erasure::PRUNE_BATCH;
use maintenance_lock::MaintenanceLock;
pub use options::SqliteOptions;
use own_thread::OwnThread;
use schema::{COUNTS, LOG, STATE};
use state_writer::StateWriter;
use tallies::TallyCache;
use thread_share::ThreadShare;

/// Pages in a write-ahead log at which a commit also checkpoints it. The fold checkpoints the counts earlier.
const LOG_CHECKPOINT_PAGES: i64 = 4_000;
const STATE_CHECKPOINT_PAGES: i64 = 10_000;
const COUNTS_CHECKPOINT_PAGES: i64 = 200_000;
/// Page cache of the catalogue and of the log, in KiB. Both files grow at their ends, so more would save little.
const SMALL_CACHE_KIB: i64 = 2 * 1024;

/// Reads at once for the server itself (counts for kills and ticks, offsets), and for callers (audit, decisions).
const OWN_READS: usize = 4;
const CALLER_READS: usize = 4;
/// Reads of the log at once.
const LOG_READS: usize = 2;

/// A folder with three SQLite databases. It cannot be cloned: share it in an [`Arc`].
pub struct SqliteStore {
    inner: Arc<Inner>,
    /// Commits and the fold do not share threads with queries.
    commit_thread: OwnThread,
    fold_thread: OwnThread,
    own_reads: ThreadShare,
    caller_reads: ThreadShare,
    log_reads: ThreadShare,
    /// One thread: the limits on the cores and the memory of a funnel assume one funnel at a time.
    funnels: ThreadShare,
    /// Backups and searches of the whole log. One thread, as [`MaintenanceLock`] lets one of them run.
    long_reads: ThreadShare,
}

struct Inner {
    folder: PathBuf,
    store_id: String,
    lineages: Lineages,
    /// Declared before `lock`, so that it is dropped first: queued events are written before another process can open
    /// the folder.
    log: LogWriter,
    writer: StateWriter,
    readers: Readers,
    count_readers: Readers,
    log_readers: Readers,
    reserve: Arc<DiskReserve>,
    /// `None` once closed.
    fold: Mutex<Option<Fold>>,
    tallies: TallyCache,
    folded: AtomicU64,
    /// Locked while the counts change.
    counts_commit: Mutex<()>,
    /// Locked to prune, blank or copy the log.
    maintenance: MaintenanceLock,
    lock: Mutex<Option<FolderLock>>,
}

impl Inner {
    fn handles(&self) -> StoreHandles<'_> {
        let Self { readers: catalogue, count_readers: counts, tallies, folded, counts_commit: commit, .. } = self;
        StoreHandles { catalogue, counts, tallies, folded, commit }
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a folder. Creates the folder and the files if they do not exist, and upgrades older files.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NewerSchema`], [`StoreError::Corrupt`] or [`StoreError::CannotOpen`]; the
    /// message of each says what to do.
    pub fn open(folder: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let lock = FolderLock::acquire(folder)?;
        let tuning = |cache_kib, checkpoint_pages| Tuning { cache_kib, checkpoint_pages, max_pages: options.max_pages };
        let state_tuning = tuning(SMALL_CACHE_KIB, STATE_CHECKPOINT_PAGES);
        let counts_tuning = tuning(i64::from(options.cache_mib) * 1024, COUNTS_CHECKPOINT_PAGES);
        // A server must start on a full disk, or nothing could be killed: opening may use the reserve.
        let reserve = Arc::new(DiskReserve::open(folder, options.reserve_bytes));
        counts_file::move_counts(folder, state_tuning, counts_tuning)?;
        let StateAndCounts { state, counts, store_id, folded } =
            reserve.write_urgently(|| counts_file::open(folder, state_tuning, counts_tuning))?;
        let log_tuning = tuning(SMALL_CACHE_KIB, LOG_CHECKPOINT_PAGES);
        let log = reserve.write_urgently(|| database::open(folder, LOG, log_tuning))?;
        // SQLite overwrites deleted bytes with zeros, so raw keys leave the file together with their events. Appends do
        // not become slower, because they delete nothing.
        log.pragma_update(None, "secure_delete", "ON").map_err(|e| StoreError::from(e).located(folder))?;
        let [state_path, counts_path, log_path] = [STATE, COUNTS, LOG].map(|schema| folder.join(schema.file));
        let begin = || Lineages::begin(&state).map_err(|e| StoreError::from(e).located(&state_path));
        let lineages = reserve.write_urgently(begin)?;
        reserve.make_whole();
        let oldest = log_rows::oldest(&log).map_err(|error| error.located(&log_path))?.unwrap_or(0);
        let log = LogWriter::start(log, folder.to_path_buf(), options.queued_events, Arc::clone(&reserve))
            .map_err(|e| e.located(&log_path))?;
        if log.head() < folded || oldest > folded + 1 {
            // New events would get places that count as folded, or old ones would never be counted.
            let detail = format!("it has events {oldest} to {}, but {folded} were counted from it", log.head());
            return Err(StoreError::Mismatch { path: log_path.display().to_string(), detail });
        }
        let log_readers = Readers::new(log_path);
        let fold = Fold::new(log_readers.open()?, counts, &options);
        let inner = Inner {
            folder: folder.to_path_buf(),
            store_id,
            lineages,
            log,
            writer: StateWriter::new(state, state_path.clone()),
            readers: Readers::new(state_path),
            count_readers: Readers::new(counts_path),
            log_readers,
            reserve,
            fold: Mutex::new(Some(fold)),
            tallies: TallyCache::default(),
            folded: AtomicU64::new(folded),
            counts_commit: Mutex::default(),
            maintenance: MaintenanceLock::new(folder),
            lock: Mutex::new(Some(lock)),
        };
        let (commit_thread, fold_thread) = (OwnThread::start("inroad-commit")?, OwnThread::start("inroad-fold")?);
        Ok(Self {
            inner: Arc::new(inner),
            commit_thread,
            fold_thread,
            own_reads: ThreadShare::new(OWN_READS),
            caller_reads: ThreadShare::new(CALLER_READS),
            log_reads: ThreadShare::new(LOG_READS),
            funnels: ThreadShare::new(1),
            long_reads: ThreadShare::new(1),
        })
    }

    /// Runs a read that the server itself needs, such as for a kill or a tick.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.own_reads.run(move || work(&inner)).await
    }

    /// Runs a read for a caller of the state.
    async fn read_for_caller<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.caller_reads.run(move || inner.readers.with_connection(read)).await
    }

    /// The last place that all consumers of the log have read, including the fold.
    async fn read_by_all(&self) -> Result<Seq, StoreError> {
        let named_consumers = self
            .blocking(|inner| {
                let sql = "SELECT coalesce(min(seq), ?1) FROM consumer";
                let least = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
                inner.readers.with_connection(|connection| Ok(connection.query_row(sql, [i64::MAX], least)?))
            })
            .await?;
        Ok(self.inner.folded.load(Ordering::Acquire).min(named_consumers as Seq))
    }
}

#[async_trait]
impl crate::Store for SqliteStore {
    fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    fn lineage_id(&self) -> &str {
        self.inner.lineages.current()
    }

    fn continues(&self, lineage_id: &str, version: u64) -> bool {
        self.inner.lineages.contain(lineage_id, version)
    }

    async fn load(&self) -> Result<(u64, Vec<StoredExperiment>), StoreError> {
        self.blocking(|inner| inner.readers.with_connection(catalogue::load)).await
    }

    async fn prepare(&self, changes: Vec<ExperimentChange>) -> Result<PreparedChanges, StoreError> {
        self.blocking(move |inner| PreparedChanges::new(&inner.readers, changes)).await
    }

    async fn commit_prepared(&self, changes: PreparedChanges) -> Result<Vec<u64>, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.commit_thread.run(move || changes.store(&inner.writer, &inner.reserve)).await
    }

    async fn commit_all(&self, changes: Vec<ExperimentChange>) -> Result<Vec<u64>, StoreError> {
        let inner = Arc::clone(&self.inner);
        let commit = move || PreparedChanges::new(&inner.readers, changes)?.store(&inner.writer, &inner.reserve);
        self.commit_thread.run(commit).await
    }

    async fn audit(
        &self,
        experiment: Option<&ExperimentKey>,
        page: PageRequest,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let key = experiment.map(ToString::to_string);
        self.read_for_caller(move |c| audit::list(c, key.as_deref(), page)).await
    }

    async fn audited_state(&self, experiment: &ExperimentKey, at: Timestamp) -> Result<Option<String>, StoreError> {
        let key = experiment.clone();
        self.read_for_caller(move |c| audit::state_at(c, &key, at)).await
    }

    async fn count_audit(&self, filter: AuditFilter) -> Result<usize, StoreError> {
        self.read_for_caller(move |c| audit::count(c, &filter)).await
    }

    async fn search_audit(
        &self,
        filter: AuditFilter,
        skip: usize,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.read_for_caller(move |c| audit::search(c, &filter, skip, limit, max_bytes)).await
    }

    async fn decisions(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        page: PageRequest,
    ) -> Result<Vec<StoredDecision>, StoreError> {
        let key = experiment.to_string();
        let read = move |connection: &mut _| match catalogue::experiment_id(connection, &key)? {
            Some(id) => decisions::list(connection, id, generation, page),
            None => Ok(Vec::new()),
        };
        self.read_for_caller(read).await
    }

    async fn decision(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        revision: u32,
    ) -> Result<Option<DecisionRecord>, StoreError> {
        let key = experiment.to_string();
        let read = move |connection: &mut _| match catalogue::experiment_id(connection, &key)? {
            Some(id) => decisions::of_revision(connection, id, generation, revision),
            None => Ok(None),
        };
        self.read_for_caller(read).await
    }

    async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        self.inner.log.append(received_at, events).await
    }

    fn queued_events(&self) -> u64 {
        self.inner.log.queued() as u64
    }

    fn head(&self) -> Seq {
        self.inner.log.head()
    }

    fn folded(&self) -> Seq {
        self.inner.folded.load(Ordering::Acquire)
    }

    async fn fold(&self, experiments: Arc<Vec<Arc<Experiment>>>, limit: usize) -> Result<FoldStep, StoreError> {
        let inner = Arc::clone(&self.inner);
        let step = move || {
            let mut fold = inner.fold.lock().unwrap_or_else(PoisonError::into_inner);
            let fold = fold.as_mut().ok_or(StoreError::Closed)?;
            inner.reserve.check()?;
            let step = fold.step(inner.handles(), &experiments, limit).map_err(|error| error.located(&inner.folder));
            if !matches!(step, Ok(FoldStep { events: 0, changed: 0, .. })) {
                inner.reserve.observe(step.as_ref().err());
            }
            step
        };
        self.fold_thread.run(step).await
    }

    fn disk(&self) -> DiskState {
        self.inner.reserve.state()
    }

    fn counts_state(&self, experiment: &ExperimentKey, generation: u32) -> u64 {
        self.inner.tallies.changes(experiment, generation)
    }

    async fn counts(&self, experiment: &ExperimentKey, generation: u32) -> Result<GenerationCounts, StoreError> {
        let key = experiment.clone();
        self.blocking(move |inner| {
            // The offset is read first, so the counts may include events after `folded`, but never lack one before it.
            let folded = inner.folded.load(Ordering::Acquire);
            let cached = inner.tallies.get(&inner.readers, &inner.count_readers, &key, generation)?;
            let unit_counts = cached.tally.unit_counts;
            Ok(GenerationCounts {
                folded,
                cells: cached.tally.cells.clone(),
                units_moved: unit_counts.units_moved,
                crossovers: unit_counts.crossovers,
                stale_exposures: unit_counts.stale_exposures,
            })
        })
        .await
    }

    async fn funnel(&self, query: FunnelQuery) -> Result<FunnelCounts, StoreError> {
        let inner = Arc::clone(&self.inner);
        let count = move || funnel::count_funnel(inner.handles(), &query).map_err(|error| error.located(&inner.folder));
        self.funnels.run(count).await
    }

    async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError> {
        let inner = Arc::clone(&self.inner);
        let read = move || inner.log_readers.with_connection(|c| log_rows::read_events(c, after, limit));
        self.log_reads.run(read).await
    }

    async fn set_offset(&self, consumer: &str, offset: Seq) -> Result<(), StoreError> {
        let consumer = consumer.to_owned();
        self.blocking(move |inner| {
            let write = |connection: &mut Connection| {
                let sql = "INSERT OR REPLACE INTO consumer VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute(params![consumer, to_sql_integer(offset)])?;
                Ok(())
            };
            inner.reserve.write(|| inner.writer.with_connection(write))
        })
        .await
    }

    async fn offset(&self, consumer: &str) -> Result<Seq, StoreError> {
        let consumer = consumer.to_owned();
        self.blocking(move |inner| {
            inner.readers.with_connection(|connection| {
                let mut statement = connection.prepare_cached("SELECT seq FROM consumer WHERE name = ?1")?;
                let seq: Option<i64> = statement.query_row([consumer], |row| row.get(0)).optional()?;
                Ok(seq.unwrap_or(0) as Seq)
            })
        })
        .await
    }

    async fn prune_log(&self, before: Timestamp) -> Result<u64, StoreError> {
        let _guard = self.inner.maintenance.acquire().await?;
        let read_by_all = self.read_by_all().await?;
        let mut pruned = 0;
        loop {
            let prune = move |connection: &mut _| log_erasure::prune(connection, before, read_by_all, PRUNE_BATCH);
            let deleted = self.inner.log.run(prune).await.map_err(|error| error.located(&self.inner.folder))?;
            pruned += deleted;
            if deleted < PRUNE_BATCH {
                return Ok(pruned);
            }
        }
    }

    async fn forget_unit(&self, request: ForgetRequest) -> Result<ForgetResult, StoreError> {
        self.forget(request).await
    }

    async fn backup(&self, folder: &Path) -> Result<BackupSummary, StoreError> {
        let _guard = self.inner.maintenance.acquire().await?;
        let (inner, folder) = (Arc::clone(&self.inner), folder.to_path_buf());
        self.long_reads.run(move || backup::copy(&inner.folder, &folder)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.blocking(|inner| {
            inner.log.stop();
            let fold = inner.fold.lock().unwrap_or_else(PoisonError::into_inner).take();
            inner.readers.close();
            inner.count_readers.close();
            inner.log_readers.close();
            inner.writer.close()?;
            fold.map_or(Ok(()), |fold| fold.close(&inner.folder))?;
            drop(inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        })
        .await
    }
}
