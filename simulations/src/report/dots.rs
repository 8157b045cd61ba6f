//! The dot plot: means with their standard errors on a common scale. Regret, winners, moves, coverage and bias are all
//! read from it, so that whoever has read one can read the others.

use super::plot::{Area, Scale, Ticks, WIDTH, label, line, marker, px, svg};
use super::text::{NONE, escape, number, shorten};
use crate::summary::Mean;

/// One mean, already in the axis's unit.
#[derive(Debug, Clone)]
pub(super) struct Dot {
    /// Which policy, for its mark.
    pub(super) series: usize,
    /// What the row is called.
    pub(super) name: String,
    /// None where there is none.
    pub(super) mean: Option<Mean>,
    /// Single arms' means, shown faintly.
    pub(super) faint: Vec<f64>,
    /// How the value is said, if not as a number with its error.
    pub(super) said: Option<String>,
}

/// Dots that belong together, under a heading.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) dots: Vec<Dot>,
}

/// The whole plot.
#[derive(Debug, Clone)]
pub(super) struct Dots {
    pub(super) title: String,
    /// What the axis counts.
    pub(super) unit: String,
    pub(super) groups: Vec<Group>,
    /// What the axis must reach at least.
    pub(super) domain: (f64, f64),
    /// What it must not go beyond; an arrow stands for what lies there.
    pub(super) most: (f64, f64),
    pub(super) decimals: usize,
    /// Where things ought to be.
    pub(super) band: Option<(f64, f64)>,
    /// A number to hold the dots against.
    pub(super) rule: Option<f64>,
    /// One line per group instead of one per dot; the numbers are then left to a table.
    pub(super) dense: bool,
}

const ROW: f64 = 18.0;
const HEAD: f64 = 22.0;
const DODGE: f64 = 8.0;

impl Dots {
    /// With the number of every dot, two decimals, and an axis as long as the dots need.
    pub(super) fn new(title: &str, unit: &str, groups: Vec<Group>, domain: (f64, f64)) -> Self {
        let most = (f64::MIN, f64::MAX);
        let (title, unit) = (title.to_owned(), unit.to_owned());
        Self { title, unit, groups, domain, most, decimals: 2, band: None, rule: None, dense: false }
    }

    fn ticks(&self) -> Ticks {
        let (mut low, mut high) = self.domain;
        for dot in self.groups.iter().flat_map(|group| &group.dots) {
            let ends = dot.mean.map(|m| [m.mean - m.se, m.mean + m.se]).into_iter().flatten();
            for value in ends.chain(dot.faint.iter().copied()).filter(|value| value.is_finite()) {
                low = low.min(value);
                high = high.max(value);
            }
        }
        let mut ticks = Ticks::covering(low.max(self.most.0), high.min(self.most.1), 4);
        ticks.values.retain(|value| (self.most.0..=self.most.1).contains(value));
        ticks
    }

    fn height_of(&self, group: &Group) -> f64 {
        let n = group.dots.len() as f64;
        let head = if group.name.is_empty() { 0.0 } else { HEAD };
        if self.dense { n * DODGE + 10.0 } else { head + n * ROW + 6.0 }
    }

    /// Draws it.
    pub(super) fn svg(&self) -> String {
        let rows: f64 = self.groups.iter().map(|group| self.height_of(group)).sum();
        let (left, right) = if self.dense { (96.0, WIDTH - 14.0) } else { (116.0, WIDTH - 92.0) };
        let top = if self.band.is_some() { 20.0 } else { 6.0 };
        let area = Area { left, top, right, bottom: top + rows };
        let ticks = self.ticks();
        let scale = Scale::new(ticks.range(), (left, right));
        let mut inside = String::new();
        if let Some((low, high)) = self.band {
            let (from, to) = (scale.at(low), scale.at(high));
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
        if let Some(rule) = self.rule.filter(|rule| scale.has(*rule)) {
            inside += &line((scale.at(rule), area.top), (scale.at(rule), area.bottom), "rule");
        }
        let mut y = area.top;
        for group in &self.groups {
            inside += &self.group(group, y, &area, &scale);
            y += self.height_of(group);
        }
        svg(&self.title, area.bottom + 38.0, &inside)
    }

    fn group(&self, group: &Group, top: f64, area: &Area, scale: &Scale) -> String {
        let mut out = String::new();
        let mut y = top;
        let step = if self.dense {
            let height = self.height_of(group);
            out += &line((0.0, top), (area.right, top), "grid");
            out += &label(0.0, top + height / 2.0 + 4.0, "row", &shorten(&group.name, 15));
            y += 5.0 + DODGE / 2.0;
            DODGE
        } else {
            if !group.name.is_empty() {
                out += &label(0.0, top + 15.0, "row head", &shorten(&group.name, 18));
                y += HEAD;
            }
            y += ROW / 2.0;
            ROW
        };
        for dot in &group.dots {
            let said = self.said(dot);
            let whole = escape(format!("{} {}: {said}", group.name, dot.name).trim_start());
            let mut mark = String::new();
            if !self.dense {
                mark += &marker(dot.series, 5.0, y, 3.6);
                mark += &label(14.0, y + 4.0, "row", &shorten(&dot.name, 15));
                mark += &label(WIDTH, y + 4.0, "row end", &said);
            }
            for value in dot.faint.iter().filter(|value| scale.has(**value)) {
                let class = format!("faint p{}", dot.series % super::plot::SERIES);
                mark += &line((scale.at(*value), y - 4.5), (scale.at(*value), y + 4.5), &class);
            }
            if let Some(mean) = dot.mean {
                let (from, to) = (scale.at(mean.mean - mean.se), scale.at(mean.mean + mean.se));
                mark += &line((from, y), (to, y), &format!("whisker p{}", dot.series % super::plot::SERIES));
                mark += &if scale.has(mean.mean) {
                    marker(dot.series, scale.at(mean.mean), y, if self.dense { 3.4 } else { 4.2 })
                } else {
                    beyond(dot.series, scale.at(mean.mean), y, mean.mean < self.most.0)
                };
            }
            out += &format!("<g><title>{whole}</title>{mark}</g>");
            y += step;
        }
        out
    }

    /// What a text has to add about arrows, if there are any.
    pub(super) fn told(&self, text: &str) -> String {
        let beyond = |mean: Mean| mean.mean < self.most.0 || mean.mean > self.most.1;
        let any = self.groups.iter().flat_map(|group| &group.dots).filter_map(|dot| dot.mean).any(beyond);
        if any { format!("{text} Arrows lie beyond the axis.") } else { text.to_owned() }
    }

    fn said(&self, dot: &Dot) -> String {
        let number = |mean: Mean| format!("{} ± {}", number(mean.mean, self.decimals), number(mean.se, self.decimals));
        dot.said.clone().or_else(|| dot.mean.map(number)).unwrap_or_else(|| NONE.to_owned())
    }
}

/// An arrow at the end of the axis, for what lies beyond it.
fn beyond(series: usize, x: f64, y: f64, below: bool) -> String {
    let side = if below { 1.0 } else { -1.0 };
    let points = [(0.0, 0.0), (8.0, -4.5), (8.0, 4.5)].map(|(dx, dy)| format!("{},{}", px(x + side * dx), px(y + dy)));
    format!("<polygon points=\"{}\" class=\"mark p{}\"/>", points.join(" "), series % super::plot::SERIES)
}
