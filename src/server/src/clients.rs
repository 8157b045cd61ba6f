//! Who watches: every open stream of snapshots, what was handed to it and when, and what its client says of itself. An
//! operator who kills a variation reads here when connected clients really had it.
//!
//! Bounded by the limit on streams; each remembers its last few versions. A message sent takes one lock that nobody
//! else wants but whoever reads the list.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use inroad_assignment::Timestamp;

use crate::clock::WallClock;
use crate::config::{BEHIND_AFTER, REMEMBERED_STEPS};
use crate::publications::Publications;

/// Who opens a stream.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// Drawn at random by the client; empty for an anonymous watcher.
    pub client_id: String,
    /// For people to see.
    pub client_name: String,
    /// Such as "rust/0.1.0".
    pub sdk: String,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
}

/// What a client says of itself; counts are since it started.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Versions it has applied, oldest first, each with the instant.
    pub applied: Vec<(u64, Timestamp)>,
    /// Exposures lost for want of room.
    pub dropped_exposures: u64,
    /// Outcomes lost for want of room.
    pub dropped_outcomes: u64,
    /// Events not acknowledged yet.
    pub queued_events: u64,
}

/// A connected client, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    /// Names the stream; rises with every stream that is opened.
    pub stream: u64,
    /// Empty for an anonymous watcher.
    pub client_id: String,
    /// For people to see; what the client chose, with whatever characters it chose.
    pub client_name: String,
    /// Such as "rust/0.1.0"; may be empty.
    pub sdk: String,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
    /// When its stream was opened.
    pub connected_at: Timestamp,
    /// The newest version handed to its stream; 0 before the first.
    pub sent_version: u64,
    /// When that was.
    pub sent_at: Option<Timestamp>,
    /// The newest version that it says it has.
    pub applied_version: Option<u64>,
    /// Since when it has.
    pub applied_at: Option<Timestamp>,
    /// How long after its publication it had it; none for what was published before it connected.
    pub lag: Option<Duration>,
    /// How many versions it is not known to have: by its reports, or for an anonymous watcher by what it was sent.
    pub versions_behind: u64,
    /// For how long the oldest of these has been published; zero if there is none.
    pub behind_for: Duration,
    /// When it reported last.
    pub reported_at: Option<Timestamp>,
    /// Exposures that it lost for want of room.
    pub dropped_exposures: u64,
    /// Outcomes that it lost for want of room.
    pub dropped_outcomes: u64,
    /// Events that it holds and the server has not acknowledged.
    pub queued_events: u64,
}

impl ClientState {
    /// Whether it lacks something for longer than a report takes.
    pub fn is_behind(&self) -> bool {
        self.behind_for >= BEHIND_AFTER
    }
}

/// How long something took for each of many, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// For how many it is known.
    pub count: usize,
    /// For half of them, at most.
    pub p50: Duration,
    /// For 99 of 100.
    pub p99: Duration,
    /// For all.
    pub max: Duration,
}

impl Delays {
    fn of(mut all: Vec<Duration>) -> Option<Self> {
        all.sort_unstable();
        let rank = |q: usize| all.get((all.len() * q).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { count: all.len(), p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
    }
}

/// Who of the clients connected now has a version, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Which version.
    pub version: u64,
    /// When it was published, if that is remembered.
    pub published_at: Option<Timestamp>,
    /// The experiment that it changed; empty if that is not remembered.
    pub experiment: String,
    /// How it was changed ("kill", "restore", "grow"…); empty if that is not remembered.
    pub action: String,
    /// Clients with an id.
    pub connected: usize,
    /// Those that say that they have it, or a later one.
    pub applied: usize,
    /// The others.
    pub not_yet: usize,
    /// Streams without an id.
    pub anonymous: usize,
    /// Streams, of either kind, that it was handed to.
    pub sent: usize,
    /// From its publication until clients that were connected then had applied it.
    pub to_applied: Option<Delays>,
    /// From its publication until it was handed to the streams that were open then.
    pub to_sent: Option<Delays>,
}

/// All of them added up, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Clients with an id.
    pub connected: usize,
    /// Those that are behind, of either kind.
    pub behind: usize,
    /// Exposures that connected clients have lost.
    pub dropped_exposures: u64,
    /// Outcomes that they have lost.
    pub dropped_outcomes: u64,
    /// Events that they hold.
    pub queued_events: u64,
}

/// A version at one client.
#[derive(Debug, Clone, Copy)]
struct Step {
    version: u64,
    sent_at: Timestamp,
    applied_at: Option<Timestamp>,
}

