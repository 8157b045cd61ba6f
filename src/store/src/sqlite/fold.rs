//! The fold reads the log and turns its events into unit records and tallies.
//!
//! ```text
//!  log.db                               inroad.db, one transaction per step
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
//! **A step** reads the next events, looks up the records and outcomes of the units that they name, computes the
//! changes, and writes them together with the offset. After a crash the step is either complete or repeated. A shutdown
//! waits for the step, so [`step_limit`] bounds its time.
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
//! **Locks.** Only the fold writes these tables. It looks up rows in short batches and writes in one short transaction.
//! A kill waits for at most one batch or transaction.

mod changes;
mod recount;
mod step_limit;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use inroad_assignment::{Digest, Experiment};
use inroad_policy::attribution::{Exposure, UnitRecord, outcome_contribution, record_contribution};
use rusqlite::Connection;

use super::catalogue;
use super::database::Readers;
use super::log_scan::{LogScan, scan_log};
use super::recent_exposures::RecentExposures;
use super::state_writer::StateWriter;
use super::tallies::{TallyCache, TallyDelta};
use super::tracked_generations::{GenerationIndex, TrackedGeneration, TrackedGenerations};
use super::units::{StoredOutcome, UnitRow, read_outcomes, read_record, read_selected_records};
use crate::counts::FoldStep;
use crate::error::StoreError;
use changes::{NewOutcome, StepChanges, UnitWrite, find_new_outcomes, outcomes_of_unit};
use step_limit::StepLimit;

/// Rows looked up before the writer's lock is offered to other callers.
const LOOKUP_BATCH: usize = 1_000;
/// Rows written before the write-ahead log is copied back into the file.
const CHECKPOINT_ROWS: usize = 100_000;

/// The fold and its state in memory. A store has one.
pub(crate) struct Fold {
    generations: TrackedGenerations,
    recent: RecentExposures,
    log: Connection,
    /// The most events that the next step folds, and the most units that it recounts.
    limit: StepLimit,
    /// Whether the stored catalogue was loaded since the start. The counts may reflect it, so a caller's older one is not
    /// enough: with it, changes would be counted back, and outcomes of unknown generations not at all.
    has_loaded_catalogue: bool,
    rows_since_checkpoint: usize,
}

/// The parts of the store that a step works with.
#[derive(Clone, Copy)]
pub(crate) struct StoreHandles<'a> {
    /// The only connection that writes the state.
    pub(crate) writer: &'a StateWriter,
    /// Connections that read the state.
    pub(crate) readers: &'a Readers,
    /// The counts in memory.
    pub(crate) tallies: &'a TallyCache,
    /// The fold's offset.
    pub(crate) folded: &'a AtomicU64,
}

/// A unit with events in this step.
struct TouchedUnit {
    unit_digest: Digest,
    exposures: Vec<Exposure>,
    /// The stored record, if it was already read.
    stored: Option<UnitRecord>,
}

/// A unit whose outcomes must all be read again, because their attribution may have changed.
struct UnitToRecount {
    generation: GenerationIndex,
    row: UnitRow,
    before: Option<UnitRecord>,
}

/// A record that was looked up and did not change.
struct UnchangedRecord {
    generation: GenerationIndex,
    digest: Digest,
    record: UnitRecord,
}

/// The results of a step so far.
#[derive(Default)]
struct StepWork {
    changes: StepChanges,
    recounts: Vec<UnitToRecount>,
    unchanged: Vec<UnchangedRecord>,
}

