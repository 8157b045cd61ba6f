//! Deadlines for waits whose length the caller chooses, including `Duration::MAX`.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait: 30 years. Adding much more than this to an `Instant` could overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The instant `within` from now, at most 30 years ahead.
pub(crate) fn deadline_after(within: Duration) -> Instant {
    Instant::now() + within.min(LONGEST_WAIT)
}
