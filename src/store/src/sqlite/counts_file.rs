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
use super::schema::{COUNTS, LAST_STATE_WITH_COUNTS, STATE};
use crate::error::StoreError;

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
    let is_moved = move_counts(folder, state, counts)?;
    let has_counts = folder.join(COUNTS.file).is_file();
    let state = database::open(folder, STATE, state)?;
    if is_moved {
        // Gives the pages of the dropped tables back to the disk.
        state.execute_batch("VACUUM").map_err(|error| StoreError::from(error).located(&folder.join(STATE.file)))?;
    }
    let meta = |key: &str| text(&state, key).map_err(|error| error.located(&folder.join(STATE.file)));
    let (store_id, known) = (meta("store_id")?.unwrap_or_default(), meta("counts_id")?);
    if known.is_some() && !has_counts {
        return Err(mismatch(folder, "it is missing".to_owned()));
    }
    let counts = database::open(folder, COUNTS, counts)?;
    check_and_link(folder, &state, &counts, known)?;
    let folded = number(&counts, "folded").map_err(|error| error.located(&folder.join(COUNTS.file)))?.unsigned_abs();
    Ok(StateAndCounts { state, counts, store_id, folded })
}

/// Checks that the files belong together, and makes new ones belong together.
fn check_and_link(
    folder: &Path,
    state: &Connection,
    counts: &Connection,
    known: Option<String>,
) -> Result<(), StoreError> {
    let (state_path, counts_path) = (folder.join(STATE.file), folder.join(COUNTS.file));
    let version = number(state, "version").map_err(|error| error.located(&state_path))?;
    let at_counts = |error: StoreError| error.located(&counts_path);
    let counted = number(counts, "catalogue_version").map_err(at_counts)?;
    let id = text(counts, "counts_id").map_err(at_counts)?.unwrap_or_default();
    if known.as_ref().is_some_and(|known| *known != id) {
        return Err(mismatch(folder, format!("it belongs to another {}", STATE.file)));
    }
    if counted > version {
        let detail = format!("it was made with version {counted} of {}, which has version {version}", STATE.file);
        return Err(mismatch(folder, detail));
    }
    if known.is_none() {
        let linked = state.execute("INSERT INTO meta VALUES ('counts_id', ?1)", [id]);
        linked.map_err(|error| StoreError::from(error).located(&state_path))?;
    }
    Ok(())
}

fn mismatch(folder: &Path, detail: String) -> StoreError {
    StoreError::Corrupt { path: folder.join(COUNTS.file).display().to_string(), detail }
}

fn text(connection: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let found = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
    Ok(found.optional()?)
}

fn number(connection: &Connection, key: &str) -> Result<i64, StoreError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))?)
}

/// Copies the counts that an earlier release left in `inroad.db`. Returns whether there were any.
fn move_counts(folder: &Path, state: Tuning, counts: Tuning) -> Result<bool, StoreError> {
    let path = folder.join(STATE.file);
    let at_state = |error: rusqlite::Error| StoreError::from(error).located(&path);
    if !path.is_file() {
        return Ok(false);
    }
    let version = database::version(folder, STATE)?;
    if version.is_none_or(|version| version == 0 || version > LAST_STATE_WITH_COUNTS) {
        return Ok(false);
    }
    drop(database::open(folder, STATE.as_of(LAST_STATE_WITH_COUNTS), state)?);
    tracing::info!(folder = %folder.display(), "moving the counts to {}; this happens once", COUNTS.file);
    let mut counts = database::open(folder, COUNTS, counts)?;
    counts.execute("ATTACH ?1 AS old", [path.to_string_lossy()]).map_err(at_state)?;
    let copy = |counts: &mut Connection| -> rusqlite::Result<()> {
        let transaction = counts.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // An index is built faster than it is changed.
        transaction.execute_batch("DROP INDEX unit_by_unit_digest")?;
        for table in ["outcome", "unit", "counted", "tally"] {
            transaction.execute_batch(&format!(
                "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM old.{table}"
            ))?;
        }
        transaction.execute_batch(
            "CREATE INDEX unit_by_unit_digest ON unit (unit_digest);
             UPDATE main.meta SET value = (SELECT value FROM old.meta WHERE key = 'folded') WHERE key = 'folded'",
        )?;
        transaction.commit()
    };
    copy(&mut counts).map_err(|error| StoreError::from(error).located(&folder.join(COUNTS.file)))?;
    counts.execute_batch("DETACH old").map_err(at_state)?;
    Ok(true)
}
