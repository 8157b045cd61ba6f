//! The part of the page about one scenario: what was simulated, the traffic shares, regret and winners, moved units,
//! and the accuracy of estimates.

use super::dot_plot::{Dot, DotGroup, DotPlot, in_percent};
use super::elements::{card, collapsed_numbers, policy_marker, table};
use super::text::{NO_VALUE, arm_name, count, escape, mean_with_error, number, percent, percent_with_error, strings};
use super::{Report, estimators, regret_relative_to_unconstrained, setup, time_charts};
use crate::scenario::Scenario;
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

/// The section of one scenario. `index` is its position in the report.
pub(super) fn section(report: &Report<'_>, index: usize, simulation: &Simulation) -> String {
    let section = Section { report, simulation, scenario: &simulation.scenario };
    let doc = section.scenario.doc();
    // The title of a single scenario is the title of the page.
    let title = match (report.simulations.len(), doc.title.as_str()) {
        (1, _) => "Details",
        (_, "") => &doc.name,
        (_, title) => title,
    };
    format!(
        "<section id=\"scenario-{index}\"><h2>{}</h2><p class=\"key\">{}</p>{}<h3>Traffic shares</h3>\
         <p class=\"lead\">Mean share of each variation over all runs. Under a growth policy, variations take traffic \
         from control only.</p><div class=\"cards\">{}</div><h3>Regret and winners</h3><div class=\"cards\">{}{}{}</div>\
         <h3>Moved units and accuracy of estimates</h3>\
         <p class=\"lead\">Estimators of the lift over control:{}</p><div class=\"cards\">{}{}{}</div></section>",
        escape(title),
        escape(&doc.name),
        setup::setup(section.scenario),
        section.share_cards(),
        section.regret_over_time(),
        section.final_regret(),
        section.winners(),
        estimators::descriptions(simulation),
        section.moved_units(),
        estimators::coverage_card(report, simulation),
        estimators::bias_card(report, simulation),
    )
}

struct Section<'a> {
    report: &'a Report<'a>,
    simulation: &'a Simulation,
    scenario: &'a Scenario,
}

