//! `inroad record`: sends one exposure, one outcome, or a file of events.

mod event_ids;
mod file;
mod line;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use inroad_assignment::Timestamp;
use inroad_wire::timestamp_to_wire;
use inroad_wire::v1::{AssignRequest, Exposure, ExposureMode, Outcome, OutcomeWarning, Reason, RecordRequest};
use serde_json::{Map, json};

use crate::connect::{Connection, RetryPolicy, ServerArgs};
use crate::failure::{RefusedEvent, usage_error};
use crate::lookup::unit_attribute;
use crate::output::{Output, count};
use crate::parse::{self, Attribute, UnitRef};
use crate::send_events::{report_pause, send_events};
use crate::wire_text::reason_name;

/// The events to record.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RecordArgs {
    /// File of events, one JSON object per line; - for standard input
    ///
    /// An outcome has unit (as TYPE=KEY) and event, and may have value, occurred_at, event_id and clock: the experiment whose
    /// simulated time is used. An exposure has experiment, generation, unit, variation and revision, and may have occurred_at
    /// and context.
    ///
    /// You can fix a file and send it again: duplicates are accepted, and count once. An outcome is a duplicate if it
    /// has the same event_id, or, without one, the same content and occurred_at. On standard input an outcome may
    /// have neither, and then counts each time.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long to retry while the server is busy or unreachable
    #[arg(long, default_value = "60s", value_parser = parse::duration, value_name = "DURATION")]
    retry_for: Duration,
    #[command(subcommand)]
    event: Option<SingleEvent>,
}

/// A single event.
#[derive(Debug, Subcommand)]
enum SingleEvent {
    /// Record that a unit did something
    Outcome(OutcomeArgs),
    /// Record that a unit saw a variation
    Exposure(ExposureArgs),
}

/// An outcome.
#[derive(Debug, Args)]
struct OutcomeArgs {
    /// Unit, as TYPE=KEY; a key without a type is the targeting key. Repeat for each unit type
    #[arg(long = "unit", required = true, value_name = "UNIT", value_parser = parse::unit)]
    units: Vec<UnitRef>,
    /// Event name
    #[arg(long)]
    event: String,
    /// Value of the outcome
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    value: f64,
    /// Time of the event [default: now]
    #[arg(long, value_parser = parse::instant, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Id of the outcome: outcomes with the same id count once [default: a new id]
    #[arg(long)]
    event_id: Option<String>,
    /// Experiment whose simulated time is used
    #[arg(long, default_value = "", hide_default_value = true, value_name = "EXPERIMENT")]
    clock: String,
}

/// An exposure.
#[derive(Debug, Args)]
struct ExposureArgs {
    /// Experiment key
    #[arg(long)]
    experiment: String,
    /// Unit key
    #[arg(long, value_parser = parse::unit_key)]
    unit: String,
    /// Variation that the unit saw [default: the one that the server assigns]
    #[arg(long)]
    variation: Option<String>,
    /// Revision of the assignment [default: the one in effect]
    #[arg(long)]
    revision: Option<u32>,
    /// Run number (generation) [default: the current run]
    #[arg(long)]
    generation: Option<u32>,
    /// Time of the event [default: now]
    #[arg(long, value_parser = parse::instant, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Attribute of the context, such as account.tier=internal; may be repeated
    #[arg(long = "attr", value_parser = parse::attribute, value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
}

