//! The tallies of each generation, in tables and cached in memory, so that reading the counts of a thousand experiments
//! is cheap. The fold changes the cache once the change is committed, so the cache never contains a change that is not on
//! disk, and no reader waits for the disk.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use inroad_assignment::{Definition, Digest, ExperimentKey, Generation, Timestamp};
use inroad_policy::attribution::{Cell, CellKey, History, Tally, UnitCounts, generation_as_of};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::catalogue::experiment_id;
use super::column_values::{arm_from_column, corrupt};
use super::database::Readers;
use super::tracked_generations::TrackedGeneration;
use crate::error::StoreError;

/// How much of a generation's history the counts of its units include, as numbers of entries. Stored as JSON in
/// `counted.recount_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct AppliedHistory {
    /// Revisions.
    pub(crate) revisions: usize,
    /// Kills and restores.
    #[serde(rename = "switches")]
    pub(crate) kill_changes: usize,
    /// Endings.
    pub(crate) endings: usize,
    /// Metrics.
    pub(crate) metrics: usize,
    /// Whether early outcomes are counted separately; the first release did not.
    pub(crate) early: bool,
    /// Whether the tolerances are included; earlier releases did not have them.
    #[serde(default)]
    pub(crate) tolerances: bool,
    /// Whether the activity counts end with the generation; in earlier releases they did not.
    #[serde(default)]
    pub(crate) activity_ends: bool,
}

impl AppliedHistory {
    /// The whole history of a generation as it is loaded now.
    pub(crate) fn all_of(tracked: &TrackedGeneration) -> Result<Self, StoreError> {
        let generation = tracked.generation()?;
        let (revisions, kill_changes) = (generation.revisions.len(), generation.kill_changes.len());
        let (endings, metrics) = (generation.endings.len(), tracked.experiment.definition.metrics().len());
        Ok(Self { revisions, kill_changes, endings, metrics, early: true, tolerances: true, activity_ends: true })
    }

    /// The history that counts units accordingly; `generation` is the one of [`Self::truncate_generation`].
    pub(crate) fn history<'a>(&self, definition: &'a Definition, generation: &'a Generation) -> History<'a> {
        let mut history = History::new(definition, generation).with_first_metrics(self.metrics);
        if !self.early {
            history = history.without_early_outcomes();
        }
        if !self.tolerances {
            history = history.without_tolerances();
        }
        if !self.activity_ends {
            history = history.with_endless_activity();
        }
        history
    }

    /// A copy of the generation with only this part of its history.
    pub(crate) fn truncate_generation(&self, generation: &Generation) -> Generation {
        generation_as_of(generation, self.revisions, self.kill_changes, self.endings)
    }
}

/// A recount that is not complete: units below a digest are counted with more of the history than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OngoingRecount {
    /// The history that the units below `from` are counted with.
    pub(crate) to: AppliedHistory,
    /// The first digest to be counted again.
    pub(crate) from: Digest,
}

/// The history that the counts of one generation are based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CountedHistory {
    /// The history that all units are counted with, apart from those that a recount has reached.
    pub(crate) applied: AppliedHistory,
    /// The recount in progress.
    pub(crate) recount: Option<OngoingRecount>,
}

/// One generation's counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct GenerationTally {
    /// `None` until a unit is counted: empty counts are right for any history.
    pub(crate) counted: Option<CountedHistory>,
    /// An upper bound for the times of all exposures that were ever counted.
    pub(crate) latest_exposure: Timestamp,
    /// The sum of all units' contributions.
    pub(crate) tally: Tally,
}

/// The changes of one generation's counts in a transaction.
#[derive(Debug)]
pub(crate) struct TallyDelta {
    /// The difference to add to the tally.
    pub(crate) tally: Tally,
    /// The latest exposure among those counted in this transaction.
    pub(crate) latest_exposure: Timestamp,
    /// For a recount: the history before and after it. `None` for events, which are counted only when the counts
    /// include the whole history.
    pub(crate) history_change: Option<(CountedHistory, CountedHistory)>,
}

