//! The catalogue's tables: experiments change by compare-and-set, and their history only gets new rows.

use std::collections::HashMap;
use std::sync::Arc;

use inroad_assignment::experiment::{Alert, KillResult, Kills};
use inroad_assignment::{
    Definition, Experiment, ExperimentKey, Generation, GenerationEnd, KillChange, Revision, Salt, Status, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::audit::{AllocationSummary, AuditedAction, AuditedChange, ChainEnd};
use super::column_values::{arm_from_column, corrupt, from_json, to_json};
use super::database::Readers;
use super::decisions::{self, PreparedDecision};
use super::disk_reserve::DiskReserve;
use super::state_writer::StateWriter;
use crate::catalogue::{ExperimentChange, StoredExperiment};
use crate::error::StoreError;

/// The part of an experiment that each change rewrites, as `experiment.body` stores it.
#[derive(Serialize)]
struct BodyToWrite<'a> {
    definition: &'a Definition,
    status: Status,
    kills: Kills,
    manual_now: Option<Timestamp>,
    created_at: Timestamp,
    last_growth_at: Option<Timestamp>,
    last_tick_at: Option<Timestamp>,
    alerts: &'a [Alert],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kill_results: &'a [KillResult],
    shipped_within_audience: bool,
    /// For the audit log only: the rows of the history contain the shares now, but not those before the change.
    line: AllocationSummary,
}

/// The body as it is read back.
#[derive(Deserialize)]
struct StoredBody {
    definition: Definition,
    status: Status,
    kills: Kills,
    manual_now: Option<Timestamp>,
    created_at: Timestamp,
    last_growth_at: Option<Timestamp>,
    #[serde(default)]
    last_tick_at: Option<Timestamp>,
    #[serde(default)]
    alerts: Vec<Alert>,
    #[serde(default)]
    kill_results: Vec<KillResult>,
    /// Missing in bodies of releases that shipped to all units.
    #[serde(default)]
    shipped_within_audience: bool,
}

/// Changes with the texts that are stored, which are the slow part of storing them.
pub struct PreparedChanges(Vec<PreparedChange>);

impl PreparedChanges {
    /// Compares the changes with the stored experiments, before the writer's turn begins, because others wait for it. That
    /// nothing has changed the experiments since then is checked again in the transaction.
    pub(super) fn new(readers: &Readers, changes: Vec<ExperimentChange>) -> Result<Self, StoreError> {
        let prepare = |connection: &mut Connection| {
            changes.into_iter().map(|change| PreparedChange::new(connection, change)).collect::<Result<_, _>>()
        };
        Ok(Self(readers.with_connection(prepare)?))
    }

    /// Stores them in one transaction. Blocks: do not call it from an async task.
    pub(super) fn store(&self, writer: &StateWriter, reserve: &DiskReserve) -> Result<Vec<u64>, StoreError> {
        let commit = || writer.with_connection(|connection| commit(connection, &self.0));
        if self.0.iter().all(|prepared| prepared.change.is_urgent()) {
            reserve.write_urgently(commit)
        } else {
            reserve.write(commit)
        }
    }
}

impl std::fmt::Debug for PreparedChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|prepared| &prepared.change)).finish()
    }
}

struct PreparedChange {
    change: ExperimentChange,
    body: String,
    audited: AuditedChange,
    decision: Option<PreparedDecision>,
}

