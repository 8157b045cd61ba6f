//! The counts, as callers read them: what the fold has made of the log, by calendar tick and arm.

use std::collections::BTreeMap;

use inroad_policy::attribution::{Cell, CellKey};

use crate::event::Seq;

/// The tallies of one generation, and how far the log they reach.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counts {
    /// The last event that is counted.
    pub folded: Seq,
    /// By metric, calendar tick, revision and arm.
    pub cells: BTreeMap<CellKey, Cell>,
    /// Units exposed to two or more variations beside control.
    pub units_moved: u64,
    /// Units exposed to control and then to a variation.
    pub crossovers: u64,
    /// Exposures first served under a revision that was no longer in effect.
    pub stale_exposures: u64,
}

/// What one step of the fold did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FoldStep {
    /// How many events were folded.
    pub events: usize,
    /// How many units count for something else than before.
    pub changed: usize,
    /// Units are still to be counted again for what changed in the catalogue: call again. Until that is done no event is
    /// folded, and of the counts part is as it was and part as it will be.
    pub behind: bool,
    /// How far the fold has come.
    pub folded: Seq,
}

impl FoldStep {
    /// Whether another step, right away, would do anything as far as this one could see.
    pub fn goes_on(&self) -> bool {
        self.events > 0 || self.behind
    }
}
