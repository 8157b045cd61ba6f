//! The fold reads the log and turns its events into unit records and tallies.
//!
//! ```text
//!  log.db                               counts.db, one transaction per step
//!  ┌─────────────────┐  scan, compare   ┌──────────────────────────────────────────────┐
//!  │ … 41 42 43 44 … │ ───────────────► │ outcome   by (unit, event id)                │
//!  └─────────────────┘                  │ unit      by (experiment, generation, digest)│
//!           ▲                           │ tally     − old contribution + new one       │
//!           └──── next step reads 45 ── │ folded    = 44, the offset                   │
//!                                       └──────────────────────────────────────────────┘
//!                                                            ▲ before the next event
//!  catalogue: revision, kill, restore, end, new metric ──────┘ recount of the affected slices
//! ```
//!
//! **A step** ([`events`]) reads the next events, looks up the records and outcomes of the units that they name, computes
//! the changes, and writes them together with the offset. After a crash the step is either complete or repeated. A
//! shutdown waits for the step, so [`step_limit`] bounds its time. Every table is visited in the order of its keys: then
//! a page is read and written once for all rows on it, which makes large steps cheap. The sums of a unit with few outcomes
//! are computed from these and not stored, so that an outcome changes no record.
//!
//! **Order and repeats do not matter (I5).** A unit record contains the earliest exposure to each variation. If several
//! outcomes have the same unit and event id, the smallest one (by time, event and value) is stored. A minimum is the
//! same in any order and with any repeats. A unit's contribution to the tallies is a function of its record, its
//! outcomes and the generation's history. A step subtracts the old contribution of each changed unit and adds the new
//! one, so the tallies are always the sum over all units.
//!
//! **When the history changes**, old contributions may be wrong. [`recount`] counts the units of the affected slices
//! again before any further event is folded, batch by batch, and continues after a restart where it stopped.
//!
//! **Locks.** Only the fold writes `counts.db`, in one transaction per step, and nobody waits for it: readers see the last
//! committed step, and changes of the catalogue are written to another file. A kill never waits for the fold.

mod changes;
mod contribution;
mod events;
mod recount;
mod step_limit;
mod unit_outcomes;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use inroad_assignment::Experiment;
use rusqlite::Connection;

use super::catalogue;
use super::database::Readers;
use super::log_scan::scan_log;
use super::options::SqliteOptions;
use super::recent_exposures::RecentExposures;
use super::tallies::TallyCache;
use super::tracked_generations::TrackedGenerations;
use crate::counts::FoldStep;
use crate::error::StoreError;
use recount::RecountProgress;
use step_limit::StepLimit;

/// Rows written before the write-ahead log is copied back into the file.
const CHECKPOINT_ROWS: usize = 100_000;
/// Changes of the catalogue before its write-ahead log is copied back into the file.
const CHECKPOINT_VERSIONS: u64 = 100;
/// The most unit records that the events of one step may concern, for each event of the largest step. A step that would
/// have more is repeated with half of its events, for the sake of memory.
const RECORDS_PER_EVENT: usize = 5;

/// The fold and its state in memory. A store has one.
pub(crate) struct Fold {
    generations: TrackedGenerations,
    recent: RecentExposures,
    log: Connection,
    /// The only connection that writes the counts.
    counts: Connection,
    /// The most events that the next step folds, and the most units that it recounts.
    limit: StepLimit,
    /// The events of the largest step.
    max_step: usize,
    /// The most unit records that the events of one step may concern.
    max_records: usize,
    /// The most outcomes of a unit whose records do not contain their sums.
    max_outcomes_without_sums: usize,
    /// Whether the stored catalogue was loaded since the start. The counts may reflect it, so a caller's older one is not
    /// enough: with it, changes would be counted back, and outcomes of unknown generations not at all.
    has_loaded_catalogue: bool,
    /// A version of the catalogue that has everything that `generations` has.
    catalogue_version: u64,
    /// The version at the last checkpoint of the catalogue.
    checkpointed_version: u64,
    rows_since_checkpoint: usize,
}

/// The parts of the store that a step works with, or a funnel.
#[derive(Clone, Copy)]
pub(crate) struct StoreHandles<'a> {
    /// Connections that read the catalogue.
    pub(crate) catalogue: &'a Readers,
    /// Connections that read the counts.
    pub(crate) counts: &'a Readers,
    /// The counts in memory.
    pub(crate) tallies: &'a TallyCache,
    /// The fold's offset.
    pub(crate) folded: &'a AtomicU64,
    /// Locked while the counts and the offset change, so that a funnel can begin several reads at one moment.
    pub(crate) commit: &'a Mutex<()>,
}

impl Fold {
    /// Creates a fold that reads from `log` and writes to `counts`.
    pub(crate) fn new(log: Connection, counts: Connection, options: &SqliteOptions) -> Self {
        let max_step = options.fold_step_events;
        Self {
            generations: TrackedGenerations::default(),
            recent: RecentExposures::new(options.remembered_exposures),
            log,
            counts,
            limit: StepLimit::new(max_step),
            max_step,
            max_records: max_step.saturating_mul(RECORDS_PER_EVENT),
            max_outcomes_without_sums: options.outcomes_without_sums,
            has_loaded_catalogue: false,
            catalogue_version: 0,
            checkpointed_version: 0,
            rows_since_checkpoint: 0,
        }
    }

