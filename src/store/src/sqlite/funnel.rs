//! Counts a funnel from millions of rows while a person waits: two scans on several cores, each in its table's own
//! order, without looking up single rows.
//!
//! The first scan reads the generation's unit records and collects the visits, which begin when a unit is first exposed
//! to an arm. Units are stored in the order of the experiment's line, but outcomes in the order of unit digests, which
//! do not depend on an experiment. So visits are divided into parts by unit digest, and each part is sorted. The second
//! scan merges the sorted visits of a part with its outcomes. All connections read the database at the same moment.
//!
//! [`MAX_VISITS`] limits memory: if a funnel has more visits, their units are processed in several rounds.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use inroad_assignment::{Digest, Timestamp};
use inroad_policy::attribution::funnel::{
    FunnelTally, MAX_STEPS, ServingPeriods, StepOutcome, TimeRange, Visit, steps_reached, visits,
};
use inroad_policy::attribution::{Cell, CellKey, Exposure, History};
use rusqlite::{Connection, Row, params};

use super::catalogue::experiment_id;
use super::column_values::corrupt;
use super::fold::StoreHandles;
use crate::cancellation::Cancellation;
use crate::error::StoreError;
use crate::event::Seq;
use crate::funnel::{FunnelCounts, FunnelQuery};
use crate::unit_record_codec;

/// The most visits in memory at once, of 48 bytes each: about 300 MB at most.
const MAX_VISITS: u64 = 6_000_000;
/// Parts into which the keys of a table are divided by their first byte. Small parts let all cores finish together.
const PARTS: usize = 64;
/// Values of the first byte in one part.
const FIRST_BYTES_PER_PART: usize = 256 / PARTS;
/// Outcomes of unexposed units to read past before seeking to the next exposed unit.
const MAX_SKIPPED_OUTCOMES: usize = 64;
/// The most cores that a funnel uses; the others continue to serve.
const MAX_WORKERS: usize = 8;

/// A visit with its unit's digest.
#[derive(Clone, Copy)]
struct UnitVisit {
    unit_digest: [u8; 16],
    visit: Visit,
}

/// The data that all workers of one funnel share.
struct FunnelTask<'a> {
    experiment_id: i64,
    generation: u32,
    range: TimeRange,
    history: History<'a>,
    serving_periods: ServingPeriods,
    /// The event names of the steps, each once.
    events: Vec<&'a str>,
    /// For each step, the index of its event in `events`.
    steps: Vec<u8>,
    arms: usize,
    cancellation: &'a Cancellation,
}

