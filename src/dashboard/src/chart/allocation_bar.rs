//! Traffic allocation: the line with its buckets in place, which shows how variations grow into control. A second bar
//! has the total by variation, because many small buckets cannot be added up by eye.

use std::fmt::Write;

use maud::{Markup, html};

use super::Bucket;
use super::draw::{
    Area, Size, arm_name, arm_with_badge, colour, empty_state, figure, headings, in_both_sizes, label, label_within,
    legend, line, number_at, number_span, picture, rectangle, striped, table, text_width,
};
use super::scale::{Scale, px};
use crate::format::{self, NumberFormat};

/// Most buckets listed in the table.
const LISTED: usize = 200;

/// Draws the buckets in place: variations coloured, killed variations striped, control empty. `floor` is the minimum
/// control share.
#[must_use]
pub fn allocation_bar(names: &[String], buckets: &[Bucket], killed: &[bool], floor: Option<f64>) -> Markup {
    let buckets = drawable(buckets);
    if buckets.is_empty() {
        return empty_state("No traffic is allocated yet.");
    }
    let shares = shares(&buckets, names.len());
    let is_killed = |arm: usize| killed.get(arm).copied().unwrap_or(false);
    let floor = floor.filter(|floor| floor.is_finite() && *floor > 0.0 && *floor <= 1.0);
    let sentence = sentence(names, &shares, &is_killed);
    let chart = in_both_sizes(|size| {
        let inside = draw(size, names, &buckets, &shares, &is_killed, floor);
        picture(size, 122.0, &sentence, &inside)
    });
    let entry = |(i, share): (usize, &f64)| {
        let state = if is_killed(i) { " · killed" } else { "" };
        (i, html! { (format::number(*share, NumberFormat::Percent1)) (state) })
    };
    let entries: Vec<(usize, Markup)> = shares.iter().enumerate().map(entry).collect();
    figure("strip", &chart, &legend(names, &entries), &tables(names, &buckets, &shares, &is_killed))
}

/// Draws the buckets as one low bar without labels, for lists of experiments.
#[must_use]
pub fn small_allocation_bar(names: &[String], buckets: &[Bucket], killed: &[bool]) -> Markup {
    let buckets = drawable(buckets);
    let shares = shares(&buckets, names.len());
    let is_killed = |arm: usize| killed.get(arm).copied().unwrap_or(false);
    let scale = Scale::new((0.0, 1.0), (0.0, 240.0));
    html! {
        svg class="strip-small" viewBox="0 0 240 12" preserveAspectRatio="none" role="img"
            aria-label=(if buckets.is_empty() { "No traffic is allocated yet".to_owned() } else { sentence(names, &shares, &is_killed) }) {
            rect class="line-frame" x="0" y="0" width="240" height="12" {}
            (bucket_paths(&buckets, &scale, (0.0, 12.0), 0.0, &is_killed))
        }
    }
}

/// The buckets with a positive width, clamped to the line and in order.
fn drawable(buckets: &[Bucket]) -> Vec<Bucket> {
    let ends = buckets.iter().map(|b| Bucket { from: b.from.clamp(0.0, 1.0), to: b.to.clamp(0.0, 1.0), ..*b });
    let mut drawable: Vec<Bucket> = ends.filter(|b| b.to > b.from).collect();
    drawable.sort_by(|a, b| a.from.total_cmp(&b.from));
    drawable
}

/// The share of each arm.
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
    let shares_of_largest = order.iter().take(6).map(|i| {
        let state = if is_killed(*i) { " (killed)" } else { "" };
        format!("{} {}{state}", arm_name(names, *i), NumberFormat::Percent1.text(shares[*i]))
    });
    let listed: Vec<String> = shares_of_largest.collect();
    let more = if order.len() > 6 { format!(", and {} more", order.len() - 6) } else { String::new() };
    format!("Traffic shares: {}{more}.", listed.join(", "))
}

