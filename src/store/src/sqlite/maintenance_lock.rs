//! The lock for operations that must not overlap: pruning the log, blanking keys in it and copying the store. It also
//! excludes other processes. A copy takes the counts first and the log after them. If events were pruned in between, or
//! keys blanked that the copy has not counted yet, the counts of the copy would differ from those of its source.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use crate::error::StoreError;

/// How often to retry while another process has the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The lock of one folder.
pub(crate) struct MaintenanceLock {
    /// Orders the callers in this process.
    in_process: Mutex<()>,
    path: PathBuf,
}

/// The acquired lock, released on drop.
pub(crate) struct MaintenanceGuard<'a> {
    _in_process: MutexGuard<'a, ()>,
    _file: File,
}

impl MaintenanceLock {
    /// The lock of this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { in_process: Mutex::new(()), path: lock_file(folder) }
    }

    /// Waits for the lock. It retries instead of blocking, so that a server that stops can give up waiting.
    pub(crate) async fn acquire(&self) -> Result<MaintenanceGuard<'_>, StoreError> {
        let in_process = self.in_process.lock().await;
        let file = open(&self.path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(MaintenanceGuard { _in_process: in_process, _file: file }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(TryLockError::Error(error)) => return Err(cannot_open(&self.path, &error)),
            }
        }
    }
}

/// Waits for the lock from a process other than the one that serves from the folder. Blocks. The lock is released when
/// the file is dropped.
pub(crate) fn acquire_from_outside(folder: &Path) -> Result<File, StoreError> {
    let path = lock_file(folder);
    let file = open(&path)?;
    file.lock().map_err(|error| cannot_open(&path, &error))?;
    Ok(file)
}

fn lock_file(folder: &Path) -> PathBuf {
    // Older releases use this name too, and must be excluded as well.
    folder.join("inroad.tidying")
}

fn open(path: &Path) -> Result<File, StoreError> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(|error| cannot_open(path, &error))
}

fn cannot_open(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::CannotOpen { path: path.display().to_string(), detail: error.to_string() }
}
