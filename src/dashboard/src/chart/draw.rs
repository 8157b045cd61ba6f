//! The shared parts of all charts: the frame, labels that fit, axes, and the look of an arm.
//!
//! One drawing cannot be readable both on a phone and on a desktop. So every chart is drawn in two sizes, and the style
//! sheet shows the one that fits the available width.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::scale::{Scale, Ticks, Times, px};
use crate::format::{self, FormattedNumber, NumberFormat};

/// The width of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// For phones and narrow columns.
    Narrow,
    /// For desktops.
    Wide,
}

impl Size {
    /// Width in units of about one pixel.
    pub(super) fn width(self) -> f64 {
        if self.is_wide() { 780.0 } else { 320.0 }
    }

    /// Whether there is room for names.
    pub(super) fn is_wide(self) -> bool {
        self == Self::Wide
    }

    /// CSS class.
    pub(super) fn class(self) -> &'static str {
        if self.is_wide() { "wide" } else { "narrow" }
    }

    /// Picks the number for this size.
    pub(super) fn pick(self, narrow: f64, wide: f64) -> f64 {
        if self.is_wide() { wide } else { narrow }
    }
}

/// Draws a chart in both sizes.
pub(super) fn in_both_sizes(draw: impl Fn(Size) -> Markup) -> Markup {
    html! { (draw(Size::Narrow)) (draw(Size::Wide)) }
}

/// An SVG picture; screen readers read the sentence instead.
pub(super) fn picture(size: Size, height: f64, sentence: &str, inside: &Markup) -> Markup {
    html! {
        svg class=(size.class()) viewBox={ "0 0 " (size.width()) " " (px(height)) } role="img" aria-label=(sentence) {
            (inside)
        }
    }
}

/// A chart with what is below it and its tables.
pub(super) fn figure(class: &str, chart: &Markup, below: &Markup, tables: &Markup) -> Markup {
    html! {
        figure class={ "chart " (class) } {
            (chart)
            (below)
            details { summary { "Show as table" } (tables) }
        }
    }
}

/// Shown instead of a chart without data.
pub(super) fn empty_state(sentence: &str) -> Markup {
    html! { p class="chart-none" { (sentence) } }
}

/// A table that can also be scrolled by keyboard; the first column is the row heading.
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

/// Column headings from plain text.
pub(super) fn headings(names: &[&str]) -> Vec<Markup> {
    names.iter().map(|name| html! { (name) }).collect()
}

/// The CSS class of an arm's colour.
pub(super) fn colour(arm: usize) -> String {
    format!("v{}", if arm == 0 { 0 } else { (arm - 1) % 8 + 1 })
}

/// The name of an arm, or its number if it has no name.
pub(super) fn arm_name(names: &[String], arm: usize) -> String {
    match names.get(arm).filter(|name| !name.is_empty()) {
        Some(name) => name.clone(),
        None if arm == 0 => "control".to_owned(),
        None => format!("variation {arm}"),
    }
}

/// An arm's number on its colour; control's badge is empty.
pub(super) fn badge(arm: usize) -> Markup {
    html! { span class={ "armnumber " (colour(arm)) } aria-hidden="true" { @if arm > 0 { (arm) } } }
}

/// An arm in HTML: its badge and its name, isolated because a name may be written from right to left.
pub(super) fn arm_with_badge(names: &[String], arm: usize) -> Markup {
    html! { (badge(arm)) " " bdi { (arm_name(names, arm)) } }
}

/// The badge in SVG, centred at a position.
pub(super) fn svg_badge(arm: usize, x: f64, y: f64) -> Markup {
    let (width, height) = (if arm > 9 { 20.0 } else { 13.0 }, 13.0);
    html! {
        rect class={ "chip " (colour(arm)) } x=(px(x - width / 2.0)) y=(px(y - height / 2.0)) width=(width)
            height=(height) rx="2.5" {}
        @if arm > 0 { text class={ "on mid " (colour(arm)) } x=(px(x)) y=(px(y + 4.0)) { (arm) } }
    }
}

/// The legend below a chart. An entry is an arm with a value.
pub(super) fn legend(names: &[String], entries: &[(usize, Markup)]) -> Markup {
    html! {
        ul class={ "key" @if entries.len() > 12 { " dense" } } {
            @for (i, value) in entries {
                li { (badge(*i)) span class="name" title=(arm_name(names, *i)) { bdi { (arm_name(names, *i)) } } " " (value) }
            }
        }
    }
}

/// The estimated width of a letter in em. The estimates are generous, because fonts differ.
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

/// The estimated width of a text in a chart.
pub(super) fn text_width(text: &str) -> f64 {
    12.5 * text.chars().map(ems).sum::<f64>()
}

/// Truncates a text to the available width. The second value says whether it was truncated.
fn truncated(text: &str, room: f64) -> (String, bool) {
    if text_width(text) <= room {
        return (text.to_owned(), false);
    }
    let mut left = room - text_width("…");
    let start = text.chars().take_while(|letter| {
        left -= 12.5 * ems(*letter);
        left >= 0.0
    });
    (start.chain(['…']).collect(), true)
}

/// Text at a position.
pub(super) fn label(x: f64, y: f64, class: &str, text: &str) -> Markup {
    html! { text class=(class) x=(px(x)) y=(px(y)) { (text) } }
}

