//! How shares grew: a step for every revision, stacked, control the room above that is still empty. Every revision has a
//! pin over its step, which leads to what was decided and why.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::draw::{
    Area, Size, arm, both, colour, figure, figure_at, key, label, label_within, line, name_of, nothing, path, picture,
    svg_badge, table,
};
use super::killed::{Kills, band};
use super::scale::{Scale, Ticks, px, spread, thin};
use super::text::{self, Format, plural};
use super::{Killed, RevisionMark};

pub(super) type Step = (Timestamp, Vec<f64>);

/// Labels are this far apart.
const LABEL_GAP: f64 = 15.0;
/// Pins nearer than this are one.
const PIN_GAP: f64 = 9.0;
const PLOT_HEIGHT: f64 = 176.0;

/// Shares from each instant to the next and the last one's until `until`; shares are of arms, control first. Marks and
/// kills need not be at steps.
#[must_use]
pub fn allocation_over_time(
    names: &[String],
    steps: &[Step],
    until: Timestamp,
    marks: &[RevisionMark],
    kills: &[Killed],
) -> Markup {
    let mut steps: Vec<Step> = steps.to_vec();
    steps.sort_by_key(|(at, _)| *at);
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return nothing("No shares have been set yet: there is nothing to draw over time.");
    };
    let (from, until) = (first.0, until.max(last.0));
    // A plot of no duration has no width.
    let until = if until > from { until } else { from.plus(std::time::Duration::from_secs(3600)) };
    let arms = steps.iter().map(|(_, shares)| shares.len()).max().unwrap_or(0).max(names.len());
    let now: Vec<f64> = (0..arms).map(|arm| share(&last.1, arm)).collect();
    let kills = Kills::within(kills, from, until);
    let sentence = sentence(names, &steps, &now, until) + &kills.sentence(names);
    let cut = kills.cut(&steps, until);
    let plot = both(|size| {
        let area =
            Area { left: 40.0, top: 6.0, right: size.width() - size.pick(30.0, 230.0), bottom: 6.0 + PLOT_HEIGHT };
        let span = (from.as_micros() as f64, until.as_micros() as f64);
        let x = Scale::new(span, (area.left, area.right));
        let pins = pins(marks, &x, area.right);
        let y = Scale::new((0.0, 1.0), (area.bottom, area.top));
        let areas = html! {
            (areas(names, &steps, until, now.len(), &x, &y))
            (kills.drawn(&cut, until, arms, &x, &y))
            @for pin in &pins { (line((pin.x, area.top), (pin.x, area.bottom), "pin-line")) }
            (kills.crosses(names, &cut, &area, &x, &y))
        };
        let inside = html! {
            (grid(&area, &y))
            (areas)
            (area.times(&x, (from, until), if size.is_wide() { 6 } else { 4 }))
            (labels(size, names, &now, &area, &y))
        };
        html! { (rail(size, &area, &pins)) (picture(size, area.bottom + 38.0, &sentence, &inside)) }
    });
    let said = |(i, share): (usize, &f64)| {
        let state = if kills.holds(i, until) { " · killed" } else { "" };
        (i, html! { (text::number(*share, Format::Percent1)) (state) })
    };
    let entries: Vec<(usize, Markup)> = now.iter().enumerate().map(said).collect();
    let below = html! { (key(names, &entries)) (kills.listed(names)) };
    figure("allocation", &plot, &below, &as_table(names, &cut, arms, &kills))
}

/// An arm's share, 0..=1 whatever is given.
pub(super) fn share(shares: &[f64], arm: usize) -> f64 {
    shares.get(arm).copied().filter(|share| share.is_finite()).unwrap_or(0.0).clamp(0.0, 1.0)
}

fn sentence(names: &[String], steps: &[Step], now: &[f64], until: Timestamp) -> String {
    let mut order: Vec<usize> = (0..now.len()).collect();
    order.sort_by(|a, b| now[*b].total_cmp(&now[*a]));
    let first = &steps[0].1;
    let said = order.iter().take(4).map(|i| {
        let (then, now) = (Format::Percent1.text(share(first, *i)), Format::Percent1.text(now[*i]));
        format!("{} from {then} to {now}", name_of(names, *i))
    });
    let said: Vec<String> = said.collect();
    let more = if order.len() > 4 { format!(", and {} more", order.len() - 4) } else { String::new() };
    let steps = plural(steps.len() as u64, "step");
    format!("Shares of units over time, in {steps} until {} UTC: {}{more}.", text::minute(until), said.join(", "))
}

/// Revisions at about one place.
struct Pin<'a> {
    x: f64,
    marks: Vec<&'a RevisionMark>,
}

