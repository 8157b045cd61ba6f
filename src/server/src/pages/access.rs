//! Who sends a request, and whether it is accepted: a token against forms of other sites, and headers against scripts
//! of other sites. There is no login; the name is only for the audit log.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use inroad_dashboard::error_page::error_page;
use inroad_dashboard::form::{Form, url_encode};
use inroad_dashboard::layout::{NavItem, Viewer};
use inroad_dashboard::server_notice::ServerNotice;
use rand::distr::{Alphanumeric, SampleString};
use tonic::metadata::MetadataValue;

use super::{MAX_FORM_BYTES, PageResponse, Pages, PagesState, notices, redirect_to};
use crate::services::is_reserved_actor;

const TOKEN_COOKIE: &str = "inroad-token";
const NAME_COOKIE: &str = "inroad-name";
/// Most bytes of a name, the same as for gRPC's `inroad-actor`.
const MAX_ACTOR_BYTES: usize = 128;

/// Content security policy: only files of this server load, and no other site may frame the pages.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The body of a form request, or why it could not be read.
pub(super) type FormBody = Result<Bytes, BytesRejection>;

/// Attributes of all cookies. `SameSite=Lax` rather than `Strict`: with `Strict`, following a link from a chat would
/// send no cookie, replace the token, and invalidate the forms in all other windows.
const COOKIE_ATTRIBUTES: &str = "Path=/; HttpOnly; SameSite=Lax";

/// The sender of a request.
pub(super) struct Caller {
    pub(super) viewer: Viewer,
    /// Cookie to set, if the browser had no token.
    pub(super) new_cookie: Option<String>,
    /// What every page shows about the server.
    pub(super) notices: Vec<ServerNotice>,
    headers: HeaderMap,
}

impl FromRequestParts<std::sync::Arc<Pages>> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, pages: &std::sync::Arc<Pages>) -> Result<Self, Self::Rejection> {
        let known = cookie(&parts.headers, TOKEN_COOKIE)
            .filter(|t| t.len() == 32 && t.bytes().all(|b| b.is_ascii_alphanumeric()));
        let name = cookie(&parts.headers, NAME_COOKIE).map(|name| decode(&name)).unwrap_or_default();
        let fresh = known.is_none().then(|| Alphanumeric.sample_string(&mut rand::rng(), 32));
        let new_cookie = fresh.as_ref().map(|token| format!("{TOKEN_COOKIE}={token}; {COOKIE_ATTRIBUTES}"));
        let token = known.or(fresh).unwrap_or_default();
        let here = match parts.method {
            Method::GET => parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            _ => return_path(parts.uri.path()).to_owned(),
        };
        let viewer = Viewer { name: checked_name(&name).unwrap_or_default(), token, here };
        let notices = notices::current(&pages.shared);
        Ok(Self { viewer, new_cookie, notices, headers: parts.headers.clone() })
    }
}

/// The page to return to from the address of a submitted form: some of these addresses have no page of their own.
fn return_path(path: &str) -> &str {
    match path.split_once("/do/") {
        Some((experiment, _)) => experiment,
        None if path == "/who" => "/",
        None => path,
    }
}

/// Whether every browser treats this as a path on this server. Browsers drop tabs, and take what follows `//` or `/\` as
/// another host.
fn is_local_path(here: &str) -> bool {
    let is_plain = here.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    here.starts_with('/') && !here.starts_with("//") && is_plain
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(n, _)| *n == name).map(|(_, value)| value.to_owned()).next()
}

/// Decodes a name from its cookie.
fn decode(text: &str) -> String {
    Form::parse(format!("n={text}").as_bytes()).text("n").to_owned()
}

/// Checks that the audit log accepts a name.
fn checked_name(name: &str) -> Result<String, &'static str> {
    let is_valid = name.len() <= MAX_ACTOR_BYTES && name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if is_reserved_actor(name) {
        return Err("This is a name of the server itself. Give your own name.");
    }
    if is_valid { Ok(name.to_owned()) } else { Err("A name has 1 to 128 printable ASCII characters.") }
}

impl Caller {
    /// The name for the audit log.
    pub(super) fn actor(&self) -> &str {
        if self.viewer.name.is_empty() { "dashboard" } else { &self.viewer.name }
    }

