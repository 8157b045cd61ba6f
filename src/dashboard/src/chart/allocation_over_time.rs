//! Shares over time as stacked areas, with a step at every revision. The empty space above the areas is control. Every
//! revision has a pin above its step that links to the decision behind it.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::draw::{
    Area, Size, arm_name, arm_with_badge, colour, empty_state, figure, in_both_sizes, label, label_within, legend,
    line, number_at, path, picture, svg_badge, table,
};
use super::kills::KillPeriods;
use super::scale::{Scale, Ticks, px, spread, thin};
use super::stacked_shares::{Step, area_outline, share};
use super::{KillPeriod, RevisionMark};
use crate::format::{self, NumberFormat, plural};

/// Smallest distance between two labels.
const LABEL_GAP: f64 = 15.0;
/// Revisions closer than this share one pin.
const PIN_GAP: f64 = 9.0;
/// Height of the chart area.
const PLOT_HEIGHT: f64 = 176.0;

/// Draws the shares from each step to the next, and those of the last step until `until`. Shares are by arm, control
/// first. Marks and kills may be at any time.
#[must_use]
pub fn allocation_over_time(
    names: &[String],
    steps: &[Step],
    until: Timestamp,
    marks: &[RevisionMark],
    kills: &[KillPeriod],
) -> Markup {
    let mut steps: Vec<Step> = steps.to_vec();
    steps.sort_by_key(|(at, _)| *at);
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return empty_state("No shares have been set yet.");
    };
    let (from, until) = (first.0, until.max(last.0));
    // A chart needs a duration to have a width.
    let shown_until = until;
    let until = if until > from { until } else { from.plus(std::time::Duration::from_secs(3600)) };
    let arms = steps.iter().map(|(_, shares)| shares.len()).max().unwrap_or(0).max(names.len());
    let now: Vec<f64> = (0..arms).map(|arm| share(&last.1, arm)).collect();
    let kills = KillPeriods::clipped_to(kills, from, until);
    let sentence = sentence(names, &steps, &now, shown_until) + &kills.sentence(names);
    let split = kills.split_steps(&steps, until);
    let chart = in_both_sizes(|size| {
        let area =
            Area { left: 40.0, top: 6.0, right: size.width() - size.pick(30.0, 230.0), bottom: 6.0 + PLOT_HEIGHT };
        let span = (from.as_micros() as f64, until.as_micros() as f64);
        let x = Scale::new(span, (area.left, area.right));
        let pins = pins(marks, &x, area.right);
        let y = Scale::new((0.0, 1.0), (area.bottom, area.top));
        let areas = html! {
            (areas(names, &steps, until, now.len(), &x, &y))
            (kills.render_areas(&split, until, arms, &x, &y))
            @for pin in &pins { (line((pin.x, area.top), (pin.x, area.bottom), "pin-line")) }
            (kills.render_crosses(names, &split, &area, &x, &y))
        };
        let inside = html! {
            (grid(&area, &y))
            (areas)
            (area.time_axis(&x, (from, until), if size.is_wide() { 6 } else { 4 }))
            (labels(size, names, &now, &area, &y))
        };
        html! { (revision_rail(size, &area, &pins)) (picture(size, area.bottom + 38.0, &sentence, &inside)) }
    });
    let entry = |(i, share): (usize, &f64)| {
        let state = if kills.is_killed(i, until) { " · killed" } else { "" };
        (i, html! { (format::number(*share, NumberFormat::Percent1)) (state) })
    };
    let entries: Vec<(usize, Markup)> = now.iter().enumerate().map(entry).collect();
    let below = html! { (legend(names, &entries)) (kills.render_list(names)) };
    figure("allocation", &chart, &below, &shares_table(names, &split, arms, &kills))
}

fn sentence(names: &[String], steps: &[Step], now: &[f64], until: Timestamp) -> String {
    let mut order: Vec<usize> = (0..now.len()).collect();
    order.sort_by(|a, b| now[*b].total_cmp(&now[*a]));
    let first = &steps[0].1;
    let changes = order.iter().take(4).map(|i| {
        let (before, after) = (NumberFormat::Percent1.text(share(first, *i)), NumberFormat::Percent1.text(now[*i]));
        format!("{} from {before} to {after}", arm_name(names, *i))
    });
    let changes: Vec<String> = changes.collect();
    let more = if order.len() > 4 { format!(", and {} more", order.len() - 4) } else { String::new() };
    let steps = plural(steps.len() as u64, "step");
    format!("Traffic shares over time, {steps} until {} UTC: {}{more}.", format::minute(until), changes.join(", "))
}

/// Revisions that are too close to have separate pins.
struct Pin<'a> {
    x: f64,
    marks: Vec<&'a RevisionMark>,
}

impl Pin<'_> {
    fn title(&self) -> String {
        match self.marks.as_slice() {
            [mark] => format!("Revision {}, {} UTC: {}", mark.number, format::minute(mark.at), mark.title),
            [first, .., last] => format!(
                "Revisions {} to {}, the last at {} UTC: {}",
                first.number,
                last.number,
                format::minute(last.at),
                last.title
            ),
            [] => String::new(),
        }
    }
}

