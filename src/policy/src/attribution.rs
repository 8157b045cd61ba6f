//! Attribution: what one unit counts for. It turns a unit's exposures and outcomes into the cells to which they add.
//!
//! **Estimates** count every unit once: in the epoch and under the arm of its first exposure, with the outcomes of a
//! fixed window after it. A unit is dropped from the estimates if the variation served to it changes within the window.
//!
//! ```text
//!            tolerance  first exposure                 window ends
//!                 ├────────●─────────── window ────────────┤
//!   outcomes ──×──┼────×───●─────×─────────────×───────────┼──────×───────►
//!         too early  counts    counts        counts            too late
//!
//!   served:    control ─► control the whole window       counted under control
//!              control ─► variation within the window    dropped, with all its outcomes
//!              variation ─► killed within the window     dropped, with all its outcomes
//!              variation ─► killed for seconds ─► back   counted under the variation
//! ```
//!
//! Clocks differ, so an outcome may be stamped up to [`OUTCOME_TOLERANCE`] before the exposure that led to it. An
//! interruption of at most [`interruption_limit`] drops nothing: almost all of the window was served as assigned.
//!
//! Dropping causes no bias: it depends on points, boundaries, kills and the time of the first exposure, never on what
//! the units did (docs/decisions/0020).
//!
//! **Activity counts** (`units`, `outcomes` …) are for people who watch the experiment. They credit every exposure, and
//! every outcome to the arm that was served last before it, at the tick of the event itself and under revision 0. They
//! also contain the outcomes that are outside the window. Outcomes after the end of the generation are nothing of it; a
//! client that does not know of the end may still expose units, and those are credited.
//!
//! Tallies are sums of the contributions of units, and a contribution is a function of the *set* of the unit's events
//! and of the generation's serving history (I5). So events may arrive in any order, repeatedly and late: subtract the
//! unit's earlier contribution and add the new one. Sums are integers, so that subtraction is exact, and wide enough for
//! every log: it has less than 2^63 outcomes of less than 2^50 millionths, so all values together are below 2^113, and
//! the sum of their squares is below 2^226.

pub mod funnel;
#[cfg(test)]
mod tests;
mod tolerances;
mod unit_record;

use std::collections::BTreeMap;
use std::time::Duration;

use inroad_assignment::{Arm, Definition, Generation, Metric, MetricKind, Point, Timestamp};

pub use ethnum::I256;
pub use tolerances::{OUTCOME_TOLERANCE, interruption_limit};
pub use unit_record::{Accumulator, Exposure, Outcome, UnitRecord};

/// The key of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    /// Index of the metric in the definition; `None` for the exposures themselves.
    pub metric: Option<u16>,
    /// Estimates: calendar tick of the unit's first exposure. Activity counts: tick of the exposure or outcome itself.
    pub tick: i64,
    /// Estimates: revision in effect at the unit's first exposure. Activity counts: 0, which no revision has.
    pub revision: u32,
    /// The arm to which the cell belongs.
    pub arm: Arm,
}

/// The counts and sums of one cell. Sums are in millionths, squares in millionths of millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// Units first exposed here.
    pub first: u64,
    /// Units counted in the estimates: the variation served to them did not change within the window.
    pub n: u64,
    /// Those of `n` with an outcome within the window.
    pub s: u64,
    /// Those of `s` whose first outcome came in the first quarter of the window.
    pub early: u64,
    /// Sum over `n` of the metric's number per unit; for a ratio, of the numerator.
    pub x: i128,
    /// Sum of the squares of `x`.
    pub xx: I256,
    /// Sum over `n` of a ratio's denominator; 0 for other metrics.
    pub y: i128,
    /// Sum of the squares of `y`.
    pub yy: I256,
    /// Sum of the products of both.
    pub xy: I256,
    /// Units first exposed here that are dropped, because the variation served to them changed within the window.
    pub dropped: u64,
    /// Those of `dropped` whose variation changed because of a kill or a restore.
    pub dropped_by_kill: u64,
    /// Those of `dropped` that were first exposed after the generation's end. The others moved by a revision, or an
    /// outdated client served them.
    pub dropped_after_end: u64,
    /// Activity: units exposed.
    pub units: u64,
    /// Activity: outcomes credited.
    pub outcomes: u64,
    /// Activity: units with an outcome credited, at the tick of the first one.
    pub outcome_units: u64,
    /// Activity: sum of the values of outcomes credited.
    pub outcome_sum: i128,
    /// Activity: outcomes during the generation that no estimate counts, because they are before the unit's first
    /// exposure by more than the tolerance.
    pub too_early: u64,
    /// Activity: outcomes during the generation that no estimate counts, because the unit's window had ended.
    pub too_late: u64,
}

