//! The visitors of the demo: who comes when, who comes back, and who does what afterwards, out of a seed. They remember
//! by themselves what they were served, so that the server's word need not be taken for it. Pure.

use std::collections::HashMap;
use std::time::Duration;

use inroad_assignment::Timestamp;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The variations, control first, and how often each makes somebody visit the shop: what the three thirds of a real
/// trial of 64,000 customers did.
pub(crate) const RATES: [(&str, f64); 3] =
    [("no-email", 0.106_17), ("womens-email", 0.151_40), ("mens-email", 0.182_76)];

/// How many come in a day, at least and at most.
const PER_DAY: std::ops::RangeInclusive<usize> = 1_900..=2_100;
/// How many of them have been there before.
const RETURNING: f64 = 0.30;
/// How long after they were served people act, on average.
const DELAY_HOURS: f64 = 5.0;
/// And at the latest, so that all of it falls within the metric's window.
const LONGEST_DELAY_HOURS: f64 = 23.0;
/// How many outcomes are reported hours after they happened.
const LATE: f64 = 0.30;
/// How many outcomes are reported twice.
const TWICE: f64 = 0.05;
const HOUR_MICROS: f64 = 3_600e6;
const DAY_MICROS: u64 = 86_400_000_000;

/// Somebody comes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    /// Who.
    pub(crate) unit: String,
    /// When.
    pub(crate) at: Timestamp,
}

/// Somebody did something, and it is reported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// Who.
    pub(crate) unit: String,
    /// When it happened.
    pub(crate) occurred_at: Timestamp,
    /// The same for the same outcome.
    pub(crate) event_id: String,
    /// When the report comes in.
    arrives_at: Timestamp,
}

/// What is counted on the visitors' side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Visits.
    pub(crate) visits: u64,
    /// Visitors that were served one variation beside control, and later another: what must never happen.
    pub(crate) moved: u64,
    /// Visitors that moved from control into a variation.
    pub(crate) crossed: u64,
    /// Visitors that a kill gave back to control.
    pub(crate) returned: u64,
    /// Outcomes that happened.
    pub(crate) outcomes: u64,
    /// Of them, reported hours later.
    pub(crate) late: u64,
    /// Of them, reported twice.
    pub(crate) twice: u64,
}

/// What somebody remembers.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    last: usize,
    /// The first variation beside control that they were served.
    treated: Option<usize>,
}

/// The world.
pub(crate) struct World {
    rng: ChaCha8Rng,
    memory: HashMap<String, Memory>,
    known: Vec<String>,
    pending: Vec<Report>,
    pub(crate) ledger: Ledger,
}

impl World {
    /// A world that goes the same way whenever it has the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            memory: HashMap::new(),
            known: Vec::new(),
            pending: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    /// How many different visitors were served.
    pub(crate) fn visitors(&self) -> usize {
        self.memory.len()
    }

    /// Who comes in the day that begins at `start`, in the order of time.
    pub(crate) fn day(&mut self, start: Timestamp) -> Vec<Visit> {
        let count = self.rng.random_range(PER_DAY);
        let mut instants: Vec<u64> = (0..count).map(|_| self.rng.random_range(0..DAY_MICROS)).collect();
        instants.sort_unstable();
        let visits = instants.into_iter().map(|micros| {
            let at = start.plus(Duration::from_micros(micros));
            let back = !self.known.is_empty() && self.rng.random_bool(RETURNING);
            let unit = if back {
                self.known[self.rng.random_range(0..self.known.len())].clone()
            } else {
                let unit = format!("visitor-{:06}", self.known.len() + 1);
                self.known.push(unit.clone());
                unit
            };
            Visit { unit, at }
        });
        visits.collect()
    }

