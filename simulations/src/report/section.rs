//! One scenario's part of the page: its world, then what each policy served, what that cost, whom it moved, and whether
//! the numbers that came out of it can be believed.

use super::courses;
use super::dots::{Dot, Dots, Group};
use super::text::{arm_name, count, escape, number, numbers, percent, percent_error, table, words};
use super::{Report, world};
use crate::scenario::Scenario;
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

/// The whole section.
pub(super) fn section(report: &Report<'_>, index: usize, simulation: &Simulation) -> String {
    let section = Section { report, simulation, scenario: &simulation.scenario };
    let doc = section.scenario.doc();
    // A single scenario's title is the page's.
    let title = match (report.simulations.len(), doc.title.as_str()) {
        (1, _) => "In detail",
        (_, "") => &doc.name,
        (_, title) => title,
    };
    format!(
        "<section id=\"scenario-{index}\"><h2>{}</h2><p class=\"key\">{}</p>{}<h3>Who is served what</h3>\
         <p class=\"lead\">Mean share of each arm over all runs. Variations of a growing policy take from control only.\
         </p><div class=\"cards\">{}</div><h3>What it costs, and what it finds</h3><div class=\"cards\">{}{}{}</div>\
         <h3>Whom it moves, and what can be believed</h3>\
         <p class=\"lead\">Estimates of the lift over control{}.</p><div class=\"cards\">{}{}{}</div></section>",
        escape(title),
        escape(&doc.name),
        world::world(section.scenario),
        section.shares(),
        section.forgone(),
        section.regret(),
        section.winners(),
        section.estimators_told(),
        section.moved(),
        section.coverage(),
        section.bias(),
    )
}

/// A plot in its frame.
pub(super) fn card(title: &str, sub: &str, plot: &str, table: &str) -> String {
    format!(
        "<article class=\"card\"><h4>{}</h4><p class=\"sub\">{}</p>{plot}{}</article>",
        escape(title),
        escape(sub),
        numbers(table)
    )
}

/// A number between 0 and 1 as hundredths.
pub(super) fn hundredths(mean: Mean) -> Mean {
    Mean { mean: 100.0 * mean.mean, se: 100.0 * mean.se }
}

pub(super) struct Section<'a> {
    pub(super) report: &'a Report<'a>,
    pub(super) simulation: &'a Simulation,
    pub(super) scenario: &'a Scenario,
}

