//! The state that callers and background tasks share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use inroad_assignment::{Context, Timestamp};
use inroad_wire::exposure_context::{MAX_EXPOSURE_CONTEXT_BYTES, trim_context};
use inroad_wire::{context_to_struct, timestamp_from_wire, timestamp_to_wire, v1};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::applied_versions::AppliedVersions;
use crate::decision::Decision;
use crate::dedupe::{ExposureKey, RecentExposures};
use crate::error::Error;
use crate::outcome::Outcome;
use crate::queue::{Event, EventKind, EventQueue};
use crate::server_clock::ServerClock;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::status::{Source, Status, StatusRecorder};
use crate::transport::Transport;

pub(crate) struct ClientState {
    pub(crate) settings: Settings,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) clock: ServerClock,
    /// The version in use, sent after the snapshot was replaced.
    pub(crate) version: watch::Sender<u64>,
    pub(crate) source: watch::Sender<Source>,
    pub(crate) queue: EventQueue,
    recent_exposures: RecentExposures,
    pub(crate) recorder: StatusRecorder,
    pub(crate) applied_versions: AppliedVersions,
    pub(crate) transport: Transport,
    /// Set when the client shuts down: until when queued events may still be sent.
    shutdown: watch::Sender<Option<Instant>>,
}

impl ClientState {
    /// The state of a new client, and the events that are queued from now on.
    pub(crate) fn new(settings: Settings, transport: Transport) -> (Self, UnboundedReceiver<Event>) {
        let (queue, events) = EventQueue::new(settings.queue_capacity);
        let state = Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            clock: ServerClock::new(),
            version: watch::Sender::new(0),
            source: watch::Sender::new(Source::None),
            queue,
            recent_exposures: RecentExposures::new(settings.dedupe_capacity),
            recorder: StatusRecorder::default(),
            applied_versions: AppliedVersions::new(),
            transport,
            shutdown: watch::Sender::new(None),
            settings,
        };
        (state, events)
    }

    /// Applies a message of the server, or of the bootstrap file. Only one task may call this at a time.
    pub(crate) fn apply_message(&self, message: v1::WatchSnapshotsResponse, source: Source) -> Result<(), Error> {
        self.forget_past_revisions(&message);
        let old = self.snapshot.load_full();
        if old.is_heartbeat(&message) {
            self.set_source(source);
            return Ok(());
        }
        let update = old.apply(message)?;
        if update.other_history && old.is_ready {
            tracing::warn!(
                store = %update.snapshot.store_id,
                "another store answers, or an older copy of its data; its snapshot replaces all experiments"
            );
            self.recent_exposures.clear();
        }
        self.recorder.stale.fetch_add(update.stale, Ordering::Relaxed);
        self.recorder.clear_refusals(update.accepted.iter().map(|experiment| experiment.parts().key.as_str()));
        update.refused.into_iter().for_each(|refusal| self.recorder.record_refusal(refusal));
        self.set_source(source);
        if update.changed {
            let version = update.snapshot.version;
            self.snapshot.store(Arc::new(update.snapshot));
            self.applied_versions.record_applied(version);
            self.version.send_replace(version);
        }
        Ok(())
    }

    /// Forgets the revisions that are past by the time in a message of the server. What has taken effect stays in effect,
    /// even if the server's clock is set back later (I2).
    fn forget_past_revisions(&self, message: &v1::WatchSnapshotsResponse) {
        let Some(Ok(now)) = message.server_time.as_ref().map(timestamp_from_wire) else { return };
        if let Some(shortened) = self.snapshot.load().without_past_revisions(now) {
            self.snapshot.store(Arc::new(shortened));
        }
    }

    /// Reads before it writes: notifying all receivers costs more than a comparison.
    fn set_source(&self, source: Source) {
        if *self.source.borrow() != source {
            self.source.send_replace(source);
        }
    }

    /// Queues the exposure of a decision, unless the same exposure was queued recently.
    pub(crate) fn queue_exposure(&self, decision: &Decision, context: &Context) {
        let (Some(digest), Some(experiment)) = (decision.digest(), decision.experiment()) else { return };
        let key = ExposureKey { digest, generation: decision.generation(), arm: decision.arm() };
        self.recent_exposures.push_once(key, || {
            self.queue.try_push(EventKind::Exposure, || {
                let parts = experiment.parts();
                let limited_context = || {
                    let mut limited = context_to_struct(context);
                    trim_context(&mut limited, &parts.unit, MAX_EXPOSURE_CONTEXT_BYTES);
                    limited
                };
                Event::Exposure(v1::Exposure {
                    experiment: parts.key.to_string(),
                    generation: decision.generation(),
                    unit: experiment.unit_key(context).unwrap_or_default().into_owned(),
                    variation: decision.variation().unwrap_or_default().to_owned(),
                    revision: decision.revision(),
                    occurred_at: Some(timestamp_to_wire(parts.manual_now.unwrap_or_else(|| self.clock.now()))),
                    context: (self.settings.exposure_context)
                        .then(limited_context)
                        .filter(|context| !context.fields.is_empty()),
                })
            })
        });
    }

    /// Queues an outcome, and returns whether there was room.
    pub(crate) fn queue_outcome(&self, outcome: Outcome) -> bool {
        self.queue.try_push(EventKind::Outcome, || Event::Outcome(self.outcome_to_wire(outcome)))
    }

    /// Converts an outcome to the wire format. Its time is now, unless it has one.
    pub(crate) fn outcome_to_wire(&self, outcome: Outcome) -> v1::Outcome {
        let manual_now = outcome.clock_experiment().map(|key| {
            let snapshot = self.snapshot.load();
            snapshot.get(key).and_then(|experiment| experiment.parts().manual_now)
        });
        outcome.into_wire(|| manual_now.unwrap_or_else(|| Some(self.clock.now())))
    }

    pub(crate) fn status(&self) -> Status {
        let snapshot = self.snapshot.load();
        Status {
            connected: self.recorder.connected.load(Ordering::Relaxed),
            connections: self.recorder.connections.load(Ordering::Relaxed),
            source: *self.source.borrow(),
            version: snapshot.version,
            store_id: snapshot.store_id.clone(),
            experiments: snapshot.experiments().len(),
            refused: self.recorder.refused(),
            refusals: self.recorder.refusals.load(Ordering::Relaxed),
            stale: self.recorder.stale.load(Ordering::Relaxed),
            queue_depth: self.queue.depth(),
            dropped: self.queue.dropped(),
            dropped_exposures: self.queue.dropped_of(EventKind::Exposure),
            dropped_outcomes: self.queue.dropped_of(EventKind::Outcome),
            sent: self.recorder.sent.load(Ordering::Relaxed),
            duplicates: self.recent_exposures.duplicates(),
            rejected: self.recorder.rejected(),
            retries: self.recorder.retries.load(Ordering::Relaxed),
            last_error: self.recorder.last_error(),
            bootstrap_error: self.recorder.bootstrap_error(),
            clock_offset_micros: self.clock.offset_micros(),
            snapshot_age: self.recorder.last_message_age(),
        }
    }

    /// Resolves when the client shuts down, to the instant until which queued events may still be sent.
    pub(crate) async fn wait_for_shutdown(&self) -> Instant {
        let mut shutdown = self.shutdown.subscribe();
        let send_until = shutdown.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        send_until.unwrap_or_else(Instant::now)
    }

    /// Shuts down the client. Queued events may still be sent until `send_until`. Later calls have no effect.
    pub(crate) fn begin_shutdown(&self, send_until: Instant) {
        self.shutdown.send_if_modified(|shutdown| {
            let is_first = shutdown.is_none();
            shutdown.get_or_insert(send_until);
            is_first
        });
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
