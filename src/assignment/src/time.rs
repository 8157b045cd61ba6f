//! Instants as this crate sees them: numbers that somebody else read off a clock. Nothing here may ask what time it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant, in microseconds since the Unix epoch (negative before it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that can be told.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest instant that can be told.
    pub const MAX: Self = Self(i64::MAX);

    /// The instant this many microseconds after the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This instant and `duration` more; the last instant if there is none so late.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This instant less `duration`; the first instant if there is none so early.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Which tick of the calendar this falls in: ticks of `length` are counted from the Unix epoch, so that every
    /// machine cuts time at the same instants whatever happens to the experiment.
    pub fn tick(self, length: Duration) -> i64 {
        self.0.div_euclid(micros(length).max(1))
    }

    /// The instant at which calendar tick `index` begins.
    pub fn start_of_tick(index: i64, length: Duration) -> Self {
        Self(index.saturating_mul(micros(length).max(1)))
    }
}

/// Whole microseconds of a duration, held at the largest there is.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Durations as people write them: "24h", "7days".
pub(crate) mod humantime_text {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|e| de::Error::custom(format!("{text:?} is not a duration ({e}): write it like 36h or 7d")))
    }
}
