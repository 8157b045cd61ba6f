//! Reads the rows of the log back as events.

use inroad_assignment::{ExperimentKey, Timestamp};
use rusqlite::{Connection, Row, params};
use serde::Deserialize;

use super::column_values::{arm_from_column, corrupt, to_sql_integer};
use crate::error::StoreError;
use crate::event::{Event, ExposureEvent, LoggedEvent, OutcomeEvent, Seq};

/// An outcome's units as the log stores them: `[["type","key"],…]`.
pub(crate) fn units_to_json(units: &[(String, String)]) -> String {
    // Serialising text cannot fail.
    serde_json::to_string(units).unwrap_or_default()
}

/// The inverse of [`units_to_json`].
pub(crate) fn units_from_json<'a, T: Deserialize<'a>>(json: &'a str) -> Result<Vec<(T, T)>, StoreError> {
    serde_json::from_str(json).map_err(|error| corrupt("log.units", error))
}

/// The place of the oldest event; `None` if there is none.
pub(crate) fn oldest(connection: &Connection) -> Result<Option<Seq>, StoreError> {
    let oldest: Option<i64> = connection.query_row("SELECT min(seq) FROM log", [], |row| row.get(0))?;
    Ok(oldest.map(i64::unsigned_abs))
}

/// Events after a place, at most `limit`.
pub(crate) fn read_events(connection: &Connection, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, received_at, occurred_at, experiment, generation, unit, arm, revision, context,
                units, event, value_micros, event_id, clock
         FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![to_sql_integer(after), to_sql_integer(limit as u64)])?;
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
            experiment: ExperimentKey::parse(&experiment).map_err(|error| corrupt("log.experiment", error))?,
            generation: row.get(4)?,
            unit: row.get(5)?,
            arm: arm_from_column(row.get(6)?)?,
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