/// Counts a funnel.
pub(super) fn count_funnel(source: StoreHandles<'_>, query: &FunnelQuery) -> Result<FunnelCounts, StoreError> {
    let FunnelQuery { experiment, generation: number, steps: names, range, cancellation } = query;
    cancellation.check()?;
    let definition = &experiment.definition;
    let folded = || source.folded.load(Ordering::Acquire);
    let Some(generation) = experiment.generation_by_number(*number) else {
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
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let mut connections = (0..workers).map(|_| source.counts.open()).collect::<Result<Vec<_>, _>>()?;
    let (folded, expected_visits) = begin_snapshot(source, &connections, query)?;
    let find_id = |connection: &mut Connection| experiment_id(connection, definition.key().as_str());
    let Some(experiment_id) = source.catalogue.with_connection(find_id)? else {
        return Ok(FunnelCounts { folded, tally: FunnelTally::new(arms) });
    };
    // After its end the generation assigns no units, and a unit that saw a variation may see another.
    let range = TimeRange { to: generation.ended_at().map_or(range.to, |end| end.min(range.to)), ..*range };
    let task = FunnelTask {
        experiment_id,
        generation: *number,
        range,
        history: History::new(definition, generation),
        serving_periods: ServingPeriods::new(generation, range.to),
        events,
        steps,
        arms,
        cancellation,
    };
    let rounds = usize::try_from(expected_visits.div_ceil(MAX_VISITS)).unwrap_or(PARTS).clamp(1, PARTS);
    let mut tally = FunnelTally::new(arms);
    for round in 0..rounds {
        // The parts of the unit digests that this round covers.
        let (first, last) = (round * PARTS / rounds, (round + 1) * PARTS / rounds);
        let visits =
            run_on_all(&mut connections, PARTS, |connection, parts| task.find_visits(connection, parts, first..last))?;
        let counted = run_on_all(&mut connections, last - first, |connection, parts| {
            task.count_outcomes(connection, parts, &visits)
        })?;
        counted.iter().for_each(|part| tally.add(part));
    }
    Ok(FunnelCounts { folded, tally })
}

/// Begins a read transaction on every connection at the same moment; the lock prevents changes in between.
/// Returns the fold's offset at that moment and the approximate number of visits.
fn begin_snapshot(
    source: StoreHandles<'_>,
    connections: &[Connection],
    query: &FunnelQuery,
) -> Result<(Seq, u64), StoreError> {
    let key = query.experiment.definition.key();
    let cached = source.tallies.get(source.catalogue, source.counts, key, query.generation)?;
    let exposed = |(key, cell): (&CellKey, &Cell)| if key.metric.is_none() { cell.units } else { 0 };
    let expected_visits = cached.tally.cells.iter().map(exposed).sum();
    let read = |connection: &Connection| -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = 'folded'")?;
        Ok(statement.query_row([], |_| Ok(()))?)
    };
    // The first read of a connection also reads the schema and prepares the statement: the fold must not wait for that.
    connections.iter().try_for_each(read)?;
    let _no_change = source.commit.lock().unwrap_or_else(PoisonError::into_inner);
    for connection in connections {
        connection.execute_batch("BEGIN")?;
        // A transaction sees the state at its first read.
        read(connection)?;
    }
    Ok((source.folded.load(Ordering::Acquire), expected_visits))
}

/// A queue of part numbers from which idle workers take the next one.
struct PartQueue {
    taken: AtomicUsize,
    count: usize,
}

impl PartQueue {
    fn next(&self) -> Option<usize> {
        Some(self.taken.fetch_add(1, Ordering::Relaxed)).filter(|part| *part < self.count)
    }
}

/// Runs `work` on all connections in parallel, with one queue of parts for all.
fn run_on_all<T: Send>(
    connections: &mut [Connection],
    parts: usize,
    work: impl Fn(&Connection, &PartQueue) -> Result<T, StoreError> + Sync,
) -> Result<Vec<T>, StoreError> {
    let (parts, work) = (&PartQueue { taken: AtomicUsize::new(0), count: parts }, &work);
    thread::scope(|scope| {
        let workers: Vec<_> =
            connections.iter_mut().map(|connection| scope.spawn(move || work(connection, parts))).collect();
        let results = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(StoreError::Database("a funnel's worker failed".to_owned())))
        });
        results.collect()
    })
}

