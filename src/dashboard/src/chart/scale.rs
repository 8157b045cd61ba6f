//! Scales from numbers to pixels, round numbers for axes, and label positions without overlaps.

use inroad_assignment::Timestamp;
use inroad_policy::Interval;

use crate::format::NumberFormat;

/// Rounds a coordinate to a tenth of a pixel, which keeps the markup short. Values that are not finite become 0.
pub(super) fn px(value: f64) -> f64 {
    if value.is_finite() { (value.clamp(-1e5, 1e5) * 10.0).round() / 10.0 + 0.0 } else { 0.0 }
}

/// A linear scale from numbers to pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps `low..high` to `from..to`; an empty range is widened, so that it has a middle.
    pub(super) fn new((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let low = if low.is_finite() { low } else { 0.0 };
        let high = if high.is_finite() && high > low { high } else { low + 1.0 };
        Self { low, high, from, to }
    }

    /// The position of a number, clamped to the ends.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + part * (self.to - self.from)
    }

    /// Whether a number is below the scale (-1), on it (0) or above it (1).
    pub(super) fn side(&self, value: f64) -> i8 {
        let slack = 1e-9 * (self.high - self.low);
        i8::from(value > self.high + slack) - i8::from(value < self.low - slack)
    }
}

/// Round percentages within a range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    pub(super) format: NumberFormat,
}

impl Ticks {
    /// About `about` ticks.
    pub(super) fn within((low, high): (f64, f64), about: usize) -> Self {
        let rough = ((high - low) / about.max(1) as f64).max(1e-4);
        let magnitude = 10_f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * magnitude >= rough * 0.999).unwrap_or(10.0);
        let step = factor * magnitude;
        let first = (low / step - 1e-9).ceil();
        let n = ((high / step + 1e-9).floor() - first).clamp(0.0, 50.0) as u32;
        // Adding 0.0 turns -0.0 into 0.0, which is written without a sign.
        let values = (0..=n).map(|i| (first + f64::from(i)) * step + 0.0).collect();
        let format = match step {
            s if s > 0.0099 => NumberFormat::Percent0,
            s if s > 0.00099 => NumberFormat::Percent1,
            _ => NumberFormat::Percent2,
        };
        Self { values, format }
    }
}

/// Times for an axis: midnights, or round hours within days.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Times {
    pub(super) values: Vec<Timestamp>,
    pub(super) are_days: bool,
}

impl Times {
    /// At most about `about` times.
    pub(super) fn within(from: Timestamp, until: Timestamp, about: usize) -> Self {
        const HOUR: i64 = 3_600_000_000;
        const DAY: i64 = 24 * HOUR;
        let (from, until) = (from.as_micros(), until.as_micros().max(from.as_micros()));
        let steps = [HOUR / 60, HOUR / 12, HOUR / 4, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR];
        let days = [1, 2, 7, 14, 28, 56, 91, 182, 364, 1820, 18_200].map(|days| days * DAY);
        let span = until.saturating_sub(from);
        let fits = |step: &i64| span / step <= about.max(1) as i64;
        let step = steps.into_iter().chain(days).find(fits).unwrap_or((span / about.max(1) as i64).max(1));
        // The epoch was a Thursday: weeks begin on Mondays.
        let origin = if step >= 7 * DAY { 4 * DAY } else { 0 };
        let first = from.saturating_sub(origin).div_euclid(step).saturating_mul(step).saturating_add(origin);
        let values = (0..=about as i64 + 2)
            .map(|i| first.saturating_add(i.saturating_mul(step)))
            .filter(|at| (from..=until).contains(at))
            .map(Timestamp::from_micros)
            .collect();
        Self { values, are_days: step >= DAY }
    }
}

/// Moves labels apart to at least `gap` within `low..high`, as little as possible and keeping their order.
pub(super) fn spread(wanted: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]).then(a.cmp(b)));
    let mut placed = wanted.to_vec();
    let mut floor = low;
    for i in &order {
        placed[*i] = placed[*i].max(floor);
        floor = placed[*i] + gap;
    }
    let mut ceiling = high;
    for i in order.iter().rev() {
        placed[*i] = placed[*i].min(ceiling);
        ceiling = placed[*i] - gap;
    }
    placed
}

