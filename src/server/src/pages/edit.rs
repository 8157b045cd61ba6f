//! Creates and edits experiments: reads the form, makes the same service calls as `inroad apply`, and shows errors at
//! their fields.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use inroad_assignment::definition::Violation;
use inroad_assignment::{Definition, DefinitionDoc, Experiment, Timestamp};
use inroad_dashboard::action::AllocationPreview;
use inroad_dashboard::edit::{EditPage, EditPreview};
use inroad_dashboard::experiment::{ChangedField, changed_fields};
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::{NavItem, Viewer};
use inroad_wire::definition::definition_to_wire;
use inroad_wire::v1;
use inroad_wire::v1::experiment_service_server::ExperimentService;
use maud::Markup;
use tonic::Code;
use tonic_types::StatusExt;

use super::access::{Caller, FormBody};
use super::allocation::preview;
use super::{
    PageResponse, Pages, PagesState, as_sentence, audience_summary, error_response, http_code, redirect_to,
    suggested_event_names,
};
use crate::catalogue::CatalogueEntry;
use crate::error::ServerError;

/// The most names of events of experiments with which an empty form is rendered in less than a millisecond; it also
/// suggests those of recent events.
const MAX_CHEAP_NAMES: usize = 500;

/// Answers a submitted form with a page, which takes a turn. Opened pages other than an empty form have theirs already
/// ([`super::in_turns`]).
async fn answer(pages: &Arc<Pages>, caller: &Caller, page: EditPage, status: StatusCode) -> Response {
    let title = title(&page);
    let rendered = pages.shared.views.run_in_parts(render(Arc::clone(pages), caller.viewer.clone(), page)).await;
    respond(caller, &title, rendered.flatten(), status)
}

async fn show(pages: Arc<Pages>, caller: &Caller, page: EditPage) -> Response {
    let title = title(&page);
    respond(caller, &title, render(pages, caller.viewer.clone(), page).await, StatusCode::OK)
}

fn title(page: &EditPage) -> String {
    page.key.as_ref().map_or_else(|| "New experiment".to_owned(), |key| format!("Edit {key}"))
}

fn respond(caller: &Caller, title: &str, rendered: Result<Markup, ServerError>, status: StatusCode) -> Response {
    match rendered {
        Ok(body) => PageResponse::new(title, NavItem::Other, body).send_with_status(caller, status),
        Err(error) => error_response(caller, error),
    }
}

async fn render(pages: Arc<Pages>, viewer: Viewer, mut page: EditPage) -> Result<Markup, ServerError> {
    let uses = pages.shared.event_uses.of(pages.shared.catalogue.state()).await;
    page.events = suggested_event_names(&pages, uses.events()).await?;
    Ok(page.render(&viewer))
}

/// `GET /new`, `GET /new?from=KEY`. An empty form with few names to suggest takes no turn.
pub(super) async fn new_page(State(pages): PagesState, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    let from = query.text("from").to_owned();
    let uses = pages.shared.event_uses.of(pages.shared.catalogue.state()).await;
    if from.is_empty() && uses.event_count() <= MAX_CHEAP_NAMES {
        return show(pages, &caller, page_for_new(Form::new_experiment())).await;
    }
    let page = copied_page(Arc::clone(&pages), caller.viewer.clone(), from);
    let rendered = pages.shared.views.run_in_parts(page).await;
    respond(&caller, &title(&page_for_new(Form::new_experiment())), rendered.flatten(), StatusCode::OK)
}

/// The form of a new experiment that begins as a copy of another one.
async fn copied_page(pages: Arc<Pages>, viewer: Viewer, from: String) -> Result<Markup, ServerError> {
    let mut form = Form::new_experiment();
    if !from.is_empty() {
        let mut document =
            DefinitionDoc::from(pages.shared.catalogue.state().get(&from)?.experiment.definition.clone());
        document.key = String::new();
        document.salt = None;
        form = Form::from_definition(&document);
    }
    render(pages, viewer, page_for_new(form)).await
}

fn page_for_new(form: Form) -> EditPage {
    EditPage {
        key: None,
        etag: String::new(),
        has_started: false,
        form,
        events: Vec::new(),
        violations: Vec::new(),
        error: None,
        preview: None,
    }
}

