//! Prints the tables of docs/statistics.md as Markdown: regret, coverage of intervals, and errors of the rules that are
//! checked at every tick. With 200 replications it takes about 20 minutes on two cores.
//!
//! ```text
//! cargo run --profile dist -p inroad-simulations --example tables -- [--replications 200]
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;

use inroad_simulations::report::regret_relative_to_thompson;
use inroad_simulations::summary::{EstimatorSummary, Mean, Summary};
use inroad_simulations::{Options, PolicyDoc, PolicyKind, Scenario, ShipRule, Simulation, builtin, simulate};

const SCENARIOS: [&str; 8] = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"];
/// Scenarios with other metrics or units.
const OTHER_SCENARIOS: [&str; 4] = ["revenue", "count", "ratio", "heterogeneous"];
/// Factor for the number of replications where growth runs alone.
const GROWTH_ALONE_FACTOR: u32 = 10;
/// The rules by which policies ship, with their names in the table.
const SHIP_RULES: [(&str, ShipRule); 2] = [("clearly best", ShipRule::ClearlyBest), ("prompted", ShipRule::Prompted)];
const ESTIMATORS: [&str; 6] = ["pooled", "period", "e3", "e3-killed", "bols", "cs"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let replications = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => 200,
        (Some("--replications"), Some(number)) => number.parse()?,
        _ => return Err("usage: tables [--replications N]".into()),
    };
    let mut policies = PolicyDoc::default_policies();
    for kind in [PolicyKind::Growth, PolicyKind::Equal] {
        let base = PolicyDoc::with_defaults(kind);
        for (rule, ship) in SHIP_RULES {
            policies.push(PolicyDoc { name: format!("{}, {rule}", base.name), ship, ..base.clone() });
        }
    }
    let growth = || vec![PolicyDoc::with_defaults(PolicyKind::Growth)];
    // How often an interval or a rule is wrong needs many runs. Growth alone is fast, so it gets more replications.
    let replications_alone = GROWTH_ALONE_FACTOR * replications;
    let run_growth = |name: &&str| -> Result<(String, Simulation), Box<dyn Error>> {
        eprintln!("{name}, growth alone");
        let scenario = builtin::scenario(name)?.with_replications(replications_alone)?.with_policies(growth())?;
        Ok(((*name).to_owned(), simulate(&scenario, Options::default())?))
    };
    let run_all = |name: &&str| -> Result<(String, Simulation), Box<dyn Error>> {
        eprintln!("{name}");
        let scenario = builtin::scenario(name)?.with_replications(replications)?.with_policies(policies.clone())?;
        Ok(((*name).to_owned(), simulate(&scenario, Options::default())?))
    };
    let simulations = SCENARIOS.iter().map(run_all).collect::<Result<Vec<_>, _>>()?;
    let growing = SCENARIOS.iter().chain(&OTHER_SCENARIOS).map(run_growth).collect::<Result<Vec<_>, _>>()?;
    println!(
        "{replications} replications; {replications_alone} where growth runs alone. ± is one Monte \
         Carlo standard error."
    );
    regret(&simulations);
    regret_when_shipping(&simulations);
    coverage(&growing, replications_alone);
    eprintln!("A/A tests and lost units");
    let aa_test =
        Scenario::from_toml(&builtin::text("s6").ok_or("s6 is built in")?.replace("trend = 1.0", "trend = 0.0"))?;
    let without_trend =
        simulate(&aa_test.with_replications(replications_alone)?.with_policies(growth())?, Options::default())?;
    let revenue = run_growth(&"aa-revenue")?.1;
    let growing = growing.get(..SCENARIOS.len()).unwrap_or_default();
    errors(growing, &without_trend, &revenue);
    let with_loss = run_growth(&"srm")?.1;
    let mut slow = PolicyDoc::with_defaults(PolicyKind::Growth);
    slow.settings = toml::from_str("daily_cap = 0.1\ndaily_cap_conclude = 0.1")?;
    let slow_growth = builtin::scenario("srm")?.with_replications(replications_alone)?.with_policies(vec![slow])?;
    sample_ratio(growing, &with_loss, &simulate(&slow_growth, Options::default())?);
    Ok(())
}

fn summary_of<'a>(simulation: &'a Simulation, policy: &str) -> Option<&'a Summary> {
    simulation.summaries.iter().find(|summary| summary.policy == policy)
}

fn percent(mean: Option<Mean>) -> String {
    mean.map_or_else(|| "–".to_owned(), |mean| format!("{:.1} ± {:.1}", 100.0 * mean.mean, 100.0 * mean.se))
}

