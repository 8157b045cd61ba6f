//! The lift of one variation in a table cell: an interval, or the reason why there is none.

use inroad_policy::Interval;
use maud::{Markup, html};

use crate::format::{NumberFormat, number};

/// What can be said about a lift.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum LiftView {
    /// The variation is control.
    #[default]
    Control,
    /// The relative lift with its 95% interval.
    Measured(Interval),
    /// No relative lift, for this reason.
    Missing(String),
}

impl LiftView {
    /// The relative lift, if there is one.
    #[must_use]
    pub fn relative(&self) -> Option<Interval> {
        match self {
            Self::Measured(lift) => Some(*lift),
            Self::Control | Self::Missing(_) => None,
        }
    }

    /// The content of a table cell.
    pub(crate) fn cell(&self) -> Markup {
        match self {
            Self::Control => html! { "control" },
            Self::Measured(lift) => lift_with_interval(lift),
            Self::Missing(reason) => html! { span.range { (reason) } },
        }
    }
}

/// A lift with its 95% interval, for table cells.
pub(crate) fn lift_with_interval(lift: &Interval) -> Markup {
    html! {
        span.lift { (number(lift.estimate, NumberFormat::Lift)) }
        " " span.range { (number(lift.low, NumberFormat::Lift)) " to " (number(lift.high, NumberFormat::Lift)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_lift_is_a_reason_and_never_a_number() {
        let cell = LiftView::Missing("too early to say: 30 of about 2,400 units".to_owned()).cell().into_string();
        assert!(cell.contains("30 of about 2,400 units") && !cell.contains('%'), "{cell}");
        let lift = LiftView::Measured(Interval { estimate: 0.1, low: -0.05, high: 0.3 });
        assert!(lift.cell().into_string().contains("+10.0%"));
        assert_eq!((LiftView::Control.relative(), lift.relative().is_some()), (None, true));
    }
}
