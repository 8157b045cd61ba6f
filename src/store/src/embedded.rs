//! SQLite behind the trait: one folder with two files. `log.db` takes events, `inroad.db` everything else, so that an
//! append never waits for the fold's write lock. Both are in WAL with `synchronous=FULL`: a commit is on disk.

mod catalogue;
mod codec;
mod database;
mod fold;
mod log;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use inroad_assignment::{Experiment, ExperimentKey, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use crate::Store;
use crate::catalogue::{AuditEntry, Change, DecisionRecord, Page, Stored};
use crate::counts::{Counts, FoldStep};
use crate::error::StoreError;
use crate::event::{Event, LoggedEvent, Seq};

use database::{Files, fault};
use fold::Folder;
use log::LogWriter;

/// How the store is set up.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How many events may wait for the log before more are refused.
    pub queue_events: u64,
    /// How much memory the unit records' pages may take, in MiB.
    pub cache_mib: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { queue_events: 200_000, cache_mib: 512 }
    }
}

/// The embedded store. One process holds it at a time.
pub struct SqliteStore {
    id: String,
    files: Files,
    /// Catalogue changes and the fold write through one connection each; SQLite lets one of them in at a time.
    catalogue: Arc<Mutex<Connection>>,
    folder: Arc<Mutex<Folder>>,
    reader: Arc<Mutex<Connection>>,
    log_reader: Arc<Mutex<Connection>>,
    log: LogWriter,
    folded: Arc<AtomicU64>,
    /// Held for as long as the store is open; the system lets go of it if the process dies.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in a folder, which is made if it is not there.
    pub fn open(folder: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let unopened =
            |e: std::io::Error| StoreError::Open { path: folder.display().to_string(), detail: e.to_string() };
        std::fs::create_dir_all(folder).map_err(unopened)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(unopened)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: folder.display().to_string() }),
            Err(TryLockError::Error(e)) => return Err(unopened(e)),
        }
        let files = Files::new(folder);
        let catalogue = files.open_state(options.cache_mib)?;
        let id = catalogue
            .query_row("SELECT value FROM meta WHERE name = 'store_id'", [], |row| row.get(0))
            .map_err(|e| fault(files.state(), e))?;
        let log = LogWriter::start(files.clone(), files.open_log()?, options.queue_events)?;
        let folder = Folder::new(files.clone(), files.open_state(options.cache_mib)?, files.open_log()?)?;
        let folded = Arc::new(AtomicU64::new(folder.folded()));
        Ok(Self {
            id,
            catalogue: Arc::new(Mutex::new(catalogue)),
            folder: Arc::new(Mutex::new(folder)),
            reader: Arc::new(Mutex::new(files.open_state(16)?)),
            log_reader: Arc::new(Mutex::new(files.open_log()?)),
            files,
            log,
            folded,
            _lock: lock,
        })
    }

    /// Runs on a thread that may block.
    async fn blocking<C: Send + 'static, T: Send + 'static>(
        on: &Arc<Mutex<C>>,
        work: impl FnOnce(&mut C) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let on = Arc::clone(on);
        let task = tokio::task::spawn_blocking(move || work(&mut on.lock().unwrap_or_else(PoisonError::into_inner)));
        task.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    async fn load(&self) -> Result<(u64, Vec<Stored>), StoreError> {
        let files = self.files.clone();
        Self::blocking(&self.reader, move |db| catalogue::load(db).map_err(|e| e.at(files.state()))).await
    }

    async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        let files = self.files.clone();
        Self::blocking(&self.catalogue, move |db| catalogue::commit(db, &change).map_err(|e| e.at(files.state()))).await
    }

    async fn audit(&self, experiment: Option<&ExperimentKey>, page: Page) -> Result<Vec<AuditEntry>, StoreError> {
        let (files, key) = (self.files.clone(), experiment.cloned());
        let read = move |db: &mut Connection| catalogue::audit(db, key.as_ref(), page).map_err(|e| e.at(files.state()));
        Self::blocking(&self.reader, read).await
    }

    async fn decisions(&self, experiment: &ExperimentKey, generation: u32) -> Result<Vec<DecisionRecord>, StoreError> {
        let (files, key) = (self.files.clone(), experiment.clone());
        let read =
            move |db: &mut Connection| catalogue::decisions(db, &key, generation).map_err(|e| e.at(files.state()));
        Self::blocking(&self.reader, read).await
    }

    async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        self.log.append(received_at, events).await
    }

    fn head(&self) -> Seq {
        self.log.head()
    }

    fn folded(&self) -> Seq {
        self.folded.load(Ordering::Acquire)
    }

    async fn fold(&self, experiments: Arc<Vec<Arc<Experiment>>>, limit: usize) -> Result<FoldStep, StoreError> {
        let folded = Arc::clone(&self.folded);
        Self::blocking(&self.folder, move |folder| {
            let step = folder.step(&experiments, limit)?;
            folded.store(step.folded, Ordering::Release);
            Ok(step)
        })
        .await
    }

    async fn counts(&self, experiment: &ExperimentKey, generation: u32) -> Result<Counts, StoreError> {
        let key = experiment.clone();
        Self::blocking(&self.folder, move |folder| Ok(folder.counts(key.as_str(), generation))).await
    }

    async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError> {
        let files = self.files.clone();
        Self::blocking(&self.log_reader, move |db| log::read(db, after, limit).map_err(|e| e.at(files.log()))).await
    }

    async fn set_offset(&self, consumer: &str, offset: Seq) -> Result<(), StoreError> {
        let (files, consumer) = (self.files.clone(), consumer.to_owned());
        Self::blocking(&self.catalogue, move |db| {
            let upsert = "INSERT INTO consumer (name, seq) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET seq = ?2";
            db.execute(upsert, params![consumer, offset as i64]).map(drop).map_err(|e| fault(files.state(), e))
        })
        .await
    }

    async fn offset(&self, consumer: &str) -> Result<Seq, StoreError> {
        let (files, consumer) = (self.files.clone(), consumer.to_owned());
        Self::blocking(&self.reader, move |db| {
            let found =
                db.query_row("SELECT seq FROM consumer WHERE name = ?1", [consumer], |row| row.get::<_, i64>(0));
            Ok(found.optional().map_err(|e| fault(files.state(), e))?.unwrap_or(0) as u64)
        })
        .await
    }

    async fn prune_log(&self, before: Timestamp) -> Result<u64, StoreError> {
        let (files, folded) = (self.files.clone(), self.folded());
        let read_by_all = Self::blocking(&self.reader, move |db| {
            let least = db.query_row("SELECT min(seq) FROM consumer", [], |row| row.get::<_, Option<i64>>(0));
            Ok(least.map_err(|e| fault(files.state(), e))?.map_or(folded, |seq| folded.min(seq as u64)))
        })
        .await?;
        self.log.prune(before, read_by_all).await
    }

    async fn backup(&self, folder: &Path) -> Result<(), StoreError> {
        let to: PathBuf = folder.to_owned();
        let (files, log_files) = (self.files.clone(), self.files.clone());
        let made = std::fs::create_dir_all(&to);
        made.map_err(|e| StoreError::Open { path: to.display().to_string(), detail: e.to_string() })?;
        let copy = |db: &mut Connection, from: &Path, to: PathBuf| {
            db.execute("VACUUM INTO ?1", [to.display().to_string()]).map(drop).map_err(|e| fault(from, e))
        };
        // Counts first: the copy of the log then reaches at least as far as the fold's offset in the copy.
        let state = to.join(database::STATE_FILE);
        Self::blocking(&self.reader, move |db| copy(db, files.state(), state)).await?;
        let log = to.join(database::LOG_FILE);
        Self::blocking(&self.log_reader, move |db| copy(db, log_files.log(), log)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.log.close().await;
        let files = self.files.clone();
        Self::blocking(&self.catalogue, move |db| {
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(|e| fault(files.state(), e))
        })
        .await
    }
}
