//! Small ones.
use inroad_policy::Interval;
use maud::{Markup, html};

/// Dot and whisker.
#[must_use]
pub fn interval_bar(lift: Interval, range: (f64, f64)) -> Markup {
    let _ = (lift, range);
    html! {}
}

/// Sparkline.
#[must_use]
pub fn sparkline(values: &[f64]) -> Markup {
    let _ = values;
    html! {}
}
