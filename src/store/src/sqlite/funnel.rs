//! A funnel out of millions of rows while somebody waits for it: two scans on every core, each over tables in their own
//! order, and nothing looked up row by row.
//!
//! The first scan goes over the generation's unit records and keeps the visits: when a unit came to an arm. Units lie in
//! the order of the experiment's line and outcomes in that of the units' own digests, so visits are dealt out by the
//! latter and each part is sorted. The second scan goes over the outcomes of a part beside its visits, as one zips two
//! sorted lists. All connections read one moment of the database.
//!
//! Memory is bounded by [`VISITS`], whatever is asked: if there are more, their units are taken in several rounds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use inroad_assignment::{Digest, Timestamp};
use inroad_policy::attribution::funnel::{
    FunnelTally, MAX_STEPS, Stays, StepOutcome, TimeRange, Visit, reached, visits,
};
use inroad_policy::attribution::{Cell, CellKey, Exposure, History};
use rusqlite::{Connection, Row, params};

use super::catalogue::id_of;
use super::database::Readers;
use super::rows::damaged;
use super::tallies::Tallies;
use super::writer::Writer;
use crate::error::StoreError;
use crate::event::Seq;
use crate::funnel::{FunnelCounts, FunnelQuestion};
use crate::record;

/// The most visits held at once, of 40 bytes each: some 300 MB at the very most.
const VISITS: u64 = 6_000_000;
/// Parts that a table's keys are cut into, by the first byte: small enough that cores end together.
const PARTS: usize = 64;
/// First bytes that one part has.
const BYTES: usize = 256 / PARTS;
/// Outcomes of units that were not exposed that are passed over before the next unit that was is looked up.
const PATIENCE: usize = 64;
/// More cores than this are left to those who serve.
const WORKERS: usize = 8;

/// What a funnel reads from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) writer: &'a Writer,
    pub(super) readers: &'a Readers,
    pub(super) tallies: &'a Tallies,
    pub(super) folded: &'a AtomicU64,
}

/// One unit's visit.
#[derive(Clone, Copy)]
struct Seen {
    unit: [u8; 16],
    visit: Visit,
}

/// What every worker knows.
struct Task<'a> {
    experiment_id: i64,
    generation: u32,
    range: TimeRange,
    history: History<'a>,
    stays: Stays,
    /// The names that steps ask for, once each.
    events: Vec<&'a str>,
    /// The index of each step's name.
    steps: Vec<u8>,
    arms: usize,
}

/// Counts a funnel.
pub(super) fn funnel(source: Source<'_>, question: &FunnelQuestion) -> Result<FunnelCounts, StoreError> {
    let FunnelQuestion { experiment, generation: number, steps: names, range } = question;
    let definition = &experiment.definition;
    let folded = || source.folded.load(Ordering::Acquire);
    let Some(generation) = experiment.generation_numbered(*number) else {
        return Ok(FunnelCounts { folded: folded(), tally: FunnelTally::default() });
    };
    let arms = definition.variations().len();
    let mut events: Vec<&str> = Vec::new();
    let mut steps = Vec::new();
    for name in names.iter().take(MAX_STEPS) {
        let known = events.iter().position(|event| event == name).unwrap_or_else(|| {
            events.push(name);
            events.len() - 1
        });
        steps.push(known as u8);
    }
    let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
    let mut connections = (0..workers).map(|_| source.readers.open()).collect::<Result<Vec<_>, _>>()?;
    let (folded, expected) = begin(source, &connections, question)?;
    let Some(experiment_id) = connections.first().map(|c| id_of(c, definition.key().as_str())).transpose()?.flatten()
    else {
        return Ok(FunnelCounts { folded, tally: FunnelTally::new(arms) });
    };
    // Nobody is drawn after the end, and whoever saw a variation may see another.
    let range = TimeRange { to: generation.ended_at().map_or(range.to, |end| end.min(range.to)), ..*range };
    let task = Task {
        experiment_id,
        generation: *number,
        range,
        history: History::new(definition, generation),
        stays: Stays::new(generation, range.to),
        events,
        steps,
        arms,
    };
    let rounds = usize::try_from(expected.div_ceil(VISITS)).unwrap_or(PARTS).clamp(1, PARTS);
    let mut tally = FunnelTally::new(arms);
    for round in 0..rounds {
        // Parts of the units' own digests that this round takes.
        let (first, last) = (round * PARTS / rounds, (round + 1) * PARTS / rounds);
        let found = on_all(&mut connections, PARTS, |connection, parts| task.visits(connection, parts, first..last))?;
        let counted =
            on_all(&mut connections, last - first, |connection, parts| task.count(connection, parts, &found))?;
        counted.iter().for_each(|part| tally.add(part));
    }
    Ok(FunnelCounts { folded, tally })
}

