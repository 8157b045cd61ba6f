//! The tables of docs/statistics.md, as Markdown: regret, coverage, errors of every rule that stops something.
//!
//! ```text
//! cargo run --release -p inroad-simulations --example tables -- [--replications 200]
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;

use inroad_simulations::report::over_reference;
use inroad_simulations::summary::{EstimatorSummary, Mean, Summary};
use inroad_simulations::{Options, PolicyDoc, PolicyKind, Scenario, ShipRule, Simulation, builtin, simulate};

const WORLDS: [&str; 8] = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"];
const MEASURES: [&str; 4] = ["revenue", "count", "ratio", "heterogeneous"];
/// Growth alone is run so many times as often.
const REPLICATIONS_ALONE: u32 = 10;
/// When whoever ships does.
const SHIPPING: [(&str, ShipRule); 2] = [("clearly best", ShipRule::ClearlyBest), ("prompted", ShipRule::Prompted)];
const ESTIMATORS: [&str; 6] = ["pooled", "period", "e3", "e3-killed", "bols", "cs"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let replications = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => 200,
        (Some("--replications"), Some(number)) => number.parse()?,
        _ => return Err("usage: tables [--replications N]".into()),
    };
    let mut policies = PolicyDoc::usual();
    for kind in [PolicyKind::Growth, PolicyKind::Equal] {
        let plain = PolicyDoc::plain(kind);
        for (rule, ship) in SHIPPING {
            policies.push(PolicyDoc { name: format!("{}, {rule}", plain.name), ship, ..plain.clone() });
        }
    }
    let growth = || vec![PolicyDoc::plain(PolicyKind::Growth)];
    // Growth alone is cheap, so there is more of it: how often an interval or a rule is wrong takes many runs to tell.
    let many = REPLICATIONS_ALONE * replications;
    let alone = |name: &&str| -> Result<(String, Simulation), Box<dyn Error>> {
        eprintln!("{name}, growth alone");
        let scenario = builtin::scenario(name)?.with_replications(many)?.with_policies(growth())?;
        Ok(((*name).to_owned(), simulate(&scenario, Options::default())?))
    };
    let run = |name: &&str| -> Result<(String, Simulation), Box<dyn Error>> {
        eprintln!("{name}");
        let scenario = builtin::scenario(name)?.with_replications(replications)?.with_policies(policies.clone())?;
        Ok(((*name).to_owned(), simulate(&scenario, Options::default())?))
    };
    let worlds = WORLDS.iter().map(run).collect::<Result<Vec<_>, _>>()?;
    let growing = WORLDS.iter().chain(&MEASURES).map(alone).collect::<Result<Vec<_>, _>>()?;
    println!("{replications} replications; {many} where growth runs alone. ± is one Monte-Carlo standard error.");
    regret(&worlds);
    shipped(&worlds);
    coverage(&growing, many);
    eprintln!("nothing to find, and units that get lost");
    let nothing =
        Scenario::from_toml(&builtin::text("s6").ok_or("s6 is built in")?.replace("trend = 1.0", "trend = 0.0"))?;
    let quiet = simulate(&nothing.with_replications(many)?.with_policies(growth())?, Options::default())?;
    let revenue = alone(&"aa-revenue")?.1;
    let growing = growing.get(..WORLDS.len()).unwrap_or_default();
    errors(growing, &quiet, &revenue);
    let lost = alone(&"srm")?.1;
    let mut slow = PolicyDoc::plain(PolicyKind::Growth);
    slow.settings = toml::from_str("daily_cap = 0.1\ndaily_cap_conclude = 0.1")?;
    let slowly = builtin::scenario("srm")?.with_replications(many)?.with_policies(vec![slow])?;
    sample_ratio(growing, &lost, &simulate(&slowly, Options::default())?);
    Ok(())
}

fn of<'a>(simulation: &'a Simulation, policy: &str) -> Option<&'a Summary> {
    simulation.summaries.iter().find(|summary| summary.policy == policy)
}

fn percent(mean: Option<Mean>) -> String {
    mean.map_or_else(|| "–".to_owned(), |mean| format!("{:.1} ± {:.1}", 100.0 * mean.mean, 100.0 * mean.se))
}

