//! `inroad record`: one exposure, one outcome, or a file full of them.

mod file;
mod line;
mod names;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use inroad_assignment::Timestamp;
use inroad_wire::timestamp_to_wire;
use inroad_wire::v1::{AssignRequest, Exposure, ExposureMode, Outcome, RecordRequest, RecordResponse, Rejection};
use serde_json::{Map, json};
use tonic::Status;

use crate::assign::{context_of, unit_attribute};
use crate::connect::{Connection, Patience, ServerArgs, retrying};
use crate::failure::usage;
use crate::output::Output;
use crate::parse::{self, Attribute, UnitRef};

/// What to record.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RecordArgs {
    /// A file of events, one JSON object a line; - for standard input. It may be sent again, mended or not: an outcome is
    /// known by its event_id, or else by all that it says, for which it needs an occurred_at. On standard input it may
    /// have neither, and counts each time
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long to go on trying while the server is busy or away
    #[arg(long, default_value = "60s", value_parser = parse::duration, value_name = "DURATION")]
    retry_for: Duration,
    #[command(subcommand)]
    one: Option<One>,
}

/// A single event.
#[derive(Debug, Subcommand)]
enum One {
    /// A unit did something
    Outcome(OutcomeArgs),
    /// A unit saw a variation
    Exposure(ExposureArgs),
}

/// An outcome.
#[derive(Debug, Args)]
struct OutcomeArgs {
    /// Who did it, as TYPE=KEY; a bare key is the targeting key. Again for each unit type
    #[arg(long = "unit", required = true, value_name = "UNIT", value_parser = parse::unit)]
    units: Vec<UnitRef>,
    /// The event's name
    #[arg(long)]
    event: String,
    /// Its value
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    value: f64,
    /// When [default: now]
    #[arg(long, value_parser = parse::instant, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Makes it itself: the same id is the same outcome [default: a new one]
    #[arg(long)]
    event_id: Option<String>,
    /// The experiment whose manual clock the time is read from
    #[arg(long, default_value = "", hide_default_value = true, value_name = "EXPERIMENT")]
    clock: String,
}

/// An exposure.
#[derive(Debug, Args)]
struct ExposureArgs {
    /// The experiment
    #[arg(long)]
    experiment: String,
    /// The unit's key
    #[arg(long, value_parser = parse::unit_key)]
    unit: String,
    /// What it saw [default: what the server assigns it]
    #[arg(long)]
    variation: Option<String>,
    /// Under which revision [default: the one in effect]
    #[arg(long)]
    revision: Option<u32>,
    /// In which generation [default: the running one]
    #[arg(long)]
    generation: Option<u32>,
    /// When [default: now]
    #[arg(long, value_parser = parse::instant, value_name = "TIME")]
    at: Option<Timestamp>,
    /// An attribute of the context, such as account.tier=internal
    #[arg(long = "attr", value_parser = parse::attribute, value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
}

/// Records it.
pub(crate) async fn run(args: RecordArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    match (args.one, args.file) {
        (Some(One::Outcome(outcome)), _) => {
            let connection = Connection::open(server).await?;
            let outcome = outcome.into_event();
            let id = outcome.event_id.clone();
            let request = RecordRequest { exposures: Vec::new(), outcomes: vec![outcome] };
            single(&connection, request, args.retry_for).await?;
            out.line(format!("recorded, event id {id}"))?;
            Ok(out.value(&json!({"accepted": 1, "event_id": id}))?)
        }
        (Some(One::Exposure(exposure)), _) => {
            let connection = Connection::open(server).await?;
            let exposure = exposure.into_event(&connection).await?;
            let (variation, revision) = (exposure.variation.clone(), exposure.revision);
            let request = RecordRequest { exposures: vec![exposure], outcomes: Vec::new() };
            single(&connection, request, args.retry_for).await?;
            out.line(format!("recorded, {variation} under revision {revision}"))?;
            Ok(out.value(&json!({"accepted": 1, "variation": variation, "revision": revision}))?)
        }
        (None, Some(file)) => file::run(&file, args.retry_for, server, out).await,
        (None, None) => Err(usage("name a file with -f, or say `record outcome` or `record exposure`")),
    }
}

async fn single(connection: &Connection, request: RecordRequest, limit: Duration) -> anyhow::Result<()> {
    let patience = Patience { limit, pausing: &said_pausing };
    let response = send(connection, &request, &patience).await?;
    match response.rejections.first() {
        None => Ok(()),
        Some(Rejection { reason, message, .. }) => anyhow::bail!("the event was refused: {message} ({reason})"),
    }
}

/// Sends a batch until it is acknowledged: sending it again changes nothing.
pub(crate) async fn send(
    connection: &Connection,
    request: &RecordRequest,
    patience: &Patience<'_>,
) -> Result<RecordResponse, Status> {
    retrying(patience, || {
        let mut events = connection.events();
        let request = request.clone();
        async move { events.record(request).await }
    })
    .await
}

/// Tells standard error why there is a pause.
pub(crate) fn said_pausing(status: &Status) {
    eprintln!("inroad: {}, trying again", status.message());
}

impl OutcomeArgs {
    fn into_event(self) -> Outcome {
        Outcome {
            units: self.units.into_iter().map(|unit| (unit.kind, unit.key)).collect(),
            event: self.event,
            value: self.value,
            occurred_at: self.at.map(timestamp_to_wire),
            event_id: self.event_id.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())),
            clock: self.clock,
        }
    }
}

impl ExposureArgs {
    /// What was not said is what the server would assign now.
    async fn into_event(self, connection: &Connection) -> anyhow::Result<Exposure> {
        let (mut variation, mut revision, mut generation) = (self.variation, self.revision, self.generation);
        let fields = context_of(Map::new(), &self.attributes);
        if variation.is_none() || revision.is_none() || generation.is_none() {
            let attribute = unit_attribute(connection, &self.experiment).await?;
            let mut context = fields.clone();
            Attribute::text(&attribute, &self.unit).insert_into(&mut context);
            let request = AssignRequest {
                experiment: self.experiment.clone(),
                context: Some(inroad_wire::json_to_struct(&context)),
                exposure: ExposureMode::None.into(),
            };
            let answer = connection.assignments().assign(request).await?.into_inner();
            if answer.point.is_none() {
                let reason = crate::views::reason_name(answer.reason);
                anyhow::bail!(
                    "{} gives this unit no place on its line ({reason}): there is no exposure to record",
                    self.experiment
                );
            }
            variation = variation.or(Some(answer.variation));
            revision = revision.or(Some(answer.revision));
            generation = generation.or(Some(answer.generation));
        }
        Ok(Exposure {
            experiment: self.experiment,
            generation: generation.unwrap_or_default(),
            unit: self.unit,
            variation: variation.unwrap_or_default(),
            revision: revision.unwrap_or_default(),
            occurred_at: self.at.map(timestamp_to_wire),
            context: (!fields.is_empty()).then(|| inroad_wire::json_to_struct(&fields)),
        })
    }
}
