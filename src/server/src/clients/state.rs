//! What the server knows about connected clients: the state of each, the totals, and how far a version has spread.

use std::net::SocketAddr;
use std::time::Duration;

use inroad_assignment::Timestamp;

use crate::config::BEHIND_AFTER;

/// The current state of a connected client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    /// The number of the stream; rises with every stream that is opened.
    pub stream: u64,
    /// Empty for an anonymous watcher.
    pub client_id: String,
    /// A name for people, chosen by the client; may contain any characters.
    pub client_name: String,
    /// The SDK and its version, such as "rust/0.1.0"; may be empty.
    pub sdk: String,
    /// The address that it connects from.
    pub address: Option<SocketAddr>,
    /// When its stream was opened.
    pub connected_at: Timestamp,
    /// The newest version sent to it; 0 before the first.
    pub sent_version: u64,
    /// When that version was sent.
    pub sent_at: Option<Timestamp>,
    /// The newest version that it reported as applied.
    pub applied_version: Option<u64>,
    /// When it applied that version.
    pub applied_at: Option<Timestamp>,
    /// The time from the publication of that version until it was applied; none for a version published before the
    /// client connected.
    pub lag: Option<Duration>,
    /// The number of published versions that it is not known to have: by its reports, or for an anonymous watcher by
    /// what it was sent.
    pub versions_behind: u64,
    /// How long ago the oldest of those versions was published; zero if there is none.
    pub behind_for: Duration,
    /// When it last reported.
    pub reported_at: Option<Timestamp>,
    /// Exposures that it dropped because its queue was full.
    pub dropped_exposures: u64,
    /// Outcomes that it dropped because its queue was full.
    pub dropped_outcomes: u64,
    /// Events in its queue that the server has not acknowledged.
    pub queued_events: u64,
}

impl ClientState {
    /// Whether it has lacked a version for longer than a report takes.
    pub fn is_behind(&self) -> bool {
        self.behind_for >= BEHIND_AFTER
    }
}

/// Quantiles of many delays, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayQuantiles {
    /// The number of delays.
    pub count: usize,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl DelayQuantiles {
    /// The quantiles of these delays; none if there are no delays.
    pub(super) fn from_delays(mut delays: Vec<Duration>) -> Option<Self> {
        delays.sort_unstable();
        let rank = |q: usize| delays.get((delays.len() * q).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { count: delays.len(), p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
    }
}

/// How far a version has spread among the clients connected now, and how long that took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionReach {
    /// The version.
    pub version: u64,
    /// When it was published; none for a version that is no longer remembered.
    pub published_at: Option<Timestamp>,
    /// The experiment that it changed; empty for a version that is no longer remembered.
    pub experiment: String,
    /// The kind of change ("kill", "restore", "grow"…); empty for a version that is no longer remembered.
    pub action: String,
    /// Connected clients that have an id.
    pub connected: usize,
    /// Those of them that reported this version or a later one as applied.
    pub applied: usize,
    /// Those of them that did not.
    pub not_yet: usize,
    /// Streams without a client id.
    pub anonymous: usize,
    /// Streams of either kind that this version or a later one was sent to.
    pub sent: usize,
    /// From publication to application, for clients that were connected at publication.
    pub to_applied: Option<DelayQuantiles>,
    /// From publication to sending, for streams that were open at publication.
    pub to_sent: Option<DelayQuantiles>,
}

/// Sums over all clients, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTotals {
    /// Clients with an id.
    pub connected: usize,
    /// Clients without an id.
    pub anonymous: usize,
    /// Clients and anonymous watchers that are behind.
    pub behind: usize,
    /// Exposures that connected clients dropped.
    pub dropped_exposures: u64,
    /// Outcomes that connected clients dropped.
    pub dropped_outcomes: u64,
    /// Events in the queues of connected clients.
    pub queued_events: u64,
}
