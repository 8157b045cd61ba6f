//! The funnel of one generation: how many units were exposed to each variation, and how many of them reached each of up
//! to eight outcomes in order. Like all counts here, it is a function of the *set* of events (I5).
//!
//! There are two kinds of counts. **All visits** follow the rule of the activity counts: a unit enters the funnel of a
//! variation at its first exposure to the variation, and outcomes count there until the unit is served another arm
//! ([`visits`]). A unit that crossed over from control is in both funnels, each with its own period.
//!
//! **Compared** units must not mix the effect of a variation with the effect of growth: a unit that crosses over has
//! less time left in control, and it is a returning unit when it reaches the variation. So lifts follow the rule of the
//! estimates: each unit counts once, in the epoch of its first exposure, and only if the line serves it the same arm
//! from then to the end of the range ([`ServingPeriods`]). That depends on the unit's point and on the boundaries,
//! never on what it did. An outcome shortly before the first exposure and a short interruption are tolerated as in the
//! estimates. Within an epoch, the units of all arms are followed for the same time.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use inroad_assignment::{Allocation, Arm, Generation, Kills, Point, Timestamp};

use super::{Exposure, History, interruption_limit};
use crate::tallies::{ArmTally, EpochKey, EpochTally};

/// The most steps that a funnel may have.
pub const MAX_STEPS: usize = 8;

/// A time range with an exclusive end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// The first instant in the range.
    pub from: Timestamp,
    /// The first instant after the range; [`Timestamp::MAX`] for no end.
    pub to: Timestamp,
}

impl TimeRange {
    /// Whether an instant is in the range.
    #[inline]
    pub fn contains(&self, at: Timestamp) -> bool {
        at >= self.from && at < self.to
    }
}

/// The period in which a unit's outcomes count in the funnel of one arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// When the unit was first exposed to the arm.
    pub from: Timestamp,
    /// The first instant at which outcomes count: for the unit's first exposure, the tolerance before it.
    pub counts_from: Timestamp,
    /// When the unit was first exposed to the next arm, or the end of the range.
    pub until: Timestamp,
    /// The arm of the funnel.
    pub arm: Arm,
    /// Whether the unit counts in the comparison of arms.
    pub compared: bool,
}

/// Calls `put` with each visit of one unit: one per arm to which it was first exposed within the range. `exposures` are
/// those of the unit record: one per arm, sorted. `served_throughout` is called for the first exposure only.
#[inline]
pub fn visits(
    exposures: &[Exposure],
    range: TimeRange,
    history: &History<'_>,
    served_throughout: impl Fn(Arm, Timestamp) -> bool,
    mut put: impl FnMut(Visit),
) {
    for (i, exposure) in exposures.iter().enumerate().filter(|(_, exposure)| range.contains(exposure.at)) {
        let until = exposures.get(i + 1).map_or(range.to, |next| next.at.min(range.to));
        let compared = i == 0 && served_throughout(exposure.arm, exposure.at);
        let counts_from = if i == 0 { history.counts_from(exposure.at) } else { exposure.at };
        put(Visit { from: exposure.at, counts_from, until, arm: exposure.arm, compared });
    }
}

/// An outcome of an event that is one of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepOutcome {
    /// Time of the outcome.
    pub at: Timestamp,
    /// Index of its event among the events of the steps.
    pub event: u8,
}

/// The number of steps that a visit reaches. `steps` are the events of the steps; `outcomes` are the unit's, sorted by
/// time. The first step is reached by the earliest outcome of its event within the visit. Each further step is reached
/// by the earliest outcome of its event at or after the one that reached the step before. An outcome reaches one step
/// only, so two steps of the same event need two outcomes.
#[inline]
pub fn steps_reached(visit: &Visit, steps: &[u8], outcomes: &[StepOutcome]) -> usize {
    let within = |outcome: &&StepOutcome| outcome.at >= visit.counts_from && outcome.at < visit.until;
    let mut outcomes = outcomes.iter().filter(within).peekable();
    let mut reached = 0;
    // The order of outcomes at the same instant is unknown, so the most favourable order counts.
    while let Some(first) = outcomes.next() {
        let mut unused = [0u32; MAX_STEPS];
        let mut take = |outcome: &StepOutcome| {
            if let Some(unused) = unused.get_mut(usize::from(outcome.event)) {
                *unused += 1;
            }
        };
        take(first);
        while let Some(same) = outcomes.next_if(|next| next.at == first.at) {
            take(same);
        }
        while let Some(unused) = steps.get(reached).and_then(|event| unused.get_mut(usize::from(*event))) {
            if *unused == 0 {
                break;
            }
            *unused -= 1;
            reached += 1;
        }
        if reached == steps.len() {
            break;
        }
    }
    reached
}

/// Number of units of one arm, and how many of them reached each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepCounts {
    /// Number of units.
    pub units: u64,
    /// Units that reached each step; 0 beyond the last step.
    pub reached: [u64; MAX_STEPS],
}

impl StepCounts {
    /// Counts one more unit, which reached `reached` steps.
    fn count(&mut self, reached: usize) {
        self.units += 1;
        self.reached.iter_mut().take(reached).for_each(|step| *step += 1);
    }

