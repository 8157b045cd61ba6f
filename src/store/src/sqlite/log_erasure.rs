//! Deletes old events from the log and blanks the raw key of a forgotten unit. The log is opened with SQLite's
//! `secure_delete`, so the bytes are overwritten in the file and not only unlinked.

use inroad_assignment::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::column_values::to_sql_integer;
use super::log_rows::{units_from_json, units_to_json};
use crate::error::StoreError;
use crate::event::Seq;

/// Events that one transaction prunes. It limits how long an append waits.
pub(crate) const PRUNE_BATCH: u64 = 20_000;

/// Replaces a forgotten key.
const FORGOTTEN: &str = "(forgotten)";

/// Runs `work` in one transaction.
fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// Deletes events among the oldest `limit` places that were received before `before` and are at or before
/// `read_by_all`. Their places are not used again. Returns the number of deleted events; if it equals `limit`, there
/// may be more.
pub(crate) fn prune(
    connection: &mut Connection,
    before: Timestamp,
    read_by_all: Seq,
    limit: u64,
) -> Result<u64, StoreError> {
    in_transaction(connection, |transaction| {
        let oldest: i64 = transaction.query_row("SELECT coalesce(min(seq), 0) FROM log", [], |row| row.get(0))?;
        let up_to = to_sql_integer(read_by_all).min(oldest.saturating_add(to_sql_integer(limit) - 1));
        let save_head =
            "UPDATE meta SET value = max(value, coalesce((SELECT max(seq) FROM log), 0)) WHERE key = 'head'";
        transaction.execute(save_head, [])?;
        // The server's clock may have stepped back, so a later event can have an earlier time. The log is cut before
        // the first event that must stay, so that it has no gaps.
        let cut = "SELECT coalesce(
            (SELECT seq - 1 FROM log WHERE seq <= ?1 AND received_at >= ?2 ORDER BY seq LIMIT 1), ?1)";
        let last: i64 = transaction.query_row(cut, params![up_to, before.as_micros()], |row| row.get(0))?;
        Ok(transaction.execute("DELETE FROM log WHERE seq <= ?1", [last])? as u64)
    })
}

/// An event that contains a unit's raw key.
pub(crate) struct EventWithKey {
    pub(crate) seq: Seq,
    location: KeyLocation,
}

/// Where an event contains a unit's raw key.
enum KeyLocation {
    /// The event is an exposure of the unit.
    Exposure,
    /// The event is an exposure of another unit, and its context contains the key.
    Context,
    /// The event is an outcome, and these units (as JSON) include the key.
    Units(String),
}

/// Finds the events that contain one unit's raw key; `experiments` are those whose unit has that type. A context does
/// not contain the types of the keys in it, so every context that contains the key is found. Reads the whole log.
pub(crate) fn find_events_with_key(
    connection: &Connection,
    unit_type: &str,
    unit: &str,
    experiments: &[String],
) -> Result<Vec<EventWithKey>, StoreError> {
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
        let location = match row.get(1)? {
            Some(units) => KeyLocation::Units(units),
            None if row.get(2)? => KeyLocation::Exposure,
            None => KeyLocation::Context,
        };
        Ok(EventWithKey { seq: row.get::<_, i64>(0)? as Seq, location })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Blanks the unit's raw key in these events. A context that contains the key is removed as a whole. Returns the number
/// of changed events.
pub(crate) fn blank_key(
    connection: &mut Connection,
    unit_type: &str,
    unit: &str,
    events: &[EventWithKey],
) -> Result<u64, StoreError> {
    let changed = in_transaction(connection, |transaction| {
        let mut exposure = transaction.prepare("UPDATE log SET unit = ?2, context = NULL WHERE seq = ?1")?;
        let mut context = transaction.prepare("UPDATE log SET context = NULL WHERE seq = ?1")?;
        let mut outcome = transaction.prepare("UPDATE log SET units = ?2 WHERE seq = ?1")?;
        let mut changed = 0;
        for EventWithKey { seq, location } in events {
            let seq = to_sql_integer(*seq);
            changed += match location {
                KeyLocation::Exposure => exposure.execute(params![seq, FORGOTTEN])?,
                KeyLocation::Context => context.execute([seq])?,
                KeyLocation::Units(json) => {
                    let mut units: Vec<(String, String)> = units_from_json(json)?;
                    for (_, key) in units.iter_mut().filter(|(kind, key)| kind == unit_type && key == unit) {
                        FORGOTTEN.clone_into(key);
                    }
                    outcome.execute(params![seq, units_to_json(&units)])?
                }
            };
        }
        Ok(changed as u64)
    })?;
    // The write-ahead log still contains the old pages.
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        tracing::warn!("the log is being read: the forgotten key leaves the write-ahead log at a later checkpoint");
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema::LOG;
    use proptest::prelude::*;

    /// A log with one event received at each of these times, in that order.
    fn log_received_at(received: &[i64]) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        LOG.migrate(&mut connection).unwrap();
        let sql = "INSERT INTO log (seq, received_at, occurred_at, units) VALUES (?1, ?2, 0, '[]')";
        for (seq, at) in (1i64..).zip(received) {
            connection.execute(sql, params![seq, at]).unwrap();
        }
        connection
    }

    fn remaining_places(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT seq FROM log ORDER BY seq").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        /// With any batch size, the log keeps everything from the first event that is recent or unread, and the head
        /// does not go back.
        #[test]
        fn pruning_in_batches_cuts_the_log_before_the_first_recent_or_unread_event(
            received in prop::collection::vec(0i64..20, 0..40),
            before in 0i64..21,
            read in 0u64..45,
            batch in 1u64..50,
        ) {
            let mut connection = log_received_at(&received);
            let mut pruned = 0;
            loop {
                let deleted = prune(&mut connection, Timestamp::from_micros(before), read, batch).unwrap();
                pruned += deleted;
                if deleted < batch {
                    break;
                }
            }
            let old = (1u64..).zip(&received).take_while(|(seq, at)| *seq <= read && **at < before).count();
            prop_assert_eq!(pruned, old as u64);
            let remaining = (old as i64 + 1..=received.len() as i64).collect::<Vec<_>>();
            prop_assert_eq!(remaining_places(&connection), remaining);
            let head: i64 = connection.query_row("SELECT value FROM meta", [], |row| row.get(0)).unwrap();
            prop_assert_eq!(head, received.len() as i64);
        }
    }
}
