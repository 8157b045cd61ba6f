//! The log's rows: read back, pruned, and made to forget a unit.

use inroad_assignment::{Arm, ExperimentKey, Timestamp};
use rusqlite::{Connection, Row, TransactionBehavior, params};

use crate::error::StoreError;
use crate::event::{Event, ExposureEvent, LoggedEvent, OutcomeEvent, Seq};

/// `[["type","key"],…]`.
pub(crate) fn units_to_json(units: &[(String, String)]) -> String {
    // Text cannot fail to be JSON.
    serde_json::to_string(units).unwrap_or_default()
}

/// The inverse of [`units_to_json`].
pub(crate) fn units_from_json(json: &str) -> Result<Vec<(String, String)>, StoreError> {
    serde_json::from_str(json).map_err(|error| damaged("log.units", error))
}

/// A row that cannot be what was written.
pub(crate) fn damaged(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { path: String::new(), detail: format!("{what}: {why}") }
}

/// An arm as the tables keep it.
pub(crate) fn arm(index: i64) -> Result<Arm, StoreError> {
    let arm = usize::try_from(index).ok().and_then(Arm::new);
    arm.ok_or_else(|| damaged("arm", format!("{index} is none")))
}

/// A limit or a place as SQLite takes it.
pub(crate) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Events after a place, at most `limit`.
pub(crate) fn read(connection: &Connection, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, received_at, occurred_at, experiment, generation, unit, arm, revision, context,
                units, event, value_micros, event_id, clock
         FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![bound(after), bound(limit as u64)])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(read_event(row)?);
    }
    Ok(events)
}

fn read_event(row: &Row<'_>) -> Result<LoggedEvent, StoreError> {
    let occurred_at = Timestamp::from_micros(row.get(2)?);
    let event = match row.get::<_, Option<String>>(3)? {
        Some(experiment) => Event::Exposure(ExposureEvent {
            experiment: ExperimentKey::parse(&experiment).map_err(|error| damaged("log.experiment", error))?,
            generation: row.get(4)?,
            unit: row.get(5)?,
            arm: arm(row.get(6)?)?,
            revision: row.get(7)?,
            occurred_at,
            context: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
        }),
        None => Event::Outcome(OutcomeEvent {
            units: units_from_json(&row.get::<_, String>(9)?)?,
            event: row.get(10)?,
            value_micros: row.get(11)?,
            occurred_at,
            event_id: row.get(12)?,
            clock: row.get(13)?,
        }),
    };
    let received_at = Timestamp::from_micros(row.get(1)?);
    Ok(LoggedEvent { seq: row.get::<_, i64>(0)? as Seq, received_at, event })
}

/// Deletes what was received before an instant and lies at or before `read_by_all`; the places stay taken.
pub(crate) fn prune(connection: &mut Connection, before: Timestamp, read_by_all: Seq) -> Result<u64, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let keep_head = "UPDATE meta SET value = max(value, coalesce((SELECT max(seq) FROM log), 0)) WHERE key = 'head'";
    transaction.execute(keep_head, [])?;
    // The server's clock may have stepped back, so that times do not rise with places: the first event that is to be
    // kept keeps all after it, and the log is cut at one place.
    let cut = "SELECT coalesce(
        (SELECT seq - 1 FROM log WHERE seq <= ?1 AND received_at >= ?2 ORDER BY seq LIMIT 1), ?1)";
    let last: i64 = transaction.query_row(cut, params![bound(read_by_all), before.as_micros()], |row| row.get(0))?;
    let deleted = transaction.execute("DELETE FROM log WHERE seq <= ?1", [last])?;
    transaction.commit()?;
    Ok(deleted as u64)
}

/// What stands where a forgotten key stood.
const FORGOTTEN: &str = "(forgotten)";

/// Blanks one unit's raw key in events up to a place; `experiments` are those whose unit is of that type.
pub(crate) fn forget(
    connection: &mut Connection,
    unit_type: &str,
    unit: &str,
    experiments: &[String],
    up_to: Seq,
) -> Result<u64, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let experiments = serde_json::to_string(experiments).unwrap_or_default();
    let mut changed = transaction.execute(
        "UPDATE log SET unit = ?1, context = NULL
         WHERE unit = ?2 AND seq <= ?4 AND experiment IN (SELECT value FROM json_each(?3))",
        params![FORGOTTEN, unit, experiments, bound(up_to)],
    )?;
    let named: Vec<(i64, String)> = {
        let mut statement = transaction.prepare(
            "SELECT seq, units FROM log WHERE units IS NOT NULL AND seq <= ?3 AND EXISTS (SELECT 1 FROM json_each(units)
             WHERE json_extract(value, '$[0]') = ?1 AND json_extract(value, '$[1]') = ?2)",
        )?;
        let rows = statement.query_map(params![unit_type, unit, bound(up_to)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (seq, json) in named {
        let mut units = units_from_json(&json)?;
        for (_, key) in units.iter_mut().filter(|(kind, key)| kind == unit_type && key == unit) {
            FORGOTTEN.clone_into(key);
        }
        let statement = "UPDATE log SET units = ?2 WHERE seq = ?1";
        changed += transaction.execute(statement, params![seq, units_to_json(&units)])?;
    }
    transaction.commit()?;
    Ok(changed as u64)
}
