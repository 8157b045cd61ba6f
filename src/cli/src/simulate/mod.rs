//! `inroad simulate`: compares policies on the same simulated units, in simulated time, on all processors. Writes a table,
//! an HTML report and data files. Needs no server.

mod files;
mod render;
mod select;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::Args;
use inroad_simulations::export::{self, Table};
use inroad_simulations::{Options, Scenario, Simulation, report};
use serde_json::json;

use crate::failure::usage_error;
use crate::output::Output;
use crate::parse;
use crate::progress::{self, ProgressUnit};
use crate::suggestions::explain_serde_error;

/// The scenarios, and the files for the results.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Scenarios: TOML files, or names of built-in scenarios
    #[arg(value_name = "SCENARIO", required_unless_present = "list")]
    scenarios: Vec<String>,
    /// List the built-in scenarios
    #[arg(long, conflicts_with = "scenarios")]
    list: bool,
    /// Runs per scenario [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replications: Option<u32>,
    /// Number of threads [default: one per processor]; does not affect the results
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of the simulated units [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run only these policies: those of the scenario, or growth, equal, unconstrained
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    policies: Vec<String>,
    /// Setting of all growth policies, such as floor=0.02; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::setting)]
    set: Vec<(String, toml::Value)>,
    /// Run each policy except unconstrained a second time, shipping the variation that is ready to ship
    #[arg(long)]
    ship: bool,
    /// Write an HTML report to a file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the policies' results, one row per policy, estimator and variation: CSV, or Parquet for .parquet
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Write the results of single runs, one row per run and policy
    #[arg(long, value_name = "FILE")]
    runs_table: Option<PathBuf>,
    /// Write the results over time, one row per policy, update and variation
    #[arg(long, value_name = "FILE")]
    course_table: Option<PathBuf>,
}

/// Runs the simulations and prints the results.
pub(crate) fn run(args: &SimulateArgs, out: Output) -> anyhow::Result<()> {
    if args.list {
        return list(out);
    }
    let scenarios = select::scenarios(args)?;
    // Before the simulation, which can take minutes.
    files::check_paths(args)?;
    let simulations = simulate(&scenarios, args, out)?;
    let command = select::command(args);
    if let Some(path) = &args.report {
        files::write(path, report::html(&simulations, Some(&command)).as_bytes())?;
    }
    for (path, table) in [
        (&args.table, export::summaries as fn(&[Simulation]) -> Table),
        (&args.runs_table, export::runs),
        (&args.course_table, export::course),
    ] {
        if let Some(path) = path {
            files::write(path, &files::encode_table(path, &table(&simulations))?)?;
        }
    }
    out.print_json(&render::json(&simulations, &command)?)?;
    out.print_text(render::text(&simulations))?;
    for path in files::paths(args) {
        out.print_text(format!("wrote {}", path.display()))?;
    }
    Ok(())
}

fn simulate(scenarios: &[Scenario], args: &SimulateArgs, out: Output) -> anyhow::Result<Vec<Simulation>> {
    let total = scenarios.iter().map(|scenario| u64::from(scenario.doc().replications)).sum();
    let bar = progress::progress_bar(Some(total), ProgressUnit::Runs, out);
    let simulations = scenarios.iter().map(|scenario| {
        bar.set_message(scenario.doc().name.clone());
        let progress = |_, _| bar.inc(1);
        let options =
            Options { threads: args.threads.map(usize::from), progress: Some(&progress), ..Options::default() };
        inroad_simulations::simulate(scenario, options).map_err(|e| {
            usage_error(format!("scenario {}: {}", scenario.doc().name, explain_serde_error(e.to_string())))
        })
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
    let json = |scenario: &Scenario| json!({"name": scenario.doc().name, "title": scenario.doc().title});
    out.print_json(&scenarios.iter().map(json).collect())?;
    Ok(out.print_text(render::list(&scenarios))?)
}
