//! What all plots are made of: the frame with its three tellings, labels that fit, axes, and how an arm looks.
//!
//! A plot that is wide on a desk would have letters too small to read on a phone, and the other way round. So it is
//! drawn twice, and the width of its place chooses which is seen: a matter for the style sheet.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::scale::{Scale, Ticks, Times, px};
use super::text::{self, Format};

/// How wide a plot is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// For phones and columns.
    Narrow,
    /// For desks.
    Wide,
}

impl Size {
    /// In units that are about pixels.
    pub(super) fn width(self) -> f64 {
        if self.is_wide() { 780.0 } else { 320.0 }
    }

    /// Whether there is room for words.
    pub(super) fn is_wide(self) -> bool {
        self == Self::Wide
    }

    /// Its class.
    pub(super) fn class(self) -> &'static str {
        if self.is_wide() { "wide" } else { "narrow" }
    }

    /// One of two numbers.
    pub(super) fn pick(self, narrow: f64, wide: f64) -> f64 {
        if self.is_wide() { wide } else { narrow }
    }
}

/// A plot of both sizes.
pub(super) fn both(draw: impl Fn(Size) -> Markup) -> Markup {
    html! { (draw(Size::Narrow)) (draw(Size::Wide)) }
}

/// A picture with the sentence that stands for it.
pub(super) fn picture(size: Size, height: f64, sentence: &str, inside: &Markup) -> Markup {
    html! {
        svg class=(size.class()) viewBox={ "0 0 " (size.width()) " " (px(height)) } role="img" aria-label=(sentence) {
            (inside)
        }
    }
}

/// A plot with what belongs to it.
pub(super) fn figure(class: &str, plot: &Markup, below: &Markup, tables: &Markup) -> Markup {
    html! {
        figure class={ "chart " (class) } {
            (plot)
            (below)
            details { summary { "As a table" } (tables) }
        }
    }
}

/// Stands where there is nothing to draw.
pub(super) fn nothing(sentence: &str) -> Markup {
    html! { p class="chart-none" { (sentence) } }
}

/// A table that can be scrolled by keyboard as well; the first column names the row.
pub(super) fn table(caption: &str, head: &[Markup], rows: &[(Markup, Vec<Markup>)]) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody {
                    @for (name, cells) in rows {
                        tr { th scope="row" { (name) } @for cell in cells { td { (cell) } } }
                    }
                }
            }
        }
    }
}

/// Headings that are words.
pub(super) fn heads(names: &[&str]) -> Vec<Markup> {
    names.iter().map(|name| html! { (name) }).collect()
}

/// The class that gives an arm its colour.
pub(super) fn colour(arm: usize) -> String {
    format!("v{}", if arm == 0 { 0 } else { (arm - 1) % 8 + 1 })
}

/// What an arm is called; one without a name has its number.
pub(super) fn name_of(names: &[String], arm: usize) -> String {
    match names.get(arm).filter(|name| !name.is_empty()) {
        Some(name) => name.clone(),
        None if arm == 0 => "control".to_owned(),
        None => format!("variation {arm}"),
    }
}

/// An arm's number on its colour, which tells it apart without the colour; control's is empty.
pub(super) fn badge(arm: usize) -> Markup {
    html! { span class={ "armnumber " (colour(arm)) } aria-hidden="true" { @if arm > 0 { (arm) } } }
}

/// An arm in HTML: its badge and its name, which may be written from right to left.
pub(super) fn arm(names: &[String], arm: usize) -> Markup {
    html! { (badge(arm)) " " bdi { (name_of(names, arm)) } }
}

/// The badge in a plot, its middle here.
pub(super) fn svg_badge(arm: usize, x: f64, y: f64) -> Markup {
    let (width, height) = (if arm > 9 { 20.0 } else { 13.0 }, 13.0);
    html! {
        rect class={ "chip " (colour(arm)) } x=(px(x - width / 2.0)) y=(px(y - height / 2.0)) width=(width)
            height=(height) rx="2.5" {}
        @if arm > 0 { text class={ "on mid " (colour(arm)) } x=(px(x)) y=(px(y + 4.0)) { (arm) } }
    }
}

/// Who is who, below a plot. An entry is an arm and what is said of it.
pub(super) fn key(names: &[String], entries: &[(usize, Markup)]) -> Markup {
    html! {
        ul class={ "key" @if entries.len() > 12 { " dense" } } {
            @for (i, said) in entries {
                li { (badge(*i)) span class="name" title=(name_of(names, *i)) { bdi { (name_of(names, *i)) } } " " (said) }
            }
        }
    }
}

/// About how wide a text is, in letters' sizes. Too wide rather than too narrow: fonts differ.
fn ems(letter: char) -> f64 {
    match letter {
        'i' | 'l' | 'j' | 't' | 'f' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | ' ' | '-' => 0.4,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 1.0,
        'A'..='Z' => 0.75,
        '\u{300}'..='\u{36f}' => 0.0,
        '\u{1100}'.. => 1.1,
        _ => 0.64,
    }
}

/// About how wide a text is in a plot.
pub(super) fn breadth(text: &str) -> f64 {
    12.5 * text.chars().map(ems).sum::<f64>()
}

/// As much of a text as has room, an ellipsis for the rest; and whether that is less than all of it.
pub(super) fn fit(text: &str, room: f64) -> (String, bool) {
    if breadth(text) <= room {
        return (text.to_owned(), false);
    }
    let mut left = room - breadth("…");
    let kept = text.chars().take_while(|letter| {
        left -= 12.5 * ems(*letter);
        left >= 0.0
    });
    (kept.chain(['…']).collect(), true)
}

