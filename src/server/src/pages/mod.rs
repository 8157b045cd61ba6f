//! The dashboard over HTTP. Each page fills a view struct from the state of the server and `inroad-dashboard` renders
//! it. Changes go through the same service calls that gRPC clients use; this module has no rules of its own.

mod access;
mod action;
mod allocation;
mod audit;
mod clients;
mod edit;
mod experiment;
mod feed;
mod funnel;
mod live;
mod notices;
mod overview;
mod playground;
mod summaries;
mod time_input;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use inroad_assignment::AllocationError;
use inroad_assignment::experiment::ChangeError;
use inroad_dashboard::asset::{Asset, ICON, SCRIPT, STYLE};
use inroad_dashboard::audience::AudienceSummary;
use inroad_dashboard::error_page::error_page;
use inroad_dashboard::layout::{NavItem, PageLayout};
use inroad_wire::audience_report::{SEEN_LATELY, describe_audience};
use inroad_wire::v1;
use maud::Markup;
use tonic::Code;

use crate::error::ServerError;
use crate::explain::share_in_words;
use crate::services::experiment::ExperimentHandler;
use crate::shared::SharedState;
use access::Caller;
use summaries::Summaries;

/// The state that all pages share.
pub(crate) struct Pages {
    shared: Arc<SharedState>,
    /// The service that changes experiments.
    experiments: ExperimentHandler,
    summaries: Summaries,
    rendered_lists: overview::rendered_lists::RenderedLists,
    lift_histories: experiment::LiftHistoryCache,
    open_pages: live::OpenPages,
    /// Signals that what every page shows about the server has changed.
    notice_changes: tokio::sync::watch::Receiver<()>,
}

/// The extractor of the state that all pages share.
type PagesState = State<Arc<Pages>>;

/// Largest accepted form, in bytes. An experiment at all limits fits.
const MAX_FORM_BYTES: usize = 2 * 1024 * 1024;

/// The HTTP routes of all pages.
pub(crate) fn routes(shared: Arc<SharedState>) -> Router {
    let pages = Arc::new(Pages {
        experiments: ExperimentHandler::new(Arc::clone(&shared)),
        summaries: Summaries::start(Arc::clone(&shared)),
        rendered_lists: overview::rendered_lists::RenderedLists::default(),
        lift_histories: experiment::LiftHistoryCache::default(),
        open_pages: live::OpenPages::default(),
        notice_changes: notices::changes(Arc::clone(&shared)),
        shared,
    });
    Router::new()
        .route("/experiments/{key}", get(experiment::page))
        .route("/experiments/{key}/edit", get(edit::edit_page).post(edit::save))
        .route("/experiments/{key}/ask/{action}", get(action::confirm_page))
        .route("/experiments/{key}/do/{action}", axum::routing::post(action::perform))
        .route("/experiments/{key}/funnel", get(funnel::page))
        .route("/playground", get(playground::page))
        .route("/feed", get(feed::page))
        .route("/clients", get(clients::page))
        .route("/audit", get(audit::page))
        .route_layer(from_fn_with_state(Arc::clone(&pages), in_turns))
        // These take a turn only if they have much to do.
        .route("/", get(overview::page))
        .route("/new", get(edit::new_page).post(edit::create))
        .route("/who", axum::routing::post(access::set_name))
        .route("/live", get(live::stream))
        .route("/assets/{hash}/{name}", get(asset))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(from_fn(access::add_security_headers))
        .with_state(pages)
}

/// Middleware: collects and renders pages off the async workers, a few at a time. A form that changes something does that
/// itself for the parts that take long, because a kill must not wait for its turn.
async fn in_turns(State(pages): PagesState, caller: Caller, request: Request, next: Next) -> Response {
    if request.method() == Method::POST {
        return next.run(request).await;
    }
    pages.shared.views.run_in_parts(next.run(request)).await.unwrap_or_else(|error| error_response(&caller, error))
}

/// A page to send to a browser.
struct PageResponse<'a> {
    title: &'a str,
    nav_item: NavItem,
    /// Query of the live-update address.
    live: Option<String>,
    body: Markup,
}

impl<'a> PageResponse<'a> {
    fn new(title: &'a str, nav_item: NavItem, body: Markup) -> Self {
        Self { title, nav_item, live: None, body }
    }

    fn with_live_updates(self, query: impl Into<String>) -> Self {
        Self { live: Some(query.into()), ..self }
    }

    fn send(self, caller: &Caller) -> Response {
        self.send_with_status(caller, StatusCode::OK)
    }

    fn send_with_status(self, caller: &Caller, status: StatusCode) -> Response {
        let Self { title, nav_item, live, body } = self;
        let page = PageLayout { title, nav_item, live, viewer: &caller.viewer, notices: &caller.notices, body };
        let mut response =
            (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.render()).into_response();
        if let Some(cookie) = &caller.new_cookie
            && let Ok(cookie) = HeaderValue::from_str(cookie)
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }
}

