//! Who may prune the log, blank keys in it or copy it: one at a time, whatever process it is in. A copy takes the counts
//! first and the log after; were events pruned in between, or keys blanked that the copy has yet to count, it would
//! count something else than the store it was taken of.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use crate::error::StoreError;

/// How often to ask again for a turn that another process has.
const PAUSE: Duration = Duration::from_millis(100);

/// The turns of one folder.
pub(crate) struct Tidying {
    /// In this process, in the order in which they came.
    here: Mutex<()>,
    path: PathBuf,
}

/// A turn; over when dropped.
pub(crate) struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    _everywhere: File,
}

impl Tidying {
    /// The turns of a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { here: Mutex::new(()), path: file(folder) }
    }

    /// Waits for a turn. Asks again and again instead of blocking, so that a server that stops can give up waiting.
    pub(crate) async fn turn(&self) -> Result<Turn<'_>, StoreError> {
        let here = self.here.lock().await;
        let everywhere = open(&self.path)?;
        loop {
            match everywhere.try_lock() {
                Ok(()) => return Ok(Turn { _here: here, _everywhere: everywhere }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::Error(error)) => return Err(refused(&self.path, &error)),
            }
        }
    }
}

/// Waits for a turn from outside the process that has the folder open. Blocks.
pub(crate) fn turn_from_outside(folder: &Path) -> Result<File, StoreError> {
    let path = file(folder);
    let everywhere = open(&path)?;
    everywhere.lock().map_err(|error| refused(&path, &error))?;
    Ok(everywhere)
}

fn file(folder: &Path) -> PathBuf {
    folder.join("inroad.tidying")
}

fn open(path: &Path) -> Result<File, StoreError> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Open { path: path.display().to_string(), detail: error.to_string() }
}