    /// One step; see [`crate::Store::fold`].
    pub(crate) fn step(
        &mut self,
        handles: StoreHandles<'_>,
        experiments: &[Arc<Experiment>],
        limit: usize,
    ) -> Result<FoldStep, StoreError> {
        let begun = Instant::now();
        let after = handles.folded.load(Ordering::Acquire);
        let (mut changed, mut rows) = (0, 0);
        if !self.has_loaded_catalogue {
            self.load_stored_catalogue(handles)?;
            self.has_loaded_catalogue = true;
        }
        self.update_generations(handles, experiments)?;
        // A generation stays marked if this fails: no event may be counted before the changes of the catalogue.
        let progress = self.recount(handles)?;
        changed += progress.units;
        rows += progress.rows;
        if !progress.is_complete {
            return Ok(FoldStep { events: 0, changed, rows, folded: after, is_behind: true });
        }
        self.checkpoint_catalogue(handles)?;
        let mut limit = limit.min(self.limit.events());
        loop {
            let mut scan = scan_log(&self.log, after, limit, &self.generations, &self.recent, true)?;
            if scan.unknown > 0 {
                // The caller's catalogue is older than the log. A generation is committed before it is served, so the
                // stored catalogue has it.
                self.load_stored_catalogue(handles)?;
                let progress = self.recount(handles)?;
                changed += progress.units;
                rows += progress.rows;
                if !progress.is_complete {
                    return Ok(FoldStep { events: 0, changed, rows, folded: after, is_behind: true });
                }
                scan = scan_log(&self.log, after, limit, &self.generations, &self.recent, false)?;
            }
            if scan.events == 0 {
                self.checkpoint(handles, 1)?;
                return Ok(FoldStep { events: 0, changed, rows, folded: after, is_behind: false });
            }
            let (events, last) = (scan.events, scan.last);
            let size = events.max(scan.exposures.len() + scan.outcomes.len());
            let folded = self.fold_events(handles, &scan);
            let Some(folded) = folded.inspect_err(|error| self.make_room(error, events))? else {
                limit = events.div_ceil(2);
                self.limit.lower_to(limit);
                continue;
            };
            for (generation, digest, exposures) in folded.known {
                self.recent.remember(generation, digest, &exposures);
            }
            self.rows_since_checkpoint += folded.rows.written;
            rows += folded.rows.all;
            changed += folded.changed;
            self.checkpoint(handles, CHECKPOINT_ROWS)?;
            self.limit.observe(size, begun.elapsed());
            return Ok(FoldStep { events, changed, rows, folded: last, is_behind: false });
        }
    }

    /// Takes over the newer states among these experiments.
    fn update_generations(
        &mut self,
        handles: StoreHandles<'_>,
        experiments: &[Arc<Experiment>],
    ) -> Result<(), StoreError> {
        if experiments.is_empty() {
            return Ok(());
        }
        handles.catalogue.with_connection(|connection| {
            self.catalogue_version = catalogue::version(connection)?;
            self.generations.update(connection, experiments)
        })
    }

    /// Takes over the stored catalogue.
    fn load_stored_catalogue(&mut self, handles: StoreHandles<'_>) -> Result<(), StoreError> {
        let (_, stored) = handles.catalogue.with_connection(catalogue::load)?;
        let all: Vec<_> = stored.into_iter().map(|s| s.experiment).collect();
        self.update_generations(handles, &all)
    }

    /// Brings the counts up to date with the changed history of generations, within the limit of one step.
    fn recount(&mut self, handles: StoreHandles<'_>) -> Result<RecountProgress, StoreError> {
        let progress = self.recount_changed_history(handles);
        progress.inspect_err(|error| self.make_room(error, self.limit.events()))
    }

    /// After a step that found the disk full: gives back what it wrote to the write-ahead log, which a rollback does not,
    /// and makes the next step smaller.
    fn make_room(&mut self, error: &StoreError, events: usize) {
        if matches!(error, StoreError::DiskFull { .. }) {
            self.limit.lower_to(events / 2);
            let emptied = self.counts.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            if let Err(error) = emptied {
                tracing::warn!(%error, "the write-ahead log of the counts keeps its space on the full disk");
            }
        }
    }

    /// Copies the catalogue's write-ahead log back into its file from time to time, so that no kill has to.
    fn checkpoint_catalogue(&mut self, handles: StoreHandles<'_>) -> Result<(), StoreError> {
        if self.catalogue_version.saturating_sub(self.checkpointed_version) >= CHECKPOINT_VERSIONS {
            self.checkpointed_version = self.catalogue_version;
            handles.catalogue.with_connection(checkpoint_passively)?;
        }
        Ok(())
    }

    /// Checkpoints the write-ahead log and closes the connections.
    pub(crate) fn close(self, folder: &Path) -> Result<(), StoreError> {
        let close = || -> Result<(), StoreError> {
            self.counts.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            self.counts.close().map_err(|(_, error)| error)?;
            Ok(())
        };
        close().map_err(|error| error.located(folder))
    }

    /// Copies the write-ahead log back into the file once `rows` rows were written, without blocking readers or
    /// writers.
    fn checkpoint(&mut self, handles: StoreHandles<'_>, rows: usize) -> Result<(), StoreError> {
        if self.rows_since_checkpoint >= rows {
            self.rows_since_checkpoint = 0;
            handles.counts.with_connection(checkpoint_passively)?;
        }
        Ok(())
    }
}

/// Checkpoints without waiting for readers and writers.
fn checkpoint_passively(connection: &mut Connection) -> Result<(), StoreError> {
    Ok(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
}
