//! The tallies of one run, kept up as it goes: outcomes are added when they become known, and a unit whose served arm
//! changes within its window is taken out again, numerator and denominator (STATISTICS: data rule). Only units whose
//! window is still open are kept.

use std::collections::VecDeque;

use inroad_assignment::{Arm, Point};
use inroad_policy::{ArmTally, EpochKey, EpochTally, Measure, Moments};

/// Adds a unit's denominator, or takes it away: what is known of it before its outcome is.
fn add_denominator(moments: &mut Moments, y: f64, sign: f64) {
    moments.y += sign * y;
    moments.yy += sign * y * y;
}

/// Adds a unit's outcome, or takes it away.
fn add_outcome(moments: &mut Moments, x: f64, y: f64, sign: f64) {
    moments.x += sign * x;
    moments.xx += sign * x * x;
    moments.xy += sign * x * y;
}

/// A unit whose window is open.
#[derive(Debug, Clone, Copy)]
struct Followed {
    point: Point,
    arm: Arm,
    dropped: bool,
    /// The tick at which its outcome is known.
    due: u32,
    x: f64,
    y: f64,
}

/// A unit's record as it is made at its first exposure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) point: Point,
    pub(crate) arm: Arm,
    /// Whether a client that is up to date would have been served the same.
    pub(crate) stable: bool,
    /// What it does, 0 for nothing.
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Ticks until that is known, at least 1.
    pub(crate) delay: u32,
}

struct Cohort {
    tick: u32,
    units: Vec<Followed>,
}

/// The tallies by epoch and arm.
pub(crate) struct Cells {
    arms: usize,
    stride: u32,
    window: u32,
    epochs: Vec<EpochTally>,
    /// What a new cell holds: moments for whatever is not a conversion.
    empty: ArmTally,
    /// By tick, oldest first, no gaps.
    open: VecDeque<Cohort>,
    /// Cohort and place of the units whose outcome is known at a tick; tick modulo the ring's length.
    due: Vec<Vec<(u32, u32)>>,
    spare: Vec<Vec<Followed>>,
    dropped: u64,
}

impl Cells {
    /// No tallies yet. `window` and `stride` in ticks: how long a unit is followed, and how long an epoch is.
    pub(crate) fn new(arms: usize, window: u32, stride: u32, measure: Measure) -> Self {
        let summed = matches!(measure, Measure::Mean | Measure::Ratio);
        Self {
            arms,
            stride: stride.max(1),
            window,
            epochs: Vec::new(),
            empty: ArmTally { moments: summed.then(Moments::default), ..ArmTally::default() },
            open: VecDeque::new(),
            due: vec![Vec::new(); window as usize + 1],
            spare: Vec::new(),
            dropped: 0,
        }
    }

    /// One tally per epoch, in order.
    pub(crate) fn epochs(&self) -> &[EpochTally] {
        &self.epochs
    }

    /// Records that the data rule has taken out.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Begins a tick: closes windows, makes known what is due, opens an epoch where one begins. `shares` are those that
    /// will be served.
    pub(crate) fn deliver(&mut self, tick: u32) {
        if self.window > 0 {
            let slot = tick as usize % self.due.len();
            for (cohort, place) in std::mem::take(&mut self.due[slot]) {
                let first = self.open.front().map_or(0, |c| c.tick);
                let unit = self.open.get((cohort - first) as usize).and_then(|c| c.units.get(place as usize));
                if let Some(unit) = unit.filter(|unit| !unit.dropped).copied() {
                    self.credit(cohort, &unit, 1.0);
                }
            }
            while self.open.front().is_some_and(|cohort| cohort.tick + self.window <= tick) {
                self.spare.extend(self.open.pop_front().map(|cohort| cohort.units));
            }
        }
    }

    /// Opens a tick under the shares that it serves.
    pub(crate) fn open(&mut self, tick: u32, shares: &[f64]) {
        if tick.is_multiple_of(self.stride) {
            let epoch = EpochKey { tick: i64::from(tick / self.stride), revision: 1 };
            self.epochs.push(EpochTally { epoch, arms: vec![self.empty; self.arms], shares: shares.to_vec() });
        }
        if self.window > 0 {
            let mut units = self.spare.pop().unwrap_or_default();
            units.clear();
            self.open.push_back(Cohort { tick, units });
        }
    }

    /// Takes in a unit that was first exposed at `tick`.
    pub(crate) fn admit(&mut self, tick: u32, record: &Record) {
        let Record { point, arm, stable, x, y, delay } = *record;
        let tally = self.cell(tick, arm);
        tally.first += 1;
        if !stable {
            self.dropped += 1;
            return;
        }
        tally.n += 1;
        tally.moments.iter_mut().for_each(|moments| add_denominator(moments, y, 1.0));
        let due = tick + delay;
        let unit = Followed { point, arm, dropped: false, due, x, y };
        if self.window == 0 {
            self.credit(tick, &unit, 1.0);
            return;
        }
        let slot = due as usize % self.due.len();
        let Some(cohort) = self.open.back_mut() else { return };
        if x > 0.0 {
            self.due[slot].push((tick, cohort.units.len() as u32));
        }
        cohort.units.push(unit);
    }

