//! Who is credited with what: from one unit's exposures and outcomes to the cells that it adds to.
//!
//! Tallies are the sum of what each unit contributes, and a contribution is a function of the *set* of the unit's
//! events and of what the generation served when (I5). So whoever keeps tallies may see events in any order, twice, or
//! long after the fact: take away what the unit contributed before, add what it contributes now. Sums are whole
//! numbers in arithmetic that wraps, which makes taking away exact.
//!
//! Two kinds of numbers share the cells. **Estimates** (`first`, `n`, `s`, `x` …, `dropped`) follow the data rule: one
//! record per unit, counted under the arm and in the epoch of its first exposure, followed for the metric's window,
//! and dropped if what it was served changed meanwhile. **What people watch** (`units`, `outcomes` …) credits every
//! exposure, and every outcome to the arm served last before it; it lies at the tick of the event itself, under
//! revision 0.

pub mod funnel;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use inroad_assignment::{Arm, Definition, Generation, Metric, MetricKind, Point, Timestamp};

pub use record::{Accumulator, Exposure, Outcome, UnitRecord};

/// What a cell is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    /// Index of the metric in the definition; `None` for the exposures themselves.
    pub metric: Option<u16>,
    /// Estimates: the calendar tick of the unit's first exposure. Watched: of the exposure or the outcome itself.
    pub tick: i64,
    /// Estimates: the revision in effect at the unit's first exposure. Watched: 0, which no revision has.
    pub revision: u32,
    /// The arm that is credited.
    pub arm: Arm,
}

/// What the units of one cell add up to. Sums are in millionths, squares in millionths of millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// Units first exposed here.
    pub first: u64,
    /// Those followed under the data rule: what they were served did not change within the window.
    pub n: u64,
    /// Those of `n` with an outcome within the window.
    pub s: u64,
    /// Those of `s` whose first outcome came within the first quarter of the window.
    pub early: u64,
    /// Sum over `n` of the metric's number per unit; a ratio's numerator.
    pub x: i128,
    /// Sum of its squares.
    pub xx: i128,
    /// Sum over `n` of a ratio's denominator; 0 for other metrics.
    pub y: i128,
    /// Sum of its squares.
    pub yy: i128,
    /// Sum of the products of both.
    pub xy: i128,
    /// Units first exposed here that the data rule drops.
    pub dropped: u64,
    /// Watched: units exposed.
    pub units: u64,
    /// Watched: outcomes credited.
    pub outcomes: u64,
    /// Watched: units with an outcome credited, at the tick of the first.
    pub outcome_units: u64,
    /// Watched: sum of the values of outcomes credited.
    pub outcome_sum: i128,
}

impl Cell {
    /// Whether there is nothing in it.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another cell. Wraps, so that a difference may be added as well.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, u64::wrapping_add, i128::wrapping_add);
    }

    /// Takes another cell away. Wraps: what was taken away first can be added later.
    pub fn sub(&mut self, other: &Self) {
        self.merge(other, u64::wrapping_sub, i128::wrapping_sub);
    }

    fn merge(&mut self, other: &Self, count: fn(u64, u64) -> u64, sum: fn(i128, i128) -> i128) {
        *self = Self {
            first: count(self.first, other.first),
            n: count(self.n, other.n),
            s: count(self.s, other.s),
            early: count(self.early, other.early),
            x: sum(self.x, other.x),
            xx: sum(self.xx, other.xx),
            y: sum(self.y, other.y),
            yy: sum(self.yy, other.yy),
            xy: sum(self.xy, other.xy),
            dropped: count(self.dropped, other.dropped),
            units: count(self.units, other.units),
            outcomes: count(self.outcomes, other.outcomes),
            outcome_units: count(self.outcome_units, other.outcome_units),
            outcome_sum: sum(self.outcome_sum, other.outcome_sum),
        };
    }
}

/// What is counted of units as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Units exposed to two or more variations beside control.
    pub units_moved: u64,
    /// Units exposed to control and then to a variation.
    pub crossovers: u64,
    /// First exposures of a unit to an arm, served under a revision that was no longer in effect.
    pub stale_exposures: u64,
}

impl Flags {
    /// Adds others. Wraps, so that a difference may be added as well.
    pub fn add(&mut self, other: &Self) {
        self.units_moved = self.units_moved.wrapping_add(other.units_moved);
        self.crossovers = self.crossovers.wrapping_add(other.crossovers);
        self.stale_exposures = self.stale_exposures.wrapping_add(other.stale_exposures);
    }

