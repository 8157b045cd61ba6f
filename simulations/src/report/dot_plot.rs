//! The dot plot: means with their standard errors on a common axis. Regret, winners, moves, coverage and bias all use
//! it, so that readers have to learn only one kind of chart.

use super::Report;
use super::plot::{COLOURS, PlotArea, Scale, Ticks, WIDTH, label, line, marker, px, svg};
use super::text::{NO_VALUE, escape, number, shorten};
use crate::summary::{Mean, Summary};

/// One mean, in the unit of the axis.
#[derive(Debug, Clone)]
pub(super) struct Dot {
    /// Index of the policy, which selects the marker.
    pub(super) series: usize,
    /// Name of the row.
    pub(super) name: String,
    /// None if there is no value.
    pub(super) mean: Option<Mean>,
    /// Means of single arms, drawn as faint marks.
    pub(super) single_arms: Vec<f64>,
    /// Text shown instead of the number and its error.
    pub(super) value_text: Option<String>,
}

impl Dot {
    /// The dot of a policy.
    pub(super) fn for_policy(report: &Report<'_>, summary: &Summary, mean: Option<Mean>) -> Self {
        let series = report.series(&summary.policy);
        Self { series, name: summary.policy.clone(), mean, single_arms: Vec::new(), value_text: None }
    }
}

/// Converts a fraction to percent.
pub(super) fn in_percent(mean: Mean) -> Mean {
    Mean { mean: 100.0 * mean.mean, se: 100.0 * mean.se }
}

/// Dots under a common heading.
#[derive(Debug, Clone)]
pub(super) struct DotGroup {
    pub(super) name: String,
    pub(super) dots: Vec<Dot>,
}

/// A dot plot.
#[derive(Debug, Clone)]
pub(super) struct DotPlot {
    pub(super) title: String,
    /// Unit of the axis.
    pub(super) unit: String,
    pub(super) groups: Vec<DotGroup>,
    /// The axis includes at least this range.
    pub(super) min_range: (f64, f64),
    /// The axis does not go beyond these limits. An arrow marks a value beyond them.
    pub(super) limits: (f64, f64),
    pub(super) decimals: usize,
    /// The desired range, shaded.
    pub(super) band: Option<(f64, f64)>,
    /// A reference value, drawn as a dashed line.
    pub(super) reference: Option<f64>,
    /// Whether dots are drawn close together, without their numbers.
    pub(super) compact: bool,
}

// Heights in pixels.
const ROW: f64 = 18.0;
const HEADING: f64 = 22.0;
const COMPACT_ROW: f64 = 8.0;

impl DotPlot {
    /// A plot with the number of every dot, two decimals, and an axis that includes all dots.
    pub(super) fn new(title: &str, unit: &str, groups: Vec<DotGroup>, min_range: (f64, f64)) -> Self {
        let limits = (f64::MIN, f64::MAX);
        let (title, unit) = (title.to_owned(), unit.to_owned());
        Self { title, unit, groups, min_range, limits, decimals: 2, band: None, reference: None, compact: false }
    }

    /// Ticks of an axis that includes all dots within the limits.
    fn ticks(&self) -> Ticks {
        let (mut low, mut high) = self.min_range;
        for dot in self.groups.iter().flat_map(|group| &group.dots) {
            let ends = dot.mean.map(|m| [m.mean - m.se, m.mean + m.se]).into_iter().flatten();
            for value in ends.chain(dot.single_arms.iter().copied()).filter(|value| value.is_finite()) {
                low = low.min(value);
                high = high.max(value);
            }
        }
        let mut ticks = Ticks::covering(low.max(self.limits.0), high.min(self.limits.1), 4);
        ticks.values.retain(|value| (self.limits.0..=self.limits.1).contains(value));
        ticks
    }

    fn height_of(&self, group: &DotGroup) -> f64 {
        let n = group.dots.len() as f64;
        let head = if group.name.is_empty() { 0.0 } else { HEADING };
        if self.compact { n * COMPACT_ROW + 10.0 } else { head + n * ROW + 6.0 }
    }

