//! The clocks of the machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inroad_assignment::Timestamp;

use super::difference;

/// One reading of both clocks of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, which people and NTP can set.
    pub wall: Timestamp,
    /// The time since the machine started, suspended time included. Nobody can set it.
    pub steady: Duration,
    /// Which start of the machine `steady` counts from; `None` if that is unknown.
    pub boot_id: Option<u128>,
}

impl Reading {
    /// The wall clock minus the steady clock, in microseconds.
    pub(super) fn difference(&self) -> i64 {
        difference(self.wall, self.steady)
    }
}

/// Reads the clocks of a machine.
pub trait TimeSource: std::fmt::Debug + Send + Sync + 'static {
    /// Both clocks, read at almost the same instant.
    fn read(&self) -> Reading;
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy)]
pub struct MachineTime;

impl TimeSource for MachineTime {
    fn read(&self) -> Reading {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        Reading { wall, steady: steady_time(), boot_id: *BOOT_ID }
    }
}

/// Linux counts suspended time in a clock of its own. Elsewhere a suspended machine shows a jump when it resumes.
#[cfg(target_os = "linux")]
const STEADY_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const STEADY_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

fn steady_time() -> Duration {
    let time = rustix::time::clock_gettime(STEADY_CLOCK);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// Linux draws a new id at each start of the machine.
static BOOT_ID: std::sync::LazyLock<Option<u128>> = std::sync::LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
});
