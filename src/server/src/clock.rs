//! The wall clock, made monotone. If the machine's clock is set back, time stops here until the machine's clock has
//! caught up: no tick runs twice, no revision becomes future again, and the operator gets an error in the log.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inroad_assignment::Timestamp;

/// Backward steps up to this size are not reported: NTP makes them all the time.
const UNREPORTED_STEP: Duration = Duration::from_secs(1);

/// A clock that never goes back.
#[derive(Debug)]
pub struct WallClock {
    highest_micros: AtomicI64,
    has_warned: AtomicBool,
}

impl WallClock {
    /// A clock that never shows less than `highest`, for example the newest instant in the store.
    pub fn starting_at(highest: Timestamp) -> Self {
        Self { highest_micros: AtomicI64::new(highest.as_micros()), has_warned: AtomicBool::new(false) }
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let highest = self.highest_micros.fetch_max(micros, Ordering::Relaxed).max(micros);
        let behind = Timestamp::from_micros(highest).since(Timestamp::from_micros(micros));
        if behind > UNREPORTED_STEP {
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    behind_seconds = behind.as_secs(),
                    "the machine's clock was set back: Inroad's time stops until it has caught up; check NTP"
                );
            }
        } else if self.has_warned.load(Ordering::Relaxed) {
            self.has_warned.store(false, Ordering::Relaxed);
        }
        Timestamp::from_micros(highest)
    }

    /// How far the machine's clock is behind the time shown here; zero unless it was set back.
    pub fn behind(&self) -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.highest_micros.load(Ordering::Relaxed)).since(Timestamp::from_micros(micros))
    }
}
