//! What both clocks showed when the server last ran, in a small file of the data folder. With it a jump is noticed even
//! if the server was restarted meanwhile.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use inroad_assignment::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AcceptedJump, MAX_FOLLOWED_STEP, Reading};

/// The file in the data folder. It describes the machine, not the data, so a backup does not contain it.
const FILE: &str = "clock.json";
/// NTP changes the speed of a clock by at most 1 in 2,000; a poor clock without NTP is off by less.
const MAX_DRIFT_DIVISOR: u32 = 1_000;

/// What the clocks showed at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAnchor {
    /// The server's time.
    #[serde(rename = "time_micros")]
    pub time: Timestamp,
    /// The server's time minus the steady clock, in microseconds.
    difference_micros: i64,
    /// The start of the machine from which the steady clock counts, in 32 hex digits.
    boot_id: Option<String>,
    /// An accepted jump that the experiments do not follow yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unfollowed_jump: Option<AcceptedJump>,
}

impl ClockAnchor {
    pub(super) fn new(time: Timestamp, difference_micros: i64, boot_id: Option<u128>) -> Self {
        Self { time, difference_micros, boot_id: boot_id.map(hex), unfollowed_jump: None }
    }

    /// The difference between the clocks that is expected now; `None` if the machine was started again since.
    pub(super) fn expected_difference(&self, reading: &Reading) -> Option<i64> {
        let boot_id = reading.boot_id.map(hex);
        if boot_id.is_none() || boot_id != self.boot_id {
            return None;
        }
        let steady = i64::try_from(reading.steady.as_micros()).unwrap_or(i64::MAX);
        let expected_now = Timestamp::from_micros(steady.saturating_add(self.difference_micros));
        // The wall clock may have been corrected slowly while the server did not run.
        let tolerance = MAX_FOLLOWED_STEP + expected_now.since(self.time) / MAX_DRIFT_DIVISOR;
        let moved = Duration::from_micros(reading.difference().saturating_sub(self.difference_micros).unsigned_abs());
        Some(if moved <= tolerance { reading.difference() } else { self.difference_micros })
    }

    /// Reads the anchor of a data folder; `None` if there is none, or it cannot be read.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read(folder.join(FILE)).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, file = FILE, "ignored an unreadable record of the clocks"))
            .ok()
    }

    /// Writes the anchor, so that a crash leaves the old one or the new one. The new one is on disk when this returns.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let (new, file) = (folder.join("clock.json.new"), folder.join(FILE));
        let mut written = File::create(&new)?;
        written.write_all(&serde_json::to_vec(self)?)?;
        written.sync_all()?;
        std::fs::rename(new, file)?;
        File::open(folder)?.sync_all()
    }
}

fn hex(boot_id: u128) -> String {
    format!("{boot_id:032x}")
}
