//! The turn of a change: one change at a time in this process, first come, first served. How long changes wait is a
//! metric, because a kill is such a change.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Catalogue;
use crate::metrics::Metrics;

/// Counts a change as waiting until it has its turn or its caller has left.
struct WaitGuard<'a>(&'a Metrics);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting_changes.dec();
    }
}

impl Catalogue {
    /// Waits until no other change is in progress. The turn ends when the guard is dropped.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.metrics.waiting_changes.inc();
        let _waiting = WaitGuard(&self.metrics);
        let begun = Instant::now();
        let turn = Arc::clone(&self.changing).lock_owned().await;
        self.metrics.change_wait_seconds.observe(begun.elapsed().as_secs_f64());
        turn
    }
}