    /// Takes others away. Wraps.
    pub fn sub(&mut self, other: &Self) {
        self.units_moved = self.units_moved.wrapping_sub(other.units_moved);
        self.crossovers = self.crossovers.wrapping_sub(other.crossovers);
        self.stale_exposures = self.stale_exposures.wrapping_sub(other.stale_exposures);
    }
}

/// A sum of what units contribute, or the difference of two such sums. A cell that comes to nothing is not kept, so
/// that two tallies of the same events are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// By metric, calendar tick, revision and arm; none is zero.
    pub cells: BTreeMap<CellKey, Cell>,
    /// What is counted of units as such.
    pub flags: Flags,
}

impl Tally {
    /// Whether it changes nothing.
    pub fn is_zero(&self) -> bool {
        self.cells.is_empty() && self.flags == Flags::default()
    }

    /// Adds to one cell.
    pub fn add_cell(&mut self, key: CellKey, cell: &Cell) {
        self.change(key, |kept| kept.add(cell));
    }

    /// Takes from one cell.
    pub fn sub_cell(&mut self, key: CellKey, cell: &Cell) {
        self.change(key, |kept| kept.sub(cell));
    }

    fn change(&mut self, key: CellKey, change: impl FnOnce(&mut Cell)) {
        let kept = self.cells.entry(key).or_default();
        change(kept);
        if kept.is_zero() {
            self.cells.remove(&key);
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        other.cells.iter().for_each(|(key, cell)| self.add_cell(*key, cell));
        self.flags.add(&other.flags);
    }

    /// Takes another tally away.
    pub fn sub(&mut self, other: &Self) {
        other.cells.iter().for_each(|(key, cell)| self.sub_cell(*key, cell));
        self.flags.sub(&other.flags);
    }
}

/// What was served when, and what is measured: all that a contribution depends on beside the unit's own events.
///
/// A history grows: revisions, kills, endings and metrics are added, never changed. To take away what a unit contributed under
/// an earlier history, give the generation as it was known then ([`known_up_to`]) and the number of its metrics.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// Whether early outcomes are told apart. Counts made by the first release know nothing of them.
    pub early: bool,
    /// What was served when.
    pub generation: &'a Generation,
    /// What is measured.
    pub metrics: &'a [Metric],
    /// The length of a calendar tick.
    pub tick: Duration,
}

impl<'a> History<'a> {
    /// The history of one generation of an experiment.
    pub fn new(definition: &'a Definition, generation: &'a Generation) -> Self {
        Self { early: true, generation, metrics: definition.metrics(), tick: definition.policy().tick() }
    }

    /// The same before any metric but the first `count` was there.
    #[must_use]
    pub fn with_metrics(self, count: usize) -> Self {
        Self { metrics: self.metrics.get(..count).unwrap_or(self.metrics), ..self }
    }

    /// The same as counts had it that did not tell early outcomes apart.
    #[must_use]
    pub fn without_early(self) -> Self {
        Self { early: false, ..self }
    }

    fn revision_at(&self, at: Timestamp) -> u32 {
        self.generation.in_effect(at).map_or(0, |r| r.number)
    }

    /// The metrics with their indices.
    fn numbered(&self) -> impl Iterator<Item = (u16, &'a Metric)> {
        (0u16..).zip(self.metrics)
    }
}

/// A generation as it was known when it had only so many revisions, switches and endings.
pub fn known_up_to(generation: &Generation, revisions: usize, switches: usize, endings: usize) -> Generation {
    Generation {
        number: generation.number,
        salt: generation.salt.clone(),
        started_at: generation.started_at,
        revisions: generation.revisions.iter().take(revisions).cloned().collect(),
        switches: generation.switches.iter().take(switches).copied().collect(),
        endings: generation.endings.iter().take(endings).copied().collect(),
    }
}

/// What one unit adds to all cells: its estimates, its flags, and all that is watched of it. `outcomes` is every outcome
/// of the unit, once each, in any order.
pub fn contribution<'a>(
    record: &UnitRecord,
    point: Point,
    history: History<'_>,
    outcomes: impl IntoIterator<Item = Outcome<'a>>,
) -> Tally {
    let mut tally = Tally::default();
    tally.flags = settled(record, point, history, |key, cell| tally.add_cell(key, &cell));
    for outcome in outcomes {
        watched(record, history, &outcome, 0, |key, cell| tally.add_cell(key, &cell));
    }
    tally
}

