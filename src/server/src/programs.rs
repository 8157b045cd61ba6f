//! gRPC is for programs. A browser sends any site's POST to any address it can reach, and tonic reads a call whatever
//! its content type says; so without this a page of somebody else could kill an experiment from the browser of whoever
//! looks at it.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// What no page can send without asking first, which nobody here answers.
const CONTENT_TYPE: &str = "application/grpc";
/// What browsers say of every request that a page makes, and what programs do not.
const MARKS: [HeaderName; 2] = [header::ORIGIN, HeaderName::from_static("sec-fetch-site")];

/// Lets calls of programs through.
pub(crate) async fn only(request: Request, next: Next) -> Response {
    match refusal(request.headers()) {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
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
