//! The lineage of the data. If somebody replaces the data folder by an older copy, the store id stays the same, and
//! versions with the same numbers get another content. So each opening draws a lineage, and remembers at which version
//! each earlier one ended:
//!
//! ```text
//!  data folder     L1 ──── 40 │ L2 ──── 55 │ L3 ─────►        a client with version 30 of L1 or 50 of L2 can continue
//!  older copy      L1 ──── 40 │ L4 ─────►                     one with version 50 of L2 gets everything
//! ```

use rusqlite::Connection;

/// How many lineages are remembered. A client that was disconnected for more restarts gets everything.
const REMEMBERED: usize = 1_000;

/// The lineages that the data has had.
#[derive(Debug)]
pub(super) struct Lineages {
    current: String,
    /// Earlier lineages, each with the last version in it.
    ended: Vec<(String, u64)>,
}

impl Lineages {
    /// Begins a lineage at the current version of the catalogue.
    pub(super) fn begin(connection: &Connection) -> rusqlite::Result<Self> {
        // One lineage ends where the next one begins.
        let mut statement = connection.prepare(
            "SELECT id, lead(began_after) OVER (ORDER BY number) AS ended_at FROM lineage ORDER BY number DESC LIMIT ?1",
        )?;
        let version: i64 =
            connection.query_row("SELECT value FROM meta WHERE key = 'version'", [], |row| row.get(0))?;
        let rows = statement.query_map([REMEMBERED as i64], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(version)))
        })?;
        let ended = rows.map(|row| row.map(|(id, last)| (id, last.unsigned_abs()))).collect::<Result<_, _>>()?;
        let current = connection.query_row(
            "INSERT INTO lineage (id, began_after) VALUES (lower(hex(randomblob(16))), ?1) RETURNING id",
            [version],
            |row| row.get(0),
        )?;
        connection.execute(
            "DELETE FROM lineage WHERE number <= (SELECT max(number) FROM lineage) - ?1",
            [REMEMBERED as i64],
        )?;
        Ok(Self { current, ended })
    }

    /// The lineage to which new versions belong.
    pub(super) fn current(&self) -> &str {
        &self.current
    }

    /// Whether the data contains everything up to `version` of a lineage.
    pub(super) fn contain(&self, id: &str, version: u64) -> bool {
        id == self.current || self.ended.iter().any(|(ended, last)| ended == id && version <= *last)
    }
}
