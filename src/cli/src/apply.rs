//! `inroad apply`: creates or updates the experiments that a file declares, and lists each changed field. Applying the
//! same file again changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use inroad_assignment::definition::Violation;
use inroad_assignment::document::ClockDoc;
use inroad_assignment::{DefinitionDoc, MetricKind};
use inroad_wire::definition_to_wire;
use inroad_wire::v1::{self, Experiment};
use prost::Message;
use serde_json::{Value, json};

use crate::audience_report;
use crate::connect::{ActorArgs, Connection, ServerArgs};
use crate::diff::{FieldChange, diff};
use crate::experiment_file::{self, DeclaredExperiment};
use crate::failure::InvalidDefinitions;
use crate::lookup::{find_experiment, list_experiments};
use crate::output::{Output, plural};
use crate::progress::{ProgressUnit, progress_bar};
use crate::response_json;

/// The size of one message of declarations, in bytes: half of what a server accepts.
const REQUEST_BYTES: usize = 2 << 20;
/// If more experiments than this are applied at once, the fields of new ones are not listed.
const MAX_LISTED_NEW: usize = 20;

/// The file to apply.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File (.toml, .yaml or .json) with one experiment, or several under `experiments`; a folder of such files; - for
    /// standard input. May be repeated. Several experiments are applied together, all or none
    #[arg(long, short, value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
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
    if declared.len() > 1 {
        return apply_many(&declared, &args, &connection, out).await;
    }
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
            keep_values_left_out(&mut as_written, current.unwrap_or_default());
            let request = v1::UpdateExperimentRequest {
                experiment: Some(as_written),
                etag: etag.clone(),
                validate_only: args.dry_run,
            };
            experiments.update_experiment(request).await?.into_inner()
        }
    };
    let is_draft = applied.state == i32::from(v1::State::Draft) || matches!(step, Step::Create);
    let starts = args.start && is_draft;
    let applied = if starts && !args.dry_run {
        let request = v1::StartExperimentRequest { key: key.clone(), etag: String::new() };
        let started = experiments.start_experiment(request).await?.into_inner();
        // The start does not report on the audience again.
        let Experiment { audience_report, audience_change, .. } = applied;
        Experiment { audience_report, audience_change, ..started }
    } else {
        applied
    };
    let dry_run = args.dry_run;
    let applied =
        AppliedDeclaration { declared, step: &step, changes: &changes, starts, dry_run, experiment: &applied };
    applied.print(true, out)?;
    applied.to_json()
}

/// Applies several experiments in one step, all or none.
async fn apply_many(
    declared: &[DeclaredExperiment],
    args: &ApplyArgs,
    connection: &Connection,
    out: Output,
) -> anyhow::Result<()> {
    let keys: Vec<&str> = declared.iter().map(|one| one.as_written.key.as_str()).collect();
    let known = experiments_by_key(connection, &keys).await?;
    let (mut plans, mut declarations) = (Vec::with_capacity(declared.len()), Vec::with_capacity(declared.len()));
    for one in declared {
        let current = known.get(&one.as_written.key);
        let (step, changes) = plan(one, current)?;
        let mut as_written = definition_to_wire(&one.as_written);
        if let Some(current) = current {
            keep_values_left_out(&mut as_written, current.clone());
        }
        let etag = current.map(|current| current.etag.clone()).unwrap_or_default();
        plans.push((step, changes));
        declarations.push(v1::ExperimentDeclaration { experiment: Some(as_written), etag, start: args.start });
    }
    let response = send_declarations(declarations.clone(), args.dry_run, connection, out).await?;
    let after = if args.dry_run || !out.json { known } else { experiments_by_key(connection, &keys).await? };
    let printed_audiences = audience_report::most_important(&response.experiments);
    let mut shown = Vec::new();
    let results = plans.iter().zip(&response.experiments).zip(declarations).zip(declared);
    for (index, ((((step, changes), result), declaration), declared)) in results.enumerate() {
        let mut experiment = after.get(&result.key).cloned().or(declaration.experiment).unwrap_or_default();
        experiment.audience_change.clone_from(&result.audience_change);
        experiment.audience_report.clone_from(&result.audience_report);
        let (starts, dry_run) = (result.started, args.dry_run);
        let applied = AppliedDeclaration { declared, step, changes, starts, dry_run, experiment: &experiment };
        if out.json {
            shown.push(applied.to_json()?);
        }
        // The fields of a new experiment are those of its file.
        let lists_fields = plans.len() <= MAX_LISTED_NEW || !matches!(step, Step::Create);
        if printed_audiences.contains(&index) {
            applied.print(lists_fields, out)?;
        } else {
            let experiment = Experiment { state: experiment.state, ..Experiment::default() };
            AppliedDeclaration { experiment: &experiment, ..applied }.print(lists_fields, out)?;
        }
    }
    audience_report::print_left_out(&response, &printed_audiences, out)?;
    let count = |wanted: &str| response.experiments.iter().filter(|one| one.result == wanted).count();
    let (created, updated, unchanged) = (count("created"), count("updated"), count("unchanged"));
    let would = if args.dry_run { "would be " } else { "" };
    out.print_text(format!("{created} {would}created, {updated} {would}updated, {unchanged} unchanged"))?;
    Ok(out.print_json(&json!({"experiments": shown}))?)
}

