//! Instants and durations. This crate never reads a clock: its callers pass the time in, so that every result can be
//! reproduced.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant, in microseconds since the Unix epoch (negative before it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that can be represented.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest instant that can be represented.
    pub const MAX: Self = Self(i64::MAX);

    /// Creates the instant that is `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This instant plus `duration`, at most [`Self::MAX`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This instant minus `duration`, at least [`Self::MIN`].
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The index of the calendar tick that contains this instant. Ticks of `length` are counted from the Unix epoch, so
    /// that every machine divides time at the same instants, independent of the experiment.
    pub fn tick(self, length: Duration) -> i64 {
        self.0.div_euclid(micros(length).max(1))
    }

    /// The start of the calendar tick with this index.
    pub fn start_of_tick(index: i64, length: Duration) -> Self {
        Self(index.saturating_mul(micros(length).max(1)))
    }
}

/// A duration in whole microseconds, at most `i64::MAX`.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Reads and writes durations as people write them: "24h", "7days".
pub(crate) mod humantime_text {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|e| {
            de::Error::custom(format!("{text:?} is not a duration ({e}): write a number and a unit, like 36h or 7d"))
        })
    }
}