impl Pin<'_> {
    fn title(&self) -> String {
        match self.marks.as_slice() {
            [mark] => format!("Revision {}, {} UTC: {}", mark.number, text::minute(mark.at), mark.title),
            [first, .., last] => format!(
                "Revisions {} to {}, the last {} UTC: {}",
                first.number,
                last.number,
                text::minute(last.at),
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

/// The pins are a picture of their own above the plot, because a picture that is read as one sentence can have no links
/// in it.
fn rail(size: Size, area: &Area, pins: &[Pin<'_>]) -> Markup {
    html! {
        svg class={ "rail " (size.class()) } viewBox={ "0 0 " (size.width()) " 34" } role="group" aria-label="Revisions" {
            (label(0.0, 11.0, "unit", "share of units"))
            @if !pins.is_empty() { (label(area.right, 11.0, "unit end", "revisions, to open ↓")) }
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
    let ticks = Ticks { values: vec![0.0, 0.25, 0.5, 0.75, 1.0], format: Format::Percent0 };
    html! {
        @for value in &ticks.values {
            (line((area.left, y.at(*value)), (area.right, y.at(*value)), "grid"))
            (figure_at(area.left - 6.0, y.at(*value) + 4.0, "tick end", *value, ticks.format))
        }
    }
}

fn areas(names: &[String], steps: &[Step], until: Timestamp, arms: usize, x: &Scale, y: &Scale) -> Markup {
    // Between very many bands, seams would be all that is seen.
    let seam = if arms > 20 { " seamless" } else { "" };
    html! {
        @for i in 1..arms {
            @let edge = edge(steps, until, i, x, y);
            @if let Some(d) = edge { path class={ "share " (colour(i)) (seam) } d=(d) { title { (name_of(names, i)) } } }
        }
    }
}

/// The outline of what an arm has, above those before it; none if it never has anything.
pub(super) fn edge(steps: &[Step], until: Timestamp, arm: usize, x: &Scale, y: &Scale) -> Option<String> {
    let mut above: Vec<(f64, f64)> = Vec::new();
    let mut below: Vec<(f64, f64)> = Vec::new();
    let mut is_there = false;
    for (i, (at, shares)) in steps.iter().enumerate() {
        let end = steps.get(i + 1).map_or(until, |next| next.0);
        let (from, to) = (px(x.at(at.as_micros() as f64)), px(x.at(end.as_micros() as f64)));
        let (under, over) = band(shares, arm);
        is_there |= over > under;
        for (line, level) in [(&mut above, y.at(over)), (&mut below, y.at(under))] {
            let level = px(level);
            // Where nothing changes there needs no corner: of thousands of steps most are that.
            match line.as_slice() {
                [.., last] if last.1 == level => {}
                _ => line.push((from, level)),
            }
            match line.as_slice() {
                [.., before, last] if before.1 == level && last.1 == level => {
                    if let Some(last) = line.last_mut() {
                        last.0 = to;
                    }
                }
                _ => line.push((to, level)),
            }
        }
    }
    below.reverse();
    above.append(&mut below);
    is_there.then(|| path(&above) + "Z")
}

/// The larger arms named where they end.
fn labels(size: Size, names: &[String], now: &[f64], area: &Area, y: &Scale) -> Markup {
    // Where there are many, only the larger have a name here: all are in the key.
    let least = if now.len() > 12 { 0.03 } else { 0.0 };
    let mut order: Vec<usize> = (0..now.len()).filter(|i| now[*i] > least).collect();
    order.sort_by(|a, b| now[*b].total_cmp(&now[*a]).then(a.cmp(b)));
    order.truncate((PLOT_HEIGHT / LABEL_GAP) as usize);
    let treated: f64 = now.iter().skip(1).sum();
    let middle = |i: &usize| match *i {
        0 => y.at(f64::midpoint(treated, 1.0)),
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
                (label_within(x + 31.0, placed + 4.0, "", &name_of(names, *i), 140.0))
                (figure_at(size.width(), placed + 4.0, "end", now[*i], Format::Percent1))
            }
        }
    }
}

fn as_table(names: &[String], steps: &[Step], arms: usize, kills: &Kills) -> Markup {
    // A table of all arms at all steps would outweigh the page. Where somebody was killed or restored is never left out.
    let mut shown = thin(steps.len(), (600 / arms.max(1)).clamp(2, 60));
    shown.extend((0..steps.len()).filter(|i| kills.turns(steps[*i].0)));
    shown.sort_unstable();
    shown.dedup();
    let caption = match shown.len() {
        n if n < steps.len() => format!("Share of units from each instant on: {n} of {} steps", steps.len()),
        _ => "Share of units from each instant on".to_owned(),
    };
    let head: Vec<Markup> = [html! { "From" }].into_iter().chain((0..arms).map(|i| arm(names, i))).collect();
    let row = |at: usize| {
        let (from, shares) = &steps[at];
        let cell = |i: usize| {
            html! { (text::number(share(shares, i), Format::Percent1)) @if kills.holds(i, *from) { " killed" } }
        };
        (text::instant(*from), (0..arms).map(cell).collect())
    };
    table(&caption, &head, &shown.into_iter().map(row).collect::<Vec<_>>())
}
