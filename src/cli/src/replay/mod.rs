//! `inroad replay`: streams the log of a randomised trial through a running server, in virtual time, by the replay
//! method. A server that is killed meanwhile is waited for; a replay that is broken off goes on where the clock stands.

mod drive;
mod matching;
mod plan;
mod report;
mod setup;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use inroad_assignment::Timestamp;
use inroad_wire::v1::GetResultsResponse;

use crate::connect::{Connection, Patience, ServerArgs};
use crate::failure::usage;
use crate::output::Output;
use crate::parse::{self, slug};
use crate::progress::{self, Of};
use crate::trial;
use crate::views;

/// How many days of virtual time a log lasts that does not say when.
const DAYS: f64 = 28.0;

/// What to replay, and through what.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The log: CSV with a line of column names, or .parquet; one customer a row, arms drawn evenly at random
    file: PathBuf,
    /// The experiment; it is made if it is not there [default: the file's name]
    #[arg(long, value_name = "KEY")]
    experiment: Option<String>,
    /// The column that says what the customer got
    #[arg(long, default_value = "segment", value_name = "COLUMN")]
    arm_column: String,
    /// The arm that is the control [default: the one called control]
    #[arg(long, value_name = "ARM")]
    control: Option<String>,
    /// The columns that say what came of it; the first, of 0 and 1, decides
    #[arg(long, default_value = "visit", value_delimiter = ',', value_name = "COLUMNS")]
    outcome: Vec<String>,
    /// The column that says who [default: the row's number]
    #[arg(long, value_name = "COLUMN")]
    unit_column: Option<String>,
    /// The column that says when
    #[arg(long, value_name = "COLUMN", conflicts_with_all = ["rows_per_day", "start"])]
    time_column: Option<String>,
    /// How many rows make a day [default: as many as make the log last 28 days]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_day: Option<u64>,
    /// When the first row happens
    #[arg(long, default_value = "2026-01-01", value_parser = parse::instant, value_name = "TIME")]
    start: Timestamp,
    /// How long each unit is followed
    #[arg(long, default_value = "1h", value_parser = parse::duration, value_name = "DURATION")]
    window: Duration,
    /// The most that one unit may count for, in outcomes that are not just 0 and 1; needed where such a one decides
    #[arg(long, value_name = "NUMBER")]
    cap: Option<f64>,
    /// The salt, to see the same again [default: drawn]
    #[arg(long)]
    salt: Option<String>,
    /// Stop after so many rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// How long to go on trying while the server is busy or away
    #[arg(long, default_value = "60s", value_parser = parse::duration, value_name = "DURATION")]
    retry_for: Duration,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// Settings of the policy, for an experiment that is made.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policy")]
struct PolicyArgs {
    /// How often growth is decided [default: 24h]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    tick: Option<Duration>,
    /// The share that control always keeps [default: 5%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    floor: Option<f64>,
    /// The most of the line that may change hands in a day [default: 25%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    daily_cap: Option<f64>,
    /// A smaller step is not taken [default: 0.5%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    min_step: Option<f64>,
    /// No growth before so long [default: 24h]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    burn_in: Option<Duration>,
    /// No growth before every live arm has so many units [default: 100]
    #[arg(long, value_name = "N")]
    burn_in_units: Option<u64>,
    /// No growth before every live arm has so many conversions [default: 1]
    #[arg(long, value_name = "N")]
    burn_in_conversions: Option<u64>,
    /// A variation is killed when it is worse than control with more than this probability [default: 99%]
    #[arg(long, value_parser = parse::share, value_name = "SHARE")]
    kill_probability: Option<f64>,
}

/// Replays, and tells how it went.
pub(crate) async fn run(args: ReplayArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let replayed = replay(&args, server, out).await?;
    let report = report::Report(&replayed);
    out.value(&report.json())?;
    out.line(report.text())?;
    report.check()
}

/// A replay that has come to its end.
#[derive(Debug)]
struct Replayed {
    log: trial::Log,
    /// The whole file, by arm, also where a limit left some of it out.
    whole: Vec<trial::Tally>,
    seen: drive::Seen,
    results: GetResultsResponse,
    /// Rows that another run had replayed before.
    earlier: u64,
}

