//! `inroad apply`: makes the server's experiments what a file declares, and says field by field what that changes.
//! Applying the same file twice changes nothing the second time.

use std::path::PathBuf;

use clap::Args;
use inroad_assignment::DefinitionDoc;
use inroad_assignment::document::ClockDoc;
use inroad_wire::definition_to_wire;
use inroad_wire::v1::{self, Experiment};
use serde_json::{Value, json};
use tonic::Code;

use crate::connect::{Connection, ServerArgs};
use crate::diff::{Change, diff};
use crate::document::{self, Declared};
use crate::output::{Output, plural};
use crate::views;

/// What to apply.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A .toml, .yaml or .json file with one experiment, or several under `experiments`; - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Start the experiments that are drafts
    #[arg(long)]
    start: bool,
}

/// What becomes of one experiment.
enum Step {
    Create,
    Update { etag: String },
    Nothing,
}

impl Step {
    fn word(&self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Create, false) => "created",
            (Self::Create, true) => "would be created",
            (Self::Update { .. }, false) => "updated",
            (Self::Update { .. }, true) => "would be updated",
            (Self::Nothing, _) => "unchanged",
        }
    }
}

/// Applies a file.
pub(crate) async fn run(args: ApplyArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let declared = document::read(&args.file)?;
    let connection = Connection::open(server).await?;
    let mut shown = Vec::with_capacity(declared.len());
    for one in &declared {
        shown.push(
            apply(one, &args, &connection, out)
                .await
                .map_err(|e| e.context(format!("experiment {}", one.written.key)))?,
        );
    }
    if declared.is_empty() {
        out.line("the file declares no experiment")?;
    }
    Ok(out.value(&json!({"experiments": shown}))?)
}

async fn apply(declared: &Declared, args: &ApplyArgs, connection: &Connection, out: Output) -> anyhow::Result<Value> {
    let key = &declared.written.key;
    let stands = find(connection, key).await?;
    let (step, changes) = plan(declared, stands.as_ref())?;
    let mut written = definition_to_wire(&declared.written);
    let mut experiments = connection.experiments();
    let stands = match &step {
        Step::Nothing => stands.unwrap_or_default(),
        Step::Create => {
            let request = v1::CreateExperimentRequest { experiment: Some(written), validate_only: args.dry_run };
            experiments.create_experiment(request).await?.into_inner()
        }
        Step::Update { etag } => {
            let kept = stands.unwrap_or_default();
            // Left out of the file, these stay what they are.
            if written.salt.is_empty() {
                written.salt = kept.salt;
            }
            if let (Some(clock), Some(kept)) = (&mut written.clock, kept.clock) {
                clock.start = clock.start.or(kept.start);
            }
            let request = v1::UpdateExperimentRequest {
                experiment: Some(written),
                etag: etag.clone(),
                validate_only: args.dry_run,
            };
            experiments.update_experiment(request).await?.into_inner()
        }
    };
    let draft = stands.state == i32::from(v1::State::Draft) || matches!(step, Step::Create);
    let starts = args.start && draft;
    let stands = if starts && !args.dry_run {
        let request = v1::StartExperimentRequest { key: key.clone(), etag: String::new() };
        experiments.start_experiment(request).await?.into_inner()
    } else {
        stands
    };
    let started = match (starts, args.dry_run) {
        (false, _) => "",
        (true, false) => ", started",
        (true, true) => ", would be started",
    };
    let told = if changes.is_empty() { String::new() } else { format!(" ({})", plural(changes.len() as u64, "field")) };
    out.line(format!("{key}: {}{told}{started}", step.word(args.dry_run)))?;
    for change in &changes {
        out.line(format!("  {change}"))?;
    }
    let change = |c: &Change| json!({"field": c.field, "from": c.from, "to": c.to});
    Ok(json!({
        "key": key, "result": step.word(false), "dry_run": args.dry_run, "started": starts,
        "changes": changes.iter().map(change).collect::<Vec<_>>(), "experiment": views::experiment(&stands)?,
    }))
}

/// The experiment as the server has it; `None` if it does not.
pub(crate) async fn find(connection: &Connection, key: &str) -> anyhow::Result<Option<Experiment>> {
    let request = v1::GetExperimentRequest { key: key.to_owned() };
    match connection.experiments().get_experiment(request).await {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// What is to be done, and what that changes.
fn plan(declared: &Declared, stands: Option<&Experiment>) -> anyhow::Result<(Step, Vec<Change>)> {
    let Some(stands) = stands else {
        let to = serde_json::to_value(&declared.written)?;
        return Ok((Step::Create, diff(None, Some(&to))));
    };
    let from = views::declared(stands)?;
    let mut to = declared.meant.clone();
    keep_what_is_left_out(&mut to, &from);
    let changes = diff(Some(&serde_json::to_value(&from)?), Some(&serde_json::to_value(&to)?));
    let step = if changes.is_empty() { Step::Nothing } else { Step::Update { etag: stands.etag.clone() } };
    Ok((step, changes))
}

/// A salt and a manual clock's start are chosen for whoever does not choose them: then they are no difference.
fn keep_what_is_left_out(to: &mut DefinitionDoc, from: &DefinitionDoc) {
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

    fn declared(json: Value) -> Declared {
        let written: DefinitionDoc = serde_json::from_value(json).unwrap();
        let meant = Definition::try_from(written.clone()).unwrap().into();
        Declared { written, meant }
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

    /// As a server would send it back.
    fn on_the_server(json: Value) -> Experiment {
        let definition = Definition::try_from(declared(json).written).unwrap();
        experiment_to_wire(&Domain::create(definition, Timestamp::from_micros(1)), 3, Timestamp::from_micros(2))
    }

    #[test]
    fn what_is_not_there_is_created() {
        let (step, changes) = plan(&declared(example()), None).unwrap();
        assert!(matches!(step, Step::Create));
        assert!(changes.iter().all(|c| c.from.is_none()));
    }

    #[test]
    fn the_same_file_again_changes_nothing() {
        let (step, changes) = plan(&declared(example()), Some(&on_the_server(example()))).unwrap();
        assert!(matches!(step, Step::Nothing), "{changes:?}");
    }

    #[test]
    fn salt_and_start_that_the_file_leaves_out_are_no_difference() {
        let mut chosen = example();
        chosen["salt"] = json!("s1");
        chosen["clock"]["start"] = json!("2026-01-01T00:00:00Z");
        let (step, changes) = plan(&declared(example()), Some(&on_the_server(chosen))).unwrap();
        assert!(matches!(step, Step::Nothing), "{changes:?}");
    }

    #[test]
    fn a_change_is_told_by_its_field() {
        let mut other = example();
        other["policy"]["floor"] = json!(0.2);
        other["variations"][1]["payload"]["size"] = json!(7);
        let (step, changes) = plan(&declared(other), Some(&on_the_server(example()))).unwrap();
        assert!(matches!(step, Step::Update { ref etag } if etag == "3"));
        let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["~ policy.floor: 0.05 → 0.2", "~ variations.a.payload.size: 2 → 7"]);
    }
}