impl Section<'_> {
    /// One dot per policy, in percent.
    fn percent_group(&self, name: &str, value: impl Fn(&Summary) -> Option<Mean>) -> DotGroup {
        let dot = |s: &Summary| Dot::for_policy(self.report, s, value(s).map(in_percent));
        DotGroup { name: name.to_owned(), dots: self.simulation.summaries.iter().map(dot).collect() }
    }

    /// One card per policy with the mean shares over time.
    fn share_cards(&self) -> String {
        let per_day = self.scenario.doc().ticks_per_day;
        let card = |summary: &Summary| {
            let arms = summary.shares.first().map_or(0, Vec::len);
            let head: Vec<String> = std::iter::once("day".to_owned()).chain((0..arms).map(arm_name)).collect();
            let row = |day: u32| {
                let last = summary.shares.get((day * per_day + per_day) as usize - 1);
                let shares = last.into_iter().flatten().map(|share| percent(*share, 1));
                std::iter::once((day + 1).to_string()).chain(shares).collect()
            };
            let rows: Vec<Vec<String>> = setup::table_days(self.scenario.doc().days).map(row).collect();
            let table = table(&format!("Mean shares at the end of the day under {}", summary.policy), &head, &rows);
            let series = self.report.series(&summary.policy);
            format!(
                "<article class=\"card\"><h4>{} {}</h4>{}{}</article>",
                policy_marker(series),
                escape(&summary.policy),
                time_charts::shares_chart(self.scenario, summary),
                collapsed_numbers(&table)
            )
        };
        self.simulation.summaries.iter().map(card).collect()
    }

    fn regret_over_time(&self) -> String {
        let policies: Vec<(usize, &Summary)> =
            self.simulation.summaries.iter().map(|s| (self.report.series(&s.policy), s)).collect();
        let (_, outcomes) = setup::outcome_names(self.scenario.doc().metric);
        let plot = time_charts::lost_outcomes_chart(self.scenario, &policies, &format!("{outcomes} lost"));
        let head: Vec<String> =
            std::iter::once("day".to_owned()).chain(policies.iter().map(|(_, s)| s.policy.clone())).collect();
        let per_day = self.scenario.doc().ticks_per_day;
        let row = |day: u32| {
            let cell = |(_, s): &(usize, &Summary)| {
                s.forgone.get((day * per_day + per_day) as usize - 1).map_or(String::new(), |q| {
                    format!("{} ({}–{})", number(q.p50, 0), number(q.p10, 0), number(q.p90, 0))
                })
            };
            std::iter::once((day + 1).to_string()).chain(policies.iter().map(cell)).collect()
        };
        let rows: Vec<Vec<String>> = setup::table_days(self.scenario.doc().days).map(row).collect();
        let caption = format!("Expected {outcomes} lost up to the end of the day: median (10%–90% of runs)");
        let table = table(&caption, &head, &rows);
        let explanation = format!(
            "Expected {outcomes} lost so far, compared with always serving the best variation. Line: median of runs; \
             band: middle 80% of runs."
        );
        card("Regret over time", &explanation, &plot, &table)
    }

    fn final_regret(&self) -> String {
        let groups = vec![self.percent_group("", |s| Some(s.regret))];
        let plot = DotPlot {
            limits: (f64::MIN, 100.0),
            ..DotPlot::new("Regret of each policy", "% of the outcomes of the best variation", groups, (0.0, 0.5))
        };
        let relative = |s: &Summary| regret_relative_to_unconstrained(self.simulation, &s.policy);
        let dots = self.simulation.summaries.iter().filter_map(|s| {
            let ratio = relative(s)?;
            Some(Dot::for_policy(self.report, s, Some(ratio)))
        });
        let group = DotGroup { name: String::new(), dots: dots.collect() };
        let mut plots = plot.svg();
        if !group.dots.is_empty() {
            let unit = "regret ÷ regret of unconstrained Thompson sampling";
            let plot = DotPlot::new("Regret relative to unconstrained", unit, vec![group], (0.0, 2.0));
            plots += &DotPlot { reference: Some(1.0), ..plot }.svg();
        }
        let head = strings(&["policy", "regret", "relative to unconstrained"]);
        let row = |s: &Summary| vec![s.policy.clone(), percent_with_error(s.regret, 2), mean_with_error(relative(s))];
        let rows: Vec<_> = self.simulation.summaries.iter().map(row).collect();
        card(
            "Regret at the end",
            "Mean over runs; whiskers are ±1 standard error. All policies served the same units, so the error of a \
             ratio is computed from pairs of runs.",
            &plots,
            &table("Regret", &head, &rows),
        )
    }

    fn winners(&self) -> String {
        let groups = vec![
            self.percent_group("Best variation found", |s| s.correct),
            self.percent_group("False winner", |s| Some(s.false_winner)),
        ];
        let plot = DotPlot {
            limits: (0.0, 100.0),
            decimals: 1,
            ..DotPlot::new(
                "Runs that end with the best variation in the lead, and runs with a false winner, under each policy",
                "% of runs",
                groups,
                (0.0, 100.0),
            )
        };
        let head = strings(&["policy", "best variation found", "false winner", "any winner"]);
        let row = |s: &Summary| {
            let correct = s.correct.map_or_else(|| NO_VALUE.to_owned(), |mean| percent_with_error(mean, 1));
            vec![s.policy.clone(), correct, percent_with_error(s.false_winner, 1), percent_with_error(s.concluded, 1)]
        };
        let rows: Vec<_> = self.simulation.summaries.iter().map(row).collect();
        let all_equal = self.simulation.summaries.iter().all(|s| s.correct.is_none());
        let explanation = if all_equal {
            "All variations are equal: none is the best, and any winner is false."
        } else {
            "Best variation found: the leader at the end is the best. False winner: a variation that is not the best was \
             found clearly best at some time."
        };
        card("Winners", explanation, &plot.svg(), &table("Winners", &head, &rows))
    }

    fn moved_units(&self) -> String {
        let mut between = self.percent_group("Between variations", |s| Some(s.moved_between));
        for (dot, summary) in between.dots.iter_mut().zip(&self.simulation.summaries) {
            // Zero moves is an exact count, not a small estimate.
            if summary.moved_between_variations == 0 {
                dot.value_text = Some("none".to_owned());
            }
        }
        let groups = vec![
            between,
            self.percent_group("Into a variation", |s| Some(s.moved_into)),
            self.percent_group("Back to control", |s| Some(s.moved_back)),
        ];
        let plot = DotPlot {
            limits: (0.0, 100.0),
            ..DotPlot::new("Units moved under each policy", "% of units", groups, (0.0, 1.0))
        };
        let head = strings(&[
            "policy",
            "moves between variations",
            "units moved between variations",
            "units moved into a variation",
            "units moved back to control",
        ]);
        let row = |s: &Summary| {
            vec![
                s.policy.clone(),
                count(s.moved_between_variations),
                percent_with_error(s.moved_between, 2),
                percent_with_error(s.moved_into, 2),
                percent_with_error(s.moved_back, 2),
            ]
        };
        let rows: Vec<_> = self.simulation.summaries.iter().map(row).collect();
        let explanation = "Units whose variation ever changed, estimated from every sixteenth unit. “none” is counted \
                           over all units.";
        card("Units moved", explanation, &plot.svg(), &table("Units moved", &head, &rows))
    }
}
