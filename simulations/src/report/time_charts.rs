//! Charts over time: shares as stacked areas, lost outcomes as lines with bands, true rates as lines. Shares are drawn
//! as steps because they are constant within a tick.

use super::plot::{COLOURS, PlotArea, Scale, Ticks, WIDTH, label, line, marker, px, spread_labels, svg};
use super::text::{arm_name, number, shorten};
use crate::scenario::Scenario;
use crate::summary::{Quantiles, Summary};
use crate::world::World;

/// Largest number of points of a line. The width of a chart cannot show more.
const POINTS_MAX: usize = 240;
/// Distance between labels, in pixels.
const LABEL_GAP: f64 = 12.5;

/// The CSS class of the colour of each arm: control grey, the arm that is best at the end green, the others in shades
/// by their rate.
fn arm_classes(scenario: &Scenario) -> Vec<String> {
    let world = scenario.world();
    let last = world.rates(world.ticks().saturating_sub(1));
    let best = |arm: usize| world.best_arm().is_some() && world.is_best(arm);
    let mut order: Vec<usize> = (1..last.len()).filter(|arm| !best(*arm)).collect();
    order.sort_by(|a, b| last[*b].total_cmp(&last[*a]).then(a.cmp(b)));
    let class = |arm: usize| match order.iter().position(|other| *other == arm) {
        _ if arm == 0 => "a-control".to_owned(),
        None => "a-best".to_owned(),
        Some(rank) => format!("a{}", rank % 6),
    };
    (0..last.len()).map(class).collect()
}

/// The ticks to draw.
fn sampled_ticks(ticks: usize) -> impl Iterator<Item = usize> + Clone {
    (0..ticks).step_by(ticks.div_ceil(POINTS_MAX).max(1))
}

fn day(scenario: &Scenario, tick: usize) -> f64 {
    tick as f64 / f64::from(scenario.doc().ticks_per_day)
}

/// A line that is constant from each drawn tick to the next.
fn steps(scenario: &Scenario, x: &Scale, ticks: usize, y: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
    let starts: Vec<usize> = sampled_ticks(ticks).collect();
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(2 * starts.len());
    for (i, tick) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(ticks);
        let (from, to, y) = (x.position(day(scenario, *tick)), x.position(day(scenario, end)), y(*tick));
        // A value that does not change needs no new point.
        match points.last_mut() {
            Some(last) if px(last.1) == px(y) => last.0 = to,
            _ => points.extend([(from, y), (to, y)]),
        }
    }
    points
}

fn path(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    points.into_iter().map(|(x, y)| format!("{},{}", px(x), px(y))).collect::<Vec<_>>().join(" ")
}

/// The mean shares under a policy: control at the bottom, variations above.
pub(super) fn shares_chart(scenario: &Scenario, summary: &Summary) -> String {
    let area = PlotArea { left: 34.0, top: 26.0, right: WIDTH - 84.0, bottom: 186.0 };
    let x = Scale::new((0.0, f64::from(scenario.doc().days)), (area.left, area.right));
    let y = Scale::new((0.0, 1.0), (area.bottom, area.top));
    let ticks = summary.shares.len();
    let classes = arm_classes(scenario);
    let below = |tick: usize, arm: usize| summary.shares[tick][..arm].iter().sum::<f64>();
    let percents = Ticks::covering(0.0, 100.0, 4);
    let mut inside = area.axis_y(&Scale::new((0.0, 100.0), (area.bottom, area.top)), &percents, "% of units");
    for (arm, class) in classes.iter().enumerate() {
        let lower = steps(scenario, &x, ticks, |tick| y.position(below(tick, arm)));
        let upper = steps(scenario, &x, ticks, |tick| y.position(below(tick, arm + 1)));
        let outline = path(upper.into_iter().chain(lower.into_iter().rev()));
        inside += &format!("<polygon points=\"{outline}\" class=\"share {class}\"/>");
    }
    inside += &area.axis_x(&x, &Ticks::days(f64::from(scenario.doc().days)), "day", false);
    if let Some(last) = ticks.checked_sub(1) {
        let end = &summary.shares[last];
        let middle = |arm: usize| y.position(below(last, arm) + end[arm] / 2.0);
        let labels: Vec<EndLabel> = largest_shares(end)
            .into_iter()
            .map(|arm| EndLabel {
                y: middle(arm),
                text: format!("{} {}%", arm_name(arm), number(100.0 * end[arm], 0)),
                class: classes[arm].clone(),
                series: None,
            })
            .collect();
        inside += &end_labels(&area, &labels);
    }
    let title = format!("Mean share of each variation by day under {}", summary.policy);
    svg(&title, 222.0, &inside)
}

/// The twelve arms with the largest shares: there is no room for more labels.
fn largest_shares(shares: &[f64]) -> Vec<usize> {
    let mut arms: Vec<usize> = (0..shares.len()).collect();
    arms.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]).then(a.cmp(b)));
    arms.truncate(12);
    arms.sort_unstable();
    arms
}

/// The label of a line or area at its right end.
struct EndLabel {
    y: f64,
    text: String,
    class: String,
    /// Index of the policy, if the line belongs to one.
    series: Option<usize>,
}

