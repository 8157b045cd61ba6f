//! How a server is set up, and every limit that it holds callers to, each with its number.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The most assignments in one batch.
pub const MAX_BATCH_ASSIGN: usize = 1_000;
/// The most events in one batch.
pub const MAX_BATCH_EVENTS: usize = 10_000;
/// The largest gRPC message taken, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The largest snapshot message that a watcher is sent, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 64 * 1024 * 1024;
/// What all experiments together may come to in it when one is created or updated: what changes by itself, such as
/// boundaries, has the rest.
pub const MAX_DECLARED_BYTES: usize = 60 * 1024 * 1024;
/// The most of a context that an exposure keeps, as bytes of JSON.
pub const MAX_EXPOSURE_CONTEXT_BYTES: usize = inroad_wire::kept::KEPT_CONTEXT_BYTES;
/// How far in the future an event may claim to have happened.
pub const FUTURE_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// The most bytes of an event name, an event id or a unit type.
pub const MAX_NAME_BYTES: usize = 128;
/// The most units that one outcome may name.
pub const MAX_OUTCOME_UNITS: usize = 8;
/// The largest outcome value, either way.
pub const MAX_OUTCOME_VALUE: f64 = 1e9;
/// The most entries of a page.
pub const MAX_PAGE: u32 = 1_000;
/// How often an idle watcher is told that the server is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// The most versions that one report of a client may tell of.
pub const MAX_REPORTED_VERSIONS: usize = 64;
/// Of how many versions it is remembered, for each client, when it was sent them and had them.
pub const REMEMBERED_STEPS: usize = 32;
/// Of how many versions it is remembered when they were published, and by what change.
pub const REMEMBERED_PUBLICATIONS: usize = 1_024;
/// A client that does not say for so long that it has a version counts as behind; reports take a third of a second.
pub const BEHIND_AFTER: Duration = Duration::from_secs(2);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder of the embedded store.
    pub folder: PathBuf,
    /// How long before it takes effect a revision is published, so that connected clients flip together (I4).
    pub lead: Duration,
    /// How many snapshot streams may be open at once.
    pub max_streams: usize,
    /// How many events may be acknowledged and not yet folded before new ones are refused.
    pub max_backlog: u64,
    /// How long raw events are kept in the log once they are counted; for ever if there is none.
    pub retain_events: Option<Duration>,
    /// How many exposures of Assign may wait for the log.
    pub exposure_queue: usize,
    /// The longest that a unary call may take.
    pub request_timeout: Duration,
    /// How long a shutdown waits for calls under way.
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            folder: PathBuf::from("inroad-data"),
            lead: Duration::from_secs(2),
            max_streams: 10_000,
            max_backlog: 5_000_000,
            retain_events: None,
            exposure_queue: 100_000,
            request_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
