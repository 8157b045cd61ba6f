//! Lifts over time.
use super::{Frame, LiftPoint};
use maud::{Markup, html};

/// Panels.
#[must_use]
pub fn lifts_over_time(names: &[String], panels: &[Vec<LiftPoint>]) -> Markup {
    let _ = (names, panels);
    html! {}
}

/// One panel.
#[must_use]
pub fn lift_over_time(arm: usize, name: &str, points: &[LiftPoint], frame: Option<Frame>) -> Markup {
    let _ = (arm, name, points, frame);
    html! {}
}
