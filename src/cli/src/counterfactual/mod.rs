//! `inroad counterfactual`: estimates what several policies would have achieved on a randomised log, offline and in one
//! pass. The simulations crate computes the estimates; this module reads the log and prints the results.

mod policies;
mod report;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use inroad_assignment::Salt;
use inroad_simulations::SimulationError;
use inroad_simulations::offline::{self, Counterfactual, LoggedRow, OfflineLog};

use crate::failure::usage_error;
use crate::output::{Output, plural};
use crate::progress::{self, ProgressUnit};
use crate::suggestions::explain_serde_error;
use crate::trial::{CellArgs, Columns, Log};

/// The length in simulated days of a log without times.
const DAYS: f64 = 28.0;

/// The log and the policies.
#[derive(Debug, Args)]
pub(crate) struct CounterfactualArgs {
    /// Log: CSV with a header row, or .parquet; one customer per row, arms assigned at random
    file: PathBuf,
    /// Column with the arm that the customer got
    #[arg(long, default_value = "segment", value_name = "COLUMN")]
    arm_column: String,
    /// Control arm [default: the arm named control]
    #[arg(long, value_name = "ARM")]
    control: Option<String>,
    /// All valid arms; a row with another arm is an error [default: the arms of the file]
    #[arg(long, value_delimiter = ',', value_name = "ARMS")]
    arms: Option<Vec<String>>,
    /// Column with the outcome, 0 or more; a column of only 0 and 1 is a conversion
    #[arg(long, default_value = "visit", value_name = "COLUMN")]
    outcome: String,
    /// Column with the unit key [default: the row number]
    #[arg(long, value_name = "COLUMN")]
    unit_column: Option<String>,
    /// Column with the time
    #[arg(long, value_name = "COLUMN", conflicts_with = "rows_per_day")]
    time_column: Option<String>,
    /// Rows per day [default: the number of rows divided by 28]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_day: Option<u64>,
    /// Updates per day (ticks): 1, 2, 3, 4, 6, 8, 12 or 24
    #[arg(long, default_value_t = 1, value_name = "N")]
    ticks_per_day: u32,
    /// Column with the probability with which the customer got the arm
    #[arg(long, value_name = "COLUMN", conflicts_with = "propensity")]
    propensity_column: Option<String>,
    /// Probability of the arms, if the log has no column for it
    #[arg(long)]
    propensity: Option<Propensity>,
    /// Salt of the assignment: the same salt gives the same results. `inroad replay` draws one, unless it is given: the two
    /// use the same rows of a log only with the same salt and experiment key, which is `counterfactual` here
    #[arg(long, default_value = "counterfactual")]
    salt: String,
    /// Write a CSV file with one row per policy
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    cells: CellArgs,
    #[command(flatten)]
    policies: policies::PoliciesArgs,
}

/// A propensity that is the same for all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Propensity {
    /// The same for all arms
    Uniform,
}

/// Computes the estimates and prints them.
pub(crate) fn run(args: &CounterfactualArgs, out: Output) -> anyhow::Result<()> {
    let analysis = analyse(args, out)?;
    let report = report::Report(&analysis);
    out.print_json(&report.json()?)?;
    out.print_text(report.text())?;
    if let Some(path) = &args.csv {
        let file =
            std::fs::File::create(path).map_err(|e| usage_error(format!("cannot write {}: {e}", path.display())))?;
        let arms: Vec<&str> = analysis.log.arms.iter().map(|arm| arm.key.as_str()).collect();
        offline::write_policies(&analysis.result, &arms, file)?;
    }
    Ok(())
}

/// A log with the estimates of its policies.
#[derive(Debug)]
struct Analysis {
    log: Log,
    result: Counterfactual,
    salt: String,
}

fn analyse(args: &CounterfactualArgs, out: Output) -> anyhow::Result<Analysis> {
    let policies = args.policies.docs()?;
    let salt = Salt::parse(&args.salt).map_err(|e| usage_error(format!("--salt: {e}")))?;
    let outcomes = [args.outcome.clone()];
    let columns = Columns {
        arm: &args.arm_column,
        control: args.control.as_deref(),
        arms: args.arms.as_deref(),
        outcomes: &outcomes,
        unit: args.unit_column.as_deref(),
        time: args.time_column.as_deref(),
        propensity: args.propensity_column.as_deref(),
        cells: args.cells,
    };
    let log = Log::read(&args.file, &columns)?;
    let offline = OfflineLog::new(rows(args, &log), log.arms.len(), args.ticks_per_day).map_err(cli_error)?;
    let bar = progress::progress_bar(Some(log.rows.len() as u64), ProgressUnit::Rows, out);
    let result = offline::counterfactual(&offline, &policies, &salt, Some(&|rows| bar.set_position(rows)));
    bar.finish_and_clear();
    let result = result.map_err(|error| {
        let is_tick = matches!(&error, SimulationError::Field { field, .. } if field.ends_with("settings.tick"));
        let error = cli_error(error);
        let updates = plural(args.ticks_per_day.into(), "update");
        let context = || format!("the policies cannot be run with {updates} per day (--ticks-per-day)");
        if is_tick { error.context(context()) } else { error }
    })?;
    Ok(Analysis { log, result, salt: args.salt.clone() })
}

/// The rows of the log as input of the estimators.
fn rows(args: &CounterfactualArgs, log: &Log) -> Vec<LoggedRow> {
    // `OfflineLog` refuses a wrong number; the clamp avoids a division by 0 before that.
    let tick = Duration::from_secs(86_400 / u64::from(args.ticks_per_day.clamp(1, 24)));
    let first = log.rows.first().and_then(|row| row.at).map(|at| at.tick(tick));
    let rows_per_day = args.rows_per_day.map_or(log.rows.len() as f64 / DAYS, |n| n as f64);
    let rows_per_tick = rows_per_day / f64::from(args.ticks_per_day);
    let uniform = (args.propensity == Some(Propensity::Uniform)).then(|| 1.0 / log.arms.len() as f64);
    let to_logged = |(i, row): (usize, &crate::trial::Row)| LoggedRow {
        unit: row.unit_key().into(),
        tick: match (row.at, first) {
            (Some(at), Some(first)) => u32::try_from(at.tick(tick) - first).unwrap_or(u32::MAX),
            _ => (i as f64 / rows_per_tick) as u32,
        },
        arm: row.arm,
        outcome: row.values.first().copied().unwrap_or_default(),
        propensity: row.propensity.or(uniform),
    };
    log.rows.iter().enumerate().map(to_logged).collect()
}

/// Errors in the input are usage errors.
fn cli_error(error: SimulationError) -> anyhow::Error {
    match error {
        SimulationError::Field { .. } | SimulationError::Row { .. } => {
            usage_error(explain_serde_error(error.to_string()))
        }
        other => anyhow::Error::new(other),
    }
}
