//! Compares all scenarios of a report: one chart for each of the most important results.

use super::dot_plot::{Dot, DotGroup, DotPlot, in_percent};
use super::elements::{card, table};
use super::text::{mean_with_error, strings};
use super::{Report, regret_relative_to_unconstrained};
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

/// One result, compared over all scenarios.
struct Comparison {
    title: &'static str,
    explanation: &'static str,
    unit: &'static str,
    /// The axis includes at least this range.
    min_range: (f64, f64),
    /// The axis does not go beyond these limits.
    limits: (f64, f64),
    reference: Option<f64>,
    band: Option<(f64, f64)>,
    /// The result of one policy, in the unit of the axis.
    value: fn(&Simulation, &Summary) -> Option<Mean>,
}

const COMPARISONS: &[Comparison] = &[
    Comparison {
        title: "Regret",
        explanation: "Outcomes lost by the end of the run, compared with always serving the best variation.",
        unit: "% of the outcomes of the best variation",
        min_range: (0.0, 1.0),
        limits: (f64::MIN, 100.0),
        reference: None,
        band: None,
        value: |_, s| Some(in_percent(s.regret)),
    },
    Comparison {
        title: "Regret relative to unconstrained",
        explanation: "1 is the regret of unconstrained Thompson sampling on the same units. An arrow marks a value \
                      beyond the axis.",
        unit: "regret ÷ regret of unconstrained Thompson sampling",
        min_range: (0.0, 2.0),
        limits: (0.0, 6.0),
        reference: Some(1.0),
        band: None,
        value: |simulation, s| regret_relative_to_unconstrained(simulation, &s.policy),
    },
    Comparison {
        title: "Best variation found",
        explanation: "Runs in which the leader at the end is the best variation.",
        unit: "% of runs",
        min_range: (0.0, 100.0),
        limits: (0.0, 100.0),
        reference: None,
        band: None,
        value: |_, s| s.correct.map(in_percent),
    },
    Comparison {
        title: "False winner",
        explanation: "Runs in which a variation that is not the best was found clearly best at some time.",
        unit: "% of runs",
        min_range: (0.0, 20.0),
        limits: (0.0, 100.0),
        reference: None,
        band: None,
        value: |_, s| Some(in_percent(s.false_winner)),
    },
    Comparison {
        title: "Coverage of the lift shown to people (e3)",
        explanation: "95% intervals that contain the true lift. The shaded range is 93–97%. An arrow marks a value \
                      beyond the axis.",
        unit: "% of intervals that contain the true lift",
        min_range: (90.0, 100.0),
        limits: (80.0, 100.0),
        reference: Some(95.0),
        band: Some((93.0, 97.0)),
        value: |_, s| s.estimators.iter().find(|e| e.estimator == "e3")?.coverage.map(in_percent),
    },
    Comparison {
        title: "Units moved between variations",
        explanation: "Units that ever moved from one variation to another, not counting control.",
        unit: "% of units",
        min_range: (0.0, 1.0),
        limits: (0.0, 100.0),
        reference: None,
        band: None,
        value: |_, s| Some(in_percent(s.moved_between)),
    },
];

/// The comparison of all scenarios; empty for a single scenario.
pub(super) fn overview(report: &Report<'_>) -> String {
    if report.simulations.len() < 2 {
        return String::new();
    }
    let cards: String = COMPARISONS.iter().map(|comparison| comparison.card(report)).collect();
    format!("<h3>Comparison of scenarios</h3><div class=\"cards\">{cards}</div>")
}

impl Comparison {
    fn card(&self, report: &Report<'_>) -> String {
        let group = |simulation: &Simulation| {
            let dot = |s: &Summary| Dot::for_policy(report, s, (self.value)(simulation, s));
            let dots = simulation.summaries.iter().map(dot).collect();
            DotGroup { name: simulation.scenario.doc().name.clone(), dots }
        };
        let groups: Vec<DotGroup> = report.simulations.iter().map(group).collect();
        let head: Vec<String> = strings(&["scenario", "policy", self.unit]);
        let rows = groups.iter().flat_map(|group| {
            group.dots.iter().map(|dot| vec![group.name.clone(), dot.name.clone(), mean_with_error(dot.mean)])
        });
        let table = table(self.title, &head, &rows.collect::<Vec<_>>());
        let title = format!("{} by scenario and policy", self.title);
        let plot = DotPlot::new(&title, self.unit, groups, self.min_range);
        let plot = DotPlot { limits: self.limits, reference: self.reference, band: self.band, compact: true, ..plot };
        card(self.title, self.explanation, &plot.svg(), &table)
    }
}
