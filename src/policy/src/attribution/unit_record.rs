//! The unit record: exposures and accumulated outcomes of one unit in one generation. It is enough to compute the
//! unit's contribution and to add another outcome without reading the earlier outcomes again.

use std::collections::BTreeMap;

use inroad_assignment::{Arm, MetricKind, Timestamp};

use super::History;

/// A unit's earliest exposure to an arm. Ordered by time, then revision, then arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exposure {
    /// Time of the exposure.
    pub at: Timestamp,
    /// Revision under which the arm was served.
    pub revision: u32,
    /// The arm that was served.
    pub arm: Arm,
}

/// One outcome of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// Name of the event.
    pub event: &'a str,
    /// Time of the event.
    pub at: Timestamp,
    /// Its value in millionths.
    pub value_micros: i64,
}

/// Counts and sums of one unit's outcomes within one metric's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accumulator {
    /// Number of outcomes of the metric's event.
    pub count: u64,
    /// Sum of their values, in millionths.
    pub sum: i128,
    /// Sum of the values of a ratio's other event, in millionths.
    pub denominator: i128,
}

/// One unit in one generation. It does not depend on the order in which the events arrived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitRecord {
    /// The earliest exposure to each arm, sorted.
    exposures: Vec<Exposure>,
    /// Sums by metric, sorted; metrics without outcomes in their window are left out.
    accumulated: Vec<(u16, Accumulator)>,
    /// Time of the first outcome credited to an arm, by metric and arm.
    credited: BTreeMap<(u16, Arm), Timestamp>,
}

impl UnitRecord {
    /// Builds a record from the parts of a stored one.
    pub fn from_parts(
        mut exposures: Vec<Exposure>,
        mut accumulated: Vec<(u16, Accumulator)>,
        credited: impl IntoIterator<Item = (u16, Arm, Timestamp)>,
    ) -> Self {
        exposures.sort_unstable();
        accumulated.sort_unstable_by_key(|(metric, _)| *metric);
        Self { exposures, accumulated, credited: credited.into_iter().map(|(m, arm, at)| ((m, arm), at)).collect() }
    }

    /// The exposures, one per arm, earliest first.
    pub fn exposures(&self) -> &[Exposure] {
        &self.exposures
    }

    /// The sums of the outcomes by metric; metrics without outcomes are left out.
    pub fn accumulators(&self) -> &[(u16, Accumulator)] {
        &self.accumulated
    }

    /// Time of the first credited outcome, by metric and arm.
    pub fn first_credits(&self) -> impl ExactSizeIterator<Item = (u16, Arm, Timestamp)> + '_ {
        self.credited.iter().map(|((metric, arm), at)| (*metric, *arm, *at))
    }

    /// The first exposure, which defines the epoch and arm in which the unit is counted.
    pub fn first(&self) -> Option<Exposure> {
        self.exposures.first().copied()
    }

    /// The sums of one metric's outcomes; zeros if there are none.
    pub fn accumulated(&self, metric: u16) -> Accumulator {
        let found = self.accumulated.binary_search_by_key(&metric, |(index, _)| *index);
        found.ok().and_then(|at| self.accumulated.get(at)).map(|(_, sums)| *sums).unwrap_or_default()
    }

    /// The arm that the unit was served last at or before an instant; `None` before its first exposure.
    pub fn served_at(&self, at: Timestamp) -> Option<Arm> {
        let until = self.exposures.partition_point(|e| e.at <= at);
        self.exposures.get(until.checked_sub(1)?).map(|e| e.arm)
    }

    /// The arm to which an outcome is credited: the one served last at or before it. Within the tolerance before the
    /// first exposure, this is the arm of that exposure.
    pub fn credited_arm(&self, history: History<'_>, at: Timestamp) -> Option<Arm> {
        let is_tolerated = |first: &Exposure| at >= history.counts_from(first.at);
        self.served_at(at).or_else(|| self.first().filter(is_tolerated).map(|first| first.arm))
    }

    /// Whether an exposure is the first to its arm or earlier than the known one, so that it changes the record.
    pub fn is_new_or_earlier(&self, exposure: Exposure) -> bool {
        self.exposures.iter().find(|e| e.arm == exposure.arm).is_none_or(|known| exposure < *known)
    }

    /// Adds an exposure. Returns true if it was new or earlier than the known one. Then the sums of outcomes are
    /// cleared, because the outcomes may count elsewhere now: call [`Self::add_outcome`] again with every outcome of
    /// the unit.
    pub fn add_exposure(&mut self, exposure: Exposure) -> bool {
        if !self.is_new_or_earlier(exposure) {
            return false;
        }
        self.exposures.retain(|e| e.arm != exposure.arm);
        let at = self.exposures.partition_point(|e| *e < exposure);
        self.exposures.insert(at, exposure);
        self.clear_outcomes();
        true
    }

    /// Clears the sums of outcomes.
    pub fn clear_outcomes(&mut self) {
        self.accumulated.clear();
        self.credited.clear();
    }

    /// Adds one outcome to every metric from index `from_metric` on, if it is within the metric's window and before the
    /// generation's end. Each outcome must be added once.
    pub fn add_outcome(&mut self, history: History<'_>, from_metric: usize, outcome: &Outcome<'_>) {
        let Some(first) = self.first() else { return };
        if history.is_after_activity(outcome.at) {
            return;
        }
        let end = history.generation.ended_at().unwrap_or(Timestamp::MAX);
        let from = history.counts_from(first.at);
        for (index, metric) in history.indexed_metrics().skip(from_metric) {
            let counts = metric.event == outcome.event;
            let divides = matches!(&metric.kind, MetricKind::Ratio { denominator } if *denominator == outcome.event);
            if (counts || divides) && outcome.at >= from && outcome.at < first.at.plus(metric.window).min(end) {
                let sums = self.accumulator(index);
                if counts {
                    sums.count = sums.count.saturating_add(1);
                    sums.sum = sums.sum.wrapping_add(i128::from(outcome.value_micros));
                }
                if divides {
                    sums.denominator = sums.denominator.wrapping_add(i128::from(outcome.value_micros));
                }
            }
            if let (true, Some(arm)) = (counts, self.credited_arm(history, outcome.at)) {
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
