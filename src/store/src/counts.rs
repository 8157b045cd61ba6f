//! The counts that the fold computes from the log, as callers read them.

use std::collections::BTreeMap;

use inroad_policy::attribution::{Cell, CellKey};

use crate::event::Seq;

/// The tallies of one generation, and the place in the log up to which they count.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationCounts {
    /// The place of the last counted event.
    pub folded: Seq,
    /// The sums by metric, calendar tick, revision and arm.
    pub cells: BTreeMap<CellKey, Cell>,
    /// Units exposed to two or more variations other than control.
    pub units_moved: u64,
    /// Units exposed to control and then to a variation.
    pub crossovers: u64,
    /// First exposures of a unit to an arm that were served under a revision no longer in effect.
    pub stale_exposures: u64,
}

/// The result of one step of the fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FoldStep {
    /// How many events were folded.
    pub events: usize,
    /// How many units have a different contribution than before.
    pub changed: usize,
    /// How many rows of unit records, outcomes and tallies were read and written: what the step costs, without the speed
    /// of the machine.
    pub rows: usize,
    /// A change of the catalogue requires that more units are counted again: call again. Until the recount is complete,
    /// no event is folded, and a part of the counts does not include the change.
    pub is_behind: bool,
    /// The fold's offset after the step.
    pub folded: Seq,
}

impl FoldStep {
    /// Whether another step would have work to do immediately, as far as this one could see.
    pub fn has_more_work(&self) -> bool {
        self.events > 0 || self.is_behind
    }
}
