//! `inroad experiment …`: everything that people do with an experiment. A command with far-reaching effects asks for
//! confirmation. Killing one variation never asks, because it must be fast.

mod change;
mod read;
mod serving;

use std::time::Duration;

use clap::{Args, Subcommand};
use inroad_assignment::Timestamp;

use crate::confirm::ConfirmArgs;
use crate::connect::{ActorArgs, Connection, ServerArgs};
use crate::output::Output;
use crate::parse;

/// An action on experiments.
#[derive(Debug, Args)]
pub(crate) struct ExperimentArgs {
    #[command(subcommand)]
    pub(crate) command: ExperimentCommand,
}

/// The actions.
#[derive(Debug, Subcommand)]
pub(crate) enum ExperimentCommand {
    /// List experiments
    List {
        /// List only keys with this prefix
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Show one experiment
    Get {
        /// Experiment key
        key: String,
    },
    /// Start a draft
    Start(ChangedExperiment),
    /// Stop the policy and the recording of assignments; every unit keeps its variation
    Pause(ChangedExperiment),
    /// Continue the policy and the recording of assignments
    Resume(ChangedExperiment),
    /// Grow a variation by taking traffic from control
    Grow(GrowArgs),
    /// Serve control at once instead of one variation, or of all variations
    ///
    /// Without a variation, and for the variation that a conclusion ships, it asks first. The kill of another variation
    /// is immediate, and states how many units it affects.
    Kill {
        #[command(flatten)]
        experiment: ChangedExperiment,
        /// Variation key [default: all variations]
        #[arg(value_parser = parse::variation)]
        variation: Option<String>,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Undo a kill: the same units get the variation back
    Restore {
        #[command(flatten)]
        experiment: ChangedExperiment,
        /// Variation key [default: undo the kill of the whole experiment]
        #[arg(value_parser = parse::variation)]
        variation: Option<String>,
    },
    /// Start a new run under a new salt: every unit is assigned again
    Restart {
        #[command(flatten)]
        experiment: ChangedExperiment,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// End an experiment: ship one variation to its audience, or roll back to control
    Conclude(ConcludeArgs),
    /// Archive a concluded experiment or a draft permanently
    Archive {
        #[command(flatten)]
        experiment: ChangedExperiment,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Let the allocation policy decide now, not at the next update
    Reallocate(ChangedExperiment),
    /// Advance simulated time
    Advance(AdvanceArgs),
    /// List the revisions of a run
    Revisions {
        /// Experiment key
        key: String,
        /// Run number (generation) [default: the current run]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        generation: u32,
    },
    /// List the decisions of the allocation policy, newest first
    ///
    /// Includes what the policy would do where it runs in shadow.
    Decisions {
        /// Experiment key
        key: String,
        /// Run number (generation) [default: the current run]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        generation: u32,
        /// Most decisions to list
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Explain why each share changed or not in a revision, and recompute its decision
    Explain {
        /// Experiment key
        key: String,
        /// Revision number
        revision: u32,
        /// Run number (generation) [default: the current run]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        generation: u32,
        /// Also show the whole stored record
        #[arg(long)]
        record: bool,
    },
    /// Show the audit log, newest first
    Audit {
        /// Experiment key [default: all experiments]
        key: Option<String>,
        /// Most entries to list
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

/// An experiment to change, and who changes it.
#[derive(Debug, Args)]
pub(crate) struct ChangedExperiment {
    /// Experiment key
    key: String,
    #[command(flatten)]
    actor: ActorArgs,
}

/// The variation to grow, and by how much.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    #[command(flatten)]
    experiment: ChangedExperiment,
    /// Variation key
    #[arg(value_parser = parse::variation)]
    variation: String,
    #[command(flatten)]
    amount: GrowthArgs,
}

/// How much to grow: exactly one of the flags.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct GrowthArgs {
    /// Traffic share to grow to
    #[arg(long, allow_hyphen_values = true, value_name = "SHARE", value_parser = parse::share)]
    to: Option<f64>,
    /// Traffic share to add
    #[arg(long, allow_hyphen_values = true, value_name = "SHARE", value_parser = parse::share)]
    by: Option<f64>,
    /// Factor to multiply the current share by
    #[arg(long, allow_negative_numbers = true, value_name = "NUMBER", value_parser = parse::times)]
    times: Option<f64>,
}

/// The experiment to conclude, and what to serve afterwards.
#[derive(Debug, Args)]
pub(crate) struct ConcludeArgs {
    #[command(flatten)]
    experiment: ChangedExperiment,
    #[command(flatten)]
    outcome: ConclusionArgs,
    /// Ship to all units, also those outside the audience
    #[arg(long, conflicts_with = "roll_back")]
    to_everyone: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// What to serve after the experiment: exactly one of the flags.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ConclusionArgs {
    /// Serve this variation to all units in the audience
    #[arg(long, value_name = "VARIATION", value_parser = parse::variation)]
    ship: Option<String>,
    /// Serve control to all units
    #[arg(long)]
    roll_back: bool,
}

/// The experiment whose simulated time to advance.
#[derive(Debug, Args)]
pub(crate) struct AdvanceArgs {
    #[command(flatten)]
    experiment: ChangedExperiment,
    #[command(flatten)]
    step: AdvanceStepArgs,
}

/// How far to advance: exactly one of the flags.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AdvanceStepArgs {
    /// Time to advance to
    #[arg(long, value_name = "TIME", value_parser = parse::instant)]
    to: Option<Timestamp>,
    /// Duration to advance by
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    by: Option<Duration>,
}

impl ExperimentArgs {
    /// The experiment and the variation on the command line; `None` if no experiment was named.
    pub(crate) fn typed_keys(&self) -> Option<(&str, Option<&str>)> {
        use ExperimentCommand as C;
        match &self.command {
            C::List { .. } | C::Audit { key: None, .. } => None,
            C::Audit { key: Some(key), .. } => Some((key, None)),
            C::Get { key } | C::Revisions { key, .. } | C::Decisions { key, .. } | C::Explain { key, .. } => {
                Some((key, None))
            }
            C::Start(experiment) | C::Pause(experiment) | C::Resume(experiment) | C::Reallocate(experiment) => {
                Some((&experiment.key, None))
            }
            C::Restart { experiment, .. } | C::Archive { experiment, .. } => Some((&experiment.key, None)),
            C::Kill { experiment, variation, .. } | C::Restore { experiment, variation } => {
                Some((&experiment.key, variation.as_deref()))
            }
            C::Grow(args) => Some((&args.experiment.key, Some(&args.variation))),
            C::Conclude(args) => Some((&args.experiment.key, args.outcome.ship.as_deref())),
            C::Advance(args) => Some((&args.experiment.key, None)),
        }
    }
}

impl ExperimentCommand {
    /// Who changes something; `None` if the action changes nothing.
    fn actor(&self) -> Option<&ActorArgs> {
        match self {
            Self::List { .. }
            | Self::Get { .. }
            | Self::Revisions { .. }
            | Self::Decisions { .. }
            | Self::Explain { .. }
            | Self::Audit { .. } => None,
            Self::Start(experiment)
            | Self::Pause(experiment)
            | Self::Resume(experiment)
            | Self::Reallocate(experiment)
            | Self::Kill { experiment, .. }
            | Self::Restore { experiment, .. }
            | Self::Restart { experiment, .. }
            | Self::Archive { experiment, .. }
            | Self::Grow(GrowArgs { experiment, .. })
            | Self::Conclude(ConcludeArgs { experiment, .. })
            | Self::Advance(AdvanceArgs { experiment, .. }) => Some(&experiment.actor),
        }
    }
}

/// Runs the action.
pub(crate) async fn run(command: ExperimentCommand, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    use ExperimentCommand as C;
    let connection = match command.actor() {
        Some(actor) => Connection::open_as(server, actor).await?,
        None => Connection::open(server).await?,
    };
    let reader = read::ExperimentReader { connection: &connection, out };
    let changer = change::ExperimentChanger { connection: &connection, out };
    match command {
        C::List { prefix } => reader.list(&prefix).await,
        C::Get { key } => reader.get(&key).await,
        C::Revisions { key, generation } => reader.revisions(key, generation).await,
        C::Decisions { key, generation, limit } => reader.decisions(key, generation, limit).await,
        C::Explain { key, revision, generation, record } => reader.explain(key, generation, revision, record).await,
        C::Audit { key, limit } => reader.audit(key.unwrap_or_default(), limit).await,
        C::Start(experiment) => changer.start(experiment.key).await,
        C::Pause(experiment) => changer.pause(experiment.key).await,
        C::Resume(experiment) => changer.resume(experiment.key).await,
        C::Grow(args) => changer.grow(args).await,
        C::Kill { experiment, variation, confirm } => changer.kill(experiment.key, variation, confirm).await,
        C::Restore { experiment, variation } => changer.restore(experiment.key, variation).await,
        C::Restart { experiment, confirm } => changer.restart(experiment.key, confirm).await,
        C::Conclude(args) => changer.conclude(args).await,
        C::Archive { experiment, confirm } => changer.archive(experiment.key, confirm).await,
        C::Reallocate(experiment) => changer.reallocate(experiment.key).await,
        C::Advance(args) => changer.advance(args).await,
    }
}
