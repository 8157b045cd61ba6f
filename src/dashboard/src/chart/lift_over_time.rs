//! Lift over time: a 95% interval that narrows as data arrives, inside the always-valid interval, which stays valid
//! however often people check it. One panel per variation on shared axes.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{Area, Size, arm_name, badge, colour, empty_state, headings, line, number_at, path, table};
use super::scale::{Scale, Ticks, lift_range, px, thin};
use super::{LiftAxes, LiftPoint};
use crate::format::{self, NumberFormat};

/// Most panels drawn; a note says so if there are more variations.
const DRAWN: usize = 24;
/// Most points drawn in a panel.
const POINTS: usize = 160;
/// Most points in a table.
const LISTED: usize = 60;

/// Draws a panel per variation, all on the same axes. `panels` has a list per arm; control's is ignored.
#[must_use]
pub fn lifts_over_time(names: &[String], panels: &[Vec<LiftPoint>]) -> Markup {
    let axes = shared_axes(&panels.iter().skip(1).flatten().copied().collect::<Vec<_>>());
    let arms = names.len().max(panels.len());
    html! {
        div class="panels" {
            @for i in 1..arms.min(DRAWN + 1) {
                (lift_over_time(i, &arm_name(names, i), panels.get(i).map_or(&[], Vec::as_slice), axes))
            }
        }
        @if arms > DRAWN + 1 {
            p class="chart-none" { "Showing the first " (DRAWN) " of " (arms - 1) " variations." }
        }
    }
}

fn is_valid(lift: &Interval) -> bool {
    lift.low.is_finite() && lift.high.is_finite() && lift.estimate.is_finite() && lift.low <= lift.high
}

/// The axes for all points. Early points with very wide intervals may be cut off.
fn shared_axes(points: &[LiftPoint]) -> Option<LiftAxes> {
    let valid = points.iter().filter(|point| is_valid(&point.lift));
    let (from, until) = (valid.clone().map(|p| p.at).min()?, valid.clone().map(|p| p.at).max()?);
    // The later half matters most, so it must be shown in full.
    let middle = f64::midpoint(from.as_micros() as f64, until.as_micros() as f64);
    let late = valid.filter(|p| p.at.as_micros() as f64 >= middle);
    let late: Vec<Interval> = late.flat_map(|p| [Some(p.lift), p.anytime]).flatten().collect();
    Some(LiftAxes { from, until, lifts: lift_range(&late) })
}

/// One variation's panel: the inner band is the 95% interval, the outer one the always-valid interval. Without shared
/// axes it gets its own.
#[must_use]
fn lift_over_time(arm: usize, name: &str, points: &[LiftPoint], shared: Option<LiftAxes>) -> Markup {
    let mut points: Vec<LiftPoint> = points.iter().copied().filter(|point| is_valid(&point.lift)).collect();
    points.sort_by_key(|point| point.at);
    let title = html! { p class="panel-title" { (badge(arm)) " " bdi { (name) } } };
    let (Some(axes), Some(last)) = (shared.or_else(|| shared_axes(&points)), points.last()) else {
        return html! { figure class="chart panel" { (title) (empty_state("No estimate yet.")) } };
    };
    let text = |value| NumberFormat::Lift.text(value);
    let sentence = format!(
        "Lift of {name} over control until {} UTC: {}, 95% interval from {} to {}.",
        format::minute(last.at),
        text(last.lift.estimate),
        text(last.lift.low),
        text(last.lift.high)
    );
    let drawn: Vec<LiftPoint> = thin(points.len(), POINTS).into_iter().map(|i| points[i]).collect();
    html! {
        figure class="chart panel" {
            (title)
            (panel(arm, &drawn, last, axes, &sentence))
            details { summary { "Show as table" } (lift_table(name, &points)) }
        }
    }
}

