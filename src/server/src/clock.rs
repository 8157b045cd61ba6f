//! The wall's clock, made to go one way. If the machine's clock is set back, time stands still here until it has caught
//! up: no tick runs twice, no revision un-happens, and the operator is told.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inroad_assignment::Timestamp;

/// How far back the clock may jump without a word: what NTP does all the time.
const SLACK: Duration = Duration::from_secs(1);

/// A clock that never goes back.
#[derive(Debug)]
pub struct WallClock {
    highest_micros: AtomicI64,
    warned: AtomicBool,
}

impl WallClock {
    /// A clock that has already shown `highest`, say the newest instant that the store knows of.
    pub fn starting_at(highest: Timestamp) -> Self {
        Self { highest_micros: AtomicI64::new(highest.as_micros()), warned: AtomicBool::new(false) }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let highest = self.highest_micros.fetch_max(micros, Ordering::Relaxed).max(micros);
        let behind = Timestamp::from_micros(highest).since(Timestamp::from_micros(micros));
        if behind > SLACK {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    behind_seconds = behind.as_secs(),
                    "the machine's clock went back: time stands still for Inroad until it has caught up; check NTP"
                );
            }
        } else if self.warned.load(Ordering::Relaxed) {
            self.warned.store(false, Ordering::Relaxed);
        }
        Timestamp::from_micros(highest)
    }

    /// How far the machine's clock is behind what was shown; 0 unless it was set back.
    pub fn behind(&self) -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.highest_micros.load(Ordering::Relaxed)).since(Timestamp::from_micros(micros))
    }
}
