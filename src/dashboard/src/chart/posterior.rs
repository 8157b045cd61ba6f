//! What is believed of each variation's lift: a hill for each, on one axis, with the line of no difference through all of
//! them. How wide a hill is says how little is known.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{
    Area, Size, arm, arrow, block, both, breadth, colour, figure, heads, label, label_within, line, name_of, nothing,
    path, picture, svg_badge, table,
};
use super::scale::{Scale, Ticks, lift_range, px};
use super::text::{self, Format};

/// So many variations are drawn; the table has all.
const DRAWN: usize = 12;
/// The middle 95% of a normal distribution are within so many standard deviations.
const Z_95: f64 = 1.959_963_984_540_054;

/// Densities of relative lift over control, from mean and standard deviation of its logarithm. One per arm; control's is
/// not looked at.
#[must_use]
pub fn posteriors(names: &[String], lifts: &[Option<(f64, f64)>]) -> Markup {
    let sound = |(mean, sd): &(f64, f64)| mean.is_finite() && sd.is_finite() && *sd > 0.0;
    let of = |i: usize| lifts.get(i).copied().flatten().filter(sound);
    let arms = names.len().max(lifts.len());
    let mut known: Vec<(usize, f64, f64)> = (1..arms).filter_map(|i| of(i).map(|(m, sd)| (i, m, sd))).collect();
    if known.is_empty() {
        return nothing("No variation has enough data for an estimate yet.");
    }
    let ends: Vec<Interval> = known.iter().map(|(_, mean, sd)| interval(*mean, *sd)).collect();
    let range = lift_range(&ends);
    let of_all = known.len();
    known.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let sentence = sentence(names, &known);
    known.truncate(DRAWN);
    known.sort_by_key(|(i, ..)| *i);
    let plot = both(|size| drawn(size, names, &known, range, &sentence));
    let row = |i: usize| {
        let cells = match of(i).map(|(mean, sd)| interval(mean, sd)) {
            Some(lift) => {
                [lift.estimate, lift.low, lift.high].map(|v| text::number(v, Format::SignedPercent1)).to_vec()
            }
            None => vec![html! { (text::NONE) }; 3],
        };
        (arm(names, i), cells)
    };
    let rows: Vec<_> = (1..arms).map(row).collect();
    let note = html! {
        p class="note" {
            "Bars hold 95%. Each hill has its own height: compare where they lie and how wide they are."
            @if of_all > DRAWN { " Drawn are the " (DRAWN) " with the largest estimates; the table has all " (of_all) "." }
        }
    };
    let head = heads(&["Variation", "Estimate", "95% from", "to"]);
    figure("posteriors", &plot, &note, &table("Relative lift over control", &head, &rows))
}

fn interval(mean: f64, sd: f64) -> Interval {
    // Beyond a factor of e^±100 the ends say nothing.
    let lift = |log: f64| log.clamp(-100.0, 100.0).exp_m1();
    Interval { estimate: lift(mean), low: lift(mean - Z_95 * sd), high: lift(mean + Z_95 * sd) }
}

fn said(lift: Interval) -> (String, String) {
    let text = |value| Format::SignedPercent1.text(value);
    (text(lift.estimate), format!("{} to {}", text(lift.low), text(lift.high)))
}

fn sentence(names: &[String], known: &[(usize, f64, f64)]) -> String {
    let one = |(i, mean, sd): &(usize, f64, f64)| {
        let (estimate, ends) = said(interval(*mean, *sd));
        format!("{} {estimate} ({ends})", name_of(names, *i))
    };
    let said: Vec<String> = known.iter().take(5).map(one).collect();
    let more = if known.len() > 5 { format!(", and {} more", known.len() - 5) } else { String::new() };
    format!("Estimated lift over control with 95% intervals, the largest first: {}{more}.", said.join(", "))
}

fn drawn(size: Size, names: &[String], known: &[(usize, f64, f64)], range: (f64, f64), sentence: &str) -> Markup {
    let row = size.pick(64.0, 46.0);
    let area = Area {
        left: size.pick(8.0, 200.0),
        top: 20.0,
        right: size.width() - size.pick(8.0, 204.0),
        bottom: 20.0 + row * known.len() as f64 + 6.0,
    };
    let x = Scale::new(range, (area.left, area.right));
    let ticks = Ticks::within(range, if size.is_wide() { 6 } else { 4 });
    let zero = x.at(0.0);
    let inside = html! {
        (area.shares_below(&x, &ticks, "lift over control"))
        (line((zero, area.top - 4.0), (zero, area.bottom), "zero-line"))
        // Near an edge the words lean to the side that has room.
        @let class = if zero < 60.0 { "unit" } else if zero > size.width() - 60.0 { "unit end" } else { "unit mid" };
        (label(zero, 11.0, class, "no difference"))
        @for (at, (i, mean, sd)) in known.iter().enumerate() {
            (hill(size, names, (*i, *mean, *sd), area.top + row * (at + 1) as f64, &area, &x))
        }
    };
    picture(size, area.bottom + 37.0, sentence, &inside)
}

