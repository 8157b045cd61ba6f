//! What leaves the log: events that are old, and the raw key of a unit that is to be forgotten. Both are overwritten in
//! the file, not only unlinked from it: the log is opened with SQLite's `secure_delete`.

use inroad_assignment::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::rows::{bound, units_from_json, units_to_json};
use crate::error::StoreError;
use crate::event::Seq;

/// What stands where a forgotten key stood.
const FORGOTTEN: &str = "(forgotten)";

/// Writes all of it or nothing.
fn erasing<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// Deletes, of the oldest `limit` places, what was received before an instant and lies at or before `read_by_all`; the
/// places stay taken. Gives how many events went: there may be more as long as it is `limit`.
pub(crate) fn prune(
    connection: &mut Connection,
    before: Timestamp,
    read_by_all: Seq,
    limit: u64,
) -> Result<u64, StoreError> {
    erasing(connection, |transaction| {
        let oldest: i64 = transaction.query_row("SELECT coalesce(min(seq), 0) FROM log", [], |row| row.get(0))?;
        let up_to = bound(read_by_all).min(oldest.saturating_add(bound(limit) - 1));
        let keep_head =
            "UPDATE meta SET value = max(value, coalesce((SELECT max(seq) FROM log), 0)) WHERE key = 'head'";
        transaction.execute(keep_head, [])?;
        // The server's clock may have stepped back, so that times do not rise with places: the first event that is to
        // be kept keeps all after it, and the log is cut at one place.
        let cut = "SELECT coalesce(
            (SELECT seq - 1 FROM log WHERE seq <= ?1 AND received_at >= ?2 ORDER BY seq LIMIT 1), ?1)";
        let last: i64 = transaction.query_row(cut, params![up_to, before.as_micros()], |row| row.get(0))?;
        Ok(transaction.execute("DELETE FROM log WHERE seq <= ?1", [last])? as u64)
    })
}

/// An event that has a unit's raw key.
pub(crate) struct Named {
    pub(crate) seq: Seq,
    by: NamedBy,
}

/// Where an event has a unit's raw key.
enum NamedBy {
    /// It is the unit's own exposure.
    Exposure,
    /// It is another unit's exposure, whose context has the key.
    Context,
    /// Among the units of an outcome: these.
    Units(String),
}

/// The events that have one unit's raw key; `experiments` are those whose unit is of that type. In a context a key has no
/// type, whatever the attribute is called: what says it goes, as a whole. Reads the whole log.
pub(crate) fn named(
    connection: &Connection,
    unit_type: &str,
    unit: &str,
    experiments: &[String],
) -> Result<Vec<Named>, StoreError> {
    let experiments = serde_json::to_string(experiments).unwrap_or_default();
    let mut statement = connection.prepare(
        "SELECT seq, units, unit = ?2 AND experiment IN (SELECT value FROM json_each(?3)) AS own
         FROM log WHERE CASE WHEN units IS NULL
            THEN own OR json_valid(context) AND EXISTS (SELECT 1 FROM json_tree(context)
                WHERE type IN ('text', 'integer', 'real') AND CAST(atom AS TEXT) = ?2)
            ELSE EXISTS (SELECT 1 FROM json_each(units)
                WHERE json_extract(value, '$[0]') = ?1 AND json_extract(value, '$[1]') = ?2) END",
    )?;
    let rows = statement.query_map(params![unit_type, unit, experiments], |row| {
        let by = match row.get(1)? {
            Some(units) => NamedBy::Units(units),
            None if row.get(2)? => NamedBy::Exposure,
            None => NamedBy::Context,
        };
        Ok(Named { seq: row.get::<_, i64>(0)? as Seq, by })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Blanks the unit's raw key in these events.
pub(crate) fn blank(
    connection: &mut Connection,
    unit_type: &str,
    unit: &str,
    events: &[Named],
) -> Result<u64, StoreError> {
    let changed = erasing(connection, |transaction| {
        let mut exposure = transaction.prepare("UPDATE log SET unit = ?2, context = NULL WHERE seq = ?1")?;
        let mut context = transaction.prepare("UPDATE log SET context = NULL WHERE seq = ?1")?;
        let mut outcome = transaction.prepare("UPDATE log SET units = ?2 WHERE seq = ?1")?;
        let mut changed = 0;
        for Named { seq, by } in events {
            let seq = bound(*seq);
            changed += match by {
                NamedBy::Exposure => exposure.execute(params![seq, FORGOTTEN])?,
                NamedBy::Context => context.execute([seq])?,
                NamedBy::Units(json) => {
                    let mut units = units_from_json(json)?;
                    for (_, key) in units.iter_mut().filter(|(kind, key)| kind == unit_type && key == unit) {
                        FORGOTTEN.clone_into(key);
                    }
                    outcome.execute(params![seq, units_to_json(&units)])?
                }
            };
        }
        Ok(changed as u64)
    })?;
    // The write-ahead log has the pages as they were, too.
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        tracing::warn!("somebody reads the log: what was forgotten leaves the write-ahead log at a later checkpoint");
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema::LOG;
    use proptest::prelude::*;

    /// A log with an event of each instant, in that order.
    fn log(received: &[i64]) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        LOG.migrate(&mut connection).unwrap();
        let sql = "INSERT INTO log (seq, received_at, occurred_at, units) VALUES (?1, ?2, 0, '[]')";
        for (seq, at) in (1i64..).zip(received) {
            connection.execute(sql, params![seq, at]).unwrap();
        }
        connection
    }

    fn left(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT seq FROM log ORDER BY seq").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        /// Whatever the pieces: what stays is everything from the first event on that is young, or that somebody has
        /// yet to read, and places are not given twice.
        #[test]
        fn pruning_cuts_the_log_at_one_place(
            received in prop::collection::vec(0i64..20, 0..40),
            before in 0i64..21,
            read in 0u64..45,
            piece in 1u64..50,
        ) {
            let mut connection = log(&received);
            let mut pruned = 0;
            loop {
                let gone = prune(&mut connection, Timestamp::from_micros(before), read, piece).unwrap();
                pruned += gone;
                if gone < piece {
                    break;
                }
            }
            let old = (1u64..).zip(&received).take_while(|(seq, at)| *seq <= read && **at < before).count();
            prop_assert_eq!(pruned, old as u64);
            prop_assert_eq!(left(&connection), (old as i64 + 1..=received.len() as i64).collect::<Vec<_>>());
            let head: i64 = connection.query_row("SELECT value FROM meta", [], |row| row.get(0)).unwrap();
            prop_assert_eq!(head, received.len() as i64);
        }
    }
}
