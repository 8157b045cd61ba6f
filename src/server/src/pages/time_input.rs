//! Times as people type them into forms.

use inroad_assignment::Timestamp;

/// Reads a time in UTC; none for an empty text or `now`.
pub(super) fn parse_time(text: &str) -> Result<Option<Timestamp>, String> {
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    let invalid = || format!("{text:?} is not a time. Write it like 2026-01-31T09:00 (UTC).");
    let text = text.trim_end_matches('Z').replace(' ', "T");
    let time: jiff::civil::DateTime = text.parse().map_err(|_| invalid())?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| invalid())?;
    Ok(Some(Timestamp::from_micros(zoned.timestamp().as_microsecond())))
}