/// What changes while a stream is open.
#[derive(Debug, Default)]
struct Progress {
    /// The last that were sent, oldest first.
    steps: VecDeque<Step>,
    /// The newest version that was too old to be kept.
    forgotten: u64,
    applied: Option<(u64, Timestamp)>,
    reported_at: Option<Timestamp>,
    dropped_exposures: u64,
    dropped_outcomes: u64,
    queued_events: u64,
}

#[derive(Debug)]
struct Stream {
    who: Who,
    number: u64,
    connected_at: Timestamp,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Open {
    streams: BTreeMap<u64, Arc<Stream>>,
    /// The newest stream of each client that has an id: an older one is a broken connection that nobody has noticed.
    newest: HashMap<String, u64, FixedState>,
    last: u64,
}

impl Open {
    fn is_current(&self, stream: &Stream) -> bool {
        stream.who.client_id.is_empty() || self.newest.get(&stream.who.client_id) == Some(&stream.number)
    }
}

/// Every client that is connected.
#[derive(Debug)]
pub struct Clients {
    clock: Arc<WallClock>,
    publications: Arc<Publications>,
    open: Mutex<Open>,
}

/// Every step under these locks is whole or has not happened: a panic elsewhere has spoilt nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// Nobody yet.
    pub fn new(clock: Arc<WallClock>, publications: Arc<Publications>) -> Self {
        Self { clock, publications, open: Mutex::default() }
    }

    /// A stream is opened; it is listed as long as what this returns is kept.
    pub fn open(self: &Arc<Self>, who: Who) -> ClientStream {
        let connected_at = self.clock.now();
        let mut open = lock(&self.open);
        open.last += 1;
        let number = open.last;
        if !who.client_id.is_empty() {
            open.newest.insert(who.client_id.clone(), number);
        }
        let stream = Arc::new(Stream { who, number, connected_at, progress: Mutex::default() });
        open.streams.insert(number, Arc::clone(&stream));
        drop(open);
        ClientStream { clients: Arc::clone(self), stream }
    }

    /// What a client says of itself. Returns the delays that are new by it: from the publication of each version that
    /// it tells of until it had it. None if no stream is open under this id.
    pub fn report(&self, client_id: &str, said: &Said) -> Option<Vec<Duration>> {
        let stream = {
            let open = lock(&self.open);
            open.newest.get(client_id).and_then(|number| open.streams.get(number)).map(Arc::clone)?
        };
        let now = self.clock.now();
        let mut fresh = Vec::new();
        {
            let mut progress = lock(&stream.progress);
            said.applied.iter().for_each(|(version, at)| progress.apply(*version, *at, now, &mut fresh));
            progress.reported_at = Some(now);
            progress.dropped_exposures = said.dropped_exposures;
            progress.dropped_outcomes = said.dropped_outcomes;
            progress.queued_events = said.queued_events;
        }
        let published = self.publications.times(fresh.iter().map(|(version, _)| *version));
        let delay = |((_, at), published): (&(u64, Timestamp), Option<Timestamp>)| {
            published.filter(|published| stream.connected_at <= *published).map(|published| at.since(published))
        };
        Some(fresh.iter().zip(published).filter_map(delay).collect())
    }

    /// Everybody who is connected, in the order in which they connected.
    pub fn list(&self) -> Vec<ClientState> {
        self.list_after(0, usize::MAX).0
    }

    /// At most `limit` of those whose stream has a number over `after`, and how many are connected in all.
    pub fn list_after(&self, after: u64, limit: usize) -> (Vec<ClientState>, usize) {
        let mut streams = self.streams();
        let total = streams.len();
        streams.retain(|stream| stream.number > after);
        streams.truncate(limit);
        let now = self.clock.now();
        let published = self.publications.all_times();
        (streams.iter().map(|stream| stream.state(&published, now)).collect(), total)
    }

