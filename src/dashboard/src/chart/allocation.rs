//! Shares over time.
use super::RevisionMark;
use inroad_assignment::Timestamp;
use maud::{Markup, html};

/// Shares over time.
#[must_use]
pub fn allocation_over_time(
    names: &[String],
    steps: &[(Timestamp, Vec<f64>)],
    until: Timestamp,
    marks: &[RevisionMark],
) -> Markup {
    let _ = (names, steps, until, marks);
    html! {}
}
