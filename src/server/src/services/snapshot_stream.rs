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

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::WatchSnapshotsResponse;
use prost::Message;
use tonic::Status;

use crate::catalogue::CatalogueState;
use crate::clients::StreamHandle;
use crate::config::HEARTBEAT_INTERVAL;
use crate::encoded_snapshot::{ExperimentList, fill_message};
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

/// A message of the stream: the fields of its own, and the experiments that it shares with other streams.
pub(super) struct SnapshotMessage {
    /// Without experiments.
    pub(super) fields: WatchSnapshotsResponse,
    pub(super) experiments: ExperimentList,
    /// Those of the list that belong to this message.
    pub(super) range: Range<usize>,
}

impl SnapshotMessage {
    /// The whole message, with copies of its experiments.
    pub(super) fn decode(self) -> Result<WatchSnapshotsResponse, Status> {
        let mut message = self.fields;
        for experiment in self.experiments.get(self.range).unwrap_or_default() {
            message.merge(experiment.field().clone()).map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(message)
    }
}

/// Changes that are being sent in parts.
struct PendingParts {
    experiments: ExperimentList,
    /// The first of them that is not sent yet.
    next: usize,
    /// The version that the client has after the last part.
    complete_version: u64,
    /// The version that the client had before the first part; 0 if it had none.
    since: u64,
    /// Kills up to this version were sent between the parts.
    kills_sent: u64,
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
    pub(super) async fn next(&mut self) -> Option<SnapshotMessage> {
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
        let experiments = self.shared.encoded_snapshots.changed_since(&state, since);
        let range = fill_message(&experiments, 0);
        if range.end == experiments.len() {
            let fields = WatchSnapshotsResponse {
                version: state.version,
                full: since == 0,
                ..WatchSnapshotsResponse::default()
            };
            return Some(self.send(fields, experiments, range));
        }
        let (complete_version, kills_sent) = (state.version, since);
        Some(self.send_next_part(PendingParts { experiments, next: 0, complete_version, since, kills_sent }))
    }

    fn send_next_part(&mut self, mut parts: PendingParts) -> SnapshotMessage {
        if let Some(kills) = self.unsent_kills(&mut parts) {
            self.parts = Some(parts);
            return kills;
        }
        let experiments = Arc::clone(&parts.experiments);
        let range = fill_message(&experiments, parts.next);
        let is_last = range.end == experiments.len();
        let last_version = experiments[range.clone()].last().map_or(0, |experiment| experiment.version());
        let fields = WatchSnapshotsResponse {
            version: if is_last { parts.complete_version } else { last_version },
            full: parts.next == 0 && parts.since == 0,
            complete_version: parts.complete_version,
            last_part: is_last,
            ..WatchSnapshotsResponse::default()
        };
        parts.next = range.end;
        if !is_last {
            self.parts = Some(parts);
        }
        self.send(fields, experiments, range)
    }

    /// A message with the kills that the client does not have yet, newest first, without a new version. A client without
    /// a snapshot uses nothing that a kill could stop.
    fn unsent_kills(&mut self, parts: &mut PendingParts) -> Option<SnapshotMessage> {
        let state = self.changes.borrow().clone();
        if parts.since == 0 || state.version <= parts.kills_sent {
            return None;
        }
        let changed = self.shared.encoded_snapshots.changed_since(&state, parts.kills_sent);
        parts.kills_sent = state.version;
        let killed: ExperimentList = changed.iter().rev().filter(|changed| changed.has_kills()).cloned().collect();
        let range = fill_message(&killed, 0);
        if range.is_empty() {
            return None;
        }
        let fields = WatchSnapshotsResponse { version: parts.since, ..WatchSnapshotsResponse::default() };
        Some(self.complete(fields, killed, range))
    }

    fn send(
        &mut self,
        fields: WatchSnapshotsResponse,
        experiments: ExperimentList,
        range: Range<usize>,
    ) -> SnapshotMessage {
        self.sent_version = fields.version;
        if fields.complete_version == 0 || fields.last_part {
            self.client.record_sent(fields.version, self.shared.clock.now());
        }
        self.complete(fields, experiments, range)
    }

    /// Adds the fields that every message has.
    fn complete(
        &self,
        fields: WatchSnapshotsResponse,
        experiments: ExperimentList,
        range: Range<usize>,
    ) -> SnapshotMessage {
        let fields = WatchSnapshotsResponse {
            store_id: self.shared.store.store_id().to_owned(),
            lineage_id: self.shared.store.lineage_id().to_owned(),
            server_time: Some(timestamp_to_wire(self.shared.clock.now())),
            ..fields
        };
        SnapshotMessage { fields, experiments, range }
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
