//! The wall clock, compared with the machine's steady clock so that one wrong reading of it cannot do damage.
//!
//! The steady clock counts the time since the machine started, also while the machine is suspended, and nobody can set
//! it. So the difference between both clocks is constant, but for the small corrections that NTP makes all the time.
//!
//! ```text
//!  difference from the trusted one       the server's time             decisions, deletions
//!  ───────────────────────────────       ─────────────────             ────────────────────
//!  at most 1 s                           the wall clock                as usual
//!  more: a jump                          by the steady clock           wait; /readyz and pages say why
//!     back within 1 s                    the wall clock                as usual; nothing has happened
//!     constant for 5 minutes,            the wall clock, at its        as usual
//!     or `inroad clock accept`           new reading
//! ```
//!
//! A suspended machine needs no case of its own, because the steady clock counts that time. A paused virtual machine
//! shows a jump when its clock is corrected. After a restart of the server, the [`ClockAnchor`] in the data folder says
//! what both clocks showed; after a reboot there is nothing to compare, and the wall clock is believed unless it shows
//! less than the data.
//!
//! If an accepted jump goes back, the server's time does as well, but the time of an experiment never does:
//! `Experiment::now`.

mod anchor;
mod source;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use inroad_assignment::{Experiment, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::ServerError;

pub use anchor::ClockAnchor;
pub use source::{MachineTime, Reading, TimeSource};

/// The largest step of the wall clock that is followed at once. NTP makes such steps.
pub const MAX_FOLLOWED_STEP: Duration = Duration::from_secs(1);
/// How long the wall clock must agree with the steady one after a jump before its new reading is accepted.
pub const SETTLING_TIME: Duration = Duration::from_secs(300);
/// How many readings must show a jump.
const READINGS_OF_A_JUMP: usize = 3;
/// Differences up to this size are not stored, so that calls at the same time do not write the same memory.
const STORED_STEP_MICROS: i64 = 1_000;

/// A clock that follows the wall clock as long as that agrees with the steady clock.
#[derive(Debug)]
pub struct WallClock {
    source: Box<dyn TimeSource>,
    /// The trusted wall clock minus the steady clock, in microseconds.
    trusted_difference: AtomicI64,
    /// The highest time shown, in microseconds since the Unix epoch. Time stops during a small step back.
    highest: AtomicI64,
    has_jumped: AtomicBool,
    jump: Mutex<Option<Jump>>,
    accepted: watch::Sender<AcceptedJump>,
    jumps: AtomicI64,
}

/// A jump of the wall clock that is not accepted.
#[derive(Debug, Clone, Copy)]
struct Jump {
    /// The wall clock minus the steady clock, in microseconds.
    difference: i64,
    /// The steady clock since when this difference is constant.
    since: Duration,
}

/// The last jump that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AcceptedJump {
    /// The server's time just before.
    #[serde(rename = "from_micros")]
    pub from: Timestamp,
    /// The server's time just after; earlier than `from` if the clock was set back.
    #[serde(rename = "to_micros")]
    pub to: Timestamp,
}

impl AcceptedJump {
    fn log(&self) {
        tracing::warn!(
            from_micros = self.from.as_micros(),
            to_micros = self.to.as_micros(),
            "accepted the new reading of the machine's clock"
        );
    }
}

/// What the clock shows, and whether it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStatus {
    /// The server's time.
    pub now: Timestamp,
    /// The machine's wall clock.
    pub machine: Timestamp,
    /// The jump, if the wall clock has jumped and the new reading is not accepted.
    pub jump: Option<ClockJump>,
}

/// A jump that is not accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockJump {
    /// How far the wall clock is from the server's time, in microseconds: positive if it is ahead.
    pub ahead_micros: i64,
    /// How long both clocks have agreed since the jump.
    pub settled_for: Duration,
}

impl ClockJump {
    /// How far the wall clock is from the server's time, and in which direction, for people.
    pub fn describe(&self) -> String {
        let distance = Duration::from_micros(self.ahead_micros.unsigned_abs());
        let distance = humantime::format_duration(Duration::from_secs(distance.as_secs().max(1)));
        format!("{distance} {}", if self.ahead_micros > 0 { "ahead" } else { "back" })
    }