/// Labels to the right of the chart, each connected to the end of its line.
fn end_labels(area: &PlotArea, labels: &[EndLabel]) -> String {
    let wanted: Vec<f64> = labels.iter().map(|end| end.y).collect();
    let placed = spread_labels(&wanted, LABEL_GAP, (area.top + 2.0, area.bottom - 2.0));
    let mut out = String::new();
    for (end, y) in labels.iter().zip(placed) {
        out += &line((area.right + 1.0, end.y), (area.right + 9.0, y), "tie");
        out += &match end.series {
            Some(series) => marker(series, area.right + 14.0, y, 3.6),
            None => format!(
                "<rect x=\"{}\" y=\"{}\" width=\"8\" height=\"8\" class=\"share {}\"/>",
                px(area.right + 10.0),
                px(y - 4.0),
                end.class
            ),
        };
        out += &label(area.right + 21.0, y + 4.0, "row", &end.text);
    }
    out
}

/// Expected outcomes lost so far under every policy: the median, and a band with the middle 80% of runs.
pub(super) fn lost_outcomes_chart(scenario: &Scenario, policies: &[(usize, &Summary)], unit: &str) -> String {
    let area = PlotArea { left: 40.0, top: 26.0, right: WIDTH - 104.0, bottom: 246.0 };
    let x = Scale::new((0.0, f64::from(scenario.doc().days)), (area.left, area.right));
    let highest = policies.iter().flat_map(|(_, s)| &s.forgone).fold(0.0_f64, |highest, q| highest.max(q.p90));
    let ticks = Ticks::covering(0.0, highest, 5);
    let y = Scale::new(ticks.range(), (area.bottom, area.top));
    let mut inside = area.axis_y(&y, &ticks, unit);
    inside += &area.axis_x(&x, &Ticks::days(f64::from(scenario.doc().days)), "day", false);
    // The value of a tick is drawn at the end of the tick.
    let points = |summary: &Summary, quantile: fn(&Quantiles) -> f64| -> Vec<(f64, f64)> {
        let n = summary.forgone.len();
        let ends = sampled_ticks(n).map(|tick| tick + 1).filter(|end| *end < n).chain((n > 0).then_some(n));
        let point = |end: usize| (x.position(day(scenario, end)), y.position(quantile(&summary.forgone[end - 1])));
        std::iter::once((area.left, area.bottom)).chain(ends.map(point)).collect()
    };
    for (series, summary) in policies {
        let low = points(summary, |q| q.p10);
        let high = points(summary, |q| q.p90);
        let outline = path(high.into_iter().chain(low.into_iter().rev()));
        inside += &format!("<polygon points=\"{outline}\" class=\"spread p{}\"/>", series % COLOURS);
    }
    let mut labels = Vec::new();
    for (series, summary) in policies {
        let median = points(summary, |q| q.p50);
        let end = median.last().map_or(area.bottom, |(_, y)| *y);
        inside += &format!("<polyline points=\"{}\" class=\"line p{}\"/>", path(median), series % COLOURS);
        labels.push(EndLabel {
            y: end,
            text: shorten(&summary.policy, 14),
            class: String::new(),
            series: Some(*series),
        });
    }
    inside += &end_labels(&area, &labels);
    svg(&format!("{unit} by day, median and middle 80% of runs, under each policy"), 282.0, &inside)
}

/// The true rate of every arm as means of days: the daily cycle would hide everything else.
pub(super) fn rates_chart(scenario: &Scenario, unit: &str) -> String {
    let world = scenario.world();
    let per_day = scenario.doc().ticks_per_day;
    let all = (0..scenario.doc().days).flat_map(|day| (0..world.arms()).map(move |arm| (day, arm)));
    let highest = all.map(|(day, arm)| mean_rate_of_day(&world, per_day, day, arm)).fold(0.0, f64::max);
    let percent = world.highest() <= 1.0;
    let factor = if percent { 100.0 } else { 1.0 };
    let area = PlotArea { left: 40.0, top: 26.0, right: WIDTH - 66.0, bottom: 166.0 };
    let x = Scale::new((0.0, f64::from(scenario.doc().days)), (area.left, area.right));
    let ticks = Ticks::covering(0.0, factor * highest, 4);
    let y = Scale::new(ticks.range(), (area.bottom, area.top));
    let unit = if percent { format!("%, {unit}") } else { unit.to_owned() };
    let mut inside = area.axis_y(&y, &ticks, &unit);
    inside += &area.axis_x(&x, &Ticks::days(f64::from(scenario.doc().days)), "day", false);
    let classes = arm_classes(scenario);
    let mut labels = Vec::new();
    for (arm, class) in classes.iter().enumerate() {
        let at = |day: u32| {
            (x.position(f64::from(day) + 0.5), y.position(factor * mean_rate_of_day(&world, per_day, day, arm)))
        };
        let points: Vec<(f64, f64)> = (0..scenario.doc().days).map(at).collect();
        let end = points.last().map_or(area.bottom, |(_, y)| *y);
        // The line is extended by half a day to both ends of the axis.
        let ends = [(area.left, points.first().map_or(end, |(_, y)| *y)), (area.right, end)];
        let points = [ends[0]].into_iter().chain(points).chain([ends[1]]);
        inside += &format!("<polyline points=\"{}\" class=\"line {class}\"/>", path(points));
        labels.push(EndLabel { y: end, text: arm_name(arm), class: class.clone(), series: None });
    }
    // There is no room for more labels. The table has all arms.
    labels.truncate(11);
    inside += &end_labels(&area, &labels);
    svg(&format!("True rate of each variation by day: {unit}"), 202.0, &inside)
}

/// The mean true rate of an arm on a day.
fn mean_rate_of_day(world: &World, per_day: u32, day: u32, arm: usize) -> f64 {
    (day * per_day..(day + 1) * per_day).map(|tick| world.rates(tick)[arm]).sum::<f64>() / f64::from(per_day)
}
