//! The tallies: in tables, and the same in memory, so that reading the counts of a thousand experiments is cheap.
//! Memory changes under one lock with the commit that changes the tables, and so never shows what is not on disk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use inroad_assignment::{ExperimentKey, Timestamp};
use inroad_policy::attribution::{Cell, CellKey, Flags, Tally};
use rusqlite::{Connection, OptionalExtension, params};

use super::catalogue::id_of;
use super::database::Readers;
use super::rows::{arm, damaged};
use super::slots::Slot;
use crate::error::StoreError;

/// How much of a generation's history the counts know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// Revisions.
    pub(crate) revisions: usize,
    /// Kills and restores.
    pub(crate) switches: usize,
    /// Metrics.
    pub(crate) metrics: usize,
    /// Early outcomes are told apart.
    pub(crate) early: bool,
}

impl Applied {
    /// All that there is of one generation.
    pub(crate) fn all_of(slot: &Slot) -> Result<Self, StoreError> {
        let generation = slot.generation()?;
        let (revisions, switches) = (generation.revisions.len(), generation.switches.len());
        Ok(Self { revisions, switches, metrics: slot.experiment.definition.metrics().len(), early: true })
    }
}

/// One generation's counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// `None` while no unit was counted: then any history is known.
    pub(crate) applied: Option<Applied>,
    /// No exposure that was ever counted is later.
    pub(crate) latest_exposure: Timestamp,
    /// The sum of all units' contributions.
    pub(crate) tally: Tally,
}

/// What a transaction changes of one generation's counts.
#[derive(Debug)]
pub(crate) struct Delta {
    /// Difference of the tallies.
    pub(crate) tally: Tally,
    /// The latest exposure among those that were counted.
    pub(crate) latest_exposure: Timestamp,
}

impl Default for Delta {
    fn default() -> Self {
        Self { tally: Tally::default(), latest_exposure: Timestamp::MIN }
    }
}

type Generations = HashMap<(ExperimentKey, u32), Arc<Kept>>;

/// All counts that were asked for or changed since the start.
#[derive(Debug, Default)]
pub(crate) struct Tallies(RwLock<Generations>);

impl Tallies {
    /// The counts of one generation.
    pub(crate) fn get(&self, readers: &Readers, key: &ExperimentKey, number: u32) -> Result<Arc<Kept>, StoreError> {
        let place = (key.clone(), number);
        if let Some(kept) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&place) {
            return Ok(Arc::clone(kept));
        }
        // Nothing can be committed between the read and the insert: a commit needs this lock.
        let mut all = self.write();
        if let Some(kept) = all.0.get(&place) {
            return Ok(Arc::clone(kept));
        }
        let kept = Arc::new(readers.with(|connection| load(connection, key.as_str(), number))?);
        all.0.insert(place, Arc::clone(&kept));
        Ok(kept)
    }

    /// To be held from before a commit until memory has what it brings.
    pub(crate) fn write(&self) -> Writing<'_> {
        Writing(self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right to change memory.
pub(crate) struct Writing<'a>(RwLockWriteGuard<'a, Generations>);

