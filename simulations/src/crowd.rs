//! Who moved. The points of all units that have come are kept in bins of the line, so that a boundary that moves tells
//! how many units it moved without a look at each; and every sixteenth unit is followed by itself, to tell how many
//! units ever moved.

use inroad_assignment::{Allocation, Arm, Kills, Point};
use serde::Serialize;

/// Bins as a power of two: a full run leaves some hundred units in each.
const BINS_LOG2: u32 = 12;
/// One unit in so many is followed.
const FOLLOWED_ONE_IN: u64 = 16;

/// Every unit that has come, whatever any policy served it.
pub(crate) struct Crowd {
    bins: Vec<Vec<u64>>,
    counts: Vec<u32>,
    followed: Vec<Point>,
    size: u64,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        Self { bins: vec![Vec::new(); 1 << BINS_LOG2], counts: vec![0; 1 << BINS_LOG2], followed: Vec::new(), size: 0 }
    }

    /// How many units have come.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn join(&mut self, point: Point) {
        let bin = bin(point);
        self.bins[bin].push(point.get());
        self.counts[bin] += 1;
        if self.size.is_multiple_of(FOLLOWED_ONE_IN) {
            self.followed.push(point);
        }
        self.size += 1;
    }

    /// How many units live between two points, both included.
    fn within(&self, first: Point, last: Point) -> u64 {
        let (from, to) = (bin(first), bin(last));
        let part = |bin: usize| {
            let inside = |point: &&u64| (first.get()..=last.get()).contains(*point);
            self.bins[bin].iter().filter(inside).count() as u64
        };
        if from == to {
            return part(from);
        }
        let between: u64 = self.counts[from + 1..to].iter().map(|count| u64::from(*count)).sum();
        part(from) + between + part(to)
    }
}

fn bin(point: Point) -> usize {
    (point.get() >> (64 - BINS_LOG2)) as usize
}

/// Moves of units between arms, by what they were served before and after. All units that had come are counted. To ship
/// an arm ends the experiment and is no move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Moves {
    /// From one variation to another: 0 under every policy that only grows.
    pub between_variations: u64,
    /// From control into a variation that grew.
    pub into_variations: u64,
    /// From a variation back to control.
    pub back_to_control: u64,
    /// Units followed by themselves: one in sixteen of those that came before an arm was shipped, if one was.
    pub followed: u64,
    /// Those that were ever moved from one variation to another.
    pub followed_between: u64,
    /// Those that were ever moved from control into a variation.
    pub followed_into: u64,
    /// Those that were ever moved from a variation back to control.
    pub followed_back: u64,
    /// Those that were ever moved at all.
    pub followed_any: u64,
}

const BETWEEN: u8 = 1;
const INTO: u8 = 2;
const BACK: u8 = 4;

/// What one run did to the crowd.
pub(crate) struct Mover {
    moves: Moves,
    /// What each followed unit is served, and how it ever moved.
    states: Vec<(Arm, u8)>,
}

/// Who serves what to whom.
#[derive(Clone, Copy)]
pub(crate) struct Serving<'a> {
    pub(crate) allocation: &'a Allocation,
    pub(crate) kills: Kills,
}

impl Serving<'_> {
    /// What is served to whoever lives there.
    #[inline]
    pub(crate) fn at(&self, point: Point) -> Arm {
        self.kills.served(self.allocation.owner(point))
    }
}

impl Mover {
    pub(crate) fn new() -> Self {
        Self { moves: Moves::default(), states: Vec::new() }
    }

    /// Takes in the followed units that have come since, under what they are served now.
    pub(crate) fn meet(&mut self, crowd: &Crowd, serving: Serving<'_>) {
        let known = self.states.len();
        self.states.extend(crowd.followed[known..].iter().map(|point| (serving.at(*point), 0)));
    }

    /// Counts whom a change of boundaries and kills moves.
    pub(crate) fn count(&mut self, crowd: &Crowd, before: Serving<'_>, after: Serving<'_>) {
        for (first, last, owner) in before.allocation.slices_taken_by(after.allocation) {
            let was = before.kills.served(before.allocation.owner(first));
            self.add(was, after.kills.served(owner), crowd.within(first, last));
        }
        self.count_switched(crowd, before, after);
        for (state, point) in self.states.iter_mut().zip(&crowd.followed) {
            let now = after.at(*point);
            state.1 |= match (state.0.is_control(), now.is_control()) {
                _ if state.0 == now => 0,
                (false, false) => BETWEEN,
                (true, _) => INTO,
                (false, true) => BACK,
            };
            state.0 = now;
        }
    }

    /// Whoever was already on a stretch of an arm that was killed, or restored.
    fn count_switched(&mut self, crowd: &Crowd, before: Serving<'_>, after: Serving<'_>) {
        if before.kills == after.kills {
            return;
        }
        let arms = (1..=before.allocation.highest_arm().index()).filter_map(Arm::new);
        for arm in arms.filter(|arm| before.kills.served(*arm) != after.kills.served(*arm)) {
            let kept = before.allocation.stretches_of(arm).filter(|(first, _)| after.allocation.owner(*first) == arm);
            let units = kept.map(|(first, last)| crowd.within(first, last)).sum();
            self.add(before.kills.served(arm), after.kills.served(arm), units);
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

    pub(crate) fn finish(&self) -> Moves {
        let ever = |how: u8| self.states.iter().filter(|state| state.1 & how != 0).count() as u64;
        Moves {
            followed: self.states.len() as u64,
            followed_between: ever(BETWEEN),
            followed_into: ever(INTO),
            followed_back: ever(BACK),
            followed_any: ever(BETWEEN | INTO | BACK),
            ..self.moves
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::{Target, Width};

    #[test]
    fn moves_are_what_a_look_at_every_unit_gives() {
        let share = |share: f64| Width::from_share(share).unwrap();
        let arm = |index| Arm::new(index).unwrap();
        let mut crowd = Crowd::new();
        // Points spread evenly, but not in step with the bins.
        (0..50_000_u64).for_each(|i| crowd.join(Point::new(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        let first = Allocation::with_footholds(&[share(0.1), share(0.1)], Width::ZERO).unwrap();
        let grown = first.grow(&[(arm(1), share(0.3001)), (arm(2), share(0.2))], Width::ZERO).unwrap();
        let swapped = Allocation::with_footholds(&[share(0.05), share(0.6)], Width::ZERO).unwrap();
        let none = Kills::default();
        let killed = none.with(Target::Variation(arm(2)), true);
        for (before, after) in
            [((&first, none), (&grown, none)), ((&grown, none), (&grown, killed)), ((&first, none), (&swapped, none))]
        {
            let serving = |(allocation, kills)| Serving { allocation, kills };
            let (before, after) = (serving(before), serving(after));
            let mut mover = Mover::new();
            mover.meet(&crowd, before);
            mover.count(&crowd, before, after);
            let mut wanted = [0_u64; 3];
            for point in crowd.bins.iter().flatten().map(|point| Point::new(*point)) {
                match (before.at(point).index(), after.at(point).index()) {
                    (a, b) if a == b => {}
                    (0, _) => wanted[1] += 1,
                    (_, 0) => wanted[2] += 1,
                    _ => wanted[0] += 1,
                }
            }
            let moves = mover.finish();
            assert_eq!([moves.between_variations, moves.into_variations, moves.back_to_control], wanted);
            assert_eq!(moves.followed, 50_000_u64.div_ceil(16));
            let followed = moves.followed_any as f64 * 16.0;
            assert!((followed - wanted.iter().sum::<u64>() as f64).abs() < 1000.0, "{moves:?}");
        }
    }
}