/// Records the events.
pub(crate) async fn run(args: RecordArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    match (args.event, args.file) {
        (Some(SingleEvent::Outcome(outcome)), _) => {
            let connection = Connection::open(server).await?;
            let outcome = outcome.into_event();
            let id = outcome.event_id.clone();
            let request = RecordRequest { exposures: Vec::new(), outcomes: vec![outcome] };
            let warnings = send_one(&connection, request, args.retry_for).await?;
            out.print_text(format!("recorded, event id {id}"))?;
            print_warnings(&warnings);
            Ok(out.print_json(&json!({"accepted": 1, "event_id": id, "warnings": warnings_json(&warnings)}))?)
        }
        (Some(SingleEvent::Exposure(exposure)), _) => {
            let connection = Connection::open(server).await?;
            let exposure = exposure.into_event(&connection).await?;
            let (variation, revision) = (exposure.variation.clone(), exposure.revision);
            let request = RecordRequest { exposures: vec![exposure], outcomes: Vec::new() };
            send_one(&connection, request, args.retry_for).await?;
            out.print_text(format!("recorded, {variation} under revision {revision}"))?;
            Ok(out.print_json(&json!({"accepted": 1, "variation": variation, "revision": revision}))?)
        }
        (None, Some(file)) => file::send_file(&file, args.retry_for, server, out).await,
        (None, None) => Err(usage_error(
            "nothing to record. Name a file with -f, or use `inroad record outcome` or `inroad record exposure`.",
        )),
    }
}

/// Sends one event.
///
/// # Errors
///
/// When the server refuses the event, or is busy or unreachable for longer than `limit`.
async fn send_one(
    connection: &Connection,
    request: RecordRequest,
    limit: Duration,
) -> anyhow::Result<Vec<OutcomeWarning>> {
    let retry = RetryPolicy { limit, on_pause: &report_pause };
    let response = send_events(connection, &request, &retry).await?;
    match response.rejections.into_iter().next() {
        None => Ok(response.warnings),
        Some(refused) => Err(RefusedEvent { reason: refused.reason, message: refused.message }.into()),
    }
}

/// Prints on standard error that no experiment counts some outcomes. They are stored, so this is no failure.
fn print_warnings(warnings: &[OutcomeWarning]) {
    for warning in warnings {
        let stored = match warning.outcomes {
            1 => "The outcome is stored, but no experiment counts it".to_owned(),
            n => format!("{} outcomes are stored, but no experiment counts them", count(u64::from(n))),
        };
        eprintln!("inroad: {stored}. {}", warning.message);
    }
}

fn warnings_json(warnings: &[OutcomeWarning]) -> Vec<serde_json::Value> {
    let warning = |w: &OutcomeWarning| json!({"reason": w.reason, "event": w.event, "outcomes": w.outcomes, "message": w.message});
    warnings.iter().map(warning).collect()
}

impl RecordArgs {
    /// The experiment and the variation on the command line; `None` if no experiment was named.
    pub(crate) fn typed_keys(&self) -> Option<(&str, Option<&str>)> {
        match &self.event {
            Some(SingleEvent::Exposure(exposure)) => Some((&exposure.experiment, exposure.variation.as_deref())),
            _ => None,
        }
    }
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
    /// Values that were not given are those of the current assignment.
    async fn into_event(self, connection: &Connection) -> anyhow::Result<Exposure> {
        let (mut variation, mut revision, mut generation) = (self.variation, self.revision, self.generation);
        let fields = parse::with_attributes(Map::new(), &self.attributes);
        if variation.is_none() || revision.is_none() || generation.is_none() {
            let attribute = unit_attribute(connection, &self.experiment).await?;
            let mut context = fields.clone();
            Attribute::from_text(&attribute, &self.unit).insert_into(&mut context);
            let request = AssignRequest {
                experiment: self.experiment.clone(),
                context: Some(inroad_wire::json_to_struct(&context)),
                exposure: ExposureMode::None.into(),
            };
            let answer = connection.assignments().assign(request).await?.into_inner();
            if answer.reason == i32::from(Reason::UnknownExperiment) {
                let message = format!("there is no experiment {:?}", self.experiment);
                return Err(RefusedEvent { reason: "UNKNOWN_EXPERIMENT".to_owned(), message }.into());
            }
            if answer.point.is_none() {
                let reason = reason_name(answer.reason);
                anyhow::bail!(
                    "an assignment of {} to this unit is not recorded ({reason}): give --variation, --generation and --revision \
                     to record an exposure that happened earlier",
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
