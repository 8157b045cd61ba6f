//! The tallies: in tables, and the same in memory, so that reading the counts of a thousand experiments is cheap.
//! Memory changes under one lock with the commit that changes the tables, and so never shows what is not on disk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use inroad_assignment::{Digest, ExperimentKey, Generation, Timestamp};
use inroad_policy::attribution::{Cell, CellKey, Flags, Tally, known_up_to};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::catalogue::id_of;
use super::database::Readers;
use super::rows::{arm, damaged};
use super::slots::Slot;
use crate::error::StoreError;

/// How much of a generation's history something knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Revisions.
    pub(crate) revisions: usize,
    /// Kills and restores.
    pub(crate) switches: usize,
    /// Endings.
    pub(crate) endings: usize,
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
        let (endings, metrics) = (generation.endings.len(), slot.experiment.definition.metrics().len());
        Ok(Self { revisions, switches, endings, metrics, early: true })
    }

    /// What of a generation it knows.
    pub(crate) fn of(&self, generation: &Generation) -> Generation {
        known_up_to(generation, self.revisions, self.switches, self.endings)
    }
}

/// A recount on its way: units below a digest know more of the history than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recount {
    /// What the units below know.
    pub(crate) to: Applied,
    /// The first digest that is still to be counted again.
    pub(crate) from: Digest,
}

/// What the counts of one generation know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// What all of them know.
    pub(crate) applied: Applied,
    /// What is being done about the rest.
    pub(crate) recount: Option<Recount>,
}

/// One generation's counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// `None` while no unit was counted: then any history is known.
    pub(crate) known: Option<Known>,
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
    /// Of a recount: what the counts knew, and what they know then. Of events: nothing, as all must be known already.
    pub(crate) learnt: Option<(Known, Known)>,
}

impl Default for Delta {
    fn default() -> Self {
        Self { tally: Tally::default(), latest_exposure: Timestamp::MIN, learnt: None }
    }
}

/// What memory must become once the tables' transaction is committed; see [`Writing::keep`].
pub(crate) struct Put<'a> {
    slot: &'a Slot,
    delta: &'a Delta,
    known: Known,
    /// The counts as they were, if memory has none.
    loaded: Option<Kept>,
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

    /// Writes one generation's change to the tables.
    ///
    /// # Errors
    /// Refuses a change that was worked out from another history than the counts know: it would be wrong for good.
    pub(crate) fn put<'a>(
        &self,
        connection: &Connection,
        slot: &'a Slot,
        delta: &'a Delta,
    ) -> Result<Put<'a>, StoreError> {
        let loaded = match self.kept(slot) {
            Some(_) => None,
            None => Some(load(connection, slot.key().as_str(), slot.number)?),
        };
        let Some(kept) = loaded.as_ref().or(self.kept(slot).map(|kept| &**kept)) else {
            return Err(StoreError::Database("the counts were lost while they were written".to_owned()));
        };
        let all = Known { applied: Applied::all_of(slot)?, recount: None };
        let (before, known) = match delta.learnt {
            Some((before, after)) => (Some(before), after),
            None => (kept.known.and(Some(all)), all),
        };
        if kept.known != before {
            let fault = format!(
                "{}: counts that know {:?} were to be changed as if they knew {before:?}",
                slot.key(),
                kept.known
            );
            return Err(StoreError::Database(fault));
        }
        let mut remove = connection.prepare_cached(
            "DELETE FROM tally WHERE experiment_id = ?1 AND generation = ?2
             AND metric = ?3 AND tick = ?4 AND revision = ?5 AND arm = ?6",
        )?;
        let mut insert = connection.prepare_cached(
            "INSERT OR REPLACE INTO tally VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?;
        for (key, change) in &delta.tally.cells {
            let metric = key.metric.map_or(-1, i64::from);
            let arm = key.arm.index() as i64;
            let mut c = kept.tally.cells.get(key).copied().unwrap_or_default();
            c.add(change);
            if c.is_zero() {
                remove.execute(params![slot.id, slot.number, metric, key.tick, key.revision, arm])?;
                continue;
            }
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
        let mut flags = kept.tally.flags;
        flags.add(&delta.tally.flags);
        let Known { applied, recount } = known;
        let to = recount.map(|recount| serde_json::to_string(&recount.to)).transpose();
        let to = to.map_err(|error| StoreError::Database(format!("cannot write JSON: {error}")))?;
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO counted (experiment_id, generation, revisions, switches, metrics, latest_exposure,
                    units_moved, crossovers, stale_exposures, early, endings, recount_to, recount_from)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                slot.id,
                slot.number,
                applied.revisions as i64,
                applied.switches as i64,
                applied.metrics as i64,
                kept.latest_with(delta).as_micros(),
                flags.units_moved as i64,
                flags.crossovers as i64,
                flags.stale_exposures as i64,
                applied.early,
                applied.endings as i64,
                to,
                recount.map(|recount| *recount.from.as_bytes()),
            ])?;
        Ok(Put { slot, delta, known, loaded })
    }

    /// Puts into memory what was committed.
    pub(crate) fn keep(&mut self, put: Put<'_>) {
        let Put { slot, delta, known, loaded } = put;
        let place = (slot.key().clone(), slot.number);
        let kept = self.0.entry(place).or_insert_with(|| Arc::new(loaded.unwrap_or_default()));
        // Copied only while somebody reads them.
        let kept = Arc::make_mut(kept);
        kept.latest_exposure = kept.latest_with(delta);
        kept.known = Some(known);
        kept.tally.add(&delta.tally);
    }
}

impl Kept {
    /// The latest exposure after a change.
    fn latest_with(&self, delta: &Delta) -> Timestamp {
        match self.known {
            Some(_) => self.latest_exposure.max(delta.latest_exposure),
            None => delta.latest_exposure,
        }
    }
}

/// One generation's counts as the tables have them; nothing if none were ever made.
pub(crate) fn load(connection: &Connection, key: &str, number: u32) -> Result<Kept, StoreError> {
    let Some(id) = id_of(connection, key)? else { return Ok(Kept::default()) };
    let mut statement = connection.prepare_cached(
        "SELECT revisions, switches, metrics, latest_exposure, units_moved, crossovers, stale_exposures,
                early, endings, recount_to, recount_from
         FROM counted WHERE experiment_id = ?1 AND generation = ?2",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        let number = |at: usize| row.get::<_, i64>(at);
        let [revisions, switches, metrics, endings] = [0, 1, 2, 8].map(|at| number(at).map(|count| count as usize));
        let applied = Applied {
            revisions: revisions?,
            switches: switches?,
            endings: endings?,
            metrics: metrics?,
            early: row.get(7)?,
        };
        let recount: (Option<String>, Option<[u8; 16]>) = (row.get(9)?, row.get(10)?);
        let flags =
            Flags { units_moved: number(4)? as u64, crossovers: number(5)? as u64, stale_exposures: number(6)? as u64 };
        let tally = Tally { flags, ..Tally::default() };
        let known = Some(Known { applied, recount: None });
        Ok((Kept { known, latest_exposure: Timestamp::from_micros(row.get(3)?), tally }, recount))
    };
    let found = statement.query_row(params![id, number], row).optional()?;
    let Some((mut kept, recount)) = found else { return Ok(Kept::default()) };
    if let ((Some(to), Some(from)), Some(known)) = (recount, &mut kept.known) {
        let to = serde_json::from_str(&to).map_err(|error| damaged("counted.recount_to", error))?;
        known.recount = Some(Recount { to, from: Digest::from_bytes(from) });
    }
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
