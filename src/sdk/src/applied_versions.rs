//! Which snapshot versions this client has applied, since when, and when the next report about them is due. The task in
//! [`client_reports`](crate::client_reports) sends the reports.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::random_range;
use tokio::time::sleep_until;

use crate::lock::lock;

/// The delay of a report after a change, in milliseconds. At least 50 ms, so that a thousand clients do not answer a
/// kill while the server is still sending it to the others.
const DELAY_AFTER_CHANGE_MS: std::ops::RangeInclusive<u64> = 50..=300;
/// The delay of a report after the previous one, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 9_000..=11_000;
/// The most versions that the server accepts in one report.
const MAX_VERSIONS: usize = 64;
/// How long a reading of the server's clock is preferred to slower ones. After that, drift may have made it worse.
const MAX_READING_AGE: Duration = Duration::from_secs(60);

/// A snapshot version and when evaluations began to use it.
pub(crate) type AppliedVersion = (u64, Instant);

/// The applied versions, and the random id under which the server lists this client.
#[derive(Debug)]
pub(crate) struct AppliedVersions {
    client_id: String,
    pending: Mutex<PendingReport>,
}

#[derive(Debug)]
struct PendingReport {
    due: Instant,
    /// The version in use.
    current: Option<AppliedVersion>,
    /// Versions that were applied and not reported yet, oldest first.
    unreported: VecDeque<AppliedVersion>,
    clock_reading: Option<ClockReading>,
}

/// The server's clock as read from the round trip of a report.
#[derive(Debug, Clone, Copy)]
struct ClockReading {
    at: Instant,
    round_trip: Duration,
    /// How far the server is ahead of this machine, in microseconds.
    offset_micros: i64,
}

impl AppliedVersions {
    pub(crate) fn new() -> Self {
        let pending =
            PendingReport { due: Instant::now(), current: None, unreported: VecDeque::new(), clock_reading: None };
        Self { client_id: format!("{:032x}", rand::random::<u128>()), pending: Mutex::new(pending) }
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Evaluations use another version from now on.
    pub(crate) fn record_applied(&self, version: u64) {
        let now = Instant::now();
        let mut pending = lock(&self.pending);
        pending.current = Some((version, now));
        if pending.unreported.len() >= MAX_VERSIONS {
            pending.unreported.pop_front();
        }
        pending.unreported.push_back((version, now));
        pending.due = pending.due.min(soon_after(now));
    }

    /// A new stream was opened. Versions received on an earlier stream are not reported to this server, and its clock
    /// may be another.
    pub(crate) fn start_stream(&self) {
        let mut pending = lock(&self.pending);
        pending.unreported.clear();
        pending.clock_reading = None;
        pending.due = soon_after(Instant::now());
    }

    /// Resolves when a report is due. Only the task that polls this may bring that instant forward, and it must do so
    /// before it polls.
    pub(crate) async fn wait_until_due(&self) {
        let mut sleep = pin!(sleep_until(self.due_at()));
        poll_fn(|context| {
            let due = self.due_at();
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            sleep.as_mut().poll(context)
        })
        .await;
    }

    fn due_at(&self) -> tokio::time::Instant {
        lock(&self.pending).due.into()
    }

    /// The versions to report now, oldest first: those not reported yet, or the current one if there are none.
    /// Schedules the next report.
    pub(crate) fn begin_report(&self) -> Vec<AppliedVersion> {
        let mut pending = lock(&self.pending);
        pending.due = Instant::now() + Duration::from_millis(random_range(INTERVAL_MS));
        match pending.unreported.is_empty() {
            true => pending.current.into_iter().collect(),
            false => pending.unreported.iter().copied().collect(),
        }
    }

    /// The server has accepted a report with all versions up to `version`.
    pub(crate) fn mark_reported(&self, version: u64) {
        lock(&self.pending).unreported.retain(|(applied, _)| *applied > version);
    }

    /// Records the clock offset computed from the round trip of a report. A shorter round trip gives a better reading.
    pub(crate) fn record_clock_reading(&self, at: Instant, round_trip: Duration, offset_micros: i64) {
        let mut pending = lock(&self.pending);
        let is_better =
            |old: ClockReading| old.round_trip < round_trip && at.saturating_duration_since(old.at) < MAX_READING_AGE;
        if !pending.clock_reading.is_some_and(is_better) {
            pending.clock_reading = Some(ClockReading { at, round_trip, offset_micros });
        }
    }

    /// The best reading of how far the server is ahead of this machine, in microseconds.
    pub(crate) fn clock_offset_micros(&self) -> Option<i64> {
        lock(&self.pending).clock_reading.map(|reading| reading.offset_micros)
    }
}

fn soon_after(now: Instant) -> Instant {
    now + Duration::from_millis(random_range(DELAY_AFTER_CHANGE_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_due_soon_after_a_change_and_later_changes_do_not_delay_it() {
        let versions = AppliedVersions::new();
        lock(&versions.pending).due = Instant::now() + Duration::from_secs(10);
        versions.record_applied(1);
        let due = versions.due_at();
        let wait = due.duration_since(tokio::time::Instant::now());
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(300), "{wait:?}");
        versions.record_applied(2);
        assert!(versions.due_at() <= due);
        versions.mark_reported(1);
        let unreported: Vec<u64> = lock(&versions.pending).unreported.iter().map(|(version, _)| *version).collect();
        assert_eq!(unreported, [2]);
    }

    #[test]
    fn unreported_versions_are_limited_to_the_newest() {
        let versions = AppliedVersions::new();
        (0..1_000).for_each(|version| versions.record_applied(version));
        let pending = lock(&versions.pending);
        let newest = pending.unreported.back().map(|(version, _)| *version);
        assert_eq!((pending.unreported.len(), newest), (MAX_VERSIONS, Some(999)));
    }

    #[test]
    fn client_ids_are_unique() {
        assert_ne!(AppliedVersions::new().client_id(), AppliedVersions::new().client_id());
    }
}
