//! Counts the events of one step. All records and all outcomes of a unit are next to each other in an index and in a
//! table, so they are read unit by unit in the order of the unit digests, and each page is visited once.
//!
//! The contributions are computed in batches, generation by generation: a step concerns thousands of experiments, and going from
//! one to another for each record would wait for main memory most of the time.

use inroad_assignment::Digest;
use inroad_policy::attribution::{Exposure, UnitRecord};

use super::changes::{Rows, StepChanges, UnitsRecord};
use super::unit_outcomes::UnitOutcomes;
use super::{Fold, StoreHandles};
use crate::error::StoreError;
use crate::sqlite::log_scan::{LogScan, ScannedExposure, ScannedOutcome};
use crate::sqlite::tracked_generations::GenerationIndex;
use crate::unit_record_codec::{StoredRecord, encode_exposures_only, encode_with_sums};

/// Exposures of one unit to more generations than this make a batch of their own, so that its outcomes are read once.
const MANY_GENERATIONS: usize = 8;

/// The exposures of a record after a step, to be remembered.
pub(super) type KnownExposures = (GenerationIndex, Digest, Vec<Exposure>);

/// What a step did.
#[derive(Default)]
pub(super) struct FoldedEvents {
    /// Records that its events concern.
    concerned: usize,
    /// Records that may contribute something else than before.
    pub(super) changed: usize,
    pub(super) rows: Rows,
    pub(super) known: Vec<KnownExposures>,
}

/// The events of one unit in a step.
struct UnitEvents<'a> {
    unit_digest: Digest,
    /// By generation, in their order within each.
    exposures: &'a [ScannedExposure],
    outcomes: &'a [ScannedOutcome],
}

/// Divides the events of a step by unit; both slices are sorted by unit.
fn by_unit<'a>(
    mut exposures: &'a [ScannedExposure],
    mut outcomes: &'a [ScannedOutcome],
) -> impl Iterator<Item = UnitEvents<'a>> {
    std::iter::from_fn(move || {
        let (exposed, measured) = (exposures.first().map(|e| e.unit_digest), outcomes.first().map(|o| o.unit_digest));
        let unit_digest = [exposed, measured].into_iter().flatten().min()?;
        let of_unit = exposures.iter().take_while(|exposure| exposure.unit_digest == unit_digest).count();
        let (its_exposures, others) = exposures.split_at(of_unit);
        exposures = others;
        let of_unit = outcomes.iter().take_while(|outcome| outcome.unit_digest == unit_digest).count();
        let (its_outcomes, others) = outcomes.split_at(of_unit);
        outcomes = others;
        Some(UnitEvents { unit_digest, exposures: its_exposures, outcomes: its_outcomes })
    })
}

/// A record of a unit in the batch.
struct BatchRecord<'a> {
    record: UnitsRecord,
    /// The unit's place in the batch.
    unit: usize,
    /// The unit's exposures in this generation.
    exposures: &'a [ScannedExposure],
}

/// Units whose records and outcomes were read.
#[derive(Default)]
struct Batch<'a> {
    units: Vec<UnitOutcomes<'a>>,
    records: Vec<BatchRecord<'a>>,
    outcomes: usize,
}

impl<'a> Batch<'a> {
    /// Reads the stored records and outcomes that the events of a unit concern. A generation that exposes the unit first has
    /// an empty record. Records of other generations are read only for new outcomes, which these may measure unless they
    /// have ended.
    fn add_unit(
        &mut self,
        changes: &mut StepChanges<'_>,
        unit: &UnitEvents<'a>,
        outcomes: UnitOutcomes<'a>,
    ) -> Result<(), StoreError> {
        let (first, unit_at) = (self.records.len(), self.units.len());
        let records = &mut self.records;
        let is_exposed = !unit.exposures.is_empty();
        // The time of an outcome that replaces another one is not later than that of the other.
        if let Some(earliest) = outcomes.new.iter().map(|outcome| outcome.content.at).min() {
            changes.records_of(&unit.unit_digest, earliest, |record| {
                records.push(BatchRecord { record, unit: unit_at, exposures: &[] });
            })?;
            if is_exposed {
                records.get_mut(first..).unwrap_or_default().sort_unstable_by_key(|known| known.record.generation);
            }
        }
        let known = first..records.len();
        for exposures in unit.exposures.chunk_by(|a, b| a.generation == b.generation) {
            let Some(ScannedExposure { generation, digest, .. }) = exposures.first() else { continue };
            let its_records = self.records.get_mut(known.clone()).unwrap_or_default();
            match its_records.binary_search_by_key(generation, |known| known.record.generation) {
                Ok(at) => its_records[at].exposures = exposures,
                Err(_) => {
                    let record = changes.record(*generation, *digest)?;
                    self.records.push(BatchRecord { record, unit: unit_at, exposures });
                }
            }
        }
        self.outcomes += outcomes.loaded();
        self.units.push(outcomes);
        Ok(())
    }

    /// Whether it has as many records or outcomes as the largest step has events, for the sake of memory.
    fn is_full(&self, max_step: usize) -> bool {
        self.records.len().max(self.outcomes) >= max_step
    }
}

