//! Virtual time for a log: which row falls when, which tick it belongs to, and where a replay that was broken off goes
//! on. Pure arithmetic.

use std::ops::Range;
use std::time::Duration;

use inroad_assignment::Timestamp;

use crate::trial::Row;

/// How rows are laid out in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// When the file says.
    Told,
    /// Evenly, so many a day from the start on.
    Even {
        /// The first row's instant.
        start: Timestamp,
        /// More than 0.
        rows_per_day: f64,
    },
}

const DAY_MICROS: f64 = 86_400e6;

impl Pace {
    /// When the `index`-th row happened.
    pub(crate) fn at(&self, index: usize, row: &Row) -> Timestamp {
        match *self {
            Self::Told => row.at.unwrap_or_default(),
            Self::Even { start, rows_per_day } => {
                let micros = (index as f64 * DAY_MICROS / rows_per_day) as u64;
                start.plus(Duration::from_micros(micros))
            }
        }
    }
}

/// A tick's rows, all assigned under the allocation that holds in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Which rows of the log.
    pub(crate) rows: Range<usize>,
    /// Its last instant: here the clock stands while its rows are replayed, so that none of them is in the future.
    pub(crate) last: Timestamp,
}

/// The ticks that have rows, in order.
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

/// The last instant of the calendar tick that `at` falls in.
fn last_of_tick(at: Timestamp, length: Duration) -> Timestamp {
    Timestamp::start_of_tick(at.tick(length).saturating_add(1), length).minus(Duration::from_micros(1))
}

/// The ticks of the first `limit` rows, and whether the last of them is whole: only then may the clock go past it.
pub(crate) fn cut(mut ticks: Vec<Tick>, limit: usize) -> (Vec<Tick>, bool) {
    ticks.retain(|tick| tick.rows.start < limit);
    let Some(last) = ticks.last_mut() else { return (ticks, false) };
    let whole = last.rows.end <= limit;
    last.rows.end = last.rows.end.min(limit);
    (ticks, whole)
}

/// How many ticks a clock that stands at `now` has behind it: those rows were replayed. A tick whose last instant it
/// stands on may have been broken off, and is done again.
pub(crate) fn done(ticks: &[Tick], now: Timestamp) -> usize {
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
    fn rows_are_spread_evenly_unless_the_file_says_when() {
        let even = Pace::Even { start: at(24), rows_per_day: 48.0 };
        assert_eq!(even.at(0, &row()), at(24));
        assert_eq!(even.at(47, &row()), at(47).plus(HOUR / 2));
        assert_eq!(even.at(48, &row()), at(48));
        assert_eq!(Pace::Told.at(7, &row()), at(5));
    }

    #[test]
    fn ticks_are_cut_by_the_calendar_and_skip_what_is_empty() {
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
    fn a_limit_within_a_tick_leaves_it_open() {
        let all = || ticks(&[at(1), at(2), at(25), at(26)], 24 * HOUR);
        let rows = |limit| {
            let (ticks, whole) = cut(all(), limit);
            (ticks.into_iter().map(|tick| (tick.rows.start, tick.rows.end)).collect::<Vec<_>>(), whole)
        };
        assert_eq!(rows(9), (vec![(0, 2), (2, 4)], true));
        assert_eq!(rows(3), (vec![(0, 2), (2, 3)], false));
        assert_eq!(rows(2), (vec![(0, 2)], true));
        assert_eq!(rows(0), (vec![], false));
    }

    #[test]
    fn a_broken_off_tick_is_done_again_and_those_before_it_are_not() {
        let ticks = ticks(&[at(1), at(25), at(49)], 24 * HOUR);
        assert_eq!(done(&ticks, at(0)), 0);
        assert_eq!(done(&ticks, ticks[0].last), 0);
        assert_eq!(done(&ticks, at(24)), 1);
        assert_eq!(done(&ticks, ticks[1].last), 1);
        assert_eq!(done(&ticks, at(72)), 3);
    }
}
