//! The fold: events into unit records and tallies. One step is one transaction: what was read of the log, what it did
//! to the counts, and how far it got, together or not at all. A tally is the sum of what units contribute, so a step
//! takes away what each unit it touches contributed before and adds what it contributes now (I5).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use inroad_assignment::experiment::Target;
use inroad_assignment::{
    Arm, Definition, Digest, Experiment, Generation, MetricKind, Point, Timestamp, UnitHasher, UnitKey, unit_digest,
};
use inroad_policy::attribution::{
    Cell, CellKey, Exposure, History, Outcome, Tally, UnitRecord, contribution, known_up_to, settled, watched,
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::codec::{decode, decode_sums, encode, encode_sums};
use super::database::{Files, Inner};
use crate::counts::{Counts, FoldStep};
use crate::error::StoreError;
use crate::event::{Event, ExposureEvent, LoggedEvent, OutcomeEvent, Seq};

/// How much of a generation's history its tallies know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    revisions: usize,
    switches: usize,
    metrics: usize,
}

/// One generation's counts, as on disk.
#[derive(Debug, Clone)]
struct Kept {
    known: Known,
    /// The latest exposure that was ever counted. A revision that takes effect after it cannot have been the one in
    /// effect for any unit that is counted, so only the slices that it takes need be counted anew.
    latest: Timestamp,
    tally: Tally,
    hasher: UnitHasher,
}

/// Which generation: the experiment's number in this database, and the generation's.
type Line = (i64, u32);

/// A unit of one generation, in the order of the table.
type UnitId = (Line, Digest);

/// An outcome under an id that its unit has already: the unit's digest, type and key, and what was told.
type Rival<'e> = (Digest, &'e str, UnitKey<'e>, &'e OutcomeEvent);

/// The one who folds.
pub(super) struct Folder {
    files: Files,
    db: Connection,
    log: Connection,
    folded: Seq,
    ids: HashMap<Box<str>, i64>,
    kept: HashMap<Line, Kept>,
}

/// A unit while a step works on it.
struct Touched {
    /// `None` when it is not in the table yet.
    before: Option<UnitRecord>,
    after: UnitRecord,
    unit: Digest,
    /// Whether its first exposures changed, so that all its outcomes must be followed anew.
    exposed: bool,
    /// New outcomes, as indices into the step's.
    new: Vec<usize>,
}

struct NewOutcome {
    event: Arc<str>,
    at: Timestamp,
    value_micros: i64,
}

impl NewOutcome {
    fn view(&self) -> Outcome<'_> {
        Outcome { event: &self.event, at: self.at, value_micros: self.value_micros }
    }
}

impl Folder {
    pub(super) fn new(files: Files, db: Connection, log: Connection) -> Result<Self, StoreError> {
        let folded = db.query_row("SELECT seq FROM fold", [], |row| row.get::<_, i64>(0));
        let folded = folded.map_err(|e| Inner::from(e).at(files.state()))? as u64;
        Ok(Self { files, db, log, folded, ids: HashMap::new(), kept: HashMap::new() })
    }

    pub(super) fn folded(&self) -> Seq {
        self.folded
    }

    /// The tallies of a generation that the fold knows; nothing of one it has not yet come to.
    pub(super) fn counts(&self, key: &str, generation: u32) -> Counts {
        let kept = self.ids.get(key).and_then(|id| self.kept.get(&(*id, generation)));
        let tally = kept.map(|kept| kept.tally.clone()).unwrap_or_default();
        Counts {
            folded: self.folded,
            cells: tally.cells,
            units_moved: tally.flags.units_moved,
            crossovers: tally.flags.crossovers,
            stale_exposures: tally.flags.stale_exposures,
        }
    }

    pub(super) fn step(&mut self, experiments: &[Arc<Experiment>], limit: usize) -> Result<FoldStep, StoreError> {
        let done = self.try_step(experiments, limit).map_err(|e| e.at(self.files.state()));
        if done.is_err() {
            // What is in memory may be ahead of what is on disk: read it again.
            self.kept.clear();
        }
        done
    }

