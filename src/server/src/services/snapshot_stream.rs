//! The snapshot stream of one client: the whole snapshot first, then every change as soon as it is published (I8).
//! Changes that do not fit into one message are sent in parts, and a kill never waits for more than one part:
//!
//! ```text
//!  changes since the version sent last ──► fit into one message?  yes ──► one message
//!                                             │ no
//!                                             ▼
//!                          part, part, …, last part, by ascending version of the experiments
//!                              ▲
//!  a kill is published ────────┘  sent between two parts, and applied at once
//! ```
//!
//! Each part is also a correct change of its own: after it, a client has every change up to the part's version. So a
//! client that loses the stream between two parts continues where it stopped, and one that does not know parts works.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inroad_assignment::ServedExperiment;
use inroad_wire::snapshot::snapshot_to_wire;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::{ExperimentSnapshot, WatchSnapshotsResponse};

use super::take_page;
use crate::catalogue::CatalogueState;
use crate::clients::StreamHandle;
use crate::config::HEARTBEAT_INTERVAL;
use crate::error::ServerError;
use crate::shared::SharedState;

/// One client's snapshot stream. It has no queue of changes: a client that reads slowly gets, when it is ready, all
/// experiments that changed since the version sent last.
pub(super) struct Watcher {
    changes: tokio::sync::watch::Receiver<Arc<CatalogueState>>,
    stopping: tokio::sync::watch::Receiver<bool>,
    shared: Arc<SharedState>,
    /// The version sent last; 0 if the client needs a full snapshot.
    sent_version: u64,
    is_first: bool,
    parts: Option<PendingParts>,
    client: StreamHandle,
    _guard: StreamGuard,
}

/// Changes that are being sent in parts.
struct PendingParts {
    /// The experiments that are not sent yet, by ascending version.
    experiments: VecDeque<Arc<ServedExperiment>>,
    /// The version that the client has after the last part.
    complete_version: u64,
    /// The version that the client had before the first part; 0 if it had none.
    since: u64,
    /// Kills up to this version were sent between the parts.
    kills_sent: u64,
    is_first: bool,
}

impl Watcher {
    pub(super) fn new(shared: Arc<SharedState>, sent_version: u64, client: StreamHandle, guard: StreamGuard) -> Self {
        Self {
            changes: shared.catalogue.subscribe(),
            stopping: shared.stopping.clone(),
            shared,
            sent_version,
            is_first: true,
            parts: None,
            client,
            _guard: guard,
        }
    }

    /// Waits for the next message; none when the server stops.
    pub(super) async fn next(&mut self) -> Option<WatchSnapshotsResponse> {
        if *self.stopping.borrow() {
            return None;
        }
        if let Some(parts) = self.parts.take() {
            return Some(self.send_next_part(parts));
        }
        if !self.is_first {
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
                _ = self.stopping.wait_for(|stop| *stop) => return None,
            }
        }
        self.is_first = false;
        let state = self.changes.borrow_and_update().clone();
        // The client has a version that this store does not have yet: a backup was restored. Send a full snapshot.
        let since = if self.sent_version > state.version { 0 } else { self.sent_version };
        let changed = state.experiments_changed_since(since);
        let (experiments, is_complete) = fill_message(changed.iter().copied());
        if is_complete {
            let full = since == 0;
            return Some(self.send(WatchSnapshotsResponse {
                version: state.version,
                full,
                experiments,
                ..Default::default()
            }));
        }
        let mut changed: Vec<_> = changed.into_iter().cloned().collect();
        changed.sort_by_key(|served| served.parts().version);
        Some(self.send_next_part(PendingParts {
            experiments: changed.into(),
            complete_version: state.version,
            since,
            kills_sent: since,
            is_first: true,
        }))
    }

    fn send_next_part(&mut self, mut parts: PendingParts) -> WatchSnapshotsResponse {
        if let Some(kills) = self.unsent_kills(&mut parts) {
            self.parts = Some(parts);
            return kills;
        }
        let (experiments, is_last) = fill_message(parts.experiments.iter());
        let last_version =
            parts.experiments.drain(..experiments.len()).next_back().map_or(0, |served| served.parts().version);
        let message = WatchSnapshotsResponse {
            version: if is_last { parts.complete_version } else { last_version },
            full: parts.is_first && parts.since == 0,
            experiments,
            complete_version: parts.complete_version,
            last_part: is_last,
            ..WatchSnapshotsResponse::default()
        };
        parts.is_first = false;
        if !is_last {
            self.parts = Some(parts);
        }
        self.send(message)
    }

    /// A message with the kills that the client does not have yet, newest first, without a new version. A client without
    /// a snapshot uses nothing that a kill could stop.
    fn unsent_kills(&mut self, parts: &mut PendingParts) -> Option<WatchSnapshotsResponse> {
        let state = self.changes.borrow().clone();
        if parts.since == 0 || state.version <= parts.kills_sent {
            return None;
        }
        let mut killed = state.experiments_changed_since(parts.kills_sent);
        parts.kills_sent = state.version;
        killed.retain(|served| served.parts().kills != inroad_assignment::Kills::default());
        killed.sort_by_key(|served| std::cmp::Reverse(served.parts().version));
        let (experiments, _) = fill_message(killed.into_iter());
        if experiments.is_empty() {
            return None;
        }
        Some(self.complete(WatchSnapshotsResponse { version: parts.since, experiments, ..Default::default() }))
    }

    fn send(&mut self, message: WatchSnapshotsResponse) -> WatchSnapshotsResponse {
        self.sent_version = message.version;
        if message.complete_version == 0 || message.last_part {
            self.client.record_sent(message.version, self.shared.clock.now());
        }
        self.complete(message)
    }

    /// Adds the fields that every message has.
    fn complete(&self, message: WatchSnapshotsResponse) -> WatchSnapshotsResponse {
        WatchSnapshotsResponse {
            store_id: self.shared.store.store_id().to_owned(),
            lineage_id: self.shared.store.lineage_id().to_owned(),
            server_time: Some(timestamp_to_wire(self.shared.clock.now())),
            ..message
        }
    }
}

/// The experiments in wire form, as many as a part has room for and at least one; and whether these are all.
fn fill_message<'a>(experiments: impl Iterator<Item = &'a Arc<ServedExperiment>>) -> (Vec<ExperimentSnapshot>, bool) {
    let (filled, has_more) = take_page(experiments.map(|served| snapshot_to_wire(served)), usize::MAX);
    (filled, !has_more)
}

impl CatalogueState {
    /// The experiments that changed after `version`; all experiments for version 0.
    fn experiments_changed_since(&self, version: u64) -> Vec<&Arc<ServedExperiment>> {
        self.snapshot.experiments().filter(|served| version == 0 || served.parts().version > version).collect()
    }
}

/// Counts a stream against the limit while it is open.
pub(super) struct StreamGuard {
    streams: Arc<AtomicUsize>,
    shared: Arc<SharedState>,
}

impl StreamGuard {
    pub(super) fn open(shared: &Arc<SharedState>, streams: &Arc<AtomicUsize>) -> Result<Self, ServerError> {
        let limit = shared.config.max_streams;
        let open = streams.fetch_add(1, Ordering::Relaxed);
        let guard = Self { streams: Arc::clone(streams), shared: Arc::clone(shared) };
        shared.metrics.watchers.inc();
        if open >= limit { Err(ServerError::TooManyStreams { limit }) } else { Ok(guard) }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.watchers.dec();
    }
}
