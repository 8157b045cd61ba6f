//! The funnel of one generation: how many units were exposed to each variation, and how many went on to each of up to
//! eight outcomes in order. A function of the *set* of events, as all that is counted here (I5).
//!
//! Two kinds of numbers again. **What people watch** follows the rule of the other watched numbers: a unit enters the
//! funnel of a variation at its first exposure to that variation, and outcomes count there for as long as the variation
//! is what the unit was served last ([`visits`]). A unit that crossed over from control is in both funnels, each with
//! its own stretch of time.
//!
//! **What is compared** must not mix the effect of a variation with that of growth: whoever crosses over has less time
//! left in control and comes to the variation as somebody who returns. So lifts follow the data rule: one record per
//! unit, in the epoch of its first exposure, and only of units that the line serves one and the same arm from there to
//! the end of the range ([`Stays`]). Which units those are depends on their points and on the line, never on what they
//! did; and within an epoch every arm's units are followed for as long as one another's.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::{Allocation, Arm, Generation, Kills, Point, Timestamp};

use super::{Exposure, History};
use crate::{ArmTally, EpochKey, EpochTally};

/// The most steps of a funnel.
pub const MAX_STEPS: usize = 8;

/// From an instant up to, not including, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// The first instant within.
    pub from: Timestamp,
    /// The first instant after it that is not; [`Timestamp::MAX`] for no end.
    pub to: Timestamp,
}

impl TimeRange {
    /// Whether an instant lies within.
    #[inline]
    pub fn holds(&self, at: Timestamp) -> bool {
        at >= self.from && at < self.to
    }
}

/// The stretch of time in which what a unit does counts in the funnel of one arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// When the unit was first exposed to the arm.
    pub from: Timestamp,
    /// When it was served something else, or the range ended.
    pub until: Timestamp,
    /// The arm.
    pub arm: Arm,
    /// Whether the unit counts in the comparison of the arms.
    pub compared: bool,
}

/// Hands the visits of one unit to `put`: one per arm that it was first exposed to within the range. `exposures` are
/// those of its record: one per arm, in order. `stays` is asked of the very first alone.
#[inline]
pub fn visits(
    exposures: &[Exposure],
    range: TimeRange,
    stays: impl Fn(Arm, Timestamp) -> bool,
    mut put: impl FnMut(Visit),
) {
    for (i, exposure) in exposures.iter().enumerate().filter(|(_, exposure)| range.holds(exposure.at)) {
        let until = exposures.get(i + 1).map_or(range.to, |next| next.at.min(range.to));
        let compared = i == 0 && stays(exposure.arm, exposure.at);
        put(Visit { from: exposure.at, until, arm: exposure.arm, compared });
    }
}

/// An outcome that one of the steps asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepOutcome {
    /// When.
    pub at: Timestamp,
    /// Which of the events that the steps name.
    pub event: u8,
}

/// How many steps a visit gets to. `steps` names the event of each; `outcomes` are the unit's, sorted by time. The
/// first step is reached by the earliest outcome of its event within the visit, each other by the earliest of its own
/// at or after the one that reached the step before. One outcome reaches one step: two steps of one event take two.
#[inline]
pub fn reached(visit: &Visit, steps: &[u8], outcomes: &[StepOutcome]) -> usize {
    let within = |outcome: &&StepOutcome| outcome.at >= visit.from && outcome.at < visit.until;
    let mut outcomes = outcomes.iter().filter(within).peekable();
    let mut reached = 0;
    // What happened at one instant happened in whatever order gets furthest: there is no telling.
    while let Some(first) = outcomes.next() {
        let mut left = [0u32; MAX_STEPS];
        let mut take = |outcome: &StepOutcome| {
            if let Some(left) = left.get_mut(usize::from(outcome.event)) {
                *left += 1;
            }
        };
        take(first);
        while let Some(same) = outcomes.next_if(|next| next.at == first.at) {
            take(same);
        }
        while let Some(left) = steps.get(reached).and_then(|event| left.get_mut(usize::from(*event))) {
            if *left == 0 {
                break;
            }
            *left -= 1;
            reached += 1;
        }
        if reached == steps.len() {
            break;
        }
    }
    reached
}

/// Units of one arm: how many there are, and how many of them got to each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps {
    /// Units.
    pub units: u64,
    /// By step; those beyond the last are 0.
    pub reached: [u64; MAX_STEPS],
}

impl Steps {
    /// One more unit, which got to so many steps.
    fn count(&mut self, reached: usize) {
        self.units += 1;
        self.reached.iter_mut().take(reached).for_each(|step| *step += 1);
    }

