//! What Inroad remembers: a trait, and SQLite behind it.
//!
//! Three kinds of things are kept, each with a rule of its own. **The catalogue** (experiments, revisions, decisions,
//! audit) changes by compare-and-set on an experiment's version, so that any number of writers lose nothing. **The
//! log** is append-only and is what an acknowledgement stands on (I6). **The counts** (unit records and tallies) are
//! folded out of the log in transactions that also move the fold's offset, so that they are a pure function of the
//! set of events whatever crashes on the way (I5).

pub mod catalogue;
pub mod counts;
pub mod error;
pub mod event;
pub mod funnel;
mod record;
pub mod sqlite;
pub mod upkeep;

use std::sync::Arc;

use async_trait::async_trait;
use inroad_assignment::{Experiment, ExperimentKey, Timestamp};

pub use catalogue::{AuditEntry, Change, DecisionRecord, Page, Stored, StoredDecision};
pub use counts::{Counts, FoldStep};
pub use error::StoreError;
pub use event::{Event, ExposureEvent, LoggedEvent, OutcomeEvent, Seq};
pub use funnel::{FunnelCounts, FunnelQuestion};
pub use sqlite::{SqliteOptions, SqliteStore};
pub use upkeep::{Copied, Forget, Forgotten};

/// A place where all of it is kept. Every replica of a server holds one; they may share what is behind it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Names the database for good: drawn when it was created.
    fn store_id(&self) -> &str;

    /// Every experiment, with the version of each and of the whole.
    async fn load(&self) -> Result<(u64, Vec<Stored>), StoreError>;

    /// Puts one change of one experiment on disk: the experiment, its audit entry and its decision, together or not
    /// at all. Gives the version of the whole, which is also the experiment's from now on.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the experiment is no longer at `change.expected_version`;
    /// [`StoreError::NotMonotone`] if a revision takes points from a variation (I2).
    async fn commit(&self, change: Change) -> Result<u64, StoreError>;

    /// Audit entries, newest first, of one experiment or of all.
    async fn audit(&self, experiment: Option<&ExperimentKey>, page: Page) -> Result<Vec<AuditEntry>, StoreError>;

    /// The policy's decisions on one generation, newest first. A record holds all that the policy knew, which in a long
    /// life is much: ask for as many as are shown.
    async fn decisions(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        page: Page,
    ) -> Result<Vec<StoredDecision>, StoreError>;

    /// The decision that made one revision of a generation; `None` if no decision did.
    async fn decision(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        revision: u32,
    ) -> Result<Option<DecisionRecord>, StoreError>;

    /// Appends events to the log; when this returns they are on disk, whatever happens next. Groups of several
    /// callers share a commit. `received_at` is the server's clock.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when the queue is full: nothing was taken, try again after the delay it names.
    async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError>;

    /// The last place in the log; 0 when nothing was ever appended.
    fn head(&self) -> Seq;

    /// How far the fold has come.
    fn folded(&self) -> Seq;

    /// Folds the next events, at most `limit`, into unit records and tallies, in one transaction with the fold's
    /// offset; `experiments` is the catalogue to attribute by. Changes of what units are served (revisions, kills)
    /// that `experiments` has and the counts have not are applied first, over as many calls as that takes, each short: see
    /// [`FoldStep::behind`]. Call it from one task at a time.
    async fn fold(&self, experiments: Arc<Vec<Arc<Experiment>>>, limit: usize) -> Result<FoldStep, StoreError>;

    /// The tallies of one generation.
    async fn counts(&self, experiment: &ExperimentKey, generation: u32) -> Result<Counts, StoreError>;

    /// A funnel of one generation, counted out of everything that was folded before the call, all of it at one moment.
    /// Meant for people: one is counted at a time, and others wait their turn.
    async fn funnel(&self, question: FunnelQuestion) -> Result<FunnelCounts, StoreError>;

    /// Reads the log: events after `after`, at most `limit`.
    async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError>;

    /// Writes down how far a named consumer of the log has come; the log keeps what any consumer has yet to read.
    async fn set_offset(&self, consumer: &str, offset: Seq) -> Result<(), StoreError>;

    /// How far a named consumer has come; 0 if it has never said.
    async fn offset(&self, consumer: &str) -> Result<Seq, StoreError>;

    /// Deletes the log's events that were received before `before` and that the fold and every named consumer have
    /// read; gives how many. What was counted of them stays. In pieces, so that an append waits for one of them at most.
    async fn prune_log(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Blanks the raw key of one unit wherever the log still has it, as far as the fold and every named consumer have
    /// read. Digests stay, and so does what was counted. Who asked is audited first, with the unit's digest.
    async fn forget_unit(&self, forget: Forget) -> Result<Forgotten, StoreError>;

    /// A consistent copy of everything, while serving, into a folder that has none.
    ///
    /// # Errors
    /// [`StoreError::CopyExists`]: a copy is never written over. [`StoreError::CannotCopy`]: the folder takes none.
    async fn backup(&self, folder: &std::path::Path) -> Result<Copied, StoreError>;

    /// Commits what is queued and lets go of the files.
    async fn close(&self) -> Result<(), StoreError>;
}