fn page_for_existing(entry: &CatalogueEntry, form: Form, etag: String) -> EditPage {
    let experiment = &entry.experiment;
    EditPage {
        key: Some(experiment.definition.key().to_string()),
        etag,
        has_started: !experiment.generations.is_empty(),
        form,
        events: Vec::new(),
        violations: Vec::new(),
        error: None,
        preview: None,
    }
}

/// `GET /experiments/{key}/edit`
pub(super) async fn edit_page(State(pages): PagesState, caller: Caller, Path(key): Path<String>) -> Response {
    match pages.shared.catalogue.state().get(&key) {
        Ok(entry) => {
            let form = Form::from_definition(&DefinitionDoc::from(entry.experiment.definition.clone()));
            let page = page_for_existing(entry, form, entry.version.to_string());
            show(Arc::clone(&pages), &caller, page).await
        }
        Err(error) => error_response(&caller, error),
    }
}

/// `POST /new`
pub(super) async fn create(State(pages): PagesState, caller: Caller, body: FormBody) -> Response {
    let sent = match caller.accept_form(body) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    let mut page = page_for_new(sent.without_blank_rows());
    if sent.text("do").starts_with("more-") {
        page.form = sent;
        return answer(&pages, &caller, page, StatusCode::OK).await;
    }
    let compact = std::mem::replace(&mut page.form, sent.without_blank_rows().with_blank_rows_of(&sent));
    let read = pages.shared.declarations.run(move |_| Ok(read_definition(&compact, None))).await;
    let document = match read {
        Ok(Ok(document)) => document,
        Err(error) => return error_response(&caller, error),
        Ok(Err(violations)) => {
            page.violations = violations;
            return answer(&pages, &caller, page, StatusCode::UNPROCESSABLE_ENTITY).await;
        }
    };
    let validate_only = sent.text("do") != "save";
    let request = v1::CreateExperimentRequest { experiment: Some(definition_to_wire(&document)), validate_only };
    match pages.experiments.create_experiment(caller.service_request(request)).await {
        Ok(checked) if validate_only => {
            let audience = checked.into_inner().audience_report.as_ref().map(audience_summary);
            let now = pages.shared.clock.now();
            let preview = move |_: &_| {
                let changed = changed_fields(&serde_json::Value::Null, &json(&document));
                Ok(EditPreview { changed, allocation: allocation_at_start(document, now), audience })
            };
            match pages.shared.declarations.run(preview).await {
                Ok(preview) => page.preview = Some(preview),
                Err(error) => return error_response(&caller, error),
            }
            answer(&pages, &caller, page, StatusCode::OK).await
        }
        Ok(response) => {
            let created = response.into_inner();
            redirect_to(&format!("/experiments/{}?did=create&version={}", created.key, created.etag))
        }
        Err(status) => show_refusal(&pages, &caller, page, &status).await,
    }
}

/// The allocation that a new experiment would start with.
fn allocation_at_start(document: DefinitionDoc, now: Timestamp) -> Option<AllocationPreview> {
    let draft = Experiment::create(Definition::try_from(document).ok()?, now);
    let mut started = draft.clone();
    started.start(now, inroad_assignment::Salt::parse("preview").ok()?).ok()?;
    Some(preview(&draft, &started))
}

fn json(document: &DefinitionDoc) -> serde_json::Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// Reads and validates the definition in a form.
fn read_definition(form: &Form, base: Option<&DefinitionDoc>) -> Result<DefinitionDoc, Vec<Violation>> {
    let document = form.to_definition(base)?;
    // Converted back, so that omitted settings have their defaults and can be compared.
    Definition::try_from(document).map(DefinitionDoc::from).map_err(|error| error.violations)
}

