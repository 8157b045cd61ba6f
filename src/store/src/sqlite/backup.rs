//! A copy while serving: the state first, with the fold's offset in it, and the log after, so that the copy's log
//! reaches at least as far as the copy's counts. Restoring is opening the folder. Whoever copies has a turn of
//! [`super::tidying`]: nothing is pruned or blanked in between.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::rows::damaged;
use super::schema::{LOG, STATE, Schema};
use crate::error::StoreError;
use crate::upkeep::Copied;

/// How long a file may be held by whoever checkpoints or recovers it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Copies both files into a folder that holds neither.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<Copied, StoreError> {
    let io = |error: std::io::Error| cannot(to, error);
    let files = [STATE, LOG].map(|schema| schema.file);
    if files.iter().any(|file| to.join(file).exists()) {
        return Err(StoreError::CopyExists { path: to.display().to_string() });
    }
    std::fs::create_dir_all(to).map_err(io)?;
    // Under another name until both are whole: half a copy must not pass for one.
    let unfinished = |file: &str| to.join(format!("{file}.unfinished"));
    let remove = |file: &str| match std::fs::remove_file(unfinished(file)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(error)),
        _ => Ok(()),
    };
    let made = (|| {
        for schema in [STATE, LOG] {
            remove(schema.file)?;
            copy_file(&from.join(schema.file), &unfinished(schema.file), schema)?;
        }
        name_anew(&unfinished(STATE.file))?;
        look(&unfinished(STATE.file), &unfinished(LOG.file))
    })();
    let copied = made.inspect_err(|_| {
        // The room is wanted back, most of all when the disk was full. What is left is overwritten the next time.
        let _ = files.map(remove);
    })?;
    // The state first: alone it is refused when opened, where a log alone would pass for a store without experiments.
    for file in files {
        std::fs::rename(unfinished(file), to.join(file)).map_err(io)?;
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(copied)
}

fn copy_file(from: &Path, to: &Path, schema: Schema) -> Result<(), StoreError> {
    let open = || -> Result<Connection, StoreError> {
        let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(PATIENCE)?;
        if !schema.is_of(&connection)? {
            let detail = "another program's database".to_owned();
            return Err(StoreError::Corrupt { path: String::new(), detail });
        }
        Ok(connection)
    };
    let connection = open().map_err(|error| error.located(from))?;
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(|error| {
        match StoreError::from(error).located(to) {
            StoreError::Open { detail, .. } => cannot(to, detail),
            other => other,
        }
    })?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| cannot(to, error))
}

/// A copy is another store from here on. Clients that know more of the one it was made of must not take it for a replica
/// of that one that lags behind, whose word they would not take: not even for a kill (I8).
fn name_anew(state: &Path) -> Result<(), StoreError> {
    let rename = || -> Result<(), StoreError> {
        let connection = Connection::open_with_flags(state, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute("UPDATE meta SET value = lower(hex(randomblob(16))) WHERE key = 'store_id'", [])?;
        connection.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    rename().map_err(|error| error.located(state))?;
    File::open(state).and_then(|file| file.sync_all()).map_err(|error| cannot(state, error))
}

fn cannot(to: &Path, why: impl std::fmt::Display) -> StoreError {
    StoreError::CannotCopy { path: to.display().to_string(), detail: why.to_string() }
}

/// What a copy holds, and that its halves agree.
fn look(state: &Path, log: &Path) -> Result<Copied, StoreError> {
    let one = |path: &Path, sql: &str| -> Result<u64, StoreError> {
        let read = || Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?.query_row(sql, [], number);
        read().map_err(|error| StoreError::from(error).located(path))
    };
    let experiments = one(state, "SELECT count(*) FROM experiment")?;
    let folded = one(state, "SELECT value FROM meta WHERE key = 'folded'")?;
    let head = "SELECT max((SELECT value FROM meta WHERE key = 'head'), coalesce((SELECT max(seq) FROM log), 0))";
    let head = one(log, head)?;
    // What the copy has yet to count must be in it: the oldest event is at most the next after the fold's offset.
    let next = one(log, &format!("SELECT coalesce(min(seq), {}) FROM log", head.saturating_add(1)))?;
    if head < folded || next > folded.saturating_add(1) {
        let fault = format!("the log has events {next} to {head}, and {folded} were counted");
        return Err(damaged("the copy", fault).located(log));
    }
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    Ok(Copied { experiments, head, folded, bytes: size(state) + size(log) })
}

fn number(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(0)?.unsigned_abs())
}
