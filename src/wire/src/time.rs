//! Times and durations.
//!
//! Protobuf times have nanoseconds, and times of the domain microseconds. The excess digits are cut off towards the
//! past.

use std::time::Duration;

use inroad_assignment::Timestamp;

use crate::error::WireError;

/// 0001-01-01T00:00:00Z, the first time that protobuf can represent.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last second that protobuf can represent.
const LAST_SECOND: i64 = 253_402_300_799;
const MICROS: i64 = 1_000_000;

/// Converts a time, limited to the years 1 to 9999.
pub fn timestamp_to_wire(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros().clamp(FIRST_SECOND * MICROS, LAST_SECOND * MICROS + MICROS - 1);
    let nanos = i32::try_from(micros.rem_euclid(MICROS) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(MICROS), nanos }
}

/// Converts a received time.
///
/// # Errors
/// If it is outside the years 1 to 9999, or its nanoseconds are outside 0 to 999,999,999.
pub fn timestamp_from_wire(at: &prost_types::Timestamp) -> Result<Timestamp, WireError> {
    if !(0..1_000_000_000).contains(&at.nanos) {
        return Err(WireError::field("nanos", "give 0 to 999999999, counting forward in time"));
    }
    if !(FIRST_SECOND..=LAST_SECOND).contains(&at.seconds) {
        return Err(WireError::field("seconds", "give a time in the years 1 to 9999"));
    }
    Ok(Timestamp::from_micros(at.seconds * MICROS + i64::from(at.nanos) / 1000))
}

/// Converts a received time that may be missing.
pub(crate) fn optional_timestamp_from_wire(
    at: Option<&prost_types::Timestamp>,
    field: &str,
) -> Result<Option<Timestamp>, WireError> {
    at.map(timestamp_from_wire).transpose().map_err(|e| e.within(field))
}

/// Converts a duration, limited to 10,000 years.
pub fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    const MAX: i64 = 315_576_000_000;
    match i64::try_from(duration.as_secs()) {
        Ok(seconds) if seconds < MAX => {
            prost_types::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) }
        }
        _ => prost_types::Duration { seconds: MAX, nanos: 0 },
    }
}

/// Converts a received duration.
///
/// # Errors
/// If it is negative, or its nanoseconds are outside 0 to 999,999,999.
pub fn duration_from_wire(duration: &prost_types::Duration) -> Result<Duration, WireError> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Ok(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        (Err(_), _) => Err(WireError::field("seconds", "give a duration of zero or more")),
        (_, None) => Err(WireError::field("nanos", "give 0 to 999999999")),
    }
}
