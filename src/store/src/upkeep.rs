//! What an operator asks of a store beside its work: to forget a unit, to be copied.

use inroad_assignment::Timestamp;

use crate::event::Seq;

/// A unit that is to be forgotten, and who wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    /// The context attribute that names it.
    pub unit_type: String,
    /// Its raw key, 1 to 1,024 bytes.
    pub unit: String,
    /// Who asks, for the audit log.
    pub actor: String,
    /// When, by the server's clock.
    pub at: Timestamp,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// What the audit log calls the unit: its digest by type and key, as 32 hex digits.
    pub digest: String,
    /// Events that had its raw key and have it no more.
    pub events: u64,
    /// Events that still have it, because the fold or a named consumer has yet to read them.
    pub waiting: u64,
}

/// A copy of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Experiments in it.
    pub experiments: u64,
    /// The last place in its log.
    pub head: Seq,
    /// How far its counts have come; never beyond its log.
    pub folded: Seq,
    /// The size of its files, in bytes.
    pub bytes: u64,
}