/// Event names to suggest: these, which metrics use, and recent ones.
async fn suggested_event_names<'a>(
    pages: &Pages,
    used: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>, ServerError> {
    let mut names = pages.shared.recent_events.outcome_names().await?;
    names.extend(used.map(str::to_owned));
    Ok(names.into_iter().collect())
}

/// The report on an audience, as sentences.
fn audience_summary(report: &v1::AudienceReport) -> AudienceSummary {
    let warnings = report.warnings.iter().map(|w| (w.field.clone(), as_sentence(&w.message)));
    let mut facts: Vec<String> = describe_audience(report).iter().map(|fact| as_sentence(fact)).collect();
    if report.contexts > 0 {
        facts.push(as_sentence(SEEN_LATELY));
    }
    AudienceSummary { facts, warnings: warnings.collect() }
}

/// The message for an error, with what a person at a page can do. The errors' own messages are written for API clients.
fn error_message(error: &ServerError) -> String {
    match error {
        ServerError::UnknownExperiment(key) => {
            format!("Experiment {key:?} does not exist. Search all experiments or create it.")
        }
        ServerError::UnknownRevision { experiment, kind, number } => {
            let kind = if *kind == "generation" { "run" } else { kind };
            format!(
                "Experiment {experiment:?} has no {kind} {number}. See the experiment's page for the existing ones."
            )
        }
        ServerError::Change(ChangeError::UnknownVariation(key)) => {
            format!("Variation {key:?} does not exist. See the experiment's page for its variations.")
        }
        ServerError::Invalid { field: "times", .. } => {
            "That is more than all traffic. Enter a smaller number.".to_owned()
        }
        ServerError::Invalid { field: "to_share" | "by_share", .. } => {
            "A traffic share is between 0% and 100%.".to_owned()
        }
        // The page shows the message at its field.
        ServerError::Invalid { message, .. } => as_sentence(message),
        ServerError::Change(ChangeError::Allocation(AllocationError::NotEnoughControl { requested, available })) => {
            format!(
                "This needs {} of traffic, but control can give up only {} above its minimum control share. Enter a smaller amount, or restart the experiment.",
                share_in_words(*requested),
                share_in_words(*available)
            )
        }
        error => as_sentence(&error.to_string()),
    }
}

/// A message as a sentence: messages for API clients begin in lower case and have no full stop.
fn as_sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(char::to_uppercase);
    let lacks_stop = message.ends_with(|last: char| last.is_alphanumeric() || ['"', ')', '`'].contains(&last));
    first.into_iter().flatten().chain(letters).chain(lacks_stop.then_some('.')).collect()
}

/// The page for an error of the server.
fn error_response(caller: &Caller, error: ServerError) -> Response {
    let message = error_message(&error);
    let is_for_pages = matches!(error, ServerError::Invalid { .. });
    let status = tonic::Status::from(error);
    let is_for_pages = is_for_pages || status.code() == Code::NotFound;
    respond_with_error(
        caller,
        status.code(),
        &if is_for_pages { message } else { inroad_wire::status::describe_status(&status) },
    )
}

/// The page for an error status of a service call.
fn status_response(caller: &Caller, status: &tonic::Status) -> Response {
    respond_with_error(caller, status.code(), &inroad_wire::status::describe_status(status))
}

fn respond_with_error(caller: &Caller, code: Code, message: &str) -> Response {
    let title = match code {
        Code::NotFound => "Page not found",
        Code::ResourceExhausted | Code::Unavailable => "Temporarily unavailable",
        _ => "Request failed",
    };
    PageResponse::new(title, NavItem::Other, error_page(title, &as_sentence(message)))
        .send_with_status(caller, http_code(code))
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::UNPROCESSABLE_ENTITY,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Redirects to a page after a change.
fn redirect_to(path: &str) -> Response {
    Redirect::to(path).into_response()
}

async fn asset(Path((hash, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let path = format!("/assets/{hash}/{name}");
    let Some(asset) = [STYLE, SCRIPT, ICON].into_iter().find(|asset: &Asset| asset.path() == path) else {
        return (StatusCode::NOT_FOUND, "This file does not exist. Reload the page.\n").into_response();
    };
    if headers.contains_key(header::IF_NONE_MATCH) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let fixed = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::ETAG, "\"1\""),
    ];
    (fixed, asset.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_message_becomes_a_sentence() {
        assert_eq!(as_sentence("share is 2: use a smaller one"), "Share is 2: use a smaller one.");
        assert_eq!(as_sentence("Nothing was changed."), "Nothing was changed.");
        assert_eq!(as_sentence(""), "");
    }
}
