//! Ridgelines.
use maud::{Markup, html};

/// Densities of lifts.
#[must_use]
pub fn posteriors(names: &[String], lifts: &[Option<(f64, f64)>]) -> Markup {
    let _ = (names, lifts);
    html! {}
}
