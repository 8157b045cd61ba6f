//! How far units get: per step a bar for each arm, all on one scale of those exposed, and behind it, hollow, the bar of
//! the step before, so that what was lost is what stays empty.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::draw::{
    Area, Size, block, both, colour, figure_at, key, label, label_within, line, name_of, nothing, picture, svg_badge,
};
use super::scale::Scale;
use super::text::{self, Format, plural};

/// So many arms are drawn; the table has all.
const DRAWN: usize = 8;
const ROW: f64 = 18.0;
const HEAD: f64 = 26.0;

/// Units that reached each step: `reached[arm]` begins with those exposed, then one number per step; `lifts[arm]` has one
/// per step, of which any may be missing. Unlike other plots it brings no table: the funnel's page is one.
#[must_use]
pub fn funnel(names: &[String], steps: &[String], reached: &[Vec<u64>], lifts: &[Vec<Option<Interval>>]) -> Markup {
    let exposed = |arm: usize| reached.get(arm).and_then(|counts| counts.first()).copied().unwrap_or(0);
    let arms = names.len().max(reached.len());
    if steps.is_empty() || (0..arms).all(|arm| exposed(arm) == 0) {
        return nothing("Nobody has been exposed to these steps yet.");
    }
    let data = Data { names, steps, reached, lifts };
    let mut shown: Vec<usize> = (1..arms).collect();
    shown.sort_by_key(|arm| (std::cmp::Reverse(exposed(*arm)), *arm));
    shown.truncate(DRAWN - 1);
    shown.push(0);
    shown.sort_unstable();
    let sentence = data.sentence(&shown);
    let plot = both(|size| data.drawn(size, &shown, &sentence));
    let entry = |arm: usize| (arm, html! { (text::count(exposed(arm))) " exposed" });
    let entries: Vec<(usize, Markup)> = shown.iter().map(|arm| entry(*arm)).collect();
    let below = html! {
        (key(names, &entries))
        p class="note" {
            "Full bars: reached this step. Hollow: reached the step before."
            @if arms > shown.len() {
                " Drawn are control and the " (shown.len() - 1) " variations with most units; the table has all " (arms) "."
            }
        }
    };
    html! { figure class="chart funnel" { (plot) (below) } }
}

struct Data<'a> {
    names: &'a [String],
    steps: &'a [String],
    reached: &'a [Vec<u64>],
    lifts: &'a [Vec<Option<Interval>>],
}

impl Data<'_> {
    /// How many got there; 0 is exposure.
    fn count(&self, arm: usize, step: usize) -> u64 {
        self.reached.get(arm).and_then(|counts| counts.get(step)).copied().unwrap_or(0)
    }

    /// Of those exposed; no number where there are none.
    fn share(&self, arm: usize, step: usize) -> f64 {
        self.count(arm, step) as f64 / self.count(arm, 0) as f64
    }

    /// Of those at the step before.
    fn went_on(&self, arm: usize, step: usize) -> f64 {
        self.count(arm, step) as f64 / self.count(arm, step.saturating_sub(1)) as f64
    }

    fn lift(&self, arm: usize, step: usize) -> Option<Interval> {
        self.lifts.get(arm).and_then(|lifts| lifts.get(step.checked_sub(1)?)).copied().flatten()
    }

    fn sentence(&self, shown: &[usize]) -> String {
        let last = self.steps.len();
        let said = shown
            .iter()
            .take(4)
            .map(|arm| format!("{} {}", name_of(self.names, *arm), Format::Percent1.text(self.share(*arm, last))));
        let said: Vec<String> = said.collect();
        let name = self.steps.last().map_or("", String::as_str);
        format!(
            "Funnel of {}; share of those exposed that reached {name}: {}.",
            plural(last as u64, "step"),
            said.join(", ")
        )
    }

    fn drawn(&self, size: Size, shown: &[usize], sentence: &str) -> Markup {
        let group = HEAD + ROW * shown.len() as f64 + 8.0;
        let area = Area {
            left: size.pick(24.0, 190.0),
            top: 14.0,
            right: size.width() - size.pick(134.0, 232.0),
            bottom: 14.0 + group * self.steps.len() as f64,
        };
        let x = Scale::new((0.0, 1.0), (area.left, area.right));
        // Columns end here.
        let (of_exposed, went_on, lifted) = match size {
            Size::Narrow => (256.0, 320.0, None),
            Size::Wide => (size.width() - 156.0, size.width() - 76.0, Some(size.width())),
        };
        let inside = html! {
            (label(of_exposed, 10.0, "unit end", "of exposed"))
            (label(went_on, 10.0, "unit end", "went on"))
            @if let Some(x) = lifted { (label(x, 10.0, "unit end", "lift")) }
            @for value in [0.0, 0.5, 1.0] {
                (line((x.at(value), area.top + 4.0), (x.at(value), area.bottom), "grid"))
                (figure_at(x.at(value), area.bottom + 14.0, "tick mid", value, Format::Percent0))
            }
            (label(f64::midpoint(area.left, area.right), area.bottom + 30.0, "unit mid", "share of exposed"))
            @for (step, name) in self.steps.iter().enumerate() {
                @let top = area.top + group * step as f64;
                (label_within(0.0, top + 18.0, "strong halo", &format!("{}. {name}", step + 1), area.right))
                @for (at, arm) in shown.iter().enumerate() {
                    @let y = top + HEAD + ROW * at as f64;
                    @let (now, before) = (self.share(*arm, step + 1), self.share(*arm, step));
                    (svg_badge(*arm, 10.0, y + 7.0))
                    @if size.is_wide() { (label_within(24.0, y + 11.0, "", &name_of(self.names, *arm), area.left - 32.0)) }
                    @if before > 0.0 { (block((area.left, x.at(before)), (y + 1.0, y + 13.0), "hollow")) }
                    @if now > 0.0 { (block((area.left, x.at(now)), (y + 1.0, y + 13.0), &format!("share {}", colour(*arm)))) }
                    (figure_at(of_exposed, y + 11.0, "strong end", now, Format::Percent1))
                    (figure_at(went_on, y + 11.0, "tick end", self.went_on(*arm, step + 1), Format::Percent1))
                    @if let (Some(x), Some(lift)) = (lifted, self.lift(*arm, step + 1)) {
                        (figure_at(x, y + 11.0, "end", lift.estimate, Format::SignedPercent1))
                    }
                }
            }
        };
        picture(size, area.bottom + 36.0, sentence, &inside)
    }
}
