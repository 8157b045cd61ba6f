//! Unit records and outcomes: the two tables that grow with the traffic.

use inroad_assignment::{Digest, Timestamp};
use inroad_policy::attribution::{Outcome, UnitRecord};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::damaged;
use super::slots::Slot;
use crate::error::StoreError;
use crate::record;

/// What an outcome says. When two of one unit carry one event id and differ, the least is kept, whichever came first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    /// When.
    pub(crate) at: Timestamp,
    /// The event's name.
    pub(crate) event: String,
    /// Its value in millionths.
    pub(crate) value_micros: i64,
}

impl Said {
    /// As attribution reads it.
    pub(crate) fn outcome(&self) -> Outcome<'_> {
        Outcome { event: &self.event, at: self.at, value_micros: self.value_micros }
    }
}

/// An outcome of a unit, by its id.
#[derive(Debug, Clone)]
pub(crate) struct StoredOutcome {
    /// What makes it itself.
    pub(crate) event_id: String,
    /// What it says.
    pub(crate) said: Said,
}

/// One unit's record.
pub(crate) fn unit(connection: &Connection, slot: &Slot, digest: &Digest) -> Result<Option<UnitRecord>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT record FROM unit WHERE experiment_id = ?1 AND generation = ?2 AND digest = ?3")?;
    let mut rows = statement.query(params![slot.id, slot.number, digest.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    read_record(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?).map(Some)
}

fn read_record(bytes: &[u8]) -> Result<UnitRecord, StoreError> {
    record::decode(bytes).ok_or_else(|| damaged("unit.record", "the bytes are none of ours"))
}

/// A row of the unit table.
pub(crate) struct UnitRow {
    /// The unit's place on the line.
    pub(crate) digest: Digest,
    /// The unit's digest that outcomes are kept under.
    pub(crate) unit: Digest,
    /// Its record.
    pub(crate) record: UnitRecord,
}

/// Units of one stretch of a line, in order, at most `limit`.
pub(crate) fn stretch(
    connection: &Connection,
    slot: &Slot,
    (from, to): (Digest, Digest),
    limit: usize,
) -> Result<Vec<UnitRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT digest, unit_digest, record FROM unit
         WHERE experiment_id = ?1 AND generation = ?2 AND digest BETWEEN ?3 AND ?4 ORDER BY digest LIMIT ?5",
    )?;
    let mut rows = statement.query(params![slot.id, slot.number, from.as_bytes(), to.as_bytes(), limit as i64])?;
    let mut units = Vec::new();
    while let Some(row) = rows.next()? {
        units.push(UnitRow {
            digest: Digest::from_bytes(row.get(0)?),
            unit: Digest::from_bytes(row.get(1)?),
            record: read_record(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?,
        });
    }
    Ok(units)
}

/// Writes one unit's record.
pub(crate) fn put_unit(connection: &Connection, slot: &Slot, row: &UnitRow, is_new: bool) -> rusqlite::Result<()> {
    let record = record::encode(&row.record);
    if is_new {
        let mut insert = connection.prepare_cached("INSERT INTO unit VALUES (?1, ?2, ?3, ?4, ?5)")?;
        insert.execute(params![slot.id, slot.number, row.digest.as_bytes(), row.unit.as_bytes(), record])?;
    } else {
        let mut update = connection.prepare_cached(
            "UPDATE unit SET record = ?4 WHERE experiment_id = ?1 AND generation = ?2 AND digest = ?3",
        )?;
        update.execute(params![slot.id, slot.number, row.digest.as_bytes(), record])?;
    }
    Ok(())
}

/// What is known of one outcome.
pub(crate) fn said(connection: &Connection, unit: &Digest, event_id: &str) -> Result<Option<Said>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT occurred_at, event, value_micros FROM outcome WHERE unit_digest = ?1 AND event_id = ?2",
    )?;
    let said = |row: &rusqlite::Row<'_>| {
        Ok(Said { at: Timestamp::from_micros(row.get(0)?), event: row.get(1)?, value_micros: row.get(2)? })
    };
    Ok(statement.query_row(params![unit.as_bytes(), event_id], said).optional()?)
}

/// Every outcome of a unit.
pub(crate) fn outcomes_of(connection: &Connection, unit: &Digest) -> Result<Vec<StoredOutcome>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT event_id, occurred_at, event, value_micros FROM outcome WHERE unit_digest = ?1")?;
    let mut rows = statement.query([unit.as_bytes()])?;
    let mut outcomes = Vec::new();
    while let Some(row) = rows.next()? {
        let said = Said { at: Timestamp::from_micros(row.get(1)?), event: row.get(2)?, value_micros: row.get(3)? };
        outcomes.push(StoredOutcome { event_id: row.get(0)?, said });
    }
    Ok(outcomes)
}

/// Writes one outcome.
pub(crate) fn put_outcome(connection: &Connection, unit: &Digest, event_id: &str, said: &Said) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4, ?5)")?;
    insert.execute(params![unit.as_bytes(), event_id, said.event, said.at.as_micros(), said.value_micros])?;
    Ok(())
}