/// `POST /experiments/{key}/edit`
pub(super) async fn save(
    State(pages): PagesState,
    caller: Caller,
    Path(key): Path<String>,
    body: FormBody,
) -> Response {
    let sent = match caller.accept_form(body) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    let state = pages.shared.catalogue.state();
    let entry = match state.get(&key) {
        Ok(entry) => entry.clone(),
        Err(error) => return error_response(&caller, error),
    };
    let etag = sent.text("etag").to_owned();
    let mut page = page_for_existing(&entry, sent.without_blank_rows(), etag.clone());
    if sent.text("do").starts_with("more-") {
        page.form = sent;
        return answer(&pages, &caller, page, StatusCode::OK).await;
    }
    let compact = std::mem::replace(&mut page.form, sent.without_blank_rows().with_blank_rows_of(&sent));
    let experiment = Arc::clone(&entry.experiment);
    let read = move |_: &_| {
        let before = DefinitionDoc::from(experiment.definition.clone());
        Ok(read_definition(&compact, Some(&before)).map(|document| {
            let changed = changed_fields(&json(&before), &json(&document));
            (document, changed)
        }))
    };
    let (document, changed) = match pages.shared.declarations.run(read).await {
        Ok(Ok(read)) => read,
        Err(error) => return error_response(&caller, error),
        Ok(Err(violations)) => {
            page.violations = violations;
            return answer(&pages, &caller, page, StatusCode::UNPROCESSABLE_ENTITY).await;
        }
    };
    if document.key != key {
        page.error = Some("A key cannot change. Create another experiment.".to_owned());
        return answer(&pages, &caller, page, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
    if etag != entry.version.to_string() {
        return show_conflict(&pages, &caller, page, &entry, changed).await;
    }
    let validate_only = sent.text("do") != "save";
    let request = v1::UpdateExperimentRequest { experiment: Some(definition_to_wire(&document)), etag, validate_only };
    match pages.experiments.update_experiment(caller.service_request(request)).await {
        Ok(checked) if validate_only => {
            let checked = checked.into_inner();
            let (experiment, now) = (Arc::clone(&entry.experiment), pages.shared.clock.now());
            let lead = pages.shared.config.lead;
            let preview = move |_: &_| Ok(allocation_after_update(&experiment, document, now, lead));
            let allocation = match pages.shared.declarations.run(preview).await {
                Ok(allocation) => allocation,
                Err(error) => return error_response(&caller, error),
            };
            let audience_change = checked.audience_change.clone();
            let allocation = allocation.map(|allocation| AllocationPreview { audience_change, ..allocation });
            let audience = checked.audience_report.as_ref().map(audience_summary);
            page.preview = Some(EditPreview { changed, allocation, audience });
            answer(&pages, &caller, page, StatusCode::OK).await
        }
        Ok(response) => redirect_to(&format!("/experiments/{key}?did=edit&version={}", response.into_inner().etag)),
        Err(status) if status.code() == Code::Aborted => {
            let state = pages.shared.catalogue.state();
            let entry = state.get(&key).cloned().unwrap_or(entry);
            show_conflict(&pages, &caller, page, &entry, changed).await
        }
        Err(status) => show_refusal(&pages, &caller, page, &status).await,
    }
}

/// Shows the form again after somebody else changed the experiment, with a preview against the new version.
async fn show_conflict(
    pages: &Arc<Pages>,
    caller: &Caller,
    mut page: EditPage,
    entry: &CatalogueEntry,
    changed: Vec<ChangedField>,
) -> Response {
    page.etag = entry.version.to_string();
    page.error = Some(
        "Somebody else changed this experiment in the meantime. Nothing was saved. The preview shows what saving your form would change now: check it, then save again."
            .to_owned(),
    );
    page.preview = Some(EditPreview { changed, allocation: None, audience: None });
    answer(pages, caller, page, StatusCode::CONFLICT).await
}

fn allocation_after_update(
    experiment: &Experiment,
    document: DefinitionDoc,
    wall_now: Timestamp,
    lead: Duration,
) -> Option<AllocationPreview> {
    if experiment.generations.is_empty() {
        return allocation_at_start(document, wall_now);
    }
    let now = experiment.now(wall_now);
    let mut after = experiment.clone();
    after.update(Definition::try_from(document).ok()?, now, now.plus(lead)).ok()?;
    Some(preview(experiment, &after))
}

/// Shows the form again with the errors of the service, at their fields where it names them.
async fn show_refusal(pages: &Arc<Pages>, caller: &Caller, mut page: EditPage, status: &tonic::Status) -> Response {
    let named_fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    page.violations = named_fields.into_iter().map(|v| Violation { field: v.field, message: v.description }).collect();
    if page.violations.is_empty() {
        page.error = Some(as_sentence(&inroad_wire::status::describe_status(status)));
    }
    answer(pages, caller, page, http_code(status.code())).await
}
