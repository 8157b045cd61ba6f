//! The registry of connected clients: every open snapshot stream, what was sent to it and when, and what its client
//! reports. After a kill, an operator reads here when each connected client had it.
//!
//! The memory is bounded by the limit on streams and by the few versions remembered per stream. Sending a message takes
//! the stream's own lock, which only readers of the list contend for.

mod progress;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use inroad_assignment::Timestamp;

use crate::clock::WallClock;
use crate::publications::Publications;
use progress::StreamProgress;
pub use state::{ClientState, ClientTotals, DelayQuantiles, VersionReach};

/// How a client identifies itself when it opens a stream.
#[derive(Debug, Clone, Default)]
pub struct ClientIdentity {
    /// Drawn at random by the client; empty for an anonymous watcher.
    pub client_id: String,
    /// A name for people.
    pub client_name: String,
    /// The SDK and its version, such as "rust/0.1.0".
    pub sdk: String,
    /// The address that it connects from.
    pub address: Option<SocketAddr>,
}

/// A client's report of its state. Counts are since the client started.
#[derive(Debug, Clone, Default)]
pub struct ClientReport {
    /// Versions that it has applied and when, oldest first.
    pub applied: Vec<(u64, Timestamp)>,
    /// Exposures dropped because its queue was full.
    pub dropped_exposures: u64,
    /// Outcomes dropped because its queue was full.
    pub dropped_outcomes: u64,
    /// Events not acknowledged yet.
    pub queued_events: u64,
}

#[derive(Debug)]
struct OpenStream {
    identity: ClientIdentity,
    number: u64,
    connected_at: Timestamp,
    progress: Mutex<StreamProgress>,
}

#[derive(Debug, Default)]
struct StreamRegistry {
    streams: BTreeMap<u64, Arc<OpenStream>>,
    /// The newest stream of each client with an id. An older one is a broken connection that was not noticed yet.
    newest: HashMap<String, u64, FixedState>,
    last_number: u64,
}

impl StreamRegistry {
    fn is_current(&self, stream: &OpenStream) -> bool {
        let id = &stream.identity.client_id;
        id.is_empty() || self.newest.get(id) == Some(&stream.number)
    }
}

/// All connected clients.
#[derive(Debug)]
pub struct Clients {
    clock: Arc<WallClock>,
    publications: Arc<Publications>,
    registry: Mutex<StreamRegistry>,
}

/// Locks even if a holder panicked: every step under these locks is applied as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// An empty registry.
    pub fn new(clock: Arc<WallClock>, publications: Arc<Publications>) -> Self {
        Self { clock, publications, registry: Mutex::default() }
    }

    /// Registers a stream. It is listed until the handle is dropped.
    pub fn open_stream(self: &Arc<Self>, identity: ClientIdentity) -> StreamHandle {
        let connected_at = self.clock.now();
        let mut registry = lock(&self.registry);
        registry.last_number += 1;
        let number = registry.last_number;
        if !identity.client_id.is_empty() {
            registry.newest.insert(identity.client_id.clone(), number);
        }
        let stream = Arc::new(OpenStream { identity, number, connected_at, progress: Mutex::default() });
        registry.streams.insert(number, Arc::clone(&stream));
        drop(registry);
        StreamHandle { clients: Arc::clone(self), stream }
    }

    /// Records a client's report. Returns a delay for each version that is reported for the first time: from its
    /// publication until the client had it. None if no stream is open under this client id.
    pub fn record_report(&self, client_id: &str, report: &ClientReport) -> Option<Vec<Duration>> {
        let stream = {
            let registry = lock(&self.registry);
            registry.newest.get(client_id).and_then(|number| registry.streams.get(number)).map(Arc::clone)?
        };
        let now = self.clock.now();
        let mut fresh = Vec::new();
        {
            let mut progress = lock(&stream.progress);
            for (version, at) in &report.applied {
                progress.record_applied(*version, *at, now, &mut fresh);
            }
            progress.reported_at = Some(now);
            progress.dropped_exposures = report.dropped_exposures;
            progress.dropped_outcomes = report.dropped_outcomes;
            progress.queued_events = report.queued_events;
        }
        let published = self.publications.times(fresh.iter().map(|(version, _)| *version));
        let delay = |((_, at), published): (&(u64, Timestamp), Option<Timestamp>)| {
            published.filter(|published| stream.connected_at <= *published).map(|published| at.since(published))
        };
        Some(fresh.iter().zip(published).filter_map(delay).collect())
    }

    /// All connected clients, in the order in which they connected.
    pub fn list(&self) -> Vec<ClientState> {
        self.list_after(0, usize::MAX).0
    }

    /// At most `limit` clients whose stream number is above `after`, and the number of connected clients in all.
    pub fn list_after(&self, after: u64, limit: usize) -> (Vec<ClientState>, usize) {
        let mut streams = self.current_streams();
        let total = streams.len();
        streams.retain(|stream| stream.number > after);
        streams.truncate(limit);
        let now = self.clock.now();
        let published = self.publications.all_times();
        (streams.iter().map(|stream| stream.state(&published, now)).collect(), total)
    }

    /// How far a version has spread among the connected clients, and how long that took.
    pub fn version_reach(&self, version: u64) -> VersionReach {
        let publication = self.publications.get(version);
        let published_at = publication.as_ref().map(|p| p.at);
        let (experiment, action) = publication.map(|p| (p.experiment, p.action)).unwrap_or_default();
        let (mut connected, mut applied, mut anonymous, mut sent) = (0, 0, 0, 0);
        let (mut to_applied, mut to_sent) = (Vec::new(), Vec::new());
        for stream in self.current_streams() {
            let progress = lock(&stream.progress);
            if stream.identity.client_id.is_empty() {
                anonymous += 1;
            } else {
                connected += 1;
                applied += usize::from(progress.applied.is_some_and(|(has, _)| has >= version));
            }
            sent += usize::from(progress.sent_version() >= version);
            // A client that connected later got the version with its first snapshot, and for a version whose step was
            // dropped the time is unknown: neither has a delay.
            let Some(published_at) = published_at.filter(|at| stream.connected_at <= *at) else { continue };
            if progress.newest_dropped >= version {
                continue;
            }
            let mut steps = progress.steps.iter().filter(|step| step.version >= version).peekable();
            to_sent.extend(steps.peek().map(|step| step.sent_at.since(published_at)));
            to_applied.extend(steps.find_map(|step| step.applied_at).map(|at| at.since(published_at)));
        }
        let not_yet = connected - applied;
        let (to_applied, to_sent) = (DelayQuantiles::from_delays(to_applied), DelayQuantiles::from_delays(to_sent));
        VersionReach {
            version,
            published_at,
            experiment,
            action,
            connected,
            applied,
            not_yet,
            anonymous,
            sent,
            to_applied,
            to_sent,
        }
    }

    /// Sums over all connected clients.
    pub fn totals(&self) -> ClientTotals {
        let mut totals = ClientTotals::default();
        for client in self.list() {
            totals.connected += usize::from(!client.client_id.is_empty());
            totals.anonymous += usize::from(client.client_id.is_empty());
            totals.behind += usize::from(client.is_behind());
            totals.dropped_exposures = totals.dropped_exposures.saturating_add(client.dropped_exposures);
            totals.dropped_outcomes = totals.dropped_outcomes.saturating_add(client.dropped_outcomes);
            totals.queued_events = totals.queued_events.saturating_add(client.queued_events);
        }
        totals
    }

    /// One stream per client with an id, and all anonymous streams.
    fn current_streams(&self) -> Vec<Arc<OpenStream>> {
        let registry = lock(&self.registry);
        registry.streams.values().filter(|stream| registry.is_current(stream)).map(Arc::clone).collect()
    }
}

