//! How a variation's lift became known: its 95% interval narrowing, within the confidence sequence that stays true however
//! often it is looked at. One panel per variation on shared axes.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{Area, Size, badge, colour, figure_at, heads, line, nothing, path, table};
use super::scale::{Scale, Ticks, lift_range, px, thin};
use super::text::{self, Format};
use super::{Frame, LiftPoint};

/// So many panels are drawn, and named if there are more.
const DRAWN: usize = 24;
/// So many points are drawn, and so many listed.
const POINTS: usize = 160;
const LISTED: usize = 60;

/// A panel per variation, all on the same axes. One list per arm; control's is not looked at.
#[must_use]
pub fn lifts_over_time(names: &[String], panels: &[Vec<LiftPoint>]) -> Markup {
    let frame = frame(&panels.iter().skip(1).flatten().copied().collect::<Vec<_>>());
    let arms = names.len().max(panels.len());
    html! {
        div class="panels" {
            @for i in 1..arms.min(DRAWN + 1) {
                (lift_over_time(i, &super::draw::name_of(names, i), panels.get(i).map_or(&[], Vec::as_slice), frame))
            }
        }
        @if arms > DRAWN + 1 {
            p class="chart-none" { "Drawn are the first " (DRAWN) " of " (arms - 1) " variations." }
        }
    }
}

fn is_sound(lift: &Interval) -> bool {
    lift.low.is_finite() && lift.high.is_finite() && lift.estimate.is_finite() && lift.low <= lift.high
}

/// Axes that hold all of these; the first points, of which little is known, may be cut.
fn frame(points: &[LiftPoint]) -> Option<Frame> {
    let sound = points.iter().filter(|point| is_sound(&point.lift));
    let (from, until) = (sound.clone().map(|p| p.at).min()?, sound.clone().map(|p| p.at).max()?);
    // The later half is what is asked about: it has to be in full.
    let middle = f64::midpoint(from.as_micros() as f64, until.as_micros() as f64);
    let late = sound.filter(|p| p.at.as_micros() as f64 >= middle);
    let late: Vec<Interval> = late.flat_map(|p| [Some(p.lift), p.anytime]).flatten().collect();
    Some(Frame { from, until, lifts: lift_range(&late) })
}

/// One variation's panel: the inner band is the 95% interval, the outer one the confidence sequence. Without a frame it
/// has axes of its own.
#[must_use]
fn lift_over_time(arm: usize, name: &str, points: &[LiftPoint], frame_of_all: Option<Frame>) -> Markup {
    let mut points: Vec<LiftPoint> = points.iter().copied().filter(|point| is_sound(&point.lift)).collect();
    points.sort_by_key(|point| point.at);
    let title = html! { p class="panel-title" { (badge(arm)) " " bdi { (name) } } };
    let (Some(frame), Some(last)) = (frame_of_all.or_else(|| frame(&points)), points.last()) else {
        return html! { figure class="chart panel" { (title) (nothing("No estimate of it yet.")) } };
    };
    let text = |value| Format::SignedPercent1.text(value);
    let sentence = format!(
        "Lift of {name} over control until {} UTC: {}, 95% from {} to {}.",
        text::minute(last.at),
        text(last.lift.estimate),
        text(last.lift.low),
        text(last.lift.high)
    );
    let drawn: Vec<LiftPoint> = thin(points.len(), POINTS).into_iter().map(|i| points[i]).collect();
    html! {
        figure class="chart panel" {
            (title)
            (panel(arm, &drawn, last, frame, &sentence))
            details { summary { "As a table" } (listing(name, &points)) }
        }
    }
}

