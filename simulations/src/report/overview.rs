//! All scenarios of a report side by side, a plot for each of the numbers that matter most.

use super::dots::{Dot, Dots, Group};
use super::page::ratio;
use super::section::{card, hundredths};
use super::text::{table, words};
use super::{Report, over_reference};
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

/// What a plot of all scenarios is about.
struct Across {
    title: &'static str,
    sub: &'static str,
    unit: &'static str,
    domain: (f64, f64),
    most: (f64, f64),
    rule: Option<f64>,
    band: Option<(f64, f64)>,
    /// In the unit of the axis.
    of: fn(&Simulation, &Summary) -> Option<Mean>,
}

const ACROSS: &[Across] = &[
    Across {
        title: "Regret",
        sub: "Outcomes forgone in the end.",
        unit: "% of what the best arm would have given",
        domain: (0.0, 1.0),
        most: (f64::MIN, 100.0),
        rule: None,
        band: None,
        of: |_, s| Some(hundredths(s.regret)),
    },
    Across {
        title: "Regret against Thompson",
        sub: "1 is what unconstrained Thompson sampling forgoes on the same units. Arrows lie beyond the axis.",
        unit: "times the regret of unconstrained Thompson",
        domain: (0.0, 2.0),
        most: (0.0, 6.0),
        rule: Some(1.0),
        band: None,
        of: |simulation, s| over_reference(simulation, &s.policy),
    },
    Across {
        title: "Right winner",
        sub: "The leader in the end is the best arm.",
        unit: "% of runs",
        domain: (0.0, 100.0),
        most: (0.0, 100.0),
        rule: None,
        band: None,
        of: |_, s| s.correct.map(hundredths),
    },
    Across {
        title: "False winner",
        sub: "An arm that is not the best was once found clearly best.",
        unit: "% of runs",
        domain: (0.0, 20.0),
        most: (0.0, 100.0),
        rule: None,
        band: None,
        of: |_, s| Some(hundredths(s.false_winner)),
    },
    Across {
        title: "Coverage of e3",
        sub: "95% intervals for the lift, within epochs as served, that hold the truth; shaded: 93–97%. Arrows lie \
              beyond the axis.",
        unit: "% of intervals that hold the true lift",
        domain: (90.0, 100.0),
        most: (80.0, 100.0),
        rule: Some(95.0),
        band: Some((93.0, 97.0)),
        of: |_, s| s.estimators.iter().find(|e| e.estimator == "e3")?.coverage.map(hundredths),
    },
    Across {
        title: "Moved between variations",
        sub: "Units that were ever moved from one variation to another.",
        unit: "% of units",
        domain: (0.0, 1.0),
        most: (0.0, 100.0),
        rule: None,
        band: None,
        of: |_, s| Some(hundredths(s.moved_between)),
    },
];

/// All scenarios side by side, where there are several.
pub(super) fn overview(report: &Report<'_>) -> String {
    if report.simulations.len() < 2 {
        return String::new();
    }
    let cards: String = ACROSS.iter().map(|across| across.card(report)).collect();
    format!("<h3>Across scenarios</h3><div class=\"cards\">{cards}</div>")
}

impl Across {
    fn card(&self, report: &Report<'_>) -> String {
        let group = |simulation: &Simulation| {
            let dot = |s: &Summary| Dot {
                series: report.series(&s.policy),
                name: s.policy.clone(),
                mean: (self.of)(simulation, s),
                faint: Vec::new(),
                said: None,
            };
            let dots = simulation.summaries.iter().map(dot).collect();
            Group { name: simulation.scenario.doc().name.clone(), dots }
        };
        let groups: Vec<Group> = report.simulations.iter().map(group).collect();
        let head: Vec<String> = words(&["scenario", "policy", self.unit]);
        let rows = groups
            .iter()
            .flat_map(|group| group.dots.iter().map(|dot| vec![group.name.clone(), dot.name.clone(), ratio(dot.mean)]));
        let table = table(self.title, &head, &rows.collect::<Vec<_>>());
        let title = format!("{} by scenario and policy", self.title);
        let plot = Dots::new(&title, self.unit, groups, self.domain);
        let plot = Dots { most: self.most, rule: self.rule, band: self.band, dense: true, ..plot };
        card(self.title, self.sub, &plot.svg(), &table)
    }
}
