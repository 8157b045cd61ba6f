//! The tallies of one run, updated tick by tick.
//!
//! An outcome is added when it becomes known. If the arm of a unit changes within its window, its record is removed
//! again, numerator and denominator (the data rule, docs/statistics.md). Only units whose window is open are kept in
//! memory.

use std::collections::VecDeque;

use inroad_assignment::{Arm, Point};
use inroad_policy::{ArmTally, EpochKey, EpochTally, Measure, Moments};

/// Adds (sign 1) or removes (sign −1) the denominator of a unit, which is known before its outcome.
fn add_denominator(moments: &mut Moments, y: f64, sign: f64) {
    moments.y += sign * y;
    moments.yy += sign * y * y;
}

/// Adds (sign 1) or removes (sign −1) the cost of a unit, which is known before its outcome.
fn add_cost(moments: &mut Moments, cost: f64, sign: f64) {
    moments.x -= sign * cost;
    moments.xx += sign * cost * cost;
}

/// Adds (sign 1) or removes (sign −1) the outcome of a unit whose cost is counted already.
fn add_outcome(moments: &mut Moments, x: f64, y: f64, cost: f64, sign: f64) {
    moments.x += sign * x;
    moments.xx += sign * x * (x - 2.0 * cost);
    moments.xy += sign * x * y;
}

/// A unit whose window is open.
#[derive(Debug, Clone, Copy)]
struct OpenUnit {
    point: Point,
    arm: Arm,
    dropped: bool,
    /// The tick at which its outcome becomes known.
    due: u32,
    /// Its outcome (the numerator).
    x: f64,
    /// Its denominator.
    y: f64,
}

/// The record of a unit, made at its first exposure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnitRecord {
    pub(crate) point: Point,
    pub(crate) arm: Arm,
    /// Whether a client with the current boundaries would have served the same arm. If not, the record is dropped.
    pub(crate) up_to_date: bool,
    /// Its outcome (the numerator), 0 for none.
    pub(crate) x: f64,
    /// Its denominator; 0 for metrics without one.
    pub(crate) y: f64,
    /// Ticks until the outcome is known, at least 1.
    pub(crate) delay: u32,
}

/// The units that were first exposed in one tick.
struct ExposureTick {
    tick: u32,
    units: Vec<OpenUnit>,
}

/// The tallies of one run by epoch and arm.
pub(crate) struct RunTallies {
    arms: usize,
    /// Ticks per epoch.
    stride: u32,
    /// Ticks in which outcomes of a unit count.
    window: u32,
    /// Cost of every unit, which makes its outcome known in part at its exposure; 0 for none.
    cost: f64,
    epochs: Vec<EpochTally>,
    /// A tally without units. It has moments unless the metric is a conversion.
    empty: ArmTally,
    /// Ticks whose units have an open window: oldest first, no gaps.
    open: VecDeque<ExposureTick>,
    /// Exposure tick and index of the units whose outcome becomes known at a tick, as a ring: tick modulo its length.
    due: Vec<Vec<(u32, u32)>>,
    /// Buffers to reuse.
    spare: Vec<Vec<OpenUnit>>,
    dropped: u64,
}

impl RunTallies {
    /// Empty tallies. `window` is how long outcomes of a unit count, `stride` the length of an epoch, both in ticks; `cost`
    /// is that of every unit.
    pub(crate) fn new(arms: usize, window: u32, stride: u32, measure: Measure, cost: f64) -> Self {
        let has_moments = matches!(measure, Measure::Mean | Measure::Ratio | Measure::MeanDifference);
        Self {
            arms,
            stride: stride.max(1),
            window,
            cost,
            epochs: Vec::new(),
            empty: ArmTally { moments: has_moments.then(Moments::default), ..ArmTally::default() },
            open: VecDeque::new(),
            due: vec![Vec::new(); window as usize + 1],
            spare: Vec::new(),
            dropped: 0,
        }
    }

    /// The tallies of all epochs, in order.
    pub(crate) fn epochs(&self) -> &[EpochTally] {
        &self.epochs
    }