impl Default for TallyDelta {
    fn default() -> Self {
        Self { tally: Tally::default(), latest_exposure: Timestamp::MIN, history_change: None }
    }
}

/// A change of the cache, to be applied once the transaction is committed; see [`TallyCache::apply`].
pub(crate) struct PendingUpdate<'a> {
    tracked: &'a TrackedGeneration,
    delta: &'a TallyDelta,
    counted: CountedHistory,
    /// The counts before the change, if the cache did not have them.
    loaded: Option<Arc<GenerationTally>>,
}

type GenerationTallies = HashMap<(ExperimentKey, u32), Arc<GenerationTally>>;

/// All counts that were read or changed since the start.
#[derive(Debug, Default)]
pub(crate) struct TallyCache {
    tallies: RwLock<GenerationTallies>,
    /// How often the counts of each generation were changed since the start.
    changes: Mutex<HashMap<(ExperimentKey, u32), u64>>,
}

impl TallyCache {
    /// The counts of one generation, from the cache or the tables.
    pub(crate) fn get(
        &self,
        catalogue: &Readers,
        counts: &Readers,
        key: &ExperimentKey,
        number: u32,
    ) -> Result<Arc<GenerationTally>, StoreError> {
        let generation = (key.clone(), number);
        if let Some(cached) = self.read().get(&generation) {
            return Ok(Arc::clone(cached));
        }
        let id = catalogue.with_connection(|connection| experiment_id(connection, key.as_str()))?;
        let loaded = match id {
            // In one transaction, as the counts are in two tables.
            Some(id) => counts.with_connection(|connection| read_tally(&*connection.transaction()?, id, number))?,
            None => GenerationTally::default(),
        };
        // If the fold has committed a change since, it has put the counts into the cache, or will replace these.
        Ok(Arc::clone(self.write().entry(generation).or_insert_with(|| Arc::new(loaded))))
    }

