//! `inroad simulate`: a policy tried on paper. Scenarios in virtual time, on all processors, all policies on the very
//! same units; a table, a page to look at, and the numbers. No server is asked.

mod choose;
mod files;
mod show;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::Args;
use inroad_simulations::export::{self, Table};
use inroad_simulations::{Options, Scenario, Simulation, report};
use serde_json::json;

use crate::failure::usage;
use crate::output::Output;
use crate::parse;
use crate::progress::{self, Of};

/// What to simulate, and where the results go.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Scenarios: TOML files, or names of those that come with inroad
    #[arg(value_name = "SCENARIO", required_unless_present = "list")]
    scenarios: Vec<String>,
    /// List the scenarios that come with inroad
    #[arg(long, conflicts_with = "scenarios")]
    list: bool,
    /// How many runs [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replications: Option<u32>,
    /// How many threads [default: one per processor]; they change nothing but the time it takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Another seed, other units [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only these policies: of the scenario, or growth, equal, thompson
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    policies: Vec<String>,
    /// Set a setting of all growing policies, like floor=0.02; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::setting)]
    set: Vec<(String, toml::Value)>,
    /// Have each policy but Thompson sampling once more, shipping what a person would be prompted to ship
    #[arg(long)]
    ship: bool,
    /// Write a page to look at
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the policies' numbers, a line per policy, estimator and arm: CSV, or Parquet if the name ends so
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Write the runs' numbers, a line per run and policy
    #[arg(long, value_name = "FILE")]
    runs_table: Option<PathBuf>,
    /// Write the way there, a line per policy, tick and arm
    #[arg(long, value_name = "FILE")]
    course_table: Option<PathBuf>,
}

/// Simulates.
pub(crate) fn run(args: &SimulateArgs, out: Output) -> anyhow::Result<()> {
    if args.list {
        return list(out);
    }
    let scenarios = choose::scenarios(args)?;
    // Known before the minutes that it takes, not after.
    files::check(args)?;
    let simulations = simulate(&scenarios, args, out)?;
    let command = choose::command(args);
    if let Some(path) = &args.report {
        files::write(path, report::html(&simulations, Some(&command)).as_bytes())?;
    }
    for (path, table) in [
        (&args.table, export::summaries as fn(&[Simulation]) -> Table),
        (&args.runs_table, export::runs),
        (&args.course_table, export::course),
    ] {
        if let Some(path) = path {
            files::write(path, &files::table(path, &table(&simulations))?)?;
        }
    }
    out.value(&show::json(&simulations, &command)?)?;
    out.line(show::text(&simulations))?;
    for path in files::all(args) {
        out.line(format!("wrote {}", path.display()))?;
    }
    Ok(())
}

fn simulate(scenarios: &[Scenario], args: &SimulateArgs, out: Output) -> anyhow::Result<Vec<Simulation>> {
    let total = scenarios.iter().map(|scenario| u64::from(scenario.doc().replications)).sum();
    let bar = progress::bar(total, Of::Runs, out);
    let simulations = scenarios.iter().map(|scenario| {
        bar.set_message(scenario.doc().name.clone());
        let progress = |_, _| bar.inc(1);
        let options = Options { threads: args.threads.map(usize::from), progress: Some(&progress) };
        inroad_simulations::simulate(scenario, options)
            .map_err(|e| usage(format!("scenario {}: {e}", scenario.doc().name)))
    });
    let simulations = simulations.collect();
    bar.finish_and_clear();
    simulations
}

fn list(out: Output) -> anyhow::Result<()> {
    let mut scenarios = Vec::new();
    for name in inroad_simulations::builtin::names() {
        scenarios.push(inroad_simulations::builtin::scenario(name)?);
    }
    let value = |scenario: &Scenario| json!({"name": scenario.doc().name, "title": scenario.doc().title});
    out.value(&scenarios.iter().map(value).collect())?;
    Ok(out.line(show::list(&scenarios))?)
}
