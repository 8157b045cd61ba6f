//! The bounded queue of events that wait to be sent. No caller ever waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use inroad_wire::v1;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};

/// An event in the form in which it is sent.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Exposure(v1::Exposure),
    Outcome(v1::Outcome),
}

/// The kind of an event, known before the event itself is built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventKind {
    Exposure,
    Outcome,
}

/// The sending end of the queue. An event is pending until the server has acknowledged or refused it, so the capacity
/// covers both the channel and the batch on its way.
#[derive(Debug)]
pub(crate) struct EventQueue {
    sender: UnboundedSender<Event>,
    capacity: usize,
    pending: AtomicUsize,
    pushed: AtomicU64,
    dropped_exposures: AtomicU64,
    dropped_outcomes: AtomicU64,
    /// Whether the last push failed. A warning is logged only when this changes.
    is_dropping: AtomicBool,
    /// How many events were acknowledged or refused. Events complete in order, so the number identifies them.
    completed: watch::Sender<u64>,
    /// A flush waits until `completed` reaches this number.
    flush_target: AtomicU64,
    pub(crate) flush_requested: Notify,
}

impl EventQueue {
    pub(crate) fn new(capacity: usize) -> (Self, UnboundedReceiver<Event>) {
        let (sender, receiver) = unbounded_channel();
        let queue = Self {
            sender,
            capacity,
            pending: AtomicUsize::new(0),
            pushed: AtomicU64::new(0),
            dropped_exposures: AtomicU64::new(0),
            dropped_outcomes: AtomicU64::new(0),
            is_dropping: AtomicBool::new(false),
            completed: watch::Sender::new(0),
            flush_target: AtomicU64::new(0),
            flush_requested: Notify::new(),
        };
        (queue, receiver)
    }

    /// Queues an event if there is room, and returns whether there was. Otherwise the event is dropped and counted.
    pub(crate) fn try_push(&self, kind: EventKind, event: impl FnOnce() -> Event) -> bool {
        let add_one = |pending: usize| (pending < self.capacity).then_some(pending + 1);
        if self.pending.fetch_update(Ordering::AcqRel, Ordering::Acquire, add_one).is_err() {
            self.count_dropped(
                kind,
                "the event queue is full. Raise queue_capacity, or find out why the server does not acknowledge events",
            );
            return false;
        }
        self.pushed.fetch_add(1, Ordering::AcqRel);
        if self.sender.send(event()).is_err() {
            self.pending.fetch_sub(1, Ordering::AcqRel);
            self.pushed.fetch_sub(1, Ordering::AcqRel);
            self.count_dropped(kind, "the client was shut down. Record events before the shutdown");
            return false;
        }
        true
    }

    fn count_dropped(&self, kind: EventKind, why: &'static str) {
        let dropped = match kind {
            EventKind::Exposure => &self.dropped_exposures,
            EventKind::Outcome => &self.dropped_outcomes,
        };
        dropped.fetch_add(1, Ordering::Relaxed);
        if !self.is_dropping.swap(true, Ordering::Relaxed) {
            tracing::warn!(capacity = self.capacity, "events are dropped and counted: {why}");
        }
    }

    /// The oldest `events` events were acknowledged or refused, so the queue has room for as many new ones.
    pub(crate) fn complete(&self, events: usize) {
        self.pending.fetch_sub(events, Ordering::AcqRel);
        self.completed.send_modify(|completed| *completed += events as u64);
        if self.is_dropping.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                dropped = self.dropped(),
                "the event queue has room again; events dropped so far are counted"
            );
        }
    }

    /// Requests that all queued events are sent immediately, and waits until they are complete.
    pub(crate) async fn flush(&self) {
        let target = self.pushed.load(Ordering::Acquire);
        self.flush_target.fetch_max(target, Ordering::AcqRel);
        self.flush_requested.notify_one();
        let mut completed = self.completed.subscribe();
        // This fails only if the sender is dropped, and `self` owns the sender.
        let _ = completed.wait_for(|completed| *completed >= target).await;
    }

    /// Whether a flush waits for events that are not complete.
    pub(crate) fn is_flushing(&self) -> bool {
        self.flush_target.load(Ordering::Acquire) > *self.completed.borrow()
    }

    /// How many events are queued or on their way.
    pub(crate) fn depth(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// How many events of one kind were dropped.
    pub(crate) fn dropped_of(&self, kind: EventKind) -> u64 {
        match kind {
            EventKind::Exposure => self.dropped_exposures.load(Ordering::Relaxed),
            EventKind::Outcome => self.dropped_outcomes.load(Ordering::Relaxed),
        }
    }

    /// How many events were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped_of(EventKind::Exposure) + self.dropped_of(EventKind::Outcome)
    }
}
