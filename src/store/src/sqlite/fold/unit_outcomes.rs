//! The outcomes of one unit: those that are stored, and what a step changes about them.

use std::borrow::Cow;

use inroad_assignment::Digest;

use crate::error::StoreError;
use crate::sqlite::log_scan::ScannedOutcome;
use crate::sqlite::units::{OutcomeContent, OutcomeTable, StoredOutcome};

/// The outcomes of a unit that were stored before a step.
enum OldOutcomes {
    All(Vec<StoredOutcome>),
    /// So many that they are read only when they are needed, and never kept.
    Many,
}

impl OldOutcomes {
    /// All of them.
    fn all(&self, table: &mut OutcomeTable<'_>, unit_digest: &Digest) -> Result<Cow<'_, [StoredOutcome]>, StoreError> {
        match self {
            Self::All(outcomes) => Ok(Cow::Borrowed(outcomes)),
            Self::Many => table.of_unit(unit_digest, usize::MAX).map(Cow::Owned),
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
    /// Whether the unit has so many outcomes afterwards that its records contain their sums.
    pub(super) has_stored_sums: bool,
}

impl<'a> UnitOutcomes<'a> {
    /// Compares the unit's outcomes in the step with the stored ones. Records of units with at most `max_without_sums`
    /// outcomes do not contain their sums.
    pub(super) fn read(
        table: &mut OutcomeTable<'_>,
        unit_digest: Digest,
        scanned: &'a [ScannedOutcome],
        max_without_sums: usize,
    ) -> Result<Self, StoreError> {
        let stored = table.of_unit(&unit_digest, max_without_sums.saturating_add(1))?;
        let count = stored.len();
        let old = if count > max_without_sums { OldOutcomes::Many } else { OldOutcomes::All(stored) };
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
        let has_stored_sums = count + new.len() - replaced.len() > max_without_sums;
        Ok(Self { unit_digest, old, new, replaced, has_stored_sums })
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
    pub(super) fn before(&self, table: &mut OutcomeTable<'_>) -> Result<Cow<'_, [StoredOutcome]>, StoreError> {
        self.old.all(table, &self.unit_digest)
    }

    /// All outcomes after the step, given those before it.
    pub(super) fn after<'b>(&'b self, before: &'b [StoredOutcome]) -> impl Iterator<Item = &'b StoredOutcome> {
        let is_valid = |outcome: &&StoredOutcome| self.replaced.iter().all(|(id, _)| *id != outcome.event_id);
        before.iter().filter(is_valid).chain(self.new.iter().copied())
    }

    /// The events that the step adds or takes away.
    pub(super) fn events(&self) -> impl Iterator<Item = &str> {
        let added = self.new.iter().map(|outcome| &*outcome.content.event);
        added.chain(self.replaced.iter().map(|(_, before)| &*before.event))
    }
}