/// Draws each arm's buckets as one path, so that hundreds of small ones need little markup. Control stays empty.
fn bucket_paths(
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
            // A foothold may be a millionth of the line and must still be visible.
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

fn draw(
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
    let totals = total_by_arm(shares);
    html! {
        (label(left, 10.0, "unit", "Bucket ranges"))
        (rectangle((left, right), (top, bottom), "line-frame"))
        (bucket_paths(buckets, &scale, (top, bottom), 1.0, is_killed))
        @for bucket in buckets {
            @let (from, to) = (scale.at(bucket.from), scale.at(bucket.to));
            (bucket_label(names, bucket.arm, (from, to), f64::midpoint(top, bottom) + 4.5, is_killed(bucket.arm)))
        }
        (label(left, 67.0, "unit", "Total by variation"))
        (rectangle((left, right), (72.0, 84.0), "line-frame"))
        (bucket_paths(&totals, &scale, (72.0, 84.0), 1.0, is_killed))
        @if let Some(floor) = floor {
            @let x = scale.at(1.0 - floor);
            (line((x, 70.0), (x, 87.0), "floor"))
            text class="unit end" x=(px(right)) y="67" {
                "minimum control share " (number_span(floor, NumberFormat::Percent1))
            }
        }
        @for value in [0.0, 0.25, 0.5, 0.75, 1.0] {
            @let class = if value == 0.0 { "tick" } else if value == 1.0 { "tick end" } else { "tick mid" };
            (line((scale.at(value), 86.0), (scale.at(value), 90.0), "axis"))
            (number_at(scale.at(value), 102.0, class, value, NumberFormat::Percent0))
        }
        (label(size.width() / 2.0, 117.0, "unit mid", "traffic share"))
    }
}

/// One range per arm: the variations in order, control last.
fn total_by_arm(shares: &[f64]) -> Vec<Bucket> {
    let mut from = 0.0;
    let arms = (1..shares.len()).chain([0]);
    let ranges = arms.map(|arm| {
        let range = Bucket { from, to: from + shares[arm], arm };
        from = range.to;
        range
    });
    ranges.filter(|range| range.to > range.from).collect()
}

/// A bucket's label: the arm's name if it fits, else its number if that fits, else nothing.
fn bucket_label(names: &[String], arm: usize, (from, to): (f64, f64), y: f64, is_killed: bool) -> Markup {
    let (room, middle) = (to - from - 8.0, f64::midpoint(from, to));
    let name = arm_name(names, arm);
    let class = match arm {
        0 => "soft mid".to_owned(),
        _ if is_killed => "mid halo".to_owned(),
        _ => format!("on mid {}", colour(arm)),
    };
    let number = arm.to_string();
    // The number says more than the first few letters of a long name.
    if text_width(&name) <= room || (arm > 0 && room > 90.0) {
        label_within(middle, y, &class, &name, room)
    } else if arm > 0 && text_width(&number) <= room + 6.0 {
        label(middle, y, &class, &number)
    } else {
        html! {}
    }
}

fn tables(names: &[String], buckets: &[Bucket], shares: &[f64], is_killed: &impl Fn(usize) -> bool) -> Markup {
    let total = |(i, share): (usize, &f64)| {
        let arm_buckets = buckets.iter().filter(|b| b.arm == i).count();
        // Units of killed variations get control.
        let is_served = *share > 0.0 || (i == 0 && (0..shares.len()).any(|arm| is_killed(arm) && shares[arm] > 0.0));
        let state = match (is_killed(i), is_served) {
            (true, _) => "killed",
            (false, true) => "served",
            (false, false) => "not served",
        };
        let cells =
            vec![format::number(*share, NumberFormat::Percent2), format::count(arm_buckets as u64), html! { (state) }];
        (arm_with_badge(names, i), cells)
    };
    let totals: Vec<_> = shares.iter().enumerate().map(total).collect();
    let range = |b: &Bucket| {
        let cells = [b.from, b.to, b.to - b.from].map(|value| format::number(value, NumberFormat::Percent2));
        (arm_with_badge(names, b.arm), cells.to_vec())
    };
    let listed: Vec<_> = buckets.iter().take(LISTED).map(range).collect();
    let caption = match buckets.len() {
        n if n > LISTED => format!("Bucket ranges: the first {LISTED} of {n}"),
        _ => "Bucket ranges".to_owned(),
    };
    html! {
        (table("Total by variation", &headings(&["Variation", "Share", "Buckets", "State"]), &totals))
        (table(&caption, &headings(&["Variation", "From", "To", "Share"]), &listed))
    }
}
