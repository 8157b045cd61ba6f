//! The newest events of the log, read on demand: for the live feed, and for how fast exposures come.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use inroad_assignment::Timestamp;
use inroad_store::{Event, LoggedEvent, Seq, StoreError};
use tokio::sync::Mutex;

use crate::services::Shared;

/// The most events that are kept and looked through.
pub const KEPT: usize = 5_000;
/// The most names of events that are offered: more are none to choose from.
const NAMES: usize = 200;
/// Over how long a rate is taken.
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Ring {
    last: Seq,
    events: VecDeque<LoggedEvent>,
}

/// The newest events. Nobody looks: nothing is read.
#[derive(Default)]
pub struct Recent {
    ring: Mutex<Ring>,
}

impl Recent {
    /// Looks through the newest events, newest first.
    pub async fn with<T>(
        &self,
        shared: &Shared,
        look: impl FnOnce(&mut dyn DoubleEndedIterator<Item = &LoggedEvent>) -> T,
    ) -> Result<T, StoreError> {
        let mut ring = self.ring.lock().await;
        let head = shared.store.head();
        if ring.last < head {
            let from = ring.last.max(head.saturating_sub(KEPT as u64));
            let fresh = shared.store.read_log(from, KEPT).await?;
            ring.last = fresh.last().map_or(head, |event| event.seq);
            ring.events.extend(fresh);
            let over = ring.events.len().saturating_sub(KEPT);
            ring.events.drain(..over);
        }
        // What is too old for the log is not to live on here.
        if let Some(keep) = shared.config.retain_events {
            let oldest = shared.clock.now().minus(keep);
            while ring.events.front().is_some_and(|event| event.received_at < oldest) {
                ring.events.pop_front();
            }
        }
        Ok(look(&mut ring.events.iter().rev()))
    }

    /// Lets go of all that is kept: a unit was forgotten.
    pub async fn forget(&self) {
        *self.ring.lock().await = Ring::default();
    }

    /// The names of the outcomes among them, each once.
    pub async fn event_names(&self, shared: &Shared) -> Result<BTreeSet<String>, StoreError> {
        self.with(shared, |events| {
            let mut names = BTreeSet::new();
            for event in events {
                if let Event::Outcome(outcome) = &event.event
                    && names.len() < NAMES
                    && !names.contains(&outcome.event)
                {
                    names.insert(outcome.event.clone());
                }
            }
            names
        })
        .await
    }

    /// How many of the newest events fit, a minute: counted over the last minute, or over as much of it as is kept.
    pub async fn per_minute(
        &self,
        shared: &Shared,
        fits: impl Fn(&Event) -> Option<usize>,
        kinds: usize,
    ) -> Result<Vec<f64>, StoreError> {
        let now = shared.clock.now();
        self.with(shared, |events| {
            let (mut counts, mut seen, mut oldest) = (vec![0_u64; kinds], 0, now);
            for event in events.take_while(|event| now.since(event.received_at) < MINUTE) {
                seen += 1;
                oldest = event.received_at;
                if let Some(count) = fits(&event.event).and_then(|kind| counts.get_mut(kind)) {
                    *count += 1;
                }
            }
            let span = if seen == KEPT { now.since(oldest).max(Duration::from_millis(100)) } else { MINUTE };
            counts.into_iter().map(|count| count as f64 * 60.0 / span.as_secs_f64()).collect()
        })
        .await
    }

    /// Whether anything came in the last two minutes, so that rates change without a further event.
    pub async fn is_lively(&self, shared: &Shared) -> bool {
        let now: Timestamp = shared.clock.now();
        let lively =
            self.with(shared, |events| events.next().is_some_and(|e| now.since(e.received_at) < 2 * MINUTE)).await;
        lively.unwrap_or(false)
    }
}