impl Cell {
    /// Whether all counts and sums are 0.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another cell. Wraps, so that a difference may be added as well.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, u64::wrapping_add, i128::wrapping_add, I256::wrapping_add);
    }

    /// Subtracts another cell. Wraps, so that a cell may be subtracted before it is added.
    pub fn sub(&mut self, other: &Self) {
        self.merge(other, u64::wrapping_sub, i128::wrapping_sub, I256::wrapping_sub);
    }

    fn merge(
        &mut self,
        other: &Self,
        count: fn(u64, u64) -> u64,
        sum: fn(i128, i128) -> i128,
        squares: fn(I256, I256) -> I256,
    ) {
        *self = Self {
            first: count(self.first, other.first),
            n: count(self.n, other.n),
            s: count(self.s, other.s),
            early: count(self.early, other.early),
            x: sum(self.x, other.x),
            xx: squares(self.xx, other.xx),
            y: sum(self.y, other.y),
            yy: squares(self.yy, other.yy),
            xy: squares(self.xy, other.xy),
            dropped: count(self.dropped, other.dropped),
            dropped_by_kill: count(self.dropped_by_kill, other.dropped_by_kill),
            dropped_after_end: count(self.dropped_after_end, other.dropped_after_end),
            units: count(self.units, other.units),
            outcomes: count(self.outcomes, other.outcomes),
            outcome_units: count(self.outcome_units, other.outcome_units),
            outcome_sum: sum(self.outcome_sum, other.outcome_sum),
            too_early: count(self.too_early, other.too_early),
            too_late: count(self.too_late, other.too_late),
        };
    }
}

/// Counts of units that do not belong to an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitCounts {
    /// Units exposed to two or more variations, control not included.
    pub units_moved: u64,
    /// Units exposed to control and later to a variation (crossovers).
    pub crossovers: u64,
    /// First exposures of a unit to an arm that were served under a revision no longer in effect.
    pub stale_exposures: u64,
}

impl UnitCounts {
    /// Adds other counts. Wraps, so that a difference may be added as well.
    pub fn add(&mut self, other: &Self) {
        self.units_moved = self.units_moved.wrapping_add(other.units_moved);
        self.crossovers = self.crossovers.wrapping_add(other.crossovers);
        self.stale_exposures = self.stale_exposures.wrapping_add(other.stale_exposures);
    }

    /// Subtracts other counts. Wraps.
    pub fn sub(&mut self, other: &Self) {
        self.units_moved = self.units_moved.wrapping_sub(other.units_moved);
        self.crossovers = self.crossovers.wrapping_sub(other.crossovers);
        self.stale_exposures = self.stale_exposures.wrapping_sub(other.stale_exposures);
    }
}

/// A sum of contributions of units, or the difference of two such sums. Cells that are zero are removed, so that two
/// tallies of the same events are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Cells by metric, calendar tick, revision and arm. No cell is zero.
    pub cells: BTreeMap<CellKey, Cell>,
    /// Counts of units that do not belong to an epoch.
    pub unit_counts: UnitCounts,
}

impl Tally {
    /// Whether the tally is zero.
    pub fn is_zero(&self) -> bool {
        self.cells.is_empty() && self.unit_counts == UnitCounts::default()
    }

    /// Adds to one cell.
    pub fn add_cell(&mut self, key: CellKey, cell: &Cell) {
        self.change(key, |stored| stored.add(cell));
    }

    /// Subtracts from one cell.
    pub fn sub_cell(&mut self, key: CellKey, cell: &Cell) {
        self.change(key, |stored| stored.sub(cell));
    }

