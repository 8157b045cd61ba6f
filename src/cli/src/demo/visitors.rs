//! The simulated visitors of the demo: their visits, returns and outcomes, from a seed. They record which variation they
//! were served, so that the demo does not depend on the server's own count of moved units. Pure.

use std::collections::HashMap;
use std::time::Duration;

use inroad_assignment::Timestamp;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The variations, control first, with their conversion rates. The rates are those of a real trial with 64,000 customers.
pub(crate) const RATES: [(&str, f64); 3] =
    [("no-email", 0.106_17), ("womens-email", 0.151_40), ("mens-email", 0.182_76)];

/// The fewest and the most visits per day.
const PER_DAY: std::ops::RangeInclusive<usize> = 1_900..=2_100;
/// The share of visits by returning visitors.
const RETURNING: f64 = 0.30;
/// The mean time from visit to outcome.
const DELAY_HOURS: f64 = 5.0;
/// The longest time from visit to outcome, so that every outcome is within the metric's window.
const LONGEST_DELAY_HOURS: f64 = 23.0;
/// The share of outcomes that are reported hours later.
const LATE: f64 = 0.30;
/// The share of outcomes that are reported twice.
const TWICE: f64 = 0.05;
const HOUR_MICROS: f64 = 3_600e6;
const DAY_MICROS: u64 = 86_400_000_000;

/// A visit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    /// The visitor's unit key.
    pub(crate) unit: String,
    /// The time of the visit.
    pub(crate) at: Timestamp,
}

/// A report of an outcome.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutcomeReport {
    /// The visitor's unit key.
    pub(crate) unit: String,
    /// The time of the outcome.
    pub(crate) occurred_at: Timestamp,
    /// Equal for reports of the same outcome.
    pub(crate) event_id: String,
    /// The time at which the server receives the report.
    arrives_at: Timestamp,
    /// Whether it is reported hours after the outcome.
    is_late: bool,
    /// Whether the outcome has another report, which counts.
    is_repeat: bool,
}

/// Counts on the visitors' side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VisitCounts {
    /// Visits.
    pub(crate) visits: u64,
    /// Visitors that moved from one variation to another, which must never happen.
    pub(crate) moved: u64,
    /// Visitors that moved from control into a variation.
    pub(crate) crossed: u64,
    /// Visitors that a kill returned to control.
    pub(crate) returned: u64,
    /// Outcomes reported by now. Reports of other outcomes are still on their way.
    pub(crate) outcomes: u64,
    /// Those reported hours later.
    pub(crate) late: u64,
    /// Those reported twice.
    pub(crate) twice: u64,
}

/// What a visitor was served.
#[derive(Debug, Clone, Copy, Default)]
struct ServedHistory {
    last: usize,
    /// The first variation other than control.
    treated: Option<usize>,
}

/// All visitors and their pending reports.
pub(crate) struct VisitorSimulation {
    rng: ChaCha8Rng,
    served: HashMap<String, ServedHistory>,
    visitors: Vec<String>,
    pending: Vec<OutcomeReport>,
    /// Outcomes so far, reported or not.
    outcomes: u64,
    pub(crate) counts: VisitCounts,
}