fn panel(arm: usize, points: &[LiftPoint], last: &LiftPoint, axes: LiftAxes, sentence: &str) -> Markup {
    let area = Area { left: 46.0, top: 26.0, right: 262.0, bottom: 152.0 };
    let until = if axes.until > axes.from { axes.until } else { axes.from.plus(std::time::Duration::from_secs(3600)) };
    let x = Scale::new((axes.from.as_micros() as f64, until.as_micros() as f64), (area.left, area.right));
    let y = Scale::new(axes.lifts, (area.bottom, area.top));
    let at = |point: &LiftPoint| x.at(point.at.as_micros() as f64);
    let colour = colour(arm);
    let anytime: Vec<(f64, Interval)> =
        points.iter().filter_map(|p| p.anytime.filter(is_valid).map(|lift| (at(p), lift))).collect();
    let credible: Vec<(f64, Interval)> = points.iter().map(|p| (at(p), p.lift)).collect();
    let middle: Vec<(f64, f64)> = points.iter().map(|p| (at(p), y.at(p.lift.estimate))).collect();
    let last_beyond = |pick: fn(&Interval) -> f64, side: i8| {
        let all = anytime.iter().chain(&credible);
        all.filter(|(_, lift)| y.side(pick(lift)) == side)
            .map(|(x, _)| *x)
            .fold(None, |most: Option<f64>, x| Some(most.map_or(x, |most| most.max(x))))
    };
    let label_y = y.at(last.lift.estimate).clamp(area.top + 6.0, area.bottom - 2.0);
    let inside = html! {
        (area.percent_axis_left(&y, &Ticks::within(axes.lifts, 4), "lift over control"))
        (band(&anytime, &y, &format!("outer {colour}")))
        (band(&credible, &y, &format!("inner {colour}")))
        @if y.side(0.0) == 0 { (line((area.left, y.at(0.0)), (area.right, y.at(0.0)), "zero-line")) }
        @if middle.len() > 1 { path class={ "line " (colour) } d=(path(&middle)) {} }
        // An arrow marks how long a band continued beyond the chart.
        @if let Some(x) = last_beyond(|lift| lift.high, 1) { (vertical_arrow(x, area.top, -1.0, &colour)) }
        @if let Some(x) = last_beyond(|lift| lift.low, -1) { (vertical_arrow(x, area.bottom, 1.0, &colour)) }
        @if let Some((x, y)) = middle.last() { circle class={ "mark " (colour) } cx=(px(*x)) cy=(px(*y)) r="4" {} }
        (number_at(area.right + 8.0, label_y + 4.0, "strong", last.lift.estimate, NumberFormat::Lift))
        (area.time_axis(&x, (axes.from, until), 3))
    };
    html! {
        svg class="narrow only" viewBox={ "0 0 " (Size::Narrow.width()) " 190" } role="img" aria-label=(sentence) { (inside) }
    }
}

/// The area between the low and high ends; a whisker if there is only one point.
fn band(lifts: &[(f64, Interval)], y: &Scale, class: &str) -> Markup {
    let high = lifts.iter().map(|(x, lift)| (*x, y.at(lift.high)));
    let low = lifts.iter().rev().map(|(x, lift)| (*x, y.at(lift.low)));
    let points: Vec<(f64, f64)> = match lifts {
        [(x, lift)] => {
            let (high, low) = (y.at(lift.high), y.at(lift.low));
            vec![(x - 3.0, high), (x + 3.0, high), (x + 3.0, low), (x - 3.0, low)]
        }
        _ => high.chain(low).collect(),
    };
    html! { @if !points.is_empty() { path class={ "band " (class) } d={ (path(&points)) "Z" } {} } }
}

fn vertical_arrow(x: f64, y: f64, down: f64, colour: &str) -> Markup {
    let points = [(x, y + 6.0 * down), (x - 4.0, y), (x + 4.0, y)];
    html! { path class={ "bar " (colour) } d={ (path(&points)) "Z" } {} }
}

fn lift_table(name: &str, points: &[LiftPoint]) -> Markup {
    let row = |i: usize| {
        let LiftPoint { at, lift, anytime } = points[i];
        let percent = |value: Option<f64>| format::number(value.unwrap_or(f64::NAN), NumberFormat::Lift);
        let values =
            [Some(lift.estimate), Some(lift.low), Some(lift.high), anytime.map(|l| l.low), anytime.map(|l| l.high)];
        (format::instant(at), values.map(percent).to_vec())
    };
    let rows: Vec<_> = thin(points.len(), LISTED).into_iter().map(row).collect();
    let caption = match points.len() {
        n if n > rows.len() => format!("Lift of {name} over control: {} of {n} times", rows.len()),
        _ => format!("Lift of {name} over control"),
    };
    table(&caption, &headings(&["Time", "Estimate", "95% from", "to", "Always-valid from", "to"]), &rows)
}

#[cfg(test)]
mod tests {
    use inroad_assignment::Timestamp;

    use super::*;

    #[test]
    fn shared_axes_span_all_times_and_fit_the_later_half() {
        let lift = |half: f64| Interval { estimate: 0.0, low: -half, high: half };
        let at = |micros, half| LiftPoint { at: Timestamp::from_micros(micros), lift: lift(half), anytime: None };
        let axes = shared_axes(&[at(0, 0.9), at(50, 0.2), at(100, 0.1)]).unwrap();
        assert_eq!((axes.from.as_micros(), axes.until.as_micros()), (0, 100));
        assert!(axes.lifts.1 < 0.3);
    }
}
