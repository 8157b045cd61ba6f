//! Lift distribution: the posterior of each variation's lift as a density curve, all on one axis with a line at no
//! difference. The wider a curve, the more uncertain the lift.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{
    Area, Size, arm_name, arm_with_badge, arrow, colour, empty_state, figure, headings, in_both_sizes, label,
    label_within, line, number_span, path, picture, rectangle, svg_badge, table, text_width,
};
use super::scale::{Scale, Ticks, lift_range, px};
use crate::format::{self, NumberFormat};

/// Most variations drawn; the table has all.
const DRAWN: usize = 12;
/// The middle 95% of a normal distribution are within this many standard deviations of its mean.
const Z_95: f64 = 1.959_963_984_540_054;

/// Draws the density of each arm's relative lift over control. `lifts` has mean and standard deviation of the log-lift
/// by arm; control's is ignored.
#[must_use]
pub fn lift_distributions(names: &[String], lifts: &[Option<(f64, f64)>]) -> Markup {
    let valid = |(mean, sd): &(f64, f64)| mean.is_finite() && sd.is_finite() && *sd > 0.0;
    let log_lift = |i: usize| lifts.get(i).copied().flatten().filter(valid);
    let arms = names.len().max(lifts.len());
    let mut known: Vec<(usize, f64, f64)> = (1..arms).filter_map(|i| log_lift(i).map(|(m, sd)| (i, m, sd))).collect();
    if known.is_empty() {
        return empty_state("No variation has enough data for an estimate yet.");
    }
    let ends: Vec<Interval> = known.iter().map(|(_, mean, sd)| interval(*mean, *sd)).collect();
    let range = lift_range(&ends);
    let total = known.len();
    known.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let sentence = sentence(names, &known);
    known.truncate(DRAWN);
    known.sort_by_key(|(i, ..)| *i);
    let chart = in_both_sizes(|size| drawn(size, names, &known, range, &sentence));
    let row = |i: usize| {
        let cells = match log_lift(i).map(|(mean, sd)| interval(mean, sd)) {
            Some(lift) => [lift.estimate, lift.low, lift.high].map(|v| format::number(v, NumberFormat::Lift)).to_vec(),
            None => vec![html! { (format::NONE) }; 3],
        };
        (arm_with_badge(names, i), cells)
    };
    let rows: Vec<_> = (1..arms).map(row).collect();
    let note = html! {
        p class="note" {
            "Bars show 95% intervals. Curves are scaled individually: compare their position and width, not their height."
            @if total > DRAWN { " Showing the " (DRAWN) " variations with the largest estimates; the table has all " (total) "." }
        }
    };
    let head = headings(&["Variation", "Estimate", "95% from", "to"]);
    figure("posteriors", &chart, &note, &table("Relative lift over control", &head, &rows))
}

fn interval(mean: f64, sd: f64) -> Interval {
    // Factors beyond e^±100 have no meaning.
    let lift = |log: f64| log.clamp(-100.0, 100.0).exp_m1();
    Interval { estimate: lift(mean), low: lift(mean - Z_95 * sd), high: lift(mean + Z_95 * sd) }
}

fn estimate_and_ends(lift: Interval) -> (String, String) {
    let text = |value| NumberFormat::Lift.text(value);
    (text(lift.estimate), format!("{} to {}", text(lift.low), text(lift.high)))
}

fn sentence(names: &[String], known: &[(usize, f64, f64)]) -> String {
    let one = |(i, mean, sd): &(usize, f64, f64)| {
        let (estimate, ends) = estimate_and_ends(interval(*mean, *sd));
        format!("{} {estimate} ({ends})", arm_name(names, *i))
    };
    let estimates: Vec<String> = known.iter().take(5).map(one).collect();
    let more = if known.len() > 5 { format!(", and {} more", known.len() - 5) } else { String::new() };
    format!("Estimated lift over control with 95% intervals, largest first: {}{more}.", estimates.join(", "))
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
        (area.percent_axis_below(&x, &ticks, "lift over control"))
        (line((zero, area.top - 4.0), (zero, area.bottom), "zero-line"))
        // Near an edge, the label is aligned to the side with space.
        @let class = if zero < 60.0 { "unit" } else if zero > size.width() - 60.0 { "unit end" } else { "unit mid" };
        (label(zero, 11.0, class, "no difference"))
        @for (at, (i, mean, sd)) in known.iter().enumerate() {
            (density_curve(size, names, (*i, *mean, *sd), area.top + row * (at + 1) as f64, &area, &x))
        }
    };
    picture(size, area.bottom + 37.0, sentence, &inside)
}

/// One variation's density curve above the baseline at `foot`.
fn density_curve(
    size: Size,
    names: &[String],
    (i, mean, sd): (usize, f64, f64),
    foot: f64,
    area: &Area,
    x: &Scale,
) -> Markup {
    const HEIGHT: f64 = 30.0;
    const POINTS: i32 = 72;
    let lift = interval(mean, sd);
    let foot = foot - 6.0;
    let log_density = |z: f64| -z * z / 2.0 - (mean + z * sd);
    // The density of the lift is exp(log_density) up to a factor; its maximum is at z = -sd.
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
        (rectangle((from, to), (foot - 2.0, foot + 2.0), &format!("bar {colour}")))
        @if x.side(lift.low) < 0 { (arrow(from - 2.0, foot, -1, &format!("bar {colour}"))) }
        @if x.side(lift.high) > 0 { (arrow(to + 2.0, foot, 1, &format!("bar {colour}"))) }
        @if x.side(lift.estimate) == 0 {
            circle class={ "mark " (colour) } cx=(px(x.at(lift.estimate))) cy=(px(foot)) r="4.5" {}
        }
        @if size.is_wide() {
            (svg_badge(i, 10.0, foot - 9.0))
            (label_within(24.0, foot - 5.0, "", &arm_name(names, i), area.left - 36.0))
            (numbers(size, foot - 12.0, foot + 3.0, &lift))
        } @else {
            // An interval that is too long to fit beside the name is only in the table.
            @let (estimate, ends) = estimate_and_ends(lift);
            @let with_ends = text_width(&format!("{estimate} ({ends})"));
            @let has_ends = with_ends < 225.0;
            @let room = size.width() - 27.0 - if has_ends { with_ends } else { text_width(&estimate) };
            (svg_badge(i, 8.0, foot - 44.0))
            (label_within(21.0, foot - 40.0, "halo", &arm_name(names, i), room))
            (numbers_in_one_line(size, foot - 40.0, &lift, has_ends))
        }
    }
}

fn lift_number(value: f64) -> Markup {
    number_span(value, NumberFormat::Lift)
}

/// The estimate with its interval below it.
fn numbers(size: Size, y: f64, y_ends: f64, lift: &Interval) -> Markup {
    let right = size.width();
    html! {
        text class="strong end" x=(px(right)) y=(px(y)) { (lift_number(lift.estimate)) }
        text class="tick end" x=(px(right)) y=(px(y_ends)) { (lift_number(lift.low)) " to " (lift_number(lift.high)) }
    }
}

/// The estimate with its interval beside it.
fn numbers_in_one_line(size: Size, y: f64, lift: &Interval, has_ends: bool) -> Markup {
    html! {
        text class="end halo" x=(px(size.width())) y=(px(y)) {
            tspan class="strong" { (lift_number(lift.estimate)) }
            @if has_ends { tspan class="tick" { " (" (lift_number(lift.low)) " to " (lift_number(lift.high)) ")" } }
        }
    }
}
