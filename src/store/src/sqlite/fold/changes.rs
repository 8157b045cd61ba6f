//! The changes of one step or batch: read, computed and written in one transaction.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use inroad_assignment::{Digest, Timestamp};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::StoreHandles;
use super::contribution::ContributionChange;
use crate::error::StoreError;
use crate::event::Seq;
use crate::sqlite::tallies::TallyDelta;
use crate::sqlite::tracked_generations::{GenerationIndex, TrackedGenerations};
use crate::sqlite::units::{OutcomeTable, StoredOutcome, UnitTable};
use crate::unit_record_codec::StoredRecord;

/// The most bytes of records that are kept until they are written. More are written in several parts, each in the order
/// of its keys.
const MAX_KEPT_RECORD_BYTES: usize = 64 << 20;

/// How many rows were read and written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows {
    /// Records and outcomes written.
    pub(super) written: usize,
    /// All that were read or written, those of the tallies too.
    pub(super) all: usize,
}

/// A unit's record in one generation.
pub(super) struct UnitsRecord {
    pub(super) generation: GenerationIndex,
    pub(super) digest: Digest,
    /// `None` if it has none yet.
    pub(super) stored: Option<StoredRecord>,
}

/// A record to be written.
struct ChangedRecord {
    generation: GenerationIndex,
    digest: Digest,
    /// Of a new record; `None` for one that is replaced.
    unit_digest: Option<Digest>,
    encoded: Vec<u8>,
}

/// A transaction of the fold, which is rolled back unless it is committed.
pub(super) struct StepChanges<'a> {
    units: UnitTable<'a>,
    pub(super) outcomes: OutcomeTable<'a>,
    connection: &'a Connection,
    transaction: Transaction<'a>,
    generations: &'a TrackedGenerations,
    deltas: HashMap<GenerationIndex, TallyDelta>,
    contribution: ContributionChange,
    /// The generation to which `contribution` belongs.
    contributing: Option<GenerationIndex>,
    records: Vec<ChangedRecord>,
    /// The bytes of `records`.
    record_bytes: usize,
    /// Records and outcomes written so far.
    written: usize,
    /// Rows that were read without the tables above.
    read_elsewhere: usize,
}

impl<'a> StepChanges<'a> {
    /// Begins the transaction.
    pub(super) fn begin(connection: &'a Connection, generations: &'a TrackedGenerations) -> Result<Self, StoreError> {
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let (units, outcomes) = (UnitTable::new(connection)?, OutcomeTable::new(connection)?);
        Ok(Self {
            units,
            outcomes,
            connection,
            transaction,
            generations,
            deltas: HashMap::default(),
            contribution: ContributionChange::default(),
            contributing: None,
            records: Vec::new(),
            record_bytes: 0,
            written: 0,
            read_elsewhere: 0,
        })
    }

    /// The changes of one generation's counts.
    pub(super) fn delta(&mut self, generation: GenerationIndex) -> &mut TallyDelta {
        self.deltas.entry(generation).or_default()
    }

    /// The table of outcomes, and the change of what the units of a generation contribute. It is fast if the generation
    /// is the same as in the last call.
    pub(super) fn outcomes_and_contribution(
        &mut self,
        generation: GenerationIndex,
    ) -> (&mut OutcomeTable<'a>, &mut ContributionChange) {
        if self.contributing != Some(generation) || self.contribution.is_large() {
            self.move_contribution();
            self.contributing = Some(generation);
        }
        (&mut self.outcomes, &mut self.contribution)
    }

    fn move_contribution(&mut self) {
        if let Some(generation) = self.contributing.take() {
            self.contribution.move_to(self.deltas.entry(generation).or_default());
        }
    }

    /// Calls `put` with each stored record of a unit that outcomes at this time or later may concern. A unit has ever more
    /// records of generations that have ended; those cost no more than a row of the index.
    pub(super) fn records_of(
        &mut self,
        unit_digest: &Digest,
        earliest_outcome: Timestamp,
        mut put: impl FnMut(UnitsRecord),
    ) -> Result<(), StoreError> {
        let find = |experiment_id, number| match self.generations.with_id(experiment_id, number) {
            Some((_, tracked)) if tracked.has_ended(earliest_outcome) => Ok(None),
            Some((generation, _)) => Ok(Some(generation)),
            None => Err(StoreError::Database(format!("unit: experiment {experiment_id} has no generation {number}"))),
        };
        self.units.of_unit(unit_digest, find, |generation, digest, record| {
            put(UnitsRecord { generation, digest, stored: Some(record) });
        })
    }

