//! Deletes raw events from the log by age. The counts made from them stay, and events that a consumer has yet to read
//! are kept.

use std::sync::Arc;
use std::time::Duration;

use inroad_store::{Store, StoreError};
use tokio::sync::watch;

use crate::clock::WallClock;
use crate::metrics::Metrics;

/// The shortest and the longest pause between two prunings.
const PAUSE_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// The task that prunes the log.
pub struct Retention {
    /// The store whose log is pruned.
    pub store: Arc<dyn Store>,
    /// The clock by which events were received.
    pub clock: Arc<WallClock>,
    /// Counts the deleted events.
    pub metrics: Arc<Metrics>,
    /// The age at which a raw event is deleted.
    pub max_age: Duration,
}

impl Retention {
    /// Prunes repeatedly until `stop` turns true. A pruning under way is then abandoned.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (shortest, longest) = PAUSE_RANGE;
        let pause = (self.max_age / 100).clamp(shortest, longest);
        let prune_forever = async {
            while self.prune().await {
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = prune_forever => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Prunes once; false if the store is closed.
    async fn prune(&self) -> bool {
        if self.clock.has_jumped() {
            // By a clock that is ahead, events would be deleted too early.
            return true;
        }
        let before = self.clock.now().minus(self.max_age);
        match self.store.prune_log(before).await {
            Ok(0) => {}
            Ok(events) => {
                self.metrics.pruned_events.inc_by(events);
                tracing::info!(events, retained_seconds = self.max_age.as_secs(), "pruned old events from the log");
            }
            Err(StoreError::Closed) => return false,
            Err(error) => tracing::error!(%error, "could not prune the log; will retry"),
        }
        true
    }
}