/// Text at a position, truncated to the available width; the tooltip has the whole text.
pub(super) fn label_within(x: f64, y: f64, class: &str, text: &str, room: f64) -> Markup {
    let (shown, is_truncated) = truncated(text, room);
    html! { text class=(class) x=(px(x)) y=(px(y)) { (shown) @if is_truncated { title { (text) } } } }
}

/// A number at a position.
pub(super) fn number_at(x: f64, y: f64, class: &str, value: f64, format: NumberFormat) -> Markup {
    let FormattedNumber { text, localised } = format.format(value);
    html! {
        text class=(class) x=(px(x)) y=(px(y)) data-n=[localised.map(|l| l.0)] data-f=[localised.map(|l| l.1)] { (text) }
    }
}

/// A number as a part of an SVG text.
pub(super) fn number_span(value: f64, format: NumberFormat) -> Markup {
    let FormattedNumber { text, localised } = format.format(value);
    html! { tspan data-n=[localised.map(|l| l.0)] data-f=[localised.map(|l| l.1)] { (text) } }
}

/// A straight line.
pub(super) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) -> Markup {
    html! { line class=(class) x1=(px(x1)) y1=(px(y1)) x2=(px(x2)) y2=(px(y2)) {} }
}

/// A rectangle, at least wide and high enough to be visible.
pub(super) fn rectangle((x1, x2): (f64, f64), (y1, y2): (f64, f64), class: &str) -> Markup {
    html! { rect class=(class) x=(px(x1)) y=(px(y1)) width=(px((x2 - x1).max(0.8))) height=(px((y2 - y1).max(0.8))) {} }
}

/// Points as SVG path data.
pub(super) fn path(points: &[(f64, f64)]) -> String {
    let mut out = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        let letter = if i == 0 { 'M' } else { 'L' };
        out.push_str(&format!("{letter}{} {}", px(*x), px(*y)));
    }
    out
}

/// Distance between the stripes of killed areas.
const STRIPE: f64 = 6.0;

/// Appends stripes over pieces that are side by side, from left to right. Stripes continue across touching pieces. They
/// are drawn line by line, because an SVG pattern needs an id, and ids must be unique within a page.
pub(super) fn striped(out: &mut String, pieces: &[Area]) {
    let first = pieces.iter().map(|piece| piece.left + piece.top).fold(f64::INFINITY, f64::min);
    let last = pieces.iter().map(|piece| piece.right + piece.bottom).fold(f64::NEG_INFINITY, f64::max);
    // A stripe rises to the right: x + y is constant along it.
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

/// An arrow to the right (1) or left (-1): the interval continues beyond the chart.
pub(super) fn arrow(x: f64, y: f64, side: i8, class: &str) -> Markup {
    let d = 6.0 * f64::from(side);
    html! { path class=(class) d={ (path(&[(x, y), (x - d, y - 4.0), (x - d, y + 4.0)])) "Z" } {} }
}

/// The part of a drawing that has the data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// Horizontal grid lines with percentages to the left and the axis title above.
    pub(super) fn percent_axis_left(&self, scale: &Scale, ticks: &Ticks, title: &str) -> Markup {
        html! {
            @for value in &ticks.values {
                @let y = scale.at(*value);
                (line((self.left, y), (self.right, y), "grid"))
                (number_at(self.left - 6.0, y + 4.0, "tick end", *value, ticks.format))
            }
            (label(0.0, self.top - 11.0, "unit", title))
        }
    }

    /// Vertical grid lines with percentages and the axis title below.
    pub(super) fn percent_axis_below(&self, scale: &Scale, ticks: &Ticks, title: &str) -> Markup {
        html! {
            @for value in &ticks.values {
                @let x = scale.at(*value);
                (line((x, self.top), (x, self.bottom), "grid"))
                (number_at(x, self.bottom + 15.0, "tick mid", *value, ticks.format))
            }
            (label(f64::midpoint(self.left, self.right), self.bottom + 31.0, "unit mid", title))
        }
    }

    /// The time axis below.
    pub(super) fn time_axis(&self, scale: &Scale, (from, until): (Timestamp, Timestamp), about: usize) -> Markup {
        let times = Times::within(from, until, about);
        let years = match (format::year(from), format::year(until)) {
            (first, last) if first == last => first,
            (first, last) => format!("{first}–{last}"),
        };
        // A label at the very start would overlap the numbers of the other axis.
        let inside = |x: f64| x > self.left + 12.0;
        html! {
            (line((self.left, self.bottom), (self.right, self.bottom), "axis"))
            @for at in &times.values {
                @let x = scale.at(at.as_micros() as f64);
                (line((x, self.bottom), (x, self.bottom + 4.0), "axis"))
                @if inside(x) {
                    text class="tick mid" x=(px(x)) y=(px(self.bottom + 16.0)) data-t=(format::rfc3339(*at))
                        data-f=(if times.are_days { "day" } else { "minute" }) {
                        @if times.are_days { (format::day(*at)) } @else { (format::clock(*at)) }
                    }
                }
            }
            text class="unit mid" x=(px(f64::midpoint(self.left, self.right))) y=(px(self.bottom + 32.0)) {
                @if times.are_days { "day (UTC), " (years) }
                @else { "time (" tspan data-zone { "UTC" } "), " (format::day(from)) " " (years) }
            }
        }
    }
}