impl VisitorSimulation {
    /// Visitors that behave the same for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            served: HashMap::new(),
            visitors: Vec::new(),
            pending: Vec::new(),
            outcomes: 0,
            counts: VisitCounts::default(),
        }
    }

    /// The number of different visitors served.
    pub(crate) fn visitor_count(&self) -> usize {
        self.served.len()
    }

    /// The visits of the day that begins at `start`, in order of time.
    pub(crate) fn visits_of_day(&mut self, start: Timestamp) -> Vec<Visit> {
        let count = self.rng.random_range(PER_DAY);
        let mut instants: Vec<u64> = (0..count).map(|_| self.rng.random_range(0..DAY_MICROS)).collect();
        instants.sort_unstable();
        let visits = instants.into_iter().map(|micros| {
            let at = start.plus(Duration::from_micros(micros));
            let returns = !self.visitors.is_empty() && self.rng.random_bool(RETURNING);
            let unit = if returns {
                self.visitors[self.rng.random_range(0..self.visitors.len())].clone()
            } else {
                let unit = format!("visitor-{:06}", self.visitors.len() + 1);
                self.visitors.push(unit.clone());
                unit
            };
            Visit { unit, at }
        });
        visits.collect()
    }

    /// Serves a variation to a visitor, who may respond to a variation that is new to them.
    pub(crate) fn serve(&mut self, visit: &Visit, variation: usize) {
        self.counts.visits += 1;
        let before = self.served.get(&visit.unit).copied();
        let history = self.served.entry(visit.unit.clone()).or_default();
        history.last = variation;
        if variation > 0 {
            let first = *history.treated.get_or_insert(variation);
            self.counts.moved += u64::from(first != variation);
        }
        match before.map(|m| m.last) {
            Some(0) if variation > 0 => self.counts.crossed += 1,
            Some(last) if last > 0 && variation == 0 => self.counts.returned += 1,
            Some(last) if last == variation => return,
            _ => {}
        }
        let rate = RATES.get(variation).map_or(0.0, |(_, rate)| *rate);
        if self.rng.random_bool(rate) {
            self.add_outcome(visit);
        }
    }

    fn add_outcome(&mut self, visit: &Visit) {
        self.outcomes += 1;
        let delay = (-(1.0 - self.rng.random::<f64>()).ln() * DELAY_HOURS).min(LONGEST_DELAY_HOURS);
        let occurred_at = visit.at.plus(Duration::from_micros((delay * HOUR_MICROS) as u64));
        let is_late = self.rng.random_bool(LATE);
        let lag = if is_late { self.rng.random_range(1.0..12.0) } else { 0.0 };
        let report = OutcomeReport {
            unit: visit.unit.clone(),
            occurred_at,
            event_id: format!("outcome-{}", self.outcomes),
            arrives_at: occurred_at.plus(Duration::from_micros((lag * HOUR_MICROS) as u64)),
            is_late,
            is_repeat: false,
        };
        if self.rng.random_bool(TWICE) {
            self.pending.push(OutcomeReport { is_repeat: true, ..report.clone() });
        }
        self.pending.push(report);
    }

    /// The reports received by `now`, in random order.
    pub(crate) fn take_reports(&mut self, now: Timestamp) -> Vec<OutcomeReport> {
        let (mut received, later): (Vec<OutcomeReport>, Vec<OutcomeReport>) =
            std::mem::take(&mut self.pending).into_iter().partition(|report| report.arrives_at <= now);
        self.pending = later;
        for report in &received {
            self.counts.twice += u64::from(report.is_repeat);
            self.counts.outcomes += u64::from(!report.is_repeat);
            self.counts.late += u64::from(!report.is_repeat && report.is_late);
        }
        received.shuffle(&mut self.rng);
        received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn same_seed_gives_the_same_visits() {
        let day = |seed| VisitorSimulation::new(seed).visits_of_day(Timestamp::default());
        assert_eq!(day(1), day(1));
        assert_ne!(day(1), day(2));
    }

    #[test]
    fn visitors_return_and_outcomes_are_late_duplicated_and_unordered() {
        let mut simulation = VisitorSimulation::new(3);
        let mut reports = Vec::new();
        for day in 0..5u32 {
            let start = Timestamp::default().plus(DAY * day);
            for visit in simulation.visits_of_day(start) {
                assert!(visit.at >= start && visit.at < start.plus(DAY));
                simulation.serve(&visit, 2);
            }
            reports.extend(simulation.take_reports(start.plus(DAY)));
        }
        let counts = simulation.counts;
        let ids: std::collections::HashSet<&str> = reports.iter().map(|report| report.event_id.as_str()).collect();
        assert_eq!((counts.outcomes, counts.twice), (ids.len() as u64, (reports.len() - ids.len()) as u64));
        assert!(simulation.visitor_count() < counts.visits as usize * 8 / 10, "{counts:?}");
        assert!(counts.late > 0 && counts.twice > 0 && (counts.moved, counts.crossed) == (0, 0));
        let rate = counts.outcomes as f64 / simulation.visitor_count() as f64;
        assert!((rate - RATES[2].1).abs() < 0.02, "{rate}");
        assert!(reports.windows(2).any(|pair| pair[0].occurred_at > pair[1].occurred_at));
    }

    #[test]
    fn moves_between_variations_are_counted() {
        let visit = Visit { unit: "a".to_owned(), at: Timestamp::default() };
        let after = |served: &[usize]| {
            let mut simulation = VisitorSimulation::new(1);
            served.iter().for_each(|v| simulation.serve(&visit, *v));
            let counts = simulation.counts;
            (counts.moved, counts.crossed, counts.returned)
        };
        assert_eq!(after(&[0, 0, 1, 1]), (0, 1, 0));
        assert_eq!(after(&[1, 2]), (1, 0, 0));
        assert_eq!(after(&[1, 0, 1]), (0, 1, 1));
        assert_eq!(after(&[1, 0, 2]), (1, 1, 1));
    }
}
