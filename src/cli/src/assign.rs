//! `inroad assign`: what one unit gets, why, and where on the line it lives.

use anyhow::Context as _;
use clap::Args;
use inroad_assignment::{Point, TARGETING_KEY};
use inroad_wire::v1::{AssignRequest, AssignResponse, ExposureMode, ListRevisionsRequest};
use inroad_wire::{allocation_from_wire, json_to_struct};
use serde_json::{Map, Value, json};

use crate::apply::find;
use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, fields, percent};
use crate::parse::{self, Attribute, point};
use crate::views;

/// Whom to assign.
#[derive(Debug, Args)]
pub(crate) struct AssignArgs {
    /// The experiment
    experiment: String,
    /// The unit's key
    #[arg(value_parser = parse::unit_key)]
    unit: String,
    /// An attribute of the context, such as account.tier=internal
    #[arg(long = "attr", value_parser = parse::attribute, value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
    /// The context, as a JSON object; --attr is put on top
    #[arg(long, value_parser = parse::object, value_name = "JSON")]
    context: Option<Map<String, Value>>,
    /// Decide here, against the server's snapshot, as an SDK does
    #[arg(long)]
    local: bool,
    /// Record the exposure, and answer when it is on disk
    #[arg(long, conflicts_with = "local")]
    durable: bool,
    /// Record no exposure (the default)
    #[arg(long, conflicts_with = "durable")]
    no_exposure: bool,
}

/// A stretch of the line.
struct Stretch {
    number: usize,
    of: usize,
    start: u64,
    last: u64,
    owner: String,
    share: f64,
}

/// Shows what the unit gets.
pub(crate) async fn run(args: AssignArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let attribute = unit_attribute(&connection, &args.experiment).await?;
    let mut context = context_of(args.context.unwrap_or_default(), &args.attributes);
    Attribute::text(&attribute, &args.unit).insert_into(&mut context);
    let answer = if args.local {
        crate::local::assign(server, &args.experiment, &context).await?
    } else {
        let mode = if args.durable { ExposureMode::Durable } else { ExposureMode::None };
        let request = AssignRequest {
            experiment: args.experiment.clone(),
            context: Some(json_to_struct(&context)),
            exposure: mode.into(),
        };
        connection.assignments().assign(request).await?.into_inner()
    };
    let stretch = stretch(&connection, &args.experiment, &answer).await?;
    let mut shown = views::assignment(&answer);
    shown.insert("experiment".to_owned(), json!(args.experiment));
    shown.insert("unit".to_owned(), json!(args.unit));
    shown.insert("context".to_owned(), Value::Object(context));
    let bucket = stretch
        .as_ref()
        .map(|s| json!({"start": point(s.start), "last": point(s.last), "owner": s.owner, "share": s.share}));
    shown.insert("bucket".to_owned(), json!(bucket));
    out.value(&Value::Object(shown))?;
    let none = || "–".to_owned();
    let variation = if answer.variation.is_empty() {
        "none: the caller's own default stands".to_owned()
    } else {
        answer.variation.clone()
    };
    let bucket = |s: Stretch| {
        format!(
            "{} to {}, {} of {}, {} of the line, {}",
            point(s.start),
            point(s.last),
            s.number,
            s.of,
            percent(s.share),
            s.owner
        )
    };
    let mut rows = vec![
        ("variation", variation),
        ("payload", views::payload(answer.payload.as_ref()).to_string()),
        ("reason", views::reason_name(answer.reason).to_owned()),
        ("generation", answer.generation.to_string()),
        ("revision", answer.revision.to_string()),
        ("point", answer.point.map_or_else(none, point)),
        ("bucket", stretch.map_or_else(none, bucket)),
    ];
    if args.durable {
        rows.push(("exposure", if answer.exposure_recorded { "on disk" } else { "none recorded" }.to_owned()));
    }
    Ok(out.line(fields(&rows))?)
}

/// The context that what was typed makes.
pub(crate) fn context_of(mut context: Map<String, Value>, attributes: &[Attribute]) -> Map<String, Value> {
    attributes.iter().for_each(|attribute| attribute.insert_into(&mut context));
    context
}

/// The attribute that names an experiment's units; the targeting key if there is no such experiment.
pub(crate) async fn unit_attribute(connection: &Connection, experiment: &str) -> anyhow::Result<String> {
    let found = find(connection, experiment).await?;
    Ok(found.map(|e| e.unit).filter(|unit| !unit.is_empty()).unwrap_or_else(|| TARGETING_KEY.to_owned()))
}

/// The bucket that an answer's point lies in, under the revision that answered.
async fn stretch(connection: &Connection, key: &str, answer: &AssignResponse) -> anyhow::Result<Option<Stretch>> {
    let Some(at) = answer.point else { return Ok(None) };
    let request = ListRevisionsRequest { key: key.to_owned(), generation: answer.generation };
    let revisions = connection.experiments().list_revisions(request).await?.into_inner().revisions;
    let Some(revision) = revisions.iter().find(|r| r.number == answer.revision) else { return Ok(None) };
    let names: Vec<String> =
        find(connection, key).await?.map(|e| e.variations.into_iter().map(|v| v.key).collect()).unwrap_or_default();
    let allocation = allocation_from_wire(&revision.buckets).context("the revision's buckets")?;
    let owner = allocation.owner(Point::new(at));
    let after = revision.buckets.partition_point(|b| b.start <= at);
    let start = after.checked_sub(1).and_then(|i| revision.buckets.get(i)).map_or(0, |b| b.start);
    let last = revision.buckets.get(after).map_or(u64::MAX, |b| b.start - 1);
    Ok(Some(Stretch {
        number: after,
        of: revision.buckets.len(),
        start,
        last,
        owner: views::owner(owner.index() as u32, &names),
        share: ((last - start) as f64 + 1.0) / 18_446_744_073_709_551_616.0,
    }))
}