impl OpenStream {
    /// The client's state, given the published versions and their times in ascending order.
    fn state(&self, published: &[(u64, Timestamp)], now: Timestamp) -> ClientState {
        let progress = lock(&self.progress);
        let applied_version = progress.applied.map(|(version, _)| version);
        let has = match self.identity.client_id.is_empty() {
            true => progress.sent_version(),
            false => applied_version.unwrap_or(0),
        };
        let missing = published.get(published.partition_point(|(version, _)| *version <= has)..).unwrap_or_default();
        // For a version published before the client connected, the delay starts at its connection.
        let oldest = missing.first().map(|(_, at)| (*at).max(self.connected_at));
        let lag = progress.applied.and_then(|(version, at)| {
            let index = published.binary_search_by_key(&version, |(version, _)| *version).ok()?;
            let (_, published_at) = published.get(index)?;
            (self.connected_at <= *published_at).then(|| at.since(*published_at))
        });
        ClientState {
            stream: self.number,
            client_id: self.identity.client_id.clone(),
            client_name: self.identity.client_name.clone(),
            sdk: self.identity.sdk.clone(),
            address: self.identity.address,
            connected_at: self.connected_at,
            sent_version: progress.sent_version(),
            sent_at: progress.steps.back().map(|step| step.sent_at),
            applied_version,
            applied_at: progress.applied.map(|(_, at)| at),
            lag,
            versions_behind: missing.len() as u64,
            behind_for: oldest.map_or(Duration::ZERO, |at| now.since(at)),
            reported_at: progress.reported_at,
            dropped_exposures: progress.dropped_exposures,
            dropped_outcomes: progress.dropped_outcomes,
            queued_events: progress.queued_events,
        }
    }
}

/// Keeps a stream registered; dropping it removes the stream.
#[derive(Debug)]
pub struct StreamHandle {
    clients: Arc<Clients>,
    stream: Arc<OpenStream>,
}

impl StreamHandle {
    /// Records that a version was sent.
    pub fn record_sent(&self, version: u64, at: Timestamp) {
        lock(&self.stream.progress).record_sent(version, at);
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let mut registry = lock(&self.clients.registry);
        registry.streams.remove(&self.stream.number);
        if registry.newest.get(&self.stream.identity.client_id) == Some(&self.stream.number) {
            registry.newest.remove(&self.stream.identity.client_id);
        }
    }
}

#[cfg(test)]
mod tests;
