//! The newest events of the log, for the live feed and for exposure rates. They are read from the log on demand: while
//! no page asks for them, nothing is read.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::Timestamp;
use inroad_dashboard::format::RateBasis;
use inroad_store::{Event, LoggedEvent, Seq, Store, StoreError};
use tokio::sync::Mutex;

use crate::clock::WallClock;

/// The most events in memory.
pub const MAX_RECENT_EVENTS: usize = 5_000;
/// The most outcome names that a page offers; a longer list is no help.
const MAX_NAMES: usize = 200;
/// The period over which a rate is measured.
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Ring {
    last_seq: Seq,
    events: VecDeque<LoggedEvent>,
}

/// A cache of the newest [`MAX_RECENT_EVENTS`] events.
pub struct RecentEvents {
    store: Arc<dyn Store>,
    clock: Arc<WallClock>,
    /// Events older than this are dropped here as well as from the log; none if events are kept forever.
    retention: Option<Duration>,
    ring: Mutex<Ring>,
}

impl RecentEvents {
    /// An empty cache of the log of `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<WallClock>, retention: Option<Duration>) -> Self {
        Self { store, clock, retention, ring: Mutex::default() }
    }

    /// Calls `read` with the newest events, newest first.
    ///
    /// # Errors
    /// Those of reading the log.
    pub async fn read_newest<T>(
        &self,
        read: impl FnOnce(&mut dyn DoubleEndedIterator<Item = &LoggedEvent>) -> T,
    ) -> Result<T, StoreError> {
        let mut ring = self.ring.lock().await;
        let head = self.store.head();
        if ring.last_seq < head {
            let from = ring.last_seq.max(head.saturating_sub(MAX_RECENT_EVENTS as u64));
            let fresh = self.store.read_log(from, MAX_RECENT_EVENTS).await?;
            ring.last_seq = fresh.last().map_or(head, |event| event.seq);
            ring.events.extend(fresh);
            let excess = ring.events.len().saturating_sub(MAX_RECENT_EVENTS);
            ring.events.drain(..excess);
        }
        // The retention holds for this cache too.
        if let Some(retention) = self.retention {
            let oldest = self.clock.now().minus(retention);
            while ring.events.front().is_some_and(|event| event.received_at < oldest) {
                ring.events.pop_front();
            }
        }
        Ok(read(&mut ring.events.iter().rev()))
    }

    /// Empties the cache: a unit was forgotten, and its key may be in it.
    pub async fn clear(&self) {
        *self.ring.lock().await = Ring::default();
    }

    /// The distinct event names of the newest outcomes.
    ///
    /// # Errors
    /// Those of reading the log.
    pub async fn outcome_names(&self) -> Result<BTreeSet<String>, StoreError> {
        self.read_newest(|events| {
            let mut names = BTreeSet::new();
            for event in events {
                if let Event::Outcome(outcome) = &event.event
                    && names.len() < MAX_NAMES
                    && !names.contains(&outcome.event)
                {
                    names.insert(outcome.event.clone());
                }
            }
            names
        })
        .await
    }

    /// Events per minute of each kind `0..kinds`; `kind_of` returns an event's kind, or none to ignore it. Measured
    /// over the last minute, or over the part of it that the cache covers: then also returns the duration of this part.
    ///
    /// # Errors
    /// Those of reading the log.
    pub async fn rates_per_minute(
        &self,
        kind_of: impl Fn(&Event) -> Option<usize>,
        kinds: usize,
    ) -> Result<(Vec<f64>, RateBasis), StoreError> {
        let now = self.clock.now();
        self.read_newest(|events| {
            let (mut counts, mut seen, mut oldest) = (vec![0_u64; kinds], 0, now);
            for event in events.take_while(|event| now.since(event.received_at) < MINUTE) {
                seen += 1;
                oldest = event.received_at;
                if let Some(count) = kind_of(&event.event).and_then(|kind| counts.get_mut(kind)) {
                    *count += 1;
                }
            }
            let (span, basis) = if seen == MAX_RECENT_EVENTS {
                let span = now.since(oldest).max(Duration::from_millis(100));
                (span, RateBasis::NewestEvents { events: MAX_RECENT_EVENTS, span })
            } else {
                (MINUTE, RateBasis::LastMinute)
            };
            (counts.into_iter().map(|count| count as f64 * 60.0 / span.as_secs_f64()).collect(), basis)
        })
        .await
    }

    /// Whether an event was received in the last two minutes. While it is true, rates change even without new events.
    pub async fn has_recent_traffic(&self) -> bool {
        let now: Timestamp = self.clock.now();
        let has_traffic =
            self.read_newest(|events| events.next().is_some_and(|e| now.since(e.received_at) < 2 * MINUTE)).await;
        has_traffic.unwrap_or(false)
    }
}
