//! What plots are made of: scales, ticks, axes, markers, and labels that keep out of each other's way. A plot is drawn
//! for the width of a phone and grows with its card, so that its letters are never too small to read.

use super::text::{escape, number};

/// The width of every plot, in units that are pixels on a phone.
pub(super) const WIDTH: f64 = 360.0;

/// Lines between numbers and pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Numbers `low..high` onto pixels `from..to`; a range of nothing is widened, so that it has a middle.
    pub(super) fn new((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to }
    }

    /// Where a number lies, at most at an end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + part * (self.to - self.from)
    }

    /// Whether a number is on it.
    pub(super) fn has(&self, value: f64) -> bool {
        let slack = 1e-9 * (self.high - self.low);
        (self.low - slack..=self.high + slack).contains(&value)
    }
}

/// Round numbers that cover a range, at least two.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    decimals: usize,
}

impl Ticks {
    /// About so many, the first at most `low`, the last at least `high`.
    pub(super) fn covering(low: f64, high: f64, about: usize) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let rough = (high - low) / about.max(1) as f64;
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

    /// Days, at weeks where there are enough.
    pub(super) fn days(days: f64) -> Self {
        let steps = [1.0, 2.0, 7.0, 14.0, 28.0, 56.0, 91.0];
        let step = steps.into_iter().find(|step| days / step <= 5.0).unwrap_or(91.0);
        let n = (days / step).floor() as u32;
        Self { values: (0..=n).map(|i| f64::from(i) * step).collect(), decimals: 0 }
    }

    /// From the first to the last.
    pub(super) fn range(&self) -> (f64, f64) {
        (self.values.first().copied().unwrap_or(0.0), self.values.last().copied().unwrap_or(1.0))
    }

    /// As an axis says it; thousands and millions are cut short.
    pub(super) fn say(&self, value: f64) -> String {
        match self.values.iter().fold(0.0_f64, |most, v| most.max(v.abs())) {
            most if most >= 1e6 => format!("{}M", trim(number(value / 1e6, 2))),
            most if most >= 1e4 => format!("{}k", trim(number(value / 1e3, 2))),
            _ => number(value, self.decimals),
        }
    }
}

fn trim(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A coordinate: a tenth of a pixel is fine enough, and short.
pub(super) fn px(value: f64) -> String {
    let rounded = if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 };
    format!("{}", rounded + 0.0)
}

/// A plot of this height with its name, which is read aloud and shown under the pointer.
pub(super) fn svg(title: &str, height: f64, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{inside}</svg>",
        px(height),
        title = escape(title)
    )
}

/// Text at a place; `class` says how it is set.
pub(super) fn label(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text x=\"{}\" y=\"{}\" class=\"{class}\">{}</text>", px(x), px(y), escape(text))
}

/// A straight line.
pub(super) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) -> String {
    format!("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{class}\"/>", px(x1), px(y1), px(x2), px(y2))
}

/// The area that a plot draws into, in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// Grid lines across with their numbers to the left, the unit above them.
    pub(super) fn axis_y(&self, scale: &Scale, ticks: &Ticks, unit: &str) -> String {
        let tick = |value: &f64| {
            let y = scale.at(*value);
            let grid = line((self.left, y), (self.right, y), "grid");
            grid + &label(self.left - 6.0, y + 4.0, "tick end", &ticks.say(*value))
        };
        let ticks: String = ticks.values.iter().map(tick).collect();
        ticks + &label(0.0, self.top - 10.0, "unit", unit)
    }

    /// Numbers below, and the unit below them.
    pub(super) fn axis_x(&self, scale: &Scale, ticks: &Ticks, unit: &str, grid: bool) -> String {
        let tick = |value: &f64| {
            let x = scale.at(*value);
            let (end, class) = if grid { (self.top, "grid") } else { (self.bottom + 4.0, "axis") };
            line((x, self.bottom), (x, end), class) + &label(x, self.bottom + 16.0, "tick mid", &ticks.say(*value))
        };
        let ticks: String = ticks.values.iter().filter(|value| scale.has(**value)).map(tick).collect();
        let middle = f64::midpoint(self.left, self.right);
        let axis = line((self.left, self.bottom), (self.right, self.bottom), "axis");
        ticks + &axis + &label(middle, self.bottom + 31.0, "unit mid", unit)
    }
}

/// The mark of the series of this number: shape and colour, so that neither has to be seen alone.
pub(super) fn marker(series: usize, x: f64, y: f64, r: f64) -> String {
    let class = format!("mark p{}", series % SERIES);
    let path = |points: &[(f64, f64)]| {
        let points: Vec<String> =
            points.iter().map(|(dx, dy)| format!("{},{}", px(x + dx * r), px(y + dy * r))).collect();
        format!("<polygon points=\"{}\" class=\"{class}\"/>", points.join(" "))
    };
    // The series after the last colour have the first colour and another shape.
    match (series + series / SERIES) % 6 {
        0 => format!("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" class=\"{class}\"/>", px(x), px(y), px(r)),
        1 => path(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => path(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        3 => path(&[(0.0, -1.2), (1.15, 0.85), (-1.15, 0.85)]),
        4 => path(&[(0.0, 1.2), (1.15, -0.85), (-1.15, -0.85)]),
        _ => path(&[(-1.0, -0.6), (0.0, -1.2), (1.0, -0.6), (1.0, 0.6), (0.0, 1.2), (-1.0, 0.6)]),
    }
}

/// How many colours there are for series.
pub(super) const SERIES: usize = 7;

/// Moves labels apart to at least `gap`, within `low..high`, in their order and as little as that needs.
pub(super) fn spread(wanted: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
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

    fn said(ticks: &Ticks) -> Vec<String> {
        ticks.values.iter().map(|value| ticks.say(*value)).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(said(&Ticks::covering(0.0, 1.0, 4)), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(said(&Ticks::covering(0.0, 37.0, 4)), ["0", "10", "20", "30", "40"]);
        assert_eq!(said(&Ticks::covering(-3.1, 3.1, 4)), ["−4", "−2", "0", "2", "4"]);
        assert_eq!(said(&Ticks::covering(0.0, 23_000.0, 5)), ["0k", "5k", "10k", "15k", "20k", "25k"]);
        assert_eq!(Ticks::covering(2.0, 2.0, 4).range(), (2.0, 3.0));
        assert_eq!(said(&Ticks::days(28.0)), ["0", "7", "14", "21", "28"]);
        assert_eq!(said(&Ticks::days(3.0)), ["0", "1", "2", "3"]);
    }

    #[test]
    fn scales_hold_at_their_ends() {
        let scale = Scale::new((0.0, 10.0), (100.0, 0.0));
        assert_eq!([scale.at(0.0), scale.at(5.0), scale.at(99.0)], [100.0, 50.0, 0.0]);
        assert!(Scale::new((1.0, 1.0), (0.0, 10.0)).at(1.0).is_finite());
        assert_eq!([px(-0.04), px(1.26), px(f64::NAN)], ["0", "1.3", "0"]);
    }

    #[test]
    fn labels_keep_apart_and_in_order() {
        assert_eq!(spread(&[50.0, 50.0, 10.0], 12.0, (0.0, 60.0)), [48.0, 60.0, 10.0]);
        assert_eq!(spread(&[], 12.0, (0.0, 60.0)), Vec::<f64>::new());
    }
}
