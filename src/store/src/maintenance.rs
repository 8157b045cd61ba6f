//! Operators' requests to a store: forget a unit, and make a copy.

use inroad_assignment::Timestamp;

use crate::event::Seq;

/// A request to forget a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetRequest {
    /// The unit's type: the context attribute that names it.
    pub unit_type: String,
    /// Its raw key, 1 to 1,024 bytes.
    pub unit: String,
    /// Who requests it, for the audit log.
    pub actor: String,
    /// When, by the server's clock.
    pub at: Timestamp,
}

/// The result of forgetting a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetResult {
    /// The unit's name in the audit log: its digest by type and key, as 32 hex digits.
    pub digest: String,
    /// How many events contained its raw key and no longer do.
    pub events: u64,
    /// How many events still contain it, because the fold or a named consumer has not read them yet.
    pub waiting: u64,
}

/// A summary of a copy of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// The number of experiments in it.
    pub experiments: u64,
    /// The last place in its log.
    pub head: Seq,
    /// The place of its last folded event; never beyond its log.
    pub folded: Seq,
    /// The size of its files, in bytes.
    pub bytes: u64,
}

/// The disk of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskState {
    /// Whether the last write found the disk full, or the reserve is not whole: then everything but urgent changes is
    /// refused.
    pub is_full: bool,
    /// The space that is kept for kills, restores and pauses, in bytes.
    pub reserve_bytes: u64,
    /// The same if it is whole.
    pub whole_reserve_bytes: u64,
}