    /// Number of records dropped because the unit's arm changed.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds the outcomes that become known at the beginning of `tick`, and closes windows that end.
    pub(crate) fn add_due_outcomes(&mut self, tick: u32) {
        if self.window > 0 {
            let slot = tick as usize % self.due.len();
            for (exposed, index) in std::mem::take(&mut self.due[slot]) {
                let first = self.open.front().map_or(0, |open| open.tick);
                let unit = self.open.get((exposed - first) as usize).and_then(|open| open.units.get(index as usize));
                if let Some(unit) = unit.filter(|unit| !unit.dropped).copied() {
                    self.credit(exposed, &unit, 1.0);
                }
            }
            while self.open.front().is_some_and(|open| open.tick + self.window <= tick) {
                self.spare.extend(self.open.pop_front().map(|open| open.units));
            }
        }
    }

    /// Opens `tick`, and an epoch if one begins. `shares` are those served in the tick.
    pub(crate) fn open_tick(&mut self, tick: u32, shares: &[f64]) {
        if tick.is_multiple_of(self.stride) {
            let epoch = EpochKey { tick: i64::from(tick / self.stride), revision: 1 };
            self.epochs.push(EpochTally { epoch, arms: vec![self.empty; self.arms], shares: shares.to_vec() });
        }
        if self.window > 0 {
            let mut units = self.spare.pop().unwrap_or_default();
            units.clear();
            self.open.push_back(ExposureTick { tick, units });
        }
    }

    /// Adds a unit that is first exposed in `tick`, which must be open.
    pub(crate) fn add_unit(&mut self, tick: u32, record: &UnitRecord) {
        let UnitRecord { point, arm, up_to_date, x, y, delay } = *record;
        let tally = self.tally(tick, arm);
        tally.first += 1;
        if !up_to_date {
            self.dropped += 1;
            return;
        }
        tally.n += 1;
        tally.moments.iter_mut().for_each(|moments| add_denominator(moments, y, 1.0));
        self.credit_cost(tick, arm, 1.0);
        let due = tick + delay;
        let unit = OpenUnit { point, arm, dropped: false, due, x, y };
        if self.window == 0 {
            self.credit(tick, &unit, 1.0);
            return;
        }
        let slot = due as usize % self.due.len();
        let Some(open) = self.open.back_mut() else { return };
        if x > 0.0 {
            self.due[slot].push((tick, open.units.len() as u32));
        }
        open.units.push(unit);
    }

    /// Drops the records of units with an open window that are served another arm from `tick` on.
    pub(crate) fn drop_moved(&mut self, tick: u32, served_arm: impl Fn(Point) -> Arm) {
        let mut open = std::mem::take(&mut self.open);
        for exposed in &mut open {
            for unit in exposed.units.iter_mut().filter(|unit| !unit.dropped) {
                if served_arm(unit.point) != unit.arm {
                    unit.dropped = true;
                    self.drop_record(exposed.tick, unit, tick);
                }
            }
        }
        self.open = open;
    }

    fn drop_record(&mut self, exposed: u32, unit: &OpenUnit, tick: u32) {
        if unit.due <= tick {
            self.credit(exposed, unit, -1.0);
        }
        let tally = self.tally(exposed, unit.arm);
        tally.n -= 1;
        tally.moments.iter_mut().for_each(|moments| add_denominator(moments, unit.y, -1.0));
        self.credit_cost(exposed, unit.arm, -1.0);
        self.dropped += 1;
    }

    /// Adds (sign 1) or removes (sign −1) the cost of a unit. A unit with a cost has an outcome.
    fn credit_cost(&mut self, tick: u32, arm: Arm, sign: f64) {
        let cost = self.cost;
        if cost > 0.0 {
            let tally = self.tally(tick, arm);
            tally.s = if sign > 0.0 { tally.s + 1 } else { tally.s - 1 };
            tally.moments.iter_mut().for_each(|moments| add_cost(moments, cost, sign));
        }
    }

