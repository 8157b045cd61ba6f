//! Creating and editing: a form in, the same calls out that `inroad apply` makes, faults back to their fields.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use inroad_assignment::definition::Violation;
use inroad_assignment::{Definition, DefinitionDoc, Experiment};
use inroad_dashboard::edit::{Edit, Preview};
use inroad_dashboard::experiment::changes;
use inroad_dashboard::form::Form;
use inroad_dashboard::shell::Place;
use inroad_wire::definition::definition_to_wire;
use inroad_wire::v1;
use inroad_wire::v1::experiment_service_server::ExperimentService;
use tonic::Code;
use tonic_types::StatusExt;

use super::change::{preview, signed};
use super::guard::{Caller, Sent};
use super::{Pages, Sheet, Site, event_names, http_code, on_to, refused};
use crate::catalogue::Entry;

async fn send(pages: &Pages, caller: &Caller, mut edit: Edit, status: StatusCode) -> Response {
    let state = pages.shared.catalogue.state();
    match event_names(pages, state.entries.values().map(|entry| &*entry.experiment)).await {
        Ok(names) => edit.events = names,
        Err(error) => return refused(caller, error),
    }
    let title = edit.key.as_ref().map_or_else(|| "New experiment".to_owned(), |key| format!("Edit {key}"));
    Sheet::new(&title, Place::Elsewhere, edit.render(&caller.reader)).send_as(caller, status)
}

/// `GET /new`, `GET /new?from=KEY`
pub(super) async fn blank(State(pages): Site, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    let mut form = Form::blank();
    if !asked.text("from").is_empty() {
        match pages.shared.catalogue.state().get(asked.text("from")) {
            Ok(entry) => {
                let mut document = DefinitionDoc::from(entry.experiment.definition.clone());
                document.key = String::new();
                document.salt = None;
                form = Form::of(&document);
            }
            Err(error) => return refused(&caller, error),
        }
    }
    send(&pages, &caller, new_edit(form), StatusCode::OK).await
}

fn new_edit(form: Form) -> Edit {
    Edit {
        key: None,
        etag: String::new(),
        has_started: false,
        form,
        events: Vec::new(),
        faults: Vec::new(),
        error: None,
        preview: None,
    }
}

fn edit_of(entry: &Entry, form: Form, etag: String) -> Edit {
    let experiment = &entry.experiment;
    Edit {
        key: Some(experiment.definition.key().to_string()),
        etag,
        has_started: !experiment.generations.is_empty(),
        form,
        events: Vec::new(),
        faults: Vec::new(),
        error: None,
        preview: None,
    }
}

/// `GET /experiments/{key}/edit`
pub(super) async fn form(State(pages): Site, caller: Caller, Path(key): Path<String>) -> Response {
    match pages.shared.catalogue.state().get(&key) {
        Ok(entry) => {
            let form = Form::of(&DefinitionDoc::from(entry.experiment.definition.clone()));
            send(&pages, &caller, edit_of(entry, form, entry.version.to_string()), StatusCode::OK).await
        }
        Err(error) => refused(&caller, error),
    }
}

/// `POST /new`
pub(super) async fn create(State(pages): Site, caller: Caller, body: Sent) -> Response {
    let sent = match caller.form(body) {
        Ok(form) => form,
        Err(refused) => return *refused,
    };
    let mut edit = new_edit(sent.without_blank_rows());
    if sent.text("do").starts_with("more-") {
        edit.form = sent;
        return send(&pages, &caller, edit, StatusCode::OK).await;
    }
    let document = match checked(&edit.form, None) {
        Ok(document) => document,
        Err(faults) => {
            edit.faults = faults;
            return send(&pages, &caller, edit, StatusCode::UNPROCESSABLE_ENTITY).await;
        }
    };
    let validate_only = sent.text("do") != "save";
    let request = v1::CreateExperimentRequest { experiment: Some(definition_to_wire(&document)), validate_only };
    match pages.experiments.create_experiment(signed(&caller, request)).await {
        Ok(_) if validate_only => {
            edit.preview = Some(Preview {
                changed: changes(&serde_json::Value::Null, &json(&document)),
                line: first_line(&pages, document),
            });
            send(&pages, &caller, edit, StatusCode::OK).await
        }
        Ok(made) => {
            let made = made.into_inner();
            on_to(&format!("/experiments/{}?did=create&version={}", made.key, made.etag))
        }
        Err(status) => refuse(&pages, &caller, edit, &status).await,
    }
}

