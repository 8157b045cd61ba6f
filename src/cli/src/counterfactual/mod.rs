//! `inroad counterfactual`: what any number of policies would have made of a randomised log, offline and in one pass.
//! The estimates are those of the crate of simulations; here they are asked for and told.

mod policies;
mod report;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use inroad_assignment::Salt;
use inroad_simulations::SimulationError;
use inroad_simulations::offline::{self, Counterfactual, LoggedRow, OfflineLog};

use crate::failure::usage;
use crate::output::Output;
use crate::progress::{self, Of};
use crate::trial::{Columns, Log};

/// How many days of virtual time a log lasts that does not say when.
const DAYS: f64 = 28.0;

/// Which log, and which policies.
#[derive(Debug, Args)]
pub(crate) struct CounterfactualArgs {
    /// The log: CSV with a line of column names, or .parquet; one customer a row, arms drawn at random
    file: PathBuf,
    /// The column that says what the customer got
    #[arg(long, default_value = "segment", value_name = "COLUMN")]
    arm_column: String,
    /// The arm that is the control [default: the one called control]
    #[arg(long, value_name = "ARM")]
    control: Option<String>,
    /// All arms that there may be; a row of another is refused [default: those of the file]
    #[arg(long, value_delimiter = ',', value_name = "ARMS")]
    arms: Option<Vec<String>>,
    /// The column that says what came of it, 0 or more; of nothing but 0 and 1 it is a conversion
    #[arg(long, default_value = "visit", value_name = "COLUMN")]
    outcome: String,
    /// The column that says who [default: the row's number]
    #[arg(long, value_name = "COLUMN")]
    unit_column: Option<String>,
    /// The column that says when
    #[arg(long, value_name = "COLUMN", conflicts_with = "rows_per_day")]
    time_column: Option<String>,
    /// How many rows make a day [default: as many as make the log last 28 days]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_day: Option<u64>,
    /// How many ticks make a day: 1, 2, 3, 4, 6, 8, 12 or 24
    #[arg(long, default_value_t = 1, value_name = "N")]
    ticks_per_day: u32,
    /// The column that says with which probability the customer got it
    #[arg(long, value_name = "COLUMN", conflicts_with = "propensity")]
    propensity_column: Option<String>,
    /// That probability, where it was the same for all
    #[arg(long)]
    propensity: Option<Propensity>,
    /// The salt that lays units on the line: the same salt gives the same numbers
    #[arg(long, default_value = "counterfactual")]
    salt: String,
    /// Write one line per policy to a file, as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    policies: policies::PoliciesArgs,
}

/// A propensity that nobody had to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Propensity {
    /// All arms alike
    Uniform,
}

/// Estimates, and tells.
pub(crate) fn run(args: &CounterfactualArgs, out: Output) -> anyhow::Result<()> {
    let asked = asked(args, out)?;
    let report = report::Report(&asked);
    out.value(&report.json()?)?;
    out.line(report.text())?;
    if let Some(path) = &args.csv {
        let file = std::fs::File::create(path).map_err(|e| usage(format!("cannot write {}: {e}", path.display())))?;
        let arms: Vec<&str> = asked.log.arms.iter().map(|arm| arm.key.as_str()).collect();
        offline::write_policies(&asked.found, &arms, file)?;
    }
    Ok(())
}

/// A question with its answer.
#[derive(Debug)]
struct Asked {
    log: Log,
    found: Counterfactual,
    salt: String,
}

fn asked(args: &CounterfactualArgs, out: Output) -> anyhow::Result<Asked> {
    let policies = args.policies.docs()?;
    let salt = Salt::parse(&args.salt).map_err(|e| usage(format!("--salt: {e}")))?;
    let outcomes = [args.outcome.clone()];
    let columns = Columns {
        arm: &args.arm_column,
        control: args.control.as_deref(),
        arms: args.arms.as_deref(),
        outcomes: &outcomes,
        unit: args.unit_column.as_deref(),
        time: args.time_column.as_deref(),
        propensity: args.propensity_column.as_deref(),
    };
    let log = Log::read(&args.file, &columns)?;
    let offline = OfflineLog::new(rows(args, &log), log.arms.len(), args.ticks_per_day).map_err(told)?;
    let bar = progress::bar(log.rows.len() as u64, Of::Rows, out);
    let found = offline::counterfactual(&offline, &policies, &salt, Some(&|rows| bar.set_position(rows)));
    bar.finish_and_clear();
    let found = found.map_err(told).with_context(|| {
        let ticks = crate::output::plural(args.ticks_per_day.into(), "tick");
        format!("the policies cannot be run with {ticks} a day (--ticks-per-day)")
    })?;
    Ok(Asked { log, found, salt: args.salt.clone() })
}

/// The log's rows as the estimates want them.
fn rows(args: &CounterfactualArgs, log: &Log) -> Vec<LoggedRow> {
    // A wrong number is refused with the rows; here it may only not divide by 0.
    let tick = Duration::from_secs(86_400 / u64::from(args.ticks_per_day.clamp(1, 24)));
    let first = log.rows.first().and_then(|row| row.at).map(|at| at.tick(tick));
    let rows_per_day = args.rows_per_day.map_or(log.rows.len() as f64 / DAYS, |n| n as f64);
    let rows_per_tick = rows_per_day / f64::from(args.ticks_per_day);
    let even = (args.propensity == Some(Propensity::Uniform)).then(|| 1.0 / log.arms.len() as f64);
    let row = |(i, row): (usize, &crate::trial::Row)| LoggedRow {
        unit: row.unit_key().into(),
        tick: match (row.at, first) {
            (Some(at), Some(first)) => u32::try_from(at.tick(tick) - first).unwrap_or(u32::MAX),
            _ => (i as f64 / rows_per_tick) as u32,
        },
        arm: row.arm,
        outcome: row.values.first().copied().unwrap_or_default(),
        propensity: row.propensity.or(even),
    };
    log.rows.iter().enumerate().map(row).collect()
}

/// A fault of whoever asked is one of usage.
fn told(error: SimulationError) -> anyhow::Error {
    match error {
        SimulationError::Field { .. } | SimulationError::Row { .. } => usage(error.to_string()),
        other => anyhow::Error::new(other),
    }
}
