//! Everything that Inroad stores: the trait [`Store`], and SQLite as its implementation.
//!
//! A store contains three kinds of data, each with its own rule:
//!
//! - **The catalogue** (experiments, revisions, decisions, audit log) changes by compare-and-set on an experiment's
//!   version, so several writers never overwrite each other's changes.
//! - **The log** of events is append-only. An event is acknowledged once it is on disk (I6).
//! - **The counts** (unit records and tallies) are computed from the log by the fold. Each fold transaction also moves
//!   the fold's offset in the log, so the counts are a function of the set of events, even after a crash (I5).
//!
//! ```text
//!              commit                append              fold
//!  people, policy ──► catalogue    events ──► log ──────────────► unit records, tallies
//!                         │                    │                         │
//!                         ▼ load               ▼ read_log                ▼ counts, funnel
//! ```
//!
//! Where to start reading: the trait below says what a store does; [`sqlite`] opens the three files and forwards each
//! call; `sqlite/fold.rs` explains how events become counts. The types in the trait's signatures are in [`catalogue`],
//! [`event`], [`counts`], [`funnel`] and [`maintenance`]. Every implementation must pass the contract suite in
//! `tests/contract`.

pub mod audit_chain;
pub mod cancellation;
pub mod catalogue;
pub mod counts;
pub mod error;
pub mod event;
pub mod funnel;
mod json_difference;
pub mod maintenance;
pub mod sqlite;
mod text_delta;
mod unit_record_codec;

use std::sync::Arc;

use async_trait::async_trait;
use inroad_assignment::{Experiment, ExperimentKey, Timestamp};

pub use audit_chain::{AuditHash, AuditVerification, ChainFault};
pub use cancellation::Cancellation;
pub use catalogue::{
    AuditContext, AuditEntry, AuditFilter, DecisionRecord, ExperimentChange, PageRequest, StoredDecision,
    StoredExperiment,
};
pub use counts::{FoldStep, GenerationCounts};
pub use error::StoreError;
pub use event::{Event, ExposureEvent, LoggedEvent, OutcomeEvent, Seq};
pub use funnel::{FunnelCounts, FunnelQuery};
pub use maintenance::{BackupSummary, DiskState, ForgetRequest, ForgetResult};
pub use sqlite::{PreparedChanges, SqliteOptions, SqliteStore};