    /// One unit's record in a generation.
    pub(super) fn record(&mut self, generation: GenerationIndex, digest: Digest) -> Result<UnitsRecord, StoreError> {
        let stored = self.units.read(self.generations.get(generation)?, &digest)?;
        Ok(UnitsRecord { generation, digest, stored })
    }

    /// Adds a unit's record.
    pub(super) fn insert_record(
        &mut self,
        generation: GenerationIndex,
        digest: Digest,
        unit_digest: Digest,
        encoded: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.keep(ChangedRecord { generation, digest, unit_digest: Some(unit_digest), encoded })
    }

    /// Replaces a unit's record.
    pub(super) fn replace_record(
        &mut self,
        generation: GenerationIndex,
        digest: Digest,
        encoded: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.keep(ChangedRecord { generation, digest, unit_digest: None, encoded })
    }

    /// Keeps a record until it is written. A step changes each record once.
    fn keep(&mut self, record: ChangedRecord) -> Result<(), StoreError> {
        self.record_bytes += record.encoded.len() + size_of::<ChangedRecord>();
        self.records.push(record);
        if self.record_bytes > MAX_KEPT_RECORD_BYTES { self.write_records() } else { Ok(()) }
    }

    /// Notes rows that were read by other statements.
    pub(super) fn note_read(&mut self, rows: usize) {
        self.read_elsewhere += rows;
    }

    /// Writes one outcome.
    pub(super) fn write_outcome(&mut self, unit_digest: &Digest, outcome: &StoredOutcome) -> Result<(), StoreError> {
        self.written += 1;
        self.outcomes.write(unit_digest, outcome)
    }

    /// Writes the records generation by generation in the order of their lines, so that a page is visited once for all
    /// records on it.
    fn write_records(&mut self) -> Result<(), StoreError> {
        let mut records = std::mem::take(&mut self.records);
        self.record_bytes = 0;
        self.written += records.len();
        records.sort_unstable_by_key(|record| (record.generation, record.digest));
        for ChangedRecord { generation, digest, unit_digest, encoded } in &records {
            let tracked = self.generations.get(*generation)?;
            match unit_digest {
                Some(unit_digest) => self.units.insert(tracked, digest, unit_digest, encoded)?,
                None => self.units.update(tracked, digest, encoded)?,
            }
        }
        Ok(())
    }

    /// Writes the counts, a version of the catalogue that has everything that they reflect, and the fold's new offset if
    /// events were folded. Commits.
    pub(super) fn commit(
        mut self,
        handles: StoreHandles<'_>,
        version: u64,
        offset: Option<Seq>,
    ) -> Result<Rows, StoreError> {
        self.move_contribution();
        self.write_records()?;
        let Self { units, outcomes, connection, transaction, generations, deltas, written, read_elsewhere, .. } = self;
        let cells: usize = deltas.values().map(|delta| delta.tally.cells.len()).sum();
        let rows = Rows { written, all: units.rows + outcomes.rows + read_elsewhere + cells };
        drop((units, outcomes));
        let mut deltas: Vec<_> = deltas.into_iter().collect();
        deltas.sort_unstable_by_key(|(generation, _)| *generation);
        let mut updates = Vec::with_capacity(deltas.len());
        for (generation, delta) in &deltas {
            updates.push(handles.tallies.write_tables(connection, generations.get(*generation)?, delta)?);
        }
        let set = |key: &str, value: u64| -> rusqlite::Result<usize> {
            connection.prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?.execute((key, value as i64))
        };
        set("catalogue_version", version)?;
        offset.map(|offset| set("folded", offset)).transpose()?;
        let _turn = handles.commit.lock().unwrap_or_else(PoisonError::into_inner);
        transaction.commit()?;
        handles.tallies.apply(updates);
        if let Some(offset) = offset {
            handles.folded.store(offset, Ordering::Release);
        }
        Ok(rows)
    }
}
