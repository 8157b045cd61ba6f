//! The files: where they are, how they are opened, what tables they have, and what a SQLite error means to a caller.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use crate::error::StoreError;

/// Everything but the events.
pub(super) const STATE_FILE: &str = "inroad.db";
/// The events.
pub(super) const LOG_FILE: &str = "log.db";
/// "Inrd": marks a file as ours.
const APPLICATION_ID: i32 = 0x496e_7264;

/// The steps from an empty file to the newest schema; a file's `user_version` counts those it has taken.
const STATE_STEPS: &[&str] = &["
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('store_id', lower(hex(randomblob(16)))), ('version', '0');
CREATE TABLE experiment (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, version INTEGER NOT NULL,
    definition TEXT NOT NULL, status TEXT NOT NULL, kills TEXT NOT NULL,
    manual_now INTEGER, created_at INTEGER NOT NULL, last_growth_at INTEGER);
CREATE TABLE generation (
    experiment TEXT NOT NULL, generation INTEGER NOT NULL, salt TEXT NOT NULL, started_at INTEGER NOT NULL,
    PRIMARY KEY (experiment, generation)) WITHOUT ROWID;
CREATE TABLE revision (
    experiment TEXT NOT NULL, generation INTEGER NOT NULL, revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL, effective_at INTEGER NOT NULL, cause TEXT NOT NULL, buckets TEXT NOT NULL,
    PRIMARY KEY (experiment, generation, revision)) WITHOUT ROWID;
CREATE TABLE switch (
    experiment TEXT NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL, switch TEXT NOT NULL,
    PRIMARY KEY (experiment, generation, number)) WITHOUT ROWID;
CREATE TABLE decision (
    id INTEGER PRIMARY KEY, experiment TEXT NOT NULL, generation INTEGER NOT NULL, at INTEGER NOT NULL,
    revision INTEGER, input TEXT NOT NULL, output TEXT NOT NULL);
CREATE INDEX decision_of ON decision (experiment, generation);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    experiment TEXT NOT NULL, was TEXT NOT NULL, became TEXT NOT NULL);
CREATE INDEX audit_of ON audit (experiment, id);
CREATE TABLE consumer (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE fold (seq INTEGER NOT NULL);
INSERT INTO fold VALUES (0);
CREATE TABLE unit (
    experiment INTEGER NOT NULL, generation INTEGER NOT NULL, digest BLOB NOT NULL,
    unit BLOB NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (experiment, generation, digest)) WITHOUT ROWID;
CREATE TABLE outcome (
    unit BLOB NOT NULL, event_id TEXT NOT NULL, event TEXT NOT NULL, at INTEGER NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (unit, event_id)) WITHOUT ROWID;
CREATE TABLE history (
    experiment INTEGER NOT NULL, generation INTEGER NOT NULL,
    revisions INTEGER NOT NULL, switches INTEGER NOT NULL, metrics INTEGER NOT NULL,
    units_moved INTEGER NOT NULL DEFAULT 0, crossovers INTEGER NOT NULL DEFAULT 0,
    stale_exposures INTEGER NOT NULL DEFAULT 0, latest INTEGER NOT NULL,
    PRIMARY KEY (experiment, generation)) WITHOUT ROWID;
CREATE TABLE tally (
    experiment INTEGER NOT NULL, generation INTEGER NOT NULL, metric INTEGER NOT NULL, tick INTEGER NOT NULL,
    revision INTEGER NOT NULL, arm INTEGER NOT NULL,
    first INTEGER NOT NULL, n INTEGER NOT NULL, s INTEGER NOT NULL, dropped INTEGER NOT NULL,
    units INTEGER NOT NULL, outcomes INTEGER NOT NULL, outcome_units INTEGER NOT NULL, sums BLOB NOT NULL,
    PRIMARY KEY (experiment, generation, metric, tick, revision, arm)) WITHOUT ROWID;
"];

const LOG_STEPS: &[&str] = &["
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, received_at INTEGER NOT NULL, occurred_at INTEGER NOT NULL,
    experiment TEXT, generation INTEGER, arm INTEGER, revision INTEGER,
    units TEXT NOT NULL, context TEXT,
    event TEXT, event_id TEXT, value_micros INTEGER, clock TEXT);
"];

/// The two files.
#[derive(Debug, Clone)]
pub(super) struct Files {
    state: PathBuf,
    log: PathBuf,
}

impl Files {
    pub(super) fn new(folder: &Path) -> Self {
        Self { state: folder.join(STATE_FILE), log: folder.join(LOG_FILE) }
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn open_state(&self, cache_mib: u32) -> Result<Connection, StoreError> {
        open(&self.state, STATE_STEPS, cache_mib)
    }

    pub(super) fn open_log(&self) -> Result<Connection, StoreError> {
        open(&self.log, LOG_STEPS, 16)
    }
}

fn open(path: &Path, steps: &[&str], cache_mib: u32) -> Result<Connection, StoreError> {
    let unopened = |e| match fault(path, e) {
        StoreError::Database(detail) => StoreError::Open { path: path.display().to_string(), detail },
        other => other,
    };
    let mut db = Connection::open(path).map_err(unopened)?;
    let setup = |db: &Connection| {
        db.busy_timeout(std::time::Duration::from_secs(60))?;
        db.set_prepared_statement_cache_capacity(64);
        // Before anything is written: is this ours?
        let id: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((id, version, tables))
    };
    let (id, version, tables) = setup(&db).map_err(|e| fault(path, e))?;
    let known = steps.len() as u32;
    if id != APPLICATION_ID && tables > 0 {
        let detail = "another program made it".to_owned();
        return Err(StoreError::Corrupt { path: path.display().to_string(), detail });
    }
    if version > known {
        return Err(StoreError::Newer { path: path.display().to_string(), found: version, known });
    }
    let mut prepare = || {
        db.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{}; PRAGMA mmap_size = 8589934592;",
            cache_mib * 1024
        ))?;
        if version < known {
            let step_by_step = db.transaction()?;
            for step in steps.iter().skip(version as usize) {
                step_by_step.execute_batch(step)?;
            }
            step_by_step
                .execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known};"))?;
            step_by_step.commit()?;
        }
        Ok(())
    };
    prepare().map_err(|e| fault(path, e))?;
    Ok(db)
}

/// What a SQLite error means.
pub(super) fn fault(path: &Path, error: rusqlite::Error) -> StoreError {
    let shown = path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            let folder = path.parent().unwrap_or(path).display().to_string();
            StoreError::DiskFull { path: folder }
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path: shown, detail: error.to_string() }
        }
        _ => StoreError::Database(format!("{shown}: {error}")),
    }
}

/// What can go wrong inside, before it is known of which file.
#[derive(Debug)]
pub(super) enum Inner {
    Sqlite(rusqlite::Error),
    /// What was stored does not read.
    Unreadable(String),
    Store(StoreError),
}

impl Inner {
    pub(super) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => fault(path, error),
            Self::Unreadable(detail) => StoreError::Corrupt { path: path.display().to_string(), detail },
            Self::Store(error) => error,
        }
    }

    pub(super) fn unreadable(what: impl std::fmt::Display) -> Self {
        Self::Unreadable(what.to_string())
    }
}

impl From<rusqlite::Error> for Inner {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<serde_json::Error> for Inner {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}
