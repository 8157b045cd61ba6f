//! A copy while serving: the state first, with the fold's offset in it, and the log after, so that the copy's log
//! reaches at least as far as the copy's counts. Restoring is opening the folder.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::schema::{LOG, STATE};
use crate::error::StoreError;

/// Copies both files into a folder that holds neither.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let refused = |detail: String| StoreError::Open { path: to.display().to_string(), detail };
    let io = |error: std::io::Error| refused(error.to_string());
    std::fs::create_dir_all(to).map_err(io)?;
    let files = [STATE.file, LOG.file];
    if let Some(file) = files.iter().find(|file| to.join(file).exists()) {
        return Err(refused(format!("{file} is there already: choose a folder without one")));
    }
    // Under another name until both are whole: half a backup must not pass for one.
    let unfinished = |file: &str| to.join(format!("{file}.unfinished"));
    for file in files {
        let target = unfinished(file);
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let connection = Connection::open_with_flags(from.join(file), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|error| StoreError::from(error).located(&from.join(file)))?;
        connection
            .execute("VACUUM INTO ?1", [target.to_string_lossy()])
            .map_err(|error| StoreError::from(error).located(to))?;
        File::open(&target).and_then(|file| file.sync_all()).map_err(io)?;
    }
    for file in files {
        std::fs::rename(unfinished(file), to.join(file)).map_err(io)?;
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(io)
}
