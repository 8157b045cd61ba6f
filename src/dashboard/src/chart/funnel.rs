//! Funnel.
use inroad_policy::Interval;
use maud::{Markup, html};

/// Funnel.
#[must_use]
pub fn funnel(names: &[String], steps: &[String], reached: &[Vec<u64>], lifts: &[Vec<Option<Interval>>]) -> Markup {
    let _ = (names, steps, reached, lifts);
    html! {}
}