    /// The time after which the new reading is accepted, if the clock does not jump again.
    pub fn resumes_in(&self) -> Duration {
        SETTLING_TIME.saturating_sub(self.settled_for)
    }
}

impl WallClock {
    /// A clock that continues from what was known when the server last ran. Without an anchor, it shows no less than
    /// `newest`, the newest instant in the store, unless the wall clock stays behind that for the settling time.
    pub fn start(source: Box<dyn TimeSource>, newest: Timestamp, anchor: Option<&ClockAnchor>) -> Self {
        let reading = source.read();
        let trusted = match anchor.and_then(|anchor| anchor.expected_difference(&reading)) {
            // The same boot: both clocks have run on.
            Some(expected) => expected,
            None => {
                let earliest = anchor.map_or(newest, |anchor| anchor.time);
                let is_plausible = reading.wall.plus(MAX_FOLLOWED_STEP) >= earliest;
                if is_plausible { reading.difference() } else { difference(earliest, reading.steady) }
            }
        };
        Self {
            source,
            trusted_difference: AtomicI64::new(trusted),
            highest: AtomicI64::new(i64::MIN),
            has_jumped: AtomicBool::new(false),
            jump: Mutex::default(),
            accepted: watch::Sender::new(AcceptedJump::default()),
            jumps: AtomicI64::new(0),
        }
    }

    /// The server's time.
    pub fn now(&self) -> Timestamp {
        let mut reading = self.source.read();
        // On a busy machine the thread may have lost its core between the readings of the two clocks.
        for _ in 0..READINGS_OF_A_JUMP {
            let moved = reading.difference().saturating_sub(self.trusted_difference.load(Ordering::Relaxed));
            if self.has_jumped.load(Ordering::Relaxed) {
                break;
            }
            if is_small(moved) {
                if moved.abs() > STORED_STEP_MICROS {
                    self.trusted_difference.store(reading.difference(), Ordering::Relaxed);
                }
                return self.not_before(reading.wall);
            }
            reading = self.source.read();
        }
        self.examine(&reading)
    }

    /// Whether the wall clock has jumped and its reading is not accepted. Then nothing is decided or deleted by it.
    pub fn has_jumped(&self) -> bool {
        let _ = self.now();
        self.has_jumped.load(Ordering::Relaxed)
    }

    /// Refuses a change of an experiment that needs the right time and can wait, such as its start.
    ///
    /// # Errors
    /// [`ServerError::ClockJumped`] if the experiment uses the wall clock and that has jumped.
    pub fn check_for(&self, experiment: &Experiment) -> Result<(), ServerError> {
        if experiment.manual_now.is_some() { Ok(()) } else { self.check() }
    }

    /// Refuses what needs the right time and can wait.
    ///
    /// # Errors
    /// [`ServerError::ClockJumped`] if the clock has jumped and its reading is not accepted.
    pub fn check(&self) -> Result<(), ServerError> {
        match self.status().jump {
            Some(jump) => {
                let retry_after = jump.resumes_in().clamp(Duration::from_secs(1), Duration::from_secs(30));
                Err(ServerError::ClockJumped { jump: jump.describe(), retry_after })
            }
            None => Ok(()),
        }
    }

    /// What the clock shows, and whether it is trusted.
    pub fn status(&self) -> ClockStatus {
        let now = self.now();
        let reading = self.source.read();
        let jump = self.lock().map(|jump| ClockJump {
            ahead_micros: jump.difference.saturating_sub(self.trusted_difference.load(Ordering::Relaxed)),
            settled_for: reading.steady.saturating_sub(jump.since),
        });
        ClockStatus { now, machine: reading.wall, jump }
    }

    /// Accepts the reading of the wall clock at once, for a person who knows that it is right. Returns the jump that was
    /// accepted, if there was one.
    pub fn accept(&self) -> Option<AcceptedJump> {
        let reading = self.source.read();
        // Only memory is touched while the lock is held; the log is written afterwards.
        let mut jump = self.lock();
        let accepted = jump.is_some().then(|| self.accept_reading(&reading, &mut jump));
        drop(jump);
        accepted.inspect(AcceptedJump::log)
    }