async fn replay(args: &ReplayArgs, server: &ServerArgs, out: Output) -> anyhow::Result<Replayed> {
    let key = key_of(args)?;
    let columns = trial::Columns {
        arm: &args.arm_column,
        control: args.control.as_deref(),
        arms: None,
        outcomes: &args.outcome,
        unit: args.unit_column.as_deref(),
        time: args.time_column.as_deref(),
        propensity: None,
    };
    let log = trial::Log::read(&args.file, &columns)?;
    log.must_convert()?;
    let whole = log.tallies();
    let rows_per_day = args.rows_per_day.map_or(log.rows.len() as f64 / DAYS, |n| n as f64);
    let limit = args.limit.map_or(log.rows.len(), |limit| limit.min(log.rows.len()));
    for arm in &log.arms {
        out.line(format!("{:?} is variation {}", arm.label, arm.key))?;
    }

    let connection = Connection::open(server).await?;
    let start = match log.rows.first().and_then(|row| row.at) {
        Some(at) => {
            let tick = args.policy.tick.unwrap_or(Duration::from_secs(86_400));
            Timestamp::start_of_tick(at.tick(tick), tick)
        }
        None => args.start,
    };
    let doc = setup::definition(&key, &log, args, start);
    let (experiment, made) = setup::running(&connection, &doc, args).await?;
    let started = views::time(experiment.start_time.as_ref()).unwrap_or(start);
    let pace = match args.time_column {
        Some(_) => plan::Pace::Told,
        None => plan::Pace::Even { start: started, rows_per_day },
    };
    let times: Vec<Timestamp> = log.rows.iter().enumerate().map(|(i, row)| pace.at(i, row)).collect();
    if times.first().is_some_and(|first| *first < started) {
        return Err(usage(format!(
            "experiment {key} started after the log's first row: replay under another --experiment"
        )));
    }
    let tick = setup::tick(&experiment)?;
    let (ticks, whole_ticks) = plan::cut(plan::ticks(&times, tick), limit);
    let now = views::time(experiment.now.as_ref()).unwrap_or(started);
    let done = plan::done(&ticks, now);
    let earlier = ticks.get(done).map_or(limit, |tick| tick.rows.start);
    out.line(format!("experiment {key} {}", if made { "is made and runs" } else { "was there, and goes on" }))?;
    if earlier > 0 {
        out.line(format!(
            "{} were replayed before: the clock stands at {}",
            crate::output::plural(earlier as u64, "row"),
            crate::output::instant(now)
        ))?;
    }

    let bar = progress::bar(limit as u64, Of::Rows, out);
    bar.set_position(earlier as u64);
    let pausing = |status: &tonic::Status| bar.set_message(format!("waiting: {}", status.message()));
    let mut drive = drive::Drive {
        connection: &connection,
        patience: Patience { limit: args.retry_for, pausing: &pausing },
        target: matching::Target { experiment: key.clone(), unit: experiment.unit.clone() },
        log: &log,
        times: &times,
        tick,
        now,
        bar: &bar,
        seen: drive::Seen::new(log.arms.len()),
    };
    let driven = drive.run(&ticks[done..], whole_ticks).await;
    bar.finish_and_clear();
    driven.map_err(|e| {
        e.context("the replay broke off; run the same command again, it goes on where the clock stands")
    })?;
    let results = drive.results().await?;
    let seen = drive.seen;
    Ok(Replayed { log, whole, seen, results, earlier: earlier as u64 })
}

/// The experiment's key: as given, or made of the file's name.
fn key_of(args: &ReplayArgs) -> anyhow::Result<String> {
    let stem = args.file.file_stem().map(|stem| slug(&stem.to_string_lossy())).unwrap_or_default();
    match args.experiment.clone().unwrap_or(stem) {
        key if key.is_empty() => Err(usage("the file's name makes no key: name the experiment with --experiment")),
        key => Ok(key),
    }
}
