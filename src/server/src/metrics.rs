//! The Prometheus metrics of the server.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The label of refused events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// The reason code.
    pub reason: String,
}

/// The numbers of spans for traces. They exist before the metrics do.
#[derive(Debug, Clone, Default)]
pub struct SpanCounters {
    /// Spans that the collector has.
    pub sent: Counter<u64, AtomicU64>,
    /// Spans that did not reach the collector.
    pub lost: Counter<u64, AtomicU64>,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// Assignments answered, by any call.
    pub assignments: Counter<u64, AtomicU64>,
    /// Exposures written to disk.
    pub accepted_exposures: Counter<u64, AtomicU64>,
    /// Outcomes written to disk.
    pub accepted_outcomes: Counter<u64, AtomicU64>,
    /// Those of them that no experiment counts.
    pub uncounted_outcomes: Counter<u64, AtomicU64>,
    /// Events refused, by reason.
    pub refused_events: Family<RefusalLabel, Counter<u64, AtomicU64>>,
    /// Recording calls that were answered with a retry delay.
    pub overloads: Counter<u64, AtomicU64>,
    /// Batches of assignments that were refused because their audiences cost too much.
    pub expensive_batches: Counter<u64, AtomicU64>,
    /// Responses that were refused because they were larger than a message may be.
    pub oversized_responses: Counter<u64, AtomicU64>,
    /// Kills by people whose results are not stored yet.
    pub waiting_kill_results: Gauge<i64, AtomicI64>,
    /// Kills by people whose results are lost.
    pub lost_kill_results: Counter<u64, AtomicU64>,
    /// Computations for readers, batches, pages and checks of declarations that wait for their turn.
    pub waiting_queries: Gauge<i64, AtomicI64>,
    /// Those that were refused because too many waited.
    pub refused_queries: Counter<u64, AtomicU64>,
    /// Time that one of them waited for its turn.
    pub query_wait_seconds: Histogram,
    /// Results that were computed.
    pub computed_results: Counter<u64, AtomicU64>,
    /// Results that were answered from those computed for another reader.
    pub shared_results: Counter<u64, AtomicU64>,
    /// Exposures of `Assign` that wait to be written to the log.
    pub queued_exposures: Gauge<i64, AtomicI64>,
    /// Exposures that were dropped because the queue of `Assign` was full.
    pub unqueued_exposures: Counter<u64, AtomicU64>,
    /// Events acknowledged and not yet folded.
    pub backlog: Gauge<i64, AtomicI64>,
    /// The number of unfolded events at which new ones are refused.
    pub backlog_limit: Gauge<i64, AtomicI64>,
    /// Time since the oldest event that is acknowledged and not folded was received; 0 if all are folded.
    pub oldest_unfolded_seconds: Gauge<f64, AtomicU64>,
    /// Events that wait to be written to the log, or are being written.
    pub queued_events: Gauge<i64, AtomicI64>,
    /// The sequence number of the last event in the log.
    pub log_head: Gauge<i64, AtomicI64>,
    /// Events folded.
    pub folded_events: Counter<u64, AtomicU64>,
    /// Rows of the counts that the fold has read and written.
    pub fold_rows: Counter<u64, AtomicU64>,
    /// Events deleted from the log because of their age.
    pub pruned_events: Counter<u64, AtomicU64>,
    /// Duration of one step of the fold.
    pub fold_seconds: Histogram,
    /// Time until a batch of events was on disk.
    pub append_seconds: Histogram,
    /// Changes of experiments, kills too, that wait for their turn.
    pub waiting_changes: Gauge<i64, AtomicI64>,
    /// Time that a change of experiments waited for its turn.
    pub change_wait_seconds: Histogram,
    /// Time until a change of experiments was on disk.
    pub commit_seconds: Histogram,
    /// Time until a thread for blocking work was free.
    pub thread_wait_seconds: Histogram,
    /// How late the async workers were.
    pub worker_delay_seconds: Histogram,
    /// Time for which a call kept an async worker busy without a pause, where it is over a millisecond.
    pub worker_busy_seconds: Histogram,
    /// Connections open.
    pub connections: Gauge<i64, AtomicI64>,
    /// Connections refused because too many were open.
    pub refused_connections: Counter<u64, AtomicU64>,
    /// Bytes of requests that are not handled yet.
    pub request_bytes: Gauge<i64, AtomicI64>,
    /// Requests refused because too many bytes of requests were not handled yet.
    pub refused_requests: Counter<u64, AtomicU64>,
    /// Requests ended because they arrived too slowly.
    pub slow_requests: Counter<u64, AtomicU64>,
    /// The limit on open files, which also limits connections; 0 if there is none.
    pub open_files_limit: Gauge<i64, AtomicI64>,
    /// Size of all experiments in snapshots, in bytes. They are in memory once, for all streams.
    pub snapshot_bytes: Gauge<i64, AtomicI64>,
    /// Snapshot streams open.
    pub watchers: Gauge<i64, AtomicI64>,
    /// The most snapshot streams that may be open.
    pub watchers_limit: Gauge<i64, AtomicI64>,
    /// Memory of the process, in bytes; 0 where the system does not report it.
    pub resident_bytes: Gauge<i64, AtomicI64>,
    /// Connected clients that have an id.
    pub clients: Gauge<i64, AtomicI64>,
    /// Connected clients without an id.
    pub anonymous_clients: Gauge<i64, AtomicI64>,
    /// Connected clients and anonymous watchers that are behind.
    pub clients_behind: Gauge<i64, AtomicI64>,
    /// Exposures that connected clients have dropped.
    pub client_dropped_exposures: Gauge<i64, AtomicI64>,
    /// Outcomes that connected clients have dropped.
    pub client_dropped_outcomes: Gauge<i64, AtomicI64>,
    /// Events in the queues of connected clients.
    pub client_queued_events: Gauge<i64, AtomicI64>,
    /// Time from the publication of a version until a client had applied it.
    pub reach_seconds: Histogram,
    /// The version of the catalogue.
    pub version: Gauge<i64, AtomicI64>,
    /// Decisions of the policy.
    pub ticks: Counter<u64, AtomicU64>,
    /// Decisions that failed.
    pub failed_ticks: Counter<u64, AtomicU64>,
    /// Revisions that were published only after they took effect.
    pub late_revisions: Counter<u64, AtomicU64>,
    /// How far the machine's clock was set back, in seconds.
    pub clock_behind_seconds: Gauge<i64, AtomicI64>,
    /// How far the machine's clock is ahead of the server's time, in seconds, negative if it is behind; 0 unless it jumped
    /// and the new reading is not accepted.
    pub clock_offset_seconds: Gauge<i64, AtomicI64>,
    /// 1 while the disk is full or has no room for the reserve.
    pub disk_full: Gauge<i64, AtomicI64>,
    /// Free space on the disk of the data folder, in bytes.
    pub disk_free_bytes: Gauge<i64, AtomicI64>,
    /// The space that is kept for kills, in bytes.
    pub disk_reserve_bytes: Gauge<i64, AtomicI64>,
    /// How often the machine's clock jumped since the start.
    pub clock_jumps: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        Self::with_spans(&SpanCounters::default())
    }

    /// All metrics at zero, but for the numbers of spans.
    pub fn with_spans(spans: &SpanCounters) -> Self {
        let mut registry = Registry::with_prefix("inroad");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let (sent, lost) = (spans.sent.clone(), spans.lost.clone());
        registry.register("trace_spans_sent", "Spans that the collector of traces has", sent);
        registry.register("trace_spans_lost", "Spans that did not reach the collector of traces", lost);
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        Self {
            assignments: register!("assignments", "Assignments answered", Counter::default()),
            accepted_exposures: register!("exposures_accepted", "Exposures written to disk", Counter::default()),
            accepted_outcomes: register!("outcomes_accepted", "Outcomes written to disk", Counter::default()),
            uncounted_outcomes: register!(
                "outcomes_uncounted",
                "Outcomes written to disk that no experiment counts, such as misspelt events",
                Counter::default()
            ),
            refused_events: register!("events_refused", "Events refused, by reason", Family::default()),
            overloads: register!("overloads", "Recording calls answered with a retry delay", Counter::default()),
            expensive_batches: register!(
                "batches_too_expensive",
                "Batches of assignments refused because their audiences cost too much",
                Counter::default()
            ),
            oversized_responses: register!(
                "responses_oversized",
                "Responses refused because they were larger than a gRPC message may be",
                Counter::default()
            ),
            waiting_kill_results: register!(
                "kill_results_waiting",
                "Kills by people whose results are being computed, or wait to be stored",
                Gauge::default()
            ),
            lost_kill_results: register!(
                "kill_results_lost",
                "Kills by people whose results were not kept",
                Counter::default()
            ),
            waiting_queries: register!(
                "queries_waiting",
                "Results, funnels, batches, pages and checks of declarations that wait for their turn",
                Gauge::default()
            ),
            refused_queries: register!(
                "queries_refused",
                "Results, funnels, batches, pages and checks of declarations refused because too many waited",
                Counter::default()
            ),
            query_wait_seconds: register!(
                "query_wait_seconds",
                "Time that results, funnels, batches, pages and checks of declarations waited for their turn",
                seconds()
            ),
            computed_results: register!("results_computed", "Results of experiments computed", Counter::default()),
            shared_results: register!(
                "results_shared",
                "Results answered from those computed for another reader",
                Counter::default()
            ),
            queued_exposures: register!(
                "exposure_queue_events",
                "Exposures of Assign that wait to be written to the log",
                Gauge::default()
            ),
            unqueued_exposures: register!(
                "exposures_unqueued",
                "Exposures of Assign dropped because the queue was full",
                Counter::default()
            ),
            backlog: register!("backlog_events", "Events acknowledged and not yet folded", Gauge::default()),
            backlog_limit: register!(
                "backlog_limit_events",
                "Number of unfolded events at which new ones are refused",
                Gauge::default()
            ),
            oldest_unfolded_seconds: register!(
                "oldest_unfolded_event_seconds",
                "Time since the oldest event that is acknowledged and not folded was received, 0 if all are folded",
                Gauge::default()
            ),
            queued_events: register!(
                "log_queue_events",
                "Events that wait to be written to the log, or are being written",
                Gauge::default()
            ),
            log_head: register!("log_head", "Sequence number of the last event in the log", Gauge::default()),
            folded_events: register!("events_folded", "Events folded into the counts", Counter::default()),
            fold_rows: register!("fold_rows", "Rows of the counts read and written by the fold", Counter::default()),
            pruned_events: register!(
                "events_pruned",
                "Events deleted from the log because of their age",
                Counter::default()
            ),
            fold_seconds: register!("fold_step_seconds", "Duration of one step of the fold", seconds()),
            append_seconds: register!("append_seconds", "Time until a batch was on disk", seconds()),
            waiting_changes: register!(
                "changes_waiting",
                "Changes of experiments, kills too, that wait for their turn",
                Gauge::default()
            ),
            change_wait_seconds: register!(
                "change_wait_seconds",
                "Time that a change of experiments, such as a kill, waited for its turn",
                seconds()
            ),
            commit_seconds: register!(
                "commit_seconds",
                "Time until a change of experiments was on disk, without its wait for a turn",
                seconds()
            ),
            thread_wait_seconds: register!(
                "thread_wait_seconds",
                "Time until a thread for blocking work was free, measured once per second",
                seconds()
            ),
            worker_delay_seconds: register!(
                "worker_delay_seconds",
                "How late the async workers were, measured once per second",
                seconds()
            ),
            worker_busy_seconds: register!(
                "worker_busy_seconds",
                "Time for which a call kept an async worker busy without a pause, where it is over a millisecond",
                seconds()
            ),
            connections: register!("connections", "Connections open", Gauge::default()),
            refused_connections: register!(
                "connections_refused",
                "Connections refused because too many were open",
                Counter::default()
            ),
            request_bytes: register!(
                "request_bytes_in_flight",
                "Bytes of requests that are not handled yet",
                Gauge::default()
            ),
            refused_requests: register!(
                "request_bytes_refused",
                "Requests refused because too many bytes of requests were not handled yet",
                Counter::default()
            ),
            slow_requests: register!(
                "requests_too_slow",
                "Requests ended because they arrived too slowly",
                Counter::default()
            ),
            open_files_limit: register!(
                "open_files_limit",
                "Limit on open files, which also limits connections",
                Gauge::default()
            ),
            snapshot_bytes: register!("snapshot_bytes", "Size of all experiments in snapshots", Gauge::default()),
            watchers: register!("watchers", "Snapshot streams open", Gauge::default()),
            watchers_limit: register!("watchers_limit", "Most snapshot streams that may be open", Gauge::default()),
            resident_bytes: register!(
                "resident_memory_bytes",
                "Memory of the process, 0 where the system does not report it",
                Gauge::default()
            ),
            clients: register!("clients", "Connected clients with an id, which report their state", Gauge::default()),
            anonymous_clients: register!(
                "clients_anonymous",
                "Connected clients without an id, which report nothing and are not among inroad_clients",
                Gauge::default()
            ),
            clients_behind: register!(
                "clients_behind",
                "Clients without a version that was published over 2 s ago",
                Gauge::default()
            ),
            client_dropped_exposures: register!(
                "client_dropped_exposures",
                "Exposures that connected clients have dropped since they started",
                Gauge::default()
            ),
            client_dropped_outcomes: register!(
                "client_dropped_outcomes",
                "Outcomes that connected clients have dropped since they started",
                Gauge::default()
            ),
            client_queued_events: register!(
                "client_queued_events",
                "Events in the queues of connected clients, not acknowledged yet",
                Gauge::default()
            ),
            reach_seconds: register!(
                "reach_seconds",
                "Time from publication until a client had applied the version",
                seconds()
            ),
            version: register!("snapshot_version", "Version of the catalogue", Gauge::default()),
            ticks: register!("ticks", "Decisions of the policy", Counter::default()),
            failed_ticks: register!("ticks_failed", "Decisions of the policy that failed", Counter::default()),
            late_revisions: register!(
                "revisions_late",
                "Revisions that were published after they took effect",
                Counter::default()
            ),
            clock_behind_seconds: register!(
                "clock_behind_seconds",
                "Seconds by which the machine's clock was set back",
                Gauge::default()
            ),
            clock_offset_seconds: register!(
                "clock_offset_seconds",
                "Seconds by which the machine's clock is ahead of Inroad's time, if it jumped and is not accepted",
                Gauge::default()
            ),
            disk_full: register!(
                "disk_full",
                "1 while the disk is full: only kills, restores and pauses are stored",
                Gauge::default()
            ),
            disk_free_bytes: register!(
                "disk_free_bytes",
                "Free space on the disk of the data folder",
                Gauge::default()
            ),
            disk_reserve_bytes: register!(
                "disk_reserve_bytes",
                "Space on the disk that is kept for kills, restores and pauses",
                Gauge::default()
            ),
            clock_jumps: register!(
                "clock_jumps",
                "How often the machine's clock jumped since the start",
                Gauge::default()
            ),
            registry,
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail; if an encoder ever does, the text so far is served.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// Counts a refused event.
    pub fn count_refusal(&self, reason: &str) {
        self.refused_events.get_or_create(&RefusalLabel { reason: reason.to_owned() }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
