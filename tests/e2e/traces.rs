//! Traces: a real collector, a gRPC server in the test, gets the spans of calls, of their parts and of background work. A
//! collector that is away or silent changes nothing, and the losses are counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inroad_wire::v1;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::harness::{
    RawCalls, Server, Setup, eventually, exposure_of, flag, http_get, message_prefix, metric_value,
    with_conversion_metrics, with_thompson_policy,
};

const KEY: &str = "checkout";
/// The context of a caller, by the W3C recommendation "Trace Context".
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN_ID: &str = "00f067aa0ba902b7";

/// A collector that remembers all spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let collector = Self::default();
        let service = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(service.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a span that matches.
    async fn span(&self, what: &str, matches: impl Fn(&Span) -> bool) -> Span {
        let find = async || self.spans().into_iter().find(&matches);
        eventually(&format!("the collector gets the span of {what}"), find).await
    }

    async fn named(&self, name: &str) -> Span {
        self.span(name, |span| span.name == name).await
    }

    /// Waits for a part of another span.
    async fn part_of(&self, parent: &Span, name: &str) -> Span {
        let part = self.span(name, |span| span.name == name && span.parent_span_id == parent.span_id).await;
        assert_eq!(part.trace_id, parent.trace_id, "{part:?}");
        assert!(part.start_time_unix_nano >= parent.start_time_unix_nano, "{part:?}");
        part
    }
}

/// An attribute as text; empty if the span has none.
fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.clone()?.value) {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn setup(url: &str) -> Setup {
    Setup::with_options(&["--traces", url])
}

fn kill(variation: &str) -> Request<v1::KillRequest> {
    Request::new(v1::KillRequest { key: KEY.to_owned(), variation: variation.to_owned() })
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_gets_the_spans_of_a_kill_in_the_trace_of_its_caller() {
    let (collector, address) = Collector::start().await;
    let server = Server::with(setup(&format!("http://{address}"))).await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.4)])).await;
    let mut request = kill("a");
    let parent = format!("00-{TRACE_ID}-{CALLER_SPAN_ID}-01").parse().expect("a value");
    request.metadata_mut().insert("traceparent", parent);
    api.experiments().kill(request).await.expect("the kill succeeds");

    let kill = collector.named("inroad.v1.ExperimentService/Kill").await;
    assert_eq!((hex(&kill.trace_id), hex(&kill.parent_span_id)), (TRACE_ID.to_owned(), CALLER_SPAN_ID.to_owned()));
    assert_eq!(kill.kind(), SpanKind::Server);
    let attributes =
        ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"].map(|key| attribute(&kill, key));
    assert_eq!(attributes, ["grpc", "inroad.v1.ExperimentService", "Kill", "0"]);
    for part in ["commit", "publication"] {
        collector.part_of(&kill, part).await;
    }
    let is_counted = async || (metric_value(server.address, "inroad_trace_spans_sent_total").await > 0.0).then_some(());
    eventually("sent spans are counted", is_counted).await;
    assert_eq!(metric_value(server.address, "inroad_trace_spans_lost_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_gets_the_spans_of_failed_calls_pages_queries_ticks_and_the_fold() {
    let (collector, address) = Collector::start().await;
    let server = Server::with(setup(&format!("http://{address}"))).await;
    let api = server.api();
    api.launch(with_conversion_metrics(with_thompson_policy(flag(KEY, &[("a", 0.4)]), 86_400))).await;
    let units = ["u1".to_owned()];
    let answer = api.assign_all(KEY, &units).await.remove(0);
    api.record(vec![exposure_of(KEY, "u1", &answer)], vec![]).await;
    api.results(KEY).await;
    let reallocate = v1::ReallocateRequest { key: KEY.to_owned() };
    api.experiments().reallocate(reallocate).await.expect("a decision");
    let unknown = v1::GetExperimentRequest { key: "unknown".to_owned() };
    api.experiments().get_experiment(unknown).await.expect_err("there is none");
    let mut raw = RawCalls::connect(server.address);
    raw.begin("/inroad.v1.ExperimentService/Invented", &message_prefix(0), true);
    http_get(server.address, &format!("/experiments/{KEY}")).await.expect("a page");
    http_get(server.address, "/nothing/here").await.expect("an answer");

    let failed = collector.named("inroad.v1.ExperimentService/GetExperiment").await;
    assert_eq!(attribute(&failed, "rpc.grpc.status_code"), "5");
    assert_eq!(failed.status.unwrap_or_default().code(), StatusCode::Unset, "it is no fault of the server");
    let invented = collector.named("_OTHER").await;
    assert_eq!(["rpc.method", "rpc.grpc.status_code"].map(|key| attribute(&invented, key)), ["_OTHER", "12"]);
    assert_eq!(invented.status.unwrap_or_default().code(), StatusCode::Error);
    let page = collector.named("GET /experiments/{key}").await;
    let attributes = ["http.request.method", "http.route", "http.response.status_code"];
    assert_eq!(attributes.map(|key| attribute(&page, key)), ["GET", "/experiments/{key}", "200"]);
    let missing = collector.named("GET").await;
    assert_eq!(attribute(&missing, "http.response.status_code"), "404");
    let results = collector.named("inroad.v1.ResultService/GetResults").await;
    collector.part_of(&results, "query").await;
    let reallocate = collector.named("inroad.v1.ExperimentService/Reallocate").await;
    let tick = collector.part_of(&reallocate, "tick").await;
    assert_eq!(attribute(&tick, "experiment"), KEY);
    collector.part_of(&tick, "commit").await;
    collector.span("the fold", |span| span.name == "fold step" && attribute(span, "events") == "1").await;
    let has_probe = collector.spans().iter().any(|span| span.name.contains("readyz") || span.name.contains("metrics"));
    assert!(!has_probe, "probes have no spans");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_sends_the_last_spans() {
    let (collector, address) = Collector::start().await;
    let mut server = Server::with(setup(&format!("http://{address}"))).await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.4)])).await;
    api.kill(KEY, "a").await;
    drop(api);
    server.send_sigterm();
    server.wait_until_stopped().await.ok();
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(names.iter().any(|name| name == "inroad.v1.ExperimentService/Kill"), "{names:?}");
}

/// Starts a server with this collector, waits until spans are lost, and measures a kill and the shutdown.
async fn check_that_nothing_waits_for(url: &str) {
    let mut server = Server::with(setup(url)).await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.4)])).await;
    for _ in 0..200 {
        let begun = Instant::now();
        api.get(KEY).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "a call took {:?}", begun.elapsed());
    }
    let is_lost = async || (metric_value(server.address, "inroad_trace_spans_lost_total").await > 0.0).then_some(());
    eventually("lost spans are counted", is_lost).await;
    let begun = Instant::now();
    api.kill(KEY, "a").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "the kill took {:?}", begun.elapsed());
    drop(api);
    let begun = Instant::now();
    server.send_sigterm();
    let ended = server.wait_until_stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "the shutdown took {:?}", begun.elapsed());
    assert!(ended.stderr.contains("not all spans of this run reached the collector"), "{}", ended.stderr);
    ended.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_collector_delays_neither_calls_nor_the_shutdown() {
    // It accepts connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    check_that_nothing_waits_for(&format!("http://{}", listener.local_addr().expect("an address"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_collector_delays_neither_calls_nor_the_shutdown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    check_that_nothing_waits_for(&format!("http://{address}")).await;
}
