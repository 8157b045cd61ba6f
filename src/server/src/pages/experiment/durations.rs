//! Durations as words.

use std::time::Duration;

use inroad_dashboard::format::plural;

/// A duration in the largest unit that divides it: `1 day`, `36 hours`.
pub(super) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let is_whole = duration.subsec_nanos() == 0;
    let unit = units.into_iter().find(|(unit, _)| is_whole && seconds >= *unit && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{duration:?}"), |(seconds_per_unit, name)| plural(seconds / seconds_per_unit, name))
}

/// A frequency: `every day`, `every 6 hours`.
pub(super) fn every(duration: Duration) -> String {
    let words = in_words(duration);
    format!("every {}", words.strip_prefix("1 ").unwrap_or(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_the_largest_whole_unit() {
        let hours = |n: u64| Duration::from_secs(3600 * n);
        assert_eq!([in_words(hours(24)), in_words(hours(36)), in_words(hours(1))], ["1 day", "36 hours", "1 hour"]);
        assert_eq!([every(hours(24)), every(hours(168)), every(hours(1))], ["every day", "every 7 days", "every hour"]);
        assert_eq!([in_words(Duration::from_secs(90)), in_words(Duration::from_millis(1_500))], ["90 seconds", "1.5s"]);
    }
}
