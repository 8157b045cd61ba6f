//! Counts the units whose arm changes when boundaries or kills change.
//!
//! The points of all units that have arrived are sorted into bins of the line, so that the units between two points are
//! counted without a check of each unit. Every sixteenth unit is also followed individually, to estimate how many
//! different units ever moved.

use inroad_assignment::{Allocation, Arm, Kills, Point};
use serde::Serialize;

/// Logarithm to base 2 of the number of bins. A full run has some hundred units per bin.
const BINS_LOG2: u32 = 12;
/// One unit in this many is followed.
const FOLLOWED_ONE_IN: u64 = 16;

/// The points of all units that have arrived; the same for all policies of a replication.
pub(crate) struct ArrivedUnits {
    bins: Vec<Vec<u64>>,
    /// Number of units in each bin.
    counts: Vec<u32>,
    followed: Vec<Point>,
    total: u64,
}

impl ArrivedUnits {
    pub(crate) fn new() -> Self {
        Self { bins: vec![Vec::new(); 1 << BINS_LOG2], counts: vec![0; 1 << BINS_LOG2], followed: Vec::new(), total: 0 }
    }

    /// Number of units that have arrived.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Adds a unit that arrives.
    pub(crate) fn add(&mut self, point: Point) {
        let bin = bin_of(point);
        self.bins[bin].push(point.get());
        self.counts[bin] += 1;
        if self.total.is_multiple_of(FOLLOWED_ONE_IN) {
            self.followed.push(point);
        }
        self.total += 1;
    }

    /// Number of units between two points, both included.
    fn count_between(&self, first: Point, last: Point) -> u64 {
        let (from, to) = (bin_of(first), bin_of(last));
        let count_in_bin = |bin: usize| {
            let inside = |point: &&u64| (first.get()..=last.get()).contains(*point);
            self.bins[bin].iter().filter(inside).count() as u64
        };
        if from == to {
            return count_in_bin(from);
        }
        let between: u64 = self.counts[from + 1..to].iter().map(|count| u64::from(*count)).sum();
        count_in_bin(from) + between + count_in_bin(to)
    }
}

fn bin_of(point: Point) -> usize {
    (point.get() >> (64 - BINS_LOG2)) as usize
}

/// Moves of units between arms, by the arm served before and after a change. All units that have arrived by then count.
/// Shipping an arm ends the experiment and is not counted as a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UnitMoves {
    /// Moves from one variation to another: always 0 under a policy that only grows variations into control.
    pub between_variations: u64,
    /// Moves from control into a variation (crossovers).
    pub into_variations: u64,
    /// Moves from a variation back to control; under growth only because of a kill.
    pub back_to_control: u64,
    /// Units followed individually: one in sixteen of those that arrived before an arm was shipped.
    pub followed: u64,
    /// Followed units that ever moved from one variation to another.
    pub followed_between: u64,
    /// Followed units that ever moved from control into a variation.
    pub followed_into: u64,
    /// Followed units that ever moved from a variation back to control.
    pub followed_back: u64,
    /// Followed units that ever moved.
    pub followed_any: u64,
}

// Bits: how a followed unit has ever moved.
const BETWEEN_VARIATIONS: u8 = 1;
const INTO_VARIATION: u8 = 2;
const BACK_TO_CONTROL: u8 = 4;

/// Counts the moves of one run.
pub(crate) struct MoveCounter {
    moves: UnitMoves,
    /// For each followed unit: the arm it is served, and how it has ever moved.
    states: Vec<(Arm, u8)>,
}

/// An allocation with its kills: which arm each point is served.
#[derive(Clone, Copy)]
pub(crate) struct ServedAllocation<'a> {
    pub(crate) allocation: &'a Allocation,
    pub(crate) kills: Kills,
}

impl ServedAllocation<'_> {
    /// The arm that a unit at this point is served.
    #[inline]
    pub(crate) fn arm_at(&self, point: Point) -> Arm {
        self.kills.served_arm(self.allocation.owner(point))
    }
}

impl MoveCounter {
    pub(crate) fn new() -> Self {
        Self { moves: UnitMoves::default(), states: Vec::new() }
    }

    /// Adds the followed units that have arrived since the last call, with the arm they are served now.
    pub(crate) fn add_arrivals(&mut self, arrived: &ArrivedUnits, serving: ServedAllocation<'_>) {
        let known = self.states.len();
        self.states.extend(arrived.followed[known..].iter().map(|point| (serving.arm_at(*point), 0)));
    }

