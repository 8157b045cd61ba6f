//! What one stream was sent and what its client applied: the last few versions with their times.

use std::collections::VecDeque;

use inroad_assignment::Timestamp;

use crate::config::MAX_STEPS_PER_STREAM;

/// One version at one client.
#[derive(Debug, Clone, Copy)]
pub(super) struct VersionStep {
    pub(super) version: u64,
    pub(super) sent_at: Timestamp,
    pub(super) applied_at: Option<Timestamp>,
}

/// The part of a stream's state that changes while it is open.
#[derive(Debug, Default)]
pub(super) struct StreamProgress {
    /// The versions sent last, oldest first.
    pub(super) steps: VecDeque<VersionStep>,
    /// The newest version whose step was dropped to make room.
    pub(super) newest_dropped: u64,
    /// The newest version that the client reported as applied, and when it applied it.
    pub(super) applied: Option<(u64, Timestamp)>,
    pub(super) reported_at: Option<Timestamp>,
    pub(super) dropped_exposures: u64,
    pub(super) dropped_outcomes: u64,
    pub(super) queued_events: u64,
}

impl StreamProgress {
    /// The newest version sent; 0 before the first.
    pub(super) fn sent_version(&self) -> u64 {
        self.steps.back().map_or(0, |step| step.version)
    }

    /// Records that a version was sent.
    pub(super) fn record_sent(&mut self, version: u64, sent_at: Timestamp) {
        // A heartbeat repeats the version.
        if version <= self.sent_version() {
            return;
        }
        if self.steps.len() >= MAX_STEPS_PER_STREAM
            && let Some(oldest) = self.steps.pop_front()
        {
            self.newest_dropped = oldest.version;
        }
        self.steps.push_back(VersionStep { version, sent_at, applied_at: None });
    }

    /// Records that the client has had a version since `at`. A version that was never sent to it is ignored: it may be
    /// from a store that was replaced by an older copy. A version reported for the first time is added to `fresh`.
    pub(super) fn record_applied(
        &mut self,
        version: u64,
        at: Timestamp,
        now: Timestamp,
        fresh: &mut Vec<(u64, Timestamp)>,
    ) {
        if version > self.sent_version() {
            return;
        }
        let mut at = at.min(now);
        if let Ok(index) = self.steps.binary_search_by_key(&version, |step| step.version)
            && let Some(step) = self.steps.get_mut(index)
        {
            // The client's estimate of the server's clock may be off, but a version is never applied before it was
            // sent.
            at = at.max(step.sent_at);
            if step.applied_at.is_some() {
                return;
            }
            step.applied_at = Some(at);
            fresh.push((version, at));
        }
        if self.applied.is_none_or(|(has, _)| version > has) {
            self.applied = Some((version, at));
        }
    }
}
