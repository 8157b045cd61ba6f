//! The outcomes of one unit: those that are stored, and what a step changes about them.

use std::borrow::Cow;
use std::cell::OnceCell;

use inroad_assignment::Digest;

use crate::error::StoreError;
use crate::sqlite::log_scan::ScannedOutcome;
use crate::sqlite::units::{OutcomeContent, OutcomeTable, StoredOutcome};

/// The outcomes of a unit that were stored before a step.
enum OldOutcomes {
    All(Vec<StoredOutcome>),
    /// So many that they are read only when they are needed.
    Many,
    /// Not read, because the step has no outcome of the unit.
    Unread,
}

impl OldOutcomes {
    /// The stored content under an id; `None` if it is not stored.
    fn content(
        &self,
        table: &mut OutcomeTable<'_>,
        unit_digest: &Digest,
        event_id: &str,
    ) -> Result<Option<OutcomeContent>, StoreError> {
        match self {
            Self::Many | Self::Unread => table.read(unit_digest, event_id),
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
    /// The content that is replaced, in the order of the event ids.
    replaced: Vec<(&'a str, OutcomeContent)>,
    /// The most outcomes of a unit whose records do not contain their sums.
    max_without_sums: usize,
    /// All that were stored, once they were needed, if they are kept for the next record.
    kept: OnceCell<Vec<StoredOutcome>>,
    keeps: bool,
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
        let old = if scanned.is_empty() {
            OldOutcomes::Unread
        } else {
            let stored = table.of_unit(&unit_digest, max_without_sums.saturating_add(1))?;
            if stored.len() > max_without_sums { OldOutcomes::Many } else { OldOutcomes::All(stored) }
        };
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
        Ok(Self { unit_digest, old, new, replaced, max_without_sums, kept: OnceCell::new(), keeps: false })
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

    /// Keeps all stored outcomes in memory once they were needed.
    pub(super) fn keep(&mut self) {
        self.keeps = true;
    }

    /// Whether all stored outcomes would be read for each record that needs them.
    pub(super) fn has_many(&self) -> bool {
        matches!(self.old, OldOutcomes::Many)
    }

    /// All outcomes before the step.
    pub(super) fn before(&self, table: &mut OutcomeTable<'_>) -> Result<Cow<'_, [StoredOutcome]>, StoreError> {
        if let OldOutcomes::All(outcomes) = &self.old {
            return Ok(Cow::Borrowed(outcomes));
        }
        if let Some(kept) = self.kept.get() {
            return Ok(Cow::Borrowed(kept));
        }
        let read = table.of_unit(&self.unit_digest, usize::MAX)?;
        Ok(if self.keeps { Cow::Borrowed(self.kept.get_or_init(|| read)) } else { Cow::Owned(read) })
    }

    /// Whether the unit's records contain the sums after the step. `before` are all outcomes before it, if they were read.
    pub(super) fn stores_sums(&self, before: Option<&[StoredOutcome]>) -> bool {
        let stored = match (&self.old, before) {
            (_, Some(before)) => before.len(),
            (OldOutcomes::All(outcomes), None) => outcomes.len(),
            (OldOutcomes::Many, None) => self.max_without_sums.saturating_add(1),
            (OldOutcomes::Unread, None) => 0,
        };
        (stored + self.new.len()).saturating_sub(self.replaced.len()) > self.max_without_sums
    }

    /// All outcomes after the step, given those before it.
    pub(super) fn after<'b>(&'b self, before: &'b [StoredOutcome]) -> impl Iterator<Item = &'b StoredOutcome> {
        let is_replaced = |id: &str| self.replaced.binary_search_by(|(replaced, _)| (*replaced).cmp(id)).is_ok();
        let is_valid = move |outcome: &&StoredOutcome| !is_replaced(&outcome.event_id);
        before.iter().filter(is_valid).chain(self.new.iter().copied())
    }

    /// The events that the step adds or takes away, each once.
    pub(super) fn events(&self) -> Vec<&str> {
        let added = self.new.iter().map(|outcome| &*outcome.content.event);
        let mut events: Vec<&str> = added.chain(self.replaced.iter().map(|(_, before)| &*before.event)).collect();
        events.sort_unstable();
        events.dedup();
        events
    }
}
