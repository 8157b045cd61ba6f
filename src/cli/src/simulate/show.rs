//! What simulations came to, for people and for programs. Pure.

use inroad_simulations::summary::{Mean, Summary};
use inroad_simulations::{Scenario, Simulation, report};
use serde_json::{Value, json};

use crate::output::{count, percent, plural, table};

fn with_error(mean: Mean) -> String {
    format!("{} ± {:.2}", percent(mean.mean), 100.0 * mean.se)
}

/// A table per scenario.
pub(super) fn text(simulations: &[Simulation]) -> String {
    simulations.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

fn one(simulation: &Simulation) -> String {
    let doc = simulation.scenario.doc();
    let title = if doc.title.is_empty() { String::new() } else { format!(": {}", doc.title) };
    let head = format!(
        "{}{title}\n{} of {}, {} new units a day, seed {}",
        doc.name,
        plural(doc.replications.into(), "run"),
        plural(doc.days.into(), "day"),
        doc.per_day,
        doc.seed
    );
    let columns = [
        "policy",
        "regret",
        "÷ Thompson",
        "right winner",
        "false",
        "moves between",
        "between",
        "into",
        "back",
        "revisions",
        "kills",
    ];
    let row = |s: &Summary| {
        let ratio = report::over_reference(simulation, &s.policy);
        vec![
            s.policy.clone(),
            with_error(s.regret),
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.2} ± {:.2}", ratio.mean, ratio.se)),
            s.correct.map_or_else(|| "–".to_owned(), |mean| percent(mean.mean)),
            percent(s.false_winner.mean),
            count(s.moved_between_variations),
            percent(s.moved_between.mean),
            percent(s.moved_into.mean),
            percent(s.moved_back.mean),
            format!("{:.1}", s.revisions.mean),
            format!("{:.2}", s.killed.iter().map(|mean| mean.mean).sum::<f64>()),
        ]
    };
    format!("{head}\n\n{}", table(&columns, simulation.summaries.iter().map(row).collect()))
}

/// The scenarios that can be named.
pub(super) fn list(scenarios: &[Scenario]) -> String {
    let width = scenarios.iter().map(|scenario| scenario.doc().name.len()).max().unwrap_or(0);
    let line = |scenario: &Scenario| format!("{:width$}  {}", scenario.doc().name, scenario.doc().title);
    scenarios.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Scenarios and summaries; single runs are for `--runs-table`.
pub(super) fn json(simulations: &[Simulation], command: &str) -> anyhow::Result<Value> {
    let mut all = Vec::with_capacity(simulations.len());
    for simulation in simulations {
        let over = |s: &Summary| (s.policy.clone(), json!(report::over_reference(simulation, &s.policy)));
        let over: serde_json::Map<String, Value> = simulation.summaries.iter().map(over).collect();
        all.push(json!({
            "scenario": serde_json::to_value(&simulation.scenario)?,
            "summaries": serde_json::to_value(&simulation.summaries)?,
            "regret_over_thompson": over,
        }));
    }
    Ok(json!({"command": command, "simulations": all}))
}
