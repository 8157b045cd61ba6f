//! `inroad apply`: creates or updates the experiments that a file declares, and lists each changed field. Applying the
//! same file again changes nothing.

use std::path::PathBuf;

use clap::Args;
use inroad_assignment::document::ClockDoc;
use inroad_assignment::{DefinitionDoc, MetricKind};
use inroad_wire::definition_to_wire;
use inroad_wire::v1::{self, Experiment};
use serde_json::{Value, json};

use crate::connect::{ActorArgs, Connection, ServerArgs};
use crate::diff::{FieldChange, diff};
use crate::experiment_file::{self, DeclaredExperiment};
use crate::lookup::find_experiment;
use crate::output::{Output, plural};
use crate::response_json;

/// The file to apply.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File (.toml, .yaml or .json) with one experiment, or several under `experiments`; - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Show what would change without changing it
    #[arg(long)]
    dry_run: bool,
    /// Start the experiments that are drafts
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    actor: ActorArgs,
}

/// What to do with one experiment.
enum Step {
    Create,
    Update { etag: String },
    Nothing,
}

impl Step {
    fn result(&self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Create, false) => "created",
            (Self::Create, true) => "would be created",
            (Self::Update { .. }, false) => "updated",
            (Self::Update { .. }, true) => "would be updated",
            (Self::Nothing, _) => "unchanged",
        }
    }
}

/// Applies the file.
pub(crate) async fn run(args: ApplyArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let declared = experiment_file::read(&args.file)?;
    let connection = Connection::open_as(server, &args.actor).await?;
    let mut shown = Vec::with_capacity(declared.len());
    for one in &declared {
        shown.push(
            apply(one, &args, &connection, out)
                .await
                .map_err(|e| e.context(format!("experiment {}", one.as_written.key)))?,
        );
    }
    if declared.is_empty() {
        out.print_text("the file declares no experiments, so nothing was changed")?;
    }
    Ok(out.print_json(&json!({"experiments": shown}))?)
}

async fn apply(
    declared: &DeclaredExperiment,
    args: &ApplyArgs,
    connection: &Connection,
    out: Output,
) -> anyhow::Result<Value> {
    let key = &declared.as_written.key;
    let current = find_experiment(connection, key).await?;
    let (step, changes) = plan(declared, current.as_ref())?;
    let mut as_written = definition_to_wire(&declared.as_written);
    let mut experiments = connection.experiments();
    let applied = match &step {
        Step::Nothing => current.unwrap_or_default(),
        Step::Create => {
            let request = v1::CreateExperimentRequest { experiment: Some(as_written), validate_only: args.dry_run };
            experiments.create_experiment(request).await?.into_inner()
        }
        Step::Update { etag } => {
            let current = current.unwrap_or_default();
            // A value that the file leaves out is kept.
            if as_written.salt.is_empty() {
                as_written.salt = current.salt;
            }
            if let (Some(clock), Some(current)) = (&mut as_written.clock, current.clock) {
                clock.start = clock.start.or(current.start);
            }
            let request = v1::UpdateExperimentRequest {
                experiment: Some(as_written),
                etag: etag.clone(),
                validate_only: args.dry_run,
            };
            experiments.update_experiment(request).await?.into_inner()
        }
    };
    let audience_change = applied.audience_change.clone();
    let is_draft = applied.state == i32::from(v1::State::Draft) || matches!(step, Step::Create);
    let starts = args.start && is_draft;
    let applied = if starts && !args.dry_run {
        let request = v1::StartExperimentRequest { key: key.clone(), etag: String::new() };
        experiments.start_experiment(request).await?.into_inner()
    } else {
        applied
    };
    let started = match (starts, args.dry_run) {
        (false, _) => "",
        (true, false) => ", started",
        (true, true) => ", would be started",
    };
    let changed =
        if changes.is_empty() { String::new() } else { format!(" ({})", plural(changes.len() as u64, "field")) };
    out.print_text(format!("{key}: {}{changed}{started}", step.result(args.dry_run)))?;
    for change in &changes {
        out.print_text(format!("  {change}"))?;
    }
    if !audience_change.is_empty() {
        out.print_text(format!("  {audience_change}"))?;
    }
    for metric in declared.with_defaults.metrics.iter().filter(|m| m.kind == MetricKind::Mean { cap: None }) {
        out.print_text(format!(
            "  note: metric {} of kind mean has no cap, so one extreme value can dominate its results; set cap",
            metric.key
        ))?;
    }
    let change_json = |c: &FieldChange| json!({"field": c.field, "from": c.from, "to": c.to});
    Ok(json!({
        "key": key, "result": step.result(false), "dry_run": args.dry_run, "started": starts,
        "audience_change": audience_change, "changes": changes.iter().map(change_json).collect::<Vec<_>>(), "experiment": response_json::experiment_json(&applied)?,
    }))
}

