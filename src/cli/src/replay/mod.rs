//! `inroad replay`: sends the log of a randomised trial through a running server in simulated time, by the replay method.
//! Waits for a server that restarts; an interrupted replay continues from the experiment's simulated time.

mod driver;
mod matching;
mod report;
mod schedule;
mod setup;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use inroad_assignment::Timestamp;
use inroad_wire::v1::GetResultsResponse;

use crate::connect::{ActorArgs, Connection, RetryPolicy, ServerArgs};
use crate::failure::usage_error;
use crate::output::{Output, instant, plural};
use crate::parse::{self, slug};
use crate::progress::{self, ProgressUnit};
use crate::trial;
use crate::wire_text::timestamp_of;

/// The length in simulated days of a log without times.
const DAYS: f64 = 28.0;

/// The log, and the experiment to replay it through.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Log: CSV with a header row, or .parquet; one customer per row, arms assigned at random with equal probability
    file: PathBuf,
    /// Experiment key; created if it does not exist [default: from the file name]
    #[arg(long, value_name = "KEY")]
    experiment: Option<String>,
    /// Column with the arm that the customer got
    #[arg(long, default_value = "segment", value_name = "COLUMN")]
    arm_column: String,
    /// Control arm [default: the arm named control]
    #[arg(long, value_name = "ARM")]
    control: Option<String>,
    /// Columns with the outcomes; the first, of only 0 and 1, is the primary metric
    #[arg(long, default_value = "visit", value_delimiter = ',', value_name = "COLUMNS")]
    outcome: Vec<String>,
    /// Column with the unit key [default: the row number]
    #[arg(long, value_name = "COLUMN")]
    unit_column: Option<String>,
    /// Column with the time
    #[arg(long, value_name = "COLUMN", conflicts_with_all = ["rows_per_day", "start"])]
    time_column: Option<String>,
    /// Rows per day [default: the number of rows divided by 28]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_day: Option<u64>,
    /// Time of the first row
    #[arg(long, default_value = "2026-01-01", value_parser = parse::instant, value_name = "TIME")]
    start: Timestamp,
    /// How long outcomes of a unit count after its exposure
    #[arg(long, default_value = "1h", value_parser = parse::duration, value_name = "DURATION")]
    window: Duration,
    /// Largest value that one unit can contribute to an outcome that is not only 0 and 1
    #[arg(long, value_name = "NUMBER")]
    cap: Option<f64>,
    /// Salt, to get the same assignments again [default: random; that of `inroad counterfactual` is "counterfactual"]
    #[arg(long)]
    salt: Option<String>,
    /// Stop after this number of rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// How long to retry while the server is busy or unreachable
    #[arg(long, default_value = "60s", value_parser = parse::duration, value_name = "DURATION")]
    retry_for: Duration,
    #[command(flatten)]
    cells: trial::CellArgs,
    #[command(flatten)]
    actor: ActorArgs,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// Settings of the allocation policy, for an experiment that is created.
#[derive(Debug, Args)]
#[command(next_help_heading = "Allocation policy")]
struct PolicyArgs {
    /// Update frequency: how often the policy decides [default: 24h]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    tick: Option<Duration>,
    /// Minimum control share (holdout) [default: 5%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    floor: Option<f64>,
    /// Largest share that may move from control per day [default: 25%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    daily_cap: Option<f64>,
    /// Smallest share to move in one update, to all variations together [default: 0.5%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    min_step: Option<f64>,
    /// Time before the first growth [default: 24h]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    burn_in: Option<Duration>,
    /// Units that every live variation needs before the first growth [default: 100]
    #[arg(long, value_name = "N")]
    burn_in_units: Option<u64>,
    /// Conversions that every live variation needs before the first growth [default: 1]
    #[arg(long, value_name = "N")]
    burn_in_conversions: Option<u64>,
    /// Probability of being worse than control above which a variation is killed [default: 99%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    kill_probability: Option<f64>,
}

/// Replays the log and prints the results.
pub(crate) async fn run(args: &ReplayArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let replayed = replay(args, server, out).await?;
    let report = report::Report(&replayed);
    out.print_json(&report.json())?;
    out.print_text(report.text())?;
    report.check()
}

/// A completed replay.
#[derive(Debug)]
struct Replayed {
    log: trial::Log,
    /// The counts of the whole file by arm, also with a limit.
    file: Vec<trial::Tally>,
    counts: driver::ReplayCounts,
    results: GetResultsResponse,
    /// Rows that an earlier command replayed.
    earlier: u64,
}