impl Writing<'_> {
    /// What is in memory of one generation.
    fn kept(&self, slot: &Slot) -> Option<&Arc<Kept>> {
        self.0.get(&(slot.key().clone(), slot.number))
    }

    /// Writes one generation's change to the tables; gives what memory must be after the commit.
    pub(crate) fn put(&self, connection: &Connection, slot: &Slot, delta: &Delta) -> Result<Kept, StoreError> {
        let mut kept = match self.kept(slot) {
            Some(kept) => Kept::clone(kept),
            None => load(connection, slot.key().as_str(), slot.number)?,
        };
        kept.latest_exposure = match kept.applied {
            Some(_) => kept.latest_exposure.max(delta.latest_exposure),
            None => delta.latest_exposure,
        };
        kept.tally.add(&delta.tally);
        let applied = Applied::all_of(slot)?;
        kept.applied = Some(applied);
        let mut remove = connection.prepare_cached(
            "DELETE FROM tally WHERE experiment_id = ?1 AND generation = ?2
             AND metric = ?3 AND tick = ?4 AND revision = ?5 AND arm = ?6",
        )?;
        let mut insert = connection.prepare_cached(
            "INSERT OR REPLACE INTO tally VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?;
        for key in delta.tally.cells.keys() {
            let metric = key.metric.map_or(-1, i64::from);
            let arm = key.arm.index() as i64;
            let Some(c) = kept.tally.cells.get(key) else {
                remove.execute(params![slot.id, slot.number, metric, key.tick, key.revision, arm])?;
                continue;
            };
            let (x, xx, y) = (c.x.to_string(), c.xx.to_string(), c.y.to_string());
            let (yy, xy, sum) = (c.yy.to_string(), c.xy.to_string(), c.outcome_sum.to_string());
            let [first, n, s, dropped, units, outcomes, outcome_units, early] =
                [c.first, c.n, c.s, c.dropped, c.units, c.outcomes, c.outcome_units, c.early].map(|count| count as i64);
            insert.execute(params![
                slot.id,
                slot.number,
                metric,
                key.tick,
                key.revision,
                arm,
                first,
                n,
                s,
                dropped,
                x,
                xx,
                y,
                yy,
                xy,
                units,
                outcomes,
                outcome_units,
                sum,
                early
            ])?;
        }
        let Flags { units_moved, crossovers, stale_exposures } = kept.tally.flags;
        connection
            .prepare_cached("INSERT OR REPLACE INTO counted VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
            .execute(params![
            slot.id,
            slot.number,
            applied.revisions as i64,
            applied.switches as i64,
            applied.metrics as i64,
            kept.latest_exposure.as_micros(),
            units_moved as i64,
            crossovers as i64,
            stale_exposures as i64,
            applied.early
        ])?;
        Ok(kept)
    }

    /// Puts into memory what was committed.
    pub(crate) fn keep(&mut self, slot: &Slot, kept: Kept) {
        self.0.insert((slot.key().clone(), slot.number), Arc::new(kept));
    }
}

/// One generation's counts as the tables have them; nothing if none were ever made.
pub(crate) fn load(connection: &Connection, key: &str, number: u32) -> Result<Kept, StoreError> {
    let Some(id) = id_of(connection, key)? else { return Ok(Kept::default()) };
    let mut statement = connection.prepare_cached(
        "SELECT revisions, switches, metrics, latest_exposure, units_moved, crossovers, stale_exposures,
                early
         FROM counted WHERE experiment_id = ?1 AND generation = ?2",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        let number = |at: usize| row.get::<_, i64>(at);
        let [revisions, switches, metrics] = [number(0)? as usize, number(1)? as usize, number(2)? as usize];
        let applied = Applied { revisions, switches, metrics, early: row.get(7)? };
        let flags =
            Flags { units_moved: number(4)? as u64, crossovers: number(5)? as u64, stale_exposures: number(6)? as u64 };
        let tally = Tally { flags, ..Tally::default() };
        Ok(Kept { applied: Some(applied), latest_exposure: Timestamp::from_micros(row.get(3)?), tally })
    };
    let Some(mut kept) = statement.query_row(params![id, number], row).optional()? else { return Ok(Kept::default()) };
    let mut statement = connection.prepare_cached(
        "SELECT metric, tick, revision, arm, first, n, s, dropped, units, outcomes, outcome_units,
                x, xx, y, yy, xy, outcome_sum, early
         FROM tally WHERE experiment_id = ?1 AND generation = ?2",
    )?;
    let mut rows = statement.query(params![id, number])?;
    while let Some(row) = rows.next()? {
        let count = |at: usize| row.get::<_, i64>(at).map(|count| count as u64);
        let sum = |at: usize| -> Result<i128, StoreError> {
            row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?.parse().map_err(|e| damaged("tally", e))
        };
        let metric = row.get::<_, i64>(0)?;
        let key = CellKey {
            metric: u16::try_from(metric).ok(),
            tick: row.get(1)?,
            revision: row.get(2)?,
            arm: arm(row.get(3)?)?,
        };
        let cell = Cell {
            first: count(4)?,
            n: count(5)?,
            s: count(6)?,
            dropped: count(7)?,
            units: count(8)?,
            outcomes: count(9)?,
            outcome_units: count(10)?,
            x: sum(11)?,
            xx: sum(12)?,
            y: sum(13)?,
            yy: sum(14)?,
            xy: sum(15)?,
            outcome_sum: sum(16)?,
            early: count(17)?,
        };
        kept.tally.cells.insert(key, cell);
    }
    Ok(kept)
}
