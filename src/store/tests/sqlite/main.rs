//! The SQLite store: the contract suite of all stores, and tests of its files: damaged, foreign, older, newer, in use
//! or on a full disk.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "a test may panic, also in its helpers")]

mod audit_chain;
mod batches;
mod concurrency;
#[path = "../contract/mod.rs"]
mod contract;
mod cost;
mod decisions;
mod erasure_and_copies;
mod full_disk;
mod opening;
mod upgrades;

use std::path::Path;
use std::sync::Arc;

use contract::block_on;
use contract::world::{all_metrics, arm, at, experiment_change, exposure, key, outcome, started_experiment};
use inroad_assignment::Arm;
use inroad_store::{Event, ExposureEvent, ForgetRequest, PageRequest, SqliteOptions, SqliteStore, Store, StoreError};
use rusqlite::Connection;

store_contract_suite!(|folder| Ok(Arc::new(SqliteStore::open(folder, SqliteOptions::default())?) as Arc<dyn Store>));

/// The same suite with small limits, which exercises code that otherwise runs only in a large store.
mod small_limits {
    use super::*;

    store_contract_suite!(|folder| {
        let options = SqliteOptions {
            fold_step_events: 17,
            remembered_exposures: 20,
            cache_mib: 1,
            // Another number after a restart, depending on the history, so that records of both layouts meet.
            outcomes_without_sums: std::fs::metadata(folder.join("log.db"))
                .map_or(2, |log| log.len() as usize / 4096 % 3),
            ..SqliteOptions::default()
        };
        Ok(Arc::new(SqliteStore::open(folder, options)?) as Arc<dyn Store>)
    });
}

fn open(folder: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(folder, SqliteOptions::default())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