/// The part of a contribution that the record alone can tell, without the outcomes: everything but the watched
/// `outcomes` and `outcome_sum`. Each part of a cell is handed to `put`; the same cell may come more than once.
pub fn settled(record: &UnitRecord, point: Point, history: History<'_>, mut put: impl FnMut(CellKey, Cell)) -> Flags {
    let Some(first) = record.first() else { return Flags::default() };
    let epoch = (first.at.tick(history.tick), history.revision_at(first.at));
    let key = |metric| CellKey { metric, tick: epoch.0, revision: epoch.1, arm: first.arm };
    put(key(None), Cell { first: 1, ..Cell::default() });
    // Metrics mostly share a window, and then the question about the line is asked once.
    let mut asked: Option<(Duration, bool)> = None;
    for (index, metric) in history.numbered() {
        let stable = match asked {
            Some((window, stable)) if window == metric.window => stable,
            _ => {
                let until = first.at.plus(metric.window);
                let stable = history.generation.serves_throughout(point, first.arm, first.at, until);
                asked = Some((metric.window, stable));
                stable
            }
        };
        let mut cell = estimate(metric, record.accumulated(index), stable);
        if history.early && cell.s > 0 {
            let quarter = first.at.plus(metric.window / EARLY_PART);
            let soonest = record.first_credits().filter(|(m, ..)| *m == index).map(|(.., at)| at).min();
            cell.early = u64::from(soonest.is_some_and(|at| at < quarter));
        }
        put(key(Some(index)), cell);
    }
    for exposure in record.exposures() {
        let key = CellKey { metric: None, tick: exposure.at.tick(history.tick), revision: 0, arm: exposure.arm };
        put(key, Cell { units: 1, ..Cell::default() });
    }
    for (metric, arm, at) in record.first_credits() {
        let key = CellKey { metric: Some(metric), tick: at.tick(history.tick), revision: 0, arm };
        put(key, Cell { outcome_units: 1, ..Cell::default() });
    }
    flags(record, history)
}

/// What one outcome adds to the watched `outcomes` and `outcome_sum`, by every metric from `from_metric` on that is
/// about its event.
pub fn watched(
    record: &UnitRecord,
    history: History<'_>,
    outcome: &Outcome<'_>,
    from_metric: usize,
    mut put: impl FnMut(CellKey, Cell),
) {
    let Some(arm) = record.served_at(outcome.at) else { return };
    let about = history.numbered().skip(from_metric).filter(|(_, metric)| metric.event == outcome.event);
    for (index, _) in about {
        let key = CellKey { metric: Some(index), tick: outcome.at.tick(history.tick), revision: 0, arm };
        put(key, Cell { outcomes: 1, outcome_sum: i128::from(outcome.value_micros), ..Cell::default() });
    }
}

/// An outcome is early within one part in so many of its window.
const EARLY_PART: u32 = 4;

/// One unit's part in the estimates of one metric.
fn estimate(metric: &Metric, of: Accumulator, stable: bool) -> Cell {
    if !stable {
        return Cell { dropped: 1, ..Cell::default() };
    }
    let (x, y) = match &metric.kind {
        MetricKind::Conversion => (i128::from(of.count > 0) * MICROS, 0),
        MetricKind::Count => (i128::from(of.count).wrapping_mul(MICROS), 0),
        MetricKind::Mean { cap } => (cap.map_or(of.sum, |cap| of.sum.min((cap * MICROS as f64).round() as i128)), 0),
        MetricKind::Ratio { .. } => (of.sum, of.denominator),
    };
    let (x, y) = (held(x), held(y));
    Cell { n: 1, s: u64::from(of.count > 0), x, xx: x * x, y, yy: y * y, xy: x * y, ..Cell::default() }
}

/// One, in millionths.
const MICROS: i128 = 1_000_000;

/// What one unit may count for at the very most: its square still fits. Some 9 × 10¹², which no unit comes near.
fn held(sum: i128) -> i128 {
    sum.clamp(-i128::from(i64::MAX), i128::from(i64::MAX))
}

fn flags(record: &UnitRecord, history: History<'_>) -> Flags {
    let exposures = record.exposures();
    let treated = exposures.iter().filter(|e| !e.arm.is_control()).count();
    let from_control = exposures.iter().position(|e| e.arm.is_control());
    // There is one exposure per arm, so whatever follows control is a variation.
    let crossed = from_control.is_some_and(|at| at + 1 < exposures.len());
    let stale = exposures.iter().filter(|e| e.revision < history.revision_at(e.at)).count();
    Flags { units_moved: u64::from(treated >= 2), crossovers: u64::from(crossed), stale_exposures: stale as u64 }
}
