//! What callers and background tasks share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use inroad_assignment::{Context, Timestamp};
use inroad_wire::kept::{KEPT_CONTEXT_BYTES, keep_part};
use inroad_wire::{context_to_struct, timestamp_to_wire, v1};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::builder::Options;
use crate::clock::Clock;
use crate::decision::Decision;
use crate::dedupe::{Dedupe, Seen};
use crate::error::Error;
use crate::outcome::Outcome;
use crate::presence::Presence;
use crate::queue::{Event, Kind, Queue};
use crate::report::{Report, Source, Status};
use crate::state::State;
use crate::transport::Transport;

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) state: ArcSwap<State>,
    pub(crate) clock: Clock,
    /// The version in use; written after the state is.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) source: watch::Sender<Source>,
    pub(crate) queue: Queue,
    pub(crate) dedupe: Dedupe,
    pub(crate) report: Report,
    pub(crate) presence: Presence,
    pub(crate) transport: Transport,
    /// Set once the client is to end: until when what is queued may still be sent.
    pub(crate) end: watch::Sender<Option<Instant>>,
}

impl Shared {
    /// Takes what the server, or a bootstrap file, says. Only ever called by one task at a time.
    pub(crate) fn take(&self, sent: v1::WatchSnapshotsResponse, source: Source) -> Result<(), Error> {
        let old = self.state.load_full();
        if old.is_heartbeat(&sent) {
            self.come_from(source);
            return Ok(());
        }
        let step = old.next(sent)?;
        if step.other_store && old.ready {
            tracing::warn!(store = %step.state.store_id, "another store answers: everything is replaced by what it has");
            self.dedupe.clear();
        }
        self.report.stale.fetch_add(step.stale, Ordering::Relaxed);
        self.report.accept(step.accepted.iter().map(|experiment| experiment.parts().key.as_str()));
        step.refused.into_iter().for_each(|refusal| self.report.refuse(refusal));
        self.come_from(source);
        if step.changed {
            let version = step.state.version;
            self.state.store(Arc::new(step.state));
            self.presence.applied(version);
            self.changes.send_replace(version);
        }
        Ok(())
    }

    /// Says where what is in use comes from, if it came from elsewhere before: telling costs more than asking.
    fn come_from(&self, source: Source) {
        if *self.source.borrow() != source {
            self.source.send_replace(source);
        }
    }

    /// Queues the exposure that a decision is, unless the same one was queued lately.
    pub(crate) fn expose(&self, decision: &Decision, context: &Context) {
        let (Some(digest), Some(experiment)) = (decision.digest(), decision.experiment()) else { return };
        let seen = Seen { digest, generation: decision.generation(), arm: decision.arm() };
        self.dedupe.once(seen, || {
            self.queue.offer(Kind::Exposure, || {
                let parts = experiment.parts();
                let kept = || {
                    let mut kept = context_to_struct(context);
                    keep_part(&mut kept, &parts.unit, KEPT_CONTEXT_BYTES);
                    kept
                };
                Event::Exposure(v1::Exposure {
                    experiment: parts.key.to_string(),
                    generation: decision.generation(),
                    unit: experiment.unit_of(context).unwrap_or_default().into_owned(),
                    variation: decision.variation().unwrap_or_default().to_owned(),
                    revision: decision.revision(),
                    occurred_at: Some(timestamp_to_wire(parts.manual_now.unwrap_or_else(|| self.clock.now()))),
                    context: self.options.exposure_context.then(kept).filter(|kept| !kept.fields.is_empty()),
                })
            })
        });
    }

    /// An outcome as it is sent, stamped now if nobody has said when it happened.
    pub(crate) fn stamp(&self, outcome: Outcome) -> v1::Outcome {
        let manual = outcome.manual_clock().map(|key| {
            let state = self.state.load();
            state.get(key).and_then(|experiment| experiment.parts().manual_now)
        });
        outcome.into_wire(|| manual.unwrap_or_else(|| Some(self.clock.now())))
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.state.load();
        Status {
            connected: self.report.connected.load(Ordering::Relaxed),
            connections: self.report.connections.load(Ordering::Relaxed),
            source: *self.source.borrow(),
            version: state.version,
            store_id: state.store_id.clone(),
            experiments: state.experiments().len(),
            refused: self.report.refused(),
            refusals: self.report.refusals.load(Ordering::Relaxed),
            stale: self.report.stale.load(Ordering::Relaxed),
            queue_depth: self.queue.depth(),
            dropped: self.queue.dropped(),
            dropped_exposures: self.queue.dropped_of(Kind::Exposure),
            dropped_outcomes: self.queue.dropped_of(Kind::Outcome),
            sent: self.report.sent.load(Ordering::Relaxed),
            duplicates: self.dedupe.duplicates(),
            rejected: self.report.rejected(),
            retries: self.report.retries.load(Ordering::Relaxed),
            last_error: self.report.last_error(),
            bootstrap_error: self.report.bootstrap_error(),
            clock_offset_micros: self.clock.offset_micros(),
            snapshot_age: self.report.age(),
        }
    }

    /// Resolves once the client is to end.
    pub(crate) async fn ending(&self) -> Instant {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
        ended.unwrap_or_else(Instant::now)
    }

    /// Ends the client, letting what is queued be sent until `by`. The first call decides.
    pub(crate) fn end(&self, by: Instant) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(by);
            first
        });
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
