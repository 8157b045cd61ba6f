//! Plots as small as a word, for tables: they have no table of their own, because they stand in one.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{arrow, line, path};
use super::scale::{Scale, px, thin};
use super::text::Format;

/// A dot with its whisker on a scale that a whole table shares, see [`super::lift_range`]. Its colour is that of the arm's
/// class (`v1` …) on anything around it.
#[must_use]
pub fn interval_bar(lift: Interval, range: (f64, f64)) -> Markup {
    const MIDDLE: f64 = 9.0;
    let is_sound = lift.low.is_finite() && lift.high.is_finite() && lift.estimate.is_finite() && lift.low <= lift.high;
    let x = Scale::new(range, (7.0, 113.0));
    let text = |value| Format::SignedPercent1.text(value);
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

/// The course of a number, without axes; gaps are left out.
#[must_use]
pub fn sparkline(values: &[f64]) -> Markup {
    let sound: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let (low, high) = sound.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    // Of what never changes, the line is in the middle.
    let range = if high > low { (low, high) } else { (low - 1.0, low + 1.0) };
    let y = Scale::new(range, (18.0, 4.0));
    let shown = thin(sound.len(), 120);
    let x = Scale::new((0.0, (sound.len().max(2) - 1) as f64), (3.0, 76.0));
    let points: Vec<(f64, f64)> = shown.iter().map(|i| (x.at(*i as f64), y.at(sound[*i]))).collect();
    let sentence = match (sound.first(), sound.last()) {
        (Some(first), Some(last)) => {
            let text = |value: f64| Format::Num2.text(value);
            format!("From {} to {}, between {} and {}", text(*first), text(*last), text(low), text(high))
        }
        _ => "No values yet".to_owned(),
    };
    html! {
        svg class="sparkline" viewBox="0 0 80 22" role="img" aria-label=(sentence) {
            @if points.len() > 1 { path class="line" d=(path(&points)) {} }
            @if let Some((x, y)) = points.last() { circle class="mark" cx=(px(*x)) cy=(px(*y)) r="3" {} }
        }
    }
}