fn regret(worlds: &[(String, Simulation)]) {
    println!("\n### Regret over unconstrained Thompson sampling\n");
    println!("| | {} | S1–S5 | S7–S8 |", WORLDS.join(" | "));
    println!("|---{}|", "|---".repeat(WORLDS.len() + 2));
    for policy in ["growth", "equal"] {
        let ratio = |(_, simulation): &(String, Simulation)| over_reference(simulation, policy);
        let ratios: Vec<Option<Mean>> = worlds.iter().map(ratio).collect();
        let cell =
            |ratio: &Option<Mean>| ratio.map_or_else(|| "–".to_owned(), |r| format!("{:.2} ± {:.2}", r.mean, r.se));
        let cells: Vec<String> = ratios.iter().map(cell).collect();
        let mean =
            |which: &[usize]| which.iter().filter_map(|i| ratios[*i]).map(|r| r.mean).sum::<f64>() / which.len() as f64;
        println!("| {policy} | {} | **{:.2}** | **{:.2}** |", cells.join(" | "), mean(&[0, 1, 2, 3, 4]), mean(&[6, 7]));
    }
    for (title, number) in [
        ("right winner %, growth", "growth"),
        ("right winner %, Thompson", "thompson"),
        ("right winner %, equal", "equal"),
    ] {
        let cells: Vec<String> = worlds.iter().map(|(_, s)| percent(of(s, number).and_then(|s| s.correct))).collect();
        println!("| {title} | {} | | |", cells.join(" | "));
    }
    for (title, policy) in [("units moved between variations, growth", "growth"), ("the same, Thompson", "thompson")] {
        let cells: Vec<String> =
            worlds.iter().map(|(_, s)| of(s, policy).map_or(0, |s| s.moved_between_variations).to_string()).collect();
        println!("| {title} | {} | | |", cells.join(" | "));
    }
}

fn shipped(worlds: &[(String, Simulation)]) {
    println!(
        "\n### Regret where an arm is shipped, %: as soon as it is clearly best, or as soon as a person is prompted\n"
    );
    println!("| | {} |", WORLDS.join(" | "));
    println!("|---{}|", "|---".repeat(WORLDS.len()));
    for (rule, _) in SHIPPING {
        for policy in ["growth", "equal"] {
            let name = format!("{policy}, {rule}");
            let cells: Vec<String> = worlds.iter().map(|(_, s)| percent(of(s, &name).map(|s| s.regret))).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}

fn coverage(runs: &[(String, Simulation)], replications: u32) {
    println!("\n### Coverage of 95% intervals under growth, %; bias of E3 in points of lift\n");
    println!("{replications} replications; each interval counts once. In brackets, how many there are.\n");
    println!("| | {} | bias of e3 |", ESTIMATORS.join(" | "));
    println!("|---{}|", "|---".repeat(ESTIMATORS.len() + 1));
    for (name, simulation) in runs {
        let Some(growth) = of(simulation, "growth") else { continue };
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

fn errors(worlds: &[(String, Simulation)], quiet: &Simulation, revenue: &Simulation) {
    println!("\n### Rules that stop something, looked at at every tick, %\n");
    println!(
        "| | prompted to ship | of it: no better than control | clearly best, and not | a guardrail kills a harmless arm |"
    );
    println!("|---|---|---|---|---|");
    let row = |name: &str, simulation: &Simulation| {
        let Some(growth) = of(simulation, "growth") else { return };
        println!(
            "| {name} | {} | {} | {} | {} |",
            percent(Some(growth.prompted)),
            percent(Some(growth.false_prompt)),
            percent(Some(growth.false_winner)),
            percent(growth.guardrail_false)
        );
    };
    worlds.iter().for_each(|(name, simulation)| row(name, simulation));
    row("A/A without trend", quiet);
    row("A/A, revenue", revenue);
}

fn sample_ratio(worlds: &[(String, Simulation)], lost: &Simulation, slowly: &Simulation) {
    println!("\n### Sample ratio mismatch, %\n");
    println!("| | alarm at any look | growth freezes | χ² in the end, p < .01 |");
    println!("|---|---|---|---|");
    let row = |name: &str, summary: &Summary| {
        let [alarm, frozen, chi] =
            [summary.srm_alarm, summary.srm_frozen, summary.srm_chi_squared].map(|m| percent(Some(m)));
        println!("| {name} | {alarm} | {frozen} | {chi} |");
    };
    for (name, simulation) in worlds {
        of(simulation, "growth").into_iter().for_each(|summary| row(name, summary));
    }
    of(lost, "growth").into_iter().for_each(|summary| row("3% of a growing arm's units lost", summary));
    of(slowly, "growth").into_iter().for_each(|summary| row("the same, growing by 10% a day", summary));
}
