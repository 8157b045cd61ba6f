//! The changes of one step or batch: read, computed and written in one transaction.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use inroad_assignment::Digest;
use inroad_policy::attribution::UnitRecord;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::StoreHandles;
use crate::error::StoreError;
use crate::event::Seq;
use crate::sqlite::log_scan::ScannedOutcome;
use crate::sqlite::tallies::TallyDelta;
use crate::sqlite::tracked_generations::{GenerationIndex, TrackedGenerations};
use crate::sqlite::units::{OutcomeContent, OutcomeTable, StoredOutcome, UnitRow, UnitTable};

/// An outcome that is new, or replaces the stored one under its event id.
pub(super) struct NewOutcome {
    pub(super) scanned: ScannedOutcome,
    pub(super) before: Option<OutcomeContent>,
}

impl NewOutcome {
    /// Its event, and that of the outcome that it replaces.
    pub(super) fn events(&self) -> impl Iterator<Item = &str> {
        let replaced = self.before.as_ref().map(|content| content.event.as_str());
        [Some(self.scanned.outcome.content.event.as_str()), replaced].into_iter().flatten()
    }
}

/// How many rows were written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WrittenRows {
    pub(super) records: usize,
    pub(super) outcomes: usize,
}

/// A transaction of the fold, which is rolled back unless it is committed.
pub(super) struct StepChanges<'a> {
    units: UnitTable<'a>,
    outcomes: OutcomeTable<'a>,
    connection: &'a Connection,
    transaction: Transaction<'a>,
    generations: &'a TrackedGenerations,
    deltas: BTreeMap<GenerationIndex, TallyDelta>,
    pub(super) written: WrittenRows,
}

impl<'a> StepChanges<'a> {
    /// Begins the transaction.
    pub(super) fn begin(connection: &'a Connection, generations: &'a TrackedGenerations) -> Result<Self, StoreError> {
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let (units, outcomes) = (UnitTable::new(connection)?, OutcomeTable::new(connection)?);
        let (deltas, written) = (BTreeMap::new(), WrittenRows::default());
        Ok(Self { units, outcomes, connection, transaction, generations, deltas, written })
    }

    /// The changes of one generation's counts.
    pub(super) fn delta(&mut self, generation: GenerationIndex) -> &mut TallyDelta {
        self.deltas.entry(generation).or_default()
    }

    /// Keeps the outcomes that are new or replace a stored one.
    pub(super) fn find_new_outcomes(&mut self, scanned: Vec<ScannedOutcome>) -> Result<Vec<NewOutcome>, StoreError> {
        let mut new = Vec::with_capacity(scanned.len());
        for scanned in scanned {
            let before = self.outcomes.read(&scanned.unit_digest, &scanned.outcome.event_id)?;
            if before.as_ref().is_none_or(|before| scanned.outcome.content < *before) {
                new.push(NewOutcome { scanned, before });
            }
        }
        Ok(new)
    }

    /// One unit's record in a generation; `None` if it has none.
    pub(super) fn read_record(
        &mut self,
        generation: GenerationIndex,
        digest: &Digest,
    ) -> Result<Option<UnitRecord>, StoreError> {
        self.units.read(self.generations.get(generation)?, digest)
    }

    /// Adds a unit's record.
    pub(super) fn insert_record(&mut self, generation: GenerationIndex, row: &UnitRow) -> Result<(), StoreError> {
        self.written.records += 1;
        self.units.insert(self.generations.get(generation)?, row)
    }

    /// Replaces a unit's record.
    pub(super) fn write_record(
        &mut self,
        generation: GenerationIndex,
        digest: &Digest,
        record: &UnitRecord,
    ) -> Result<(), StoreError> {
        self.written.records += 1;
        self.units.update(self.generations.get(generation)?, digest, record)
    }

    /// Writes one outcome.
    pub(super) fn write_outcome(&mut self, unit_digest: &Digest, outcome: &StoredOutcome) -> Result<(), StoreError> {
        self.written.outcomes += 1;
        self.outcomes.write(unit_digest, outcome)
    }

    /// Writes the counts, a version of the catalogue that has everything that they reflect, and the fold's new offset if
    /// events were folded. Commits.
    pub(super) fn commit(self, handles: StoreHandles<'_>, version: u64, offset: Option<Seq>) -> Result<(), StoreError> {
        let Self { units, outcomes, connection, transaction, generations, deltas, .. } = self;
        drop((units, outcomes));
        let write = |(index, delta): (&GenerationIndex, _)| {
            handles.tallies.write_tables(connection, generations.get(*index)?, delta)
        };
        let updates = deltas.iter().map(write).collect::<Result<Vec<_>, _>>()?;
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
        Ok(())
    }
}

/// The new outcomes of one unit; `outcomes` are sorted by unit.
pub(super) fn outcomes_of_unit<'a>(outcomes: &'a [NewOutcome], unit_digest: &Digest) -> &'a [NewOutcome] {
    let from = outcomes.partition_point(|o| o.scanned.unit_digest < *unit_digest);
    let rest = outcomes.get(from..).unwrap_or_default();
    rest.get(..rest.partition_point(|o| o.scanned.unit_digest == *unit_digest)).unwrap_or_default()
}
