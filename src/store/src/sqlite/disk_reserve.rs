//! Space on the disk that is kept for kills, restores and pauses, so that a full disk never prevents them.
//!
//! ```text
//!  disk full ──► events, counts, other changes: refused          reserve: untouched
//!            ──► a kill: refused by SQLite ──► release a part ──► stored at the second attempt
//!                                                 │
//!                                                 └► until the reserve is whole again, everything else is refused at
//!                                                    once: it would take the space from the next kill
//! ```
//!
//! The reserve is a file in the data folder. Once a second at most, a refused write tries to make it whole again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::maintenance::DiskState;

/// The file in the data folder. A backup does not contain it.
const FILE: &str = "reserve";
/// How much is released at once, in bytes: several times what one change of most experiments needs. A larger one takes
/// several parts.
const PART: u64 = 1 << 20;
/// The least time between two attempts to make the reserve whole.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(1);

/// The reserve.
#[derive(Debug)]
pub(super) struct DiskReserve {
    path: PathBuf,
    /// Its size when it is whole, in bytes.
    whole: u64,
    /// Its size now.
    bytes: AtomicU64,
    /// Whether the last write found the disk full.
    is_full: AtomicBool,
    last_attempt: Mutex<Option<Instant>>,
}

impl DiskReserve {
    /// The reserve as an earlier process left it. [`Self::make_whole`] must follow once the store is open.
    pub(super) fn open(folder: &Path, whole: u64) -> Self {
        let path = folder.join(FILE);
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        let (bytes, last_attempt) = (AtomicU64::new(bytes.min(whole)), Mutex::default());
        Self { path, whole, bytes, is_full: AtomicBool::new(false), last_attempt }
    }

    /// The state, for operators.
    pub(super) fn state(&self) -> DiskState {
        DiskState {
            is_full: self.is_full.load(Ordering::Relaxed) || self.is_short(),
            reserve_bytes: self.bytes.load(Ordering::Relaxed),
            whole_reserve_bytes: self.whole,
        }
    }

    /// Refuses a write that can wait, unless the reserve is whole. Blocks.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`].
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.is_short() && !self.try_to_make_whole() {
            return Err(StoreError::DiskFull { path: self.path.parent().unwrap_or(&self.path).display().to_string() });
        }
        Ok(())
    }

    /// Runs a write that can wait. Blocks.
    pub(super) fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check()?;
        let written = write();
        self.observe(written.as_ref().err());
        written
    }

    /// Runs a write that must succeed on a full disk as well. Blocks.
    pub(super) fn write_urgently<T>(&self, mut write: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match write() {
                Err(StoreError::DiskFull { .. }) if self.release_part() => {}
                written => {
                    self.observe(written.as_ref().err());
                    return written;
                }
            }
        }
    }

    /// Takes note of a write: its error, or none if something was written.
    pub(super) fn observe(&self, error: Option<&StoreError>) {
        match error {
            None => self.is_full.store(false, Ordering::Relaxed),
            Some(StoreError::DiskFull { .. }) => self.is_full.store(true, Ordering::Relaxed),
            Some(_) => {}
        }
    }

    fn is_short(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < self.whole
    }

    /// Gives a part of the reserve to the disk; false if nothing is left.
    fn release_part(&self) -> bool {
        let _one_at_a_time = self.last_attempt.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let left = bytes.saturating_sub(PART);
        let released = bytes > 0 && self.resize(left).is_ok();
        if released {
            self.bytes.store(left, Ordering::Relaxed);
            tracing::error!(
                released_bytes = bytes - left,
                left_bytes = left,
                "the disk is full: a part of the reserve was released for a kill, restore or pause; free space on the disk"
            );
        }
        released
    }

    /// Tries again, unless that was tried a moment ago.
    fn try_to_make_whole(&self) -> bool {
        {
            let mut last = self.last_attempt.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < ATTEMPT_INTERVAL) {
                return !self.is_short();
            }
            *last = Some(Instant::now());
        }
        self.make_whole()
    }

    /// Makes the reserve whole, if the disk has room; false if not. Without it, events are refused until there is room,
    /// but kills have what is left.
    pub(super) fn make_whole(&self) -> bool {
        let _one_at_a_time = self.last_attempt.lock().unwrap_or_else(PoisonError::into_inner);
        // What the disk has room for is kept, even if it is not all.
        let mut bytes = self.bytes.load(Ordering::Relaxed);
        while bytes < self.whole {
            let next = (bytes + PART).min(self.whole);
            if let Err(error) = self.resize(next) {
                tracing::warn!(%error, bytes, whole = self.whole, "the disk has no room for the reserve");
                let _ = self.resize(bytes);
                break;
            }
            bytes = next;
            self.bytes.store(bytes, Ordering::Relaxed);
        }
        bytes >= self.whole
    }

    fn resize(&self, bytes: u64) -> std::io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(&self.path)?;
        let now = file.metadata()?.len();
        if bytes > now { allocate(&file, now, bytes - now) } else { file.set_len(bytes) }
    }
}

/// Takes space on the disk for a part of a file.
#[cfg(target_os = "linux")]
fn allocate(file: &File, from: u64, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => fill(file, from, bytes),
        done => Ok(done?),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, from: u64, bytes: u64) -> std::io::Result<()> {
    fill(file, from, bytes)
}

/// Writes the part, on systems that cannot take space otherwise.
fn fill(mut file: &File, from: u64, bytes: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(from))?;
    // Not zeros, which some file systems do not store.
    let block: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut left = bytes;
    while left > 0 {
        let part = left.min(block.len() as u64);
        file.write_all(&block[..part as usize])?;
        left -= part;
    }
    file.sync_data()
}
