//! The outcomes of one unit: those that are stored, and what a step changes about them.

use inroad_assignment::Digest;

use crate::error::StoreError;
use crate::sqlite::log_scan::ScannedOutcome;
use crate::sqlite::units::{MAX_OUTCOMES_WITHOUT_SUMS, OutcomeContent, OutcomeTable, StoredOutcome};

/// The outcomes of a unit that were stored before a step.
enum OldOutcomes {
    All(Vec<StoredOutcome>),
    /// More than [`MAX_OUTCOMES_WITHOUT_SUMS`], which are read only if they are needed.
    Many,
}

impl OldOutcomes {
    fn read(table: &mut OutcomeTable<'_>, unit_digest: &Digest) -> Result<Self, StoreError> {
        let outcomes = table.of_unit(unit_digest, MAX_OUTCOMES_WITHOUT_SUMS + 1)?;
        Ok(if outcomes.len() > MAX_OUTCOMES_WITHOUT_SUMS { Self::Many } else { Self::All(outcomes) })
    }

    /// All of them.
    fn all(&mut self, table: &mut OutcomeTable<'_>, unit_digest: &Digest) -> Result<&[StoredOutcome], StoreError> {
        if let Self::Many = self {
            *self = Self::All(table.of_unit(unit_digest, usize::MAX)?);
        }
        match self {
            Self::All(outcomes) => Ok(outcomes),
            Self::Many => Ok(&[]),
        }
    }

    /// The stored content under an id; `None` if it is not stored.
    fn content(
        &self,
        table: &mut OutcomeTable<'_>,
        unit_digest: &Digest,
        event_id: &str,
    ) -> Result<Option<OutcomeContent>, StoreError> {
        match self {
            Self::Many => table.read(unit_digest, event_id),
            Self::All(outcomes) => {
                let found = outcomes.binary_search_by(|outcome| outcome.event_id.as_str().cmp(event_id));
                Ok(found.ok().and_then(|at| outcomes.get(at)).map(|outcome| outcome.content.clone()))
            }
        }
    }
}

/// The outcomes of one unit before and after a step.
pub(super) struct UnitOutcomes<'a> {
    pub(super) unit_digest: Digest,
    old: OldOutcomes,
    /// Those that are new, or replace the stored one under their id.
    pub(super) new: Vec<&'a StoredOutcome>,
    /// The content that is replaced, by event id.
    replaced: Vec<(&'a str, OutcomeContent)>,
    /// How many the unit has afterwards, or the least that makes it have many.
    pub(super) count: usize,
}

impl<'a> UnitOutcomes<'a> {
    /// Compares the unit's outcomes in the step with the stored ones.
    pub(super) fn read(
        table: &mut OutcomeTable<'_>,
        unit_digest: Digest,
        scanned: &'a [ScannedOutcome],
    ) -> Result<Self, StoreError> {
        let old = OldOutcomes::read(table, &unit_digest)?;
        let (mut new, mut replaced) = (Vec::with_capacity(scanned.len()), Vec::new());
        for ScannedOutcome { outcome, .. } in scanned {
            match old.content(table, &unit_digest, &outcome.event_id)? {
                None => new.push(outcome),
                Some(before) if outcome.content < before => {
                    new.push(outcome);
                    replaced.push((outcome.event_id.as_str(), before));
                }
                Some(_) => {}
            }
        }
        let stored = match &old {
            OldOutcomes::All(outcomes) => outcomes.len(),
            OldOutcomes::Many => MAX_OUTCOMES_WITHOUT_SUMS + 1,
        };
        let count = stored + new.len() - replaced.len();
        Ok(Self { unit_digest, old, new, replaced, count })
    }

    /// How many are in memory.
    pub(super) fn loaded(&self) -> usize {
        let old = if let OldOutcomes::All(outcomes) = &self.old { outcomes.len() } else { 0 };
        old + self.new.len()
    }

    /// Whether an outcome is replaced, so that it no longer counts.
    pub(super) fn replaces(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// All outcomes before the step.
    pub(super) fn before(&mut self, table: &mut OutcomeTable<'_>) -> Result<&[StoredOutcome], StoreError> {
        self.old.all(table, &self.unit_digest)
    }

    /// The events that the step adds or takes away.
    pub(super) fn events(&self) -> impl Iterator<Item = &str> {
        let added = self.new.iter().map(|outcome| &*outcome.content.event);
        added.chain(self.replaced.iter().map(|(_, before)| &*before.event))
    }

    /// All outcomes before the step, and those among them that remain valid with the new ones.
    pub(super) fn before_and_after(
        &mut self,
        table: &mut OutcomeTable<'_>,
    ) -> Result<(&[StoredOutcome], impl Iterator<Item = &StoredOutcome>), StoreError> {
        let old = self.old.all(table, &self.unit_digest)?;
        let is_valid = |outcome: &&StoredOutcome| self.replaced.iter().all(|(id, _)| *id != outcome.event_id);
        Ok((old, old.iter().filter(is_valid).chain(self.new.iter().copied())))
    }
}
