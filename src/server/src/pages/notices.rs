//! The conditions of the server that every page shows, and the signal that they changed, for open pages.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use inroad_dashboard::server_notice::ServerNotice;
use tokio::sync::watch;

use crate::shared::SharedState;

/// How often the conditions are examined.
const INTERVAL: Duration = Duration::from_secs(1);

/// The conditions now.
pub(super) fn current(shared: &SharedState) -> Vec<ServerNotice> {
    let jump = shared.clock.has_jumped().then(|| shared.clock.status().jump).flatten();
    let jump = jump.map(|jump| ServerNotice::ClockJumped { jump: jump.describe() });
    let full_disk = shared.store.disk().is_full.then_some(ServerNotice::DiskFull);
    jump.into_iter().chain(full_disk).collect()
}

/// Signals when a condition begins or ends, until the server stops. A new text of the same condition is no change.
pub(super) fn changes(shared: Arc<SharedState>) -> watch::Receiver<()> {
    let (changed, changes) = watch::channel(());
    let mut stopping = shared.stopping.clone();
    tokio::spawn(async move {
        let mut shown = current(&shared);
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            let now = current(&shared);
            if !shown.iter().map(discriminant).eq(now.iter().map(discriminant)) {
                changed.send_replace(());
            }
            shown = now;
        }
    });
    changes
}
