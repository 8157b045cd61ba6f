//! Opens `counts.db` together with `inroad.db`, to which it belongs. The fold writes large transactions to the first and
//! people's changes go to the second, so that a kill never waits for the fold.
//!
//! Both files have the same `counts_id`. A missing file, or files of different copies, would count the log's remaining
//! events from the start, or count them with an older catalogue: they are refused.
//!
//! Earlier releases had the counts in `inroad.db`. They are moved before its tables are dropped: first all of them in one
//! transaction, then the drop. After a crash in between they are moved again.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::database::{self, Tuning};
use super::maintenance_lock;
use super::schema::{COUNTS, LAST_STATE_WITH_COUNTS, STATE};
use crate::error::StoreError;

/// Free pages in `inroad.db` from which they are given back to the disk, if they are most of the file.
const MANY_FREE_PAGES: i64 = 1_000;

/// The free space that a move needs, in sizes of the file with the old counts.
const SPACE_FACTOR: u64 = 3;

/// The connections that write the two files.
pub(super) struct StateAndCounts {
    pub(super) state: Connection,
    pub(super) counts: Connection,
    pub(super) store_id: String,
    /// The fold's offset.
    pub(super) folded: u64,
}

/// Opens both files. Creates them if neither exists, and upgrades them.
pub(super) fn open(folder: &Path, state: Tuning, counts: Tuning) -> Result<StateAndCounts, StoreError> {
    let (state_path, counts_path) = (folder.join(STATE.file), folder.join(COUNTS.file));
    let has_counts = counts_path.is_file();
    let state = database::open(folder, STATE, state)?;
    give_back_free_pages(&state);
    let meta = |key: &str| text(&state, key).map_err(|error| error.located(&state_path));
    let (store_id, known) = (meta("store_id")?.unwrap_or_default(), meta("counts_id")?);
    if known.is_some() && !has_counts {
        return Err(mismatch(folder, "it is missing".to_owned()));
    }
    let counts = database::open(folder, COUNTS, counts)?;
    let at_counts = |error: StoreError| error.located(&counts_path);
    let version = number(&state, "version").map_err(|error| error.located(&state_path))?;
    let counted = number(&counts, "catalogue_version").map_err(at_counts)?;
    let folded = number(&counts, "folded").map_err(at_counts)?.unsigned_abs();
    let id = text(&counts, "counts_id").map_err(at_counts)?.unwrap_or_default();
    let is_used = folded > 0 || counted > 0;
    match known {
        Some(known) if known == id => {}
        // At the first start, which may have been interrupted.
        None if !is_used => {
            let linked = state.execute("INSERT INTO meta VALUES ('counts_id', ?1)", [id]);
            linked.map_err(|error| StoreError::from(error).located(&state_path))?;
        }
        _ => return Err(mismatch(folder, format!("it belongs to another {}", STATE.file))),
    }
    if counted > version {
        let detail = format!("it was made with version {counted} of {}, which has version {version}", STATE.file);
        return Err(mismatch(folder, detail));
    }
    Ok(StateAndCounts { state, counts, store_id, folded })
}

fn mismatch(folder: &Path, detail: String) -> StoreError {
    StoreError::Mismatch { path: folder.join(COUNTS.file).display().to_string(), detail }
}

fn text(connection: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let found = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
    Ok(found.optional()?)
}

fn number(connection: &Connection, key: &str) -> Result<i64, StoreError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))?)
}

/// Makes `inroad.db` smaller if most of it is free, as after the move. The store works without that.
fn give_back_free_pages(state: &Connection) {
    let pages = |name: &str| state.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let make_smaller = || -> rusqlite::Result<()> {
        let free = pages("freelist_count")?;
        if free >= MANY_FREE_PAGES && free > pages("page_count")? / 2 {
            state.execute_batch("VACUUM")?;
        }
        Ok(())
    };
    if let Err(error) = make_smaller() {
        tracing::warn!(%error, "{} keeps the space of the moved counts", STATE.file);
    }
}

