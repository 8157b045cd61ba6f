//! The line of units with its buckets where they lie: growing is a boundary that moves into control, and that can only
//! be seen in place. Below it the same, summed, because many small pieces cannot be added up by eye.

use std::fmt::Write;

use maud::{Markup, html};

use super::Bucket;
use super::draw::{
    Area, Size, arm, block, both, breadth, colour, figure, figure_at, heads, key, label, label_within, line, name_of,
    nothing, picture, striped, table,
};
use super::scale::{Scale, px};
use super::text::{self, Format};

/// So many pieces are listed in the table.
const LISTED: usize = 200;

/// The line of buckets in their places: variations coloured, killed ones striped, control empty. `floor` is the share
/// that control never falls below.
#[must_use]
pub fn strip(names: &[String], buckets: &[Bucket], killed: &[bool], floor: Option<f64>) -> Markup {
    let buckets = sound(buckets);
    if buckets.is_empty() {
        return nothing("Nothing is allocated yet: there is no line to draw.");
    }
    let shares = shares(&buckets, names.len());
    let is_killed = |arm: usize| killed.get(arm).copied().unwrap_or(false);
    let floor = floor.filter(|floor| floor.is_finite() && *floor > 0.0 && *floor <= 1.0);
    let sentence = sentence(names, &shares, &is_killed);
    let plot = both(|size| {
        let inside = drawn(size, names, &buckets, &shares, &is_killed, floor);
        picture(size, 122.0, &sentence, &inside)
    });
    let said = |(i, share): (usize, &f64)| {
        let state = if is_killed(i) { " · killed" } else { "" };
        (i, html! { (text::number(*share, Format::Percent1)) (state) })
    };
    let entries: Vec<(usize, Markup)> = shares.iter().enumerate().map(said).collect();
    figure("strip", &plot, &key(names, &entries), &tables(names, &buckets, &shares, &is_killed))
}

/// The same in one low bar without words, for lists of experiments.
#[must_use]
pub fn strip_small(names: &[String], buckets: &[Bucket], killed: &[bool]) -> Markup {
    let buckets = sound(buckets);
    let shares = shares(&buckets, names.len());
    let is_killed = |arm: usize| killed.get(arm).copied().unwrap_or(false);
    let scale = Scale::new((0.0, 1.0), (0.0, 240.0));
    html! {
        svg class="strip-small" viewBox="0 0 240 12" preserveAspectRatio="none" role="img"
            aria-label=(if buckets.is_empty() { "Nothing is allocated yet".to_owned() } else { sentence(names, &shares, &is_killed) }) {
            rect class="line-frame" x="0" y="0" width="240" height="12" {}
            (pieces(&buckets, &scale, (0.0, 12.0), 0.0, &is_killed))
        }
    }
}

/// What can be drawn of these, in order.
fn sound(buckets: &[Bucket]) -> Vec<Bucket> {
    let ends = buckets.iter().map(|b| Bucket { from: b.from.clamp(0.0, 1.0), to: b.to.clamp(0.0, 1.0), ..*b });
    let mut sound: Vec<Bucket> = ends.filter(|b| b.to > b.from).collect();
    sound.sort_by(|a, b| a.from.total_cmp(&b.from));
    sound
}

/// What each arm has of the line.
fn shares(buckets: &[Bucket], arms: usize) -> Vec<f64> {
    let arms = buckets.iter().map(|b| b.arm + 1).max().unwrap_or(0).max(arms);
    let mut shares = vec![0.0; arms];
    for bucket in buckets {
        shares[bucket.arm] += bucket.to - bucket.from;
    }
    shares
}

fn sentence(names: &[String], shares: &[f64], is_killed: &impl Fn(usize) -> bool) -> String {
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
    let said = order.iter().take(6).map(|i| {
        let state = if is_killed(*i) { " (killed)" } else { "" };
        format!("{} {}{state}", name_of(names, *i), Format::Percent1.text(shares[*i]))
    });
    let said: Vec<String> = said.collect();
    let more = if order.len() > 6 { format!(", and {} more", order.len() - 6) } else { String::new() };
    format!("Shares of the line: {}{more}.", said.join(", "))
}

/// Every arm's pieces as one path, so that hundreds of small ones cost little; control is what stays empty.
fn pieces(
    buckets: &[Bucket],
    scale: &Scale,
    (top, bottom): (f64, f64),
    gap: f64,
    is_killed: &impl Fn(usize) -> bool,
) -> Markup {
    let arms = buckets.iter().map(|b| b.arm).max().unwrap_or(0);
    let mut paths = vec![String::new(); arms + 1];
    let mut stripes = String::new();
    for bucket in buckets.iter().filter(|b| b.arm > 0) {
        let (mut from, mut to) = (scale.at(bucket.from), scale.at(bucket.to));
        if to - from > 3.0 {
            (from, to) = (from + gap / 2.0, to - gap / 2.0);
        } else if to - from < 0.8 {
            // A foothold may be a millionth of the line, and it is there.
            (from, to) = (f64::midpoint(from, to) - 0.4, f64::midpoint(from, to) + 0.4);
        }
        let (x, width, height) = (px(from), px(to - from), px(bottom - top));
        // Writing to a string cannot fail.
        let _ = write!(paths[bucket.arm], "M{x} {}h{width}v{height}h-{width}z", px(top));
        if is_killed(bucket.arm) && to - from > 3.0 {
            striped(&mut stripes, &[Area { left: from, top, right: to, bottom }]);
        }
    }
    html! {
        @for (arm, path) in paths.iter().enumerate() {
            @if !path.is_empty() {
                path class={ "piece " (colour(arm)) @if is_killed(arm) { " killed" } } d=(path) {}
            }
        }
        @if !stripes.is_empty() { path class="stripes" d=(stripes) {} }
    }
}