/// Persistent storage for the catalogue, the log and the counts. Each replica of a server has its own instance;
/// replicas may share the database behind it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The permanent identity of the database, generated when it was created.
    fn store_id(&self) -> &str;

    /// The identity of the history to which new versions belong. Data can be replaced by an older copy of itself, which
    /// has the same store id; then versions with equal numbers differ. So each opening of a database that one process
    /// owns draws a new lineage. On a database that several processes share, the lineage belongs to the database.
    fn lineage_id(&self) -> &str;

    /// Whether this store's data contains everything up to `version` of a lineage, so that changes since then are all
    /// that a client with that version needs.
    fn continues(&self, lineage_id: &str, version: u64) -> bool;

    /// The version of the catalogue, and every experiment with its own version.
    async fn load(&self) -> Result<(u64, Vec<StoredExperiment>), StoreError>;

    /// Stores one change of one experiment: the experiment, its audit entry and its decision, all or nothing. Returns
    /// the new version of the catalogue, which is also the experiment's new version. An urgent change
    /// ([`ExperimentChange::is_urgent`]) is stored on a full disk as well.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the experiment is no longer at `change.expected_version`;
    /// [`StoreError::NotMonotone`] if a revision takes points from a variation (I2).
    async fn commit(&self, change: ExperimentChange) -> Result<u64, StoreError> {
        let versions = self.commit_all(vec![change]).await?;
        versions.first().copied().ok_or(StoreError::Conflict)
    }

    /// Stores many changes of different experiments in one transaction, all or nothing. Returns the new version of each
    /// experiment, in their order and ascending; the last is the new version of the catalogue.
    ///
    /// # Errors
    /// Those of [`Self::commit`], of the first change that fails; [`StoreError::ExperimentExists`] also if two changes
    /// create the same experiment.
    async fn commit_all(&self, changes: Vec<ExperimentChange>) -> Result<Vec<u64>, StoreError>;

    /// Computes what [`Self::commit_prepared`] stores, which takes longer than storing it. Nothing is stored yet.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] and [`StoreError::ExperimentExists`], as far as they are known already.
    async fn prepare(&self, changes: Vec<ExperimentChange>) -> Result<PreparedChanges, StoreError>;

    /// Stores prepared changes as [`Self::commit_all`] does: if an experiment was changed since, none is stored.
    ///
    /// # Errors
    /// Those of [`Self::commit_all`].
    async fn commit_prepared(&self, changes: PreparedChanges) -> Result<Vec<u64>, StoreError>;

    /// Audit entries, newest first, of one experiment or of all. Fewer than `page.limit` are no sign that there are no
    /// more, unless there are none: see [`PageRequest::max_bytes`].
    async fn audit(&self, experiment: Option<&ExperimentKey>, page: PageRequest)
    -> Result<Vec<AuditEntry>, StoreError>;

    /// The state of an experiment at a time by its own clock, as JSON: definition, status, kills, simulated time, alerts.
    /// The order of texts in lists may differ. `None` if the experiment did not exist then.
    async fn audited_state(&self, experiment: &ExperimentKey, at: Timestamp) -> Result<Option<String>, StoreError>;

    /// The number of audit entries that match a filter.
    async fn count_audit(&self, filter: AuditFilter) -> Result<usize, StoreError>;

    /// Audit entries of all experiments that match a filter, newest first, after the first `skip`: at most `limit`, with
    /// texts of at most `max_bytes` together, but at least one if there is one.
    async fn search_audit(
        &self,
        filter: AuditFilter,
        skip: usize,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<AuditEntry>, StoreError>;

    /// The policy's decisions on one generation, newest first. A record contains the whole input of the policy and is
    /// large in a long experiment: request only as many as are shown. [`PageRequest::max_bytes`] applies.
    async fn decisions(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        page: PageRequest,
    ) -> Result<Vec<StoredDecision>, StoreError>;

    /// The decision that made one revision of a generation; `None` if the revision was not made by a decision.
    async fn decision(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        revision: u32,
    ) -> Result<Option<DecisionRecord>, StoreError>;

    /// Appends events to the log and returns the place of the last one. The events are on disk when this returns.
    /// Several callers may share one commit. `received_at` is the server's clock.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] if the queue is full: no event was accepted; try again after the delay in the error.
    async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError>;

    /// The number of events that wait to be appended, or are being written.
    fn queued_events(&self) -> u64;

    /// The last place in the log; 0 if nothing was ever appended.
    fn head(&self) -> Seq;

    /// The fold's offset: the place of the last folded event.
    fn folded(&self) -> Seq;

    /// Folds the next events, at most `limit`, into unit records and tallies, in one transaction with the fold's
    /// offset. Events are attributed with the newest state of each experiment that was given in `experiments`: those that
    /// changed since the last successful call are enough, and only they cost time. If they contain changes that the counts
    /// do not reflect yet, such as revisions and kills, units are counted again first, in several short calls if needed:
    /// see [`FoldStep::is_behind`]. Call it from one task at a time.
    async fn fold(&self, experiments: Arc<Vec<Arc<Experiment>>>, limit: usize) -> Result<FoldStep, StoreError>;

    /// Whether the disk is full, and the space that is kept for kills.
    fn disk(&self) -> DiskState;

    /// The state of the counts of one generation, as a number of this process: while it stays the same, so do the counts.
    /// Read it before the counts, so that they are at least as new. It never waits.
    fn counts_state(&self, experiment: &ExperimentKey, generation: u32) -> u64;

    /// The tallies of one generation.
    async fn counts(&self, experiment: &ExperimentKey, generation: u32) -> Result<GenerationCounts, StoreError>;

    /// A funnel of one generation, counted at one moment from everything folded before the call. It is meant for
    /// people: one funnel is counted at a time, and other calls wait. It stops once [`FunnelQuery::cancellation`] says so.
    ///
    /// # Errors
    /// [`StoreError::CallerLeft`] if it was cancelled.
    async fn funnel(&self, query: FunnelQuery) -> Result<FunnelCounts, StoreError>;

    /// Reads the log: events after the place `after`, at most `limit`.
    async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError>;

    /// Stores how far a named consumer has read the log. The log keeps events that any named consumer has not read.
    async fn set_offset(&self, consumer: &str, offset: Seq) -> Result<(), StoreError>;

    /// How far a named consumer has read the log; 0 if it never stored an offset.
    async fn offset(&self, consumer: &str) -> Result<Seq, StoreError>;

    /// Deletes events that were received before `before` and that the fold and every named consumer have read. Returns
    /// how many were deleted. Their counts stay. It works in batches, so an append waits for at most one of them.
    async fn prune_log(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Blanks the raw key of one unit in all events of the log that the fold and every named consumer have read.
    /// Digests and counts stay. The audit log first gets an entry with the actor and the unit's digest.
    async fn forget_unit(&self, request: ForgetRequest) -> Result<ForgetResult, StoreError>;

    /// Makes a consistent copy of the store, while it serves, in a folder without a store.
    ///
    /// # Errors
    /// [`StoreError::CopyExists`] if the folder contains a store, which is never overwritten;
    /// [`StoreError::CannotCopy`] if the folder cannot be written.
    async fn backup(&self, folder: &std::path::Path) -> Result<BackupSummary, StoreError>;

    /// Commits queued events and closes the files.
    async fn close(&self) -> Result<(), StoreError>;
}
