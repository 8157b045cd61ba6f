//! The errors of a store, separated by what the caller can do about them.

use std::time::Duration;

use thiserror::Error;

/// Why a store could not do what was requested. A failed operation changes nothing.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Another caller changed the experiment first.
    #[error("the experiment was changed in the meantime: read it again and repeat the change")]
    Conflict,
    /// An experiment with this key exists already.
    #[error("experiment {0:?} exists already: update it, or choose another key")]
    ExperimentExists(String),
    /// The change would break I2. This is a bug in Inroad, not in the request.
    #[error("refused to store revision {revision} of {experiment:?}: it takes points from a variation")]
    NotMonotone {
        /// The experiment's key.
        experiment: String,
        /// The refused revision.
        revision: u32,
    },
    /// The queue is full; no event was accepted.
    #[error("the event queue is full: try again in {} ms", .retry_after.as_millis())]
    QueueFull {
        /// How long to wait before trying again.
        retry_after: Duration,
    },
    /// The disk is full; nothing was written.
    #[error("the disk with {path} is full: free space there, and the server continues without a restart")]
    DiskFull {
        /// The store's folder.
        path: String,
    },
    /// The database was written by a newer Inroad.
    #[error(
        "{path} has schema version {found}, and this program supports up to {known}: run the newer program that wrote it"
    )]
    NewerSchema {
        /// The file.
        path: String,
        /// The file's schema version.
        found: u32,
        /// The last version that this program supports.
        known: u32,
    },
    /// The file is damaged or not an Inroad database.
    #[error(
        "{path} is damaged or not an Inroad database ({detail}): restore it from a backup, or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file of the folder does not belong to the others.
    #[error(
        "{path} does not belong to the other files of its folder ({detail}): restore inroad.db, counts.db and log.db from one \
         copy, or move all three away to start empty"
    )]
    Mismatch {
        /// The file.
        path: String,
        /// Why it does not belong to them.
        detail: String,
    },
    /// Another process has the store open.
    #[error("{path} is in use by another process: stop that process, or choose another folder with --data")]
    InUse {
        /// The folder.
        path: String,
    },
    /// The folder for a copy already contains a store.
    #[error("{path} already contains a store, which was not changed: choose another folder for the copy")]
    CopyExists {
        /// The folder.
        path: String,
    },
    /// The folder for a copy cannot be written.
    #[error("cannot copy to {path}: {detail}; choose a folder that can be written")]
    CannotCopy {
        /// The folder.
        path: String,
        /// The system's message.
        detail: String,
    },
    /// The folder to copy contains no store.
    #[error("there is no store in {path}: name the server's data folder with --data")]
    NoStore {
        /// The folder.
        path: String,
    },
    /// The folder or a file in it cannot be opened or written.
    #[error("cannot open {path}: {detail}; choose a folder that can be written with --data")]
    CannotOpen {
        /// The file or folder.
        path: String,
        /// The system's message.
        detail: String,
    },
    /// The disk has no room for the copy that an upgrade makes; nothing was changed.
    #[error(
        "{path} is from an earlier release, and its counts move to a file of their own, which needs {needed_mib} MiB of the \
         disk, of which {free_mib} MiB are free: free space there and start again. Nothing was changed"
    )]
    NoRoomToUpgrade {
        /// The file.
        path: String,
        /// The space that the upgrade needs, in MiB.
        needed_mib: u64,
        /// The free space, in MiB.
        free_mib: u64,
    },
    /// Nobody waits for the answer any more.
    #[error("the caller has left before the answer was computed")]
    CallerLeft,
    /// Any other failure of the database.
    #[error("the store failed: {0}")]
    Database(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
