//! The server's clock as it is known here, so that a client whose own clock is off still flips with the others (I4).

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use inroad_assignment::Timestamp;

use crate::report::lock;

/// After two of these, what was learnt of the server's clock is forgotten, so that drift cannot add up.
const PERIOD: Duration = Duration::from_secs(600);

/// The machine's wall clock at the start, carried on by its steady clock (somebody setting the wall clock moves
/// nothing here), and corrected by what the server says.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    wall: i64,
    offset: AtomicI64,
    window: Mutex<Window>,
}

/// The largest offset seen, over the period that runs and the one before it.
#[derive(Debug, Default)]
struct Window {
    begun: Duration,
    current: Option<i64>,
    previous: Option<i64>,
}

impl Window {
    /// A message that took long says too little, never too much: the largest offset came by the fastest message.
    fn hear(&mut self, at: Duration, offset: i64) -> i64 {
        if at.saturating_sub(self.begun) >= PERIOD {
            self.begun = at;
            self.previous = self.current.take();
        }
        self.current = self.current.max(Some(offset));
        self.current.max(self.previous).unwrap_or(offset)
    }
}

impl Clock {
    pub(crate) fn new() -> Self {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        };
        Self { started: Instant::now(), wall, offset: AtomicI64::new(0), window: Mutex::default() }
    }

    /// What the server's clock shows now.
    pub(crate) fn now(&self) -> Timestamp {
        let offset = self.offset.load(Ordering::Relaxed);
        Timestamp::from_micros(self.local(self.started.elapsed()).saturating_add(offset))
    }

    /// A message has just come that the server sent at `server_time`.
    pub(crate) fn hear(&self, server_time: Timestamp) {
        let at = self.started.elapsed();
        let offset = server_time.as_micros().saturating_sub(self.local(at));
        self.offset.store(lock(&self.window).hear(at, offset), Ordering::Relaxed);
    }

    /// Another store has another clock: forgets what was heard.
    pub(crate) fn forget(&self) {
        *lock(&self.window) = Window { begun: self.started.elapsed(), ..Window::default() };
    }

    /// How far the server is ahead of this machine, in microseconds.
    pub(crate) fn offset_micros(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// What this machine's clock showed at an instant, in microseconds since the epoch.
    pub(crate) fn local_at(&self, at: Instant) -> i64 {
        self.local(at.saturating_duration_since(self.started))
    }

    fn local(&self, at: Duration) -> i64 {
        self.wall.saturating_add(micros(at))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// As far ahead as anybody waits.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The end of a time from now on, which may be longer than the clock can tell.
pub(crate) fn deadline(within: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + within.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_message_of_the_last_two_periods_decides_the_offset() {
        let mut window = Window::default();
        assert_eq!(window.hear(Duration::from_secs(1), -500), -500);
        assert_eq!(window.hear(Duration::from_secs(2), -100), -100, "it came faster");
        assert_eq!(window.hear(Duration::from_secs(3), -900), -100, "it came slower");
        assert_eq!(window.hear(PERIOD * 2, -300), -100, "the period before still counts");
        assert_eq!(window.hear(PERIOD * 4, -300), -300, "what is two periods old does not");
    }

    #[test]
    fn the_clock_shows_the_servers_time_once_it_was_heard() {
        let clock = Clock::new();
        let hour = Duration::from_secs(3600);
        let server = clock.now().plus(hour);
        clock.hear(server);
        assert!(clock.now() >= server, "at least what the server said");
        assert!(clock.now() < server.plus(hour), "and not much more");
    }
}
