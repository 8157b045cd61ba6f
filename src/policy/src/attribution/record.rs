//! What is kept of one unit in one generation: enough to tell its contribution, and to take one more outcome, without
//! reading its outcomes again.

use std::collections::BTreeMap;

use inroad_assignment::{Arm, MetricKind, Timestamp};

use super::History;

/// A unit's earliest exposure to an arm. Ordered by time, then revision, then arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exposure {
    /// When.
    pub at: Timestamp,
    /// Under which revision it was served.
    pub revision: u32,
    /// What was served.
    pub arm: Arm,
}

/// One outcome of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The event's name.
    pub event: &'a str,
    /// When.
    pub at: Timestamp,
    /// Its value in millionths.
    pub value_micros: i64,
}

/// What the outcomes within one metric's window add up to for one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accumulator {
    /// Outcomes of the metric's event.
    pub count: u64,
    /// Sum of their values, in millionths.
    pub sum: i128,
    /// Sum of the values of a ratio's other event, in millionths.
    pub denominator: i128,
}

/// One unit in one generation. The same for every order in which its events came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitRecord {
    /// One per arm, the earliest; in order.
    exposures: Vec<Exposure>,
    /// By metric; those without any outcome in their window are left out. In order.
    accumulated: Vec<(u16, Accumulator)>,
    /// By metric and arm: when the first outcome credited to the arm happened.
    credited: BTreeMap<(u16, Arm), Timestamp>,
}

impl UnitRecord {
    /// A record of parts that were read from one before.
    pub fn from_parts(
        mut exposures: Vec<Exposure>,
        mut accumulated: Vec<(u16, Accumulator)>,
        credited: impl IntoIterator<Item = (u16, Arm, Timestamp)>,
    ) -> Self {
        exposures.sort_unstable();
        accumulated.sort_unstable_by_key(|(metric, _)| *metric);
        Self { exposures, accumulated, credited: credited.into_iter().map(|(m, arm, at)| ((m, arm), at)).collect() }
    }

    /// Earliest exposure first; one per arm.
    pub fn exposures(&self) -> &[Exposure] {
        &self.exposures
    }

    /// What the outcomes add up to, by metric; nothing for those that have none.
    pub fn accumulators(&self) -> &[(u16, Accumulator)] {
        &self.accumulated
    }

    /// When the first outcome was credited, by metric and arm.
    pub fn first_credits(&self) -> impl ExactSizeIterator<Item = (u16, Arm, Timestamp)> + '_ {
        self.credited.iter().map(|((metric, arm), at)| (*metric, *arm, *at))
    }

    /// The exposure that decides where the unit is counted.
    pub fn first(&self) -> Option<Exposure> {
        self.exposures.first().copied()
    }

    /// What the outcomes of one metric add up to.
    pub fn accumulated(&self, metric: u16) -> Accumulator {
        let found = self.accumulated.binary_search_by_key(&metric, |(index, _)| *index);
        found.ok().and_then(|at| self.accumulated.get(at)).map(|(_, sums)| *sums).unwrap_or_default()
    }

    /// What the unit was served last at or before an instant; `None` if it had seen nothing yet.
    pub fn served_at(&self, at: Timestamp) -> Option<Arm> {
        let until = self.exposures.partition_point(|e| e.at <= at);
        self.exposures.get(until.checked_sub(1)?).map(|e| e.arm)
    }

    /// Whether an exposure would change anything.
    pub fn is_news(&self, exposure: Exposure) -> bool {
        self.exposures.iter().find(|e| e.arm == exposure.arm).is_none_or(|known| exposure < *known)
    }

    /// Takes an exposure; true if it was new or earlier than what was known. Then all that was made of outcomes is
    /// forgotten: where they count may have changed, and [`Self::follow`] must be called again with every one of them.
    pub fn expose(&mut self, exposure: Exposure) -> bool {
        if !self.is_news(exposure) {
            return false;
        }
        self.exposures.retain(|e| e.arm != exposure.arm);
        let at = self.exposures.partition_point(|e| *e < exposure);
        self.exposures.insert(at, exposure);
        self.forget_outcomes();
        true
    }

    /// Forgets what was made of outcomes.
    pub fn forget_outcomes(&mut self) {
        self.accumulated.clear();
        self.credited.clear();
    }

    /// Takes one outcome, once, for every metric from `from_metric` on: within its window, and before the generation's end.
    pub fn follow(&mut self, history: History<'_>, from_metric: usize, outcome: &Outcome<'_>) {
        let Some(first) = self.first() else { return };
        let end = history.generation.ended_at().unwrap_or(Timestamp::MAX);
        for (index, metric) in history.numbered().skip(from_metric) {
            let ours = metric.event == outcome.event;
            let divides = matches!(&metric.kind, MetricKind::Ratio { denominator } if *denominator == outcome.event);
            if (ours || divides) && outcome.at >= first.at && outcome.at < first.at.plus(metric.window).min(end) {
                let sums = self.accumulator(index);
                if ours {
                    sums.count = sums.count.saturating_add(1);
                    sums.sum = sums.sum.wrapping_add(i128::from(outcome.value_micros));
                }
                if divides {
                    sums.denominator = sums.denominator.wrapping_add(i128::from(outcome.value_micros));
                }
            }
            if let (true, Some(arm)) = (ours, self.served_at(outcome.at)) {
                let earliest = self.credited.entry((index, arm)).or_insert(outcome.at);
                *earliest = outcome.at.min(*earliest);
            }
        }
    }

    fn accumulator(&mut self, metric: u16) -> &mut Accumulator {
        let at = match self.accumulated.binary_search_by_key(&metric, |(index, _)| *index) {
            Ok(at) => at,
            Err(at) => {
                self.accumulated.insert(at, (metric, Accumulator::default()));
                at
            }
        };
        &mut self.accumulated[at].1
    }
}
