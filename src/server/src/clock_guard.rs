//! The task that looks at the clocks when nobody else does: it notices jumps on an idle server, remembers the clocks for
//! the next start, and lets what depends on the time know when an accepted jump moved it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use inroad_store::StoreError;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::catalogue::Catalogue;
use crate::clock::{AcceptedJump, ClockAnchor, WallClock};
use crate::error::ServerError;

/// How often the clocks are compared on an idle server.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the clocks are remembered for the next start.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(60);

/// The task, and what a person may ask of it.
pub(crate) struct ClockGuard {
    clock: Arc<WallClock>,
    /// Its experiments serve the revisions that are in effect after an accepted jump.
    catalogue: Arc<Catalogue>,
    /// The data folder.
    folder: PathBuf,
    /// Accepted jumps that the experiments do not follow yet: from the highest time before to the newest time after them.
    /// Locked while the record is written, so that no older one replaces a newer one.
    unfollowed: Mutex<Option<AcceptedJump>>,
}

impl ClockGuard {
    /// The task of a server, which has not started yet. `anchor` is what the server remembered when it last ran.
    pub(crate) fn new(
        clock: Arc<WallClock>,
        catalogue: Arc<Catalogue>,
        folder: PathBuf,
        anchor: Option<&ClockAnchor>,
    ) -> Self {
        let unfollowed = anchor.and_then(|anchor| anchor.unfollowed_jump);
        Self { clock, catalogue, folder, unfollowed: Mutex::new(unfollowed) }
    }

    /// Accepts the machine's clock at once, for a person. It is on disk when this returns, so that a crash does not undo
    /// it, and that the next start continues with what follows from it.
    ///
    /// # Errors
    /// Errors of the file system; then the reading is accepted until the server ends.
    pub(crate) async fn accept(&self) -> Result<(), ServerError> {
        let mut unfollowed = self.unfollowed.lock().await;
        if let Some(jump) = self.clock.accept() {
            add(&mut unfollowed, jump);
        }
        self.write(*unfollowed).await
    }

    /// Runs until `stop` turns true, and then remembers the clocks once more.
    pub(crate) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut accepted = self.clock.accepted_jumps();
        let (mut seen, mut remembered) = (AcceptedJump::default(), None::<Instant>);
        while !*stop.borrow() {
            let _ = self.clock.now();
            if let Some(jump) = self.unfollowed_jump(&accepted, &mut seen).await {
                match self.catalogue.follow_clock(jump).await {
                    Ok(()) => self.remember_followed(jump).await,
                    Err(error) => {
                        tracing::error!(%error, "could not apply the new time to the experiments; will retry")
                    }
                }
            }
            if remembered.is_none_or(|at| at.elapsed() >= REMEMBER_INTERVAL) {
                self.remember().await;
                remembered = Some(Instant::now());
            }
            tokio::select! {
                () = tokio::time::sleep(COMPARE_INTERVAL) => {}
                changed = accepted.changed() => if changed.is_err() {
                    return;
                },
                _ = stop.changed() => break,
            }
        }
        self.remember().await;
    }

    /// The jump to follow. One that was accepted since is on disk before the experiments follow it.
    async fn unfollowed_jump(
        &self,
        accepted: &watch::Receiver<AcceptedJump>,
        seen: &mut AcceptedJump,
    ) -> Option<AcceptedJump> {
        let mut unfollowed = self.unfollowed.lock().await;
        let newest = *accepted.borrow();
        if newest != *seen {
            *seen = newest;
            add(&mut unfollowed, newest);
            self.write_or_warn(*unfollowed).await;
        }
        *unfollowed
    }

    async fn remember_followed(&self, jump: AcceptedJump) {
        let mut unfollowed = self.unfollowed.lock().await;
        if *unfollowed == Some(jump) {
            *unfollowed = None;
            self.write_or_warn(None).await;
        }
    }

    async fn remember(&self) {
        let unfollowed = self.unfollowed.lock().await;
        self.write_or_warn(*unfollowed).await;
    }

    async fn write_or_warn(&self, unfollowed: Option<AcceptedJump>) {
        if let Err(error) = self.write(unfollowed).await {
            tracing::warn!(%error, "could not remember the clocks for the next start");
        }
    }

    async fn write(&self, unfollowed: Option<AcceptedJump>) -> Result<(), ServerError> {
        let mut anchor = self.clock.anchor();
        anchor.unfollowed_jump = unfollowed;
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || anchor.write(&folder)).await;
        written.map_err(|_| ServerError::ShuttingDown)?.map_err(|error| {
            let path = self.folder.display().to_string();
            let is_full = error.kind() == std::io::ErrorKind::StorageFull;
            let failed = || StoreError::Database(format!("cannot write the record of the clocks in {path}: {error}"));
            ServerError::Store(if is_full { StoreError::DiskFull { path: path.clone() } } else { failed() })
        })
    }
}

/// Adds a jump to those that the experiments do not follow yet.
fn add(unfollowed: &mut Option<AcceptedJump>, jump: AcceptedJump) {
    let from = unfollowed.map_or(jump.from, |earlier| earlier.from.max(jump.from));
    *unfollowed = Some(AcceptedJump { from, to: jump.to });
}