impl Fold {
    /// Folds the scanned events in one transaction; `None`, and no change, if they concern too many records.
    pub(super) fn fold_events(
        &self,
        handles: StoreHandles<'_>,
        scan: &LogScan,
    ) -> Result<Option<FoldedEvents>, StoreError> {
        let mut changes = StepChanges::begin(&self.counts, &self.generations)?;
        // A single event is folded whatever it concerns.
        let max_records = if scan.events > 1 { self.max_records } else { usize::MAX };
        let mut folded = FoldedEvents::default();
        let mut batch = Batch::default();
        for unit in by_unit(&scan.exposures, &scan.outcomes) {
            let generations = unit.exposures.chunk_by(|a, b| a.generation == b.generation).count();
            let (table, few) = (&mut changes.outcomes, self.max_outcomes_without_sums);
            let mut outcomes = UnitOutcomes::read(table, unit.unit_digest, unit.outcomes, few)?;
            if generations == 0 && outcomes.new.is_empty() {
                continue;
            }
            let is_alone = generations > MANY_GENERATIONS || (outcomes.has_many() && outcomes.replaces());
            if is_alone {
                self.count_batch(&mut changes, std::mem::take(&mut batch), &mut folded, max_records)?;
                outcomes.keep();
            }
            batch.add_unit(&mut changes, &unit, outcomes)?;
            if is_alone || batch.is_full(self.max_step) {
                self.count_batch(&mut changes, std::mem::take(&mut batch), &mut folded, max_records)?;
            }
            if folded.concerned > max_records {
                return Ok(None);
            }
        }
        self.count_batch(&mut changes, batch, &mut folded, max_records)?;
        if folded.concerned > max_records {
            return Ok(None);
        }
        folded.rows = changes.commit(handles, self.catalogue_version, Some(scan.last))?;
        Ok(Some(folded))
    }

    /// Counts the events of a batch, and writes its outcomes. Stops early if they concern too many records.
    fn count_batch(
        &self,
        changes: &mut StepChanges<'_>,
        batch: Batch<'_>,
        folded: &mut FoldedEvents,
        max_records: usize,
    ) -> Result<(), StoreError> {
        let Batch { units, mut records, .. } = batch;
        let events: Vec<Vec<&str>> = units.iter().map(UnitOutcomes::events).collect();
        records.sort_unstable_by_key(|record| record.record.generation);
        for BatchRecord { record, unit, exposures } in records {
            let tracked = self.generations.get(record.generation)?;
            let (Some(outcomes), Some(events)) = (units.get(unit), events.get(unit)) else { continue };
            let is_measured = events.iter().any(|event| tracked.measures(event));
            if !exposures.is_empty() || is_measured {
                folded.concerned += 1;
                if folded.concerned > max_records {
                    return Ok(());
                }
                self.count_record(changes, record, exposures, (outcomes, is_measured), folded)?;
            }
        }
        for unit in &units {
            for outcome in &unit.new {
                changes.write_outcome(&unit.unit_digest, outcome)?;
            }
        }
        Ok(())
    }

    /// Counts the events that concern one record.
    fn count_record(
        &self,
        changes: &mut StepChanges<'_>,
        UnitsRecord { generation, digest, stored }: UnitsRecord,
        exposures: &[ScannedExposure],
        (outcomes, is_measured): (&UnitOutcomes<'_>, bool),
        folded: &mut FoldedEvents,
    ) -> Result<(), StoreError> {
        let tracked = self.generations.get(generation)?;
        let history = tracked.history()?;
        let is_new = stored.is_none();
        let has_sums = matches!(stored, Some(StoredRecord::WithSums(_)));
        let changes_record = |known: &StoredRecord| {
            exposures.iter().any(|scanned| known.exposures().is_new_or_earlier(scanned.exposure))
        };
        let exposures_change = stored.as_ref().map_or(!exposures.is_empty(), changes_record);
        if let Some(known) = stored.as_ref().filter(|_| !exposures_change && !is_measured) {
            folded.known.push((generation, digest, known.exposures().exposures().to_vec()));
            return Ok(());
        }
        let mut record = match stored {
            Some(record @ StoredRecord::WithSums(_)) => record.complete(history, &[]),
            Some(record) => record.complete(history, &outcomes.before(&mut changes.outcomes)?),
            None => UnitRecord::default(),
        };
        folded.changed += 1;
        let before = has_sums.then(|| record.clone());
        let (table, change) = changes.outcomes_and_contribution(generation);
        change.sub_record(&record, digest.point(), history);
        let stores_sums;
        if exposures_change || outcomes.replaces() {
            // Other outcomes may count elsewhere now, so all are counted again.
            let old = outcomes.before(table)?;
            stores_sums = outcomes.stores_sums(Some(&old));
            for outcome in old.iter() {
                change.sub_outcome(&record, history, &outcome.content.as_outcome(), 0);
            }
            for scanned in exposures {
                record.add_exposure(scanned.exposure);
            }
            record.clear_outcomes();
            for outcome in outcomes.after(&old) {
                let outcome = outcome.content.as_outcome();
                record.add_outcome(history, 0, &outcome);
                change.add_outcome(&record, history, &outcome, 0);
            }
            if let Some(latest) = record.exposures().last() {
                change.note_exposure(latest.at);
            }
        } else {
            stores_sums = outcomes.stores_sums(None);
            for outcome in &outcomes.new {
                let outcome = outcome.content.as_outcome();
                record.add_outcome(history, 0, &outcome);
                change.add_outcome(&record, history, &outcome, 0);
            }
        }
        change.add_record(&record, digest.point(), history);
        if !exposures.is_empty() {
            folded.known.push((generation, digest, record.exposures().to_vec()));
        }
        let encode = if stores_sums { encode_with_sums } else { encode_exposures_only };
        if is_new {
            changes.insert_record(generation, digest, outcomes.unit_digest, encode(&record))?;
        } else if exposures_change || has_sums != stores_sums || before.is_some_and(|before| before != record) {
            changes.replace_record(generation, digest, encode(&record))?;
        }
        Ok(())
    }
}
