//! `ApplyExperiments`: creates and updates many experiments, all or nothing. Declarations are parsed and checked outside
//! the turn of changes, so that nothing else waits for them.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::{Definition, DefinitionError, Experiment, Salt, Status as ExperimentStatus, Timestamp};
use inroad_wire::WireError;
use inroad_wire::definition::definition_from_wire;
use inroad_wire::v1::{self, AppliedExperiment, ApplyExperimentsResponse, DeclarationError, ExperimentDeclaration};
use prost::Message;
use tonic::{Status, Streaming};

use super::{draw_salt, take_page, version};
use crate::audience_change::{ChangeReport, RecentExposures, changes_audience};
use crate::audience_report::{changes_selection, read_recent};
use crate::catalogue::{CatalogueState, PlannedChange};
use crate::config::{MAX_APPLY_BYTES, MAX_APPLY_DECLARATIONS, MAX_RESPONSE_BYTES};
use crate::error::ServerError;
use crate::shared::SharedState;

/// How much later than one lead time new revisions take effect: planning and storing many changes takes a while.
const EXTRA_LEAD: Duration = Duration::from_secs(5);
/// The most characters of a key in an error.
const MAX_KEY_CHARS: usize = 160;
/// The bytes of a result that are not known before the change is stored: its etag, and the sizes of nested messages.
const EXTRA_RESULT_BYTES: usize = 40;

/// A declaration without errors: its result, and the change if it changes something.
struct Planned {
    applied: AppliedExperiment,
    change: Option<PlannedChange>,
}

/// The field and the text of an error.
type Fault = (String, String);

pub(super) async fn apply(
    shared: &Arc<SharedState>,
    actor: &str,
    mut stream: Streaming<v1::ApplyExperimentsRequest>,
) -> Result<ApplyExperimentsResponse, Status> {
    let place = shared.catalogue.reserve_change_of_many()?;
    let (mut declarations, mut bytes, mut validate_only) = (Vec::new(), 0, false);
    while let Some(request) = stream.message().await? {
        validate_only |= request.validate_only;
        bytes += request.encoded_len();
        declarations.extend(request.declarations);
        check_limits(declarations.len(), bytes)?;
    }
    let (base, at) = (shared.catalogue.state(), shared.clock.now());
    let planning = tokio::task::spawn_blocking({
        let (shared, base) = (Arc::clone(shared), Arc::clone(&base));
        move || {
            let planned = plan_all(&shared, (&base, at), declarations)?;
            if let Ok(planned) = &planned {
                shared.catalogue.check_planned(&base, planned.iter().filter_map(|one| one.change.as_ref()))?;
            }
            Ok::<_, ServerError>(planned)
        }
    });
    let planned = match planning.await.map_err(|_| ServerError::ShuttingDown)?? {
        Ok(planned) => planned,
        Err(errors) => return Ok(errors_response(errors)),
    };
    let (planned, reports_left_out) = report_on_audiences(shared, base, planned).await?;
    let (mut experiments, mut changes) = (Vec::with_capacity(planned.len()), Vec::new());
    for Planned { applied, change } in planned {
        experiments.push(applied);
        changes.extend(change);
    }
    if validate_only {
        let response =
            ApplyExperimentsResponse { experiments, reports_left_out, ..ApplyExperimentsResponse::default() };
        return Ok(response);
    }
    let count = changes.len();
    let state = shared.catalogue.change_many(actor, at, changes).await?;
    drop(place);
    for applied in &mut experiments {
        applied.etag = state.get(&applied.key)?.version.to_string();
    }
    tracing::info!(actor, count, version = state.version, "changed many experiments");
    Ok(ApplyExperimentsResponse { experiments, reports_left_out, ..ApplyExperimentsResponse::default() })
}

