//! Copies a server's data folder, whether or not a server is running on it.

use std::path::Path;

use inroad_store::{BackupSummary, SqliteStore};

use crate::error::ServerError;

/// Copies the embedded store of folder `from` into folder `to`, which must have none. The copy is complete and
/// consistent as of one moment. Blocks until it is done. A server that runs on `from` keeps serving; only pruning and
/// forgetting wait.
///
/// # Errors
/// [`ServerError::Store`] with [`StoreError::NoStore`](inroad_store::StoreError::NoStore),
/// [`StoreError::CopyExists`](inroad_store::StoreError::CopyExists) or an I/O error.
pub fn backup(from: &Path, to: &Path) -> Result<BackupSummary, ServerError> {
    Ok(SqliteStore::copy(from, to)?)
}
