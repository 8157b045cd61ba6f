//! Parts of all charts: scales, ticks, axes, markers, and labels that do not overlap. A chart is drawn for the width of
//! a phone and grows with its card, so that its text is never too small to read.

use super::text::{escape, number};

/// Width of every chart, in pixels of a phone.
pub(super) const WIDTH: f64 = 360.0;

/// Maps values to pixels linearly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps values `low..high` to pixels `from..to`. An empty range is widened to length 1.
    pub(super) fn new((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to }
    }

    /// The pixel of a value. A value beyond the range is placed at its end.
    pub(super) fn position(&self, value: f64) -> f64 {
        let fraction = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + fraction * (self.to - self.from)
    }

    /// Whether the range contains a value.
    pub(super) fn contains(&self, value: f64) -> bool {
        let tolerance = 1e-9 * (self.high - self.low);
        (self.low - tolerance..=self.high + tolerance).contains(&value)
    }
}

/// Round values that cover a range; at least two.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    decimals: usize,
}

impl Ticks {
    /// About `count` ticks. The first is at most `low`, the last at least `high`.
    pub(super) fn covering(low: f64, high: f64, count: usize) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let rough = (high - low) / count.max(1) as f64;
        let magnitude = 10_f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|f| f * magnitude >= rough * 0.999).unwrap_or(10.0);
        let step = factor * magnitude;
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let n = (last - first).clamp(1.0, 100.0) as u32;
        let values = (0..=n).map(|i| (first + f64::from(i)) * step).collect();
        let decimals = (0..9).find(|d| {
            let scaled = step * 10_f64.powi(*d);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        });
        Self { values, decimals: decimals.unwrap_or(9) as usize }
    }

    /// Ticks of a time axis in days: whole weeks in long runs.
    pub(super) fn days(days: f64) -> Self {
        let steps = [1.0, 2.0, 7.0, 14.0, 28.0, 56.0, 91.0];
        let step = steps.into_iter().find(|step| days / step <= 5.0).unwrap_or(91.0);
        let n = (days / step).floor() as u32;
        Self { values: (0..=n).map(|i| f64::from(i) * step).collect(), decimals: 0 }
    }

    /// From the first tick to the last.
    pub(super) fn range(&self) -> (f64, f64) {
        (self.values.first().copied().unwrap_or(0.0), self.values.last().copied().unwrap_or(1.0))
    }

    /// Formats a tick, with k for thousands and M for millions on long axes.
    pub(super) fn format(&self, value: f64) -> String {
        match self.values.iter().fold(0.0_f64, |largest, v| largest.max(v.abs())) {
            largest if largest >= 1e6 => format!("{}M", trim_zeros(number(value / 1e6, 2))),
            largest if largest >= 1e4 => format!("{}k", trim_zeros(number(value / 1e3, 2))),
            _ => number(value, self.decimals),
        }
    }
}

fn trim_zeros(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Formats a coordinate, rounded to a tenth of a pixel to keep the page small.
pub(super) fn px(value: f64) -> String {
    let rounded = if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 };
    format!("{}", rounded + 0.0)
}

/// A chart of this height. Its title is read by screen readers and shown as a tooltip.
pub(super) fn svg(title: &str, height: f64, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{inside}</svg>",
        px(height),
        title = escape(title)
    )
}

/// Text at a position, with its CSS classes.
pub(super) fn label(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text x=\"{}\" y=\"{}\" class=\"{class}\">{}</text>", px(x), px(y), escape(text))
}

/// A straight line.
pub(super) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) -> String {
    format!("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{class}\"/>", px(x1), px(y1), px(x2), px(y2))
}