/// Copies the counts that an earlier release left in `inroad.db`. Other processes do not copy the folder meanwhile.
pub(super) fn move_counts(folder: &Path, state: Tuning, counts: Tuning) -> Result<(), StoreError> {
    let path = folder.join(STATE.file);
    let at_state = |error: rusqlite::Error| StoreError::from(error).located(&path);
    if !path.is_file() {
        return Ok(());
    }
    let version = database::version(folder, STATE)?;
    if version.is_none_or(|version| version == 0 || version > LAST_STATE_WITH_COUNTS) {
        return Ok(());
    }
    let _guard = maintenance_lock::acquire_from_outside(folder)?;
    let old = database::open(folder, STATE.as_of(LAST_STATE_WITH_COUNTS), state)?;
    let (old_folded, old_version) = (number(&old, "folded")?, number(&old, "version")?);
    drop(old);
    check_space(folder, &path)?;
    tracing::info!(folder = %folder.display(), "moving the counts to {}; this happens once", COUNTS.file);
    let counts_path = folder.join(COUNTS.file);
    let mut counts = database::open(folder, COUNTS, counts)?;
    // After an interrupted move they are equal.
    if number(&counts, "folded")? > old_folded || number(&counts, "catalogue_version")? > old_version {
        return Err(mismatch(folder, format!("it is newer than {}", STATE.file)));
    }
    // The sorting of many records must not need their size in memory.
    let to_disk = counts.pragma_update(None, "temp_store", "FILE");
    to_disk.map_err(|error| StoreError::from(error).located(&counts_path))?;
    counts.execute("ATTACH ?1 AS old", [path.to_string_lossy()]).map_err(at_state)?;
    let copy = |counts: &mut Connection| -> rusqlite::Result<()> {
        let transaction = counts.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // An index is built faster than it is changed.
        let index = "SELECT sql FROM main.sqlite_schema WHERE name = 'unit_by_unit_digest'";
        let index: String = transaction.query_row(index, [], |row| row.get(0))?;
        transaction.execute_batch("DROP INDEX main.unit_by_unit_digest")?;
        for table in ["outcome", "unit", "counted", "tally"] {
            // Columns that the old table does not have get their default.
            let columns = "SELECT group_concat(name) FROM pragma_table_info(?1, 'old')";
            let columns: String = transaction.query_row(columns, [table], |row| row.get(0))?;
            transaction.execute_batch(&format!(
                "DELETE FROM main.{table}; INSERT INTO main.{table} ({columns}) SELECT {columns} FROM old.{table}"
            ))?;
        }
        transaction.execute_batch(&index)?;
        transaction.execute_batch(
            "UPDATE main.meta SET value = (SELECT value FROM old.meta WHERE key = 'folded') WHERE key = 'folded';
             UPDATE main.meta SET value = (SELECT value FROM old.meta WHERE key = 'version')
                WHERE key = 'catalogue_version'",
        )?;
        transaction.commit()
    };
    copy(&mut counts).map_err(|error| StoreError::from(error).located(&counts_path))?;
    let link = "INSERT OR REPLACE INTO old.meta SELECT * FROM main.meta WHERE key = 'counts_id'; DETACH old";
    counts.execute_batch(link).map_err(at_state)
}

/// Refuses a move for which the disk has no room: the copy is written to the write-ahead log first, and then to
/// the file, and its index is larger than it was.
fn check_space(folder: &Path, state: &Path) -> Result<(), StoreError> {
    let path = state.display().to_string();
    let failed = |error: std::io::Error| StoreError::CannotOpen {
        path: path.clone(),
        detail: format!("the free space of the disk is unknown: {error}"),
    };
    let needed = SPACE_FACTOR * state.metadata().map_err(failed)?.len();
    let disk = rustix::fs::statvfs(folder).map_err(|error| failed(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Err(StoreError::NoRoomToUpgrade { path, needed_mib: needed.div_ceil(1 << 20), free_mib: free >> 20 });
    }
    Ok(())
}
