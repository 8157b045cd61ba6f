//! The only connection that writes the catalogue. Callers take turns in the order in which they came: SQLite's own busy
//! wait has no order.

use std::path::PathBuf;

use rusqlite::Connection;
use tokio::sync::Mutex;

use crate::error::StoreError;

/// The connection, until it is closed.
pub(crate) struct StateWriter {
    connection: Mutex<Option<Connection>>,
    path: PathBuf,
}

impl StateWriter {
    /// Takes over a connection to the file at `path`.
    pub(crate) fn new(connection: Connection, path: PathBuf) -> Self {
        Self { connection: Mutex::new(Some(connection)), path }
    }

    /// Waits for its turn, then runs `work`. Blocks: do not call it from an async task.
    pub(crate) fn with_connection<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.blocking_lock();
        let connection = connection.as_mut().ok_or(StoreError::Closed)?;
        work(connection).map_err(|error| error.located(&self.path))
    }

    /// Checkpoints the write-ahead log and closes the connection.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let Some(connection) = self.connection.blocking_lock().take() else { return Ok(()) };
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        connection.close().map_err(|(_, error)| StoreError::from(error).located(&self.path))
    }
}