/// Adds to each result what its change of the audience does. Also returns the number of reports that do not fit into the
/// response.
async fn report_on_audiences(
    shared: &SharedState,
    base: Arc<CatalogueState>,
    mut planned: Vec<Planned>,
) -> Result<(Vec<Planned>, u64), ServerError> {
    let before = |one: &Planned| Some(Arc::clone(&base.get(&one.applied.key).ok()?.experiment));
    let changes = planned.iter().enumerate().filter_map(|(index, one)| {
        let (before, after) = (before(one), Arc::clone(&one.change.as_ref()?.experiment));
        let definition = before.as_ref().map(|before| &before.definition);
        let is_reported = changes_selection(definition, &after.definition)
            || before.as_ref().is_some_and(|before| changes_audience(before, &after.definition));
        is_reported.then_some((index, before, after))
    });
    let changes: Vec<(usize, Option<Arc<Experiment>>, Arc<Experiment>)> = changes.collect();
    if changes.is_empty() {
        return Ok((planned, 0));
    }
    let affects_units = |(_, before, after): &(_, Option<Arc<Experiment>>, Arc<Experiment>)| {
        before.as_ref().is_some_and(|before| changes_audience(before, &after.definition))
    };
    let exposures = match changes.iter().any(affects_units) {
        true => RecentExposures::read(&*shared.store).await?,
        false => RecentExposures::default(),
    };
    let recent = read_recent(shared).await;
    let report = move || {
        let mut reporter = recent.into_reporter(changes.len() as u32);
        let reports = changes.into_iter().map(|(index, before, after)| AudienceResult {
            index,
            change: before
                .map(|before| exposures.describe_change(&before, &after.definition, &mut reporter))
                .unwrap_or_default(),
            report: reporter.report(&after.definition),
        });
        let left_out = add_what_fits(&mut planned, reports.collect());
        (planned, left_out)
    };
    tokio::task::spawn_blocking(report).await.map_err(|_| ServerError::ShuttingDown)
}

/// What was found out about the audience of one declaration.
struct AudienceResult {
    index: usize,
    change: ChangeReport,
    report: Option<v1::AudienceReport>,
}

impl AudienceResult {
    /// Those that may switch units first, then those with warnings.
    fn rank(&self) -> (bool, bool) {
        let has_warnings = self.report.as_ref().is_some_and(|report| !report.warnings.is_empty());
        (self.change.may_switch_units, has_warnings)
    }
}

/// Adds the texts that fit into the response, the most important first, and returns the number of declarations of which
/// some are left out. The changes are committed afterwards, so the response must fit for sure.
fn add_what_fits(planned: &mut [Planned], mut results: Vec<AudienceResult>) -> u64 {
    let size = |one: &Planned| one.applied.encoded_len() + EXTRA_RESULT_BYTES;
    let (mut bytes, mut left_out) = (planned.iter().map(size).sum::<usize>() + EXTRA_RESULT_BYTES, 0);
    let mut fits = |size: usize| {
        let has_room = bytes + size <= MAX_RESPONSE_BYTES;
        bytes += if has_room { size } else { 0 };
        has_room
    };
    results.sort_by_key(|result| Reverse(result.rank()));
    for AudienceResult { index, change, report } in results {
        let Some(Planned { applied, .. }) = planned.get_mut(index) else { continue };
        let (has_change, has_report) = (fits(change.text.len()), fits(report.as_ref().map_or(0, Message::encoded_len)));
        if has_change {
            applied.audience_change = change.text;
        }
        if has_report {
            applied.audience_report = report;
        }
        left_out += u64::from(!has_change || !has_report);
    }
    left_out
}

fn check_limits(count: usize, bytes: usize) -> Result<(), ServerError> {
    let over = |what: &str, limit: usize| {
        let message = format!("{what} are over the limit of {limit}: apply them in several calls");
        Err(ServerError::Invalid { field: "declarations", message })
    };
    if count > MAX_APPLY_DECLARATIONS {
        return over(&format!("{count} declarations"), MAX_APPLY_DECLARATIONS);
    }
    if bytes > MAX_APPLY_BYTES { over(&format!("{bytes} bytes of declarations"), MAX_APPLY_BYTES) } else { Ok(()) }
}

