//! The lock that admits one process to a data folder. Its file may be deleted by people who tidy up; the folder itself is
//! locked as well, so that this does not admit a second server.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::StoreError;

/// The locks of one process on a folder, released on drop.
pub(crate) struct FolderLock {
    /// Earlier releases lock only this file.
    _file: File,
    /// The folder itself: unlike a file in it, nobody deletes it while the database is in use. None where folders cannot
    /// be locked.
    _folder: Option<File>,
}

impl FolderLock {
    /// Locks the folder for this process.
    pub(crate) fn acquire(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("inroad.lock");
        let cannot_open = |error: std::io::Error| StoreError::CannotOpen {
            path: path.display().to_string(),
            detail: error.to_string(),
        };
        std::fs::create_dir_all(folder).map_err(cannot_open)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot_open)?;
        let in_use = || StoreError::InUse { path: folder.display().to_string() };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            Err(TryLockError::Error(error)) => return Err(cannot_open(error)),
        }
        // Windows opens no folders, and does not delete a file that is open; some network file systems lock no folders.
        let locked = File::open(folder).ok().map(|opened| opened.try_lock().map(|()| opened));
        match locked {
            Some(Err(TryLockError::WouldBlock)) => Err(in_use()),
            Some(Ok(opened)) => Ok(Self { _file: file, _folder: Some(opened) }),
            Some(Err(TryLockError::Error(_))) | None => Ok(Self { _file: file, _folder: None }),
        }
    }
}
