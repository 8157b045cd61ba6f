//! Unit records and outcomes: the two tables that grow with the traffic.

use std::collections::HashSet;
use std::sync::Arc;

use inroad_assignment::{Digest, Timestamp};
use inroad_policy::attribution::{History, Outcome, UnitRecord};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::column_values::corrupt;
use super::tracked_generations::TrackedGeneration;
use crate::error::StoreError;
use crate::unit_record_codec::{self, StoredRecord};

/// The content of an outcome. If two outcomes of one unit have the same event id and differ, the smaller one is kept,
/// by the order of these fields. The order of arrival does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OutcomeContent {
    /// When it happened.
    pub(crate) at: Timestamp,
    /// The event's name. Outcomes share it: a step has hundreds of thousands, of a few events.
    pub(crate) event: Arc<str>,
    /// Its value in millionths.
    pub(crate) value_micros: i64,
}

impl OutcomeContent {
    /// The outcome in the form that attribution reads.
    pub(crate) fn as_outcome(&self) -> Outcome<'_> {
        Outcome { event: &self.event, at: self.at, value_micros: self.value_micros }
    }
}

/// The most event names that are remembered; each has at most 128 bytes.
const MAX_NAMES: usize = 10_000;

/// Event names, each once in memory: outcomes that are in memory together have few. If there are more than the limit, all
/// are forgotten, and some are in memory twice.
#[derive(Default)]
pub(crate) struct EventNames {
    all: HashSet<Arc<str>>,
    last: Option<Arc<str>>,
}

impl EventNames {
    /// The shared copy of a name.
    pub(crate) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(last) = self.last.as_ref().filter(|last| ***last == *name) {
            return Arc::clone(last);
        }
        let shared = self.all.get(name).cloned().unwrap_or_else(|| {
            if self.all.len() >= MAX_NAMES {
                self.all.clear();
            }
            let added = Arc::from(name);
            self.all.insert(Arc::clone(&added));
            added
        });
        self.last = Some(Arc::clone(&shared));
        shared
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
    pub(crate) record: StoredRecord,
}

impl StoredRecord {
    /// The record with its sums. `outcomes` are all outcomes of the unit that were counted by this history; a record that
    /// has its sums does not need them.
    pub(crate) fn complete(self, history: History<'_>, outcomes: &[StoredOutcome]) -> UnitRecord {
        match self {
            Self::WithSums(record) => record,
            Self::ExposuresOnly(mut record) => {
                for outcome in outcomes {
                    record.add_outcome(history, 0, &outcome.content.as_outcome());
                }
                record
            }
        }
    }
}

/// Reads the records of a unit and writes single ones. Its statements are prepared once: a step of the fold has hundreds
/// of thousands.
pub(crate) struct UnitTable<'a> {
    of_unit: CachedStatement<'a>,
    select: CachedStatement<'a>,
    insert: CachedStatement<'a>,
    update: CachedStatement<'a>,
    /// Rows that were read and written.
    pub(crate) rows: usize,
}

impl<'a> UnitTable<'a> {
    /// Prepares the statements.
    pub(crate) fn new(connection: &'a Connection) -> Result<Self, StoreError> {
        let key = "experiment_id = ?1 AND generation = ?2 AND digest = ?3";
        let update = format!("UPDATE unit SET record = ?4 WHERE {key}");
        // The index has all that is read, in the order of the unit digests.
        let of_unit = "SELECT experiment_id, generation, digest, record FROM unit WHERE unit_digest = ?1";
        Ok(Self {
            of_unit: connection.prepare_cached(of_unit)?,
            select: connection.prepare_cached(&format!("SELECT record FROM unit WHERE {key}"))?,
            insert: connection.prepare_cached("INSERT INTO unit VALUES (?1, ?2, ?3, ?4, ?5)")?,
            update: connection.prepare_cached(&update)?,
            rows: 0,
        })
    }

    /// Calls `find` with the experiment's id and the generation's number of each record of a unit, whichever generation it
    /// belongs to, and `put` with the digest and the record of those for which it finds something.
    pub(crate) fn of_unit<T>(
        &mut self,
        unit_digest: &Digest,
        mut find: impl FnMut(i64, u32) -> Result<Option<T>, StoreError>,
        mut put: impl FnMut(T, Digest, StoredRecord),
    ) -> Result<(), StoreError> {
        let mut rows = self.of_unit.query([unit_digest.as_bytes()])?;
        while let Some(row) = rows.next()? {
            self.rows += 1;
            if let Some(found) = find(row.get(0)?, row.get(1)?)? {
                put(found, Digest::from_bytes(row.get(2)?), read_record(row, 3)?);
            }
        }
        Ok(())
    }