    fn try_step(&mut self, experiments: &[Arc<Experiment>], limit: usize) -> Result<FoldStep, Inner> {
        let events = super::log::read(&self.log, self.folded, limit)?;
        let db = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut step = Step { db: &db, ids: &mut self.ids, kept: &mut self.kept, changes: HashMap::new() };
        let mut lines: HashMap<&str, (i64, &Experiment)> = HashMap::new();
        for experiment in experiments {
            let id = step.id(experiment.definition.key().as_str())?;
            lines.insert(experiment.definition.key().as_str(), (id, experiment));
            for generation in &experiment.generations {
                step.catch_up(id, &experiment.definition, generation)?;
            }
        }
        let changed = step.apply(&lines, &events)?;
        let folded = events.last().map_or(self.folded, |last| last.seq);
        let changes = std::mem::take(&mut step.changes);
        for (line, change) in &changes {
            step.write_tally(*line, change)?;
        }
        if folded != self.folded {
            db.execute("UPDATE fold SET seq = ?1", [folded as i64])?;
        }
        db.commit()?;
        self.folded = folded;
        Ok(FoldStep { events: events.len(), changed, folded })
    }
}

/// One step under way.
struct Step<'a> {
    db: &'a Transaction<'a>,
    ids: &'a mut HashMap<Box<str>, i64>,
    kept: &'a mut HashMap<Line, Kept>,
    /// What this step adds to each generation's tallies.
    changes: HashMap<Line, Tally>,
}

