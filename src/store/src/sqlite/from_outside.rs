//! What a process may do with a store that it does not have open, and that another process may serve from: copy it, and
//! verify its audit log.

use std::path::Path;

use super::schema::{LOG, STATE};
use super::{SqliteStore, audit_verification, backup, maintenance_lock};
use crate::audit_chain::{AuditHash, AuditVerification};
use crate::error::StoreError;
use crate::maintenance::BackupSummary;

impl SqliteStore {
    /// Copies the store in one folder to another, from a process that does not have it open; another process may serve
    /// from it. Blocks.
    ///
    /// # Errors
    /// [`StoreError::NoStore`], [`StoreError::CopyExists`], [`StoreError::CannotCopy`], [`StoreError::CannotOpen`],
    /// [`StoreError::DiskFull`].
    pub fn copy(from: &Path, to: &Path) -> Result<BackupSummary, StoreError> {
        if ![STATE, LOG].iter().all(|schema| from.join(schema.file).is_file()) {
            return Err(StoreError::NoStore { path: from.display().to_string() });
        }
        let _guard = maintenance_lock::acquire_from_outside(from)?;
        backup::copy(from, to)
    }

    /// Verifies the chain of the audit log in a folder, which another process may serve from. If `expected` is given, an
    /// entry must have this hash. Blocks.
    ///
    /// # Errors
    /// [`StoreError::NoStore`], [`StoreError::NewerSchema`], [`StoreError::Corrupt`], [`StoreError::CannotOpen`].
    pub fn verify_audit(folder: &Path, expected: Option<AuditHash>) -> Result<AuditVerification, StoreError> {
        let path = folder.join(STATE.file);
        if !path.is_file() {
            return Err(StoreError::NoStore { path: folder.display().to_string() });
        }
        audit_verification::verify(&path, expected).map_err(|error| error.located(&path))
    }
}