/// Picks at most `most` of `len` indices, evenly spaced, including the first and the last.
pub(super) fn thin(len: usize, most: usize) -> Vec<usize> {
    if len <= most.max(2) {
        return (0..len).collect();
    }
    let last = most.max(2) - 1;
    (0..=last).map(|i| i * (len - 1) / last).collect()
}

/// A range that contains zero and these intervals, for charts that are compared with each other. An interval far wider
/// than the others is ignored: it is cut off with an arrow, or the others would be too small to see.
#[must_use]
pub fn lift_range(lifts: &[Interval]) -> (f64, f64) {
    /// An interval is too wide if it is this many times wider than the median one.
    const FAR: f64 = 8.0;
    /// Largest lift on an axis: four times control.
    const MOST: f64 = 3.0;
    let ends = lifts.iter().filter(|l| l.low.is_finite() && l.high.is_finite() && l.low <= l.high);
    let mut ends: Vec<(f64, f64)> = ends.map(|l| (l.low.clamp(-1.0, MOST), l.high.clamp(-1.0, MOST))).collect();
    ends.sort_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)));
    let Some(middle) = ends.get(ends.len().saturating_sub(1) / 2).map(|(low, high)| high - low) else {
        return (-0.1, 0.1);
    };
    let shown = ends.iter().filter(|(low, high)| high - low <= FAR * middle.max(1e-6));
    let (low, high) = shown.fold((0.0_f64, 0.0_f64), |(l, h), (low, high)| (l.min(*low), h.max(*high)));
    // A narrower range would need ticks with too many decimals.
    let pad = (0.06 * (high - low)).max(0.001);
    ((low - pad).max(-1.0), high + pad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let ticks = |range, about| -> Vec<String> {
            let ticks = Ticks::within(range, about);
            ticks.values.iter().map(|value| ticks.format.text(*value)).collect()
        };
        assert_eq!(ticks((0.0, 1.0), 4), ["0%", "50%", "100%"]);
        assert_eq!(ticks((-0.031, 0.042), 4), ["−2%", "0%", "2%", "4%"]);
        assert_eq!(ticks((0.0, 0.0021), 4), ["0.0%", "0.1%", "0.2%"]);
        assert_eq!(ticks((0.0, 0.0), 4), ["0.00%"]);
    }

    #[test]
    fn days_begin_at_midnight_and_weeks_on_mondays() {
        let at =
            |text: &str| text.parse::<jiff::Timestamp>().map(|t| Timestamp::from_micros(t.as_microsecond())).unwrap();
        let (from, until) = (at("2026-11-23T08:30:00Z"), at("2026-12-21T08:30:00Z"));
        let days = |times: Times| times.values.into_iter().map(crate::format::day).collect::<Vec<_>>();
        assert_eq!(days(Times::within(from, until, 4)), ["30 Nov", "7 Dec", "14 Dec", "21 Dec"]);
        let hours = Times::within(from, at("2026-11-23T20:00:00Z"), 5);
        assert!(!hours.are_days && hours.values.len() == 4);
        assert!(Times::within(Timestamp::MIN, Timestamp::MAX, 5).values.len() < 9);
        assert!(Times::within(until, from, 5).values.len() < 2);
    }

    #[test]
    fn labels_do_not_overlap_and_thinning_keeps_the_ends() {
        assert_eq!(spread(&[50.0, 50.0, 10.0], 12.0, (0.0, 60.0)), [48.0, 60.0, 10.0]);
        assert_eq!(thin(5, 9), [0, 1, 2, 3, 4]);
        assert_eq!(thin(100, 3), [0, 49, 99]);
        assert!(thin(0, 3).is_empty());
    }

    #[test]
    fn lift_range_contains_zero_and_all_intervals_but_far_wider_ones() {
        let lift = |low, high| Interval { estimate: 0.0, low, high };
        let (low, high) = lift_range(&[lift(0.01, 0.05), lift(0.02, 0.06), lift(-0.99, 1e40)]);
        assert!((-0.01..=0.0).contains(&low) && (0.06..0.07).contains(&high));
        assert_eq!(lift_range(&[lift(f64::NAN, 1.0)]), (-0.1, 0.1));
        assert!(lift_range(&[lift(-1.0, 1e43)]).1 < 4.0);
    }
}