    /// Somebody is served a variation: they remember it, and may act on what is new to them.
    pub(crate) fn serve(&mut self, visit: &Visit, variation: usize) {
        self.ledger.visits += 1;
        let before = self.memory.get(&visit.unit).copied();
        let memory = self.memory.entry(visit.unit.clone()).or_default();
        memory.last = variation;
        if variation > 0 {
            let first = *memory.treated.get_or_insert(variation);
            self.ledger.moved += u64::from(first != variation);
        }
        match before.map(|m| m.last) {
            Some(0) if variation > 0 => self.ledger.crossed += 1,
            Some(last) if last > 0 && variation == 0 => self.ledger.returned += 1,
            Some(last) if last == variation => return,
            _ => {}
        }
        let rate = RATES.get(variation).map_or(0.0, |(_, rate)| *rate);
        if self.rng.random_bool(rate) {
            self.act(visit);
        }
    }

    fn act(&mut self, visit: &Visit) {
        self.ledger.outcomes += 1;
        let delay = (-(1.0 - self.rng.random::<f64>()).ln() * DELAY_HOURS).min(LONGEST_DELAY_HOURS);
        let occurred_at = visit.at.plus(Duration::from_micros((delay * HOUR_MICROS) as u64));
        let late = self.rng.random_bool(LATE);
        self.ledger.late += u64::from(late);
        let lag = if late { self.rng.random_range(1.0..12.0) } else { 0.0 };
        let report = Report {
            unit: visit.unit.clone(),
            occurred_at,
            event_id: format!("outcome-{}", self.ledger.outcomes),
            arrives_at: occurred_at.plus(Duration::from_micros((lag * HOUR_MICROS) as u64)),
        };
        if self.rng.random_bool(TWICE) {
            self.ledger.twice += 1;
            self.pending.push(report.clone());
        }
        self.pending.push(report);
    }

    /// The reports that have come in by `now`, in no order.
    pub(crate) fn reports(&mut self, now: Timestamp) -> Vec<Report> {
        let (mut here, later): (Vec<Report>, Vec<Report>) =
            std::mem::take(&mut self.pending).into_iter().partition(|report| report.arrives_at <= now);
        self.pending = later;
        here.shuffle(&mut self.rng);
        here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_seed_makes_one_world() {
        let day = |seed| World::new(seed).day(Timestamp::default());
        assert_eq!(day(1), day(1));
        assert_ne!(day(1), day(2));
    }

    #[test]
    fn visitors_come_back_and_outcomes_come_late_twice_and_in_no_order() {
        let mut world = World::new(3);
        let mut reports = Vec::new();
        for day in 0..5u32 {
            let start = Timestamp::default().plus(DAY * day);
            for visit in world.day(start) {
                assert!(visit.at >= start && visit.at < start.plus(DAY));
                world.serve(&visit, 2);
            }
            reports.extend(world.reports(start.plus(DAY)));
        }
        let ledger = world.ledger;
        assert!(world.visitors() < ledger.visits as usize * 8 / 10, "{ledger:?}");
        assert!(ledger.late > 0 && ledger.twice > 0 && (ledger.moved, ledger.crossed) == (0, 0));
        let rate = ledger.outcomes as f64 / world.visitors() as f64;
        assert!((rate - RATES[2].1).abs() < 0.02, "{rate}");
        assert!(reports.windows(2).any(|pair| pair[0].occurred_at > pair[1].occurred_at));
    }

    #[test]
    fn the_visitors_notice_who_is_moved() {
        let visit = Visit { unit: "a".to_owned(), at: Timestamp::default() };
        let after = |served: &[usize]| {
            let mut world = World::new(1);
            served.iter().for_each(|v| world.serve(&visit, *v));
            let ledger = world.ledger;
            (ledger.moved, ledger.crossed, ledger.returned)
        };
        assert_eq!(after(&[0, 0, 1, 1]), (0, 1, 0));
        assert_eq!(after(&[1, 2]), (1, 0, 0));
        assert_eq!(after(&[1, 0, 1]), (0, 1, 1));
        assert_eq!(after(&[1, 0, 2]), (1, 1, 1));
    }
}
