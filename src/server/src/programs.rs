//! What every gRPC call goes through first. It is for programs: a browser sends any site's POST to any address it can reach, and tonic reads a call whatever
//! its content type says; so without this a page of somebody else could kill an experiment from the browser of whoever
//! looks at it.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tonic::Status;

use crate::error::ServerError;

/// What no page can send without asking first, which nobody here answers.
const CONTENT_TYPE: &str = "application/grpc";
/// What browsers say of every request that a page makes, and what programs do not.
const MARKS: [HeaderName; 2] = [header::ORIGIN, HeaderName::from_static("sec-fetch-site")];

/// Lets calls of programs through, and answers in time: what streams goes on for as long as it likes.
pub(crate) async fn only(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    if let Some(refusal) = refusal(request.headers()) {
        return refusal.into_response();
    }
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::from(ServerError::Overdue { limit }).into_http(),
    }
}

fn refusal(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    if !kind.starts_with(CONTENT_TYPE.as_bytes()) {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is gRPC: send application/grpc\n"));
    }
    MARKS
        .iter()
        .any(|mark| headers.contains_key(mark))
        .then_some((StatusCode::FORBIDDEN, "gRPC is not for browsers: open the dashboard, or call from a program\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_of_any_site_makes_a_call() {
        let status = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            refusal(&headers.collect()).map(|(status, _)| status.as_u16())
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