    /// Counts the units that a change of boundaries and kills moves.
    pub(crate) fn count_change(
        &mut self,
        arrived: &ArrivedUnits,
        before: ServedAllocation<'_>,
        after: ServedAllocation<'_>,
    ) {
        for (first, last, owner) in before.allocation.changed_ranges(after.allocation) {
            let was = before.kills.served_arm(before.allocation.owner(first));
            self.add(was, after.kills.served_arm(owner), arrived.count_between(first, last));
        }
        self.count_killed(arrived, before, after);
        for (state, point) in self.states.iter_mut().zip(&arrived.followed) {
            let now = after.arm_at(*point);
            state.1 |= match (state.0.is_control(), now.is_control()) {
                _ if state.0 == now => 0,
                (false, false) => BETWEEN_VARIATIONS,
                (true, _) => INTO_VARIATION,
                (false, true) => BACK_TO_CONTROL,
            };
            state.0 = now;
        }
    }

    /// Counts units in the buckets of an arm that was killed or restored. Units of boundaries that moved are counted
    /// already.
    fn count_killed(&mut self, arrived: &ArrivedUnits, before: ServedAllocation<'_>, after: ServedAllocation<'_>) {
        if before.kills == after.kills {
            return;
        }
        let arms = (1..=before.allocation.highest_arm().index()).filter_map(Arm::new);
        for arm in arms.filter(|arm| before.kills.served_arm(*arm) != after.kills.served_arm(*arm)) {
            let unchanged = before.allocation.ranges_of(arm).filter(|(first, _)| after.allocation.owner(*first) == arm);
            let units = unchanged.map(|(first, last)| arrived.count_between(first, last)).sum();
            self.add(before.kills.served_arm(arm), after.kills.served_arm(arm), units);
        }
    }

    fn add(&mut self, from: Arm, to: Arm, units: u64) {
        match (from.is_control(), to.is_control()) {
            _ if from == to => {}
            (false, false) => self.moves.between_variations += units,
            (true, _) => self.moves.into_variations += units,
            (false, true) => self.moves.back_to_control += units,
        }
    }

    /// The counts so far.
    pub(crate) fn totals(&self) -> UnitMoves {
        let ever_moved = |how: u8| self.states.iter().filter(|state| state.1 & how != 0).count() as u64;
        UnitMoves {
            followed: self.states.len() as u64,
            followed_between: ever_moved(BETWEEN_VARIATIONS),
            followed_into: ever_moved(INTO_VARIATION),
            followed_back: ever_moved(BACK_TO_CONTROL),
            followed_any: ever_moved(BETWEEN_VARIATIONS | INTO_VARIATION | BACK_TO_CONTROL),
            ..self.moves
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::{KillTarget, Width};

    #[test]
    fn counted_moves_equal_a_check_of_every_unit() {
        let share = |share: f64| Width::from_share(share).unwrap();
        let arm = |index| Arm::new(index).unwrap();
        let mut arrived = ArrivedUnits::new();
        // Points are spread evenly, but not aligned with the bins.
        (0..50_000_u64).for_each(|i| arrived.add(Point::new(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        let first = Allocation::with_footholds(&[share(0.1), share(0.1)], Width::ZERO).unwrap();
        let grown = first.grow(&[(arm(1), share(0.3001)), (arm(2), share(0.2))], Width::ZERO).unwrap();
        let swapped = Allocation::with_footholds(&[share(0.05), share(0.6)], Width::ZERO).unwrap();
        let none = Kills::default();
        let killed = none.with_change(KillTarget::Variation(arm(2)), true);
        for (before, after) in
            [((&first, none), (&grown, none)), ((&grown, none), (&grown, killed)), ((&first, none), (&swapped, none))]
        {
            let serving = |(allocation, kills)| ServedAllocation { allocation, kills };
            let (before, after) = (serving(before), serving(after));
            let mut counter = MoveCounter::new();
            counter.add_arrivals(&arrived, before);
            counter.count_change(&arrived, before, after);
            let mut expected = [0_u64; 3];
            for point in arrived.bins.iter().flatten().map(|point| Point::new(*point)) {
                match (before.arm_at(point).index(), after.arm_at(point).index()) {
                    (a, b) if a == b => {}
                    (0, _) => expected[1] += 1,
                    (_, 0) => expected[2] += 1,
                    _ => expected[0] += 1,
                }
            }
            let moves = counter.totals();
            assert_eq!([moves.between_variations, moves.into_variations, moves.back_to_control], expected);
            assert_eq!(moves.followed, 50_000_u64.div_ceil(16));
            let followed = moves.followed_any as f64 * 16.0;
            assert!((followed - expected.iter().sum::<u64>() as f64).abs() < 1000.0, "{moves:?}");
        }
    }
}
