//! Rejects gRPC calls that come from a browser. A browser sends a POST from any site to any address it can reach, and
//! tonic accepts a call whatever its content type is. Without this check, a page of another site could kill an
//! experiment from the browser of a person who visits that page.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tonic::Status;

use crate::error::ServerError;

/// Browsers send this content type to another site only after a CORS preflight, which this server never answers.
const CONTENT_TYPE: &str = "application/grpc";
/// Headers that browsers add to every request of a page and that gRPC clients do not send.
const BROWSER_HEADERS: [HeaderName; 2] = [header::ORIGIN, HeaderName::from_static("sec-fetch-site")];

/// Middleware: rejects browsers, and limits the time until a call answers. A stream may go on after it has answered.
pub(crate) async fn reject_browsers(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    if let Some(rejection) = rejection(request.headers()) {
        return rejection.into_response();
    }
    let limit = requested_timeout(request.headers()).map_or(limit, |requested| requested.min(limit));
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::from(ServerError::CallTimeout { limit }).into_http(),
    }
}

/// How long the caller waits for an answer: at most eight digits and a unit. None if it did not say so.
fn requested_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn rejection(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    if !content_type.starts_with(CONTENT_TYPE.as_bytes()) {
        let message = "This address accepts gRPC only. Send content-type application/grpc.\n";
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    BROWSER_HEADERS.iter().any(|name| headers.contains_key(name)).then_some((
        StatusCode::FORBIDDEN,
        "gRPC calls from browsers are not accepted. Open the dashboard, or call from a program.\n",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_of_the_caller_is_read_with_its_unit() {
        let timeout = |text: &'static str| {
            requested_timeout(&HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), text.parse().unwrap())]))
        };
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(timeout("1500m"), Some(Duration::from_millis(1_500)));
        assert_eq!(timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for malformed in ["", "S", "-1S", "999999999S", "1", "1x"] {
            assert_eq!(timeout(malformed), None, "{malformed}");
        }
        assert_eq!(requested_timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn browser_requests_are_rejected() {
        let status = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            rejection(&headers.collect()).map(|(status, _)| status.as_u16())
        };
        assert_eq!(status(&[("content-type", "application/grpc")]), None);
        assert_eq!(status(&[("content-type", "application/grpc+proto"), ("te", "trailers")]), None);
        assert_eq!(status(&[]), Some(415));
        for simple in ["text/plain", "text/plain; application/grpc", "multipart/form-data"] {
            assert_eq!(status(&[("content-type", simple)]), Some(415));
        }
        assert_eq!(status(&[("content-type", "application/grpc"), ("origin", "null")]), Some(403));
        assert_eq!(status(&[("content-type", "application/grpc"), ("sec-fetch-site", "same-origin")]), Some(403));
    }
}
