//! What was served changes after units were counted: revisions take slices, kills and restores change what a stretch
//! serves, a metric is added. Then the units whose part may differ are counted again: those of the slices and of no
//! others, which is what records are keyed by the line for.

use inroad_assignment::{Arm, Digest, Generation, Target, Timestamp};
use inroad_policy::attribution::{History, known_up_to, settled, watched};

use super::fold::{BREATH, Changes, Fold, Shared};
use super::slots::{Slot, SlotIndex};
use super::tallies::{Applied, Delta};
use super::units::{UnitRow, outcomes_of, stretch};
use crate::error::StoreError;

/// A stretch of the line: first and last digest.
type Stretch = (Digest, Digest);

impl Fold {
    /// Brings the counts of every generation up to what is known of its history; gives how many were behind.
    pub(super) fn apply_history(&mut self, shared: Shared<'_>) -> Result<usize, StoreError> {
        let mut behind = 0;
        for (index, slot) in self.slots.all() {
            let kept = shared.tallies.get(shared.readers, slot.key(), slot.number)?;
            let now = Applied::all_of(slot)?;
            if let Some(applied) = kept.applied.filter(|applied| *applied != now) {
                let latest = kept.latest_exposure;
                drop(kept);
                let changes = self.recount(shared, (index, slot), applied, latest)?;
                self.write(shared, &changes, None)?;
                behind += 1;
            }
        }
        Ok(behind)
    }

    fn recount(
        &self,
        shared: Shared<'_>,
        (index, slot): (SlotIndex, &Slot),
        applied: Applied,
        latest: Timestamp,
    ) -> Result<Changes, StoreError> {
        let generation = slot.generation()?;
        let before = known_up_to(generation, applied.revisions, applied.switches);
        let new = slot.history()?;
        let mut old = History::new(&slot.experiment.definition, &before).with_metrics(applied.metrics);
        if !applied.early {
            old = old.without_early();
        }
        let added = new.metrics.len() > applied.metrics;
        let stretches = if added || !applied.early { vec![line()] } else { touched(generation, applied, latest) };
        let (mut rows, mut delta) = (Vec::new(), Delta::default());
        for (mut from, to) in stretches {
            loop {
                let units = shared.writer.read(|connection| {
                    let units = stretch(connection, slot, (from, to), BREATH)?;
                    let outcomes = |unit: &UnitRow| {
                        if added { outcomes_of(connection, &unit.unit) } else { Ok(Vec::new()) }
                    };
                    units.into_iter().map(|unit| outcomes(&unit).map(|o| (unit, o))).collect::<Result<Vec<_>, _>>()
                })?;
                let last = units.last().map(|(unit, _)| unit.digest);
                let full = units.len() == BREATH;
                for (unit, outcomes) in units {
                    let (point, tally) = (unit.digest.point(), &mut delta.tally);
                    let flags = settled(&unit.record, point, old, |key, cell| tally.sub_cell(key, &cell));
                    tally.flags.sub(&flags);
                    let mut record = unit.record.clone();
                    for outcome in &outcomes {
                        let outcome = outcome.said.outcome();
                        record.follow(new.metrics, applied.metrics, &outcome);
                        watched(&record, new, &outcome, applied.metrics, |key, cell| tally.add_cell(key, &cell));
                    }
                    let flags = settled(&record, point, new, |key, cell| tally.add_cell(key, &cell));
                    tally.flags.add(&flags);
                    if record != unit.record {
                        rows.push(UnitRow { record, ..unit });
                    }
                }
                match last.and_then(after) {
                    Some(next) if full => from = next,
                    _ => break,
                }
            }
        }
        Ok(Changes::of_history(index, rows, delta))
    }
}

/// The whole line.
fn line() -> Stretch {
    (Digest::from_bytes([0; 16]), Digest::from_bytes([u8::MAX; 16]))
}

/// The digest after one.
fn after(digest: Digest) -> Option<Digest> {
    let next = u128::from_be_bytes(*digest.as_bytes()).checked_add(1)?;
    Some(Digest::from_bytes(next.to_be_bytes()))
}

/// Where the revisions and switches that are new may change what a unit contributes; no stretch overlaps another.
fn touched(generation: &Generation, applied: Applied, latest: Timestamp) -> Vec<Stretch> {
    let new = generation.revisions.iter().skip(applied.revisions);
    // A unit that was exposed when a new revision was already in effect lies in another epoch now, wherever it lives.
    // Clocks run apart, so this happens; but seldom.
    if new.clone().any(|revision| revision.effective_at <= latest) {
        return vec![line()];
    }
    let mut points = Vec::new();
    for pair in generation.revisions.windows(2).skip(applied.revisions.saturating_sub(1)) {
        if let [earlier, later] = pair {
            let taken = earlier.allocation.slices_taken_by(&later.allocation);
            points.extend(taken.into_iter().map(|(first, last, _)| (first, last)));
        }
    }
    // What an arm owns it owns for good, so the newest allocation has all that a switch was ever about.
    let targets = generation.switches.iter().skip(applied.switches).map(|switch| switch.target);
    if let Some(latest) = generation.latest() {
        for target in targets {
            let arms: Vec<Arm> = match target {
                Target::Variation(arm) => vec![arm],
                Target::Everything => (1..=Arm::MAX_TREATED).filter_map(Arm::new).collect(),
            };
            points.extend(arms.into_iter().flat_map(|arm| latest.allocation.stretches_of(arm)));
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
    merged.into_iter().map(|(first, last)| (digest(first, 0), digest(last, u64::MAX))).collect()
}

fn digest(point: u64, rest: u64) -> Digest {
    Digest::from_bytes((u128::from(point) << 64 | u128::from(rest)).to_be_bytes())
}