    fn read(&self) -> RwLockReadGuard<'_, GenerationTallies> {
        self.tallies.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, GenerationTallies> {
        self.tallies.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the counts of a generation were changed since the start.
    pub(crate) fn changes(&self, key: &ExperimentKey, number: u32) -> u64 {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.get(&(key.clone(), number)).copied().unwrap_or(0)
    }

    /// Writes one generation's change to the tables.
    ///
    /// # Errors
    /// [`StoreError::Database`] if the change was computed from another history than the counts are based on: applying
    /// it would make them wrong permanently.
    pub(crate) fn write_tables<'a>(
        &self,
        connection: &Connection,
        tracked: &'a TrackedGeneration,
        delta: &'a TallyDelta,
    ) -> Result<PendingUpdate<'a>, StoreError> {
        let cached = self.read().get(&(tracked.key().clone(), tracked.number)).cloned();
        let (cached, is_cached) = match cached {
            Some(cached) => (cached, true),
            None => (Arc::new(read_tally(connection, tracked.experiment_id, tracked.number)?), false),
        };
        let all = CountedHistory { applied: AppliedHistory::all_of(tracked)?, recount: None };
        let (before, counted) = match delta.history_change {
            Some((before, after)) => (Some(before), after),
            None => (cached.counted.and(Some(all)), all),
        };
        if cached.counted != before {
            let message = format!(
                "{}: the counts are based on {:?}, and the change was computed for {before:?}",
                tracked.key(),
                cached.counted
            );
            return Err(StoreError::Database(message));
        }
        let mut remove = connection.prepare_cached(
            "DELETE FROM tally WHERE experiment_id = ?1 AND generation = ?2
             AND metric = ?3 AND tick = ?4 AND revision = ?5 AND arm = ?6",
        )?;
        let mut insert = connection.prepare_cached(
            "INSERT OR REPLACE INTO tally VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
              ?22, ?23, ?24)",
        )?;
        for (key, change) in &delta.tally.cells {
            let metric = key.metric.map_or(-1, i64::from);
            let arm = key.arm.index() as i64;
            let mut c = cached.tally.cells.get(key).copied().unwrap_or_default();
            c.add(change);
            if c.is_zero() {
                remove.execute(params![tracked.experiment_id, tracked.number, metric, key.tick, key.revision, arm])?;
                continue;
            }
            let (x, xx, y) = (c.x.to_string(), c.xx.to_string(), c.y.to_string());
            let (yy, xy, sum) = (c.yy.to_string(), c.xy.to_string(), c.outcome_sum.to_string());
            let [first, n, s, dropped, units, outcomes, outcome_units, early] =
                [c.first, c.n, c.s, c.dropped, c.units, c.outcomes, c.outcome_units, c.early].map(|count| count as i64);
            let [by_kill, after_end, too_early, too_late] =
                [c.dropped_by_kill, c.dropped_after_end, c.too_early, c.too_late].map(|count| count as i64);
            insert.execute(params![
                tracked.experiment_id,
                tracked.number,
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
                early,
                by_kill,
                after_end,
                too_early,
                too_late
            ])?;
        }
        let loaded = (!is_cached).then(|| Arc::clone(&cached));
        let update = PendingUpdate { tracked, delta, counted, loaded };
        let latest_exposure = cached.latest_with(delta);
        // Most steps have outcomes of thousands of generations, which change none of this.
        let no_unit_counts = delta.tally.unit_counts == UnitCounts::default();
        if no_unit_counts && cached.counted == Some(counted) && cached.latest_exposure == latest_exposure {
            return Ok(update);
        }
        let mut unit_counts = cached.tally.unit_counts;
        unit_counts.add(&delta.tally.unit_counts);
        let CountedHistory { applied, recount } = counted;
        let to = recount.map(|recount| serde_json::to_string(&recount.to)).transpose();
        let to = to.map_err(|error| StoreError::Database(format!("cannot write JSON: {error}")))?;
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO counted (experiment_id, generation, revisions, switches, metrics, latest_exposure,
                    units_moved, crossovers, stale_exposures, early, endings, recount_to, recount_from, tolerances,
                    activity_ends)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params![
                tracked.experiment_id,
                tracked.number,
                applied.revisions as i64,
                applied.kill_changes as i64,
                applied.metrics as i64,
                latest_exposure.as_micros(),
                unit_counts.units_moved as i64,
                unit_counts.crossovers as i64,
                unit_counts.stale_exposures as i64,
                applied.early,
                applied.endings as i64,
                to,
                recount.map(|recount| *recount.from.as_bytes()),
                applied.tolerances,
                applied.activity_ends,
            ])?;
        Ok(update)
    }

    /// Applies committed changes to the cache, all at once.
    pub(crate) fn apply(&self, updates: Vec<PendingUpdate<'_>>) {
        let mut tallies = self.write();
        for PendingUpdate { tracked, delta, counted, loaded } in updates {
            let generation = (tracked.key().clone(), tracked.number);
            *self.changes.lock().unwrap_or_else(PoisonError::into_inner).entry(generation.clone()).or_default() += 1;
            // What a reader has loaded meanwhile may be older.
            let loaded = loaded.map(|loaded| tallies.insert(generation.clone(), loaded)).is_some();
            debug_assert!(loaded || tallies.contains_key(&generation), "only the fold removes counts");
            // This copies the counts only if a reader still has them.
            let cached = Arc::make_mut(tallies.entry(generation).or_default());
            cached.latest_exposure = cached.latest_with(delta);
            cached.counted = Some(counted);
            cached.tally.add(&delta.tally);
        }
    }
}

