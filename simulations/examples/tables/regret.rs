//! Regret: relative to unconstrained Thompson sampling, and of policies that ship an arm.

use std::error::Error;

use inroad_simulations::report::regret_relative_to_unconstrained;
use inroad_simulations::summary::Mean;
use inroad_simulations::{PolicyDoc, PolicyKind, ShipRule, Simulation, builtin};

use crate::run::{TableRun, percent, summary_of};

/// The scenarios whose regret is compared.
pub(crate) const SCENARIOS: [&str; 8] = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"];
/// The rules by which policies ship, with their names in the table.
const SHIP_RULES: [(&str, ShipRule); 2] = [("clearly best", ShipRule::ClearlyBest), ("prompted", ShipRule::Prompted)];

/// Prints both tables.
pub(crate) fn print(run: &TableRun) -> Result<(), Box<dyn Error>> {
    let mut policies = PolicyDoc::default_policies();
    for kind in [PolicyKind::Growth, PolicyKind::Equal] {
        let base = PolicyDoc::with_defaults(kind);
        for (rule, ship) in SHIP_RULES {
            policies.push(PolicyDoc { name: format!("{}, {rule}", base.name), ship, ..base.clone() });
        }
    }
    let simulation = |name: &&str| run.simulate(name, builtin::scenario(name)?, run.replications, policies.clone());
    let simulations = SCENARIOS.iter().map(simulation).collect::<Result<Vec<_>, _>>()?;
    relative_regret(&simulations);
    regret_when_shipping(&simulations);
    Ok(())
}

fn relative_regret(simulations: &[Simulation]) {
    println!("\n### Regret relative to unconstrained Thompson sampling\n");
    println!("| | {} | S1–S5 | S7–S8 |", SCENARIOS.join(" | "));
    println!("|---{}|", "|---".repeat(SCENARIOS.len() + 2));
    for policy in ["growth", "equal"] {
        let ratios: Vec<Option<Mean>> =
            simulations.iter().map(|simulation| regret_relative_to_unconstrained(simulation, policy)).collect();
        let cell =
            |ratio: &Option<Mean>| ratio.map_or_else(|| "–".to_owned(), |r| format!("{:.2} ± {:.2}", r.mean, r.se));
        let cells: Vec<String> = ratios.iter().map(cell).collect();
        let mean =
            |which: &[usize]| which.iter().filter_map(|i| ratios[*i]).map(|r| r.mean).sum::<f64>() / which.len() as f64;
        println!("| {policy} | {} | **{:.2}** | **{:.2}** |", cells.join(" | "), mean(&[0, 1, 2, 3, 4]), mean(&[6, 7]));
    }
    let reference = |s: &Simulation| percent(summary_of(s, "unconstrained").map(|s| s.regret));
    println!(
        "| regret of the reference, % | {} | | |",
        simulations.iter().map(reference).collect::<Vec<_>>().join(" | ")
    );
    for policy in ["growth", "unconstrained", "equal"] {
        let cells: Vec<String> =
            simulations.iter().map(|s| percent(summary_of(s, policy).and_then(|s| s.correct))).collect();
        println!("| best arm found %, {policy} | {} | | |", cells.join(" | "));
    }
    for policy in ["growth", "unconstrained"] {
        let moves = |s: &Simulation| summary_of(s, policy).map_or(0, |s| s.moved_between_variations).to_string();
        let cells: Vec<String> = simulations.iter().map(moves).collect();
        println!("| moves of units between variations, {policy} | {} | | |", cells.join(" | "));
    }
}

fn regret_when_shipping(simulations: &[Simulation]) {
    println!("\n### Regret of policies that ship, %: when an arm is clearly best, or when a person is prompted\n");
    println!("| | {} |", SCENARIOS.join(" | "));
    println!("|---{}|", "|---".repeat(SCENARIOS.len()));
    for (rule, _) in SHIP_RULES {
        for policy in ["growth", "equal"] {
            let name = format!("{policy}, {rule}");
            let cells: Vec<String> =
                simulations.iter().map(|s| percent(summary_of(s, &name).map(|s| s.regret))).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}
