//! What was served changes after units were counted: revisions take slices, kills and restores change what a stretch
//! serves, a generation ends, a metric is added. Then the units whose part may differ are counted again: those of the slices and of no
//! others, which is what records are keyed by the line for. That goes piece by piece, each in a transaction of its own,
//! so that a kill never waits for more than one of them, and whoever starts again goes on where it stopped.

use inroad_assignment::{Arm, Digest, Generation, Target, Timestamp};
use inroad_policy::attribution::{History, settled, watched};

use super::fold::{BREATH, Changes, Fold, Shared};
use super::slots::{Slot, SlotIndex};
use super::tallies::{Applied, Delta, Known, Recount};
use super::units::{UnitRow, outcomes_of, stretch};
use crate::error::StoreError;

/// A stretch of the line: first and last digest.
type Stretch = (Digest, Digest);

/// How far the counts were brought.
pub(super) struct AppliedHistory {
    /// How many units were counted again.
    pub(super) units: usize,
    /// Whether all is known now.
    pub(super) done: bool,
}

impl Fold {
    /// Brings the counts of every generation up to what is known of its history, as far as one step may go.
    pub(super) fn apply_history(&mut self, shared: Shared<'_>) -> Result<AppliedHistory, StoreError> {
        let mut units = 0;
        for (index, slot) in self.slots.all() {
            while let Some(known) = shared.tallies.get(shared.readers, slot.key(), slot.number)?.known {
                if known == (Known { applied: Applied::all_of(slot)?, recount: None }) {
                    break;
                }
                if units >= self.step {
                    return Ok(AppliedHistory { units, done: false });
                }
                units += self.recount(shared, (index, slot), self.step - units)?;
            }
        }
        Ok(AppliedHistory { units, done: true })
    }

    /// Counts at most `limit` units of one generation again, and writes down how far that came. Gives how many they were.
    fn recount(
        &self,
        shared: Shared<'_>,
        (index, slot): (SlotIndex, &Slot),
        limit: usize,
    ) -> Result<usize, StoreError> {
        let kept = shared.tallies.get(shared.readers, slot.key(), slot.number)?;
        let (Some(known), latest) = (kept.known, kept.latest_exposure) else { return Ok(0) };
        drop(kept);
        // What was begun is brought to its end first, whatever has happened since.
        let begun = known.recount.map_or_else(|| Applied::all_of(slot).map(|to| Recount { to, from: line().0 }), Ok)?;
        let (applied, to) = (known.applied, begun.to);
        let (before, generation) = (applied.of(slot.generation()?), to.of(slot.generation()?));
        let definition = &slot.experiment.definition;
        let mut old = History::new(definition, &before).with_metrics(applied.metrics);
        if !applied.early {
            old = old.without_early();
        }
        let new = History::new(definition, &generation).with_metrics(to.metrics);
        let added = to.metrics > applied.metrics;
        let ended = before.ended_at() != generation.ended_at();
        let everywhere = added || ended || !applied.early;
        // What an end cuts off was counted already where clocks run ahead.
        let (from_metric, reads) = (if ended { 0 } else { applied.metrics }, added || ended);
        let stretches = if everywhere { vec![line()] } else { touched(&generation, applied, latest) };
        let mut delta = Delta::default();
        let (mut rows, mut counted, mut next) = (Vec::new(), 0, None);
        'line: for (first, last) in stretches.into_iter().filter(|(_, last)| *last >= begun.from) {
            let mut from = first.max(begun.from);
            loop {
                if counted >= limit {
                    next = Some(from);
                    break 'line;
                }
                let breath = BREATH.min(limit - counted);
                let units = shared.writer.read(|connection| {
                    let units = stretch(connection, slot, (from, last), breath)?;
                    let outcomes = |unit: &UnitRow| {
                        if reads { outcomes_of(connection, &unit.unit) } else { Ok(Vec::new()) }
                    };
                    units.into_iter().map(|unit| outcomes(&unit).map(|o| (unit, o))).collect::<Result<Vec<_>, _>>()
                })?;
                counted += units.len();
                let reached = units.last().filter(|_| units.len() == breath).and_then(|(unit, _)| after(unit.digest));
                for (unit, outcomes) in units {
                    let (point, tally) = (unit.digest.point(), &mut delta.tally);
                    let flags = settled(&unit.record, point, old, |key, cell| tally.sub_cell(key, &cell));
                    tally.flags.sub(&flags);
                    let mut record = unit.record.clone();
                    if ended {
                        record.forget_outcomes();
                    }
                    for outcome in &outcomes {
                        let outcome = outcome.said.outcome();
                        record.follow(new, from_metric, &outcome);
                        watched(&record, new, &outcome, applied.metrics, |key, cell| tally.add_cell(key, &cell));
                    }
                    let flags = settled(&record, point, new, |key, cell| tally.add_cell(key, &cell));
                    tally.flags.add(&flags);
                    if record != unit.record {
                        rows.push(UnitRow { record, ..unit });
                    }
                }
                match reached {
                    Some(reached) if reached <= last => from = reached,
                    _ => break,
                }
            }
        }
        delta.learnt = Some((
            known,
            match next {
                Some(from) => Known { applied, recount: Some(Recount { to, from }) },
                None => Known { applied: to, recount: None },
            },
        ));
        self.write(shared, &Changes::of_history(index, rows, delta), None)?;
        Ok(counted)
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
