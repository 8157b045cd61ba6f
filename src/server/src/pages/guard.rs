//! Who asks, and whether they may: the headers that keep other people's scripts out, and the token that keeps other
//! sites' forms out. There is no login: the name is for the audit log.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use inroad_dashboard::form::{Form, encode};
use inroad_dashboard::shell::{Place, Reader};
use rand::distr::{Alphanumeric, SampleString};

use super::{MAX_FORM_BYTES, Pages, Sheet, Site, on_to};

const TOKEN_COOKIE: &str = "inroad-token";
const NAME_COOKIE: &str = "inroad-name";
/// The most bytes of a name, as of gRPC's `inroad-actor`.
const MAX_ACTOR_BYTES: usize = 128;

/// Everything comes from here, nothing runs that is not ours, and nobody puts these pages in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a form's request carries, if it could be read.
pub(super) type Sent = Result<Bytes, BytesRejection>;

/// How long and for whom a browser keeps a cookie of ours. Lax and not strict: whoever follows a link from a chat would
/// otherwise come without, be given another token, and find every form in their other windows refused.
const COOKIE: &str = "Path=/; HttpOnly; SameSite=Lax";

/// Whoever sent a request.
pub(super) struct Caller {
    pub(super) reader: Reader,
    /// To be set: they have no token yet.
    pub(super) cookie: Option<String>,
    headers: HeaderMap,
}

impl FromRequestParts<std::sync::Arc<Pages>> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &std::sync::Arc<Pages>) -> Result<Self, Self::Rejection> {
        let known = cookie(&parts.headers, TOKEN_COOKIE).filter(|t| t.len() == 32 && t.bytes().all(|b| b.is_ascii_alphanumeric()));
        let name = cookie(&parts.headers, NAME_COOKIE).map(|name| decode(&name)).unwrap_or_default();
        let fresh = known.is_none().then(|| Alphanumeric.sample_string(&mut rand::rng(), 32));
        let cookie = fresh.as_ref().map(|token| format!("{TOKEN_COOKIE}={token}; {COOKIE}"));
        let token = known.or(fresh).unwrap_or_default();
        let here = match parts.method {
            Method::GET => parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            _ => page_behind(parts.uri.path()).to_owned(),
        };
        let reader = Reader { name: as_actor(&name).unwrap_or_default(), token, here };
        Ok(Self { reader, cookie, headers: parts.headers.clone() })
    }
}

/// The page to come back to from an address that a form was sent to: some of them show nothing by themselves.
fn page_behind(path: &str) -> &str {
    match path.split_once("/do/") {
        Some((experiment, _)) => experiment,
        None if path == "/who" => "/",
        None => path,
    }
}

/// Whether this is a path of ours, to every browser: they drop tabs, and take `//` and `/\\` for another host.
fn is_ours(here: &str) -> bool {
    let bare = here.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    here.starts_with('/') && !here.starts_with("//") && bare
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(n, _)| *n == name).map(|(_, value)| value.to_owned()).next()
}

/// A name as a cookie has it.
fn decode(text: &str) -> String {
    Form::parse(format!("n={text}").as_bytes()).text("n").to_owned()
}

/// A name that the audit log takes.
fn as_actor(name: &str) -> Result<String, &'static str> {
    let fits = name.len() <= MAX_ACTOR_BYTES && name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if fits { Ok(name.to_owned()) } else { Err("a name has 1 to 128 printable ASCII characters") }
}

impl Caller {
    /// Who the audit log says did it.
    pub(super) fn actor(&self) -> &str {
        if self.reader.name.is_empty() { "dashboard" } else { &self.reader.name }
    }

    /// Reads a form that may change something: sent by one of our own pages, or not at all.
    pub(super) fn form(&self, sent: Sent) -> Result<Form, Box<Response>> {
        let form = match sent {
            Ok(body) => Form::parse(&body),
            Err(unread) => return Err(Box::new(self.unread(&unread))),
        };
        let given = form.text("token");
        // A browser without our cookie was given a fresh token just now, which no form can have.
        let ours = self.cookie.is_none() && !given.is_empty() && given == self.reader.token;
        if ours && self.is_same_origin() { Ok(form) } else { Err(Box::new(self.forged())) }
    }

    /// Whether the browser says that the request comes from these pages. One that says nothing is taken by its token.
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

    fn unread(&self, why: &BytesRejection) -> Response {
        let (title, message) = match why.status() {
            StatusCode::PAYLOAD_TOO_LARGE => (
                "Too much",
                format!(
                    "A form may have {} MiB, and this one has more. Nothing was changed: go back and shorten it; large \
                     content belongs elsewhere, under an id that the payload names.",
                    MAX_FORM_BYTES >> 20
                ),
            ),
            _ => ("Not received", "The form did not arrive whole. Nothing was changed: go back and try again.".to_owned()),
        };
        let body = inroad_dashboard::problem::problem(title, &message);
        Sheet::new(title, Place::Elsewhere, body).send_as(self, why.status())
    }

    fn forged(&self) -> Response {
        let message = "This form was not sent by a page of this server, or its page is from before a restart of your browser. \
            Nothing was changed: go back, reload the page and try again.";
        let body = inroad_dashboard::problem::problem("Not accepted", message);
        Sheet::new("Not accepted", Place::Elsewhere, body).send_as(self, StatusCode::FORBIDDEN)
    }
}

/// Adds to every answer what keeps strangers' scripts and frames out.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Numbers of this moment are nobody's to keep; files under an address of their own content are.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Remembers a name, in the browser alone.
pub(super) async fn who(_: Site, caller: Caller, body: Sent) -> Response {
    let form = match caller.form(body) {
        Ok(form) => form,
        Err(refused) => return *refused,
    };
    // Only ever to a path of ours.
    let here = Some(form.text("here")).filter(|here| is_ours(here)).unwrap_or("/");
    match as_actor(form.text("name")) {
        Ok(name) => {
            let cookie = format!("{NAME_COOKIE}={}; {COOKIE}; Max-Age=31536000", encode(&name));
            let mut response = on_to(here);
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(message) => {
            let body = inroad_dashboard::problem::problem("That is no name", message);
            Sheet::new("That is no name", Place::Elsewhere, body).send_as(&caller, StatusCode::UNPROCESSABLE_ENTITY).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_host() {
        for ours in ["/", "/experiments/a?generation=1", "/feed?unit=%2F%2Fevil"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/\r\n/", "evil"] {
            assert!(!is_ours(other), "{other:?}");
        }
    }

    #[test]
    fn what_was_only_sent_leads_back_to_a_page() {
        assert_eq!(page_behind("/experiments/a/do/kill"), "/experiments/a");
        assert_eq!(page_behind("/experiments/a/edit"), "/experiments/a/edit");
        assert_eq!([page_behind("/who"), page_behind("/new")], ["/", "/new"]);
    }
}
