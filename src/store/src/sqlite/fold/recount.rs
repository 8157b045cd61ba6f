//! Counts units again when the history of their generation changed after they were counted: a revision moved ranges of
//! control to a variation, a kill or restore changed which arm is served, the generation ended, a metric was added, or
//! an earlier release counted by other rules.
//!
//! Only units whose contribution may differ are counted again. Records are keyed by their place on the line, so the
//! units of a range of the line are one key range. The work is done in batches, each in its own transaction and bounded in
//! time, because a shutdown waits for it; and a restarted store continues where the last batch ended.

use std::time::Instant;

use inroad_assignment::{Arm, Digest, Generation, KillTarget, Timestamp};

use super::changes::StepChanges;
use super::step_limit::INTENDED;
use super::{Fold, StoreHandles};
use crate::error::StoreError;
use crate::sqlite::tallies::{AppliedHistory, CountedHistory, OngoingRecount};
use crate::sqlite::tracked_generations::{GenerationIndex, TrackedGeneration};
use crate::sqlite::units::read_units_in_range;
use crate::unit_record_codec::{self, StoredRecord};

/// Units that are read at once, which bounds memory.
const READ_BATCH: usize = 1_000;

/// A range of the line: first and last digest.
type DigestRange = (Digest, Digest);

/// The progress of a recount.
pub(super) struct RecountProgress {
    /// Units counted again.
    pub(super) units: usize,
    /// Rows read and written.
    pub(super) rows: usize,
    /// Whether the counts reflect the whole history now.
    pub(super) is_complete: bool,
}

impl Fold {
    /// Brings the counts of every changed generation up to date with its history, within the limit of one step.
    pub(super) fn recount_changed_history(&mut self, handles: StoreHandles<'_>) -> Result<RecountProgress, StoreError> {
        let (mut units, mut rows, limit, until) = (0, 0, self.limit.events(), Instant::now() + INTENDED);
        let mut has_begun = false;
        while let Some(index) = self.generations.first_changed() {
            let tracked = self.generations.get(index)?;
            while let Some(counted) =
                handles.tallies.get(handles.catalogue, handles.counts, tracked.key(), tracked.number)?.counted
            {
                if counted == (CountedHistory { applied: AppliedHistory::all_of(tracked)?, recount: None }) {
                    break;
                }
                if units >= limit || (has_begun && Instant::now() >= until) {
                    return Ok(RecountProgress { units, rows, is_complete: false });
                }
                has_begun = true;
                let (counted, its_rows) = self.recount_batch(handles, (index, tracked), (limit - units, until))?;
                units += counted;
                rows += its_rows;
            }
            self.generations.mark_counted(index);
        }
        Ok(RecountProgress { units, rows, is_complete: true })
    }

