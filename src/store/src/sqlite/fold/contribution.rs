//! The change of what the units of one generation contribute. Most of a unit's old contribution is equal to the new one, and
//! neighbours add to the same cells. So the difference is computed in a few cells that stay in the processor's cache,
//! before it is added to the changes of the generation.

use std::collections::BTreeMap;

use inroad_assignment::{Point, Timestamp};
use inroad_policy::attribution::{
    Cell, CellKey, History, Outcome, UnitCounts, UnitRecord, outcome_contribution, record_contribution,
};

use crate::sqlite::tallies::TallyDelta;

/// The most cells in the sorted list.
const LISTED_CELLS: usize = 64;

/// The difference of contributions of some units of one generation. One value is used for many generations, so that it
/// allocates only once.
pub(super) struct ContributionChange {
    /// The first ones, sorted by key.
    cells: Vec<(CellKey, Cell)>,
    /// All others: a long sorted list would become slow.
    more: BTreeMap<CellKey, Cell>,
    unit_counts: UnitCounts,
    latest_exposure: Timestamp,
}

impl Default for ContributionChange {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            more: BTreeMap::new(),
            unit_counts: UnitCounts::default(),
            latest_exposure: Timestamp::MIN,
        }
    }
}

impl ContributionChange {
    /// Whether it is time to move it.
    pub(super) fn is_large(&self) -> bool {
        !self.more.is_empty()
    }

    /// Notes the time of an exposure that is counted.
    pub(super) fn note_exposure(&mut self, at: Timestamp) {
        self.latest_exposure = self.latest_exposure.max(at);
    }

    /// Subtracts what a record contributed.
    pub(super) fn sub_record(&mut self, record: &UnitRecord, point: Point, history: History<'_>) {
        let unit_counts = record_contribution(record, point, history, |key, cell| self.cell(key).sub(&cell));
        self.unit_counts.sub(&unit_counts);
    }

    /// Adds what a record contributes.
    pub(super) fn add_record(&mut self, record: &UnitRecord, point: Point, history: History<'_>) {
        let unit_counts = record_contribution(record, point, history, |key, cell| self.cell(key).add(&cell));
        self.unit_counts.add(&unit_counts);
    }

    /// Subtracts what an outcome contributed to the metrics from index `from_metric` on.
    pub(super) fn sub_outcome(
        &mut self,
        record: &UnitRecord,
        history: History<'_>,
        outcome: &Outcome<'_>,
        from_metric: usize,
    ) {
        outcome_contribution(record, history, outcome, from_metric, |key, cell| self.cell(key).sub(&cell));
    }

    /// Adds what an outcome contributes to the metrics from index `from_metric` on.
    pub(super) fn add_outcome(
        &mut self,
        record: &UnitRecord,
        history: History<'_>,
        outcome: &Outcome<'_>,
        from_metric: usize,
    ) {
        outcome_contribution(record, history, outcome, from_metric, |key, cell| self.cell(key).add(&cell));
    }

    fn cell(&mut self, key: CellKey) -> &mut Cell {
        let at = match self.cells.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => at,
            Err(_) if self.cells.len() >= LISTED_CELLS => return self.more.entry(key).or_default(),
            Err(at) => {
                self.cells.insert(at, (key, Cell::default()));
                at
            }
        };
        &mut self.cells[at].1
    }

    /// Adds the difference to the changes of a generation, and becomes empty.
    pub(super) fn move_to(&mut self, delta: &mut TallyDelta) {
        let more = std::mem::take(&mut self.more);
        for (key, cell) in self.cells.drain(..).chain(more).filter(|(_, cell)| !cell.is_zero()) {
            delta.tally.add_cell(key, &cell);
        }
        delta.tally.unit_counts.add(&std::mem::take(&mut self.unit_counts));
        delta.latest_exposure = delta.latest_exposure.max(self.latest_exposure);
        self.latest_exposure = Timestamp::MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::Arm;

    /// A long sorted list would move its second half for each new cell.
    #[test]
    fn cells_beyond_the_list_are_in_the_tree_and_all_are_moved() {
        let (mut change, mut delta) = (ContributionChange::default(), TallyDelta::default());
        for round in 1..=2 {
            for tick in (0..5_000).rev() {
                let key = CellKey { metric: Some(0), tick, revision: 0, arm: Arm::CONTROL };
                *change.cell(key) = Cell { outcomes: round, ..Cell::default() };
            }
            assert_eq!((change.cells.len(), change.more.len()), (LISTED_CELLS, 5_000 - LISTED_CELLS));
        }
        assert!(change.is_large());
        change.move_to(&mut delta);
        assert_eq!(delta.tally.cells.len(), 5_000);
        assert!(delta.tally.cells.values().all(|cell| cell.outcomes == 2));
        assert!(change.cells.is_empty() && change.more.is_empty() && !change.is_large());
    }
}