    fn add(&mut self, other: &Self) {
        self.units += other.units;
        self.reached.iter_mut().zip(&other.reached).for_each(|(step, more)| *step += more);
    }
}

/// The counts of a funnel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunnelTally {
    /// All visits, by arm.
    pub all_visits: Vec<StepCounts>,
    /// Compared units, by epoch of the first exposure and by arm.
    pub compared: BTreeMap<EpochKey, Vec<StepCounts>>,
}

impl FunnelTally {
    /// An empty funnel of `arms` arms.
    pub fn new(arms: usize) -> Self {
        Self { all_visits: vec![StepCounts::default(); arms], compared: BTreeMap::new() }
    }

    /// Counts one visit that reached `reached` steps.
    pub fn count(&mut self, visit: &Visit, reached: usize, history: &History<'_>) {
        let arms = self.all_visits.len();
        if let Some(arm) = self.all_visits.get_mut(visit.arm.index()) {
            arm.count(reached);
        }
        if visit.compared {
            let epoch = EpochKey { tick: visit.from.tick(history.tick), revision: history.revision_at(visit.from) };
            let compared = self.compared.entry(epoch).or_insert_with(|| vec![StepCounts::default(); arms]);
            if let Some(compared) = compared.get_mut(visit.arm.index()) {
                compared.count(reached);
            }
        }
    }

    /// Adds the counts of another funnel.
    pub fn add(&mut self, other: &Self) {
        self.all_visits.iter_mut().zip(&other.all_visits).for_each(|(arm, more)| arm.add(more));
        for (epoch, arms) in &other.compared {
            let compared = self.compared.entry(*epoch).or_insert_with(|| vec![StepCounts::default(); arms.len()]);
            compared.iter_mut().zip(arms).for_each(|(arm, more)| arm.add(more));
        }
    }

    /// The compared units as tallies for the estimates: reaching step `step` is a conversion.
    pub fn epochs(&self, step: usize) -> Vec<EpochTally> {
        let tally = |arm: &StepCounts| {
            let s = arm.reached.get(step).copied().unwrap_or_default();
            ArmTally { first: arm.units, n: arm.units, s, ..ArmTally::default() }
        };
        let epoch = |(epoch, arms): (&EpochKey, &Vec<StepCounts>)| EpochTally {
            epoch: *epoch,
            arms: arms.iter().map(tally).collect(),
            shares: Vec::new(),
        };
        self.compared.iter().map(epoch).collect()
    }
}

/// The serving periods of every bucket: which arm its points are served, and since when. It answers
/// [`Generation::serves_except`] for one end and millions of units.
#[derive(Debug, Clone)]
pub struct ServingPeriods {
    starts: Vec<Point>,
    /// For each bucket its periods, the newest first: the arm, and when the period begins.
    periods: Vec<Vec<(Arm, Timestamp)>>,
    until: Timestamp,
}

impl ServingPeriods {
    /// The serving periods up to, and not including, `until`, which must not be after the generation's end. Future
    /// changes count if they are already published.
    pub fn new(generation: &Generation, until: Timestamp) -> Self {
        let revisions = generation.revisions.iter().map(|r| r.effective_at);
        let changes: BTreeSet<Timestamp> =
            revisions.chain(generation.kill_changes.iter().map(|change| change.at)).filter(|at| *at < until).collect();
        // Newest first; the last state is the one before any change.
        let instants = changes.into_iter().rev().chain([Timestamp::MIN]);
        let states: Vec<(Timestamp, Option<&Allocation>, Kills)> = instants
            .map(|at| (at, generation.revision_in_effect(at).map(|r| r.allocation.as_ref()), generation.kills(at)))
            .collect();
        let buckets = generation.revisions.iter().flat_map(|r| r.allocation.buckets());
        let starts: BTreeSet<Point> = buckets.map(|bucket| bucket.start).chain([Point::new(0)]).collect();
        let periods = |point: &Point| {
            let mut periods: Vec<(Arm, Timestamp)> = Vec::new();
            for (at, allocation, kills) in &states {
                let arm = kills.served_arm(allocation.map_or(Arm::CONTROL, |allocation| allocation.owner(*point)));
                match periods.last_mut() {
                    Some((newer, since)) if *newer == arm => *since = *at,
                    _ => periods.push((arm, *at)),
                }
            }
            periods
        };
        let periods = starts.iter().map(periods).collect();
        Self { starts: starts.into_iter().collect(), periods, until }
    }

    /// Whether a unit at `point` is served `arm` from `from`, which must be before the end, to the end, except for a
    /// short interruption ([`interruption_limit`]).
    #[inline]
    pub fn serves_throughout(&self, point: Point, arm: Arm, from: Timestamp) -> bool {
        let after = self.starts.partition_point(|start| *start <= point);
        let Some(periods) = self.periods.get(after.wrapping_sub(1)) else { return false };
        let (mut end, mut otherwise) = (self.until, Duration::ZERO);
        for (served, since) in periods {
            if *served != arm {
                otherwise = otherwise.saturating_add(end.since(from.max(*since)));
                if otherwise > interruption_limit(self.until.since(from)) {
                    return false;
                }
            }
            if from >= *since {
                break;
            }
            end = *since;
        }
        true
    }
}
