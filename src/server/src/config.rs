//! The server's settings, and every limit that it enforces.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::host_guard::HostName;
use crate::traces::TraceExport;

/// The most assignments in one batch.
pub const MAX_BATCH_ASSIGN: usize = 1_000;
/// The steps that the audiences and overrides of one call may take together, about a second. It is more than one
/// assignment can take, so only batches reach it.
pub const MAX_CALL_STEPS: u64 = 10_000_000;
/// The most events in one batch.
pub const MAX_BATCH_EVENTS: usize = 10_000;
/// The largest gRPC message that is accepted, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The largest gRPC message that is sent, in bytes: below the limit of 4 MiB that gRPC clients have by default.
pub const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// The size up to which a list or a part of a snapshot is filled, in bytes. A client handles one part in milliseconds,
/// and a kill waits for at most one part.
pub const MAX_PART_BYTES: usize = 1024 * 1024;
/// The size up to which small experiments of a snapshot are copied into one chunk for a stream, in bytes. Larger ones are
/// shared by all streams.
pub const SNAPSHOT_CHUNK_BYTES: usize = 16 * 1024;
/// The most bytes that are buffered for one stream whose client does not read, besides the chunk that did not fit.
pub const MAX_SEND_BUFFER_BYTES: usize = 32 * 1024;
/// The most connections that are open at once, if the operating system allows as many open files.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Open files that are left for the store when connections are limited by the number of open files.
pub const RESERVED_FILES: usize = 256;
/// The part of the drain timeout that is left for writing queued exposures and closing the store; at most half of it.
pub const TIME_TO_FINISH: Duration = Duration::from_secs(3);
/// The most calls in progress on one connection.
pub const MAX_CALLS_PER_CONNECTION: u32 = 1_024;
/// How long a connection may stay without a call. Its client opens another one for its next call.
pub const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long a new connection may stay without its first call.
pub const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes that requests may hold together, from their arrival until they are handled.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024 * 1024;
/// The most bytes that the requests of one IP address may hold.
pub const MAX_CALLER_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// The most bytes that the requests of one connection may hold.
pub const MAX_CONNECTION_REQUEST_BYTES: usize = 32 * 1024 * 1024;
/// The size up to which a complete request may use the last eighth of these limits, in bytes. A kill is much smaller.
pub const SMALL_REQUEST_BYTES: usize = 64 * 1024;
/// The time within which [`MIN_REQUEST_BYTES_PER_WINDOW`] of a request must arrive, or its end; of a message in a stream of
/// requests, any byte.
pub const REQUEST_WINDOW: Duration = Duration::from_secs(10);
/// The fewest bytes of an incomplete request that may arrive in [`REQUEST_WINDOW`]: 4 KiB per second.
pub const MIN_REQUEST_BYTES_PER_WINDOW: usize = 40 * 1024;
/// The largest declaration of one experiment, in bytes, both as a message and as JSON. An entry of the audit log has it
/// twice, and must fit into one message.
pub const MAX_EXPERIMENT_BYTES: usize = 1536 * 1024;
/// The size of all experiments in a snapshot, in bytes, that creating or updating one may not exceed.
pub const MAX_DECLARED_BYTES: usize = 60 * 1024 * 1024;
/// The most declarations in one call that applies many.
pub const MAX_APPLY_DECLARATIONS: usize = 10_000;
/// The most bytes of declarations in one call that applies many.
pub const MAX_APPLY_BYTES: usize = 64 * 1024 * 1024;
/// The largest evaluation context that the log keeps with an exposure, in bytes of JSON.
pub const MAX_EXPOSURE_CONTEXT_BYTES: usize = inroad_wire::exposure_context::MAX_EXPOSURE_CONTEXT_BYTES;
/// How far in the future an event's time may be.
pub const FUTURE_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// The most bytes of an event name, an event id or a unit type.
pub const MAX_NAME_BYTES: usize = 128;
/// The most units that one outcome may name.
pub const MAX_OUTCOME_UNITS: usize = 8;
/// The largest absolute value of an outcome.
pub const MAX_OUTCOME_VALUE: f64 = 1e9;
/// The most entries on a page of a list.
pub const MAX_PAGE: u32 = 1_000;
/// How often an idle snapshot stream gets a message, so that its client knows that the server is alive.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// The most versions in one client report.
pub const MAX_REPORTED_VERSIONS: usize = 64;
/// The number of versions per stream whose times of sending and application are remembered.
pub const MAX_STEPS_PER_STREAM: usize = 32;
/// The most kills by people whose results are not stored yet; further ones are made without results.
pub const MAX_WAITING_KILL_RESULTS: usize = 64;
/// The number of publications that are remembered.
pub const MAX_PUBLICATIONS: usize = 1_024;
/// A client that has not reported a published version as applied after this time counts as behind. Reports take about a
/// third of a second.
pub const BEHIND_AFTER: Duration = Duration::from_secs(2);

