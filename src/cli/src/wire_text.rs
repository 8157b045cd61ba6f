//! Values of the server's responses as text for people. Pure.

use inroad_assignment::Timestamp;
use inroad_wire::v1::{self, ArmResult, GetResultsResponse, Interval, MetricResult};
use inroad_wire::{reason_from_wire, timestamp_from_wire};

use crate::output::{self, signed_percent};

/// An instant; `None` if it was not sent or is out of range.
pub(crate) fn timestamp_of(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    timestamp_from_wire(at?).ok()
}

/// An instant as RFC 3339; a dash if it was not sent.
pub(crate) fn timestamp_text(at: Option<&prost_types::Timestamp>) -> String {
    timestamp_of(at).map_or_else(|| "–".to_owned(), output::instant)
}

/// The name of an experiment's state.
pub(crate) fn state_name(state: i32) -> &'static str {
    match v1::State::try_from(state) {
        Ok(v1::State::Draft) => "draft",
        Ok(v1::State::Running) => "running",
        Ok(v1::State::Paused) => "paused",
        Ok(v1::State::Concluded) => "concluded",
        Ok(v1::State::Archived) => "archived",
        Ok(v1::State::Ended) => "ended",
        Ok(v1::State::Unspecified) | Err(_) => "unknown",
    }
}

/// The name of an assignment's reason.
pub(crate) fn reason_name(reason: i32) -> &'static str {
    reason_from_wire(reason).map_or("unknown", inroad_assignment::Reason::name)
}

/// The key of the variation that owns a bucket.
pub(crate) fn owner_name(index: u32, variations: &[String]) -> String {
    variations.get(index as usize).cloned().unwrap_or_else(|| format!("#{index}"))
}

/// The interval of a relative change: `+25.0% to +75.0%`.
pub(crate) fn interval_text(interval: Option<&Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |i| format!("{} to {}", signed_percent(i.low), signed_percent(i.high)))
}

/// The 95% interval of a lift, or why there is none: `too early to say: 30 of about 2,400 units`. A dash for control.
pub(crate) fn interval_or_note(lift: Option<&Interval>, note: &str) -> String {
    match lift {
        None if !note.is_empty() => note.to_owned(),
        lift => interval_text(lift),
    }
}

/// Whether probabilities to be best mean anything: before, they are 0.
pub(crate) fn is_ranked(results: &inroad_wire::v1::GetResultsResponse) -> bool {
    !results.decision_metric.is_empty() && results.not_ranked.is_empty()
}

/// The primary metric of a variation's results, or its first metric.
pub(crate) fn primary_metric<'a>(results: &GetResultsResponse, arm: &'a ArmResult) -> Option<&'a MetricResult> {
    arm.metrics.iter().find(|m| m.metric == results.decision_metric).or(arm.metrics.first())
}

/// Text from a client, safe to print: a terminal must not obey control characters in a client's name.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_replaces_a_missing_interval() {
        let interval = Interval { estimate: 0.5, low: 0.25, high: 0.75 };
        assert_eq!(interval_or_note(Some(&interval), ""), "+25.0% to +75.0%");
        assert_eq!(interval_or_note(None, "too early to say"), "too early to say");
        assert_eq!(interval_or_note(None, ""), "–");
    }
}