    fn change(&mut self, key: CellKey, change: impl FnOnce(&mut Cell)) {
        let stored = self.cells.entry(key).or_default();
        change(stored);
        if stored.is_zero() {
            self.cells.remove(&key);
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        other.cells.iter().for_each(|(key, cell)| self.add_cell(*key, cell));
        self.unit_counts.add(&other.unit_counts);
    }

    /// Subtracts another tally.
    pub fn sub(&mut self, other: &Self) {
        other.cells.iter().for_each(|(key, cell)| self.sub_cell(*key, cell));
        self.unit_counts.sub(&other.unit_counts);
    }
}

/// The serving history and the metrics of a generation: everything that a contribution depends on besides the unit's
/// own events.
///
/// A history only grows: revisions, kills, endings and metrics are added and never changed. To subtract the
/// contribution of a unit under an earlier history, use the generation as it was then ([`generation_as_of`]) and its
/// number of metrics.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// Whether early outcomes are counted separately. Counts made by the first release do not have them.
    pub counts_early: bool,
    /// Whether the tolerances apply: for outcomes shortly before the exposure, and for short interruptions. Counts made
    /// before they were introduced have neither, and neither the reasons for dropped units nor outcomes outside the
    /// window.
    pub tolerates: bool,
    /// Whether the activity counts end with the generation. Counts made by earlier releases credit outcomes for ever.
    pub activity_ends: bool,
    /// The generation, whose history determines which arm was served at each point and instant.
    pub generation: &'a Generation,
    /// The metrics to count.
    pub metrics: &'a [Metric],
    /// The length of a calendar tick.
    pub tick: Duration,
}

impl<'a> History<'a> {
    /// The history of one generation of an experiment.
    pub fn new(definition: &'a Definition, generation: &'a Generation) -> Self {
        Self {
            counts_early: true,
            tolerates: true,
            activity_ends: true,
            generation,
            metrics: definition.metrics(),
            tick: definition.policy().tick(),
        }
    }

    /// The same history with the first `count` metrics only.
    #[must_use]
    pub fn with_first_metrics(self, count: usize) -> Self {
        Self { metrics: self.metrics.get(..count).unwrap_or(self.metrics), ..self }
    }

    /// The same history without separate counts of early outcomes.
    #[must_use]
    pub fn without_early_outcomes(self) -> Self {
        Self { counts_early: false, ..self }
    }

    /// The same history without the tolerances.
    #[must_use]
    pub fn without_tolerances(self) -> Self {
        Self { tolerates: false, ..self }
    }

    /// The same history with activity counts that go on after the generation's end.
    #[must_use]
    pub fn with_endless_activity(self) -> Self {
        Self { activity_ends: false, ..self }
    }

    /// Whether an outcome at this time is too late to count for any unit.
    pub(crate) fn is_after_activity(&self, at: Timestamp) -> bool {
        self.activity_ends && self.generation.ended_at().is_some_and(|end| at >= end)
    }

    /// Number of the revision in effect at an instant; 0 before the first.
    fn revision_at(&self, at: Timestamp) -> u32 {
        self.generation.revision_in_effect(at).map_or(0, |r| r.number)
    }

    /// The metrics with their indices.
    fn indexed_metrics(&self) -> impl Iterator<Item = (u16, &'a Metric)> {
        (0u16..).zip(self.metrics)
    }
}

/// An earlier state of a generation: with its first `revisions` revisions, `kill_changes` kills and restores, and
/// `endings` endings.
pub fn generation_as_of(generation: &Generation, revisions: usize, kill_changes: usize, endings: usize) -> Generation {
    Generation {
        number: generation.number,
        salt: generation.salt.clone(),
        started_at: generation.started_at,
        revisions: generation.revisions.iter().take(revisions).cloned().collect(),
        kill_changes: generation.kill_changes.iter().take(kill_changes).copied().collect(),
        endings: generation.endings.iter().take(endings).copied().collect(),
    }
}

/// Everything that one unit adds: estimates, unit counts and activity counts. `outcomes` are all outcomes of the unit,
/// each once, in any order.
pub fn unit_contribution<'a>(
    record: &UnitRecord,
    point: Point,
    history: History<'_>,
    outcomes: impl IntoIterator<Item = Outcome<'a>>,
) -> Tally {
    let mut tally = Tally::default();
    tally.unit_counts = record_contribution(record, point, history, |key, cell| tally.add_cell(key, &cell));
    for outcome in outcomes {
        outcome_contribution(record, history, &outcome, 0, |key, cell| tally.add_cell(key, &cell));
    }
    tally
}