impl PreparedChange {
    fn new(connection: &Connection, change: ExperimentChange) -> Result<Self, StoreError> {
        let experiment = &change.experiment;
        let key = experiment.definition.key();
        let stored: Option<(i64, i64, String)> = connection
            .prepare_cached("SELECT id, version, body FROM experiment WHERE key = ?1")?
            .query_row([key.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        check_version(key, stored.as_ref().map(|(_, version, _)| *version as u64), change.expected_version)?;
        let (id, before) = stored.as_ref().map(|(id, _, body)| (*id, body.as_str())).unzip();
        let body = to_json(&BodyToWrite {
            definition: &experiment.definition,
            status: experiment.status,
            kills: experiment.kills,
            manual_now: experiment.manual_now,
            created_at: experiment.created_at,
            last_growth_at: experiment.last_growth_at,
            last_tick_at: experiment.last_tick_at,
            alerts: &experiment.alerts,
            kill_results: &experiment.kill_results,
            shipped_within_audience: experiment.shipped_within_audience,
            line: AllocationSummary::new(experiment),
        })?;
        let audited = AuditedChange::new(before, &body, &experiment.kill_results)?;
        let decision =
            change.decision.as_ref().map(|record| PreparedDecision::new(connection, id, record)).transpose()?;
        Ok(Self { change, body, audited, decision })
    }
}

fn check_version(key: &ExperimentKey, stored: Option<u64>, expected: Option<u64>) -> Result<(), StoreError> {
    match (stored, expected) {
        (Some(_), None) => Err(StoreError::ExperimentExists(key.to_string())),
        (stored, expected) if stored != expected => Err(StoreError::Conflict),
        _ => Ok(()),
    }
}

/// Stores changes in one transaction; they are on disk when this returns. Returns the new version of each experiment;
/// the last is the version of the catalogue.
fn commit(connection: &mut Connection, changes: &[PreparedChange]) -> Result<Vec<u64>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read and written once for all changes.
    let sql = "SELECT value FROM meta WHERE key = 'version'";
    let mut version: i64 = transaction.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let mut chain = ChainEnd::read(&transaction)?;
    let mut versions = Vec::with_capacity(changes.len());
    for change in changes {
        version += 1;
        store_change(&transaction, &mut chain, version, change)?;
        versions.push(version as u64);
    }
    transaction.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'version'")?.execute([version])?;
    chain.store(&transaction)?;
    transaction.commit()?;
    Ok(versions)
}

fn store_change(
    transaction: &Transaction<'_>,
    chain: &mut ChainEnd,
    version: i64,
    prepared: &PreparedChange,
) -> Result<(), StoreError> {
    let PreparedChange { change, body, audited, decision } = prepared;
    let experiment = &change.experiment;
    let key = experiment.definition.key();
    let sql = "SELECT id, version FROM experiment WHERE key = ?1";
    let stored: Option<(i64, i64)> =
        transaction.prepare_cached(sql)?.query_row([key.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    check_version(key, stored.map(|(_, version)| version as u64), change.expected_version)?;
    let id = match stored {
        Some((id, _)) => {
            transaction
                .prepare_cached("UPDATE experiment SET version = ?2, body = ?3 WHERE id = ?1")?
                .execute(params![id, version, body])?;
            id
        }
        None => {
            transaction
                .prepare_cached("INSERT INTO experiment (key, version, body) VALUES (?1, ?2, ?3)")?
                .execute(params![key.as_str(), version, body])?;
            transaction.last_insert_rowid()
        }
    };
    add_history(transaction, id, experiment, stored.is_none())?;
    let ExperimentChange { at, actor, action, .. } = change;
    chain.add(transaction, &AuditedAction { at: *at, actor, action, experiment: key.as_str() }, audited)?;
    if let Some((record, prepared)) = change.decision.as_ref().zip(decision.as_ref()) {
        decisions::add(transaction, id, record, prepared)?;
    }
    Ok(())
}

/// Adds the generations, revisions, kills, restores and endings that are not on disk yet, and refuses revisions that
/// break I2.
fn add_history(
    transaction: &Transaction<'_>,
    id: i64,
    experiment: &Experiment,
    is_new: bool,
) -> Result<(), StoreError> {
    let count = |sql: &str, number: u32| -> rusqlite::Result<usize> {
        let mut statement = transaction.prepare_cached(sql)?;
        Ok(statement.query_row(params![id, number], |row| row.get::<_, i64>(0))? as usize)
    };
    let key = experiment.definition.key();
    let stored = match is_new {
        true => 0,
        false => count("SELECT count(*) FROM generation WHERE experiment_id = ?1 AND number > ?2", 0)?,
    };
    let history_removed =
        || StoreError::Database(format!("{key}: the change removes stored history, which only ever grows"));
    if stored > experiment.generations.len() {
        return Err(history_removed());
    }
    // Only the newest generation gets new revisions, kills and endings; it gets its last ending when the next one
    // starts. So the generations before the newest stored one have no new rows.
    for (number, generation) in (1u32..).zip(&experiment.generations).skip(stored.saturating_sub(1)) {
        if generation.number != number {
            return Err(history_removed());
        }
        let (mut revisions, mut kill_changes, mut endings) = (0, 0, 0);
        if number as usize > stored {
            let row = params![id, number, generation.salt.as_str(), generation.started_at.as_micros()];
            transaction.prepare_cached("INSERT INTO generation VALUES (?1, ?2, ?3, ?4)")?.execute(row)?;
        } else {
            let of = "WHERE experiment_id = ?1 AND generation = ?2";
            revisions = count(&format!("SELECT count(*) FROM revision {of}"), number)?;
            kill_changes = count(&format!("SELECT count(*) FROM switch {of}"), number)?;
            endings = count(&format!("SELECT count(*) FROM ending {of}"), number)?;
        }
        let grown = revisions <= generation.revisions.len() && kill_changes <= generation.kill_changes.len();
        if !grown || endings > generation.endings.len() {
            return Err(history_removed());
        }
        add_revisions(transaction, id, key, generation, revisions)?;
        let mut insert = transaction.prepare_cached("INSERT INTO switch VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (at, change) in (1i64..).zip(&generation.kill_changes).skip(kill_changes) {
            let target = to_json(&change.target)?;
            insert.execute(params![id, number, at, change.at.as_micros(), target, change.killed])?;
        }
        let mut insert = transaction.prepare_cached("INSERT INTO ending VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (at, ending) in (1i64..).zip(&generation.endings).skip(endings) {
            let shipped = ending.shipped.map(|arm| arm.index() as i64);
            insert.execute(params![id, number, at, ending.at.as_micros(), shipped])?;
        }
    }
    Ok(())
}

fn add_revisions(
    transaction: &Transaction<'_>,
    id: i64,
    key: &ExperimentKey,
    generation: &Generation,
    stored: usize,
) -> Result<(), StoreError> {
    let mut insert = transaction.prepare_cached("INSERT INTO revision VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for (index, revision) in generation.revisions.iter().enumerate().skip(stored) {
        let number = index as u32 + 1;
        if revision.number != number {
            let message = format!("{key}: the next revision is {number}, and revision {} was given", revision.number);
            return Err(StoreError::Database(message));
        }
        if let Some(before) = index.checked_sub(1).and_then(|at| generation.revisions.get(at)) {
            if !before.allocation.can_grow_into(&revision.allocation) {
                return Err(StoreError::NotMonotone { experiment: key.to_string(), revision: number });
            }
            if revision.effective_at < before.effective_at {
                let message = format!("{key}: revision {number} takes effect before the one before it");
                return Err(StoreError::Database(message));
            }
        }
        let (created, effective) = (revision.created_at.as_micros(), revision.effective_at.as_micros());
        let (cause, allocation) = (to_json(&revision.cause)?, to_json(&revision.allocation)?);
        insert.execute(params![id, generation.number, number, created, effective, cause, allocation])?;
    }
    Ok(())
}

/// The whole catalogue with its version, read in one transaction.
pub(crate) fn load(connection: &mut Connection) -> Result<(u64, Vec<StoredExperiment>), StoreError> {
    let transaction = connection.transaction()?;
    let version: i64 = transaction.query_row("SELECT value FROM meta WHERE key = 'version'", [], |row| row.get(0))?;
    let mut generations = generations(&transaction)?;
    let mut statement = transaction.prepare("SELECT id, version, body FROM experiment ORDER BY key")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let body: StoredBody = from_json("experiment.body", &row.get::<_, String>(2)?)?;
        let experiment = Arc::new(Experiment {
            definition: body.definition,
            status: body.status,
            kills: body.kills,
            generations: generations.remove(&row.get(0)?).unwrap_or_default(),
            manual_now: body.manual_now,
            created_at: body.created_at,
            last_growth_at: body.last_growth_at,
            // The first release did not store the last tick: every tick could grow a variation then.
            last_tick_at: body.last_tick_at.or(body.last_growth_at),
            alerts: body.alerts,
            kill_results: body.kill_results,
            shipped_within_audience: body.shipped_within_audience,
        });
        all.push(StoredExperiment { version: row.get::<_, i64>(1)? as u64, experiment });
    }
    Ok((version as u64, all))
}

fn generations(connection: &Connection) -> Result<HashMap<i64, Vec<Generation>>, StoreError> {
    let sql = "SELECT experiment_id, generation, number, created_at, effective_at, cause, allocation
               FROM revision ORDER BY 1, 2, 3";
    let mut revisions = grouped(connection, sql, |row| {
        Ok(Revision {
            number: row.get(2)?,
            created_at: Timestamp::from_micros(row.get(3)?),
            effective_at: Timestamp::from_micros(row.get(4)?),
            cause: from_json("revision.cause", &row.get::<_, String>(5)?)?,
            allocation: Arc::new(from_json("revision.allocation", &row.get::<_, String>(6)?)?),
        })
    })?;
    let sql = "SELECT experiment_id, generation, at, target, killed FROM switch ORDER BY 1, 2, number";
    let mut kill_changes = grouped(connection, sql, |row| {
        let target = from_json("switch.target", &row.get::<_, String>(3)?)?;
        Ok(KillChange { at: Timestamp::from_micros(row.get(2)?), target, killed: row.get(4)? })
    })?;
    let sql = "SELECT experiment_id, generation, at, shipped FROM ending ORDER BY 1, 2, number";
    let mut endings = grouped(connection, sql, |row| {
        let shipped = row.get::<_, Option<i64>>(3)?.map(arm_from_column).transpose()?;
        Ok(GenerationEnd { at: Timestamp::from_micros(row.get(2)?), shipped })
    })?;
    let mut generations: HashMap<i64, Vec<Generation>> = HashMap::new();
    let sql = "SELECT experiment_id, number, salt, started_at FROM generation ORDER BY 1, 2";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, number): (i64, u32) = (row.get(0)?, row.get(1)?);
        let salt = Salt::parse(&row.get::<_, String>(2)?).map_err(|error| corrupt("generation.salt", error))?;
        generations.entry(id).or_default().push(Generation {
            number,
            salt,
            started_at: Timestamp::from_micros(row.get(3)?),
            revisions: revisions.remove(&(id, number)).unwrap_or_default(),
            kill_changes: kill_changes.remove(&(id, number)).unwrap_or_default(),
            endings: endings.remove(&(id, number)).unwrap_or_default(),
        });
    }
    Ok(generations)
}

/// Rows grouped by experiment id and generation.
fn grouped<T>(
    connection: &Connection,
    sql: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> Result<T, StoreError>,
) -> Result<HashMap<(i64, u32), Vec<T>>, StoreError> {
    let mut groups: HashMap<(i64, u32), Vec<T>> = HashMap::new();
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        groups.entry((row.get(0)?, row.get(1)?)).or_default().push(read(row)?);
    }
    Ok(groups)
}

/// The version of the catalogue.
pub(crate) fn version(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = 'version'";
    Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// The id under which the other tables store an experiment; `None` if it is not stored.
pub(crate) fn experiment_id(connection: &Connection, key: &str) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id FROM experiment WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}