    fn add(&mut self, other: &Self) {
        self.units += other.units;
        self.reached.iter_mut().zip(&other.reached).for_each(|(step, more)| *step += more);
    }
}

/// A funnel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunnelTally {
    /// Watched, by arm.
    pub watched: Vec<Steps>,
    /// Compared, by epoch of the first exposure and arm.
    pub compared: BTreeMap<EpochKey, Vec<Steps>>,
}

impl FunnelTally {
    /// Nothing yet, of so many arms.
    pub fn new(arms: usize) -> Self {
        Self { watched: vec![Steps::default(); arms], compared: BTreeMap::new() }
    }

    /// Counts one visit that got to so many steps.
    pub fn count(&mut self, visit: &Visit, reached: usize, history: &History<'_>) {
        let arms = self.watched.len();
        if let Some(watched) = self.watched.get_mut(visit.arm.index()) {
            watched.count(reached);
        }
        if visit.compared {
            let epoch = EpochKey { tick: visit.from.tick(history.tick), revision: history.revision_at(visit.from) };
            let compared = self.compared.entry(epoch).or_insert_with(|| vec![Steps::default(); arms]);
            if let Some(compared) = compared.get_mut(visit.arm.index()) {
                compared.count(reached);
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.watched.iter_mut().zip(&other.watched).for_each(|(arm, more)| arm.add(more));
        for (epoch, arms) in &other.compared {
            let compared = self.compared.entry(*epoch).or_insert_with(|| vec![Steps::default(); arms.len()]);
            compared.iter_mut().zip(arms).for_each(|(arm, more)| arm.add(more));
        }
    }

    /// "Got to this step" as a conversion of compared units, as every estimate here takes it.
    pub fn epochs(&self, step: usize) -> Vec<EpochTally> {
        let tally = |arm: &Steps| {
            let s = arm.reached.get(step).copied().unwrap_or_default();
            ArmTally { first: arm.units, n: arm.units, s, ..ArmTally::default() }
        };
        let epoch = |(epoch, arms): (&EpochKey, &Vec<Steps>)| EpochTally {
            epoch: *epoch,
            arms: arms.iter().map(tally).collect(),
            shares: Vec::new(),
        };
        self.compared.iter().map(epoch).collect()
    }
}

/// [`Generation::serves_throughout`] for one end and millions of units: each stretch of the line has an arm that it is
/// served at the end, and an instant since which it has been served nothing else.
#[derive(Debug, Clone)]
pub struct Stays {
    starts: Vec<Point>,
    since: Vec<(Arm, Timestamp)>,
}

impl Stays {
    /// Up to, not including, `until`, which is not after the generation's end. What lies in the future counts as far as
    /// it has been published.
    pub fn new(generation: &Generation, until: Timestamp) -> Self {
        let revisions = generation.revisions.iter().map(|r| r.effective_at);
        let flips: BTreeSet<Timestamp> =
            revisions.chain(generation.switches.iter().map(|s| s.at)).filter(|at| *at < until).collect();
        // Newest first; what was served before any flip last.
        let instants = flips.into_iter().rev().chain([Timestamp::MIN]);
        let states: Vec<(Timestamp, Option<&Allocation>, Kills)> = instants
            .map(|at| (at, generation.in_effect(at).map(|r| r.allocation.as_ref()), generation.kills(at)))
            .collect();
        let buckets = generation.revisions.iter().flat_map(|r| r.allocation.buckets());
        let starts: BTreeSet<Point> = buckets.map(|bucket| bucket.start).chain([Point::new(0)]).collect();
        let since = |point: &Point| {
            let served = |(at, allocation, kills): &(Timestamp, Option<&Allocation>, Kills)| {
                (kills.served(allocation.map_or(Arm::CONTROL, |allocation| allocation.owner(*point))), *at)
            };
            let mut states = states.iter().map(served);
            let (arm, mut since) = states.next().unwrap_or((Arm::CONTROL, Timestamp::MIN));
            for (_, at) in states.take_while(|(served, _)| *served == arm) {
                since = at;
            }
            (arm, since)
        };
        let since = starts.iter().map(since).collect();
        Self { starts: starts.into_iter().collect(), since }
    }

    /// Whether whoever lives at `point` is served `arm` and nothing else from `from`, which is before the end, on.
    #[inline]
    pub fn serves(&self, point: Point, arm: Arm, from: Timestamp) -> bool {
        let after = self.starts.partition_point(|start| *start <= point);
        self.since.get(after.wrapping_sub(1)).is_some_and(|(at_end, since)| *at_end == arm && from >= *since)
    }
}
