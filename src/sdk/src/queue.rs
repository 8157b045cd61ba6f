//! Events on their way to the server: a bounded queue that nobody ever waits for.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use inroad_wire::v1;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};

/// An event as it will be sent.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Exposure(v1::Exposure),
    Outcome(v1::Outcome),
}

/// Which of the two, where the event itself is not made yet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Exposure,
    Outcome,
}

/// The end where events come in. Bounded by count of everything that is not settled, in the channel or in a batch.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: UnboundedSender<Event>,
    capacity: usize,
    held: AtomicUsize,
    entered: AtomicU64,
    dropped_exposures: AtomicU64,
    dropped_outcomes: AtomicU64,
    /// Whether it was full when last asked, so that being full is logged once and not a million times.
    full: AtomicBool,
    /// How many have been acknowledged or refused; they are in order, so this tells which.
    settled: watch::Sender<u64>,
    /// Somebody waits until this many are settled.
    wanted: AtomicU64,
    pub(crate) hurry: Notify,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> (Self, UnboundedReceiver<Event>) {
        let (sender, receiver) = unbounded_channel();
        let queue = Self {
            sender,
            capacity,
            held: AtomicUsize::new(0),
            entered: AtomicU64::new(0),
            dropped_exposures: AtomicU64::new(0),
            dropped_outcomes: AtomicU64::new(0),
            full: AtomicBool::new(false),
            settled: watch::Sender::new(0),
            wanted: AtomicU64::new(0),
            hurry: Notify::new(),
        };
        (queue, receiver)
    }

    /// Puts an event in if there is room; whether there was.
    pub(crate) fn offer(&self, kind: Kind, event: impl FnOnce() -> Event) -> bool {
        let room = |held: usize| (held < self.capacity).then_some(held + 1);
        if self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            self.drop_one(
                kind,
                "the event queue is full: raise queue_capacity, or see why events are not acknowledged",
            );
            return false;
        }
        self.entered.fetch_add(1, Ordering::AcqRel);
        if self.sender.send(event()).is_err() {
            self.held.fetch_sub(1, Ordering::AcqRel);
            self.entered.fetch_sub(1, Ordering::AcqRel);
            self.drop_one(kind, "the client was shut down: events are not taken any more");
            return false;
        }
        true
    }

    fn drop_one(&self, kind: Kind, why: &'static str) {
        let dropped = match kind {
            Kind::Exposure => &self.dropped_exposures,
            Kind::Outcome => &self.dropped_outcomes,
        };
        dropped.fetch_add(1, Ordering::Relaxed);
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(capacity = self.capacity, "events are dropped and counted: {why}");
        }
    }

    /// The oldest `events` are acknowledged or refused: there is room again.
    pub(crate) fn settle(&self, events: usize) {
        self.held.fetch_sub(events, Ordering::AcqRel);
        self.settled.send_modify(|settled| *settled += events as u64);
        if self.full.swap(false, Ordering::Relaxed) {
            tracing::warn!(dropped = self.dropped(), "the event queue has room again; this many were dropped so far");
        }
    }

    /// Asks for everything that is in to be sent at once, and waits until it is settled.
    pub(crate) async fn flushed(&self) {
        let wanted = self.entered.load(Ordering::Acquire);
        self.wanted.fetch_max(wanted, Ordering::AcqRel);
        self.hurry.notify_one();
        let mut settled = self.settled.subscribe();
        // The sender lives as long as this does, so there is no error to meet.
        let _ = settled.wait_for(|settled| *settled >= wanted).await;
    }

    /// Whether somebody waits for more than has been settled.
    pub(crate) fn in_a_hurry(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > *self.settled.borrow()
    }

    /// How many events are not settled.
    pub(crate) fn depth(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// How many of one kind were lost for want of room.
    pub(crate) fn dropped_of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Exposure => self.dropped_exposures.load(Ordering::Relaxed),
            Kind::Outcome => self.dropped_outcomes.load(Ordering::Relaxed),
        }
    }

    /// How many were lost for want of room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped_of(Kind::Exposure) + self.dropped_of(Kind::Outcome)
    }
}
