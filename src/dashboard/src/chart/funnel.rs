//! Funnel: for each step a bar per arm, on a scale of the arm's exposed units. A hollow bar behind it shows the step
//! before, so the empty part is what was lost.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{
    Area, Size, arm_name, colour, empty_state, in_both_sizes, label, label_within, legend, line, number_at, picture,
    rectangle, svg_badge,
};
use super::scale::Scale;
use crate::format::{self, NumberFormat, plural};

/// Most arms drawn; the table has all.
const DRAWN: usize = 8;
/// Height of a bar with the space around it.
const ROW: f64 = 18.0;
/// Height of a step's heading.
const HEAD: f64 = 26.0;

/// Draws the units that reached each step. `reached[arm]` begins with the exposed units, followed by one number per
/// step; `lifts[arm]` has one lift per step, any of which may be missing. The funnel page has the table.
#[must_use]
pub fn funnel(names: &[String], steps: &[String], reached: &[Vec<u64>], lifts: &[Vec<Option<Interval>>]) -> Markup {
    let exposed = |arm: usize| reached.get(arm).and_then(|counts| counts.first()).copied().unwrap_or(0);
    let arms = names.len().max(reached.len());
    if steps.is_empty() || (0..arms).all(|arm| exposed(arm) == 0) {
        return empty_state("No units have been exposed yet.");
    }
    let data = Data { names, steps, reached, lifts };
    let mut shown: Vec<usize> = (1..arms).collect();
    shown.sort_by_key(|arm| (std::cmp::Reverse(exposed(*arm)), *arm));
    shown.truncate(DRAWN - 1);
    shown.push(0);
    shown.sort_unstable();
    let sentence = data.sentence(&shown);
    let chart = in_both_sizes(|size| data.draw(size, &shown, &sentence));
    let entry = |arm: usize| (arm, html! { (format::count(exposed(arm))) " exposed" });
    let entries: Vec<(usize, Markup)> = shown.iter().map(|arm| entry(*arm)).collect();
    let below = html! {
        (legend(names, &entries))
        p class="note" {
            "Filled bars: units that reached this step. Hollow bars: units that reached the step before."
            @if arms > shown.len() {
                " Showing control and the " (shown.len() - 1) " variations with the most units; the table has all " (arms) "."
            }
        }
    };
    html! { figure class="chart funnel" { (chart) (below) } }
}

struct Data<'a> {
    names: &'a [String],
    steps: &'a [String],
    reached: &'a [Vec<u64>],
    lifts: &'a [Vec<Option<Interval>>],
}

impl Data<'_> {
    /// Units that reached a step; step 0 is the exposure.
    fn count(&self, arm: usize, step: usize) -> u64 {
        self.reached.get(arm).and_then(|counts| counts.get(step)).copied().unwrap_or(0)
    }

    /// Share of the exposed units that reached a step; NaN if none were exposed.
    fn share(&self, arm: usize, step: usize) -> f64 {
        self.count(arm, step) as f64 / self.count(arm, 0) as f64
    }

    /// Share of the units at the step before that reached this step; NaN if there were none.
    fn continued(&self, arm: usize, step: usize) -> f64 {
        self.count(arm, step) as f64 / self.count(arm, step.saturating_sub(1)) as f64
    }

    fn lift(&self, arm: usize, step: usize) -> Option<Interval> {
        self.lifts.get(arm).and_then(|lifts| lifts.get(step.checked_sub(1)?)).copied().flatten()
    }

    fn sentence(&self, shown: &[usize]) -> String {
        let last = self.steps.len();
        let shares = shown.iter().take(4).map(|arm| {
            format!("{} {}", arm_name(self.names, *arm), NumberFormat::Percent1.text(self.share(*arm, last)))
        });
        let shares: Vec<String> = shares.collect();
        let name = self.steps.last().map_or("", String::as_str);
        format!(
            "Funnel with {}; share of exposed units that reached {name}: {}.",
            plural(last as u64, "step"),
            shares.join(", ")
        )
    }

    fn draw(&self, size: Size, shown: &[usize], sentence: &str) -> Markup {
        let group = HEAD + ROW * shown.len() as f64 + 8.0;
        let area = Area {
            left: size.pick(24.0, 190.0),
            top: 14.0,
            right: size.width() - size.pick(134.0, 232.0),
            bottom: 14.0 + group * self.steps.len() as f64,
        };
        let x = Scale::new((0.0, 1.0), (area.left, area.right));
        // Right ends of the columns.
        let (of_exposed, continued, lift) = match size {
            Size::Narrow => (256.0, 320.0, None),
            Size::Wide => (size.width() - 156.0, size.width() - 76.0, Some(size.width())),
        };
        let inside = html! {
            (label(of_exposed, 10.0, "unit end", "of exposed"))
            (label(continued, 10.0, "unit end", "continued"))
            @if let Some(x) = lift { (label(x, 10.0, "unit end", "lift")) }
            @for value in [0.0, 0.5, 1.0] {
                (line((x.at(value), area.top + 4.0), (x.at(value), area.bottom), "grid"))
                (number_at(x.at(value), area.bottom + 14.0, "tick mid", value, NumberFormat::Percent0))
            }
            (label(f64::midpoint(area.left, area.right), area.bottom + 30.0, "unit mid", "share of exposed units"))
            @for (step, name) in self.steps.iter().enumerate() {
                @let top = area.top + group * step as f64;
                (label_within(0.0, top + 18.0, "strong halo", &format!("{}. {name}", step + 1), area.right))
                @for (at, arm) in shown.iter().enumerate() {
                    @let y = top + HEAD + ROW * at as f64;
                    @let (now, before) = (self.share(*arm, step + 1), self.share(*arm, step));
                    (svg_badge(*arm, 10.0, y + 7.0))
                    @if size.is_wide() { (label_within(24.0, y + 11.0, "", &arm_name(self.names, *arm), area.left - 32.0)) }
                    @if before > 0.0 { (rectangle((area.left, x.at(before)), (y + 1.0, y + 13.0), "hollow")) }
                    @if now > 0.0 { (rectangle((area.left, x.at(now)), (y + 1.0, y + 13.0), &format!("share {}", colour(*arm)))) }
                    (number_at(of_exposed, y + 11.0, "strong end", now, NumberFormat::Percent1))
                    (number_at(continued, y + 11.0, "tick end", self.continued(*arm, step + 1), NumberFormat::Percent1))
                    @if let (Some(x), Some(lift)) = (lift, self.lift(*arm, step + 1)) {
                        (number_at(x, y + 11.0, "end", lift.estimate, NumberFormat::Lift))
                    }
                }
            }
        };
        picture(size, area.bottom + 36.0, sentence, &inside)
    }
}
