//! Unit records and outcomes: the two tables that grow with the traffic.

use inroad_assignment::{Digest, Timestamp};
use inroad_policy::attribution::{Outcome, UnitRecord};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

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

/// Reads and writes single records. Its statements are prepared once: a step of the fold has hundreds of thousands.
pub(crate) struct UnitTable<'a> {
    select: CachedStatement<'a>,
    insert: CachedStatement<'a>,
    update: CachedStatement<'a>,
}

impl<'a> UnitTable<'a> {
    /// Prepares the statements.
    pub(crate) fn new(connection: &'a Connection) -> Result<Self, StoreError> {
        let key = "experiment_id = ?1 AND generation = ?2 AND digest = ?3";
        Ok(Self {
            select: connection.prepare_cached(&format!("SELECT record FROM unit WHERE {key}"))?,
            insert: connection.prepare_cached("INSERT INTO unit VALUES (?1, ?2, ?3, ?4, ?5)")?,
            update: connection.prepare_cached(&format!("UPDATE unit SET record = ?4 WHERE {key}"))?,
        })
    }

    /// One unit's record in a generation; `None` if it has none.
    pub(crate) fn read(
        &mut self,
        tracked: &TrackedGeneration,
        digest: &Digest,
    ) -> Result<Option<UnitRecord>, StoreError> {
        let mut rows = self.select.query(params![tracked.experiment_id, tracked.number, digest.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        decode_record(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?).map(Some)
    }

    /// Adds a unit's record.
    pub(crate) fn insert(&mut self, tracked: &TrackedGeneration, row: &UnitRow) -> Result<(), StoreError> {
        let (digest, unit_digest) = (row.digest.as_bytes(), row.unit_digest.as_bytes());
        let record = unit_record_codec::encode(&row.record);
        self.insert.execute(params![tracked.experiment_id, tracked.number, digest, unit_digest, record])?;
        Ok(())
    }

    /// Replaces a unit's record.
    pub(crate) fn update(
        &mut self,
        tracked: &TrackedGeneration,
        digest: &Digest,
        record: &UnitRecord,
    ) -> Result<(), StoreError> {
        let record = unit_record_codec::encode(record);
        self.update.execute(params![tracked.experiment_id, tracked.number, digest.as_bytes(), record])?;
        Ok(())
    }
}

/// Finds the records of a unit, whichever generation they belong to.
pub(crate) struct RecordKeys<'a> {
    select: CachedStatement<'a>,
}

/// Prepares to find records. The index has all that is read, in the order of the unit digests.
pub(crate) fn read_record_keys(connection: &Connection) -> Result<RecordKeys<'_>, StoreError> {
    let sql = "SELECT experiment_id, generation, digest FROM unit WHERE unit_digest = ?1";
    Ok(RecordKeys { select: connection.prepare_cached(sql)? })
}

impl RecordKeys<'_> {
    /// Calls `put` with the experiment's id, the generation's number and the digest of each record of a unit.
    pub(crate) fn of_unit(
        &mut self,
        unit_digest: &Digest,
        mut put: impl FnMut(i64, u32, Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = self.select.query([unit_digest.as_bytes()])?;
        while let Some(row) = rows.next()? {
            put(row.get(0)?, row.get(1)?, Digest::from_bytes(row.get(2)?))?;
        }
        Ok(())
    }
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

/// Reads and writes single outcomes, with statements that are prepared once.
pub(crate) struct OutcomeTable<'a> {
    select: CachedStatement<'a>,
    insert: CachedStatement<'a>,
}

impl<'a> OutcomeTable<'a> {
    /// Prepares the statements.
    pub(crate) fn new(connection: &'a Connection) -> Result<Self, StoreError> {
        let select = "SELECT occurred_at, event, value_micros FROM outcome WHERE unit_digest = ?1 AND event_id = ?2";
        Ok(Self {
            select: connection.prepare_cached(select)?,
            insert: connection.prepare_cached("INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4, ?5)")?,
        })
    }

    /// The stored content of one outcome; `None` if it is not stored.
    pub(crate) fn read(&mut self, unit_digest: &Digest, event_id: &str) -> Result<Option<OutcomeContent>, StoreError> {
        let content = |row: &rusqlite::Row<'_>| {
            let at = Timestamp::from_micros(row.get(0)?);
            Ok(OutcomeContent { at, event: row.get(1)?, value_micros: row.get(2)? })
        };
        Ok(self.select.query_row(params![unit_digest.as_bytes(), event_id], content).optional()?)
    }

    /// Writes one outcome.
    pub(crate) fn write(&mut self, unit_digest: &Digest, outcome: &StoredOutcome) -> Result<(), StoreError> {
        let StoredOutcome { event_id, content } = outcome;
        let at = content.at.as_micros();
        self.insert.execute(params![unit_digest.as_bytes(), event_id, content.event, at, content.value_micros])?;
        Ok(())
    }
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
