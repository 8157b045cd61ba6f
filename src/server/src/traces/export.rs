//! The export of spans to an OpenTelemetry collector, by OTLP over gRPC, in batches from a thread of its own. A collector that
//! is slow or away costs spans, never a call: the queue is bounded, what does not fit is dropped, and what is lost is counted
//! and logged.
//!
//! ```text
//!  span ends ──► queue, full: lost ──► batch ──► collector, no answer: lost
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, Key};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use super::TRACE_TARGET;
use crate::metrics::SpanCounters;

/// The most finished spans that may wait to be sent; further ones are dropped.
const MAX_QUEUED_SPANS: usize = 8_192;
/// The time from the end of a span until it is sent, unless a batch is full before.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// The longest that sending one batch may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a shutdown waits for the last spans.
const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);
/// The shortest time between two lines of the log about lost spans.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The name under which a collector shows the server, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` sets one.
const SERVICE_NAME: &str = "inroad";

/// Sends the spans of this process to a collector.
#[derive(Debug, Clone)]
pub struct TraceExport {
    provider: SdkTracerProvider,
    counters: SpanCounters,
}

impl TraceExport {
    /// Starts sending to the collector at `url`, such as `http://127.0.0.1:4317`. It need not run yet. Call this from the
    /// async runtime.
    ///
    /// # Errors
    /// A message for people, if the URL is not valid.
    pub fn start(url: &str) -> Result<Self, String> {
        if url.starts_with("https:") {
            return Err("it needs TLS, which is not available".to_owned());
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(url);
        let exporter = exporter.with_timeout(SEND_TIMEOUT).build().map_err(|error| error.to_string())?;
        let (counters, waiting) = (SpanCounters::default(), Arc::default());
        let exporter = CountedExporter {
            exporter,
            waiting: Arc::clone(&waiting),
            counters: counters.clone(),
            report: Mutex::default(),
        };
        let config = BatchConfigBuilder::default().with_max_queue_size(MAX_QUEUED_SPANS);
        let config = config.with_scheduled_delay(SEND_INTERVAL).build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let queue = CountedQueue { batches, waiting, counters: counters.clone() };
        let provider = SdkTracerProvider::builder().with_resource(resource()).with_span_processor(queue).build();
        Ok(Self { provider, counters })
    }

    /// Records the spans of the server, and nothing else.
    pub fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(TRACE_TARGET, LevelFilter::INFO))
    }

    /// The numbers of spans.
    pub(crate) fn counters(&self) -> &SpanCounters {
        &self.counters
    }

    /// Sends the last spans, until `deadline` and for at most a second.
    pub(crate) async fn finish(self, deadline: Instant) {
        let limit = deadline.saturating_duration_since(Instant::now()).min(MAX_FLUSH_TIME);
        let sent = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(limit));
        let is_in_time = matches!(tokio::time::timeout(limit, sent).await, Ok(Ok(Ok(()))));
        let lost = self.counters.lost.get();
        if !is_in_time || lost > 0 {
            tracing::warn!(lost, is_in_time, "not all spans of this run reached the collector");
        }
    }
}

fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name"));
    // The crate has such a name where there is none.
    match name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        true => Resource::builder().with_service_name(SERVICE_NAME).build(),
        false => detected,
    }
}

/// The queue of finished spans. It drops and counts what the batches would drop without a count.
#[derive(Debug)]
struct CountedQueue {
    batches: BatchSpanProcessor,
    /// Spans that wait or are being sent.
    waiting: Arc<AtomicUsize>,
    counters: SpanCounters,
}

impl SpanProcessor for CountedQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < MAX_QUEUED_SPANS {
            self.batches.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counters.lost.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Sends batches, and counts and logs what is lost.
#[derive(Debug)]
struct CountedExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    waiting: Arc<AtomicUsize>,
    counters: SpanCounters,
    report: Mutex<LossReport>,
}

/// What the log says about lost spans.
#[derive(Debug, Default)]
struct LossReport {
    /// The number of lost spans that it has.
    lost: u64,
    at: Option<Instant>,
}

impl SpanExporter for CountedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let counter = if sent.is_ok() { &self.counters.sent } else { &self.counters.lost };
        counter.inc_by(spans as u64);
        self.log_losses(&sent);
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl CountedExporter {
    fn log_losses(&self, sent: &OTelSdkResult) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.counters.lost.get();
        if lost == report.lost || report.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        let reason = match sent {
            Ok(()) => "it takes fewer than there are".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            lost = lost - report.lost,
            reason,
            "spans did not reach the collector; nothing else is affected"
        );
        *report = LossReport { lost, at: Some(Instant::now()) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_beyond_the_queue_are_lost_and_counted() {
        // It accepts connections and never answers.
        let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let export = TraceExport::start(&format!("http://{}", collector.local_addr().unwrap())).unwrap();
        let tracer = export.provider.tracer("test");
        let end_spans = |count: usize| (0..count).for_each(|_| tracer.start("call").end());
        end_spans(MAX_QUEUED_SPANS);
        assert_eq!((export.counters.sent.get(), export.counters.lost.get()), (0, 0));
        end_spans(100);
        assert_eq!((export.counters.sent.get(), export.counters.lost.get()), (0, 100));
        let begun = Instant::now();
        export.finish(begun + Duration::from_secs(60)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "the shutdown took {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn invalid_addresses_are_refused_with_the_reason() {
        for (invalid, reason) in [("http://", "http://"), ("https://127.0.0.1:4317", "TLS"), ("a b", "a b")] {
            let error = TraceExport::start(invalid).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
