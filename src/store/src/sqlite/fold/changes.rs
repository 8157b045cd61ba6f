//! The changes of one step, which are collected first and then committed in one transaction.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use inroad_assignment::Digest;
use rusqlite::TransactionBehavior;

use super::{LOOKUP_BATCH, StoreHandles};
use crate::error::StoreError;
use crate::event::Seq;
use crate::sqlite::log_scan::ScannedOutcome;
use crate::sqlite::tallies::TallyDelta;
use crate::sqlite::tracked_generations::{GenerationIndex, TrackedGenerations};
use crate::sqlite::units::{OutcomeContent, UnitRow, read_outcome, write_outcome, write_unit};

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

/// A unit record to be written.
pub(super) struct UnitWrite {
    pub(super) generation: GenerationIndex,
    pub(super) row: UnitRow,
    pub(super) is_new: bool,
}

/// Everything that one transaction writes.
#[derive(Default)]
pub(super) struct StepChanges {
    /// Sorted by unit.
    pub(super) outcomes: Vec<NewOutcome>,
    pub(super) units: Vec<UnitWrite>,
    pub(super) deltas: BTreeMap<GenerationIndex, TallyDelta>,
}

impl StepChanges {
    /// The changes of a recount: records and counts of one generation.
    pub(super) fn from_recount(generation: GenerationIndex, rows: Vec<UnitRow>, delta: TallyDelta) -> Self {
        let units = rows.into_iter().map(|row| UnitWrite { generation, row, is_new: false }).collect();
        Self { outcomes: Vec::new(), units, deltas: BTreeMap::from([(generation, delta)]) }
    }

    /// Writes all changes in one transaction, with the fold's new offset if events were folded.
    pub(super) fn commit(
        &self,
        handles: StoreHandles<'_>,
        generations: &TrackedGenerations,
        new_offset: Option<Seq>,
    ) -> Result<(), StoreError> {
        handles.writer.with_connection(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for NewOutcome { scanned, .. } in &self.outcomes {
                let outcome = &scanned.outcome;
                write_outcome(&transaction, &scanned.unit_digest, &outcome.event_id, &outcome.content)?;
            }
            for write in &self.units {
                write_unit(&transaction, generations.get(write.generation)?, &write.row, write.is_new)?;
            }
            let mut cache = handles.tallies.lock_for_write();
            let write = |(index, delta): (&GenerationIndex, _)| {
                cache.write_tables(&transaction, generations.get(*index)?, delta)
            };
            let updates = self.deltas.iter().map(write).collect::<Result<Vec<_>, _>>()?;
            if let Some(offset) = new_offset {
                transaction
                    .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'folded'")?
                    .execute([offset as i64])?;
            }
            transaction.commit()?;
            updates.into_iter().for_each(|update| cache.apply(update));
            if let Some(offset) = new_offset {
                handles.folded.store(offset, Ordering::Release);
            }
            Ok(())
        })
    }
}

/// Keeps the outcomes that are new or replace a stored one.
pub(super) fn find_new_outcomes(
    handles: StoreHandles<'_>,
    scanned: Vec<ScannedOutcome>,
) -> Result<Vec<NewOutcome>, StoreError> {
    let mut new = Vec::with_capacity(scanned.len());
    let mut scanned = scanned.into_iter().peekable();
    while scanned.peek().is_some() {
        handles.writer.read_in_transaction(|connection| {
            for scanned in scanned.by_ref().take(LOOKUP_BATCH) {
                let before = read_outcome(connection, &scanned.unit_digest, &scanned.outcome.event_id)?;
                if before.as_ref().is_none_or(|before| scanned.outcome.content < *before) {
                    new.push(NewOutcome { scanned, before });
                }
            }
            Ok(())
        })?;
    }
    Ok(new)
}

/// The new outcomes of one unit; `outcomes` are sorted by unit.
pub(super) fn outcomes_of_unit<'a>(outcomes: &'a [NewOutcome], unit_digest: &Digest) -> &'a [NewOutcome] {
    let from = outcomes.partition_point(|o| o.scanned.unit_digest < *unit_digest);
    let rest = outcomes.get(from..).unwrap_or_default();
    rest.get(..rest.partition_point(|o| o.scanned.unit_digest == *unit_digest)).unwrap_or_default()
}