impl Step<'_> {
    fn id(&mut self, key: &str) -> Result<i64, Inner> {
        if let Some(id) = self.ids.get(key) {
            return Ok(*id);
        }
        let id = self.db.query_row("SELECT id FROM experiment WHERE key = ?1", [key], |row| row.get(0))?;
        self.ids.insert(key.into(), id);
        Ok(id)
    }

    /// Brings a generation's tallies to the history that is known now.
    fn catch_up(&mut self, id: i64, definition: &Definition, generation: &Generation) -> Result<(), Inner> {
        let line = (id, generation.number);
        let now = Known {
            revisions: generation.revisions.len(),
            switches: generation.switches.len(),
            metrics: definition.metrics().len(),
        };
        if let Entry::Vacant(vacant) = self.kept.entry(line) {
            let kept = read_kept(self.db, line, UnitHasher::new(definition.key(), &generation.salt))?;
            vacant.insert(kept.unwrap_or_else(|| Kept {
                known: Known { revisions: 0, switches: 0, metrics: 0 },
                latest: Timestamp::MIN,
                tally: Tally::default(),
                hasher: UnitHasher::new(definition.key(), &generation.salt),
            }));
        }
        let Some((known, latest)) = self.kept.get(&line).map(|kept| (kept.known, kept.latest)) else { return Ok(()) };
        if known == now {
            return Ok(());
        }
        let before = known_up_to(generation, known.revisions, known.switches);
        let old = History::new(definition, &before).with_metrics(known.metrics);
        let new = History::new(definition, generation);
        for (first, last) in affected(generation, known, now, latest) {
            self.recount(line, (first, last), old, new)?;
        }
        if let Some(kept) = self.kept.get_mut(&line) {
            kept.known = now;
        }
        self.changes.entry(line).or_default();
        Ok(())
    }

    /// Counts a slice of the line anew: as `new` has it instead of as `old` had it.
    fn recount(
        &mut self,
        line: Line,
        (first, last): (Point, Point),
        old: History<'_>,
        new: History<'_>,
    ) -> Result<(), Inner> {
        let more_metrics = new.metrics.len() > old.metrics.len();
        let mut rows = self.db.prepare_cached(
            "SELECT digest, unit, record FROM unit WHERE experiment = ?1 AND generation = ?2 AND digest >= ?3 AND digest <= ?4",
        )?;
        let (low, high) = (edge(first, 0), edge(last, 0xff));
        let mut rows = rows.query(params![line.0, line.1, low.as_bytes(), high.as_bytes()])?;
        let mut change = Tally::default();
        let mut rewritten = Vec::new();
        while let Some(row) = rows.next()? {
            let digest = Digest::from_bytes(row.get(0)?);
            let record = decode(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?;
            if !more_metrics {
                // What is watched does not depend on history: only the settled part can differ.
                let flags = settled(&record, digest.point(), old, |key, cell| change.sub_cell(key, &cell));
                change.flags.sub(&flags);
                let flags = settled(&record, digest.point(), new, |key, cell| change.add_cell(key, &cell));
                change.flags.add(&flags);
                continue;
            }
            let outcomes = read_outcomes(self.db, &Digest::from_bytes(row.get(1)?))?;
            let views = || outcomes.iter().map(NewOutcome::view);
            let mut after = record.clone();
            views().for_each(|outcome| after.follow(new.metrics, old.metrics.len(), &outcome));
            change.sub(&contribution(&record, digest.point(), old, views()));
            change.add(&contribution(&after, digest.point(), new, views()));
            rewritten.push((digest, after));
        }
        for (digest, record) in rewritten {
            self.db
                .prepare_cached(
                    "UPDATE unit SET record = ?4 WHERE experiment = ?1 AND generation = ?2 AND digest = ?3",
                )?
                .execute(params![line.0, line.1, digest.as_bytes(), encode(&record)])?;
        }
        self.changes.entry(line).or_default().add(&change);
        Ok(())
    }

    /// Applies events; gives how many were news.
    fn apply(&mut self, lines: &HashMap<&str, (i64, &Experiment)>, events: &[LoggedEvent]) -> Result<usize, Inner> {
        // Sorted by unit, so that the table is walked in its own order.
        let mut exposures: BTreeMap<UnitId, (Digest, Vec<Exposure>)> = BTreeMap::new();
        let mut outcomes: Vec<NewOutcome> = Vec::new();
        let mut of_units: BTreeMap<UnitId, (Digest, Vec<usize>)> = BTreeMap::new();
        let mut news = 0;
        let mut rivals = Vec::new();
        let mut followers: HashMap<&str, Vec<(i64, &Experiment)>> = HashMap::new();
        for (id, experiment) in lines.values() {
            for event in events_of(&experiment.definition) {
                followers.entry(event).or_default().push((*id, experiment));
            }
        }
        for logged in events {
            match &logged.event {
                Event::Exposure(e) => self.place_exposure(lines, e, &mut exposures),
                Event::Outcome(o) => {
                    let interested = followers.get(o.event.as_str()).map_or(&[][..], Vec::as_slice);
                    let new = self.place_outcome(interested, o, &mut outcomes, &mut of_units, &mut rivals)?;
                    news += usize::from(new);
                }
            }
        }
        let ids: BTreeSet<UnitId> = exposures.keys().chain(of_units.keys()).copied().collect();
        let by_id: HashMap<i64, &Experiment> = lines.values().map(|(id, e)| (*id, *e)).collect();
        for id in ids {
            let shown = exposures.remove(&id);
            let new = of_units.remove(&id);
            let Some(experiment) = by_id.get(&id.0.0) else { continue };
            news += self.touch(experiment, id, shown, new, &outcomes)?;
        }
        for rival in rivals {
            news += usize::from(self.contest(lines, rival)?);
        }
        Ok(news)
    }

    /// An outcome came under an id that its unit has already. The same outcome again is no news. If it is told
    /// differently, the least of all tellings counts, so that it does not matter which came first (I5).
    fn contest(
        &mut self,
        lines: &HashMap<&str, (i64, &Experiment)>,
        (of, kind, unit, o): Rival<'_>,
    ) -> Result<bool, Inner> {
        let known: (i64, i64, String) = self
            .db
            .prepare_cached("SELECT at, value, event FROM outcome WHERE unit = ?1 AND event_id = ?2")?
            .query_row(params![of.as_bytes(), o.event_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let told = (o.occurred_at.as_micros(), o.value_micros, o.event.as_str());
        if told >= (known.0, known.1, known.2.as_str()) {
            return Ok(false);
        }
        let before = read_outcomes(self.db, &of)?;
        self.db
            .prepare_cached("UPDATE outcome SET at = ?3, value = ?4, event = ?5 WHERE unit = ?1 AND event_id = ?2")?
            .execute(params![of.as_bytes(), o.event_id, told.0, told.1, told.2])?;
        let after = read_outcomes(self.db, &of)?;
        for (id, experiment) in lines.values() {
            if experiment.definition.unit() != kind || clock_of(experiment) != o.clock {
                continue;
            }
            for generation in &experiment.generations {
                let line = (*id, generation.number);
                let Some(digest) = self.kept.get(&line).map(|kept| kept.hasher.digest(unit)) else { continue };
                let Some(record) = read_record(self.db, line, &digest)? else { continue };
                let history = History::new(&experiment.definition, generation);
                let mut anew = record.clone();
                anew.forget_outcomes();
                after.iter().for_each(|outcome| anew.follow(history.metrics, 0, &outcome.view()));
                let change = self.changes.entry(line).or_default();
                change.sub(&contribution(&record, digest.point(), history, before.iter().map(NewOutcome::view)));
                change.add(&contribution(&anew, digest.point(), history, after.iter().map(NewOutcome::view)));
                self.write_record(line, &digest, &of, &anew)?;
            }
        }
        Ok(true)
    }

    fn write_record(&self, line: Line, digest: &Digest, unit: &Digest, record: &UnitRecord) -> Result<(), Inner> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO unit (experiment, generation, digest, unit, record) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![line.0, line.1, digest.as_bytes(), unit.as_bytes(), encode(record)])?;
        Ok(())
    }

    fn place_exposure(
        &self,
        lines: &HashMap<&str, (i64, &Experiment)>,
        e: &ExposureEvent,
        into: &mut BTreeMap<UnitId, (Digest, Vec<Exposure>)>,
    ) {
        let Some((id, experiment)) = lines.get(e.experiment.as_str()) else { return };
        let (Some(kept), Ok(unit)) = (self.kept.get(&(*id, e.generation)), UnitKey::parse(&e.unit)) else { return };
        let exposure = Exposure { at: e.occurred_at, revision: e.revision, arm: e.arm };
        let digest = kept.hasher.digest(unit);
        let entry = into.entry(((*id, e.generation), digest));
        let entry =
            entry.or_insert_with(|| (unit_digest(clock_of(experiment), experiment.definition.unit(), unit), vec![]));
        entry.1.push(exposure);
    }

    /// Stores an outcome under each of its units, and notes whose records it may change. False if it was known.
    fn place_outcome<'e>(
        &self,
        interested: &[(i64, &Experiment)],
        o: &'e OutcomeEvent,
        outcomes: &mut Vec<NewOutcome>,
        into: &mut BTreeMap<UnitId, (Digest, Vec<usize>)>,
        replaced: &mut Vec<Rival<'e>>,
    ) -> Result<bool, Inner> {
        let mut news = false;
        for (kind, unit) in &o.units {
            let Ok(unit) = UnitKey::parse(unit) else { continue };
            let of = unit_digest(&o.clock, kind, unit);
            let inserted = self
                .db
                .prepare_cached(
                    "INSERT OR IGNORE INTO outcome (unit, event_id, event, at, value) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![of.as_bytes(), o.event_id, o.event, o.occurred_at.as_micros(), o.value_micros])?;
            if inserted == 0 {
                replaced.push((of, kind, unit, o));
                continue;
            }
            news = true;
            let index = outcomes.len();
            outcomes.push(NewOutcome {
                event: o.event.as_str().into(),
                at: o.occurred_at,
                value_micros: o.value_micros,
            });
            let concerned = |e: &Experiment| e.definition.unit() == kind && clock_of(e) == o.clock;
            for (id, experiment) in interested.iter().filter(|(_, e)| concerned(e)) {
                for generation in &experiment.generations {
                    let line = (*id, generation.number);
                    let Some(kept) = self.kept.get(&line) else { continue };
                    into.entry((line, kept.hasher.digest(unit))).or_insert_with(|| (of, vec![])).1.push(index);
                }
            }
        }
        Ok(news)
    }

    /// Brings one unit up to date; gives how many of its exposures were news.
    fn touch(
        &mut self,
        experiment: &Experiment,
        id: UnitId,
        shown: Option<(Digest, Vec<Exposure>)>,
        new: Option<(Digest, Vec<usize>)>,
        outcomes: &[NewOutcome],
    ) -> Result<usize, Inner> {
        let ((line, digest), point) = (id, id.1.point());
        let before = read_record(self.db, line, &digest)?;
        let Some(unit) = shown.as_ref().map(|(unit, _)| *unit).or(new.as_ref().map(|(unit, _)| *unit)) else {
            return Ok(0);
        };
        let mut touched = Touched {
            after: before.clone().unwrap_or_default(),
            before,
            unit,
            exposed: false,
            new: new.map(|(_, new)| new).unwrap_or_default(),
        };
        let mut news = 0;
        for exposure in shown.map(|(_, shown)| shown).unwrap_or_default() {
            if touched.after.expose(exposure) {
                touched.exposed = true;
                news += 1;
                if let Some(kept) = self.kept.get_mut(&line) {
                    kept.latest = kept.latest.max(exposure.at);
                }
            }
        }
        // A unit that was never exposed has no record; its outcomes wait in their own table.
        if touched.after.first().is_none() || (!touched.exposed && touched.new.is_empty()) {
            return Ok(news);
        }
        let Some(generation) = experiment.generation_numbered(line.1) else { return Ok(news) };
        let history = History::new(&experiment.definition, generation);
        self.settle(line, point, history, &mut touched, outcomes)?;
        self.write_record(line, &digest, &touched.unit, &touched.after)?;
        Ok(news)
    }

    /// Follows the outcomes that a touched unit has, and moves what it contributes.
    fn settle(
        &mut self,
        line: Line,
        point: Point,
        history: History<'_>,
        touched: &mut Touched,
        outcomes: &[NewOutcome],
    ) -> Result<(), Inner> {
        let change = self.changes.entry(line).or_default();
        if touched.exposed {
            // All its outcomes, the new ones among them, lie in the table by now; those credited before are the same
            // but for the new ones.
            let all = read_outcomes(self.db, &touched.unit)?;
            if let Some(before) = &touched.before {
                let mut old = contribution(before, point, history, all.iter().map(NewOutcome::view));
                for index in &touched.new {
                    if let Some(new) = outcomes.get(*index) {
                        watched(before, history, &new.view(), 0, |key, cell| old.sub_cell(key, &cell));
                    }
                }
                change.sub(&old);
            }
            all.iter().for_each(|outcome| touched.after.follow(history.metrics, 0, &outcome.view()));
            change.add(&contribution(&touched.after, point, history, all.iter().map(NewOutcome::view)));
            return Ok(());
        }
        if let Some(before) = &touched.before {
            let flags = settled(before, point, history, |key, cell| change.sub_cell(key, &cell));
            change.flags.sub(&flags);
        }
        for new in touched.new.iter().filter_map(|index| outcomes.get(*index)) {
            touched.after.follow(history.metrics, 0, &new.view());
            watched(&touched.after, history, &new.view(), 0, |key, cell| change.add_cell(key, &cell));
        }
        let flags = settled(&touched.after, point, history, |key, cell| change.add_cell(key, &cell));
        change.flags.add(&flags);
        Ok(())
    }

    /// Writes what a step changed of one generation's tallies, here and on disk.
    fn write_tally(&mut self, line: Line, change: &Tally) -> Result<(), Inner> {
        let Some(kept) = self.kept.get_mut(&line) else { return Ok(()) };
        kept.tally.add(change);
        let flags = kept.tally.flags;
        self.db.prepare_cached(
            "INSERT OR REPLACE INTO history (experiment, generation, revisions, switches, metrics, units_moved, crossovers,
                 stale_exposures, latest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            line.0,
            line.1,
            kept.known.revisions as i64,
            kept.known.switches as i64,
            kept.known.metrics as i64,
            flags.units_moved as i64,
            flags.crossovers as i64,
            flags.stale_exposures as i64,
            kept.latest.as_micros(),
        ])?;
        for key in change.cells.keys() {
            let metric = key.metric.map_or(-1, i64::from);
            let arm = key.arm.index() as i64;
            match kept.tally.cells.get(key) {
                Some(cell) => self.db.prepare_cached(
                    "INSERT OR REPLACE INTO tally (experiment, generation, metric, tick, revision, arm, first, n, s, dropped,
                         units, outcomes, outcome_units, sums)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                )?
                .execute(params![
                    line.0, line.1, metric, key.tick, key.revision, arm,
                    cell.first as i64, cell.n as i64, cell.s as i64, cell.dropped as i64,
                    cell.units as i64, cell.outcomes as i64, cell.outcome_units as i64, encode_sums(cell),
                ])?,
                None => self.db.prepare_cached(
                    "DELETE FROM tally WHERE experiment = ?1 AND generation = ?2 AND metric = ?3 AND tick = ?4 AND revision = ?5 AND arm = ?6",
                )?
                .execute(params![line.0, line.1, metric, key.tick, key.revision, arm])?,
            };
        }
        Ok(())
    }
}