fn panel(arm: usize, points: &[LiftPoint], last: &LiftPoint, frame: Frame, sentence: &str) -> Markup {
    let area = Area { left: 46.0, top: 26.0, right: 262.0, bottom: 152.0 };
    let until =
        if frame.until > frame.from { frame.until } else { frame.from.plus(std::time::Duration::from_secs(3600)) };
    let x = Scale::new((frame.from.as_micros() as f64, until.as_micros() as f64), (area.left, area.right));
    let y = Scale::new(frame.lifts, (area.bottom, area.top));
    let at = |point: &LiftPoint| x.at(point.at.as_micros() as f64);
    let colour = colour(arm);
    let anytime: Vec<(f64, Interval)> =
        points.iter().filter_map(|p| p.anytime.filter(is_sound).map(|lift| (at(p), lift))).collect();
    let credible: Vec<(f64, Interval)> = points.iter().map(|p| (at(p), p.lift)).collect();
    let middle: Vec<(f64, f64)> = points.iter().map(|p| (at(p), y.at(p.lift.estimate))).collect();
    let ends = |pick: fn(&Interval) -> f64, side: i8| {
        let all = anytime.iter().chain(&credible);
        all.filter(|(_, lift)| y.side(pick(lift)) == side)
            .map(|(x, _)| *x)
            .fold(None, |most: Option<f64>, x| Some(most.map_or(x, |most| most.max(x))))
    };
    let label_y = y.at(last.lift.estimate).clamp(area.top + 6.0, area.bottom - 2.0);
    let inside = html! {
        (area.shares(&y, &Ticks::within(frame.lifts, 4), "lift over control"))
        (band(&anytime, &y, &format!("outer {colour}")))
        (band(&credible, &y, &format!("inner {colour}")))
        @if y.side(0.0) == 0 { (line((area.left, y.at(0.0)), (area.right, y.at(0.0)), "zero-line")) }
        @if middle.len() > 1 { path class={ "line " (colour) } d=(path(&middle)) {} }
        // Until there the bands run on beyond the plot.
        @if let Some(x) = ends(|lift| lift.high, 1) { (beyond(x, area.top, -1.0, &colour)) }
        @if let Some(x) = ends(|lift| lift.low, -1) { (beyond(x, area.bottom, 1.0, &colour)) }
        @if let Some((x, y)) = middle.last() { circle class={ "mark " (colour) } cx=(px(*x)) cy=(px(*y)) r="4" {} }
        (figure_at(area.right + 8.0, label_y + 4.0, "strong", last.lift.estimate, Format::SignedPercent1))
        (area.times(&x, (frame.from, until), 3))
    };
    html! {
        svg class="narrow only" viewBox={ "0 0 " (Size::Narrow.width()) " 190" } role="img" aria-label=(sentence) { (inside) }
    }
}

/// From low to high at each place; of one place a whisker.
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

fn beyond(x: f64, y: f64, down: f64, colour: &str) -> Markup {
    let points = [(x, y + 6.0 * down), (x - 4.0, y), (x + 4.0, y)];
    html! { path class={ "bar " (colour) } d={ (path(&points)) "Z" } {} }
}

fn listing(name: &str, points: &[LiftPoint]) -> Markup {
    let row = |i: usize| {
        let LiftPoint { at, lift, anytime } = points[i];
        let percent = |value: Option<f64>| text::number(value.unwrap_or(f64::NAN), Format::SignedPercent1);
        let values =
            [Some(lift.estimate), Some(lift.low), Some(lift.high), anytime.map(|l| l.low), anytime.map(|l| l.high)];
        (text::instant(at), values.map(percent).to_vec())
    };
    let rows: Vec<_> = thin(points.len(), LISTED).into_iter().map(row).collect();
    let caption = match points.len() {
        n if n > rows.len() => format!("Lift of {name} over control: {} of {n} instants", rows.len()),
        _ => format!("Lift of {name} over control"),
    };
    table(&caption, &heads(&["At", "Estimate", "95% from", "to", "Always-valid from", "to"]), &rows)
}

#[cfg(test)]
mod tests {
    use inroad_assignment::Timestamp;

    use super::*;

    #[test]
    fn a_frame_spans_its_points_and_looks_at_the_later_half() {
        let lift = |half: f64| Interval { estimate: 0.0, low: -half, high: half };
        let at = |micros, half| LiftPoint { at: Timestamp::from_micros(micros), lift: lift(half), anytime: None };
        let frame = frame(&[at(0, 0.9), at(50, 0.2), at(100, 0.1)]).unwrap();
        assert_eq!((frame.from.as_micros(), frame.until.as_micros()), (0, 100));
        assert!(frame.lifts.1 < 0.3);
    }
}
