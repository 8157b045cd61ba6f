//! The log's rows, read back.

use inroad_assignment::{Arm, ExperimentKey, Timestamp};
use rusqlite::{Connection, Row, params};

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