/// Begins to read with every connection at one and the same moment: nobody writes while the writer's turn is ours. Gives
/// how far the counts are then, and about how many visits there are.
fn begin(source: Source<'_>, connections: &[Connection], question: &FunnelQuestion) -> Result<(Seq, u64), StoreError> {
    let key = question.experiment.definition.key();
    let kept = source.tallies.get(source.readers, key, question.generation)?;
    let exposed = |(key, cell): (&CellKey, &Cell)| if key.metric.is_none() { cell.units } else { 0 };
    let expected = kept.tally.cells.iter().map(exposed).sum();
    source.writer.with(|_| {
        for connection in connections {
            connection.execute_batch("BEGIN")?;
            // A transaction sees what was committed when it first reads.
            connection.query_row("SELECT value FROM meta WHERE key = 'folded'", [], |_| Ok(()))?;
        }
        Ok((source.folded.load(Ordering::Acquire), expected))
    })
}

/// The parts of some work, handed out one by one to whoever is free.
struct Parts {
    taken: AtomicUsize,
    all: usize,
}

impl Parts {
    fn next(&self) -> Option<usize> {
        Some(self.taken.fetch_add(1, Ordering::Relaxed)).filter(|part| *part < self.all)
    }
}

/// Does the parts of some work on all connections at once.
fn on_all<T: Send>(
    connections: &mut [Connection],
    parts: usize,
    work: impl Fn(&Connection, &Parts) -> Result<T, StoreError> + Sync,
) -> Result<Vec<T>, StoreError> {
    let (parts, work) = (&Parts { taken: AtomicUsize::new(0), all: parts }, &work);
    thread::scope(|scope| {
        let begun: Vec<_> =
            connections.iter_mut().map(|connection| scope.spawn(move || work(connection, parts))).collect();
        let ended = begun.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(StoreError::Database("a funnel's worker failed".to_owned())))
        });
        ended.collect()
    })
}