    /// Adds (sign 1) or removes (sign −1) the outcome of a unit.
    fn credit(&mut self, tick: u32, unit: &OpenUnit, sign: f64) {
        if unit.x > 0.0 {
            let cost = self.cost;
            let tally = self.tally(tick, unit.arm);
            if cost == 0.0 {
                tally.s = if sign > 0.0 { tally.s + 1 } else { tally.s - 1 };
            }
            tally.moments.iter_mut().for_each(|moments| add_outcome(moments, unit.x, unit.y, cost, sign));
        }
    }

    fn tally(&mut self, tick: u32, arm: Arm) -> &mut ArmTally {
        let epoch = (tick / self.stride) as usize;
        &mut self.epochs[epoch].arms[arm.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const TICKS: u32 = 30;

    /// The arm served at a tick: units move from arm 0 to another, and some move back.
    fn served_arm(point: u64, tick: u32) -> Arm {
        let arm = match (point % 7, tick) {
            (a, t) if t < 4 * a as u32 => 0,
            (a, t) if a >= 5 && t > 20 => 0,
            (a, _) => 1 + a as usize % 2,
        };
        Arm::new(arm).unwrap()
    }

    fn recount(records: &[(u32, UnitRecord)], window: u32, stride: u32, cost: f64, now: u32) -> Vec<ArmTally> {
        let mut tallies =
            vec![RunTallies::new(3, 0, 1, Measure::Ratio, cost).empty; (TICKS.div_ceil(stride) * 3) as usize];
        for (tick, record) in records {
            let cell = &mut tallies[(tick / stride) as usize * 3 + record.arm.index()];
            cell.first += 1;
            let open = (tick + 1)..(tick + window).min(now + 1);
            if !record.up_to_date || open.into_iter().any(|at| served_arm(record.point.get(), at) != record.arm) {
                continue;
            }
            cell.n += 1;
            let Some(moments) = &mut cell.moments else { continue };
            moments.y += record.y;
            moments.yy += record.y * record.y;
            let is_known = record.x > 0.0 && (window == 0 || tick + record.delay <= now);
            let value = if is_known { record.x } else { 0.0 };
            cell.s += u64::from(is_known || cost > 0.0);
            moments.x += value - cost;
            moments.xx += (value - cost) * (value - cost);
            moments.xy += value * record.y;
        }
        tallies
    }

    #[test]
    fn tallies_equal_a_recount_of_all_units_at_every_tick() {
        for (window, stride, cost) in [(0, 1, 0.0), (1, 1, 0.0), (5, 1, 2.0), (5, 4, 0.0), (12, 4, 1.0)] {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let (mut tallies, mut records) = (RunTallies::new(3, window, stride, Measure::Ratio, cost), Vec::new());
            for tick in 0..TICKS {
                tallies.add_due_outcomes(tick);
                tallies.drop_moved(tick, |point| served_arm(point.get(), tick));
                let found = tallies.epochs.iter().flat_map(|e| &e.arms);
                let expected = recount(&records, window, stride, cost, tick);
                for (tally, expected) in found.zip(&expected) {
                    assert_eq!(tally, expected, "window {window}, stride {stride}, tick {tick}");
                }
                tallies.open_tick(tick, &[]);
                for _ in 0..40 {
                    let point = rng.random::<u64>();
                    let (x, y) = (f64::from(rng.random_range(0_u8..3)), f64::from(rng.random_range(1_u8..4)));
                    let delay = rng.random_range(1..=window.max(1));
                    let up_to_date = rng.random_range(0_u8..10) > 0;
                    let record =
                        UnitRecord { point: Point::new(point), arm: served_arm(point, tick), up_to_date, x, y, delay };
                    tallies.add_unit(tick, &record);
                    records.push((tick, record));
                }
            }
            let dropped = records.len() as u64 - tallies.epochs.iter().flat_map(|e| &e.arms).map(|a| a.n).sum::<u64>();
            assert_eq!(tallies.dropped(), dropped);
        }
    }
}