    /// Receives each jump that is accepted; of several at almost the same time the last.
    pub fn accepted_jumps(&self) -> watch::Receiver<AcceptedJump> {
        self.accepted.subscribe()
    }

    /// The number of jumps noticed since the start.
    pub fn jumps(&self) -> i64 {
        self.jumps.load(Ordering::Relaxed)
    }

    /// What to remember for the next start of the server.
    pub fn anchor(&self) -> ClockAnchor {
        let now = self.now();
        ClockAnchor::new(now, self.trusted_difference.load(Ordering::Relaxed), self.source.read().boot_id)
    }

    #[cold]
    fn examine(&self, reading: &Reading) -> Timestamp {
        // Only memory is touched while the lock is held; the log is written afterwards.
        let mut jump = self.lock();
        let trusted = self.trusted_difference.load(Ordering::Relaxed);
        let difference = reading.difference();
        if is_small(difference.saturating_sub(trusted)) {
            let known = jump.take();
            self.trusted_difference.store(difference, Ordering::Relaxed);
            self.has_jumped.store(false, Ordering::Relaxed);
            drop(jump);
            if known.is_some() {
                tracing::warn!("the machine's clock agrees with Inroad's time again; decisions continue");
            }
            return self.not_before(reading.wall);
        }
        match jump.as_mut() {
            Some(known) if is_small(difference.saturating_sub(known.difference)) => {
                known.difference = difference;
                if reading.steady.saturating_sub(known.since) >= SETTLING_TIME {
                    let accepted = self.accept_reading(reading, &mut jump);
                    drop(jump);
                    accepted.log();
                    return self.not_before(reading.wall);
                }
            }
            _ => {
                *jump = Some(Jump { difference, since: reading.steady });
                self.jumps.fetch_add(1, Ordering::Relaxed);
                self.has_jumped.store(true, Ordering::Relaxed);
                drop(jump);
                let ahead_micros = difference.saturating_sub(trusted);
                let jumped = ClockJump { ahead_micros, settled_for: Duration::ZERO };
                tracing::error!(
                    jump = jumped.describe(),
                    settling_seconds = SETTLING_TIME.as_secs(),
                    "the machine's clock jumped: Inroad's time continues by the steady clock, and decisions wait until \
                     both agree; `inroad clock accept` accepts the new reading at once"
                );
            }
        }
        let steady = i64::try_from(reading.steady.as_micros()).unwrap_or(i64::MAX);
        self.not_before(Timestamp::from_micros(steady.saturating_add(trusted)))
    }

    fn accept_reading(&self, reading: &Reading, jump: &mut Option<Jump>) -> AcceptedJump {
        let from = Timestamp::from_micros(self.highest.load(Ordering::Relaxed));
        *jump = None;
        self.trusted_difference.store(reading.difference(), Ordering::Relaxed);
        // The only place where the server's time may go back.
        self.highest.store(reading.wall.as_micros(), Ordering::Relaxed);
        self.has_jumped.store(false, Ordering::Relaxed);
        let accepted = AcceptedJump { from, to: reading.wall };
        self.accepted.send_replace(accepted);
        accepted
    }

    /// `time`, or the highest time shown before if that is later.
    fn not_before(&self, time: Timestamp) -> Timestamp {
        let micros = time.as_micros();
        Timestamp::from_micros(self.highest.fetch_max(micros, Ordering::Relaxed).max(micros))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Jump>> {
        self.jump.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a step of the wall clock is followed at once.
fn is_small(step_micros: i64) -> bool {
    u128::from(step_micros.unsigned_abs()) <= MAX_FOLLOWED_STEP.as_micros()
}

/// A wall clock minus a steady clock, in microseconds.
fn difference(wall: Timestamp, steady: Duration) -> i64 {
    wall.as_micros().saturating_sub(i64::try_from(steady.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