fn pins<'a>(marks: &'a [RevisionMark], x: &Scale, right: f64) -> Vec<Pin<'a>> {
    let mut marks: Vec<&RevisionMark> = marks.iter().collect();
    marks.sort_by_key(|mark| (mark.at, mark.number));
    let mut pins: Vec<Pin<'a>> = Vec::new();
    for mark in marks {
        let at = x.at(mark.at.as_micros() as f64).min(right);
        match pins.last_mut() {
            Some(pin) if at - pin.x < PIN_GAP => pin.marks.push(mark),
            _ => pins.push(Pin { x: at, marks: vec![mark] }),
        }
    }
    pins
}

/// Draws the pins as a separate picture above the chart: a picture that screen readers read as one sentence cannot
/// contain links.
fn revision_rail(size: Size, area: &Area, pins: &[Pin<'_>]) -> Markup {
    html! {
        svg class={ "rail " (size.class()) } viewBox={ "0 0 " (size.width()) " 34" } role="group" aria-label="Revisions" {
            (label(0.0, 11.0, "unit", "traffic share"))
            @if !pins.is_empty() { (label(area.right, 11.0, "unit end", "Open a revision ↓")) }
            @for pin in pins {
                @if let Some(last) = pin.marks.last() {
                    a class="revpin" href=(last.href) aria-label=(pin.title()) {
                        title { (pin.title()) }
                        rect class="hit" x=(px(pin.x - PIN_GAP / 2.0)) y="14" width=(PIN_GAP) height="20" {}
                        line x1=(px(pin.x)) x2=(px(pin.x)) y1="26" y2="34" {}
                        @if pin.marks.len() == 1 { circle cx=(px(pin.x)) cy="24" r="3" {} }
                        @else { rect class="dot" x=(px(pin.x - 3.5)) y="20.5" width="7" height="7" rx="1.5" {} }
                    }
                }
            }
        }
    }
}

fn grid(area: &Area, y: &Scale) -> Markup {
    let ticks = Ticks { values: vec![0.0, 0.25, 0.5, 0.75, 1.0], format: NumberFormat::Percent0 };
    html! {
        @for value in &ticks.values {
            (line((area.left, y.at(*value)), (area.right, y.at(*value)), "grid"))
            (number_at(area.left - 6.0, y.at(*value) + 4.0, "tick end", *value, ticks.format))
        }
    }
}

fn areas(names: &[String], steps: &[Step], until: Timestamp, arms: usize, x: &Scale, y: &Scale) -> Markup {
    // With very many areas, the seams would hide them.
    let seam = if arms > 20 { " seamless" } else { "" };
    html! {
        @for i in 1..arms {
            @let outline = area_outline(steps, until, i, x, y);
            @if let Some(d) = outline { path class={ "share " (colour(i)) (seam) } d=(d) { title { (arm_name(names, i)) } } }
        }
    }
}

/// Labels the areas at their right end, the largest first.
fn labels(size: Size, names: &[String], now: &[f64], area: &Area, y: &Scale) -> Markup {
    // Of many arms only the larger get a label here; the legend has all.
    let least = if now.len() > 12 { 0.03 } else { 0.0 };
    let mut order: Vec<usize> = (0..now.len()).filter(|i| now[*i] > least).collect();
    order.sort_by(|a, b| now[*b].total_cmp(&now[*a]).then(a.cmp(b)));
    order.truncate((PLOT_HEIGHT / LABEL_GAP) as usize);
    let variations: f64 = now.iter().skip(1).sum();
    let middle = |i: &usize| match *i {
        0 => y.at(f64::midpoint(variations, 1.0)),
        i => y.at(now[1..i].iter().sum::<f64>() + now[i] / 2.0),
    };
    let wanted: Vec<f64> = order.iter().map(middle).collect();
    let placed = spread(&wanted, LABEL_GAP, (area.top + 4.0, area.bottom - 4.0));
    html! {
        @for (at, i) in order.iter().enumerate() {
            @let (wanted, placed, x) = (wanted[at], placed[at], area.right);
            path class="tie" d=(path(&[(x + 1.0, wanted), (x + 7.0, placed), (x + 9.0, placed)])) {}
            (svg_badge(*i, x + 19.0, placed))
            @if size.is_wide() {
                (label_within(x + 31.0, placed + 4.0, "", &arm_name(names, *i), 140.0))
                (number_at(size.width(), placed + 4.0, "end", now[*i], NumberFormat::Percent1))
            }
        }
    }
}

fn shares_table(names: &[String], steps: &[Step], arms: usize, kills: &KillPeriods) -> Markup {
    // All arms at all steps would make the page too large. Steps with a kill or a restore are always included.
    let mut shown = thin(steps.len(), (600 / arms.max(1)).clamp(2, 60));
    shown.extend((0..steps.len()).filter(|i| kills.has_change_at(steps[*i].0)));
    shown.sort_unstable();
    shown.dedup();
    let caption = match shown.len() {
        n if n < steps.len() => format!("Traffic share from each time on: {n} of {} steps", steps.len()),
        _ => "Traffic share from each time on".to_owned(),
    };
    let head: Vec<Markup> = [html! { "From" }].into_iter().chain((0..arms).map(|i| arm_with_badge(names, i))).collect();
    let row = |at: usize| {
        let (from, shares) = &steps[at];
        let cell = |i: usize| {
            html! { (format::number(share(shares, i), NumberFormat::Percent1)) @if kills.is_killed(i, *from) { " killed" } }
        };
        (format::instant(*from), (0..arms).map(cell).collect())
    };
    table(&caption, &head, &shown.into_iter().map(row).collect::<Vec<_>>())
}
