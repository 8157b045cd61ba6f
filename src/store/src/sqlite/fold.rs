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
//! **A step** reads the next events, looks up the records and outcomes of the units that they name, computes the
//! changes, and writes them together with the offset. After a crash the step is either complete or repeated. A shutdown
//! waits for the step, so [`step_limit`] bounds its time. Every table is visited in the order of its keys: then a page is
//! read and written once for all rows on it, which makes large steps cheap.
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
mod recount;
mod step_limit;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use inroad_assignment::{Digest, Experiment};
use inroad_policy::attribution::{Exposure, UnitRecord, outcome_contribution, record_contribution};
use rusqlite::Connection;

use super::catalogue;
use super::database::Readers;
use super::log_scan::{LogScan, ScannedOutcome, scan_log};
use super::recent_exposures::RecentExposures;
use super::tallies::{TallyCache, TallyDelta};
use super::tracked_generations::{GenerationIndex, TrackedGeneration, TrackedGenerations};
use super::units::{StoredOutcome, UnitRow, read_outcomes, read_record_keys};
use crate::counts::FoldStep;
use crate::error::StoreError;
use changes::{NewOutcome, StepChanges, WrittenRows, outcomes_of_unit};
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
    /// The most unit records that the events of one step may concern.
    max_records: usize,
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

/// A unit record that an exposure or an outcome in this step concerns.
struct TouchedRecord {
    generation: GenerationIndex,
    digest: Digest,
    unit_digest: Digest,
    /// `None` for an outcome.
    exposure: Option<Exposure>,
    /// The unit's outcomes, as a range of the step's; `None` if they were not looked up.
    outcomes: Option<(u32, u32)>,
}

/// A unit whose outcomes must all be read again, because their attribution may have changed.
struct UnitToRecount {
    generation: GenerationIndex,
    row: UnitRow,
    before: Option<UnitRecord>,
}

/// The exposures of a record after a step, to be remembered.
type KnownExposures = (GenerationIndex, Digest, Vec<Exposure>);