impl Section<'_> {
    pub(super) fn dot(&self, summary: &Summary, mean: Option<Mean>) -> Dot {
        let series = self.report.series(&summary.policy);
        Dot { series, name: summary.policy.clone(), mean, faint: Vec::new(), said: None }
    }

    fn group(&self, name: &str, mean: impl Fn(&Summary) -> Option<Mean>) -> Group {
        let dots = self.simulation.summaries.iter().map(|s| self.dot(s, mean(s).map(hundredths))).collect();
        Group { name: name.to_owned(), dots }
    }

    fn shares(&self) -> String {
        let per_day = self.scenario.doc().ticks_per_day;
        let card = |summary: &Summary| {
            let arms = summary.shares.first().map_or(0, Vec::len);
            let head: Vec<String> = std::iter::once("day".to_owned()).chain((0..arms).map(arm_name)).collect();
            let row = |day: u32| {
                let last = summary.shares.get((day * per_day + per_day) as usize - 1);
                let shares = last.into_iter().flatten().map(|share| percent(*share, 1));
                std::iter::once((day + 1).to_string()).chain(shares).collect()
            };
            let rows: Vec<Vec<String>> = world::days(self.scenario.doc().days).map(row).collect();
            let table = table(&format!("Mean shares at the end of the day under {}", summary.policy), &head, &rows);
            let series = self.report.series(&summary.policy);
            format!(
                "<article class=\"card\"><h4>{} {}</h4>{}{}</article>",
                super::page::swatch(series),
                escape(&summary.policy),
                courses::shares(self.scenario, summary),
                numbers(&table)
            )
        };
        self.simulation.summaries.iter().map(card).collect()
    }

    fn forgone(&self) -> String {
        let policies: Vec<(usize, &Summary)> =
            self.simulation.summaries.iter().map(|s| (self.report.series(&s.policy), s)).collect();
        let (_, outcomes) = world::outcome(self.scenario.doc().metric);
        let plot = courses::forgone(self.scenario, &policies, &format!("{outcomes} forgone"));
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
        let rows: Vec<Vec<String>> = world::days(self.scenario.doc().days).map(row).collect();
        let table = table("Forgone up to the end of the day: median (10%–90% of runs)", &head, &rows);
        let sub = format!(
            "Expected {outcomes} forgone so far against always serving the best arm. Line: median of runs; band: the \
             middle 80%."
        );
        card("Regret over time", &sub, &plot, &table)
    }

    fn regret(&self) -> String {
        let groups = vec![self.group("", |s| Some(s.regret))];
        let plot = Dots {
            most: (f64::MIN, 100.0),
            ..Dots::new("Regret of each policy", "% of what the best arm would have given", groups, (0.0, 0.5))
        };
        let over = self.simulation.summaries.iter().filter_map(|s| {
            let ratio = super::over_reference(self.simulation, &s.policy)?;
            Some(self.dot(s, Some(ratio)))
        });
        let over = Group { name: String::new(), dots: over.collect() };
        let mut plots = plot.svg();
        if !over.dots.is_empty() {
            let unit = "times the regret of unconstrained Thompson";
            plots +=
                &Dots { rule: Some(1.0), ..Dots::new("Regret against Thompson", unit, vec![over], (0.0, 2.0)) }.svg();
        }
        let head = words(&["policy", "regret", "over Thompson"]);
        let row = |s: &Summary| {
            let ratio = super::over_reference(self.simulation, &s.policy);
            vec![s.policy.clone(), percent_error(s.regret, 2), super::page::ratio(ratio)]
        };
        let rows: Vec<_> = self.simulation.summaries.iter().map(row).collect();
        card(
            "Regret in the end",
            "Mean over runs; whiskers are ±1 standard error. Both met the same units, so a ratio's error is of pairs.",
            &plots,
            &table("Regret", &head, &rows),
        )
    }

    fn winners(&self) -> String {
        let groups =
            vec![self.group("Right winner", |s| s.correct), self.group("False winner", |s| Some(s.false_winner))];
        let plot = Dots {
            most: (0.0, 100.0),
            decimals: 1,
            ..Dots::new(
                "Share of runs with the right and with a false winner under each policy",
                "% of runs",
                groups,
                (0.0, 100.0),
            )
        };
        let head = words(&["policy", "right winner", "false winner", "some winner"]);
        let row = |s: &Summary| {
            let right = s.correct.map_or_else(|| super::text::NONE.to_owned(), |mean| percent_error(mean, 1));
            vec![s.policy.clone(), right, percent_error(s.false_winner, 1), percent_error(s.concluded, 1)]
        };
        let rows: Vec<_> = self.simulation.summaries.iter().map(row).collect();
        let alike = self.simulation.summaries.iter().all(|s| s.correct.is_none());
        let sub = if alike {
            "All arms are alike: there is no right winner, and whoever is found clearly best is a false one."
        } else {
            "Who leads in the end, and whether an arm that is not the best was ever found clearly best."
        };
        card("Winners", sub, &plot.svg(), &table("Winners", &head, &rows))
    }

    fn moved(&self) -> String {
        let mut between = self.group("Between variations", |s| Some(s.moved_between));
        for (dot, summary) in between.dots.iter_mut().zip(&self.simulation.summaries) {
            // None at all is a count, not an estimate that happens to be small.
            if summary.moved_between_variations == 0 {
                dot.said = Some("none".to_owned());
            }
        }
        let groups = vec![
            between,
            self.group("Into a variation", |s| Some(s.moved_into)),
            self.group("Back to control", |s| Some(s.moved_back)),
        ];
        let plot =
            Dots { most: (0.0, 100.0), ..Dots::new("Units moved under each policy", "% of units", groups, (0.0, 1.0)) };
        let head = words(&["policy", "moves between variations", "between, % of units", "into", "back"]);
        let row = |s: &Summary| {
            vec![
                s.policy.clone(),
                count(s.moved_between_variations),
                percent_error(s.moved_between, 2),
                percent_error(s.moved_into, 2),
                percent_error(s.moved_back, 2),
            ]
        };
        let rows: Vec<_> = self.simulation.summaries.iter().map(row).collect();
        let sub = "Part of the units that ever change what they are served, by every sixteenth unit; “none” is counted over all.";
        card("Units moved", sub, &plot.svg(), &table("Units moved", &head, &rows))
    }
}