impl FunnelTask<'_> {
    /// The first scan: the visits of units whose unit digests are in the parts `covered`, grouped by those parts.
    fn find_visits(
        &self,
        connection: &Connection,
        parts: &PartQueue,
        covered: std::ops::Range<usize>,
    ) -> Result<Vec<Vec<UnitVisit>>, StoreError> {
        let mut found: Vec<Vec<UnitVisit>> = covered.clone().map(|_| Vec::new()).collect();
        let mut exposures: Vec<Exposure> = Vec::new();
        let mut statement = connection.prepare_cached(
            "SELECT digest, unit_digest, record FROM unit
             WHERE experiment_id = ?1 AND generation = ?2 AND digest BETWEEN ?3 AND ?4",
        )?;
        while let Some(part) = parts.next() {
            let (from, to) = key_range(part);
            let mut rows = statement.query(params![self.experiment_id, self.generation, from, to])?;
            while let Some(row) = rows.next()? {
                self.cancellation.check()?;
                let unit_digest = read_digest(row, 1)?;
                let unit_part = usize::from(unit_digest[0]) / FIRST_BYTES_PER_PART;
                let Some(found) = unit_part.checked_sub(covered.start).and_then(|index| found.get_mut(index)) else {
                    continue;
                };
                let bytes = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
                if unit_record_codec::decode_exposures(bytes, &mut exposures).is_none() {
                    return Err(corrupt("unit.record", "the bytes are not a unit record"));
                }
                let point = Digest::from_bytes(read_digest(row, 0)?).point();
                let serves_throughout = |arm, from| self.serving_periods.serves_throughout(point, arm, from);
                visits(&exposures, self.range, &self.history, serves_throughout, |visit| {
                    found.push(UnitVisit { unit_digest, visit });
                });
            }
        }
        Ok(found)
    }

    /// The second scan: counts the steps that the visits reached. `found` contains the visits of each worker by part.
    fn count_outcomes(
        &self,
        connection: &Connection,
        parts: &PartQueue,
        found: &[Vec<Vec<UnitVisit>>],
    ) -> Result<FunnelTally, StoreError> {
        let mut tally = FunnelTally::new(self.arms);
        while let Some(part) = parts.next() {
            let of_part = found.iter().filter_map(|found| found.get(part)).flatten();
            let mut visits: Vec<UnitVisit> = of_part.copied().collect();
            visits.sort_unstable_by_key(|visit| visit.unit_digest);
            self.merge_with_outcomes(connection, &visits, &mut tally)?;
        }
        Ok(tally)
    }

    /// Merges visits with the outcomes of their units. Both are sorted by unit digest.
    fn merge_with_outcomes(
        &self,
        connection: &Connection,
        visits: &[UnitVisit],
        tally: &mut FunnelTally,
    ) -> Result<(), StoreError> {
        let mut units = visits.chunk_by(|a, b| a.unit_digest == b.unit_digest).peekable();
        let Some(last) = visits.last().map(|last| last.unit_digest) else { return Ok(()) };
        let mut outcomes: Vec<StepOutcome> = Vec::new();
        let mut statement = connection.prepare_cached(
            "SELECT unit_digest, event, occurred_at FROM outcome WHERE unit_digest BETWEEN ?1 AND ?2",
        )?;
        'seek: while let Some(from) = units.peek().and_then(|visits| visits.first()).map(|first| first.unit_digest) {
            let mut rows = statement.query(params![from, last])?;
            let mut skipped = 0;
            while let Some(row) = rows.next()? {
                self.cancellation.check()?;
                let unit_digest = read_digest(row, 0)?;
                while let Some(before) = units.next_if(|visits| visits[0].unit_digest < unit_digest) {
                    self.count_unit(before, &mut outcomes, tally);
                }
                let Some(visits) = units.peek() else { break };
                if visits[0].unit_digest != unit_digest {
                    skipped += 1;
                    if skipped > MAX_SKIPPED_OUTCOMES {
                        continue 'seek;
                    }
                    continue;
                }
                skipped = 0;
                let name = row.get_ref(1)?.as_bytes().map_err(rusqlite::Error::from)?;
                if let Some(event) = self.events.iter().position(|event| event.as_bytes() == name) {
                    let at = Timestamp::from_micros(row.get_ref(2)?.as_i64().map_err(rusqlite::Error::from)?);
                    if self.range.contains(at) {
                        outcomes.push(StepOutcome { at, event: event as u8 });
                    }
                }
            }
            // No outcomes are left for the remaining units.
            for visits in units.by_ref() {
                self.count_unit(visits, &mut outcomes, tally);
            }
        }
        Ok(())
    }

    /// Counts the visits of one unit once all its outcomes were read.
    fn count_unit(&self, visits: &[UnitVisit], outcomes: &mut Vec<StepOutcome>, tally: &mut FunnelTally) {
        outcomes.sort_unstable();
        for UnitVisit { visit, .. } in visits {
            tally.count(visit, steps_reached(visit, &self.steps, outcomes), &self.history);
        }
        outcomes.clear();
    }
}

/// The first and the last key of a part.
fn key_range(part: usize) -> ([u8; 16], [u8; 16]) {
    let (mut from, mut to) = ([0; 16], [0xff; 16]);
    from[0] = (part * FIRST_BYTES_PER_PART) as u8;
    to[0] = ((part + 1) * FIRST_BYTES_PER_PART - 1) as u8;
    (from, to)
}

fn read_digest(row: &Row<'_>, column: usize) -> Result<[u8; 16], StoreError> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    bytes.try_into().map_err(|_| corrupt("digest", "it does not have 16 bytes"))
}