    /// Takes out whoever is followed and is served something else from `tick` on.
    pub(crate) fn drop_moved(&mut self, tick: u32, served: impl Fn(Point) -> Arm) {
        let mut open = std::mem::take(&mut self.open);
        for cohort in &mut open {
            for unit in cohort.units.iter_mut().filter(|unit| !unit.dropped) {
                if served(unit.point) != unit.arm {
                    unit.dropped = true;
                    self.take_out(cohort.tick, unit, tick);
                }
            }
        }
        self.open = open;
    }

    fn take_out(&mut self, cohort: u32, unit: &Followed, tick: u32) {
        if unit.due <= tick {
            self.credit(cohort, unit, -1.0);
        }
        let tally = self.cell(cohort, unit.arm);
        tally.n -= 1;
        tally.moments.iter_mut().for_each(|moments| add_denominator(moments, unit.y, -1.0));
        self.dropped += 1;
    }

    /// Adds or takes away a unit's outcome.
    fn credit(&mut self, tick: u32, unit: &Followed, sign: f64) {
        if unit.x > 0.0 {
            let tally = self.cell(tick, unit.arm);
            tally.s = if sign > 0.0 { tally.s + 1 } else { tally.s - 1 };
            tally.moments.iter_mut().for_each(|moments| add_outcome(moments, unit.x, unit.y, sign));
        }
    }

    fn cell(&mut self, tick: u32, arm: Arm) -> &mut ArmTally {
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

    /// Who is served what at a tick: units go from arm 0 to another, and some come back.
    fn served(point: u64, tick: u32) -> Arm {
        let arm = match (point % 7, tick) {
            (a, t) if t < 4 * a as u32 => 0,
            (a, t) if a >= 5 && t > 20 => 0,
            (a, _) => 1 + a as usize % 2,
        };
        Arm::new(arm).unwrap()
    }

    fn brute_force(records: &[(u32, Record)], window: u32, stride: u32, now: u32) -> Vec<ArmTally> {
        let mut cells = vec![Cells::new(3, 0, 1, Measure::Ratio).empty; (TICKS.div_ceil(stride) * 3) as usize];
        for (tick, record) in records {
            let cell = &mut cells[(tick / stride) as usize * 3 + record.arm.index()];
            cell.first += 1;
            let open = (tick + 1)..(tick + window).min(now + 1);
            if !record.stable || open.into_iter().any(|at| served(record.point.get(), at) != record.arm) {
                continue;
            }
            cell.n += 1;
            let Some(moments) = &mut cell.moments else { continue };
            moments.y += record.y;
            moments.yy += record.y * record.y;
            if record.x > 0.0 && (window == 0 || tick + record.delay <= now) {
                cell.s += 1;
                moments.x += record.x;
                moments.xx += record.x * record.x;
                moments.xy += record.x * record.y;
            }
        }
        cells
    }

    #[test]
    fn the_tallies_are_at_every_tick_what_a_look_at_every_unit_gives() {
        for (window, stride) in [(0, 1), (1, 1), (5, 1), (5, 4), (12, 4)] {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let (mut cells, mut records) = (Cells::new(3, window, stride, Measure::Ratio), Vec::new());
            for tick in 0..TICKS {
                cells.deliver(tick);
                cells.drop_moved(tick, |point| served(point.get(), tick));
                let found = cells.epochs.iter().flat_map(|e| &e.arms);
                let wanted = brute_force(&records, window, stride, tick);
                for (tally, wanted) in found.zip(&wanted) {
                    assert_eq!(tally, wanted, "window {window}, stride {stride}, tick {tick}");
                }
                cells.open(tick, &[]);
                for _ in 0..40 {
                    let point = rng.random::<u64>();
                    let (x, y) = (f64::from(rng.random_range(0_u8..3)), f64::from(rng.random_range(1_u8..4)));
                    let delay = rng.random_range(1..=window.max(1));
                    let stable = rng.random_range(0_u8..10) > 0;
                    let record = Record { point: Point::new(point), arm: served(point, tick), stable, x, y, delay };
                    cells.admit(tick, &record);
                    records.push((tick, record));
                }
            }
            let dropped = records.len() as u64 - cells.epochs.iter().flat_map(|e| &e.arms).map(|a| a.n).sum::<u64>();
            assert_eq!(cells.dropped(), dropped);
        }
    }
}