/// Text at a place.
pub(super) fn label(x: f64, y: f64, class: &str, text: &str) -> Markup {
    html! { text class=(class) x=(px(x)) y=(px(y)) { (text) } }
}

/// Text at a place, cut to its room, all of it under the pointer.
pub(super) fn label_within(x: f64, y: f64, class: &str, text: &str, room: f64) -> Markup {
    let (shown, is_cut) = fit(text, room);
    html! { text class=(class) x=(px(x)) y=(px(y)) { (shown) @if is_cut { title { (text) } } } }
}

/// A number at a place.
pub(super) fn figure_at(x: f64, y: f64, class: &str, value: f64, format: Format) -> Markup {
    let (text, exact) = format.say(value);
    html! {
        text class=(class) x=(px(x)) y=(px(y)) data-n=[exact.then_some(value)] data-f=[exact.then(|| format.name())] { (text) }
    }
}

/// A straight line.
pub(super) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) -> Markup {
    html! { line class=(class) x1=(px(x1)) y1=(px(y1)) x2=(px(x2)) y2=(px(y2)) {} }
}

/// A rectangle; one that is there at all can be seen.
pub(super) fn block((x1, x2): (f64, f64), (y1, y2): (f64, f64), class: &str) -> Markup {
    html! { rect class=(class) x=(px(x1)) y=(px(y1)) width=(px((x2 - x1).max(0.8))) height=(px((y2 - y1).max(0.8))) {} }
}

/// Points as a path has them.
pub(super) fn path(points: &[(f64, f64)]) -> String {
    let mut out = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        let letter = if i == 0 { 'M' } else { 'L' };
        out.push_str(&format!("{letter}{} {}", px(*x), px(*y)));
    }
    out
}

/// Stripes of what was killed are this far apart.
const STRIPE: f64 = 6.0;

/// Stripes over pieces that lie side by side, from left to right: where pieces touch, a stripe goes on. Drawn by hand,
/// because a pattern would need an id, of which a page must not have two.
pub(super) fn striped(out: &mut String, pieces: &[Area]) {
    let first = pieces.iter().map(|piece| piece.left + piece.top).fold(f64::INFINITY, f64::min);
    let last = pieces.iter().map(|piece| piece.right + piece.bottom).fold(f64::NEG_INFINITY, f64::max);
    // Along a stripe, across and down add up to the same: it rises to the right.
    let mut sum = (first / STRIPE).floor() * STRIPE;
    while sum < last {
        let mut parts: Vec<(f64, f64)> = Vec::new();
        for piece in pieces {
            let (from, to) = ((sum - piece.bottom).max(piece.left), (sum - piece.top).min(piece.right));
            match parts.last_mut() {
                _ if to <= from => {}
                Some((_, end)) if from - *end < 0.05 => *end = to,
                _ => parts.push((from, to)),
            }
        }
        for (from, to) in parts {
            out.push_str(&format!("M{} {}L{} {}", px(from), px(sum - from), px(to), px(sum - to)));
        }
        sum += STRIPE;
    }
}

/// Where an interval runs on beyond the plot: an arrow that points to the right (1) or to the left (-1).
pub(super) fn arrow(x: f64, y: f64, side: i8, class: &str) -> Markup {
    let d = 6.0 * f64::from(side);
    html! { path class=(class) d={ (path(&[(x, y), (x - d, y - 4.0), (x - d, y + 4.0)])) "Z" } {} }
}

/// The area that a plot draws into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// Grid lines across with their shares to the left, the unit above them.
    pub(super) fn shares(&self, scale: &Scale, ticks: &Ticks, unit: &str) -> Markup {
        html! {
            @for value in &ticks.values {
                @let y = scale.at(*value);
                (line((self.left, y), (self.right, y), "grid"))
                (figure_at(self.left - 6.0, y + 4.0, "tick end", *value, ticks.format))
            }
            (label(0.0, self.top - 11.0, "unit", unit))
        }
    }

    /// Grid lines down with their shares below, the unit below them.
    pub(super) fn shares_below(&self, scale: &Scale, ticks: &Ticks, unit: &str) -> Markup {
        html! {
            @for value in &ticks.values {
                @let x = scale.at(*value);
                (line((x, self.top), (x, self.bottom), "grid"))
                (figure_at(x, self.bottom + 15.0, "tick mid", *value, ticks.format))
            }
            (label(f64::midpoint(self.left, self.right), self.bottom + 31.0, "unit mid", unit))
        }
    }

    /// Instants below.
    pub(super) fn times(&self, scale: &Scale, (from, until): (Timestamp, Timestamp), about: usize) -> Markup {
        let times = Times::within(from, until, about);
        let years = match (text::year(from), text::year(until)) {
            (first, last) if first == last => first,
            (first, last) => format!("{first}–{last}"),
        };
        // A label at the very start would come under the numbers of the other axis.
        let inside = |x: f64| x > self.left + 12.0;
        html! {
            (line((self.left, self.bottom), (self.right, self.bottom), "axis"))
            @for at in &times.values {
                @let x = scale.at(at.as_micros() as f64);
                (line((x, self.bottom), (x, self.bottom + 4.0), "axis"))
                @if inside(x) {
                    text class="tick mid" x=(px(x)) y=(px(self.bottom + 16.0)) data-t=(text::rfc3339(*at))
                        data-f=(if times.are_days { "day" } else { "minute" }) {
                        @if times.are_days { (text::day(*at)) } @else { (text::clock(*at)) }
                    }
                }
            }
            text class="unit mid" x=(px(f64::midpoint(self.left, self.right))) y=(px(self.bottom + 32.0)) {
                @if times.are_days { "day (UTC), " (years) }
                @else { "time (" tspan data-zone { "UTC" } "), " (text::day(from)) " " (years) }
            }
        }
    }
}
