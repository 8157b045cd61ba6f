//! What goes on over time: shares as stacked areas, outcomes forgone as lines in their bands, rates as lines. Shares
//! are constant within a tick and are drawn so.

use super::plot::{Area, SERIES, Scale, Ticks, WIDTH, label, line, marker, px, spread, svg};
use super::text::{arm_name, number, shorten};
use crate::scenario::Scenario;
use crate::summary::{Quantiles, Summary};
use crate::world::World;

/// More points than these cannot be told apart.
const POINTS: usize = 240;
const LETTER: f64 = 12.5;

/// The class of each arm's colour: control neutral, the best in the end set apart, the others in shades by their rate.
pub(super) fn arm_classes(scenario: &Scenario) -> Vec<String> {
    let world = World::new(scenario);
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

/// Which ticks to draw, and how many each stands for.
fn sample(ticks: usize) -> impl Iterator<Item = usize> + Clone {
    (0..ticks).step_by(ticks.div_ceil(POINTS).max(1))
}

fn day(scenario: &Scenario, tick: usize) -> f64 {
    tick as f64 / f64::from(scenario.doc().ticks_per_day)
}

/// A line that holds each value from its tick up to the next.
fn steps(scenario: &Scenario, x: &Scale, ticks: usize, y: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
    let starts: Vec<usize> = sample(ticks).collect();
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(2 * starts.len());
    for (i, tick) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(ticks);
        let (from, to, y) = (x.at(day(scenario, *tick)), x.at(day(scenario, end)), y(*tick));
        // A level that goes on needs no point of its own.
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

/// A policy's mean shares: control at the bottom, the variations eat into it from above.
pub(super) fn shares(scenario: &Scenario, summary: &Summary) -> String {
    let area = Area { left: 34.0, top: 26.0, right: WIDTH - 84.0, bottom: 186.0 };
    let x = Scale::new((0.0, f64::from(scenario.doc().days)), (area.left, area.right));
    let y = Scale::new((0.0, 1.0), (area.bottom, area.top));
    let ticks = summary.shares.len();
    let classes = arm_classes(scenario);
    let below = |tick: usize, arm: usize| summary.shares[tick][..arm].iter().sum::<f64>();
    let percents = Ticks::covering(0.0, 100.0, 4);
    let mut inside = area.axis_y(&Scale::new((0.0, 100.0), (area.bottom, area.top)), &percents, "% of units");
    for (arm, class) in classes.iter().enumerate() {
        let lower = steps(scenario, &x, ticks, |tick| y.at(below(tick, arm)));
        let upper = steps(scenario, &x, ticks, |tick| y.at(below(tick, arm + 1)));
        let outline = path(upper.into_iter().chain(lower.into_iter().rev()));
        inside += &format!("<polygon points=\"{outline}\" class=\"share {class}\"/>");
    }
    inside += &area.axis_x(&x, &Ticks::days(f64::from(scenario.doc().days)), "day", false);
    if let Some(last) = ticks.checked_sub(1) {
        let end = &summary.shares[last];
        let middle = |arm: usize| y.at(below(last, arm) + end[arm] / 2.0);
        let marks: Vec<Mark> = largest(end)
            .into_iter()
            .map(|arm| Mark {
                y: middle(arm),
                text: format!("{} {}%", arm_name(arm), number(100.0 * end[arm], 0)),
                class: classes[arm].clone(),
                series: None,
            })
            .collect();
        inside += &names(&area, &marks);
    }
    let title = format!("Mean share of each arm by day under {}", summary.policy);
    svg(&title, 222.0, &inside)
}

/// The arms that there is room to name.
fn largest(shares: &[f64]) -> Vec<usize> {
    let mut arms: Vec<usize> = (0..shares.len()).collect();
    arms.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]).then(a.cmp(b)));
    arms.truncate(12);
    arms.sort_unstable();
    arms
}

/// The name of a line, wanted where the line ends.
struct Mark {
    y: f64,
    text: String,
    class: String,
    /// The policy, if the line is one's.
    series: Option<usize>,
}

/// Names to the right, each tied to the end of its line.
fn names(area: &Area, marks: &[Mark]) -> String {
    let wanted: Vec<f64> = marks.iter().map(|mark| mark.y).collect();
    let placed = spread(&wanted, LETTER, (area.top + 2.0, area.bottom - 2.0));
    let mut out = String::new();
    for (mark, y) in marks.iter().zip(placed) {
        out += &line((area.right + 1.0, mark.y), (area.right + 9.0, y), "tie");
        out += &match mark.series {
            Some(series) => marker(series, area.right + 14.0, y, 3.6),
            None => format!(
                "<rect x=\"{}\" y=\"{}\" width=\"8\" height=\"8\" class=\"share {}\"/>",
                px(area.right + 10.0),
                px(y - 4.0),
                mark.class
            ),
        };
        out += &label(area.right + 21.0, y + 4.0, "row", &mark.text);
    }
    out
}

