//! Unit records and outcomes: the two tables that grow with the traffic.

use inroad_assignment::{Digest, Timestamp};
use inroad_policy::attribution::{Outcome, UnitRecord};
use rusqlite::{Connection, OptionalExtension, params};

use super::column_values::corrupt;
use super::tracked_generations::TrackedGeneration;
use crate::error::StoreError;
use crate::unit_record_codec;

/// The content of an outcome. If two outcomes of one unit have the same event id and differ, the smaller one is kept,
/// by the order of these fields. The order of arrival does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OutcomeContent {
    /// When it happened.
    pub(crate) at: Timestamp,
    /// The event's name.
    pub(crate) event: String,
    /// Its value in millionths.
    pub(crate) value_micros: i64,
}

impl OutcomeContent {
    /// The outcome in the form that attribution reads.
    pub(crate) fn as_outcome(&self) -> Outcome<'_> {
        Outcome { event: &self.event, at: self.at, value_micros: self.value_micros }
    }
}

/// An outcome of a unit, with its id.
#[derive(Debug, Clone)]
pub(crate) struct StoredOutcome {
    /// Identifies the outcome among those of its unit.
    pub(crate) event_id: String,
    /// Time, event and value.
    pub(crate) content: OutcomeContent,
}

/// A row of the unit table.
pub(crate) struct UnitRow {
    /// The unit's place on the generation's line.
    pub(crate) digest: Digest,
    /// The digest under which the unit's outcomes are stored.
    pub(crate) unit_digest: Digest,
    /// The unit's record.
    pub(crate) record: UnitRecord,
}

/// One unit's record in a generation; `None` if it has none.
pub(crate) fn read_record(
    connection: &Connection,
    tracked: &TrackedGeneration,
    digest: &Digest,
) -> Result<Option<UnitRecord>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT record FROM unit WHERE experiment_id = ?1 AND generation = ?2 AND digest = ?3")?;
    let mut rows = statement.query(params![tracked.experiment_id, tracked.number, digest.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    decode_record(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?).map(Some)
}

/// A unit's records, each with its digest and what `select` returns for the experiment's id and the generation's number.
/// Records for which it returns `None` are left out.
pub(crate) fn read_selected_records<T>(
    connection: &Connection,
    unit_digest: &Digest,
    mut select: impl FnMut(i64, u32) -> Result<Option<T>, StoreError>,
) -> Result<Vec<(T, Digest, UnitRecord)>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT experiment_id, generation, digest, record FROM unit WHERE unit_digest = ?1")?;
    let mut rows = statement.query([unit_digest.as_bytes()])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(selected) = select(row.get(0)?, row.get(1)?)? {
            let record = decode_record(row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?)?;
            records.push((selected, Digest::from_bytes(row.get(2)?), record));
        }
    }
    Ok(records)
}

fn decode_record(bytes: &[u8]) -> Result<UnitRecord, StoreError> {
    unit_record_codec::decode(bytes).ok_or_else(|| corrupt("unit.record", "the bytes are not a unit record"))
}

/// Units in a range of a generation's line, in order, at most `limit`.
pub(crate) fn read_units_in_range(
    connection: &Connection,
    tracked: &TrackedGeneration,
    (from, to): (Digest, Digest),
    limit: usize,
) -> Result<Vec<UnitRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT digest, unit_digest, record FROM unit
         WHERE experiment_id = ?1 AND generation = ?2 AND digest BETWEEN ?3 AND ?4 ORDER BY digest LIMIT ?5",
    )?;
    let range = params![tracked.experiment_id, tracked.number, from.as_bytes(), to.as_bytes(), limit as i64];
    let mut rows = statement.query(range)?;
    let mut units = Vec::new();
    while let Some(row) = rows.next()? {
        units.push(UnitRow {
            digest: Digest::from_bytes(row.get(0)?),
            unit_digest: Digest::from_bytes(row.get(1)?),
            record: decode_record(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?,
        });
    }
    Ok(units)
}

/// Writes one unit's record.
pub(crate) fn write_unit(
    connection: &Connection,
    tracked: &TrackedGeneration,
    row: &UnitRow,
    is_new: bool,
) -> rusqlite::Result<()> {
    let (id, number, digest) = (tracked.experiment_id, tracked.number, row.digest.as_bytes());
    let record = unit_record_codec::encode(&row.record);
    if is_new {
        let mut insert = connection.prepare_cached("INSERT INTO unit VALUES (?1, ?2, ?3, ?4, ?5)")?;
        insert.execute(params![id, number, digest, row.unit_digest.as_bytes(), record])?;
    } else {
        let mut update = connection.prepare_cached(
            "UPDATE unit SET record = ?4 WHERE experiment_id = ?1 AND generation = ?2 AND digest = ?3",
        )?;
        update.execute(params![id, number, digest, record])?;
    }
    Ok(())
}

/// The stored content of one outcome; `None` if it is not stored.
pub(crate) fn read_outcome(
    connection: &Connection,
    unit_digest: &Digest,
    event_id: &str,
) -> Result<Option<OutcomeContent>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT occurred_at, event, value_micros FROM outcome WHERE unit_digest = ?1 AND event_id = ?2",
    )?;
    let content = |row: &rusqlite::Row<'_>| {
        Ok(OutcomeContent { at: Timestamp::from_micros(row.get(0)?), event: row.get(1)?, value_micros: row.get(2)? })
    };
    Ok(statement.query_row(params![unit_digest.as_bytes(), event_id], content).optional()?)
}

/// All outcomes of a unit.
pub(crate) fn read_outcomes(connection: &Connection, unit_digest: &Digest) -> Result<Vec<StoredOutcome>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT event_id, occurred_at, event, value_micros FROM outcome WHERE unit_digest = ?1")?;
    let mut rows = statement.query([unit_digest.as_bytes()])?;
    let mut outcomes = Vec::new();
    while let Some(row) = rows.next()? {
        let at = Timestamp::from_micros(row.get(1)?);
        let content = OutcomeContent { at, event: row.get(2)?, value_micros: row.get(3)? };
        outcomes.push(StoredOutcome { event_id: row.get(0)?, content });
    }
    Ok(outcomes)
}

/// Writes one outcome.
pub(crate) fn write_outcome(
    connection: &Connection,
    unit_digest: &Digest,
    event_id: &str,
    content: &OutcomeContent,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let (event, at) = (&content.event, content.at.as_micros());
    insert.execute(params![unit_digest.as_bytes(), event_id, event, at, content.value_micros])?;
    Ok(())
}