/// The line that a new experiment would start with.
fn first_line(pages: &Pages, document: DefinitionDoc) -> Option<inroad_dashboard::action::LinePreview> {
    let now = pages.shared.clock.now();
    let draft = Experiment::create(Definition::try_from(document).ok()?, now);
    let mut started = draft.clone();
    started.start(now, inroad_assignment::Salt::parse("preview").ok()?).ok()?;
    Some(preview(&draft, &started))
}

fn json(document: &DefinitionDoc) -> serde_json::Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// What a form says, with nothing wrong in it.
fn checked(form: &Form, base: Option<&DefinitionDoc>) -> Result<DefinitionDoc, Vec<Violation>> {
    let document = form.document(base)?;
    // Written again, so that what was left out stands there with its default, and compares.
    Definition::try_from(document).map(DefinitionDoc::from).map_err(|error| error.violations)
}

/// `POST /experiments/{key}/edit`
pub(super) async fn save(State(pages): Site, caller: Caller, Path(key): Path<String>, body: Sent) -> Response {
    let sent = match caller.form(body) {
        Ok(form) => form,
        Err(refused) => return *refused,
    };
    let state = pages.shared.catalogue.state();
    let entry = match state.get(&key) {
        Ok(entry) => entry.clone(),
        Err(error) => return refused(&caller, error),
    };
    let etag = sent.text("etag").to_owned();
    let mut edit = edit_of(&entry, sent.without_blank_rows(), etag.clone());
    if sent.text("do").starts_with("more-") {
        edit.form = sent;
        return send(&pages, &caller, edit, StatusCode::OK).await;
    }
    let before = DefinitionDoc::from(entry.experiment.definition.clone());
    let document = match checked(&edit.form, Some(&before)) {
        Ok(document) => document,
        Err(faults) => {
            edit.faults = faults;
            return send(&pages, &caller, edit, StatusCode::UNPROCESSABLE_ENTITY).await;
        }
    };
    if document.key != key {
        edit.error = Some("A key never changes: create another experiment.".to_owned());
        return send(&pages, &caller, edit, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
    let changed = changes(&json(&before), &json(&document));
    if etag != entry.version.to_string() {
        return changed_meanwhile(&pages, &caller, edit, &entry, changed).await;
    }
    let validate_only = sent.text("do") != "save";
    let request = v1::UpdateExperimentRequest { experiment: Some(definition_to_wire(&document)), etag, validate_only };
    match pages.experiments.update_experiment(signed(&caller, request)).await {
        Ok(_) if validate_only => {
            let line = update_line(&pages, &entry, document);
            edit.preview = Some(Preview { changed, line });
            send(&pages, &caller, edit, StatusCode::OK).await
        }
        Ok(made) => on_to(&format!("/experiments/{key}?did=edit&version={}", made.into_inner().etag)),
        Err(status) if status.code() == Code::Aborted => {
            let state = pages.shared.catalogue.state();
            let entry = state.get(&key).cloned().unwrap_or(entry);
            changed_meanwhile(&pages, &caller, edit, &entry, changed).await
        }
        Err(status) => refuse(&pages, &caller, edit, &status).await,
    }
}

/// Nothing is overwritten: the form stays, and shows what saving it now would change of what somebody else has saved.
async fn changed_meanwhile(
    pages: &Pages,
    caller: &Caller,
    mut edit: Edit,
    entry: &Entry,
    changed: Vec<inroad_dashboard::experiment::ChangedField>,
) -> Response {
    edit.etag = entry.version.to_string();
    edit.error = Some(
        "Somebody changed this experiment while you were editing. Nothing was saved. Below is what saving your form now would change; look, then save again."
            .to_owned(),
    );
    edit.preview = Some(Preview { changed, line: None });
    send(pages, caller, edit, StatusCode::CONFLICT).await
}

fn update_line(
    pages: &Arc<Pages>,
    entry: &Entry,
    document: DefinitionDoc,
) -> Option<inroad_dashboard::action::LinePreview> {
    if entry.experiment.generations.is_empty() {
        return first_line(pages, document);
    }
    let now = entry.experiment.now(pages.shared.clock.now());
    let mut after = Experiment::clone(&entry.experiment);
    after.update(Definition::try_from(document).ok()?, now, now.plus(pages.shared.config.lead)).ok()?;
    Some(preview(&entry.experiment, &after))
}

/// What the service did not like, at its fields where it names them.
async fn refuse(pages: &Pages, caller: &Caller, mut edit: Edit, status: &tonic::Status) -> Response {
    let named = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    edit.faults = named.into_iter().map(|v| Violation { field: v.field, message: v.description }).collect();
    if edit.faults.is_empty() {
        edit.error = Some(inroad_wire::status::describe(status));
    }
    send(pages, caller, edit, http_code(status.code())).await
}
