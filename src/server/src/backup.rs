//! A copy of a server's data folder, whether a server serves from it or not.

use std::path::Path;

use inroad_store::{Copied, SqliteStore};

use crate::error::ServerError;

/// Copies the embedded store of folder `from` into `to`, which has none; of one moment, and whole. Blocks for as long as
/// that takes. A server that serves from `from` goes on meanwhile, but for pruning and forgetting, which wait.
///
/// # Errors
/// [`ServerError::Store`] with [`StoreError::NoStore`](inroad_store::StoreError::NoStore) or
/// [`StoreError::CopyExists`](inroad_store::StoreError::CopyExists), or what the disk said.
pub fn backup(from: &Path, to: &Path) -> Result<Copied, ServerError> {
    Ok(SqliteStore::copy(from, to)?)
}
