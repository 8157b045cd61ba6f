//! What can go wrong in a store, told apart by what the caller can do about it.

use std::time::Duration;

use thiserror::Error;

/// Why a store did not do what it was asked. Nothing was half done.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Somebody else changed the experiment first.
    #[error("the experiment was changed meanwhile: read it again and repeat the change")]
    Conflict,
    /// There is an experiment with this key already.
    #[error("experiment {0:?} exists already: update it, or choose another key")]
    Exists(String),
    /// I2 would be broken. This is a fault in Inroad, not in the request.
    #[error("refused to store revision {revision} of {experiment:?}: it takes points from a variation")]
    NotMonotone {
        /// Which experiment.
        experiment: String,
        /// The revision that was refused.
        revision: u32,
    },
    /// The queue is full; nothing was taken.
    #[error("the event queue is full: try again in {} ms", .retry_after.as_millis())]
    Busy {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The disk is full; nothing was taken.
    #[error("the disk that holds {path} is full: free space there, the server goes on by itself")]
    DiskFull {
        /// The store's folder.
        path: String,
    },
    /// The database was written by a newer Inroad.
    #[error(
        "{path} has schema version {found}, and this program knows up to {known}: run the newer program that wrote it"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
        /// The last version known here.
        known: u32,
    },
    /// The file is no database, or a damaged one.
    #[error(
        "{path} is damaged or not an Inroad database ({detail}): restore it from a backup, or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What the database said.
        detail: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process: stop that one, or choose another folder with --store")]
    InUse {
        /// The folder.
        path: String,
    },
    /// A copy was to be made where a store is.
    #[error("{path} has a store in it already, which is left as it is: choose another folder for the copy")]
    CopyExists {
        /// The folder.
        path: String,
    },
    /// A copy cannot be written where it was to be made.
    #[error("cannot copy to {path}: {detail}; choose a folder that can be written")]
    CannotCopy {
        /// The folder.
        path: String,
        /// What the system said.
        detail: String,
    },
    /// There is nothing to copy.
    #[error("there is no store in {path}: name the server's data folder with --data")]
    NoStore {
        /// The folder.
        path: String,
    },
    /// The folder or a file in it cannot be opened or written.
    #[error("cannot open {path}: {detail}; choose a folder that can be written with --data")]
    Open {
        /// The file or folder.
        path: String,
        /// What the system said.
        detail: String,
    },
    /// Anything else that the database said.
    #[error("the store failed: {0}")]
    Database(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