    /// Draws the plot.
    pub(super) fn svg(&self) -> String {
        let rows: f64 = self.groups.iter().map(|group| self.height_of(group)).sum();
        let (left, right) = if self.compact { (96.0, WIDTH - 14.0) } else { (116.0, WIDTH - 92.0) };
        let top = if self.band.is_some() { 20.0 } else { 6.0 };
        let area = PlotArea { left, top, right, bottom: top + rows };
        let ticks = self.ticks();
        let scale = Scale::new(ticks.range(), (left, right));
        let mut inside = String::new();
        if let Some((low, high)) = self.band {
            let (from, to) = (scale.position(low), scale.position(high));
            inside += &format!(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" class=\"band\"/>",
                px(from),
                px(area.top),
                px(to - from),
                px(rows)
            );
            let text = format!("{}–{}", number(low, 0), number(high, 0));
            inside += &label(f64::midpoint(from, to), area.top - 6.0, "tick mid", &text);
        }
        inside += &area.axis_x(&scale, &ticks, &self.unit, true);
        if let Some(value) = self.reference.filter(|value| scale.contains(*value)) {
            inside += &line((scale.position(value), area.top), (scale.position(value), area.bottom), "rule");
        }
        let mut y = area.top;
        for group in &self.groups {
            inside += &self.group(group, y, &area, &scale);
            y += self.height_of(group);
        }
        svg(&self.title, area.bottom + 38.0, &inside)
    }

    fn group(&self, group: &DotGroup, top: f64, area: &PlotArea, scale: &Scale) -> String {
        let mut out = String::new();
        let mut y = top;
        let step = if self.compact {
            let height = self.height_of(group);
            out += &line((0.0, top), (area.right, top), "grid");
            out += &label(0.0, top + height / 2.0 + 4.0, "row", &shorten(&group.name, 15));
            y += 5.0 + COMPACT_ROW / 2.0;
            COMPACT_ROW
        } else {
            if !group.name.is_empty() {
                out += &label(0.0, top + 15.0, "row head", &shorten(&group.name, 18));
                y += HEADING;
            }
            y += ROW / 2.0;
            ROW
        };
        for dot in &group.dots {
            let value = self.value_text(dot);
            let tooltip = escape(format!("{} {}: {value}", group.name, dot.name).trim_start());
            let mut mark = String::new();
            if !self.compact {
                mark += &marker(dot.series, 5.0, y, 3.6);
                mark += &label(14.0, y + 4.0, "row", &shorten(&dot.name, 15));
                mark += &label(WIDTH, y + 4.0, "row end", &value);
            }
            for value in dot.single_arms.iter().filter(|value| scale.contains(**value)) {
                let class = format!("faint p{}", dot.series % COLOURS);
                mark += &line((scale.position(*value), y - 4.5), (scale.position(*value), y + 4.5), &class);
            }
            if let Some(mean) = dot.mean {
                let (from, to) = (scale.position(mean.mean - mean.se), scale.position(mean.mean + mean.se));
                mark += &line((from, y), (to, y), &format!("whisker p{}", dot.series % COLOURS));
                mark += &if scale.contains(mean.mean) {
                    marker(dot.series, scale.position(mean.mean), y, if self.compact { 3.4 } else { 4.2 })
                } else {
                    arrow(dot.series, scale.position(mean.mean), y, mean.mean < self.limits.0)
                };
            }
            out += &format!("<g><title>{tooltip}</title>{mark}</g>");
            y += step;
        }
        out
    }

    /// The explanation, with a sentence about arrows if the plot has any.
    pub(super) fn explanation_with_arrows(&self, text: &str) -> String {
        let beyond = |mean: Mean| mean.mean < self.limits.0 || mean.mean > self.limits.1;
        let any = self.groups.iter().flat_map(|group| &group.dots).filter_map(|dot| dot.mean).any(beyond);
        if any { format!("{text} An arrow marks a value beyond the axis.") } else { text.to_owned() }
    }

    fn value_text(&self, dot: &Dot) -> String {
        let number = |mean: Mean| format!("{} ± {}", number(mean.mean, self.decimals), number(mean.se, self.decimals));
        dot.value_text.clone().or_else(|| dot.mean.map(number)).unwrap_or_else(|| NO_VALUE.to_owned())
    }
}

/// An arrow at the end of the axis, for a value beyond it.
fn arrow(series: usize, x: f64, y: f64, below: bool) -> String {
    let side = if below { 1.0 } else { -1.0 };
    let points = [(0.0, 0.0), (8.0, -4.5), (8.0, 4.5)].map(|(dx, dy)| format!("{},{}", px(x + side * dx), px(y + dy)));
    format!("<polygon points=\"{}\" class=\"mark p{}\"/>", points.join(" "), series % COLOURS)
}