fn drawn(
    size: Size,
    names: &[String],
    buckets: &[Bucket],
    shares: &[f64],
    is_killed: &impl Fn(usize) -> bool,
    floor: Option<f64>,
) -> Markup {
    let (left, right) = (1.0, size.width() - 1.0);
    let scale = Scale::new((0.0, 1.0), (left, right));
    let (top, bottom) = (16.0, 50.0);
    let summed = summed(shares);
    html! {
        (label(left, 10.0, "unit", "where each lies on the line"))
        (block((left, right), (top, bottom), "line-frame"))
        (pieces(buckets, &scale, (top, bottom), 1.0, is_killed))
        @for bucket in buckets {
            @let (from, to) = (scale.at(bucket.from), scale.at(bucket.to));
            (named(names, bucket.arm, (from, to), f64::midpoint(top, bottom) + 4.5, is_killed(bucket.arm)))
        }
        (label(left, 67.0, "unit", "the same, summed"))
        (block((left, right), (72.0, 84.0), "line-frame"))
        (pieces(&summed, &scale, (72.0, 84.0), 1.0, is_killed))
        @if let Some(floor) = floor {
            @let x = scale.at(1.0 - floor);
            (line((x, 70.0), (x, 87.0), "floor"))
            text class="unit end" x=(px(right)) y="67" {
                "control’s floor "
                @let (text, exact) = Format::Percent1.say(floor);
                tspan data-n=[exact.then_some(floor)] data-f=[exact.then(|| Format::Percent1.name())] { (text) }
            }
        }
        @for value in [0.0, 0.25, 0.5, 0.75, 1.0] {
            @let class = if value == 0.0 { "tick" } else if value == 1.0 { "tick end" } else { "tick mid" };
            (line((scale.at(value), 86.0), (scale.at(value), 90.0), "axis"))
            (figure_at(scale.at(value), 102.0, class, value, Format::Percent0))
        }
        (label(size.width() / 2.0, 117.0, "unit mid", "share of the line"))
    }
}

/// Variations in order, control last.
fn summed(shares: &[f64]) -> Vec<Bucket> {
    let mut from = 0.0;
    let arms = (1..shares.len()).chain([0]);
    let pieces = arms.map(|arm| {
        let piece = Bucket { from, to: from + shares[arm], arm };
        from = piece.to;
        piece
    });
    pieces.filter(|piece| piece.to > piece.from).collect()
}

/// A piece's name if it has room for it, else its number, else nothing.
fn named(names: &[String], arm: usize, (from, to): (f64, f64), y: f64, is_killed: bool) -> Markup {
    let (room, middle) = (to - from - 8.0, f64::midpoint(from, to));
    let name = name_of(names, arm);
    let class = match arm {
        0 => "soft mid".to_owned(),
        _ if is_killed => "mid halo".to_owned(),
        _ => format!("on mid {}", colour(arm)),
    };
    let number = arm.to_string();
    // A few letters of a long name say less than its number.
    if breadth(&name) <= room || (arm > 0 && room > 90.0) {
        label_within(middle, y, &class, &name, room)
    } else if arm > 0 && breadth(&number) <= room + 6.0 {
        label(middle, y, &class, &number)
    } else {
        html! {}
    }
}

fn tables(names: &[String], buckets: &[Bucket], shares: &[f64], is_killed: &impl Fn(usize) -> bool) -> Markup {
    let held = |(i, share): (usize, &f64)| {
        let pieces = buckets.iter().filter(|b| b.arm == i).count();
        let state = if is_killed(i) { "killed" } else { "live" };
        let cells =
            vec![text::number(*share, Format::Percent2), text::number(pieces as f64, Format::Int), html! { (state) }];
        (arm(names, i), cells)
    };
    let held: Vec<_> = shares.iter().enumerate().map(held).collect();
    let piece = |b: &Bucket| {
        let cells = [b.from, b.to, b.to - b.from].map(|value| text::number(value, Format::Percent2));
        (arm(names, b.arm), cells.to_vec())
    };
    let listed: Vec<_> = buckets.iter().take(LISTED).map(piece).collect();
    let caption = match buckets.len() {
        n if n > LISTED => format!("The first {LISTED} of {n} pieces, in their places"),
        _ => "Pieces of the line, in their places".to_owned(),
    };
    html! {
        (table("What each holds of the line", &heads(&["Variation", "Share", "Pieces", "State"]), &held))
        (table(&caption, &heads(&["Variation", "From", "To", "Share"]), &listed))
    }
}
