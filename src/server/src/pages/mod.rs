//! The dashboard over HTTP: each page gathers a view from the rest of the server, lets `inroad-dashboard` draw it, and
//! sends it. What changes something goes through the very services that gRPC callers use, and decides nothing itself.

mod change;
mod edit;
mod experiment;
mod funnel;
mod guard;
mod live;
mod look;
mod overview;
mod standing;
mod units;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use inroad_assignment::experiment::ChangeError;
use inroad_assignment::{Experiment, MetricKind};
use inroad_dashboard::asset::{Asset, ICON, SCRIPT, STYLE};
use inroad_dashboard::problem::problem;
use inroad_dashboard::shell::{Notice, Page, Place};
use maud::Markup;
use tonic::Code;

use crate::error::ServerError;
use crate::services::Shared;
use crate::services::experiment::Experiments;
use guard::Caller;
use standing::Standings;

/// What the pages share.
pub(crate) struct Pages {
    shared: Arc<Shared>,
    /// What changes experiments, for pages as for everybody.
    experiments: Experiments,
    standings: Standings,
    courses: experiment::Courses,
    open: live::Open,
}

type Site = State<Arc<Pages>>;

/// The largest form taken, in bytes: an experiment with every limit reached fits.
const MAX_FORM_BYTES: usize = 2 * 1024 * 1024;

/// The routes.
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    let pages = Arc::new(Pages {
        experiments: Experiments::new(Arc::clone(&shared)),
        standings: Standings::start(Arc::clone(&shared)),
        courses: experiment::Courses::default(),
        open: live::Open::default(),
        shared,
    });
    Router::new()
        .route("/", get(overview::page))
        .route("/new", get(edit::blank).post(edit::create))
        .route("/experiments/{key}", get(experiment::page))
        .route("/experiments/{key}/edit", get(edit::form).post(edit::save))
        .route("/experiments/{key}/ask/{action}", get(change::ask))
        .route("/experiments/{key}/do/{action}", axum::routing::post(change::act))
        .route("/experiments/{key}/funnel", get(funnel::page))
        .route("/playground", get(units::playground))
        .route("/feed", get(look::feed))
        .route("/clients", get(look::clients))
        .route("/who", axum::routing::post(guard::who))
        .route("/live", get(live::stream))
        .route("/assets/{hash}/{name}", get(asset))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(from_fn(guard::headers))
        .with_state(pages)
}

/// A page, with whoever looks at it.
struct Sheet<'a> {
    title: &'a str,
    place: Place,
    live: Option<String>,
    notice: Option<Notice>,
    body: Markup,
}

impl<'a> Sheet<'a> {
    fn new(title: &'a str, place: Place, body: Markup) -> Self {
        Self { title, place, live: None, notice: None, body }
    }

    fn following(self, query: impl Into<String>) -> Self {
        Self { live: Some(query.into()), ..self }
    }

    fn send(self, caller: &Caller) -> Response {
        self.send_as(caller, StatusCode::OK)
    }

    fn send_as(self, caller: &Caller, status: StatusCode) -> Response {
        let Self { title, place, live, notice, body } = self;
        let page = Page { title, place, live, reader: &caller.reader, notice, body };
        let mut response =
            (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.render()).into_response();
        if let Some(cookie) = &caller.cookie
            && let Ok(cookie) = HeaderValue::from_str(cookie)
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }
}

/// The names of outcomes that a person may mean: those that these experiments measure, and those that came lately.
async fn event_names<'a>(
    pages: &Pages,
    experiments: impl Iterator<Item = &'a Experiment>,
) -> Result<Vec<String>, ServerError> {
    let mut names = pages.shared.recent.event_names(&pages.shared).await?;
    for metric in experiments.flat_map(|experiment| experiment.definition.metrics()) {
        names.insert(metric.event.clone());
        if let MetricKind::Ratio { denominator } = &metric.kind {
            names.insert(denominator.clone());
        }
    }
    Ok(names.into_iter().collect())
}

/// What went wrong, with what somebody at a page can do about it: the messages themselves name calls and commands.
fn in_words(error: &ServerError) -> String {
    match error {
        ServerError::NotFound(key) => {
            format!("There is no experiment {key:?}. Look for it among all experiments, or create it.")
        }
        ServerError::NoSuchNumber { experiment, what, number } => {
            format!("The experiment {experiment:?} has no {what} {number}. Its page leads to those there are.")
        }
        ServerError::Change(ChangeError::UnknownVariation(key)) => {
            format!("The experiment has no variation {key:?}. Its page lists those there are.")
        }
        ServerError::Invalid { field: "times", .. } => {
            "That would be more than the whole line: ask for less.".to_owned()
        }
        ServerError::Invalid { field: "to_share" | "by_share", .. } => {
            "A share of the line is between 0% and 100%.".to_owned()
        }
        // It stands at its field.
        ServerError::Invalid { message, .. } => message.clone(),
        error => error.to_string(),
    }
}

/// Something that went wrong, as a page.
fn refused(caller: &Caller, error: ServerError) -> Response {
    let words = in_words(&error);
    let status = tonic::Status::from(error);
    let is_unknown = status.code() == Code::NotFound;
    problem_page(caller, status.code(), &if is_unknown { words } else { inroad_wire::status::describe(&status) })
}

fn refused_status(caller: &Caller, status: &tonic::Status) -> Response {
    problem_page(caller, status.code(), &inroad_wire::status::describe(status))
}

fn problem_page(caller: &Caller, code: Code, message: &str) -> Response {
    let title = match code {
        Code::NotFound => "There is no such thing",
        Code::ResourceExhausted | Code::Unavailable => "Not just now",
        _ => "That did not work",
    };
    Sheet::new(title, Place::Elsewhere, problem(title, message)).send_as(caller, http_code(code))
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

/// On to another page after something was done.
fn on_to(path: &str) -> Response {
    Redirect::to(path).into_response()
}

async fn asset(Path((hash, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let asked = format!("/assets/{hash}/{name}");
    let Some(asset) = [STYLE, SCRIPT, ICON].into_iter().find(|asset: &Asset| asset.path() == asked) else {
        return (StatusCode::NOT_FOUND, "no such file: reload the page\n").into_response();
    };
    if headers.contains_key(header::IF_NONE_MATCH) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let fixed = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::ETAG, "\"1\""),
    ];
    (fixed, asset.content).into_response()
}