/// Whose time an experiment lives by, as outcomes name it.
fn clock_of(experiment: &Experiment) -> &str {
    if experiment.manual_now.is_some() { experiment.definition.key().as_str() } else { "" }
}

/// The events that an experiment's metrics are about, each once.
fn events_of(definition: &Definition) -> BTreeSet<&str> {
    let named = definition.metrics().iter().flat_map(|metric| {
        let divisor = match &metric.kind {
            MetricKind::Ratio { denominator } => Some(denominator.as_str()),
            _ => None,
        };
        [Some(metric.event.as_str()), divisor]
    });
    named.flatten().collect()
}

/// The slices of the line on which a unit may count for something else now.
fn affected(generation: &Generation, known: Known, now: Known, latest: Timestamp) -> Vec<(Point, Point)> {
    let whole = vec![(Point::FIRST, Point::LAST)];
    let new = generation.switches.iter().skip(known.switches);
    // Exposures ahead of a revision that takes effect before them come from clients whose clocks run fast.
    let overtaken = generation.revisions.iter().skip(known.revisions).any(|r| r.effective_at <= latest);
    if known.metrics != now.metrics || overtaken || new.clone().any(|s| s.target == Target::Everything) {
        // Nothing is counted before the first revision is known.
        return if known.revisions == 0 { Vec::new() } else { whole };
    }
    let mut slices = Vec::new();
    for revision in generation.revisions.iter().skip(known.revisions.max(1)) {
        if let Some(before) = generation.revision(revision.number - 1) {
            let taken = before.allocation.slices_taken_by(&revision.allocation);
            slices.extend(taken.into_iter().map(|(first, last, _)| (first, last)));
        }
    }
    let killed: BTreeSet<Arm> = new
        .filter_map(|s| match s.target {
            Target::Variation(arm) => Some(arm),
            Target::Everything => None,
        })
        .collect();
    if let Some(latest) = generation.latest() {
        slices.extend(killed.into_iter().flat_map(|arm| latest.allocation.stretches_of(arm)));
    }
    disjoint(slices)
}

