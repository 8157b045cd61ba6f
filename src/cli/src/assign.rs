//! `inroad assign`: shows which variation a unit gets, why, and its bucket on the line.

use anyhow::Context as _;
use clap::Args;
use inroad_assignment::Point;
use inroad_wire::v1::{AssignRequest, AssignResponse, ExposureMode, Reason};
use inroad_wire::{allocation_from_wire, json_to_struct};
use serde_json::{Map, Value, json};

use crate::connect::{Connection, ServerArgs};
use crate::failure::usage_error;
use crate::lookup::{find_experiment, list_revisions, unit_attribute};
use crate::output::{Output, fields, percent};
use crate::parse::{self, Attribute, point};
use crate::response_json;
use crate::suggestions::unknown_experiment_note;
use crate::wire_text::{owner_name, reason_name};

/// The unit to assign.
#[derive(Debug, Args)]
pub(crate) struct AssignArgs {
    /// Experiment key
    experiment: String,
    /// Unit key
    #[arg(value_parser = parse::unit_key)]
    unit: String,
    /// Attribute of the context, such as account.tier=internal; may be repeated
    #[arg(long = "attr", value_parser = parse::attribute, value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
    /// Context as a JSON object; --attr overrides its attributes
    #[arg(long, value_parser = parse::object, value_name = "JSON")]
    context: Option<Map<String, Value>>,
    /// Compute the assignment in this process from the server's snapshot, as an SDK does
    #[arg(long)]
    local: bool,
    /// Record the exposure, and answer when it is on disk
    #[arg(long, conflicts_with = "local")]
    record: bool,
    /// Record no exposure (the default)
    #[arg(long, conflicts_with = "record")]
    no_exposure: bool,
}

/// A bucket of the line.
struct Bucket {
    /// From 1, in the order of the line.
    number: usize,
    /// How many buckets the line has.
    total: usize,
    start: u64,
    last: u64,
    owner: String,
    share: f64,
}

/// Shows what the unit gets.
pub(crate) async fn run(args: AssignArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let attribute = unit_attribute(&connection, &args.experiment).await?;
    let mut context = parse::with_attributes(args.context.unwrap_or_default(), &args.attributes);
    let unit = Attribute::from_text(&attribute, &args.unit);
    if unit.would_replace_object(&context) {
        return Err(usage_error(format!(
            "the unit of {0} is the attribute {attribute:?}, so it cannot have attributes of its own such as {attribute}.tier: \
             give the attribute another name, or declare the experiment with unit = \"{attribute}.id\"",
            args.experiment
        )));
    }
    unit.insert_into(&mut context);
    let answer = if args.local {
        crate::local_assignment::assign(server, &args.experiment, &context).await?
    } else {
        let mode = if args.record { ExposureMode::Durable } else { ExposureMode::None };
        let request = AssignRequest {
            experiment: args.experiment.clone(),
            context: Some(json_to_struct(&context)),
            exposure: mode.into(),
        };
        connection.assignments().assign(request).await?.into_inner()
    };
    let bucket = find_bucket(&connection, &args.experiment, &answer).await?;
    let mut shown = response_json::assignment_json(&answer);
    shown.insert("experiment".to_owned(), json!(args.experiment));
    shown.insert("unit".to_owned(), json!(args.unit));
    shown.insert("context".to_owned(), Value::Object(context));
    let bucket_json = bucket
        .as_ref()
        .map(|b| json!({"start": point(b.start), "last": point(b.last), "owner": b.owner, "share": b.share}));
    shown.insert("bucket".to_owned(), json!(bucket_json));
    out.print_json(&Value::Object(shown))?;
    let dash = || "–".to_owned();
    let variation =
        if answer.variation.is_empty() { "not found; default used".to_owned() } else { answer.variation.clone() };
    let bucket_text = |b: Bucket| {
        format!(
            "{} to {}, {} of {}, {} of the line, {}",
            point(b.start),
            point(b.last),
            b.number,
            b.total,
            percent(b.share),
            b.owner
        )
    };
    let mut rows = vec![
        ("variation", variation),
        ("payload", response_json::payload_json(answer.payload.as_ref()).to_string()),
        ("reason", reason_name(answer.reason).to_owned()),
        ("run", answer.generation.to_string()),
        ("revision", answer.revision.to_string()),
        ("point", answer.point.map_or_else(dash, point)),
        ("bucket", bucket.map_or_else(dash, bucket_text)),
    ];
    if args.record {
        rows.push(("exposure", if answer.exposure_recorded { "recorded" } else { "not recorded" }.to_owned()));
    }
    out.print_text(fields(&rows))?;
    if answer.reason == i32::from(Reason::UnknownExperiment) {
        // A service gets this answer and uses its default. In a script it is more likely a typo.
        anyhow::bail!(unknown_experiment_note(&connection, &args.experiment).await);
    }
    Ok(())
}

/// The bucket that contains the point of an answer, in the revision of that answer.
async fn find_bucket(connection: &Connection, key: &str, answer: &AssignResponse) -> anyhow::Result<Option<Bucket>> {
    let Some(at) = answer.point else { return Ok(None) };
    let revisions = list_revisions(connection, key, answer.generation).await?;
    let Some(revision) = revisions.iter().find(|r| r.number == answer.revision) else { return Ok(None) };
    let experiment = find_experiment(connection, key).await?;
    let keys: Vec<String> = experiment.map(|e| e.variations.into_iter().map(|v| v.key).collect()).unwrap_or_default();
    let allocation = allocation_from_wire(&revision.buckets).context("the revision's buckets")?;
    let owner = allocation.owner(Point::new(at));
    let after = revision.buckets.partition_point(|b| b.start <= at);
    let start = after.checked_sub(1).and_then(|i| revision.buckets.get(i)).map_or(0, |b| b.start);
    let last = revision.buckets.get(after).map_or(u64::MAX, |b| b.start - 1);
    Ok(Some(Bucket {
        number: after,
        total: revision.buckets.len(),
        start,
        last,
        owner: owner_name(owner.index() as u32, &keys),
        share: ((last - start) as f64 + 1.0) / 18_446_744_073_709_551_616.0,
    }))
}
