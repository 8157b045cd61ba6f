//! A chart of one interval that fits into a table cell. The table around it has the numbers.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{arrow, line};
use super::scale::{Scale, px};
use crate::format::NumberFormat;

/// A dot with a whisker, on a scale that the whole table shares (see [`super::lift_range`]). An element around it sets
/// the colour by the arm's CSS class (`v1` …).
#[must_use]
pub fn interval_bar(lift: Interval, range: (f64, f64)) -> Markup {
    const MIDDLE: f64 = 9.0;
    let is_sound = lift.low.is_finite() && lift.high.is_finite() && lift.estimate.is_finite() && lift.low <= lift.high;
    let x = Scale::new(range, (7.0, 113.0));
    let text = |value| NumberFormat::Lift.text(value);
    let sentence = match is_sound {
        true => format!("{}, from {} to {}", text(lift.estimate), text(lift.low), text(lift.high)),
        false => "No estimate yet".to_owned(),
    };
    html! {
        svg class="interval" viewBox="0 0 120 18" role="img" aria-label=(sentence) {
            (line((7.0, MIDDLE), (113.0, MIDDLE), "base"))
            @if x.side(0.0) == 0 { (line((x.at(0.0), 1.0), (x.at(0.0), 17.0), "zero-line")) }
            @if is_sound {
                (line((x.at(lift.low), MIDDLE), (x.at(lift.high).max(x.at(lift.low) + 0.8), MIDDLE), "whisker"))
                @if x.side(lift.low) < 0 { (arrow(1.0, MIDDLE, -1, "bar")) }
                @if x.side(lift.high) > 0 { (arrow(119.0, MIDDLE, 1, "bar")) }
                @if x.side(lift.estimate) == 0 { circle class="mark" cx=(px(x.at(lift.estimate))) cy=(MIDDLE) r="4" {} }
            }
        }
    }
}