/// One variation's hill, its foot here.
fn hill(size: Size, names: &[String], (i, mean, sd): (usize, f64, f64), foot: f64, area: &Area, x: &Scale) -> Markup {
    const HEIGHT: f64 = 30.0;
    const POINTS: i32 = 72;
    let lift = interval(mean, sd);
    let foot = foot - 6.0;
    let log_density = |z: f64| -z * z / 2.0 - (mean + z * sd);
    // In terms of lift the density is exp(log_density) up to a factor; it is largest at z = -sd.
    let most = log_density(-sd);
    let point = |step: i32| {
        let z = -sd.min(3.0) + 3.3 * f64::from(step - POINTS / 2) / f64::from(POINTS / 2);
        ((mean + z * sd).clamp(-100.0, 100.0).exp_m1(), (log_density(z) - most).exp())
    };
    let points = (0..=POINTS).map(point).filter(|(value, _)| x.side(*value) == 0);
    let mut outline: Vec<(f64, f64)> = points.map(|(value, height)| (x.at(value), foot - HEIGHT * height)).collect();
    if let (Some(first), Some(last)) = (outline.first().copied(), outline.last().copied()) {
        outline.insert(0, (first.0, foot));
        outline.push((last.0, foot));
    }
    let (from, to, colour) = (x.at(lift.low), x.at(lift.high), colour(i));
    html! {
        (line((area.left, foot), (area.right, foot), "base"))
        @if outline.len() > 3 { path class={ "hill " (colour) } d=(path(&outline)) {} }
        (block((from, to), (foot - 2.0, foot + 2.0), &format!("bar {colour}")))
        @if x.side(lift.low) < 0 { (arrow(from - 2.0, foot, -1, &format!("bar {colour}"))) }
        @if x.side(lift.high) > 0 { (arrow(to + 2.0, foot, 1, &format!("bar {colour}"))) }
        @if x.side(lift.estimate) == 0 {
            circle class={ "mark " (colour) } cx=(px(x.at(lift.estimate))) cy=(px(foot)) r="4.5" {}
        }
        @if size.is_wide() {
            (svg_badge(i, 10.0, foot - 9.0))
            (label_within(24.0, foot - 5.0, "", &name_of(names, i), area.left - 36.0))
            (numbers(size, foot - 12.0, foot + 3.0, &lift))
        } @else {
            // Where the ends are too long to stand beside the name, the table has them.
            @let (estimate, ends) = said(lift);
            @let with_ends = breadth(&format!("{estimate} ({ends})"));
            @let has_ends = with_ends < 225.0;
            @let room = size.width() - 27.0 - if has_ends { with_ends } else { breadth(&estimate) };
            (svg_badge(i, 8.0, foot - 44.0))
            (label_within(21.0, foot - 40.0, "halo", &name_of(names, i), room))
            (in_one_line(size, foot - 40.0, &lift, has_ends))
        }
    }
}

/// A number within a text, marked for the script.
fn part(value: f64) -> Markup {
    let (text, exact) = Format::SignedPercent1.say(value);
    html! { tspan data-n=[exact.then_some(value)] data-f=[exact.then(|| Format::SignedPercent1.name())] { (text) } }
}

/// The estimate, and below it its ends.
fn numbers(size: Size, y: f64, y_ends: f64, lift: &Interval) -> Markup {
    let right = size.width();
    html! {
        text class="strong end" x=(px(right)) y=(px(y)) { (part(lift.estimate)) }
        text class="tick end" x=(px(right)) y=(px(y_ends)) { (part(lift.low)) " to " (part(lift.high)) }
    }
}

/// The same beside each other.
fn in_one_line(size: Size, y: f64, lift: &Interval, has_ends: bool) -> Markup {
    html! {
        text class="end halo" x=(px(size.width())) y=(px(y)) {
            tspan class="strong" { (part(lift.estimate)) }
            @if has_ends { tspan class="tick" { " (" (part(lift.low)) " to " (part(lift.high)) ")" } }
        }
    }
}
