//! Blocks of time for the alternative estimates. Consecutive epochs are merged until control and the arm both have
//! enough events for their means to be nearly normal. Within a block, units are weighted by the inverse of their
//! propensity (Hájek), so that shares which change inside the block do not bias the means.

use crate::tallies::{EpochTally, Measure, MeasuredCell};

/// Expected events of control and of the arm that close a block.
const EVENTS_MIN: f64 = 5.0;

/// Control and one arm over one period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Block {
    /// Weight of the block: the units (for ratios, denominators) of all arms.
    pub(crate) weight: f64,
    /// Means of control and of the arm, as if all units had been served it.
    pub(crate) mean: [f64; 2],
    /// Variances of the means, from a spread that is pooled over all arms.
    pub(crate) variance: [f64; 2],
}

/// The sums from which a block is computed.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    weight: f64,
    /// Σ x/q, Σ size/q, Σ units/q², for control and the arm.
    sum: [f64; 2],
    size: [f64; 2],
    units: [f64; 2],
    /// Units of control and of the arm, and units and events of all arms, which decide whether the block is complete.
    count: [f64; 2],
    all_units: f64,
    all_events: f64,
    /// Within-cell squares and degrees of freedom over all arms.
    squares: f64,
    freedom: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.weight += other.weight;
        for side in 0..2 {
            self.sum[side] += other.sum[side];
            self.size[side] += other.size[side];
            self.units[side] += other.units[side];
            self.count[side] += other.count[side];
        }
        self.all_units += other.all_units;
        self.all_events += other.all_events;
        self.squares += other.squares;
        self.freedom += other.freedom;
    }

    /// The sums of one epoch. None if control or the arm was not served in it.
    fn from_epoch(measure: Measure, arm: usize, epoch: &EpochTally) -> Option<Self> {
        let cells: Vec<MeasuredCell> = epoch.arms.iter().map(|tally| measure.cell(tally)).collect();
        let all_units: f64 = cells.iter().map(|cell| cell.units).sum();
        // A kill or a restore within the epoch leaves no single share; the counts replace it then.
        let propensity = |k: usize| epoch.shares.get(k).copied().unwrap_or_else(|| cells[k].units / all_units.max(1.0));
        let q = [propensity(0), propensity(arm)];
        // An arm is compared with control only in epochs in which it was served.
        if q.iter().any(|q| *q <= 0.0) {
            return None;
        }
        let mut sums = Self {
            weight: cells.iter().map(|cell| cell.size).sum(),
            all_units,
            all_events: epoch.arms.iter().map(|tally| tally.s as f64).sum(),
            squares: cells.iter().map(|cell| cell.squares).sum(),
            freedom: cells.iter().map(|cell| (cell.units - 1.0).max(0.0)).sum(),
            ..Self::default()
        };
        for (side, cell) in [cells[0], cells[arm]].iter().enumerate() {
            sums.sum[side] = cell.sum / q[side];
            sums.size[side] = cell.size / q[side];
            sums.units[side] = cell.units / (q[side] * q[side]);
            sums.count[side] = cell.units;
        }
        Some(sums)
    }

    fn is_complete(&self) -> bool {
        let rate = self.all_events / self.all_units.max(1.0);
        self.count.iter().all(|units| units * rate >= EVENTS_MIN)
    }

    fn block(&self) -> Option<Block> {
        if self.size.iter().any(|size| *size <= 0.0) || self.freedom <= 0.0 || self.squares <= 0.0 {
            return None;
        }
        let spread = self.squares / self.freedom;
        Some(Block {
            weight: self.weight,
            mean: [0, 1].map(|side| self.sum[side] / self.size[side]),
            variance: [0, 1].map(|side| spread * self.units[side] / (self.size[side] * self.size[side])),
        })
    }
}

/// Control against `arm` (1..) in blocks, oldest first. `epochs` are sorted. Epochs left over at the end join the last
/// block; without enough events there are no blocks.
pub(crate) fn blocks(measure: Measure, arm: usize, epochs: &[&EpochTally]) -> Vec<Block> {
    let mut closed: Vec<Sums> = Vec::new();
    let mut open = Sums::default();
    for sums in epochs.iter().filter_map(|epoch| Sums::from_epoch(measure, arm, epoch)) {
        open.add(&sums);
        if open.is_complete() {
            closed.push(std::mem::take(&mut open));
        }
    }
    if let Some(last) = closed.last_mut() {
        last.add(&open);
    }
    closed.iter().filter_map(Sums::block).collect()
}
