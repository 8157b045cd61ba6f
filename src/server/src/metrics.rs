//! What operators watch, in Prometheus' words.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Why an event or a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Why {
    /// UPPER_SNAKE.
    pub reason: String,
}

/// Every number the server counts.
pub struct Metrics {
    registry: Registry,
    /// Assignments answered, of all calls.
    pub assignments: Counter<u64, AtomicU64>,
    /// Exposures on disk.
    pub accepted_exposures: Counter<u64, AtomicU64>,
    /// Outcomes on disk.
    pub accepted_outcomes: Counter<u64, AtomicU64>,
    /// Events refused, by reason.
    pub refused_events: Family<Why, Counter<u64, AtomicU64>>,
    /// Calls that record, answered with "try again later".
    pub overloads: Counter<u64, AtomicU64>,
    /// Exposures that Assign had no room for.
    pub unqueued_exposures: Counter<u64, AtomicU64>,
    /// Events acknowledged and not yet folded.
    pub backlog: Gauge<i64, AtomicI64>,
    /// The last place in the log.
    pub log_head: Gauge<i64, AtomicI64>,
    /// Events folded.
    pub folded: Counter<u64, AtomicU64>,
    /// Events deleted from the log for their age.
    pub pruned: Counter<u64, AtomicU64>,
    /// How long one step of the fold took.
    pub fold_seconds: Histogram,
    /// How long a group took to get on disk.
    pub append_seconds: Histogram,
    /// Snapshot streams open.
    pub watchers: Gauge<i64, AtomicI64>,
    /// Clients with an id that watch.
    pub clients: Gauge<i64, AtomicI64>,
    /// Watchers, of any kind, that lack a version for longer than a report takes.
    pub clients_behind: Gauge<i64, AtomicI64>,
    /// Exposures that the clients connected now have lost.
    pub client_dropped_exposures: Gauge<i64, AtomicI64>,
    /// Outcomes that they have lost.
    pub client_dropped_outcomes: Gauge<i64, AtomicI64>,
    /// Events that they hold.
    pub client_queued_events: Gauge<i64, AtomicI64>,
    /// How long after its publication a client had a version.
    pub reach_seconds: Histogram,
    /// The version of the whole.
    pub version: Gauge<i64, AtomicI64>,
    /// Ticks decided.
    pub ticks: Counter<u64, AtomicU64>,
    /// Ticks that failed.
    pub failed_ticks: Counter<u64, AtomicU64>,
    /// Revisions that were on disk only after they took effect.
    pub late_revisions: Counter<u64, AtomicU64>,
    /// Seconds by which the machine's clock is behind what it was.
    pub clock_behind_seconds: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// All at nothing.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("inroad");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        Self {
            assignments: register!("assignments", "Assignments answered", Counter::default()),
            accepted_exposures: register!("exposures_accepted", "Exposures on disk", Counter::default()),
            accepted_outcomes: register!("outcomes_accepted", "Outcomes on disk", Counter::default()),
            refused_events: register!("events_refused", "Events refused, by reason", Family::default()),
            overloads: register!("overloads", "Calls that record, answered with a retry delay", Counter::default()),
            unqueued_exposures: register!("exposures_unqueued", "Exposures of Assign without room", Counter::default()),
            backlog: register!("backlog_events", "Events acknowledged and not yet folded", Gauge::default()),
            log_head: register!("log_head", "Last place in the log", Gauge::default()),
            folded: register!("events_folded", "Events folded into the counts", Counter::default()),
            pruned: register!("events_pruned", "Events deleted from the log for their age", Counter::default()),
            fold_seconds: register!("fold_step_seconds", "Time of one step of the fold", seconds()),
            append_seconds: register!("append_seconds", "Time until a batch was on disk", seconds()),
            watchers: register!("watchers", "Snapshot streams open", Gauge::default()),
            clients: register!("clients", "Clients that watch and report", Gauge::default()),
            clients_behind: register!("clients_behind", "Watchers without a version of over 2 s ago", Gauge::default()),
            client_dropped_exposures: register!(
                "client_dropped_exposures",
                "Exposures that the clients connected now have lost since they started",
                Gauge::default()
            ),
            client_dropped_outcomes: register!(
                "client_dropped_outcomes",
                "Outcomes that the clients connected now have lost since they started",
                Gauge::default()
            ),
            client_queued_events: register!(
                "client_queued_events",
                "Events that the clients connected now hold and nobody has acknowledged",
                Gauge::default()
            ),
            reach_seconds: register!("reach_seconds", "From publication until a client had the version", seconds()),
            version: register!("snapshot_version", "Version of the whole", Gauge::default()),
            ticks: register!("ticks", "Policy ticks decided", Counter::default()),
            failed_ticks: register!("ticks_failed", "Policy ticks that failed", Counter::default()),
            late_revisions: register!(
                "revisions_late",
                "Revisions that were published after they took effect",
                Counter::default()
            ),
            clock_behind_seconds: register!("clock_behind_seconds", "How far the clock was set back", Gauge::default()),
            registry,
        }
    }

    /// All of it as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail; if an encoder ever does, what it wrote so far is served.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// Counts a refused event.
    pub fn refuse(&self, reason: &str) {
        self.refused_events.get_or_create(&Why { reason: reason.to_owned() }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