impl Fold {
    /// Creates a fold that reads from `log` and writes to `counts`.
    pub(crate) fn new(log: Connection, counts: Connection, max_step: usize, remembered_exposures: usize) -> Self {
        Self {
            generations: TrackedGenerations::default(),
            recent: RecentExposures::new(remembered_exposures),
            log,
            counts,
            limit: StepLimit::new(max_step),
            max_records: max_step.saturating_mul(RECORDS_PER_EVENT),
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
        let mut changed = 0;
        if !self.has_loaded_catalogue {
            self.load_stored_catalogue(handles)?;
            self.has_loaded_catalogue = true;
        }
        self.update_generations(handles, experiments)?;
        // A generation stays marked if this fails: no event may be counted before the changes of the catalogue.
        let progress = self.recount(handles)?;
        changed += progress.units;
        if !progress.is_complete {
            return Ok(FoldStep { events: 0, changed, folded: after, is_behind: true });
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
            let size = events.max(scan.exposures.len() + scan.outcomes.len());
            let folded = self.fold_events(handles, scan);
            let Some((rows, known)) = folded.inspect_err(|error| self.make_room(error, events))? else {
                limit = events.div_ceil(2);
                self.limit.lower_to(limit);
                continue;
            };
            for (generation, digest, exposures) in known {
                self.recent.remember(generation, digest, &exposures);
            }
            self.rows_since_checkpoint += rows.records + rows.outcomes;
            changed += rows.records;
            self.checkpoint(handles, CHECKPOINT_ROWS)?;
            self.limit.observe(size, begun.elapsed());
            return Ok(FoldStep { events, changed, folded: last, is_behind: false });
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

    /// Folds the scanned events in one transaction; `None`, and no change, if they concern too many records.
    fn fold_events(
        &self,
        handles: StoreHandles<'_>,
        scan: LogScan,
    ) -> Result<Option<(WrittenRows, Vec<KnownExposures>)>, StoreError> {
        let LogScan { events, last, exposures, outcomes, .. } = scan;
        let mut changes = StepChanges::begin(&self.counts, &self.generations)?;
        let outcomes = changes.find_new_outcomes(outcomes)?;
        let mut touched: Vec<TouchedRecord> = Vec::with_capacity(exposures.len());
        touched.extend(exposures.into_iter().map(|scanned| TouchedRecord {
            generation: scanned.generation,
            digest: scanned.digest,
            unit_digest: scanned.unit_digest,
            exposure: Some(scanned.exposure),
            outcomes: None,
        }));
        // A single event is folded whatever it concerns.
        let max_records = if events > 1 { self.max_records } else { usize::MAX };
        if !self.add_records_of_outcomes(&outcomes, &mut touched, max_records)? {
            return Ok(None);
        }
        touched.sort_unstable_by_key(|touched| (touched.generation, touched.digest));
        let (mut known, mut recounts) = (Vec::new(), Vec::new());
        for touched in touched.chunk_by(|a, b| (a.generation, a.digest) == (b.generation, b.digest)) {
            let Some(TouchedRecord { generation, digest, unit_digest, .. }) = touched.first() else { continue };
            let before = changes.read_record(*generation, digest)?;
            let mut record = before.clone().unwrap_or_default();
            let (mut is_exposed, mut exposures_changed) = (false, false);
            for exposure in touched.iter().filter_map(|touched| touched.exposure) {
                is_exposed = true;
                exposures_changed |= record.add_exposure(exposure);
            }
            if is_exposed {
                known.push((*generation, *digest, record.exposures().to_vec()));
            }
            let range = touched.iter().find_map(|touched| touched.outcomes);
            let new_outcomes = match range {
                Some((from, to)) => outcomes.get(from as usize..to as usize).unwrap_or_default(),
                None => outcomes_of_unit(&outcomes, unit_digest),
            };
            let is_replaced = |outcome: &NewOutcome| outcome.before.is_some();
            if exposures_changed || (before.is_some() && new_outcomes.iter().any(is_replaced)) {
                let row = UnitRow { digest: *digest, unit_digest: *unit_digest, record };
                recounts.push(UnitToRecount { generation: *generation, row, before });
                continue;
            }
            // The outcomes of a unit without exposures stay in their table until its first exposure arrives.
            let Some(before) = before.filter(|_| !new_outcomes.is_empty()) else { continue };
            let tracked = self.generations.get(*generation)?;
            let history = tracked.history()?;
            let delta = changes.delta(*generation);
            for NewOutcome { scanned, .. } in new_outcomes {
                let outcome = scanned.outcome.content.as_outcome();
                record.add_outcome(history, 0, &outcome);
                outcome_contribution(&record, history, &outcome, 0, |key, cell| delta.tally.add_cell(key, &cell));
            }
            if record != before {
                replace_contribution(tracked, *digest, Some(&before), &record, delta)?;
                changes.write_record(*generation, digest, &record)?;
            }
        }
        self.recount_units(&mut changes, recounts, &outcomes)?;
        for NewOutcome { scanned: ScannedOutcome { unit_digest, outcome }, .. } in &outcomes {
            changes.write_outcome(unit_digest, outcome)?;
        }
        let written = changes.written;
        changes.commit(handles, self.catalogue_version, Some(last))?;
        Ok(Some((written, known)))
    }

    /// Adds the stored records that new outcomes may change: those of the generations that exposed the unit and measure the
    /// event. A unit that this step exposes first has no record yet; its outcomes are counted with the exposure. Returns
    /// false if there are too many records.
    fn add_records_of_outcomes(
        &self,
        outcomes: &[NewOutcome],
        touched: &mut Vec<TouchedRecord>,
        max_records: usize,
    ) -> Result<bool, StoreError> {
        let mut keys = read_record_keys(&self.counts)?;
        let mut from = 0;
        for outcomes in outcomes.chunk_by(|a, b| a.scanned.unit_digest == b.scanned.unit_digest) {
            let Some(first) = outcomes.first() else { continue };
            let unit_digest = first.scanned.unit_digest;
            let range = (from, from + outcomes.len() as u32);
            from = range.1;
            keys.of_unit(&unit_digest, |experiment_id, number, digest| {
                let Some((generation, tracked)) = self.generations.with_id(experiment_id, number) else {
                    let missing = format!("unit: experiment {experiment_id} has no generation {number}");
                    return Err(StoreError::Database(missing));
                };
                if outcomes.iter().flat_map(NewOutcome::events).any(|event| tracked.measures(event)) {
                    touched.push(TouchedRecord {
                        generation,
                        digest,
                        unit_digest,
                        exposure: None,
                        outcomes: Some(range),
                    });
                }
                Ok(())
            })?;
            if touched.len() > max_records {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Subtracts the old contribution of each unit with changed exposures, and adds the new one.
    fn recount_units(
        &self,
        changes: &mut StepChanges<'_>,
        units: Vec<UnitToRecount>,
        outcomes: &[NewOutcome],
    ) -> Result<(), StoreError> {
        let mut wanted: Vec<Digest> = units.iter().map(|unit| unit.row.unit_digest).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut stored: HashMap<Digest, Vec<StoredOutcome>> = HashMap::new();
        for digest in wanted {
            let outcomes = read_outcomes(&self.counts, &digest)?;
            if !outcomes.is_empty() {
                stored.insert(digest, outcomes);
            }
        }
        for UnitToRecount { generation: index, mut row, before } in units {
            let tracked = self.generations.get(index)?;
            let history = tracked.history()?;
            let old = stored.get(&row.unit_digest).map(Vec::as_slice).unwrap_or_default();
            let new = outcomes_of_unit(outcomes, &row.unit_digest);
            let delta = changes.delta(index);
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
            match before {
                Some(_) => changes.write_record(index, &row.digest, &row.record)?,
                None => changes.insert_record(index, &row)?,
            }
        }
        Ok(())
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