    /// Counts at most `limit` units of one generation again, and after some no more at `until`. Stores the progress and
    /// returns how many were counted, and the rows that were read and written.
    fn recount_batch(
        &self,
        handles: StoreHandles<'_>,
        (index, tracked): (GenerationIndex, &TrackedGeneration),
        (limit, until): (usize, Instant),
    ) -> Result<(usize, usize), StoreError> {
        let cached = handles.tallies.get(handles.catalogue, handles.counts, tracked.key(), tracked.number)?;
        let (Some(counted), latest) = (cached.counted, cached.latest_exposure) else { return Ok((0, 0)) };
        drop(cached);
        // A recount in progress is finished first, even if the history has changed again since.
        let new_recount = || AppliedHistory::all_of(tracked).map(|to| OngoingRecount { to, from: whole_line().0 });
        let recount = counted.recount.map_or_else(new_recount, Ok)?;
        let (applied, to) = (counted.applied, recount.to);
        let (before, generation) =
            (applied.truncate_generation(tracked.generation()?), to.truncate_generation(tracked.generation()?));
        let definition = &tracked.experiment.definition;
        let (old, new) = (applied.history(definition, &before), to.history(definition, &generation));
        let added = to.metrics > applied.metrics;
        // Client clocks may run ahead, so outcomes after the end may have been counted already. An end and the
        // tolerances decide which outcomes count, so all of them are attributed again.
        let attributes_again = before.ended_at() != generation.ended_at()
            || to.tolerances != applied.tolerances
            || (to.activity_ends != applied.activity_ends && generation.ended_at().is_some());
        let affects_all = added || attributes_again || to.early != applied.early;
        let from_metric = if attributes_again { 0 } else { applied.metrics };
        let reads_outcomes = added || attributes_again;
        let ranges = if affects_all { vec![whole_line()] } else { affected_ranges(&generation, applied, latest) };
        let mut changes = StepChanges::begin(&self.counts, &self.generations)?;
        let (mut units_counted, mut next) = (0, None);
        'ranges: for (first, last) in ranges.into_iter().filter(|(_, last)| *last >= recount.from) {
            let mut from = first.max(recount.from);
            loop {
                if units_counted >= limit || (units_counted > 0 && Instant::now() >= until) {
                    next = Some(from);
                    break 'ranges;
                }
                let batch = READ_BATCH.min(limit - units_counted);
                let units = read_units_in_range(&self.counts, tracked, (from, last), batch)?;
                units_counted += units.len();
                changes.note_read(units.len());
                let reached = units.last().filter(|_| units.len() == batch).and_then(|unit| next_digest(unit.digest));
                for unit in units {
                    let has_sums = matches!(unit.record, StoredRecord::WithSums(_));
                    let (table, change) = changes.outcomes_and_contribution(index);
                    let outcomes = if reads_outcomes || !has_sums {
                        table.of_unit(&unit.unit_digest, usize::MAX)?
                    } else {
                        Vec::new()
                    };
                    let before = unit.record.complete(old, &outcomes);
                    change.sub_record(&before, unit.digest.point(), old);
                    let mut record = before.clone();
                    if attributes_again {
                        record.clear_outcomes();
                    }
                    let counted_again = if reads_outcomes { outcomes.as_slice() } else { &[] };
                    for outcome in counted_again {
                        let outcome = outcome.content.as_outcome();
                        record.add_outcome(new, from_metric, &outcome);
                        change.sub_outcome(&record, old, &outcome, from_metric);
                        change.add_outcome(&record, new, &outcome, from_metric);
                    }
                    change.add_record(&record, unit.digest.point(), new);
                    let is_outdated = has_sums && record != before;
                    if is_outdated || (!has_sums && outcomes.len() > self.max_outcomes_without_sums) {
                        changes.replace_record(index, unit.digest, unit_record_codec::encode_with_sums(&record))?;
                    }
                }
                match reached {
                    Some(reached) if reached <= last => from = reached,
                    _ => break,
                }
            }
        }
        changes.delta(index).history_change = Some((
            counted,
            match next {
                Some(from) => CountedHistory { applied, recount: Some(OngoingRecount { to, from }) },
                None => CountedHistory { applied: to, recount: None },
            },
        ));
        let rows = changes.commit(handles, self.catalogue_version, None)?;
        Ok((units_counted, rows.all))
    }
}

/// The whole line as one range.
fn whole_line() -> DigestRange {
    (Digest::from_bytes([0; 16]), Digest::from_bytes([u8::MAX; 16]))
}

/// The digest after this one; `None` after the last.
fn next_digest(digest: Digest) -> Option<Digest> {
    let next = u128::from_be_bytes(*digest.as_bytes()).checked_add(1)?;
    Some(Digest::from_bytes(next.to_be_bytes()))
}

/// The ranges in which revisions and kills after `applied` may change what a unit contributes. They do not overlap.
fn affected_ranges(generation: &Generation, applied: AppliedHistory, latest: Timestamp) -> Vec<DigestRange> {
    let new = generation.revisions.iter().skip(applied.revisions);
    // A unit that was exposed after a new revision took effect belongs to another epoch now, whatever its point. Clocks
    // differ, so this happens, but rarely.
    if new.clone().any(|revision| revision.effective_at <= latest) {
        return vec![whole_line()];
    }
    let mut points = Vec::new();
    for pair in generation.revisions.windows(2).skip(applied.revisions.saturating_sub(1)) {
        if let [earlier, later] = pair {
            let taken = earlier.allocation.changed_ranges(&later.allocation);
            points.extend(taken.into_iter().map(|(first, last, _)| (first, last)));
        }
    }
    // A variation never loses points, so the newest allocation contains every range that a kill or restore affected.
    let targets = generation.kill_changes.iter().skip(applied.kill_changes).map(|change| change.target);
    if let Some(latest) = generation.latest() {
        for target in targets {
            let arms: Vec<Arm> = match target {
                KillTarget::Variation(arm) => vec![arm],
                KillTarget::Everything => (1..=Arm::MAX_TREATED).filter_map(Arm::new).collect(),
            };
            points.extend(arms.into_iter().flat_map(|arm| latest.allocation.ranges_of(arm)));
        }
    }
    points.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, last) in points {
        match merged.last_mut() {
            Some(open) if first.get() <= open.1 => open.1 = open.1.max(last.get()),
            _ => merged.push((first.get(), last.get())),
        }
    }
    merged.into_iter().map(|(first, last)| (digest_at(first, 0), digest_at(last, u64::MAX))).collect()
}

/// The digest with this point as its first 8 bytes and `rest` as its last 8.
fn digest_at(point: u64, rest: u64) -> Digest {
    Digest::from_bytes((u128::from(point) << 64 | u128::from(rest)).to_be_bytes())
}
