//! The fold: from the log to unit records and tallies, a step at a time.
//!
//! A step reads first and writes after. All that is read (the log, the records and outcomes it touches) is read without
//! the writer's lock, since nobody but the fold writes those tables; what is written goes in one short transaction with
//! the fold's offset. So a kill never waits for more than the writing half of a step.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use inroad_assignment::{Digest, Experiment};
use inroad_policy::attribution::{UnitRecord, settled, watched};
use rusqlite::{Connection, TransactionBehavior};

use super::catalogue;
use super::database::Readers;
use super::scan::{Heard, Memory, Scan, scan};
use super::slots::{Slot, SlotIndex, Slots};
use super::tallies::{Delta, Tallies};
use super::units::{Said, StoredOutcome, UnitRow, outcomes_of, put_outcome, put_unit, said, unit};
use super::writer::Writer;
use crate::counts::FoldStep;
use crate::error::StoreError;
use crate::event::Seq;

/// How many records are looked up before the writer's lock is offered to others.
pub(super) const BREATH: usize = 1_000;
/// Rows written after which the write-ahead log is folded back into the file.
const CHECKPOINT_ROWS: usize = 100_000;

/// The fold with all that it keeps in memory. One at a time.
pub(crate) struct Fold {
    pub(super) slots: Slots,
    memory: Memory,
    log: Connection,
    /// The most events of one step, and the most units that one counts again.
    pub(super) step: usize,
    /// Whether something was learnt that the counts do not know yet.
    is_behind: bool,
    unchecked: usize,
}

/// What the fold shares with the rest of the store.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    /// The one connection that writes the state.
    pub(crate) writer: &'a Writer,
    /// Connections that read it.
    pub(crate) readers: &'a Readers,
    /// The counts in memory.
    pub(crate) tallies: &'a Tallies,
    /// The fold's offset.
    pub(crate) folded: &'a AtomicU64,
}

/// An outcome that is new, or says something else than what was known under its id.
struct News {
    heard: Heard,
    before: Option<Said>,
}

/// A unit with events of this step.
struct Touched {
    unit: Digest,
    exposures: Vec<inroad_policy::attribution::Exposure>,
}

/// A record that is to be written.
struct Written {
    slot: SlotIndex,
    row: UnitRow,
    is_new: bool,
}

/// A unit whose outcomes have to be read again, because where they count may have changed.
struct Anew {
    slot: SlotIndex,
    row: UnitRow,
    before: Option<UnitRecord>,
}

/// What a step writes.
#[derive(Default)]
pub(super) struct Changes {
    outcomes: Vec<News>,
    units: Vec<Written>,
    deltas: BTreeMap<SlotIndex, Delta>,
}

impl Fold {
    /// A fold over one log.
    pub(crate) fn new(log: Connection, step: usize, remembered: usize) -> Self {
        Self {
            slots: Slots::default(),
            memory: Memory::new(remembered),
            log,
            step: step.max(1),
            is_behind: false,
            unchecked: 0,
        }
    }

    /// One step; see [`crate::Store::fold`].
    pub(crate) fn step(
        &mut self,
        shared: Shared<'_>,
        experiments: &Arc<Vec<Arc<Experiment>>>,
        limit: usize,
    ) -> Result<FoldStep, StoreError> {
        let after = shared.folded.load(Ordering::Acquire);
        let mut changed = 0;
        self.is_behind |= shared.writer.with(|connection| self.slots.learn(connection, experiments))?;
        if self.is_behind {
            // Stays so if this fails: the same catalogue is not learnt twice, and no event may be counted before it.
            let applied = self.apply_history(shared)?;
            changed += applied.units;
            self.is_behind = !applied.done;
        }
        if self.is_behind {
            return Ok(FoldStep { events: 0, changed, folded: after, behind: true });
        }
        let limit = limit.min(self.step);
        let mut scanned = scan(&self.log, after, limit, &self.slots, &self.memory, true)?;
        if scanned.unknown > 0 {
            // The caller's catalogue is older than the log: what was served was committed before it was served.
            let (_, stored) = shared.readers.with(catalogue::load)?;
            let all = Arc::new(stored.into_iter().map(|s| s.experiment).collect());
            self.is_behind |= shared.writer.with(|connection| self.slots.learn(connection, &all))?;
            let applied = self.apply_history(shared)?;
            changed += applied.units;
            self.is_behind = !applied.done;
            if self.is_behind {
                return Ok(FoldStep { events: 0, changed, folded: after, behind: true });
            }
            scanned = scan(&self.log, after, limit, &self.slots, &self.memory, false)?;
        }
        if scanned.events == 0 {
            self.checkpoint(shared, 1)?;
            return Ok(FoldStep { events: 0, changed, folded: after, behind: false });
        }
        let (events, last) = (scanned.events, scanned.last);
        let mut known = Vec::new();
        let changes = self.work_out(shared, scanned, &mut known)?;
        changed += changes.units.len();
        self.write(shared, &changes, Some(last))?;
        let written = changes.units.iter().map(|w| (w.slot, w.row.digest, w.row.record.exposures()));
        for (slot, digest, exposures) in known.iter().map(|(s, d, r)| (*s, *d, r.exposures())).chain(written) {
            self.memory.keep(slot, digest, exposures);
        }
        self.unchecked += changes.units.len() + changes.outcomes.len();
        self.checkpoint(shared, CHECKPOINT_ROWS)?;
        Ok(FoldStep { events, changed, folded: last, behind: false })
    }