/// The area of a chart inside its axes, in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlotArea {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl PlotArea {
    /// The vertical axis: horizontal grid lines with their numbers to the left, and the unit above.
    pub(super) fn axis_y(&self, scale: &Scale, ticks: &Ticks, unit: &str) -> String {
        let tick = |value: &f64| {
            let y = scale.position(*value);
            let grid = line((self.left, y), (self.right, y), "grid");
            grid + &label(self.left - 6.0, y + 4.0, "tick end", &ticks.format(*value))
        };
        let ticks: String = ticks.values.iter().map(tick).collect();
        ticks + &label(0.0, self.top - 10.0, "unit", unit)
    }

    /// The horizontal axis: numbers below it, and the unit below the numbers. `grid` adds vertical grid lines.
    pub(super) fn axis_x(&self, scale: &Scale, ticks: &Ticks, unit: &str, grid: bool) -> String {
        let tick = |value: &f64| {
            let x = scale.position(*value);
            let (end, class) = if grid { (self.top, "grid") } else { (self.bottom + 4.0, "axis") };
            line((x, self.bottom), (x, end), class) + &label(x, self.bottom + 16.0, "tick mid", &ticks.format(*value))
        };
        let ticks: String = ticks.values.iter().filter(|value| scale.contains(**value)).map(tick).collect();
        let middle = f64::midpoint(self.left, self.right);
        let axis = line((self.left, self.bottom), (self.right, self.bottom), "axis");
        ticks + &axis + &label(middle, self.bottom + 31.0, "unit mid", unit)
    }
}

/// The marker of a policy. Shape and colour both differ, so that the chart can be read without colours.
pub(super) fn marker(series: usize, x: f64, y: f64, r: f64) -> String {
    let class = format!("mark p{}", series % COLOURS);
    let path = |points: &[(f64, f64)]| {
        let points: Vec<String> =
            points.iter().map(|(dx, dy)| format!("{},{}", px(x + dx * r), px(y + dy * r))).collect();
        format!("<polygon points=\"{}\" class=\"{class}\"/>", points.join(" "))
    };
    // After the last colour, colours start again with another shape.
    match (series + series / COLOURS) % 6 {
        0 => format!("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" class=\"{class}\"/>", px(x), px(y), px(r)),
        1 => path(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => path(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        3 => path(&[(0.0, -1.2), (1.15, 0.85), (-1.15, 0.85)]),
        4 => path(&[(0.0, 1.2), (1.15, -0.85), (-1.15, -0.85)]),
        _ => path(&[(-1.0, -0.6), (0.0, -1.2), (1.0, -0.6), (1.0, 0.6), (0.0, 1.2), (-1.0, 0.6)]),
    }
}

/// Number of colours of policies.
pub(super) const COLOURS: usize = 7;

/// Moves labels apart to at least `gap` within `low..high`, as little as possible and without changing their order.
pub(super) fn spread_labels(wanted: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]).then(a.cmp(b)));
    let mut placed = wanted.to_vec();
    let mut floor = low;
    for i in &order {
        placed[*i] = placed[*i].max(floor);
        floor = placed[*i] + gap;
    }
    let mut ceiling = high;
    for i in order.iter().rev() {
        placed[*i] = placed[*i].min(ceiling);
        ceiling = placed[*i] - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(ticks: &Ticks) -> Vec<String> {
        ticks.values.iter().map(|value| ticks.format(*value)).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(formatted(&Ticks::covering(0.0, 1.0, 4)), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(formatted(&Ticks::covering(0.0, 37.0, 4)), ["0", "10", "20", "30", "40"]);
        assert_eq!(formatted(&Ticks::covering(-3.1, 3.1, 4)), ["−4", "−2", "0", "2", "4"]);
        assert_eq!(formatted(&Ticks::covering(0.0, 23_000.0, 5)), ["0k", "5k", "10k", "15k", "20k", "25k"]);
        assert_eq!(Ticks::covering(2.0, 2.0, 4).range(), (2.0, 3.0));
        assert_eq!(formatted(&Ticks::days(28.0)), ["0", "7", "14", "21", "28"]);
        assert_eq!(formatted(&Ticks::days(3.0)), ["0", "1", "2", "3"]);
    }

    #[test]
    fn values_beyond_a_scale_are_placed_at_its_end() {
        let scale = Scale::new((0.0, 10.0), (100.0, 0.0));
        assert_eq!([scale.position(0.0), scale.position(5.0), scale.position(99.0)], [100.0, 50.0, 0.0]);
        assert!(Scale::new((1.0, 1.0), (0.0, 10.0)).position(1.0).is_finite());
        assert_eq!([px(-0.04), px(1.26), px(f64::NAN)], ["0", "1.3", "0"]);
    }

    #[test]
    fn labels_do_not_overlap_and_keep_their_order() {
        assert_eq!(spread_labels(&[50.0, 50.0, 10.0], 12.0, (0.0, 60.0)), [48.0, 60.0, 10.0]);
        assert_eq!(spread_labels(&[], 12.0, (0.0, 60.0)), Vec::<f64>::new());
    }
}
