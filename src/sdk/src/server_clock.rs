//! An estimate of the server's clock, so that a client whose own clock is wrong still switches to a new revision at the
//! same instant as the other clients (I4).

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use inroad_assignment::Timestamp;

use crate::lock::lock;

/// Offsets are forgotten after at most two periods, so that clock drift cannot accumulate.
const PERIOD: Duration = Duration::from_secs(600);

/// Starts from this machine's wall clock, advances with its steady clock (so later changes of the wall clock have no
/// effect), and is corrected by the times in the server's messages.
#[derive(Debug)]
pub(crate) struct ServerClock {
    started: Instant,
    /// The wall clock at `started`, in microseconds since the Unix epoch.
    wall_micros: i64,
    offset_micros: AtomicI64,
    largest: Mutex<LargestOffset>,
}

/// The largest offset seen during the current period and the one before, in microseconds.
#[derive(Debug, Default)]
struct LargestOffset {
    period_start: Duration,
    current: Option<i64>,
    previous: Option<i64>,
}

impl LargestOffset {
    /// Adds an offset and returns the best estimate. A slow message makes its offset too small, never too large, so the
    /// largest offset came with the fastest message.
    fn add(&mut self, at: Duration, offset: i64) -> i64 {
        if at.saturating_sub(self.period_start) >= PERIOD {
            self.period_start = at;
            self.previous = self.current.take();
        }
        self.current = self.current.max(Some(offset));
        self.current.max(self.previous).unwrap_or(offset)
    }
}

impl ServerClock {
    pub(crate) fn new() -> Self {
        let wall_micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        };
        Self { started: Instant::now(), wall_micros, offset_micros: AtomicI64::new(0), largest: Mutex::default() }
    }

    /// The server's time now, as estimated.
    pub(crate) fn now(&self) -> Timestamp {
        let offset = self.offset_micros.load(Ordering::Relaxed);
        Timestamp::from_micros(self.local_micros(self.started.elapsed()).saturating_add(offset))
    }

    /// Corrects the estimate by a message that has just arrived and that the server sent at `server_time`.
    pub(crate) fn observe(&self, server_time: Timestamp) {
        let at = self.started.elapsed();
        let offset = server_time.as_micros().saturating_sub(self.local_micros(at));
        self.offset_micros.store(lock(&self.largest).add(at, offset), Ordering::Relaxed);
    }

    /// Forgets all observations. Needed when another store answers: its clock may be another.
    pub(crate) fn forget_observations(&self) {
        *lock(&self.largest) = LargestOffset { period_start: self.started.elapsed(), ..LargestOffset::default() };
    }

    /// How far the server is ahead of this machine, in microseconds.
    pub(crate) fn offset_micros(&self) -> i64 {
        self.offset_micros.load(Ordering::Relaxed)
    }

    /// This machine's time at an instant, uncorrected, in microseconds since the Unix epoch.
    pub(crate) fn local_micros_at(&self, at: Instant) -> i64 {
        self.local_micros(at.saturating_duration_since(self.started))
    }

    fn local_micros(&self, since_start: Duration) -> i64 {
        self.wall_micros.saturating_add(micros(since_start))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fastest_message_of_two_periods_sets_the_offset() {
        let mut largest = LargestOffset::default();
        assert_eq!(largest.add(Duration::from_secs(1), -500), -500);
        assert_eq!(largest.add(Duration::from_secs(2), -100), -100, "a faster message");
        assert_eq!(largest.add(Duration::from_secs(3), -900), -100, "a slower message");
        assert_eq!(largest.add(PERIOD * 2, -300), -100, "the previous period still counts");
        assert_eq!(largest.add(PERIOD * 4, -300), -300, "older periods do not count");
    }

    #[test]
    fn clock_shows_the_server_time_after_one_message() {
        let clock = ServerClock::new();
        let hour = Duration::from_secs(3600);
        let server = clock.now().plus(hour);
        clock.observe(server);
        assert!(clock.now() >= server, "at least the time in the message");
        assert!(clock.now() < server.plus(hour), "and not much later");
    }
}
