//! The command line: what may be typed, and who is called for it.

use clap::{Parser, Subcommand};

use crate::connect::ServerArgs;
use crate::experiment::ExperimentCommand;
use crate::output::Output;
use crate::{
    apply, assign, backup, bandit, clients, counterfactual, demo, experiment, forget, funnel, plan, record, replay,
    results, serve, simulate, watch,
};

/// Multi-armed-bandit allocation that never moves a unit between variations.
#[derive(Debug, Parser)]
#[command(name = "inroad", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// Say everything as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Watch four weeks of a bandit go by in seconds, then try it out
    Demo(demo::DemoArgs),
    /// Make experiments what a file declares
    Apply(apply::ApplyArgs),
    /// List, start, grow, kill and conclude experiments
    #[command(subcommand)]
    Experiment(ExperimentCommand),
    /// Show what a unit gets, and why
    Assign(assign::AssignArgs),
    /// Record exposures and outcomes
    Record(record::RecordArgs),
    /// Show how each variation does
    Results(results::ResultsArgs),
    /// Show how far units get through outcomes in order
    Funnel(funnel::FunnelArgs),
    /// Tell every change as it happens
    Watch(watch::WatchArgs),
    /// Show who is connected, how far behind, and when they had the last change
    Clients(clients::ClientsArgs),
    /// Replay the log of a randomised trial through a running server
    Replay(Box<replay::ReplayArgs>),
    /// Tell what policies would have made of the log of a randomised trial, without a server
    Counterfactual(Box<counterfactual::CounterfactualArgs>),
    /// Try policies on simulated units, without a server
    Simulate(Box<simulate::SimulateArgs>),
    /// Play the textbook Bernoulli bandit by several samplers
    Bandit(bandit::BanditArgs),
    /// Tell how long an experiment will take to find a lift, before it starts
    Plan(plan::PlanArgs),
    /// Take a unit's raw key out of the event log, for good
    Forget(forget::ForgetArgs),
    /// Copy a server's data, whether it runs or not
    ///
    /// Reads the data folder itself, on the machine that has it. A server that serves from it goes on meanwhile; the copy
    /// is of one moment, and has all that was acknowledged before. To restore, serve from the copy: inroad serve --data DIR
    Backup(backup::BackupArgs),
}

impl Cli {
    /// Does what was asked.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (server, out) = (&self.server, Output { json: self.json });
        match self.command {
            Command::Serve(args) => serve::run(args, out).await,
            Command::Demo(args) => demo::run(args, server, out).await,
            Command::Apply(args) => apply::run(args, server, out).await,
            Command::Experiment(command) => experiment::run(command, server, out).await,
            Command::Assign(args) => assign::run(args, server, out).await,
            Command::Record(args) => record::run(args, server, out).await,
            Command::Results(args) => results::run(args, server, out).await,
            Command::Funnel(args) => funnel::run(args, server, out).await,
            Command::Watch(args) => watch::run(args, server, out).await,
            Command::Clients(args) => clients::run(args, server, out).await,
            Command::Replay(args) => replay::run(*args, server, out).await,
            Command::Counterfactual(args) => counterfactual::run(&args, out),
            Command::Simulate(args) => simulate::run(&args, out),
            Command::Bandit(args) => bandit::run(&args, out),
            Command::Plan(args) => plan::run(&args, out),
            Command::Forget(args) => forget::run(args, server, out).await,
            Command::Backup(args) => backup::run(args, out).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    fn accepts(line: &str) -> bool {
        Cli::try_parse_from(line.split_whitespace()).is_ok()
    }

    #[test]
    fn what_people_type_is_understood() {
        for line in [
            "inroad serve --listen 127.0.0.1:0 --store sqlite:/tmp/x --lead 500ms --log-format json",
            "inroad serve --retain-events 30d",
            "inroad backup /backups/monday --data /var/lib/inroad --json",
            "inroad backup /backups/monday --store sqlite:/var/lib/inroad",
            "inroad forget --unit user=alice --yes --json",
            "inroad demo --no-keep --days 3 --json",
            "inroad apply -f a.toml --dry-run --start",
            "inroad experiment grow k on --to 30%",
            "inroad experiment kill k on --server localhost:7071",
            "inroad experiment conclude k --roll-back --yes",
            "inroad experiment advance k --by 24h",
            "inroad --json assign k alice --attr account.tier=internal --local",
            "inroad record -f events.jsonl",
            "inroad record outcome --unit user=alice --event visit --value -3",
            "inroad results k --wait",
            "inroad funnel k view cart purchase --from 2026-01-31 --to 2026-02-28T12:00:00Z --json",
            "inroad watch",
            "inroad clients --json",
            "inroad clients --at 17",
            "inroad replay log.csv --experiment k --outcome visit,spend --floor 5%",
            "inroad bandit --rates 0.1,0.2,0.3 --horizon 1000",
            "inroad plan --base 0.05 --per-day 4000 --lift 0.1 --variations 2",
            "inroad counterfactual log.parquet --control a --propensity uniform --policies growth,equal --set floor=0.1",
            "inroad simulate --list",
            "inroad simulate s1 my.toml --policies growth,equal --set floor=0.02 --set burn_in=12h --ship --report r.html",
        ] {
            assert!(accepts(line), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "inroad",
            "inroad experiment grow k on",
            "inroad experiment grow k on --to 30% --times 2",
            "inroad experiment grow k on --to 30",
            "inroad experiment conclude k",
            "inroad experiment conclude k --ship a --roll-back",
            "inroad experiment advance k --by yesterday",
            "inroad serve --store postgres://x",
            "inroad serve --retain-events always",
            "inroad backup",
            "inroad funnel k",
            "inroad funnel k 1 2 3 4 5 6 7 8 9",
            "inroad funnel k view --from yesterday",
            "inroad counterfactual log.csv --propensity uniform --propensity-column p",
            "inroad counterfactual log.csv --set floor",
            "inroad forget alice",
            "inroad forget --unit user= --yes",
            "inroad assign k alice --local --durable",
            "inroad simulate",
            "inroad simulate --list s1",
            "inroad simulate s1 --replications 0",
            "inroad simulate s1 --threads 0",
            "inroad simulate s1 --set floor",
        ] {
            assert!(!accepts(line), "{line}");
        }
    }
}