    /// A service request with the name of the caller for the audit log.
    pub(super) fn service_request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        // A checked name is printable ASCII, so this cannot fail.
        if let Ok(actor) = MetadataValue::try_from(self.actor()) {
            request.metadata_mut().insert("inroad-actor", actor);
        }
        request
    }

    /// Reads a form that may change something. Only forms of this server's own pages are accepted.
    pub(super) fn accept_form(&self, body: FormBody) -> Result<Form, Box<Response>> {
        let form = match body {
            Ok(bytes) => Form::parse(&bytes),
            Err(rejection) => return Err(Box::new(self.unreadable_form(&rejection))),
        };
        let token = form.text("token");
        // A browser without a token cookie got a new token with this request, so no form can have it yet.
        let has_token = self.new_cookie.is_none() && !token.is_empty() && token == self.viewer.token;
        if has_token && self.is_same_origin() { Ok(form) } else { Err(Box::new(self.foreign_form())) }
    }

    /// Whether the browser reports that the request comes from these pages. Without a report, the token decides.
    fn is_same_origin(&self) -> bool {
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        let site = text(HeaderName::from_static("sec-fetch-site"));
        if site.is_some_and(|site| site != "same-origin" && site != "none") {
            return false;
        }
        match (text(header::ORIGIN), text(header::HOST)) {
            (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority == host),
            _ => true,
        }
    }

    fn unreadable_form(&self, rejection: &BytesRejection) -> Response {
        let (title, message) = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => (
                "Form too large",
                format!(
                    "The form is larger than {} MiB. Nothing was changed. Go back and shorten it; store large content \
                     elsewhere and put its id into the payload.",
                    MAX_FORM_BYTES >> 20
                ),
            ),
            _ => (
                "Form not received",
                "The form did not arrive completely. Nothing was changed. Go back and try again.".to_owned(),
            ),
        };
        let body = error_page(title, &message);
        PageResponse::new(title, NavItem::Other, body).send_with_status(self, rejection.status())
    }

    fn foreign_form(&self) -> Response {
        let message = "This form was not sent by a page of this server, or the page was opened before your browser restarted. \
            Nothing was changed. Go back, reload the page and try again.";
        let body = error_page("Form not accepted", message);
        PageResponse::new("Form not accepted", NavItem::Other, body).send_with_status(self, StatusCode::FORBIDDEN)
    }
}

/// Adds headers to every response that keep scripts and frames of other sites out.
pub(super) async fn add_security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pages must not be cached; files whose address has a hash of their content may be.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// `POST /who`: stores the name for the audit log, in a cookie only.
pub(super) async fn set_name(_: PagesState, caller: Caller, body: FormBody) -> Response {
    let form = match caller.accept_form(body) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    // Never redirect to another site.
    let here = Some(form.text("here")).filter(|here| is_local_path(here)).unwrap_or("/");
    match checked_name(form.text("name")) {
        Ok(name) => {
            let cookie = format!("{NAME_COOKIE}={}; {COOKIE_ATTRIBUTES}; Max-Age=31536000", url_encode(&name));
            let mut response = redirect_to(here);
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(message) => {
            let body = error_page("Invalid name", message);
            PageResponse::new("Invalid name", NavItem::Other, body)
                .send_with_status(&caller, StatusCode::UNPROCESSABLE_ENTITY)
                .into_response()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_this_server() {
        for local in ["/", "/experiments/a?generation=1", "/feed?unit=%2F%2Fevil"] {
            assert!(is_local_path(local), "{local}");
        }
        for other in
            ["", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/\r\n/", "evil"]
        {
            assert!(!is_local_path(other), "{other:?}");
        }
    }

    #[test]
    fn name_of_the_server_itself_is_refused() {
        assert!(checked_name("Ann Lee").is_ok());
        for name in ["inroad-policy", "inroad-guardrails", "inroad-clock", "inroad-results", " Inroad-Policy"] {
            assert!(checked_name(name).unwrap_err().contains("the server itself"), "{name}");
        }
    }

    #[test]
    fn form_addresses_return_to_a_page() {
        assert_eq!(return_path("/experiments/a/do/kill"), "/experiments/a");
        assert_eq!(return_path("/experiments/a/edit"), "/experiments/a/edit");
        assert_eq!([return_path("/who"), return_path("/new")], ["/", "/new"]);
    }
}