    /// Who has a version, and how long it took them.
    pub fn reached(&self, version: u64) -> Reach {
        let publication = self.publications.get(version);
        let published_at = publication.as_ref().map(|p| p.at);
        let (experiment, action) = publication.map(|p| (p.experiment, p.action)).unwrap_or_default();
        let (mut connected, mut applied, mut anonymous, mut sent) = (0, 0, 0, 0);
        let (mut to_applied, mut to_sent) = (Vec::new(), Vec::new());
        for stream in self.streams() {
            let progress = lock(&stream.progress);
            if stream.who.client_id.is_empty() {
                anonymous += 1;
            } else {
                connected += 1;
                applied += usize::from(progress.applied.is_some_and(|(has, _)| has >= version));
            }
            sent += usize::from(progress.sent_version() >= version);
            // Who connected later got it with everything else, and who has forgotten when it was would say too much.
            let Some(published_at) = published_at.filter(|at| stream.connected_at <= *at) else { continue };
            if progress.forgotten >= version {
                continue;
            }
            let mut steps = progress.steps.iter().filter(|step| step.version >= version).peekable();
            to_sent.extend(steps.peek().map(|step| step.sent_at.since(published_at)));
            to_applied.extend(steps.find_map(|step| step.applied_at).map(|at| at.since(published_at)));
        }
        let not_yet = connected - applied;
        let (to_applied, to_sent) = (Delays::of(to_applied), Delays::of(to_sent));
        Reach {
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

    /// All of them added up.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for client in self.list() {
            summary.connected += usize::from(!client.client_id.is_empty());
            summary.behind += usize::from(client.is_behind());
            summary.dropped_exposures = summary.dropped_exposures.saturating_add(client.dropped_exposures);
            summary.dropped_outcomes = summary.dropped_outcomes.saturating_add(client.dropped_outcomes);
            summary.queued_events = summary.queued_events.saturating_add(client.queued_events);
        }
        summary
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        let open = lock(&self.open);
        open.streams.values().filter(|stream| open.is_current(stream)).map(Arc::clone).collect()
    }
}

impl Progress {
    fn sent_version(&self) -> u64 {
        self.steps.back().map_or(0, |step| step.version)
    }

    fn send(&mut self, version: u64, sent_at: Timestamp) {
        // Heartbeats bring nothing.
        if version <= self.sent_version() {
            return;
        }
        if self.steps.len() >= REMEMBERED_STEPS
            && let Some(oldest) = self.steps.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.steps.push_back(Step { version, sent_at, applied_at: None });
    }

    /// A client says that it has a version since `at`. What it was not sent is not believed: it may be of a store that
    /// was since put back to an older copy. New steps are added to `fresh`.
    fn apply(&mut self, version: u64, at: Timestamp, now: Timestamp, fresh: &mut Vec<(u64, Timestamp)>) {
        if version > self.sent_version() {
            return;
        }
        let mut at = at.min(now);
        if let Ok(place) = self.steps.binary_search_by_key(&version, |step| step.version)
            && let Some(step) = self.steps.get_mut(place)
        {
            // Its idea of our clock may be off, but nothing is applied before it was sent.
            at = at.max(step.sent_at);
            if step.applied_at.is_some() {
                return;
            }
            step.applied_at = Some(at);
            fresh.push((version, at));
        }
        if self.applied.is_none_or(|(has, _)| version > has) {
            self.applied = Some((version, at));
        }
    }
}

impl Stream {
    fn state(&self, published: &[(u64, Timestamp)], now: Timestamp) -> ClientState {
        let progress = lock(&self.progress);
        let applied_version = progress.applied.map(|(version, _)| version);
        let has = match self.who.client_id.is_empty() {
            true => progress.sent_version(),
            false => applied_version.unwrap_or(0),
        };
        let lacks = published.get(published.partition_point(|(version, _)| *version <= has)..).unwrap_or_default();
        // Whoever has nothing yet lacks what was published long ago only since it is there.
        let oldest = lacks.first().map(|(_, at)| (*at).max(self.connected_at));
        let lag = progress.applied.and_then(|(version, at)| {
            let place = published.binary_search_by_key(&version, |(version, _)| *version).ok()?;
            let (_, published_at) = published.get(place)?;
            (self.connected_at <= *published_at).then(|| at.since(*published_at))
        });
        ClientState {
            stream: self.number,
            client_id: self.who.client_id.clone(),
            client_name: self.who.client_name.clone(),
            sdk: self.who.sdk.clone(),
            address: self.who.address,
            connected_at: self.connected_at,
            sent_version: progress.sent_version(),
            sent_at: progress.steps.back().map(|step| step.sent_at),
            applied_version,
            applied_at: progress.applied.map(|(_, at)| at),
            lag,
            versions_behind: lacks.len() as u64,
            behind_for: oldest.map_or(Duration::ZERO, |at| now.since(at)),
            reported_at: progress.reported_at,
            dropped_exposures: progress.dropped_exposures,
            dropped_outcomes: progress.dropped_outcomes,
            queued_events: progress.queued_events,
        }
    }
}

/// An open stream's place in the list.
#[derive(Debug)]
pub struct ClientStream {
    clients: Arc<Clients>,
    stream: Arc<Stream>,
}

impl ClientStream {
    /// A version is handed to the stream.
    pub fn sent(&self, version: u64, at: Timestamp) {
        lock(&self.stream.progress).send(version, at);
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let mut open = lock(&self.clients.open);
        open.streams.remove(&self.stream.number);
        if open.newest.get(&self.stream.who.client_id) == Some(&self.stream.number) {
            open.newest.remove(&self.stream.who.client_id);
        }
    }
}

#[cfg(test)]
mod tests;