async fn replay(args: &ReplayArgs, server: &ServerArgs, out: Output) -> anyhow::Result<Replayed> {
    let key = experiment_key(args)?;
    let columns = trial::Columns {
        arm: &args.arm_column,
        control: args.control.as_deref(),
        arms: None,
        outcomes: &args.outcome,
        unit: args.unit_column.as_deref(),
        time: args.time_column.as_deref(),
        propensity: None,
        cells: args.cells,
    };
    let log = trial::Log::read(&args.file, &columns)?;
    log.check_first_outcome_is_conversion()?;
    let file = log.tallies();
    let rows_per_day = args.rows_per_day.map_or(log.rows.len() as f64 / DAYS, |n| n as f64);
    let limit = args.limit.map_or(log.rows.len(), |limit| limit.min(log.rows.len()));
    for arm in log.arms.iter().filter(|arm| arm.label != arm.key) {
        out.print_text(format!("{:?} is variation {}", arm.label, arm.key))?;
    }
    // Before the replay, which can take minutes and cannot be undone.
    for warning in &log.findings.warnings {
        out.print_text(format!("warning: {warning}"))?;
    }

    let connection = Connection::open_as(server, &args.actor).await?;
    let start = match log.rows.first().and_then(|row| row.at) {
        Some(at) => {
            let tick = args.policy.tick.unwrap_or(Duration::from_secs(86_400));
            Timestamp::start_of_tick(at.tick(tick), tick)
        }
        None => args.start,
    };
    let doc = setup::definition(&key, &log, args, start);
    let (experiment, created) = setup::ensure_running(&connection, &doc, args).await?;
    let started = timestamp_of(experiment.start_time.as_ref()).unwrap_or(start);
    let row_times = match args.time_column {
        Some(_) => schedule::RowTimes::FromFile,
        None => schedule::RowTimes::Even { start: started, rows_per_day },
    };
    let times: Vec<Timestamp> = log.rows.iter().enumerate().map(|(i, row)| row_times.at(i, row)).collect();
    if times.first().is_some_and(|first| *first < started) {
        return Err(usage_error(format!(
            "experiment {key} started after the first row of the log. Replay through another --experiment."
        )));
    }
    let tick = setup::tick_length(&experiment)?;
    let (ticks, last_tick_complete) = schedule::limit_ticks(schedule::ticks(&times, tick), limit);
    let now = timestamp_of(experiment.now.as_ref()).unwrap_or(started);
    let completed = schedule::completed_ticks(&ticks, now);
    let earlier = ticks.get(completed).map_or(limit, |tick| tick.rows.start);
    out.print_text(format!(
        "experiment {key}: {}",
        if created { "created and running" } else { "exists and continues" }
    ))?;
    if earlier > 0 {
        out.print_text(format!(
            "{} replayed earlier; simulated time is {}",
            plural(earlier as u64, "row"),
            instant(now)
        ))?;
    }

    let bar = progress::progress_bar(Some(limit as u64), ProgressUnit::Rows, out);
    bar.set_position(earlier as u64);
    let on_pause = |status: &tonic::Status| bar.set_message(format!("waiting: {}", status.message()));
    let mut driver = driver::ReplayDriver {
        connection: &connection,
        retry: RetryPolicy { limit: args.retry_for, on_pause: &on_pause },
        target: matching::ReplayTarget { experiment: key.clone(), unit: experiment.unit.clone() },
        log: &log,
        times: &times,
        tick,
        now,
        bar: &bar,
        counts: driver::ReplayCounts::new(log.arms.len()),
    };
    let result = driver.run(&ticks[completed..], last_tick_complete).await;
    bar.finish_and_clear();
    result.map_err(|e| e.context("the replay was interrupted. Run the same command again to continue it"))?;
    let results = driver.results().await?;
    let counts = driver.counts;
    Ok(Replayed { log, file, counts, results, earlier: earlier as u64 })
}

/// The experiment's key: from the command line, or from the file name.
fn experiment_key(args: &ReplayArgs) -> anyhow::Result<String> {
    let stem = args.file.file_stem().map(|stem| slug(&stem.to_string_lossy())).unwrap_or_default();
    match args.experiment.clone().unwrap_or(stem) {
        key if key.is_empty() => {
            Err(usage_error("the file name gives no valid key. Name the experiment with --experiment."))
        }
        key => Ok(key),
    }
}
