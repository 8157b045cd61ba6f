//! The results of simulations, as text and as JSON. Pure.

use inroad_simulations::summary::{Mean, Summary};
use inroad_simulations::{Scenario, Simulation, report};
use serde_json::{Value, json};

use crate::output::{count, number, percent, plural, table};

fn with_error(mean: Mean) -> String {
    format!("{} ± {}", percent(mean.mean), number(100.0 * mean.se))
}

/// One table per scenario.
pub(super) fn text(simulations: &[Simulation]) -> String {
    simulations.iter().map(simulation_text).collect::<Vec<_>>().join("\n\n")
}

fn simulation_text(simulation: &Simulation) -> String {
    let doc = simulation.scenario.doc();
    let title = if doc.title.is_empty() { String::new() } else { format!(": {}", doc.title) };
    let head = format!(
        "{}{title}\n{} of {}, {} new units per day, seed {}",
        doc.name,
        plural(doc.replications.into(), "run"),
        plural(doc.days.into(), "day"),
        count(doc.per_day.round() as u64),
        doc.seed
    );
    let columns = [
        "policy",
        "regret",
        "regret ÷ unconstrained",
        "right winner",
        "false winner",
        "units moved",
        "moved between",
        "moved into",
        "moved back",
        "revisions",
        "kills",
    ];
    let row = |s: &Summary| {
        let ratio = report::regret_relative_to_unconstrained(simulation, &s.policy);
        vec![
            s.policy.clone(),
            with_error(s.regret),
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{} ± {}", number(ratio.mean), number(ratio.se))),
            s.correct.map_or_else(|| "–".to_owned(), |mean| percent(mean.mean)),
            percent(s.false_winner.mean),
            count(s.moved_between_variations),
            percent(s.moved_between.mean),
            percent(s.moved_into.mean),
            percent(s.moved_back.mean),
            number(s.revisions.mean),
            number(s.killed.iter().map(|mean| mean.mean).sum::<f64>()),
        ]
    };
    format!("{head}\n\n{}", table(&columns, simulation.summaries.iter().map(row).collect()))
}

/// The built-in scenarios, one per line.
pub(super) fn list(scenarios: &[Scenario]) -> String {
    let width = scenarios.iter().map(|scenario| scenario.doc().name.len()).max().unwrap_or(0);
    let line = |scenario: &Scenario| format!("{:width$}  {}", scenario.doc().name, scenario.doc().title);
    scenarios.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Scenarios and summaries. Single runs are written by `--runs-table`.
pub(super) fn json(simulations: &[Simulation], command: &str) -> anyhow::Result<Value> {
    let mut all = Vec::with_capacity(simulations.len());
    for simulation in simulations {
        let ratio =
            |s: &Summary| (s.policy.clone(), json!(report::regret_relative_to_unconstrained(simulation, &s.policy)));
        let ratios: serde_json::Map<String, Value> = simulation.summaries.iter().map(ratio).collect();
        all.push(json!({
            "scenario": serde_json::to_value(&simulation.scenario)?,
            "summaries": serde_json::to_value(&simulation.summaries)?,
            "regret_over_unconstrained": ratios,
            // The earlier name of the same ratios.
            "regret_over_thompson": ratios,
        }));
    }
    Ok(json!({"command": command, "simulations": all}))
}
