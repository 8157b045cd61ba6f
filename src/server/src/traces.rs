//! Spans for traces: one per call and page, and in it one per commit, publication, query and tick; the fold has one per
//! step. They have a target of their own, so that they cost nothing unless the [export](TraceExport) asks for that target,
//! and no line of the log gets longer.
//!
//! ```text
//!  traceparent ──► call ──► query
//!  of the caller      ├──► commit ──► publication
//!                     └──► tick ──► commit ──► publication
//!  fold step          tick (scheduled), guardrail check
//! ```

mod export;

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use export::TraceExport;

/// The target of all spans.
pub const TRACE_TARGET: &str = "inroad_traces";

/// Paths that machines request all the time.
const OMITTED_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// The name of methods that do not exist, by the semantic conventions of OpenTelemetry.
const OTHER_METHOD: &str = "_OTHER";

/// Services and methods, by their path.
static METHODS: LazyLock<HashMap<String, (String, String)>> = LazyLock::new(|| {
    let described = [
        inroad_wire::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files =
        described.into_iter().filter_map(|bytes| FileDescriptorSet::decode(bytes).ok()).flat_map(|set| set.file);
    let services = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (format!("{package}.{}", service.name()), service.method))
    });
    let methods = services.flat_map(|(service, methods)| {
        methods.into_iter().map(move |method| (service.clone(), method.name().to_owned()))
    });
    methods.map(|(service, method)| (format!("/{service}/{method}"), (service, method))).collect()
});

/// Middleware: a span per call and page, until the response begins; that of a stream ends when the stream is open. It
/// belongs to the caller's trace if the request has a `traceparent`.
pub(crate) async fn trace_call(request: Request, next: Next) -> Response {
    if OMITTED_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let call = Call::new(&request);
    let span = call.span(&request);
    if request.headers().contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
        // It fails only for a span that has started or is not recorded.
        let _ = span.set_parent(parent);
    }
    let response = next.run(request).instrument(span.clone()).await;
    call.record_response(&span, &response);
    response
}

/// What a request calls. No caller can invent a name.
enum Call {
    Grpc { service: &'static str, method: &'static str },
    Page { route: Option<MatchedPath> },
}

impl Call {
    fn new(request: &Request) -> Self {
        let content_type = request.headers().get(header::CONTENT_TYPE).map(header::HeaderValue::as_bytes);
        if content_type.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            let known = METHODS.get(request.uri().path());
            let (service, method) = known.map_or(("", OTHER_METHOD), |(service, method)| (service, method));
            return Self::Grpc { service, method };
        }
        Self::Page { route: request.extensions().get::<MatchedPath>().cloned() }
    }

    /// A span with the names of the semantic conventions of OpenTelemetry.
    fn span(&self, request: &Request) -> Span {
        match self {
            Self::Grpc { service, method } => tracing::info_span!(
                target: TRACE_TARGET,
                "call",
                otel.name = format!("{service}/{method}").trim_start_matches('/'),
                otel.kind = "server",
                otel.status_code = Empty,
                rpc.system = "grpc",
                rpc.service = service,
                rpc.method = method,
                rpc.grpc.status_code = Empty,
            ),
            Self::Page { route } => {
                let route = route.as_ref().map(MatchedPath::as_str);
                tracing::info_span!(
                    target: TRACE_TARGET,
                    "page",
                    otel.name = format!("{} {}", request.method(), route.unwrap_or_default()).trim_end(),
                    otel.kind = "server",
                    otel.status_code = Empty,
                    http.request.method = request.method().as_str(),
                    http.route = route,
                    http.response.status_code = Empty,
                )
            }
        }
    }

    fn record_response(&self, span: &Span, response: &Response) {
        let is_fault = match self {
            Self::Grpc { .. } => {
                // A call that fails has its status in the headers, another one in the trailers.
                let status = response.headers().get("grpc-status").map_or(Code::Ok, |s| Code::from_bytes(s.as_bytes()));
                span.record("rpc.grpc.status_code", status as i64);
                use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
                matches!(status, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
            }
            Self::Page { .. } => {
                span.record("http.response.status_code", i64::from(response.status().as_u16()));
                response.status().is_server_error()
            }
        };
        if is_fault {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// Headers, as the source of the caller's trace.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(header::HeaderName::as_str).collect()
    }
}
