//! Prints the results of the policies in each scenario, and their regret relative to unconstrained Thompson sampling.
//! Use it to choose settings of the policy:
//!
//! ```text
//! cargo run --profile dist -p inroad-simulations --example worlds -- \
//!     [--replications 40] [--scenarios s1,s2] [--ship] [--set floor=0.1] [--set kill_probability=0.95] ...
//! ```
//!
//! `--set` changes the settings of growth. Unconstrained Thompson sampling, the reference, keeps its defaults. The last
//! lines are means over scenarios of the regret of growth divided by that of the reference.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::time::Instant;

use inroad_simulations::{Options, PolicyDoc, PolicyKind, Scenario, ShipRule, Summary, builtin, simulate};

struct Arguments {
    replications: u32,
    scenarios: Vec<String>,
    settings: toml::Table,
    ship: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = parse(std::env::args().skip(1))?;
    let policies = policies(&arguments);
    println!(
        "{:14} {:11} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}  pooled/period/e3/bols/cs",
        "scenario", "policy", "regret", "se", "÷ ref", "best", "false", "v→v", "v→v%", "c→v%", "v→c%", "kills"
    );
    let mut ratios = Vec::new();
    for name in &arguments.scenarios {
        let scenario = builtin::scenario(name)?.with_replications(arguments.replications)?;
        let ratio = run_and_print(&scenario.with_policies(policies.clone())?)?;
        ratios.push((name.as_str(), ratio));
    }
    print_mean("S1–S5", &ratios, &["s1", "s2", "s3", "s4", "s5"]);
    print_mean("S7–S8", &ratios, &["s7", "s8"]);
    Ok(())
}

fn policies(arguments: &Arguments) -> Vec<PolicyDoc> {
    let mut policies = PolicyDoc::default_policies();
    policies[0].settings = arguments.settings.clone();
    if arguments.ship {
        for kind in [PolicyKind::Growth, PolicyKind::Equal] {
            let base = PolicyDoc::with_defaults(kind);
            let settings = if kind == PolicyKind::Growth { arguments.settings.clone() } else { toml::Table::new() };
            policies.push(PolicyDoc {
                name: format!("{}+ship", base.name),
                ship: ShipRule::Prompted,
                settings,
                ..base
            });
        }
    }
    policies
}

/// Prints the mean ratio of some scenarios, if all of them were run.
fn print_mean(title: &str, ratios: &[(&str, f64)], scenarios: &[&str]) {
    let ratio = |name: &&str| ratios.iter().find(|(run, _)| run == name).map(|(_, ratio)| *ratio);
    if let Some(found) = scenarios.iter().map(ratio).collect::<Option<Vec<f64>>>() {
        println!("{title}: growth ÷ reference {:.2} on average", found.iter().sum::<f64>() / found.len() as f64);
    }
}

/// Runs and prints one scenario. Returns the regret of growth divided by that of the reference.
fn run_and_print(scenario: &Scenario) -> Result<f64, Box<dyn Error>> {
    let started_at = Instant::now();
    let simulation = simulate(scenario, Options::default())?;
    let regret = |policy: &str| {
        let found = simulation.summaries.iter().find(|summary| summary.policy == policy);
        found.map_or(f64::NAN, |summary| summary.regret.mean)
    };
    for summary in &simulation.summaries {
        println!("{:14} {}", scenario.doc().name, line(summary, regret("unconstrained")));
    }
    eprintln!("{:14} took {:.1} s", scenario.doc().name, started_at.elapsed().as_secs_f64());
    Ok(regret("growth") / regret("unconstrained"))
}

fn line(summary: &Summary, reference: f64) -> String {
    let coverage = |name: &str| {
        let found = summary.estimators.iter().find(|estimator| estimator.estimator == name);
        let fraction = found.and_then(|estimator| estimator.coverage);
        fraction.map_or("–".to_owned(), |mean| format!("{:.0}", 100.0 * mean.mean))
    };
    let has_best_arm = summary.correct.is_some();
    let ratio = if has_best_arm { format!("{:.2}", summary.regret.mean / reference) } else { "–".to_owned() };
    format!(
        "{:11} {:>6.2}% {:>5.2}% {:>6} {:>6} {:>6.2} {:>8} {:>6.1} {:>6.1} {:>6.1} {:>6.2}  {}/{}/{}/{}/{}",
        summary.policy,
        // Rounding leaves a regret of ±1e-17 in an A/A test.
        (100.0 * summary.regret.mean).max(0.0),
        100.0 * summary.regret.se,
        ratio,
        summary.correct.map_or("–".to_owned(), |mean| format!("{:.2}", mean.mean)),
        summary.false_winner.mean,
        summary.moved_between_variations,
        100.0 * summary.moved_between.mean,
        100.0 * summary.moved_into.mean,
        100.0 * summary.moved_back.mean,
        summary.killed.iter().map(|mean| mean.mean).sum::<f64>(),
        coverage("pooled"),
        coverage("period"),
        coverage("e3"),
        coverage("bols"),
        coverage("cs"),
    )
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let scenarios = (1..=8).map(|i| format!("s{i}")).collect();
    let mut parsed = Arguments { replications: 40, scenarios, settings: toml::Table::new(), ship: false };
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--replications" => parsed.replications = value()?.parse()?,
            "--scenarios" => parsed.scenarios = value()?.split(',').map(str::to_owned).collect(),
            "--set" => parsed.settings.extend(toml::from_str::<toml::Table>(&value()?)?),
            "--ship" => parsed.ship = true,
            _ => return Err(format!("unknown argument {flag}").into()),
        }
    }
    Ok(parsed)
}