fn regret(simulations: &[(String, Simulation)]) {
    println!("\n### Regret relative to unconstrained Thompson sampling\n");
    println!("| | {} | S1–S5 | S7–S8 |", SCENARIOS.join(" | "));
    println!("|---{}|", "|---".repeat(SCENARIOS.len() + 2));
    for policy in ["growth", "equal"] {
        let ratio = |(_, simulation): &(String, Simulation)| regret_relative_to_thompson(simulation, policy);
        let ratios: Vec<Option<Mean>> = simulations.iter().map(ratio).collect();
        let cell =
            |ratio: &Option<Mean>| ratio.map_or_else(|| "–".to_owned(), |r| format!("{:.2} ± {:.2}", r.mean, r.se));
        let cells: Vec<String> = ratios.iter().map(cell).collect();
        let mean =
            |which: &[usize]| which.iter().filter_map(|i| ratios[*i]).map(|r| r.mean).sum::<f64>() / which.len() as f64;
        println!("| {policy} | {} | **{:.2}** | **{:.2}** |", cells.join(" | "), mean(&[0, 1, 2, 3, 4]), mean(&[6, 7]));
    }
    for (title, policy) in [
        ("best arm found %, growth", "growth"),
        ("best arm found %, Thompson", "thompson"),
        ("best arm found %, equal", "equal"),
    ] {
        let cells: Vec<String> =
            simulations.iter().map(|(_, s)| percent(summary_of(s, policy).and_then(|s| s.correct))).collect();
        println!("| {title} | {} | | |", cells.join(" | "));
    }
    for (title, policy) in [
        ("moves of units between variations, growth", "growth"),
        ("moves of units between variations, Thompson", "thompson"),
    ] {
        let cells: Vec<String> = simulations
            .iter()
            .map(|(_, s)| summary_of(s, policy).map_or(0, |s| s.moved_between_variations).to_string())
            .collect();
        println!("| {title} | {} | | |", cells.join(" | "));
    }
}

fn regret_when_shipping(simulations: &[(String, Simulation)]) {
    println!("\n### Regret of policies that ship, %: when an arm is clearly best, or when a person is prompted\n");
    println!("| | {} |", SCENARIOS.join(" | "));
    println!("|---{}|", "|---".repeat(SCENARIOS.len()));
    for (rule, _) in SHIP_RULES {
        for policy in ["growth", "equal"] {
            let name = format!("{policy}, {rule}");
            let cells: Vec<String> =
                simulations.iter().map(|(_, s)| percent(summary_of(s, &name).map(|s| s.regret))).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}

fn coverage(runs: &[(String, Simulation)], replications: u32) {
    println!("\n### Coverage of 95% intervals under growth, %; bias of E3 in percentage points of lift\n");
    println!("{replications} replications; each interval counts once. The number of intervals is in parentheses.\n");
    println!("| | {} | bias of e3 |", ESTIMATORS.join(" | "));
    println!("|---{}|", "|---".repeat(ESTIMATORS.len() + 1));
    for (name, simulation) in runs {
        let Some(growth) = summary_of(simulation, "growth") else { continue };
        let found = |name: &str| growth.estimators.iter().find(|e: &&EstimatorSummary| e.estimator == name);
        let cell = |name: &&str| {
            let covers = percent(found(name).and_then(|e| e.coverage));
            let count = found(name).filter(|e| e.estimator.starts_with("e3")).map(|e| format!(" ({})", e.intervals));
            covers + &count.unwrap_or_default()
        };
        let cells: Vec<String> = ESTIMATORS.iter().map(cell).collect();
        println!("| {name} | {} | {} |", cells.join(" | "), percent(found("e3").and_then(|e| e.bias)));
    }
}

fn errors(simulations: &[(String, Simulation)], without_trend: &Simulation, revenue: &Simulation) {
    println!("\n### Rules that are checked at every tick, % of runs\n");
    println!(
        "| | prompted to ship | prompted to ship an arm no better than control | found clearly best, but not \
         the best | a guardrail kills a harmless arm |"
    );
    println!("|---|---|---|---|---|");
    let row = |name: &str, simulation: &Simulation| {
        let Some(growth) = summary_of(simulation, "growth") else { return };
        println!(
            "| {name} | {} | {} | {} | {} |",
            percent(Some(growth.prompted)),
            percent(Some(growth.false_prompt)),
            percent(Some(growth.false_winner)),
            percent(growth.guardrail_false)
        );
    };
    simulations.iter().for_each(|(name, simulation)| row(name, simulation));
    row("A/A without trend", without_trend);
    row("A/A, revenue", revenue);
}

fn sample_ratio(simulations: &[(String, Simulation)], with_loss: &Simulation, slow_growth: &Simulation) {
    println!("\n### Sample ratio mismatch, % of runs\n");
    println!("| | alarm at any check | growth frozen | χ² at the end, p < .01 |");
    println!("|---|---|---|---|");
    let row = |name: &str, summary: &Summary| {
        let [alarm, frozen, chi] =
            [summary.srm_alarm, summary.srm_frozen, summary.srm_chi_squared].map(|m| percent(Some(m)));
        println!("| {name} | {alarm} | {frozen} | {chi} |");
    };
    for (name, simulation) in simulations {
        summary_of(simulation, "growth").into_iter().for_each(|summary| row(name, summary));
    }
    summary_of(with_loss, "growth")
        .into_iter()
        .for_each(|summary| row("3% of the units of a growing arm lost", summary));
    summary_of(slow_growth, "growth")
        .into_iter()
        .for_each(|summary| row("the same, with growth of at most 10% a day", summary));
}
