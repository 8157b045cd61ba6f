//! Lets go of raw events by age: what was counted of them stays, and what somebody has yet to read is kept.

use std::sync::Arc;
use std::time::Duration;

use inroad_store::{Store, StoreError};
use tokio::sync::watch;

use crate::clock::WallClock;
use crate::metrics::Metrics;

/// The most often, and the least often, that the log is looked at.
const PERIOD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// What the task needs.
pub struct Retention {
    /// Whose log.
    pub store: Arc<dyn Store>,
    /// The clock that events were received by.
    pub clock: Arc<WallClock>,
    /// Where what goes is counted.
    pub metrics: Arc<Metrics>,
    /// How old a raw event becomes.
    pub keep: Duration,
}

impl Retention {
    /// Prunes again and again, until `stop` turns true; a pruning under way is not waited for.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (most, least) = PERIOD;
        let pause = (self.keep / 100).clamp(most, least);
        let forever = async {
            while self.prune().await {
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = forever => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Once; false if the store is closed.
    async fn prune(&self) -> bool {
        let before = self.clock.now().minus(self.keep);
        match self.store.prune_log(before).await {
            Ok(0) => {}
            Ok(events) => {
                self.metrics.pruned.inc_by(events);
                tracing::info!(events, retained_seconds = self.keep.as_secs(), "old events were pruned from the log");
            }
            Err(StoreError::Closed) => return false,
            Err(error) => tracing::error!(%error, "the log was not pruned, which is tried again"),
        }
        true
    }
}
