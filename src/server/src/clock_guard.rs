//! The task that looks at the clocks when nobody else does: it notices jumps on an idle server, remembers the clocks for
//! the next start, and lets what depends on the time know when an accepted jump moved it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::catalogue::Catalogue;
use crate::clock::{AcceptedJump, ClockAnchor, WallClock};

/// How often the clocks are compared on an idle server.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the clocks are remembered for the next start.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(60);

/// The task.
pub(crate) struct ClockGuard {
    /// The clock.
    pub(crate) clock: Arc<WallClock>,
    /// Its experiments serve the revisions that are in effect after an accepted jump.
    pub(crate) catalogue: Arc<Catalogue>,
    /// The data folder.
    pub(crate) folder: PathBuf,
}

impl ClockGuard {
    /// Runs until `stop` turns true, and then remembers the clocks once more.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut accepted = self.clock.accepted_jumps();
        let mut remembered = None::<Instant>;
        // Jumps that the experiments do not follow yet: from the highest time before to the newest time after them.
        let mut pending = None::<AcceptedJump>;
        while !*stop.borrow() {
            let _ = self.clock.now();
            if let Some(jump) = pending {
                match self.catalogue.follow_clock(jump).await {
                    Ok(()) => pending = None,
                    Err(error) => {
                        tracing::error!(%error, "could not apply the new time to the experiments; will retry")
                    }
                }
            }
            if remembered.is_none_or(|at| at.elapsed() >= REMEMBER_INTERVAL) {
                self.remember().await;
                remembered = Some(Instant::now());
            }
            let jump = tokio::select! {
                () = tokio::time::sleep(COMPARE_INTERVAL) => continue,
                changed = accepted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    *accepted.borrow_and_update()
                }
                _ = stop.changed() => break,
            };
            let from = pending.map_or(jump.from, |earlier| earlier.from.max(jump.from));
            pending = Some(AcceptedJump { from, to: jump.to });
            remembered = None;
        }
        self.remember().await;
    }

    async fn remember(&self) {
        let (anchor, folder): (ClockAnchor, _) = (self.clock.anchor(), self.folder.clone());
        let written = tokio::task::spawn_blocking(move || anchor.write(&folder)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "could not remember the clocks for the next start");
        }
    }
}
