//! The command line: the commands, the flags they share, and the function that runs each command.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::connect::ServerArgs;
use crate::experiment::ExperimentArgs;
use crate::output::Output;
use crate::suggestions::TypedKeys;
use crate::{
    apply, assign, audience, audit, backup, bandit, clients, clock, counterfactual, demo, experiment, forget, funnel,
    plan, record, replay, results, serve, simulate, watch,
};

/// Allocate traffic with a multi-armed bandit that never moves a unit between variations
#[derive(Debug, Parser)]
#[command(name = "inroad", bin_name = "inroad", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Output JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    command: Command,
}

/// The arguments of a command that calls a server.
#[derive(Debug, Args)]
struct OnServer<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    ///
    /// Serves gRPC, the dashboard and metrics on one port, and stores everything in one folder.
    Serve(serve::ServeArgs),
    /// Run a server with four weeks of simulated visitors
    ///
    /// Shows in seconds how traffic moves to the best variation, then keeps the server running so that you can try it.
    Demo(demo::DemoArgs),
    /// Create or update the experiments that a file declares
    ///
    /// Applying the same file again changes nothing.
    Apply(OnServer<apply::ApplyArgs>),
    /// List, start, grow, kill and conclude experiments
    Experiment(OnServer<ExperimentArgs>),
    /// Show which variation a unit gets, and why
    Assign(OnServer<assign::AssignArgs>),
    /// Record exposures and outcomes
    Record(OnServer<record::RecordArgs>),
    /// Try an audience: how many of the contexts seen lately match
    Audience(OnServer<audience::AudienceArgs>),
    /// Show the results of each variation
    Results(OnServer<results::ResultsArgs>),
    /// Show how many units reach each step of a sequence of outcomes
    Funnel(OnServer<funnel::FunnelArgs>),
    /// Stream changes
    ///
    /// Prints each change of an experiment as connected SDKs receive it, until you stop it.
    Watch(OnServer<watch::WatchArgs>),
    /// List connected SDKs and how far each is behind
    Clients(OnServer<clients::ClientsArgs>),
    /// Show whether a server trusts its machine's clock, and accept a jump of it
    Clock(OnServer<clock::ClockArgs>),
    /// Replay the log of a randomised trial through a running server
    ///
    /// Shows what the allocation policy would have done with the units of the trial.
    Replay(Box<OnServer<replay::ReplayArgs>>),
    /// Estimate what policies would have achieved on the log of a randomised trial
    ///
    /// Needs no server.
    Counterfactual(Box<counterfactual::CounterfactualArgs>),
    /// Compare policies on simulated units
    ///
    /// Needs no server.
    Simulate(Box<simulate::SimulateArgs>),
    /// Compare samplers on the textbook Bernoulli bandit
    ///
    /// Shows what a policy could reach if it could choose again at every visit. Needs no server.
    Bandit(bandit::BanditArgs),
    /// Estimate how long an experiment needs to find a lift
    ///
    /// Simulates the allocation policy with your traffic and base rate. Needs no server.
    Plan(plan::PlanArgs),
    /// Delete a unit's raw key from the event log permanently
    Forget(OnServer<forget::ForgetArgs>),
    /// Copy a server's data, whether the server is running or not
    ///
    /// Run it on the machine that has the data folder. A running server continues to serve. The copy is of one moment and
    /// contains everything acknowledged before it. To restore, serve from the copy: inroad serve --data DIR
    Backup(backup::BackupArgs),
    /// Verify the audit log of a data folder or a copy
    Audit(audit::AuditArgs),
}

impl Cli {
    /// Parses the command line of this process.
    pub(crate) fn parse_from_env() -> Result<Self, clap::Error> {
        Self::parse_words(std::env::args_os())
    }

    fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(move_server_flags_behind_command(words))
    }

    /// The keys on the command line, to suggest similar ones if the server does not know them. `None` for a command that
    /// names no experiment, or that suggests one itself.
    pub(crate) fn typed_keys(&self) -> Option<TypedKeys> {
        let (server, experiment, variation) = match &self.command {
            Command::Experiment(OnServer { args, server }) => {
                let (experiment, variation) = args.typed_keys()?;
                (server, experiment, variation)
            }
            Command::Record(OnServer { args, server }) => {
                let (experiment, variation) = args.typed_keys()?;
                (server, experiment, variation)
            }
            Command::Results(OnServer { args, server }) => (server, args.key.as_str(), None),
            Command::Funnel(OnServer { args, server }) => (server, args.key.as_str(), None),
            _ => return None,
        };
        Some(TypedKeys {
            server: server.clone(),
            experiment: experiment.to_owned(),
            variation: variation.map(str::to_owned),
        })
    }

    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let out = Output { json: self.json };
        match self.command {
            Command::Serve(args) => serve::run(args, out).await,
            Command::Demo(args) => demo::run(args, out).await,
            Command::Apply(OnServer { args, server }) => apply::run(args, &server, out).await,
            Command::Experiment(OnServer { args, server }) => experiment::run(args.command, &server, out).await,
            Command::Assign(OnServer { args, server }) => assign::run(args, &server, out).await,
            Command::Record(OnServer { args, server }) => record::run(args, &server, out).await,
            Command::Audience(OnServer { args, server }) => audience::run(args, &server, out).await,
            Command::Results(OnServer { args, server }) => results::run(args, &server, out).await,
            Command::Funnel(OnServer { args, server }) => funnel::run(args, &server, out).await,
            Command::Watch(OnServer { args, server }) => watch::run(args, &server, out).await,
            Command::Clients(OnServer { args, server }) => clients::run(args, &server, out).await,
            Command::Clock(OnServer { args, server }) => clock::run(args, &server, out).await,
            Command::Replay(command) => replay::run(&command.args, &command.server, out).await,
            Command::Counterfactual(args) => counterfactual::run(&args, out),
            Command::Simulate(args) => simulate::run(&args, out),
            Command::Bandit(args) => bandit::run(&args, out),
            Command::Plan(args) => plan::run(&args, out),
            Command::Forget(OnServer { args, server }) => forget::run(args, &server, out).await,
            Command::Backup(args) => backup::run(args, out).await,
            Command::Audit(args) => audit::run(args, out).await,
        }
    }
}