/// The part of a unit's contribution that depends on its record alone: everything except the activity counts of single
/// outcomes, which [`outcome_contribution`] adds. Calls `put` for each part of a cell; a cell may occur more
/// than once.
pub fn record_contribution(
    record: &UnitRecord,
    point: Point,
    history: History<'_>,
    mut put: impl FnMut(CellKey, Cell),
) -> UnitCounts {
    let Some(first) = record.first() else { return UnitCounts::default() };
    let epoch = (first.at.tick(history.tick), history.revision_at(first.at));
    let key = |metric| CellKey { metric, tick: epoch.0, revision: epoch.1, arm: first.arm };
    put(key(None), Cell { first: 1, ..Cell::default() });
    // Most metrics have the same window, so the result for the last window is reused.
    let mut last_window: Option<(Duration, Option<Cell>)> = None;
    for (index, metric) in history.indexed_metrics() {
        let dropped = match last_window {
            Some((window, dropped)) if window == metric.window => dropped,
            _ => {
                let is_counted = history.counts_unit(point, first, metric.window);
                let dropped = (!is_counted).then(|| history.dropped_cell(point, first, metric.window));
                last_window = Some((metric.window, dropped));
                dropped
            }
        };
        let mut cell = dropped.unwrap_or_else(|| estimate_cell(metric, record.accumulated(index)));
        if history.counts_early && cell.s > 0 {
            let quarter = first.at.plus(metric.window / EARLY_PART);
            let earliest = record.first_credits().filter(|(m, ..)| *m == index).map(|(.., at)| at).min();
            cell.early = u64::from(earliest.is_some_and(|at| at < quarter));
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
    unit_counts(record, history)
}

/// What one outcome adds to the activity counts `outcomes`, `outcome_sum`, `too_early` and `too_late`, for every metric
/// from index `from_metric` on that counts its event.
pub fn outcome_contribution(
    record: &UnitRecord,
    history: History<'_>,
    outcome: &Outcome<'_>,
    from_metric: usize,
    mut put: impl FnMut(CellKey, Cell),
) {
    let Some(first) = record.first() else { return };
    if history.is_after_activity(outcome.at) {
        return;
    }
    let credited = record.credited_arm(history, outcome.at);
    let ended = history.generation.ended_at().unwrap_or(Timestamp::MAX);
    let is_during_run = history.tolerates && outcome.at >= history.generation.started_at && outcome.at < ended;
    let counting = history.indexed_metrics().skip(from_metric).filter(|(_, metric)| metric.event == outcome.event);
    for (index, metric) in counting {
        let key = |arm| CellKey { metric: Some(index), tick: outcome.at.tick(history.tick), revision: 0, arm };
        if let Some(arm) = credited {
            put(key(arm), Cell { outcomes: 1, outcome_sum: i128::from(outcome.value_micros), ..Cell::default() });
        }
        if is_during_run {
            let too_early = u64::from(outcome.at < history.counts_from(first.at));
            let too_late = u64::from(outcome.at >= first.at.plus(metric.window));
            if too_early + too_late > 0 {
                put(key(first.arm), Cell { too_early, too_late, ..Cell::default() });
            }
        }
    }
}

/// An outcome is early if it comes in the first quarter of the window.
const EARLY_PART: u32 = 4;

/// The cell of one unit in the estimates of one metric.
fn estimate_cell(metric: &Metric, sums: Accumulator) -> Cell {
    let (x, y) = match &metric.kind {
        MetricKind::Conversion => (i128::from(sums.count > 0) * MICROS, 0),
        MetricKind::Count => (i128::from(sums.count).wrapping_mul(MICROS), 0),
        MetricKind::Mean { cap } => {
            (cap.map_or(sums.sum, |cap| sums.sum.min((cap * MICROS as f64).round() as i128)), 0)
        }
        MetricKind::Ratio { .. } => (sums.sum, sums.denominator),
    };
    let (wide_x, wide_y) = (I256::from(x), I256::from(y));
    let (xx, yy, xy) = (wide_x * wide_x, wide_y * wide_y, wide_x * wide_y);
    Cell { n: 1, s: u64::from(sums.count > 0), x, xx, y, yy, xy, ..Cell::default() }
}

/// One, in millionths.
const MICROS: i128 = 1_000_000;

fn unit_counts(record: &UnitRecord, history: History<'_>) -> UnitCounts {
    let exposures = record.exposures();
    let treated = exposures.iter().filter(|e| !e.arm.is_control()).count();
    let from_control = exposures.iter().position(|e| e.arm.is_control());
    // There is one exposure per arm, so an exposure after control is to a variation.
    let crossed = from_control.is_some_and(|at| at + 1 < exposures.len());
    let stale = exposures.iter().filter(|e| e.revision < history.revision_at(e.at)).count();
    UnitCounts { units_moved: u64::from(treated >= 2), crossovers: u64::from(crossed), stale_exposures: stale as u64 }
}