/// The same points, none of them twice.
fn disjoint(mut slices: Vec<(Point, Point)>) -> Vec<(Point, Point)> {
    slices.sort_unstable();
    let mut joined: Vec<(Point, Point)> = Vec::new();
    for (first, last) in slices {
        match joined.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// The lowest (or highest) digest at a point.
fn edge(point: Point, fill: u8) -> Digest {
    let mut bytes = [fill; 16];
    bytes[..8].copy_from_slice(&point.get().to_be_bytes());
    Digest::from_bytes(bytes)
}

fn read_record(db: &Transaction<'_>, line: Line, digest: &Digest) -> Result<Option<UnitRecord>, Inner> {
    let mut rows =
        db.prepare_cached("SELECT record FROM unit WHERE experiment = ?1 AND generation = ?2 AND digest = ?3")?;
    let mut rows = rows.query(params![line.0, line.1, digest.as_bytes()])?;
    match rows.next()? {
        Some(row) => Ok(Some(decode(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?)),
        None => Ok(None),
    }
}

fn read_outcomes(db: &Transaction<'_>, unit: &Digest) -> Result<Vec<NewOutcome>, Inner> {
    let mut rows = db.prepare_cached("SELECT event, at, value FROM outcome WHERE unit = ?1")?;
    let outcomes = rows.query_map([unit.as_bytes()], |row| {
        let event: String = row.get(0)?;
        Ok(NewOutcome { event: event.into(), at: Timestamp::from_micros(row.get(1)?), value_micros: row.get(2)? })
    })?;
    Ok(outcomes.collect::<Result<_, _>>()?)
}

fn read_kept(db: &Transaction<'_>, line: Line, hasher: UnitHasher) -> Result<Option<Kept>, Inner> {
    let history = db
        .query_row(
            "SELECT revisions, switches, metrics, units_moved, crossovers, stale_exposures, latest FROM history
             WHERE experiment = ?1 AND generation = ?2",
            params![line.0, line.1],
            |row| {
                let count = |i| row.get::<_, i64>(i);
                Ok([count(0)?, count(1)?, count(2)?, count(3)?, count(4)?, count(5)?, count(6)?])
            },
        )
        .optional()?;
    let Some([revisions, switches, metrics, units_moved, crossovers, stale_exposures, latest]) = history else {
        return Ok(None);
    };
    let mut tally = Tally::default();
    tally.flags.units_moved = units_moved as u64;
    tally.flags.crossovers = crossovers as u64;
    tally.flags.stale_exposures = stale_exposures as u64;
    let mut rows = db.prepare_cached(
        "SELECT metric, tick, revision, arm, first, n, s, dropped, units, outcomes, outcome_units, sums FROM tally
         WHERE experiment = ?1 AND generation = ?2",
    )?;
    let mut rows = rows.query(params![line.0, line.1])?;
    while let Some(row) = rows.next()? {
        let count = |i| row.get::<_, i64>(i).map(|n| n as u64);
        let arm = Arm::new(row.get::<_, i64>(3)? as usize).ok_or_else(|| Inner::unreadable("no such arm"))?;
        let metric = u16::try_from(row.get::<_, i64>(0)?).ok();
        let mut cell = Cell {
            first: count(4)?,
            n: count(5)?,
            s: count(6)?,
            dropped: count(7)?,
            units: count(8)?,
            outcomes: count(9)?,
            outcome_units: count(10)?,
            ..Cell::default()
        };
        decode_sums(row.get_ref(11)?.as_blob().map_err(rusqlite::Error::from)?, &mut cell)?;
        tally.cells.insert(CellKey { metric, tick: row.get(1)?, revision: row.get(2)?, arm }, cell);
    }
    let known = Known { revisions: revisions as usize, switches: switches as usize, metrics: metrics as usize };
    Ok(Some(Kept { known, latest: Timestamp::from_micros(latest), tally, hasher }))
}