/// The results of all declarations, or the errors of all.
fn plan_all(
    shared: &SharedState,
    (base, at): (&CatalogueState, Timestamp),
    declarations: Vec<ExperimentDeclaration>,
) -> Result<Result<Vec<Planned>, Vec<DeclarationError>>, ServerError> {
    let (mut planned, mut errors, mut keys) = (Vec::with_capacity(declarations.len()), Vec::new(), HashSet::new());
    for (index, declaration) in (0u32..).zip(declarations) {
        let key = declaration.experiment.as_ref().map(|e| e.key.clone()).unwrap_or_default();
        let result = if keys.insert(key.clone()) {
            plan(shared, (base, at), declaration, draw_salt()?)
        } else {
            Err(vec![("key".to_owned(), "the key is declared twice: declare it once".to_owned())])
        };
        match result {
            Ok(one) => planned.push(one),
            Err(faults) => errors.extend(faults.into_iter().map(|(field, message)| DeclarationError {
                index,
                key: key.chars().take(MAX_KEY_CHARS).collect(),
                field,
                message,
            })),
        }
    }
    Ok(if errors.is_empty() { Ok(planned) } else { Err(errors) })
}

fn plan(
    shared: &SharedState,
    (base, wall_now): (&CatalogueState, Timestamp),
    declaration: ExperimentDeclaration,
    drawn_salt: Salt,
) -> Result<Planned, Vec<Fault>> {
    let ExperimentDeclaration { experiment, etag, start } = declaration;
    let of_field = |field: &str, error: &dyn std::fmt::Display| vec![(field.to_owned(), error.to_string())];
    let doc = definition_from_wire(experiment.unwrap_or_default()).map_err(|error| match error {
        WireError::Field { field, message } => vec![(field, message)],
        other => of_field("", &other),
    })?;
    let entry = base.get(&doc.key).ok();
    let doc = match entry {
        Some(entry) => entry.experiment.with_kept_shares(doc),
        None => doc,
    };
    let faults =
        |error: DefinitionError| error.violations.into_iter().map(|v| (v.field, v.message)).collect::<Vec<Fault>>();
    let definition = Definition::try_from(doc).map_err(faults)?;
    let expected = version(&etag).map_err(|error| of_field("etag", &error))?;
    let key = definition.key().to_string();
    let (mut experiment, mut actions) = match (entry, expected) {
        (None, None) => (Experiment::create(definition, wall_now), vec!["create"]),
        (None, Some(_)) => {
            return Err(of_field("etag", &"no experiment has this key: leave out the etag to create it"));
        }
        (Some(_), None) => {
            return Err(of_field("key", &"an experiment with this key exists: give its etag to update it"));
        }
        (Some(entry), Some(expected)) if entry.version != expected => {
            return Err(of_field("etag", &"the experiment was changed meanwhile: read it again and repeat"));
        }
        (Some(entry), Some(_)) => {
            let mut copy = Experiment::clone(&entry.experiment);
            let now = copy.now(wall_now);
            copy.update(definition, now, now.plus(shared.config.lead + EXTRA_LEAD))
                .map_err(|error| of_field("", &error))?;
            let actions = if copy == *entry.experiment { Vec::new() } else { vec!["update"] };
            (copy, actions)
        }
    };
    let result = match actions.first() {
        Some(&"create") => "created",
        Some(_) => "updated",
        None => "unchanged",
    };
    let started = start && experiment.status == ExperimentStatus::Draft;
    if started {
        shared.clock.check_for(&experiment).map_err(|error| of_field("start", &error))?;
        let salt = experiment.definition.salt().cloned().unwrap_or(drawn_salt);
        let now = experiment.now(wall_now);
        experiment.start(now, salt).map_err(|error| of_field("start", &error))?;
        actions.push("start");
    }
    let change = (!actions.is_empty()).then(|| PlannedChange {
        expected_version: entry.map(|entry| entry.version),
        experiment: Arc::new(experiment),
        action: actions.join(", "),
    });
    let applied = AppliedExperiment { key, result: result.to_owned(), started, ..AppliedExperiment::default() };
    Ok(Planned { applied, change })
}

/// As many errors as fit into a message.
fn errors_response(errors: Vec<DeclarationError>) -> ApplyExperimentsResponse {
    let total_errors = errors.len() as u64;
    let (errors, _) = take_page(errors.into_iter(), usize::MAX);
    ApplyExperimentsResponse { errors, total_errors, ..ApplyExperimentsResponse::default() }
}