impl Fold {
    /// Creates a fold that reads from `log`.
    pub(crate) fn new(log: Connection, max_step: usize, remembered_exposures: usize) -> Self {
        Self {
            generations: TrackedGenerations::default(),
            recent: RecentExposures::new(remembered_exposures),
            log,
            limit: StepLimit::new(max_step),
            has_loaded_catalogue: false,
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
        let mut changed = 0;
        if !self.has_loaded_catalogue {
            self.load_stored_catalogue(handles)?;
            self.has_loaded_catalogue = true;
        }
        handles.writer.with_connection(|connection| self.generations.update(connection, experiments))?;
        // A generation stays marked if this fails: no event may be counted before the changes of the catalogue.
        let progress = self.recount_changed_history(handles)?;
        changed += progress.units;
        if !progress.is_complete {
            return Ok(FoldStep { events: 0, changed, folded: after, is_behind: true });
        }
        let limit = limit.min(self.limit.events());
        let mut scan = scan_log(&self.log, after, limit, &self.generations, &self.recent, true)?;
        if scan.unknown > 0 {
            // The caller's catalogue is older than the log. A generation is committed before it is served, so the
            // stored catalogue has it.
            self.load_stored_catalogue(handles)?;
            let progress = self.recount_changed_history(handles)?;
            changed += progress.units;
            if !progress.is_complete {
                return Ok(FoldStep { events: 0, changed, folded: after, is_behind: true });
            }
            scan = scan_log(&self.log, after, limit, &self.generations, &self.recent, false)?;
        }
        if scan.events == 0 {
            self.checkpoint(handles, 1)?;
            return Ok(FoldStep { events: 0, changed, folded: after, is_behind: false });
        }
        let (events, last) = (scan.events, scan.last);
        let StepWork { changes, unchanged, .. } = self.compute_changes(handles, scan)?;
        changed += changes.units.len();
        changes.commit(handles, &self.generations, Some(last))?;
        let unchanged = unchanged.iter().map(|u| (u.generation, u.digest, u.record.exposures()));
        let written = changes.units.iter().map(|w| (w.generation, w.row.digest, w.row.record.exposures()));
        for (generation, digest, exposures) in unchanged.chain(written) {
            self.recent.remember(generation, digest, exposures);
        }
        self.rows_since_checkpoint += changes.units.len() + changes.outcomes.len();
        self.checkpoint(handles, CHECKPOINT_ROWS)?;
        self.limit.observe(events, begun.elapsed());
        Ok(FoldStep { events, changed, folded: last, is_behind: false })
    }

    /// Takes over the stored catalogue.
    fn load_stored_catalogue(&mut self, handles: StoreHandles<'_>) -> Result<(), StoreError> {
        let (_, stored) = handles.readers.with_connection(catalogue::load)?;
        let all: Vec<_> = stored.into_iter().map(|s| s.experiment).collect();
        handles.writer.with_connection(|connection| self.generations.update(connection, &all))
    }

    /// Compares the scanned events with the stored records and outcomes.
    fn compute_changes(&self, handles: StoreHandles<'_>, scan: LogScan) -> Result<StepWork, StoreError> {
        let mut work = StepWork::default();
        work.changes.outcomes = find_new_outcomes(handles, scan.outcomes)?;
        let mut touched: BTreeMap<(GenerationIndex, Digest), TouchedUnit> = BTreeMap::new();
        for scanned in scan.exposures {
            let entry = touched.entry((scanned.generation, scanned.digest));
            let new = || TouchedUnit { unit_digest: scanned.unit_digest, exposures: Vec::new(), stored: None };
            entry.or_insert_with(new).exposures.push(scanned.exposure);
        }
        self.add_records_of_outcomes(handles, &work.changes.outcomes, &mut touched)?;
        let mut touched = touched.into_iter().peekable();
        while touched.peek().is_some() {
            handles.writer.read_in_transaction(|connection| {
                for ((index, digest), mut touched) in touched.by_ref().take(LOOKUP_BATCH) {
                    let before = match touched.stored.take() {
                        Some(stored) => Some(stored),
                        None => read_record(connection, self.generations.get(index)?, &digest)?,
                    };
                    self.compare_unit((index, digest), touched, before, &mut work)?;
                }
                Ok(())
            })?;
        }
        let recounts = std::mem::take(&mut work.recounts);
        self.recount_units(handles, recounts, &mut work.changes)?;
        work.changes.units.sort_unstable_by_key(|write| (write.generation, write.row.digest));
        Ok(work)
    }

    /// Adds the stored records that new outcomes may change: those of the generations that exposed the unit and measure the
    /// event. A unit that this step exposes first has no record yet; its outcomes are counted with the exposure.
    fn add_records_of_outcomes(
        &self,
        handles: StoreHandles<'_>,
        outcomes: &[NewOutcome],
        touched: &mut BTreeMap<(GenerationIndex, Digest), TouchedUnit>,
    ) -> Result<(), StoreError> {
        let mut units = outcomes.chunk_by(|a, b| a.scanned.unit_digest == b.scanned.unit_digest).peekable();
        while units.peek().is_some() {
            handles.writer.read_in_transaction(|connection| {
                for outcomes in units.by_ref().take(LOOKUP_BATCH) {
                    let Some(first) = outcomes.first() else { continue };
                    let unit_digest = first.scanned.unit_digest;
                    let select = |experiment_id: i64, number: u32| {
                        let Some((index, tracked)) = self.generations.with_id(experiment_id, number) else {
                            let missing = format!("unit: experiment {experiment_id} has no generation {number}");
                            return Err(StoreError::Database(missing));
                        };
                        let is_measured = |event: &str| tracked.measures(event);
                        Ok(outcomes.iter().flat_map(NewOutcome::events).any(is_measured).then_some(index))
                    };
                    for (index, digest, record) in read_selected_records(connection, &unit_digest, select)? {
                        let new = || TouchedUnit { unit_digest, exposures: Vec::new(), stored: None };
                        touched.entry((index, digest)).or_insert_with(new).stored = Some(record);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Computes the changes by the events of one unit, or adds the unit to those whose outcomes must be read again.
    fn compare_unit(
        &self,
        (index, digest): (GenerationIndex, Digest),
        touched: TouchedUnit,
        before: Option<UnitRecord>,
        work: &mut StepWork,
    ) -> Result<(), StoreError> {
        let mut record = before.clone().unwrap_or_default();
        let mut exposures_changed = false;
        for exposure in &touched.exposures {
            exposures_changed |= record.add_exposure(*exposure);
        }
        let changes = &mut work.changes;
        let new_outcomes = outcomes_of_unit(&changes.outcomes, &touched.unit_digest);
        if exposures_changed || (before.is_some() && new_outcomes.iter().any(|outcome| outcome.before.is_some())) {
            let row = UnitRow { digest, unit_digest: touched.unit_digest, record };
            work.recounts.push(UnitToRecount { generation: index, row, before });
            return Ok(());
        }
        // The outcomes of a unit without exposures stay in their table until its first exposure arrives.
        let Some(before) = before else { return Ok(()) };
        if new_outcomes.is_empty() {
            work.unchanged.push(UnchangedRecord { generation: index, digest, record });
            return Ok(());
        }
        let tracked = self.generations.get(index)?;
        let history = tracked.history()?;
        let delta = changes.deltas.entry(index).or_default();
        for NewOutcome { scanned, .. } in new_outcomes {
            let outcome = scanned.outcome.content.as_outcome();
            record.add_outcome(history, 0, &outcome);
            outcome_contribution(&record, history, &outcome, 0, |key, cell| delta.tally.add_cell(key, &cell));
        }
        if record != before {
            replace_contribution(tracked, digest, Some(&before), &record, delta)?;
            let row = UnitRow { digest, unit_digest: touched.unit_digest, record };
            changes.units.push(UnitWrite { generation: index, row, is_new: false });
        }
        Ok(())
    }

    /// Subtracts the old contribution of each unit with changed exposures, and adds the new one.
    fn recount_units(
        &self,
        handles: StoreHandles<'_>,
        units: Vec<UnitToRecount>,
        changes: &mut StepChanges,
    ) -> Result<(), StoreError> {
        let mut wanted: Vec<Digest> = units.iter().map(|unit| unit.row.unit_digest).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut stored: HashMap<Digest, Vec<StoredOutcome>> = HashMap::new();
        for part in wanted.chunks(LOOKUP_BATCH) {
            handles.writer.read_in_transaction(|connection| {
                for digest in part {
                    let outcomes = read_outcomes(connection, digest)?;
                    if !outcomes.is_empty() {
                        stored.insert(*digest, outcomes);
                    }
                }
                Ok(())
            })?;
        }
        for UnitToRecount { generation: index, mut row, before } in units {
            let tracked = self.generations.get(index)?;
            let history = tracked.history()?;
            let old = stored.get(&row.unit_digest).map(Vec::as_slice).unwrap_or_default();
            let new = outcomes_of_unit(&changes.outcomes, &row.unit_digest);
            let delta = changes.deltas.entry(index).or_default();
            if let Some(before) = &before {
                for outcome in old {
                    let outcome = outcome.content.as_outcome();
                    outcome_contribution(before, history, &outcome, 0, |key, cell| delta.tally.sub_cell(key, &cell));
                }
            }
            row.record.clear_outcomes();
            let is_replaced = |o: &&StoredOutcome| new.iter().any(|n| n.scanned.outcome.event_id == o.event_id);
            let still_valid = old.iter().filter(|outcome| !is_replaced(outcome));
            for outcome in still_valid.chain(new.iter().map(|new| &new.scanned.outcome)) {
                let outcome = outcome.content.as_outcome();
                row.record.add_outcome(history, 0, &outcome);
                outcome_contribution(&row.record, history, &outcome, 0, |key, cell| delta.tally.add_cell(key, &cell));
            }
            replace_contribution(tracked, row.digest, before.as_ref(), &row.record, delta)?;
            for exposure in row.record.exposures() {
                delta.latest_exposure = delta.latest_exposure.max(exposure.at);
            }
            changes.units.push(UnitWrite { generation: index, row, is_new: before.is_none() });
        }
        Ok(())
    }

    /// Copies the write-ahead log back into the file once `rows` rows were written, without blocking readers or
    /// writers.
    fn checkpoint(&mut self, handles: StoreHandles<'_>, rows: usize) -> Result<(), StoreError> {
        if self.rows_since_checkpoint >= rows {
            self.rows_since_checkpoint = 0;
            handles.readers.with_connection(|connection| {
                connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Subtracts the contribution of a record before a change, and adds the one after it.
fn replace_contribution(
    tracked: &TrackedGeneration,
    digest: Digest,
    before: Option<&UnitRecord>,
    after: &UnitRecord,
    delta: &mut TallyDelta,
) -> Result<(), StoreError> {
    let (history, point, tally) = (tracked.history()?, digest.point(), &mut delta.tally);
    if let Some(before) = before {
        let unit_counts = record_contribution(before, point, history, |key, cell| tally.sub_cell(key, &cell));
        tally.unit_counts.sub(&unit_counts);
    }
    let unit_counts = record_contribution(after, point, history, |key, cell| tally.add_cell(key, &cell));
    tally.unit_counts.add(&unit_counts);
    Ok(())
}
