//! Copies a store while it serves. The counts, with the fold's offset, are copied first, then the catalogue and the log:
//! so the copy's catalogue and log reach at least as far as its counts. To restore, open the folder. The caller has the lock
//! of [`super::maintenance_lock`], so nothing is pruned or blanked in between.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::column_values::corrupt;
use super::database;
use super::schema::{COUNTS, LAST_STATE_WITH_COUNTS, LOG, STATE, Schema};
use crate::error::StoreError;
use crate::maintenance::BackupSummary;

/// How long to wait for another connection that checkpoints or recovers a file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Copies the files into a folder that contains none of them.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<BackupSummary, StoreError> {
    let io = |error: std::io::Error| copy_failed(to, error);
    if [STATE, COUNTS, LOG].iter().any(|schema| to.join(schema.file).exists()) {
        return Err(StoreError::CopyExists { path: to.display().to_string() });
    }
    // An earlier release has the counts in the same file as the catalogue.
    let has_counts = database::version(from, STATE)?.is_none_or(|version| version > LAST_STATE_WITH_COUNTS);
    let counts = if has_counts { COUNTS } else { STATE };
    let schemas: &[Schema] = if has_counts { &[COUNTS, STATE, LOG] } else { &[STATE, LOG] };
    if !schemas.iter().all(|schema| from.join(schema.file).is_file()) {
        return Err(StoreError::NoStore { path: from.display().to_string() });
    }
    std::fs::create_dir_all(to).map_err(io)?;
    // The files have other names until all are complete, so that half a copy is not mistaken for a store.
    let unfinished = |schema: Schema| to.join(format!("{}.unfinished", schema.file));
    let remove = |schema: Schema| match std::fs::remove_file(unfinished(schema)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(error)),
        _ => Ok(()),
    };
    let made = (|| {
        for schema in schemas {
            remove(*schema)?;
            copy_file(&from.join(schema.file), &unfinished(*schema), *schema)?;
        }
        set_new_ids(&unfinished(STATE), has_counts.then(|| unfinished(COUNTS)).as_deref())?;
        check_copy(&unfinished(STATE), &unfinished(counts), &unfinished(LOG))
    })();
    let copied = made.inspect_err(|_| {
        // Free the space, above all if the disk was full. Files that cannot be removed are overwritten by the next
        // copy.
        schemas.iter().for_each(|schema| drop(remove(*schema)));
    })?;
    // The catalogue first: without the counts or the log it is refused when opened, but these alone would be opened as a
    // store without experiments.
    for schema in [STATE, COUNTS, LOG].iter().filter(|schema| schemas.contains(schema)) {
        std::fs::rename(unfinished(*schema), to.join(schema.file)).map_err(io)?;
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(io)?;
    let size = |schema: &Schema| std::fs::metadata(to.join(schema.file)).map_or(0, |file| file.len());
    Ok(BackupSummary { bytes: schemas.iter().map(size).sum(), ..copied })
}

fn copy_file(from: &Path, to: &Path, schema: Schema) -> Result<(), StoreError> {
    let open = || -> Result<Connection, StoreError> {
        let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        if !schema.matches(&connection)? {
            let detail = "another program's database".to_owned();
            return Err(StoreError::Corrupt { path: String::new(), detail });
        }
        Ok(connection)
    };
    let connection = open().map_err(|error| error.located(from))?;
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(|error| {
        match StoreError::from(error).located(to) {
            StoreError::CannotOpen { detail, .. } => copy_failed(to, detail),
            other => other,
        }
    })?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| copy_failed(to, error))
}

/// Gives the copy its own store id. Clients ignore a replica that is behind what they know, and they must not mistake
/// the copy for such a replica of its source: they would ignore even a kill (I8). Its counts get their own id too, so that
/// they are not mistaken for those of another copy.
fn set_new_ids(state: &Path, counts: Option<&Path>) -> Result<(), StoreError> {
    let update = |path: &Path, key: &str, value: &str| {
        let update = || -> Result<(), StoreError> {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [key, value])?;
            connection.close().map_err(|(_, error)| error)?;
            Ok(())
        };
        update().map_err(|error| error.located(path))?;
        File::open(path).and_then(|file| file.sync_all()).map_err(|error| copy_failed(path, error))
    };
    update(state, "store_id", &random_id()?)?;
    let Some(counts) = counts else { return Ok(()) };
    let id = random_id()?;
    update(state, "counts_id", &id)?;
    update(counts, "counts_id", &id)
}

fn random_id() -> Result<String, StoreError> {
    let connection = Connection::open_in_memory()?;
    Ok(connection.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0))?)
}

fn copy_failed(to: &Path, why: impl std::fmt::Display) -> StoreError {
    StoreError::CannotCopy { path: to.display().to_string(), detail: why.to_string() }
}

/// Checks that the files of a copy match, and summarises them without their size.
fn check_copy(state: &Path, counts: &Path, log: &Path) -> Result<BackupSummary, StoreError> {
    let read_number = |path: &Path, sql: &str| -> Result<u64, StoreError> {
        let read = || Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?.query_row(sql, [], unsigned);
        read().map_err(|error| StoreError::from(error).located(path))
    };
    let experiments = read_number(state, "SELECT count(*) FROM experiment")?;
    let folded = read_number(counts, "SELECT value FROM meta WHERE key = 'folded'")?;
    let head = "SELECT max((SELECT value FROM meta WHERE key = 'head'), coalesce((SELECT max(seq) FROM log), 0))";
    let head = read_number(log, head)?;
    // The log must contain every event that the copy has not counted: its oldest event must come at or before the one
    // after the fold's offset.
    let next = read_number(log, &format!("SELECT coalesce(min(seq), {}) FROM log", head.saturating_add(1)))?;
    if head < folded || next > folded.saturating_add(1) {
        let message = format!("the log has events {next} to {head}, but {folded} were counted");
        return Err(corrupt("the copy", message).located(log));
    }
    Ok(BackupSummary { experiments, head, folded, bytes: 0 })
}

fn unsigned(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(0)?.unsigned_abs())
}