impl Task<'_> {
    /// The first scan: visits of units whose own digests lie in `taken`, by part of those.
    fn visits(
        &self,
        connection: &Connection,
        parts: &Parts,
        taken: std::ops::Range<usize>,
    ) -> Result<Vec<Vec<Seen>>, StoreError> {
        let mut found: Vec<Vec<Seen>> = taken.clone().map(|_| Vec::new()).collect();
        let mut exposures: Vec<Exposure> = Vec::new();
        let mut statement = connection.prepare_cached(
            "SELECT digest, unit_digest, record FROM unit
             WHERE experiment_id = ?1 AND generation = ?2 AND digest BETWEEN ?3 AND ?4",
        )?;
        while let Some(part) = parts.next() {
            let (from, to) = bounds(part);
            let mut rows = statement.query(params![self.experiment_id, self.generation, from, to])?;
            while let Some(row) = rows.next()? {
                let unit = digest(row, 1)?;
                let into = usize::from(unit[0]) / BYTES;
                let Some(found) = into.checked_sub(taken.start).and_then(|into| found.get_mut(into)) else { continue };
                let bytes = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
                if record::decode_exposures(bytes, &mut exposures).is_none() {
                    return Err(damaged("unit.record", "the bytes are none of ours"));
                }
                let point = Digest::from_bytes(digest(row, 0)?).point();
                let stays = |arm, from| self.stays.serves(point, arm, from);
                visits(&exposures, self.range, stays, |visit| found.push(Seen { unit, visit }));
            }
        }
        Ok(found)
    }

    /// The second scan: what came of the visits that were found.
    fn count(
        &self,
        connection: &Connection,
        parts: &Parts,
        found: &[Vec<Vec<Seen>>],
    ) -> Result<FunnelTally, StoreError> {
        let mut tally = FunnelTally::new(self.arms);
        while let Some(part) = parts.next() {
            let mut seen: Vec<Seen> = found.iter().filter_map(|found| found.get(part)).flatten().copied().collect();
            seen.sort_unstable_by_key(|seen| seen.unit);
            self.zip(connection, &seen, &mut tally)?;
        }
        Ok(tally)
    }

    /// Visits in the order of their units, beside the outcomes in theirs.
    fn zip(&self, connection: &Connection, seen: &[Seen], tally: &mut FunnelTally) -> Result<(), StoreError> {
        let mut units = seen.chunk_by(|a, b| a.unit == b.unit).peekable();
        let Some(last) = seen.last().map(|last| last.unit) else { return Ok(()) };
        let mut outcomes: Vec<StepOutcome> = Vec::new();
        let mut statement = connection.prepare_cached(
            "SELECT unit_digest, event, occurred_at FROM outcome WHERE unit_digest BETWEEN ?1 AND ?2",
        )?;
        'look: while let Some(from) = units.peek().and_then(|visits| visits.first()).map(|first| first.unit) {
            let mut rows = statement.query(params![from, last])?;
            let mut passed = 0;
            while let Some(row) = rows.next()? {
                let unit = digest(row, 0)?;
                while let Some(before) = units.next_if(|visits| visits[0].unit < unit) {
                    self.close(before, &mut outcomes, tally);
                }
                let Some(visits) = units.peek() else { break };
                if visits[0].unit != unit {
                    passed += 1;
                    if passed > PATIENCE {
                        continue 'look;
                    }
                    continue;
                }
                passed = 0;
                let name = row.get_ref(1)?.as_bytes().map_err(rusqlite::Error::from)?;
                if let Some(event) = self.events.iter().position(|event| event.as_bytes() == name) {
                    let at = Timestamp::from_micros(row.get_ref(2)?.as_i64().map_err(rusqlite::Error::from)?);
                    if self.range.holds(at) {
                        outcomes.push(StepOutcome { at, event: event as u8 });
                    }
                }
            }
            // No outcome is left, of those or any other unit.
            for visits in units.by_ref() {
                self.close(visits, &mut outcomes, tally);
            }
        }
        Ok(())
    }

    /// One unit, all of whose outcomes were read.
    fn close(&self, visits: &[Seen], outcomes: &mut Vec<StepOutcome>, tally: &mut FunnelTally) {
        outcomes.sort_unstable();
        for Seen { visit, .. } in visits {
            tally.count(visit, reached(visit, &self.steps, outcomes), &self.history);
        }
        outcomes.clear();
    }
}

/// The first and the last key of a part.
fn bounds(part: usize) -> ([u8; 16], [u8; 16]) {
    let (mut from, mut to) = ([0; 16], [0xff; 16]);
    from[0] = (part * BYTES) as u8;
    to[0] = (part * BYTES + BYTES - 1) as u8;
    (from, to)
}

fn digest(row: &Row<'_>, column: usize) -> Result<[u8; 16], StoreError> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    bytes.try_into().map_err(|_| damaged("digest", "it has not 16 bytes"))
}