    /// Compares what was read with what is known. `known` gets the records that were looked up and did not change.
    fn work_out(
        &self,
        shared: Shared<'_>,
        scanned: Scan,
        known: &mut Vec<(SlotIndex, Digest, UnitRecord)>,
    ) -> Result<Changes, StoreError> {
        let mut changes = Changes { outcomes: news(shared, scanned.outcomes)?, ..Changes::default() };
        let mut touched: BTreeMap<(SlotIndex, Digest), Touched> = BTreeMap::new();
        for seen in scanned.exposures {
            let entry = touched.entry((seen.slot, seen.digest));
            entry.or_insert_with(|| Touched { unit: seen.unit, exposures: Vec::new() }).exposures.push(seen.exposure);
        }
        for News { heard, before } in &changes.outcomes {
            let events = [Some(&heard.outcome.said.event), before.as_ref().map(|said| &said.event)];
            for event in events.into_iter().flatten() {
                for (index, slot) in self.slots.about(event, &heard.clock, &heard.unit_type) {
                    // It was parsed when it was scanned.
                    let Ok(key) = inroad_assignment::UnitKey::parse(&heard.key) else { continue };
                    let entry = touched.entry((index, slot.hasher.digest(key)));
                    entry.or_insert_with(|| Touched { unit: heard.unit, exposures: Vec::new() });
                }
            }
        }
        let mut anew = Vec::new();
        let mut touched = touched.into_iter().peekable();
        while touched.peek().is_some() {
            shared.writer.read(|connection| {
                for ((index, digest), touched) in touched.by_ref().take(BREATH) {
                    let before = unit(connection, self.slots.get(index)?, &digest)?;
                    self.compare(index, digest, touched, before, &mut changes, &mut anew, known)?;
                }
                Ok(())
            })?;
        }
        self.count_anew(shared, anew, &mut changes)?;
        changes.units.sort_unstable_by_key(|written| (written.slot, written.row.digest));
        Ok(changes)
    }

    /// One unit: what its events change, unless its outcomes have to be read again for that.
    #[expect(clippy::too_many_arguments, reason = "the parts of one step, which live nowhere else together")]
    fn compare(
        &self,
        index: SlotIndex,
        digest: Digest,
        touched: Touched,
        before: Option<UnitRecord>,
        changes: &mut Changes,
        anew: &mut Vec<Anew>,
        known: &mut Vec<(SlotIndex, Digest, UnitRecord)>,
    ) -> Result<(), StoreError> {
        let mut record = before.clone().unwrap_or_default();
        let mut exposed = false;
        for exposure in &touched.exposures {
            exposed |= record.expose(*exposure);
        }
        let news = news_of(&changes.outcomes, &touched.unit);
        if exposed || (before.is_some() && news.iter().any(|news| news.before.is_some())) {
            anew.push(Anew { slot: index, row: UnitRow { digest, unit: touched.unit, record }, before });
            return Ok(());
        }
        // Outcomes of a unit that has seen nothing yet wait in their table.
        let Some(before) = before else { return Ok(()) };
        if news.is_empty() {
            known.push((index, digest, record));
            return Ok(());
        }
        let slot = self.slots.get(index)?;
        let history = slot.history()?;
        let delta = changes.deltas.entry(index).or_default();
        for News { heard, .. } in news {
            let outcome = heard.outcome.said.outcome();
            record.follow(history, 0, &outcome);
            watched(&record, history, &outcome, 0, |key, cell| delta.tally.add_cell(key, &cell));
        }
        if record != before {
            move_settled(slot, digest, Some(&before), &record, delta)?;
            let row = UnitRow { digest, unit: touched.unit, record };
            changes.units.push(Written { slot: index, row, is_new: false });
        }
        Ok(())
    }