/// Moves `--server` and `--actor` from before a command's name to behind it. They belong to the commands that use them,
/// and so are not flags of `inroad` itself, but `inroad --server URL results KEY` must work as well.
fn move_server_flags_behind_command(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let mut in_front: Vec<OsString> = words.next().into_iter().collect();
    let mut moved: Vec<OsString> = Vec::new();
    let mut command: Option<String> = None;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        match text.as_str() {
            "--server" | "--actor" => {
                moved.push(word);
                moved.extend(words.next());
            }
            flag if flag.starts_with("--server=") || flag.starts_with("--actor=") => moved.push(word),
            "--" => {
                in_front.push(word);
                break;
            }
            flag if flag.starts_with('-') => in_front.push(word),
            name => {
                in_front.push(word);
                // The flags belong behind the action of these commands.
                let expect_action = command.is_none() && matches!(name, "experiment" | "record" | "clock");
                command.get_or_insert_with(|| name.to_owned());
                if !expect_action {
                    break;
                }
            }
        }
    }
    // Without a command, the error is that there is none; `help` calls no server.
    if command.is_some_and(|command| command != "help") {
        in_front.extend(moved);
    }
    in_front.extend(words);
    in_front
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::parse_words(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn valid_command_lines_are_accepted() {
        for line in [
            "inroad serve --listen 127.0.0.1:0 --store sqlite:/tmp/x --lead 500ms --log-format json",
            "inroad serve --retain-events 30d",
            "inroad backup /backups/monday --data /var/lib/inroad --json",
            "inroad backup /backups/monday --store sqlite:/var/lib/inroad",
            "inroad audit verify --data /backups/monday --json",
            "inroad forget --unit user=alice --yes --json",
            "inroad demo --no-keep --days 3 --json",
            "inroad apply -f a.toml --dry-run --start",
            "inroad experiment grow k on --to 30%",
            "inroad experiment kill k on --server localhost:7071",
            "inroad experiment --server localhost:7071 kill k on",
            "inroad --server localhost:7071 experiment kill k on",
            "inroad --actor ann experiment --server=localhost:7071 kill k on",
            "inroad experiment --actor=ann kill k on",
            "inroad --server localhost:7071 --json results k",
            "inroad --server localhost:7071 record outcome --unit user=alice --event visit",
            "inroad record --server localhost:7071 exposure --experiment k --unit alice",
            "inroad --server localhost:7071 record -f events.jsonl --retry-for 1s",
            "inroad experiment conclude k --roll-back --yes",
            "inroad experiment advance k --by 24h",
            "inroad --json assign k alice --attr account.tier=internal --local",
            "inroad assign k alice --record",
            "inroad record -f events.jsonl",
            "inroad record outcome --unit user=alice --event visit --value -3",
            "inroad record outcome --unit user=alice --event visit --server localhost:7071",
            "inroad results k --wait",
            "inroad audience true --unit user --json",
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
            let parsed = parse(line);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn invalid_command_lines_are_refused() {
        for line in [
            "inroad",
            "inroad experiment",
            "inroad experiment grow k on",
            "inroad experiment grow k on --to 30% --times 2",
            "inroad experiment grow k on --to 30",
            "inroad experiment grow k on --to -5%",
            "inroad experiment kill k --server",
            "inroad experiment conclude k",
            "inroad experiment conclude k --ship a --roll-back",
            "inroad experiment advance k --by yesterday",
            "inroad experiment explain k two",
            "inroad record outcome --unit a --event e --value much",
            "inroad serve --store postgres://x",
            "inroad serve --retain-events always",
            "inroad backup",
            "inroad audit",
            "inroad audit verify --expect 12",
            "inroad funnel k",
            "inroad funnel k 1 2 3 4 5 6 7 8 9",
            "inroad funnel k view --from yesterday",
            "inroad counterfactual log.csv --propensity uniform --propensity-column p",
            "inroad counterfactual log.csv --set floor",
            "inroad forget alice",
            "inroad forget --unit user= --yes",
            "inroad assign k alice --local --record",
            "inroad assign k alice --durable",
            "inroad simulate",
            "inroad simulate --list s1",
            "inroad simulate s1 --replications 0",
            "inroad simulate s1 --threads 0",
            "inroad simulate s1 --set floor",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn commands_without_a_server_refuse_the_server_flag() {
        for command in ["serve", "demo", "backup d", "simulate s1", "bandit --rates 0.1,0.2", "counterfactual a.csv"] {
            assert!(parse(&format!("inroad {command}")).is_ok(), "{command}");
            assert!(parse(&format!("inroad {command} --server localhost:7071")).is_err(), "{command}");
            assert!(parse(&format!("inroad --server localhost:7071 {command}")).is_err(), "{command}");
        }
    }

    #[test]
    fn only_commands_that_change_something_take_an_actor() {
        for (command, takes_actor) in [
            ("apply -f a.toml", true),
            ("experiment start k", true),
            ("experiment kill k", true),
            ("forget --unit a", true),
            ("replay a.csv", true),
            ("experiment list", false),
            ("results k", false),
            ("watch", false),
            ("assign k alice", false),
        ] {
            assert_eq!(parse(&format!("inroad {command} --actor ann")).is_ok(), takes_actor, "{command}");
        }
    }

    #[test]
    fn later_server_flag_wins() {
        let cli = parse("inroad --server first:1 results k --server second:2").unwrap();
        assert_eq!(cli.typed_keys().unwrap().server.url().unwrap(), "http://second:2");
    }

    #[test]
    fn empty_key_is_not_the_whole_experiment() {
        for action in ["kill k", "restore k", "conclude k --ship", "grow k"] {
            let words = format!("inroad experiment {action}");
            let words = words.split(' ').chain([""]).map(OsString::from);
            let error = Cli::parse_words(words).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ValueValidation, "{action}: {error}");
        }
    }

    #[test]
    fn server_flag_in_front_does_not_hide_a_missing_command() {
        use clap::error::ErrorKind;
        let kind = |line: &str| parse(line).unwrap_err().kind();
        assert_eq!(kind("inroad --server localhost:7071 help experiment"), ErrorKind::DisplayHelp);
        for line in ["inroad --server localhost:7071", "inroad --server", "inroad --actor ann"] {
            assert_eq!(kind(line), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "{line}");
        }
    }

    #[test]
    fn negative_numbers_are_values() {
        use clap::error::ErrorKind;
        assert!(parse("inroad plan --base 0.05 --per-day 4000 --lift -0.1").is_ok());
        let error = parse("inroad experiment grow k on --by -5%").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
        assert!(error.to_string().contains("not between 0% and 100%"), "{error}");
    }

    #[test]
    fn usage_names_the_program_inroad_whatever_its_file_is_called() {
        let message = parse("/opt/inroad-1.2 results").unwrap_err().to_string();
        assert!(message.contains("Usage: inroad results"), "{message}");
    }

    #[test]
    fn misspelt_names_are_answered_with_similar_ones() {
        for (line, similar) in [
            ("inroad experimnt list", "experiment"),
            ("inroad experiment kil k", "kill"),
            ("inroad results k --wiat", "--wait"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains("similar") && message.contains(similar), "{line}: {message}");
        }
    }

    #[test]
    fn every_command_and_argument_has_a_help_text() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