/// Outcomes forgone so far under every policy: the median in the band of the middle 80% of runs.
pub(super) fn forgone(scenario: &Scenario, policies: &[(usize, &Summary)], unit: &str) -> String {
    let area = Area { left: 40.0, top: 26.0, right: WIDTH - 104.0, bottom: 246.0 };
    let x = Scale::new((0.0, f64::from(scenario.doc().days)), (area.left, area.right));
    let highest = policies.iter().flat_map(|(_, s)| &s.forgone).fold(0.0_f64, |most, q| most.max(q.p90));
    let ticks = Ticks::covering(0.0, highest, 5);
    let y = Scale::new(ticks.range(), (area.bottom, area.top));
    let mut inside = area.axis_y(&y, &ticks, unit);
    inside += &area.axis_x(&x, &Ticks::days(f64::from(scenario.doc().days)), "day", false);
    // What is forgone up to the end of a tick stands at its end.
    let points = |summary: &Summary, of: fn(&Quantiles) -> f64| -> Vec<(f64, f64)> {
        let n = summary.forgone.len();
        let ends = sample(n).map(|tick| tick + 1).filter(|end| *end < n).chain((n > 0).then_some(n));
        let point = |end: usize| (x.at(day(scenario, end)), y.at(of(&summary.forgone[end - 1])));
        std::iter::once((area.left, area.bottom)).chain(ends.map(point)).collect()
    };
    for (series, summary) in policies {
        let low = points(summary, |q| q.p10);
        let high = points(summary, |q| q.p90);
        let outline = path(high.into_iter().chain(low.into_iter().rev()));
        inside += &format!("<polygon points=\"{outline}\" class=\"spread p{}\"/>", series % SERIES);
    }
    let mut marks = Vec::new();
    for (series, summary) in policies {
        let median = points(summary, |q| q.p50);
        let end = median.last().map_or(area.bottom, |(_, y)| *y);
        inside += &format!("<polyline points=\"{}\" class=\"line p{}\"/>", path(median), series % SERIES);
        marks.push(Mark { y: end, text: shorten(&summary.policy, 14), class: String::new(), series: Some(*series) });
    }
    inside += &names(&area, &marks);
    svg(&format!("{unit} by day, median and middle 80% of runs, under each policy"), 282.0, &inside)
}

/// Every arm's true rate, mean of each day: the cycle within days would hide all else.
pub(super) fn rates(scenario: &Scenario, unit: &str) -> String {
    let world = World::new(scenario);
    let per_day = scenario.doc().ticks_per_day;
    let all = (0..scenario.doc().days).flat_map(|day| (0..world.arms()).map(move |arm| (day, arm)));
    let highest = all.map(|(day, arm)| of_day(&world, per_day, day, arm)).fold(0.0, f64::max);
    let percent = world.highest() <= 1.0;
    let factor = if percent { 100.0 } else { 1.0 };
    let area = Area { left: 40.0, top: 26.0, right: WIDTH - 66.0, bottom: 166.0 };
    let x = Scale::new((0.0, f64::from(scenario.doc().days)), (area.left, area.right));
    let ticks = Ticks::covering(0.0, factor * highest, 4);
    let y = Scale::new(ticks.range(), (area.bottom, area.top));
    let unit = if percent { format!("%, {unit}") } else { unit.to_owned() };
    let mut inside = area.axis_y(&y, &ticks, &unit);
    inside += &area.axis_x(&x, &Ticks::days(f64::from(scenario.doc().days)), "day", false);
    let classes = arm_classes(scenario);
    let mut marks = Vec::new();
    for (arm, class) in classes.iter().enumerate() {
        let at = |day: u32| (x.at(f64::from(day) + 0.5), y.at(factor * of_day(&world, per_day, day, arm)));
        let points: Vec<(f64, f64)> = (0..scenario.doc().days).map(at).collect();
        let end = points.last().map_or(area.bottom, |(_, y)| *y);
        // A day alone is drawn as long as it is.
        let ends = [(area.left, points.first().map_or(end, |(_, y)| *y)), (area.right, end)];
        let points = [ends[0]].into_iter().chain(points).chain([ends[1]]);
        inside += &format!("<polyline points=\"{}\" class=\"line {class}\"/>", path(points));
        marks.push(Mark { y: end, text: arm_name(arm), class: class.clone(), series: None });
    }
    // With more arms than there is room for, the table has them.
    marks.truncate(11);
    inside += &names(&area, &marks);
    svg(&format!("True rate of each arm by day: {unit}"), 202.0, &inside)
}

/// An arm's mean rate on a day.
fn of_day(world: &World, per_day: u32, day: u32, arm: usize) -> f64 {
    (day * per_day..(day + 1) * per_day).map(|tick| world.rates(tick)[arm]).sum::<f64>() / f64::from(per_day)
}