    /// Units whose exposures changed: all that they contributed is taken away, and all that they contribute is added.
    fn count_anew(&self, shared: Shared<'_>, anew: Vec<Anew>, changes: &mut Changes) -> Result<(), StoreError> {
        let mut wanted: Vec<Digest> = anew.iter().map(|unit| unit.row.unit).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut stored: HashMap<Digest, Vec<StoredOutcome>> = HashMap::new();
        for part in wanted.chunks(BREATH) {
            shared.writer.read(|connection| {
                for digest in part {
                    let outcomes = outcomes_of(connection, digest)?;
                    if !outcomes.is_empty() {
                        stored.insert(*digest, outcomes);
                    }
                }
                Ok(())
            })?;
        }
        for Anew { slot: index, mut row, before } in anew {
            let slot = self.slots.get(index)?;
            let history = slot.history()?;
            let old = stored.get(&row.unit).map(Vec::as_slice).unwrap_or_default();
            let news = news_of(&changes.outcomes, &row.unit);
            let delta = changes.deltas.entry(index).or_default();
            if let Some(before) = &before {
                for outcome in old {
                    let outcome = outcome.said.outcome();
                    watched(before, history, &outcome, 0, |key, cell| delta.tally.sub_cell(key, &cell));
                }
            }
            row.record.forget_outcomes();
            let replaced = |o: &&StoredOutcome| news.iter().any(|n| n.heard.outcome.event_id == o.event_id);
            let kept = old.iter().filter(|outcome| !replaced(outcome));
            for outcome in kept.chain(news.iter().map(|news| &news.heard.outcome)) {
                let outcome = outcome.said.outcome();
                row.record.follow(history, 0, &outcome);
                watched(&row.record, history, &outcome, 0, |key, cell| delta.tally.add_cell(key, &cell));
            }
            move_settled(slot, row.digest, before.as_ref(), &row.record, delta)?;
            for exposure in row.record.exposures() {
                delta.latest_exposure = delta.latest_exposure.max(exposure.at);
            }
            changes.units.push(Written { slot: index, row, is_new: before.is_none() });
        }
        Ok(())
    }

    /// Everything that a step or a change of history brings, in one transaction.
    pub(super) fn write(&self, shared: Shared<'_>, changes: &Changes, last: Option<Seq>) -> Result<(), StoreError> {
        shared.writer.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for News { heard, .. } in &changes.outcomes {
                put_outcome(&transaction, &heard.unit, &heard.outcome.event_id, &heard.outcome.said)?;
            }
            for written in &changes.units {
                put_unit(&transaction, self.slots.get(written.slot)?, &written.row, written.is_new)?;
            }
            let mut memory = shared.tallies.write();
            let put = |(index, delta): (&SlotIndex, _)| memory.put(&transaction, self.slots.get(*index)?, delta);
            let put = changes.deltas.iter().map(put).collect::<Result<Vec<_>, _>>()?;
            if let Some(last) = last {
                transaction
                    .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'folded'")?
                    .execute([last as i64])?;
            }
            transaction.commit()?;
            put.into_iter().for_each(|put| memory.keep(put));
            if let Some(last) = last {
                shared.folded.store(last, Ordering::Release);
            }
            Ok(())
        })
    }

    /// Folds the write-ahead log back into the file once it has grown by `rows`; readers and writers go on meanwhile.
    fn checkpoint(&mut self, shared: Shared<'_>, rows: usize) -> Result<(), StoreError> {
        if self.unchecked >= rows {
            self.unchecked = 0;
            shared.readers.with(|connection| {
                connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Changes {
    /// Changes of one generation's records and counts.
    pub(super) fn of_history(slot: SlotIndex, rows: Vec<UnitRow>, delta: Delta) -> Self {
        let units = rows.into_iter().map(|row| Written { slot, row, is_new: false }).collect();
        Self { outcomes: Vec::new(), units, deltas: BTreeMap::from([(slot, delta)]) }
    }
}

/// Of what was heard, what is new.
fn news(shared: Shared<'_>, heard: Vec<Heard>) -> Result<Vec<News>, StoreError> {
    let mut news = Vec::with_capacity(heard.len());
    let mut heard = heard.into_iter().peekable();
    while heard.peek().is_some() {
        shared.writer.read(|connection| {
            for heard in heard.by_ref().take(BREATH) {
                let before = said(connection, &heard.unit, &heard.outcome.event_id)?;
                if before.as_ref().is_none_or(|before| heard.outcome.said < *before) {
                    news.push(News { heard, before });
                }
            }
            Ok(())
        })?;
    }
    Ok(news)
}

/// One unit's part of the news, which are sorted by unit.
fn news_of<'a>(news: &'a [News], unit: &Digest) -> &'a [News] {
    let from = news.partition_point(|n| n.heard.unit < *unit);
    let rest = news.get(from..).unwrap_or_default();
    rest.get(..rest.partition_point(|n| n.heard.unit == *unit)).unwrap_or_default()
}

/// Takes away what a record told before and adds what it tells now.
fn move_settled(
    slot: &Slot,
    digest: Digest,
    before: Option<&UnitRecord>,
    after: &UnitRecord,
    delta: &mut Delta,
) -> Result<(), StoreError> {
    let (history, point, tally) = (slot.history()?, digest.point(), &mut delta.tally);
    if let Some(before) = before {
        let flags = settled(before, point, history, |key, cell| tally.sub_cell(key, &cell));
        tally.flags.sub(&flags);
    }
    let flags = settled(after, point, history, |key, cell| tally.add_cell(key, &cell));
    tally.flags.add(&flags);
    Ok(())
}