    /// One unit's record in a generation; `None` if it has none.
    pub(crate) fn read(
        &mut self,
        tracked: &TrackedGeneration,
        digest: &Digest,
    ) -> Result<Option<StoredRecord>, StoreError> {
        self.rows += 1;
        let mut rows = self.select.query(params![tracked.experiment_id, tracked.number, digest.as_bytes()])?;
        rows.next()?.map(|row| read_record(row, 0)).transpose()
    }

    /// Adds an encoded record.
    pub(crate) fn insert(
        &mut self,
        tracked: &TrackedGeneration,
        digest: &Digest,
        unit_digest: &Digest,
        record: &[u8],
    ) -> Result<(), StoreError> {
        let (digest, unit_digest) = (digest.as_bytes(), unit_digest.as_bytes());
        self.rows += 1;
        self.insert.execute(params![tracked.experiment_id, tracked.number, digest, unit_digest, record])?;
        Ok(())
    }

    /// Replaces an encoded record.
    pub(crate) fn update(
        &mut self,
        tracked: &TrackedGeneration,
        digest: &Digest,
        record: &[u8],
    ) -> Result<(), StoreError> {
        self.rows += 1;
        self.update.execute(params![tracked.experiment_id, tracked.number, digest.as_bytes(), record])?;
        Ok(())
    }
}

fn read_record(row: &rusqlite::Row<'_>, column: usize) -> Result<StoredRecord, StoreError> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
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
            record: read_record(row, 2)?,
        });
    }
    Ok(units)
}

/// Reads and writes outcomes, with statements that are prepared once.
pub(crate) struct OutcomeTable<'a> {
    of_unit: CachedStatement<'a>,
    select: CachedStatement<'a>,
    insert: CachedStatement<'a>,
    names: EventNames,
    /// Rows that were read and written.
    pub(crate) rows: usize,
}

impl<'a> OutcomeTable<'a> {
    /// Prepares the statements.
    pub(crate) fn new(connection: &'a Connection) -> Result<Self, StoreError> {
        let columns = "SELECT occurred_at, event, value_micros, event_id FROM outcome WHERE unit_digest = ?1";
        Ok(Self {
            of_unit: connection.prepare_cached(&format!("{columns} ORDER BY event_id LIMIT ?2"))?,
            select: connection.prepare_cached(&format!("{columns} AND event_id = ?2"))?,
            insert: connection.prepare_cached("INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4, ?5)")?,
            names: EventNames::default(),
            rows: 0,
        })
    }

    /// The outcomes of a unit in the order of their ids, at most `limit`.
    pub(crate) fn of_unit(&mut self, unit_digest: &Digest, limit: usize) -> Result<Vec<StoredOutcome>, StoreError> {
        let mut rows = self.of_unit.query(params![unit_digest.as_bytes(), limit as i64])?;
        let mut outcomes = Vec::new();
        while let Some(row) = rows.next()? {
            outcomes.push(StoredOutcome { event_id: row.get(3)?, content: read_content(row, &mut self.names)? });
        }
        self.rows += outcomes.len();
        Ok(outcomes)
    }

    /// The stored content of one outcome; `None` if it is not stored.
    pub(crate) fn read(&mut self, unit_digest: &Digest, event_id: &str) -> Result<Option<OutcomeContent>, StoreError> {
        self.rows += 1;
        let Self { select, names, .. } = self;
        let read = |row: &rusqlite::Row<'_>| read_content(row, names);
        Ok(select.query_row(params![unit_digest.as_bytes(), event_id], read).optional()?)
    }

    /// Writes one outcome.
    pub(crate) fn write(&mut self, unit_digest: &Digest, outcome: &StoredOutcome) -> Result<(), StoreError> {
        let StoredOutcome { event_id, content } = outcome;
        let at = content.at.as_micros();
        self.rows += 1;
        self.insert.execute(params![unit_digest.as_bytes(), event_id, &*content.event, at, content.value_micros])?;
        Ok(())
    }
}

fn read_content(row: &rusqlite::Row<'_>, names: &mut EventNames) -> rusqlite::Result<OutcomeContent> {
    let event = names.share(row.get_ref(1)?.as_str()?);
    Ok(OutcomeContent { at: Timestamp::from_micros(row.get(0)?), event, value_micros: row.get(2)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_names_are_shared_and_bounded() {
        let mut names = EventNames::default();
        let first = names.share("signup");
        names.share("view");
        assert!(Arc::ptr_eq(&first, &names.share("signup")));
        for n in 0..3 * MAX_NAMES {
            let name = n.to_string();
            assert_eq!(*names.share(&name), *name);
            assert!(names.all.len() <= MAX_NAMES);
        }
        assert_eq!(*names.share("signup"), *first);
    }
}