/// The existing experiments with these keys.
async fn experiments_by_key(connection: &Connection, keys: &[&str]) -> anyhow::Result<BTreeMap<String, Experiment>> {
    let first = keys.first().copied().unwrap_or_default();
    let common = |key: &&str| first.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
    let prefix = first.get(..keys.iter().map(common).min().unwrap_or(0)).unwrap_or_default();
    let wanted: BTreeSet<&str> = keys.iter().copied().collect();
    let listed = list_experiments(connection, prefix).await?.into_iter();
    Ok(listed.filter(|e| wanted.contains(e.key.as_str())).map(|e| (e.key.clone(), e)).collect())
}

/// Sends all declarations in messages that a server accepts.
async fn send_declarations(
    declarations: Vec<v1::ExperimentDeclaration>,
    validate_only: bool,
    connection: &Connection,
    out: Output,
) -> anyhow::Result<v1::ApplyExperimentsResponse> {
    let bar = progress_bar(Some(declarations.len() as u64), ProgressUnit::Rows, out);
    bar.set_message("experiments sent");
    let (mut requests, mut bytes) = (vec![v1::ApplyExperimentsRequest { validate_only, ..Default::default() }], 0);
    for declaration in declarations {
        let size = declaration.encoded_len();
        if bytes > 0 && bytes + size > REQUEST_BYTES {
            requests.push(v1::ApplyExperimentsRequest::default());
            bytes = 0;
        }
        bytes += size;
        if let Some(request) = requests.last_mut() {
            request.declarations.push(declaration);
        }
    }
    let sent = bar.clone();
    let requests = requests.into_iter().inspect(move |request| sent.inc(request.declarations.len() as u64));
    let response = connection.experiments().apply_experiments(tokio_stream::iter(requests)).await;
    bar.finish_and_clear();
    let response = response?.into_inner();
    if response.total_errors == 0 {
        return Ok(response);
    }
    let violation = |error: v1::DeclarationError| {
        let field = [error.key, error.field].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        Violation { field, message: error.message }
    };
    Err(anyhow::Error::new(InvalidDefinitions(response.errors.into_iter().map(violation).collect())))
}

/// A value that the file leaves out is kept.
fn keep_values_left_out(as_written: &mut Experiment, current: Experiment) {
    if as_written.salt.is_empty() {
        as_written.salt = current.salt;
    }
    if let (Some(clock), Some(current)) = (&mut as_written.clock, current.clock) {
        clock.start = clock.start.or(current.start);
    }
}

/// The result of one experiment.
struct AppliedDeclaration<'a> {
    declared: &'a DeclaredExperiment,
    step: &'a Step,
    changes: &'a [FieldChange],
    starts: bool,
    dry_run: bool,
    /// The experiment after the change, with what was found out about its audience.
    experiment: &'a Experiment,
}

impl AppliedDeclaration<'_> {
    /// Prints the result, and each changed field if `lists_fields`.
    fn print(&self, lists_fields: bool, out: Output) -> anyhow::Result<()> {
        let started = match (self.starts, self.dry_run) {
            (false, _) => "",
            (true, false) => ", started",
            (true, true) => ", would be started",
        };
        let changed = match self.changes.len() as u64 {
            0 => String::new(),
            fields => format!(" ({})", plural(fields, "field")),
        };
        let key = &self.declared.as_written.key;
        out.print_text(format!("{key}: {}{changed}{started}", self.step.result(self.dry_run)))?;
        for change in self.changes.iter().filter(|_| lists_fields) {
            out.print_text(format!("  {change}"))?;
        }
        let is_share =
            |change: &FieldChange| change.field.starts_with("variations.") && change.field.ends_with(".share");
        if self.experiment.state() == v1::State::Concluded && self.changes.iter().any(is_share) {
            out.print_text("  The experiment is concluded: changed shares apply from the next restart.")?;
        }
        if let Some(report) = &self.experiment.audience_report {
            audience_report::print(report, key, out)?;
        }
        if !self.experiment.audience_change.is_empty() {
            out.print_text(format!("  {}", self.experiment.audience_change))?;
        }
        let metrics = &self.declared.as_written.metrics;
        for metric in metrics.iter().filter(|m| m.kind == MetricKind::Mean { cap: None }) {
            out.print_text(format!(
                "  note: metric {} of kind mean has no cap, so one extreme value can dominate its results; set cap",
                metric.key
            ))?;
        }
        Ok(())
    }

    fn to_json(&self) -> anyhow::Result<Value> {
        let change_json = |c: &FieldChange| json!({"field": c.field, "from": c.from, "to": c.to});
        Ok(json!({
            "key": self.declared.as_written.key, "result": self.step.result(false), "dry_run": self.dry_run,
            "started": self.starts, "audience_change": self.experiment.audience_change,
            "changes": self.changes.iter().map(change_json).collect::<Vec<_>>(),
            "experiment": response_json::experiment_json(self.experiment)?,
            "audience_report": audience_report::to_json(self.experiment.audience_report.as_ref()),
        }))
    }
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