/// What to do with an experiment, and which fields that changes.
fn plan(declared: &DeclaredExperiment, current: Option<&Experiment>) -> anyhow::Result<(Step, Vec<FieldChange>)> {
    let Some(current) = current else {
        let to = serde_json::to_value(&declared.as_written)?;
        return Ok((Step::Create, diff(None, Some(&to))));
    };
    let from = response_json::definition_of(current)?;
    let mut to = declared.with_defaults.clone();
    keep_omitted_values(&declared.as_written, &mut to, &from, current.state() != v1::State::Draft);
    let changes = diff(Some(&serde_json::to_value(&from)?), Some(&serde_json::to_value(&to)?));
    let step = if changes.is_empty() { Step::Nothing } else { Step::Update { etag: current.etag.clone() } };
    Ok((step, changes))
}

/// Copies values that the server keeps if a file leaves them out: the salt, the start of simulated time, and after the start
/// the initial shares.
fn keep_omitted_values(as_written: &DefinitionDoc, to: &mut DefinitionDoc, from: &DefinitionDoc, has_started: bool) {
    if has_started {
        for ((written, to), from) in as_written.variations.iter().zip(&mut to.variations).zip(&from.variations) {
            if written.share.is_none() && to.key == from.key {
                to.share = from.share;
            }
        }
    }
    if to.salt.is_none() {
        to.salt.clone_from(&from.salt);
    }
    if let (ClockDoc::Manual { start: None }, ClockDoc::Manual { start }) = (to.clock, from.clock) {
        to.clock = ClockDoc::Manual { start };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::{Definition, Experiment as Domain, Timestamp};
    use inroad_wire::experiment_to_wire;

    fn declared(json: Value) -> DeclaredExperiment {
        let as_written: DefinitionDoc = serde_json::from_value(json).unwrap();
        let with_defaults = Definition::try_from(as_written.clone()).unwrap().into();
        DeclaredExperiment { as_written, with_defaults }
    }

    fn example() -> Value {
        json!({
            "key": "k", "policy": {"kind": "thompson"}, "clock": {"kind": "manual"},
            "variations": [
                {"key": "off", "payload": {"size": 1}}, {"key": "a", "payload": {"size": 2}},
                {"key": "b", "payload": {"size": 2.5}}, {"key": "c", "payload": {"size": 3}, "share": 0.07},
            ],
            "metrics": [{"key": "m", "event": "bought", "decision": true}],
        })
    }

    /// The experiment as the server returns it.
    fn on_the_server(json: Value) -> Experiment {
        let definition = Definition::try_from(declared(json).as_written).unwrap();
        experiment_to_wire(&Domain::create(definition, Timestamp::from_micros(1)), 3, Timestamp::from_micros(2))
    }

    #[test]
    fn missing_experiment_is_created() {
        let (step, changes) = plan(&declared(example()), None).unwrap();
        assert!(matches!(step, Step::Create));
        assert!(changes.iter().all(|c| c.from.is_none()));
    }

    #[test]
    fn same_file_again_changes_nothing() {
        let (step, changes) = plan(&declared(example()), Some(&on_the_server(example()))).unwrap();
        assert!(matches!(step, Step::Nothing), "{changes:?}");
    }

    #[test]
    fn omitted_salt_and_start_are_no_change() {
        let mut chosen = example();
        chosen["salt"] = json!("s1");
        chosen["clock"]["start"] = json!("2026-01-01T00:00:00Z");
        let (step, changes) = plan(&declared(example()), Some(&on_the_server(chosen))).unwrap();
        assert!(matches!(step, Step::Nothing), "{changes:?}");
    }

    #[test]
    fn change_is_listed_by_field() {
        let mut other = example();
        other["policy"]["floor"] = json!(0.2);
        other["variations"][1]["payload"]["size"] = json!(7);
        let (step, changes) = plan(&declared(other), Some(&on_the_server(example()))).unwrap();
        assert!(matches!(step, Step::Update { ref etag } if etag == "3"));
        let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["~ policy.floor: 0.05 → 0.2", "~ variations.a.payload.size: 2 → 7"]);
    }
}