impl GenerationTally {
    /// The latest exposure after a change.
    fn latest_with(&self, delta: &TallyDelta) -> Timestamp {
        match self.counted {
            Some(_) => self.latest_exposure.max(delta.latest_exposure),
            None => delta.latest_exposure,
        }
    }
}

/// A sum, which is stored as decimal text because it needs more than 64 bits.
fn read_sum<T: FromStr<Err: Display>>(row: &rusqlite::Row<'_>, column: usize) -> Result<T, StoreError> {
    row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?.parse().map_err(|e| corrupt("tally", e))
}

/// One generation's counts from the tables; empty if nothing was counted.
fn read_tally(connection: &Connection, id: i64, number: u32) -> Result<GenerationTally, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT revisions, switches, metrics, latest_exposure, units_moved, crossovers, stale_exposures,
                early, endings, recount_to, recount_from, tolerances, activity_ends
         FROM counted WHERE experiment_id = ?1 AND generation = ?2",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        let number = |column: usize| row.get::<_, i64>(column);
        let [revisions, kill_changes, metrics, endings] =
            [0, 1, 2, 8].map(|column| number(column).map(|count| count as usize));
        let applied = AppliedHistory {
            revisions: revisions?,
            kill_changes: kill_changes?,
            endings: endings?,
            metrics: metrics?,
            early: row.get(7)?,
            tolerances: row.get(11)?,
            activity_ends: row.get(12)?,
        };
        let recount: (Option<String>, Option<[u8; 16]>) = (row.get(9)?, row.get(10)?);
        let unit_counts = UnitCounts {
            units_moved: number(4)? as u64,
            crossovers: number(5)? as u64,
            stale_exposures: number(6)? as u64,
        };
        let tally = Tally { unit_counts, ..Tally::default() };
        let counted = Some(CountedHistory { applied, recount: None });
        Ok((GenerationTally { counted, latest_exposure: Timestamp::from_micros(row.get(3)?), tally }, recount))
    };
    let found = statement.query_row(params![id, number], row).optional()?;
    let Some((mut loaded, recount)) = found else { return Ok(GenerationTally::default()) };
    if let ((Some(to), Some(from)), Some(counted)) = (recount, &mut loaded.counted) {
        let to = serde_json::from_str(&to).map_err(|error| corrupt("counted.recount_to", error))?;
        counted.recount = Some(OngoingRecount { to, from: Digest::from_bytes(from) });
    }
    let mut statement = connection.prepare_cached(
        "SELECT metric, tick, revision, arm, first, n, s, dropped, units, outcomes, outcome_units,
                x, xx, y, yy, xy, outcome_sum, early, dropped_by_kill, dropped_after_end, too_early, too_late
         FROM tally WHERE experiment_id = ?1 AND generation = ?2",
    )?;
    let mut rows = statement.query(params![id, number])?;
    while let Some(row) = rows.next()? {
        let count = |column: usize| row.get::<_, i64>(column).map(|count| count as u64);
        let metric = row.get::<_, i64>(0)?;
        let key = CellKey {
            metric: u16::try_from(metric).ok(),
            tick: row.get(1)?,
            revision: row.get(2)?,
            arm: arm_from_column(row.get(3)?)?,
        };
        let cell = Cell {
            first: count(4)?,
            n: count(5)?,
            s: count(6)?,
            dropped: count(7)?,
            units: count(8)?,
            outcomes: count(9)?,
            outcome_units: count(10)?,
            x: read_sum(row, 11)?,
            xx: read_sum(row, 12)?,
            y: read_sum(row, 13)?,
            yy: read_sum(row, 14)?,
            xy: read_sum(row, 15)?,
            outcome_sum: read_sum(row, 16)?,
            early: count(17)?,
            dropped_by_kill: count(18)?,
            dropped_after_end: count(19)?,
            too_early: count(20)?,
            too_late: count(21)?,
        };
        loaded.tally.cells.insert(key, cell);
    }
    Ok(loaded)
}
