//! Opens one database file, reports why it cannot be opened, and keeps a few connections for reading it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema::{FileState, Schema};
use crate::error::StoreError;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let path = String::new();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, detail: error.to_string() }
            }
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::CannotOpen { path, detail: error.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { path },
            _ => Self::Database(error.to_string()),
        }
    }
}

impl StoreError {
    /// The same error with the file or folder that it concerns, if the error does not name one yet.
    pub(crate) fn located(mut self, at: &Path) -> Self {
        match &mut self {
            Self::DiskFull { path }
            | Self::Corrupt { path, .. }
            | Self::CannotOpen { path, .. }
            | Self::InUse { path }
            | Self::NewerSchema { path, .. }
                if path.is_empty() =>
            {
                *path = at.display().to_string();
            }
            _ => {}
        }
        self
    }
}

/// The settings of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Page cache, in KiB.
    pub(crate) cache_kib: i64,
    /// Pages in the write-ahead log at which a commit also checkpoints it; 0 for never.
    pub(crate) checkpoint_pages: i64,
    /// The most pages that the file may have; `None` for no limit but the disk.
    pub(crate) max_pages: Option<u32>,
}

impl Tuning {
    /// Settings for connections that only read.
    const READER: Self = Self { cache_kib: 2 * 1024, checkpoint_pages: 0, max_pages: None };
}

/// Opens a file. Creates it if it does not exist, and upgrades it to the current schema.
pub(crate) fn open(folder: &Path, schema: Schema, tuning: Tuning) -> Result<Connection, StoreError> {
    let path = folder.join(schema.file);
    prepare(&path, schema, tuning).map_err(|error| error.located(&path))
}

/// The version of a file that exists; `None` if it is another program's.
pub(crate) fn version(folder: &Path, schema: Schema) -> Result<Option<u32>, StoreError> {
    let path = folder.join(schema.file);
    let version = || {
        check_header(&path)?;
        Ok(schema.version_of(&Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?)?)
    };
    version().map_err(|error: StoreError| error.located(&path))
}

fn prepare(path: &Path, schema: Schema, tuning: Tuning) -> Result<Connection, StoreError> {
    check_header(path)?;
    let mut connection = Connection::open(path)?;
    set_up(&connection, tuning)?;
    // An upgrade may sort millions of rows for an index, which must not need their size in memory.
    connection.pragma_update(None, "temp_store", "FILE")?;
    let state = schema.migrate(&mut connection)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    match state {
        FileState::Ready => Ok(connection),
        FileState::Newer { found, known } => Err(StoreError::NewerSchema { path: String::new(), found, known }),
        FileState::Foreign => {
            Err(StoreError::Corrupt { path: String::new(), detail: "another program's database".to_owned() })
        }
    }
}

fn set_up(connection: &Connection, tuning: Tuning) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -tuning.cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", tuning.checkpoint_pages)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if let Some(pages) = tuning.max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Refuses a file with a wrong header. SQLite itself would take a truncated file of a few bytes for a new database.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let refuse = |error: std::io::Error| StoreError::CannotOpen { path: String::new(), detail: error.to_string() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refuse(error)),
    };
    let mut header = Vec::with_capacity(16);
    file.by_ref().take(16).read_to_end(&mut header).map_err(refuse)?;
    // A crash at the very first start may leave an empty file.
    if header.is_empty() || header == b"SQLite format 3\0" {
        return Ok(());
    }
    Err(StoreError::Corrupt { path: String::new(), detail: "its header is not that of a database".to_owned() })
}

/// Connections that only read.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    /// `None` once closed.
    idle: Mutex<Option<Vec<Connection>>>,
}

impl Readers {
    /// How many idle connections stay open.
    const MAX_IDLE: usize = 4;

    /// Readers of one file, which must exist.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Some(Vec::new())) }
    }

    /// Runs `read` with an idle connection, or a new one.
    pub(crate) fn with_connection<T>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = match self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(idle) => idle.pop(),
            None => return Err(StoreError::Closed),
        };
        let read_with = |mut connection: Connection| {
            let found = read(&mut connection)?;
            if let Some(idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                && idle.len() < Self::MAX_IDLE
            {
                idle.push(connection);
            }
            Ok(found)
        };
        idle.map_or_else(|| self.open(), Ok).and_then(read_with).map_err(|error| error.located(&self.path))
    }

    /// Opens one more connection, which belongs to the caller.
    pub(crate) fn open(&self) -> Result<Connection, StoreError> {
        let connection = Connection::open(&self.path)?;
        set_up(&connection, Tuning::READER)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// Closes the idle connections; later reads fail with [`StoreError::Closed`].
    pub(crate) fn close(&self) {
        drop(self.idle.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