/// The settings of a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The address to listen on. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// Names under which browsers may open the pages, besides IP addresses and `localhost`.
    pub hosts: Vec<HostName>,
    /// The folder of the embedded store.
    pub folder: PathBuf,
    /// The lead time: how long before it takes effect a revision is published, so that connected clients switch
    /// together (I4).
    pub lead: Duration,
    /// The most snapshot streams open at once.
    pub max_streams: usize,
    /// The most events that may be acknowledged and not yet folded; at this limit new events are refused.
    pub max_backlog: u64,
    /// How long raw events are kept in the log once they are folded; none keeps them forever.
    pub retain_events: Option<Duration>,
    /// The most exposures of `Assign` calls that may wait to be written to the log.
    pub exposure_queue: usize,
    /// The longest that a unary call may take.
    pub request_timeout: Duration,
    /// The longest that a shutdown takes, with the calls in progress.
    pub drain_timeout: Duration,
    /// Sends traces to a collector; none records no spans. Its layer must be part of the process's subscriber.
    pub traces: Option<TraceExport>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            hosts: Vec::new(),
            folder: PathBuf::from("inroad-data"),
            lead: Duration::from_secs(2),
            max_streams: 10_000,
            max_backlog: 5_000_000,
            retain_events: None,
            exposure_queue: 100_000,
            request_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            traces: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::{definition, key};
    use inroad_dashboard::format::grouped_count;
    use inroad_store::SqliteOptions;

    /// A number of bytes as documents write it.
    fn bytes(number: usize) -> String {
        match number {
            n if n % (512 * 1024) == 0 && n >= 1024 * 1024 => format!("{} MiB", n as f64 / (1024.0 * 1024.0)),
            n if n % 1024 == 0 && n > 1024 => format!("{} KiB", n / 1024),
            n => format!("{} bytes", grouped_count(n as u64)),
        }
    }

    fn count(number: usize) -> String {
        if number >= 1_000_000 { format!("{} million", number / 1_000_000) } else { grouped_count(number as u64) }
    }

    #[test]
    fn documented_limits_are_those_of_the_code() {
        let (server, store) = (ServerConfig::default(), SqliteOptions::default());
        let rows = [
            ("acknowledged events that are not counted yet", count(server.max_backlog as usize)),
            ("events that wait to be written to the log", count(store.queued_events)),
            ("exposures of `Assign` that wait", count(server.exposure_queue)),
            ("computations for readers at once", format!("up to {} wait", crate::queries::MAX_WAITING_QUERIES)),
            ("computations for readers", format!("at most {} s", crate::queries::MAX_QUERY_WAIT.as_secs())),
            ("steps of audiences and overrides", count(MAX_CALL_STEPS as usize)),
            ("snapshot streams", count(server.max_streams)),
            ("connections |", count(MAX_CONNECTIONS)),
            ("connections |", format!("less {RESERVED_FILES}")),
            ("calls in progress on one connection", count(MAX_CALLS_PER_CONNECTION as usize)),
            ("bytes of requests that are not handled yet", bytes(MAX_REQUEST_BYTES)),
            ("bytes of requests", format!("{} for an IP address", bytes(MAX_CALLER_REQUEST_BYTES))),
            ("bytes of requests", format!("{} for a connection", bytes(MAX_CONNECTION_REQUEST_BYTES))),
            ("bytes of requests", format!("requests up to {}", bytes(SMALL_REQUEST_BYTES))),
            ("slowest arrival", format!("{} in 10 s", bytes(MIN_REQUEST_BYTES_PER_WINDOW))),
            ("bytes buffered for a stream", bytes(MAX_SEND_BUFFER_BYTES)),
            ("a connection without a call", format!("{} minutes", CONNECTION_IDLE_TIMEOUT.as_secs() / 60)),
            ("a connection without a call", format!("{} s before", FIRST_CALL_TIMEOUT.as_secs())),
            ("duration of a call", format!("{} s", server.request_timeout.as_secs())),
            ("waiting for complete counts", format!("{} s", crate::shared::MAX_FOLD_WAIT.as_secs())),
            ("kills whose results are not stored", count(MAX_WAITING_KILL_RESULTS)),
            ("shutdown", format!("{} s", server.drain_timeout.as_secs())),
            ("space on the disk that is kept", bytes(store.reserve_bytes as usize)),
            ("a gRPC message", bytes(MAX_MESSAGE_BYTES)),
            ("a gRPC message", format!("{} less", bytes(MAX_MESSAGE_BYTES - MAX_RESPONSE_BYTES))),
            ("a part of a snapshot or a list", bytes(MAX_PART_BYTES)),
            ("entries on a page of a list", count(MAX_PAGE as usize)),
            ("assignments in a batch", count(MAX_BATCH_ASSIGN)),
            ("events in a batch", count(MAX_BATCH_EVENTS)),
            ("declarations in one", count(MAX_APPLY_DECLARATIONS)),
            ("declarations in one", format!("together {}", bytes(MAX_APPLY_BYTES))),
            ("one experiment", bytes(MAX_EXPERIMENT_BYTES)),
            ("all experiments in a snapshot", bytes(MAX_DECLARED_BYTES)),
            ("the evaluation context that is kept", bytes(MAX_EXPOSURE_CONTEXT_BYTES)),
            ("variations beside control", count(inroad_assignment::Arm::MAX_TREATED)),
            ("buckets of an allocation", count(inroad_assignment::Allocation::MAX_BUCKETS)),
            ("metrics", count(definition::MAX_METRICS)),
            ("overrides", format!("{}; all", count(definition::MAX_OVERRIDES))),
            ("overrides", format!("together {}", count(definition::MAX_OVERRIDE_UNITS))),
            ("payload of a variation", bytes(definition::MAX_PAYLOAD_BYTES)),
            ("texts, such as", bytes(definition::MAX_TEXT_BYTES)),
            ("tags", count(definition::MAX_TAGS)),
            ("a unit key", bytes(key::UnitKey::MAX_BYTES)),
            ("a context", bytes(inroad_assignment::Context::MAX_BYTES)),
            ("a context", format!("{} values", inroad_wire::context::MAX_VALUES)),
            ("names of events and units", bytes(MAX_NAME_BYTES)),
            ("units of one outcome", count(MAX_OUTCOME_UNITS)),
            ("the time of an event", format!("{} minutes", FUTURE_TOLERANCE.as_secs() / 60)),
            ("recent events for the pages", count(crate::recent_events::MAX_RECENT_EVENTS)),
            ("recent contexts", count(crate::recent_contexts::MAX_RECENT_CONTEXTS)),
            ("remembered exposures", count(store.remembered_exposures)),
            ("publications", count(MAX_PUBLICATIONS)),
            ("page cache of SQLite", format!("{} MiB", store.cache_mib)),
        ];
        let document = include_str!("../../../docs/limits.md");
        for (start, limit) in rows {
            let line = document.lines().find(|line| line.starts_with(&format!("| {start}")));
            let line = line.unwrap_or_else(|| panic!("docs/limits.md has no row {start:?}"));
            assert!(line.contains(&limit), "docs/limits.md has another limit than {limit}: {line}");
        }
    }
}
