//! `inroad experiment …`: everything people do to an experiment. What takes something away from somebody for good is
//! asked about once; a kill of one variation never is, since nobody should have to wait for it.

mod change;
mod look;

use std::time::Duration;

use clap::{Args, Subcommand};
use inroad_assignment::Timestamp;

use crate::connect::{Connection, ServerArgs};
use crate::output::Output;
use crate::parse;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum ExperimentCommand {
    /// List experiments
    List {
        /// Only keys that start so
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Show one experiment
    Get {
        /// The experiment
        key: String,
    },
    /// Start a draft
    Start {
        /// The experiment
        key: String,
    },
    /// Stop recording and growing; everybody keeps what they have
    Pause {
        /// The experiment
        key: String,
    },
    /// Record and grow again
    Resume {
        /// The experiment
        key: String,
    },
    /// Grow a variation into control
    Grow(GrowArgs),
    /// Serve control at every client at once: instead of one variation, or of all of them
    Kill {
        /// The experiment
        key: String,
        /// The variation; all of them if left out
        variation: Option<String>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Lift a kill: the same units get the variation back
    Restore {
        /// The experiment
        key: String,
        /// The variation; if left out, the kill of the whole experiment is lifted
        variation: Option<String>,
    },
    /// Begin a new generation under a new salt: every unit is drawn anew
    Restart {
        /// The experiment
        key: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// End it: ship one variation to everybody, or roll back to control
    Conclude(ConcludeArgs),
    /// Put a concluded experiment, or a draft, away for good
    Archive {
        /// The experiment
        key: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Let the policy decide now instead of at the next tick
    Reallocate {
        /// The experiment
        key: String,
    },
    /// Move a manual clock forward
    Advance(AdvanceArgs),
    /// List the revisions of a generation
    Revisions {
        /// The experiment
        key: String,
        /// Which generation [default: the running one]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        generation: u32,
    },
    /// List what the policy decided, tick by tick, newest first: also what it would do, where it runs in shadow
    Decisions {
        /// The experiment
        key: String,
        /// Which generation [default: the running one]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        generation: u32,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Tell in plain words why each share moved or did not in a revision, and recompute the decision behind it
    Explain {
        /// The experiment
        key: String,
        /// The revision's number
        revision: u32,
        /// Which generation [default: the running one]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        generation: u32,
        /// Show the whole stored record too
        #[arg(long)]
        record: bool,
    },
    /// Show who did what, newest first
    Audit {
        /// The experiment; all of them if left out
        key: Option<String>,
        /// How many entries
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

/// Whether to ask.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Sure {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What grows, and by how much.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    /// The experiment
    key: String,
    /// The variation
    variation: String,
    #[command(flatten)]
    amount: Amount,
}

/// One way of saying how much.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Amount {
    /// To this share of the line in all
    #[arg(long, value_name = "SHARE", value_parser = parse::share)]
    to: Option<f64>,
    /// By this share of the line
    #[arg(long, value_name = "SHARE", value_parser = parse::share)]
    by: Option<f64>,
    /// To so many times what it has
    #[arg(long, value_name = "NUMBER", value_parser = parse::times)]
    times: Option<f64>,
}

/// How an experiment ends.
#[derive(Debug, Args)]
pub(crate) struct ConcludeArgs {
    /// The experiment
    key: String,
    #[command(flatten)]
    end: End,
    #[command(flatten)]
    sure: Sure,
}

/// One end or the other.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct End {
    /// Everybody gets this variation
    #[arg(long, value_name = "VARIATION")]
    ship: Option<String>,
    /// Everybody gets control
    #[arg(long)]
    roll_back: bool,
}

/// How far a clock moves.
#[derive(Debug, Args)]
pub(crate) struct AdvanceArgs {
    /// The experiment
    key: String,
    #[command(flatten)]
    step: Step,
}

/// One way of saying how far.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Step {
    /// To this instant
    #[arg(long, value_name = "TIME", value_parser = parse::instant)]
    to: Option<Timestamp>,
    /// By so much
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    by: Option<Duration>,
}

/// Does it.
pub(crate) async fn run(command: ExperimentCommand, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    use ExperimentCommand as C;
    let connection = Connection::open(server).await?;
    let looking = look::Look { connection: &connection, out };
    let changing = change::Change { connection: &connection, out };
    match command {
        C::List { prefix } => looking.list(prefix).await,
        C::Get { key } => looking.get(key).await,
        C::Revisions { key, generation } => looking.revisions(key, generation).await,
        C::Decisions { key, generation, limit } => looking.decisions(key, generation, limit).await,
        C::Explain { key, revision, generation, record } => looking.explain(key, generation, revision, record).await,
        C::Audit { key, limit } => looking.audit(key.unwrap_or_default(), limit).await,
        C::Start { key } => changing.start(key).await,
        C::Pause { key } => changing.pause(key).await,
        C::Resume { key } => changing.resume(key).await,
        C::Grow(args) => changing.grow(args).await,
        C::Kill { key, variation, sure } => changing.kill(key, variation, sure).await,
        C::Restore { key, variation } => changing.restore(key, variation).await,
        C::Restart { key, sure } => changing.restart(key, sure).await,
        C::Conclude(args) => changing.conclude(args).await,
        C::Archive { key, sure } => changing.archive(key, sure).await,
        C::Reallocate { key } => changing.reallocate(key).await,
        C::Advance(args) => changing.advance(args).await,
    }
}
