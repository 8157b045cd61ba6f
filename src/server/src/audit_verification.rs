//! Verifies the chain of the audit log in a data folder, whether or not a server is running on it.

use std::path::Path;

use inroad_store::SqliteStore;
pub use inroad_store::{AuditHash, AuditVerification, ChainFault};

use crate::error::ServerError;

/// Verifies every entry of the audit log in a folder, or in a copy of it. If `expected` is given, an entry must have this
/// hash: a log that was cut off or rewritten, is found only against a hash that was noted elsewhere. Blocks, and
/// changes nothing. A fault in the chain is part of the result.
///
/// # Errors
/// [`ServerError::Store`] if the folder has no readable store.
pub fn verify_audit(folder: &Path, expected: Option<AuditHash>) -> Result<AuditVerification, ServerError> {
    Ok(SqliteStore::verify_audit(folder, expected)?)
}
