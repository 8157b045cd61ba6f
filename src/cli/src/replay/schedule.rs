//! The simulated time of a log: the time of each row, the tick that it belongs to, and the tick from which an interrupted
//! replay continues. Pure.

use std::ops::Range;
use std::time::Duration;

use inroad_assignment::Timestamp;

use crate::trial::Row;

/// The times of the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RowTimes {
    /// The time in the file.
    FromFile,
    /// Spread evenly from the start.
    Even {
        /// The time of the first row.
        start: Timestamp,
        /// Greater than 0.
        rows_per_day: f64,
    },
}

const DAY_MICROS: f64 = 86_400e6;

impl RowTimes {
    /// The time of the row with this index.
    pub(crate) fn at(&self, index: usize, row: &Row) -> Timestamp {
        match *self {
            Self::FromFile => row.at.unwrap_or_default(),
            Self::Even { start, rows_per_day } => {
                let micros = (index as f64 * DAY_MICROS / rows_per_day) as u64;
                start.plus(Duration::from_micros(micros))
            }
        }
    }
}

/// The rows of one tick, all assigned under the allocation of that tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    /// The rows, as indexes into the log.
    pub(crate) rows: Range<usize>,
    /// The last instant of the tick: the simulated time during its rows, so that none of them is in the future.
    pub(crate) last: Timestamp,
}

/// The ticks with rows, in order.
pub(crate) fn ticks(times: &[Timestamp], length: Duration) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    for (i, at) in times.iter().enumerate() {
        let last = last_of_tick(*at, length);
        match ticks.last_mut() {
            Some(tick) if tick.last == last => tick.rows.end = i + 1,
            _ => ticks.push(Tick { rows: i..i + 1, last }),
        }
    }
    ticks
}

/// The last instant of the calendar tick that contains `at`.
fn last_of_tick(at: Timestamp, length: Duration) -> Timestamp {
    Timestamp::start_of_tick(at.tick(length).saturating_add(1), length).minus(Duration::from_micros(1))
}

/// The ticks of the first `limit` rows, and whether the last tick is complete. Only then may time advance past it.
pub(crate) fn limit_ticks(mut ticks: Vec<Tick>, limit: usize) -> (Vec<Tick>, bool) {
    ticks.retain(|tick| tick.rows.start < limit);
    let Some(last) = ticks.last_mut() else { return (ticks, false) };
    let is_complete = last.rows.end <= limit;
    last.rows.end = last.rows.end.min(limit);
    (ticks, is_complete)
}

/// The number of ticks before `now`, whose rows were replayed. A tick with its last instant at `now` may be incomplete and is
/// replayed again.
pub(crate) fn completed_ticks(ticks: &[Tick], now: Timestamp) -> usize {
    ticks.partition_point(|tick| tick.last < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(hours * 3600))
    }

    fn row() -> Row {
        Row { number: 1, unit: None, arm: 0, at: Some(at(5)), propensity: None, values: Box::new([]) }
    }

    #[test]
    fn rows_are_spread_evenly_without_a_time_column() {
        let even = RowTimes::Even { start: at(24), rows_per_day: 48.0 };
        assert_eq!(even.at(0, &row()), at(24));
        assert_eq!(even.at(47, &row()), at(47).plus(HOUR / 2));
        assert_eq!(even.at(48, &row()), at(48));
        assert_eq!(RowTimes::FromFile.at(7, &row()), at(5));
    }

    #[test]
    fn ticks_follow_the_calendar_and_skip_empty_ones() {
        let times = [at(1), at(23), at(24), at(80)];
        let ticks = ticks(&times, 24 * HOUR);
        let last = |hours| at(hours).minus(Duration::from_micros(1));
        assert_eq!(
            ticks,
            [
                Tick { rows: 0..2, last: last(24) },
                Tick { rows: 2..3, last: last(48) },
                Tick { rows: 3..4, last: last(96) },
            ]
        );
    }

    #[test]
    fn limit_within_a_tick_leaves_it_incomplete() {
        let all = || ticks(&[at(1), at(2), at(25), at(26)], 24 * HOUR);
        let rows = |limit| {
            let (ticks, is_complete) = limit_ticks(all(), limit);
            (ticks.into_iter().map(|tick| (tick.rows.start, tick.rows.end)).collect::<Vec<_>>(), is_complete)
        };
        assert_eq!(rows(9), (vec![(0, 2), (2, 4)], true));
        assert_eq!(rows(3), (vec![(0, 2), (2, 3)], false));
        assert_eq!(rows(2), (vec![(0, 2)], true));
        assert_eq!(rows(0), (vec![], false));
    }

    #[test]
    fn incomplete_tick_is_replayed_again() {
        let ticks = ticks(&[at(1), at(25), at(49)], 24 * HOUR);
        assert_eq!(completed_ticks(&ticks, at(0)), 0);
        assert_eq!(completed_ticks(&ticks, ticks[0].last), 0);
        assert_eq!(completed_ticks(&ticks, at(24)), 1);
        assert_eq!(completed_ticks(&ticks, ticks[1].last), 1);
        assert_eq!(completed_ticks(&ticks, at(72)), 3);
    }
}
