//! The catalogue's tables. A change writes one experiment's row anew, and of its revisions and switches only those that
//! are new: a long life costs no more than a short one.

use std::sync::Arc;

use inroad_assignment::experiment::Cause;
use inroad_assignment::{Allocation, Experiment, ExperimentKey, Generation, Revision, Salt, Switch, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::database::Inner;
use crate::catalogue::{AuditEntry, Change, DecisionRecord, Page, Stored};
use crate::error::StoreError;

pub(super) fn load(db: &mut Connection) -> Result<(u64, Vec<Stored>), Inner> {
    // One transaction, so that all of it is of one moment.
    let db = db.transaction()?;
    let version = whole_version(&db)?;
    let mut rows = db.prepare(
        "SELECT key, version, definition, status, kills, manual_now, created_at, last_growth_at FROM experiment ORDER BY key",
    )?;
    let mut rows = rows.query([])?;
    let mut stored = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let text = |i| row.get::<_, String>(i);
        let experiment = Experiment {
            definition: serde_json::from_str(&text(2)?)?,
            status: serde_json::from_str(&text(3)?)?,
            kills: serde_json::from_str(&text(4)?)?,
            generations: generations(&db, &key)?,
            manual_now: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(row.get(6)?),
            last_growth_at: row.get::<_, Option<i64>>(7)?.map(Timestamp::from_micros),
        };
        stored.push(Stored { version: row.get::<_, i64>(1)? as u64, experiment: Arc::new(experiment) });
    }
    Ok((version, stored))
}

fn whole_version(db: &Transaction<'_>) -> Result<u64, Inner> {
    let version: String = db.query_row("SELECT value FROM meta WHERE name = 'version'", [], |row| row.get(0))?;
    version.parse().map_err(Inner::unreadable)
}

fn generations(db: &Transaction<'_>, key: &str) -> Result<Vec<Generation>, Inner> {
    let mut rows = db.prepare_cached(
        "SELECT generation, salt, started_at FROM generation WHERE experiment = ?1 ORDER BY generation",
    )?;
    let mut rows = rows.query([key])?;
    let mut generations = Vec::new();
    while let Some(row) = rows.next()? {
        let number = row.get(0)?;
        generations.push(Generation {
            number,
            salt: Salt::parse(&row.get::<_, String>(1)?).map_err(Inner::unreadable)?,
            started_at: Timestamp::from_micros(row.get(2)?),
            revisions: revisions(db, key, number)?,
            switches: switches(db, key, number)?,
        });
    }
    Ok(generations)
}

fn revisions(db: &Transaction<'_>, key: &str, generation: u32) -> Result<Vec<Revision>, Inner> {
    let mut rows = db.prepare_cached(
        "SELECT revision, created_at, effective_at, cause, buckets FROM revision WHERE experiment = ?1 AND generation = ?2 ORDER BY revision",
    )?;
    let mut rows = rows.query(params![key, generation])?;
    let mut revisions = Vec::new();
    while let Some(row) = rows.next()? {
        let cause: Cause = serde_json::from_str(&row.get::<_, String>(3)?)?;
        let allocation: Allocation = serde_json::from_str(&row.get::<_, String>(4)?)?;
        revisions.push(Revision {
            number: row.get(0)?,
            created_at: Timestamp::from_micros(row.get(1)?),
            effective_at: Timestamp::from_micros(row.get(2)?),
            cause,
            allocation: Arc::new(allocation),
        });
    }
    Ok(revisions)
}

fn switches(db: &Transaction<'_>, key: &str, generation: u32) -> Result<Vec<Switch>, Inner> {
    let mut rows =
        db.prepare_cached("SELECT switch FROM switch WHERE experiment = ?1 AND generation = ?2 ORDER BY number")?;
    let texts = rows.query_map(params![key, generation], |row| row.get::<_, String>(0))?;
    texts.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
}

/// The part of an experiment that the audit log shows: what people decide, not every boundary.
fn shown(experiment: &Experiment) -> Result<String, Inner> {
    let generation = experiment.generation();
    Ok(serde_json::to_string(&serde_json::json!({
        "definition": experiment.definition,
        "status": experiment.status,
        "kills": experiment.kills,
        "generation": generation.map_or(0, |g| g.number),
        "revision": generation.and_then(Generation::latest).map_or(0, |r| r.number),
        "manual_now": experiment.manual_now,
    }))?)
}

pub(super) fn commit(db: &mut Connection, change: &Change) -> Result<u64, Inner> {
    let db = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let experiment = &*change.experiment;
    let key = experiment.definition.key().as_str();
    let known: Option<i64> =
        db.query_row("SELECT version FROM experiment WHERE key = ?1", [key], |row| row.get(0)).optional()?;
    match (known, change.expected_version) {
        (None, None) => {}
        (Some(_), None) => return Err(Inner::Store(StoreError::Exists(key.to_owned()))),
        (Some(known), Some(expected)) if known as u64 == expected => {}
        _ => return Err(Inner::Store(StoreError::Conflict)),
    }
    let version = whole_version(&db)? + 1;
    let was = match known {
        // The audit entry before this one tells what the experiment was.
        Some(_) => db
            .query_row("SELECT became FROM audit WHERE experiment = ?1 ORDER BY id DESC LIMIT 1", [key], |row| {
                row.get(0)
            })
            .optional()?
            .unwrap_or_default(),
        None => String::new(),
    };
    db.execute("UPDATE meta SET value = ?1 WHERE name = 'version'", [version.to_string()])?;
    db.execute(
        "INSERT INTO experiment (key, version, definition, status, kills, manual_now, created_at, last_growth_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (key) DO UPDATE SET version = ?2, definition = ?3, status = ?4, kills = ?5, manual_now = ?6,
             last_growth_at = ?8",
        params![
            key,
            version as i64,
            serde_json::to_string(&experiment.definition)?,
            serde_json::to_string(&experiment.status)?,
            serde_json::to_string(&experiment.kills)?,
            experiment.manual_now.map(Timestamp::as_micros),
            experiment.created_at.as_micros(),
            experiment.last_growth_at.map(Timestamp::as_micros),
        ],
    )?;
    for generation in &experiment.generations {
        add_history(&db, key, generation)?;
    }
    db.execute(
        "INSERT INTO audit (at, actor, action, experiment, was, became) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![change.at.as_micros(), change.actor, change.action, key, was, shown(experiment)?],
    )?;
    if let Some(d) = &change.decision {
        db.execute(
            "INSERT INTO decision (experiment, generation, at, revision, input, output) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![key, d.generation, d.at.as_micros(), d.revision, d.input, d.output],
        )?;
    }
    db.commit()?;
    Ok(version)
}

/// Writes what is new of a generation, each revision held against the one before it (I2).
fn add_history(db: &Transaction<'_>, key: &str, generation: &Generation) -> Result<(), Inner> {
    let number = generation.number;
    db.prepare_cached(
        "INSERT OR IGNORE INTO generation (experiment, generation, salt, started_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![key, number, generation.salt.as_str(), generation.started_at.as_micros()])?;
    let count = |table: &str| -> Result<usize, Inner> {
        let sql = format!("SELECT count(*) FROM {table} WHERE experiment = ?1 AND generation = ?2");
        Ok(db.prepare_cached(&sql)?.query_row(params![key, number], |row| row.get::<_, i64>(0))? as usize)
    };
    let known = count("revision")?;
    for (i, revision) in generation.revisions.iter().enumerate().skip(known) {
        let refused = StoreError::NotMonotone { experiment: key.to_owned(), revision: revision.number };
        let before = i.checked_sub(1).and_then(|i| generation.revisions.get(i));
        if before.is_some_and(|before| !before.allocation.may_become(&revision.allocation))
            || revision.number as usize != i + 1
        {
            return Err(Inner::Store(refused));
        }
        db.prepare_cached(
            "INSERT INTO revision (experiment, generation, revision, created_at, effective_at, cause, buckets)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            key,
            number,
            revision.number,
            revision.created_at.as_micros(),
            revision.effective_at.as_micros(),
            serde_json::to_string(&revision.cause)?,
            serde_json::to_string(&*revision.allocation)?,
        ])?;
    }
    let known = count("switch")?;
    for (i, switch) in generation.switches.iter().enumerate().skip(known) {
        db.prepare_cached("INSERT INTO switch (experiment, generation, number, switch) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![key, number, i as i64, serde_json::to_string(switch)?])?;
    }
    Ok(())
}

pub(super) fn audit(db: &mut Connection, key: Option<&ExperimentKey>, page: Page) -> Result<Vec<AuditEntry>, Inner> {
    let mut rows = db.prepare_cached(
        "SELECT id, at, actor, action, experiment, was, became FROM audit
         WHERE id < ?1 AND (?2 IS NULL OR experiment = ?2) ORDER BY id DESC LIMIT ?3",
    )?;
    let before = i64::try_from(page.before).unwrap_or(i64::MAX);
    let mut rows = rows.query(params![before, key.map(ExperimentKey::as_str), page.limit as i64])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(AuditEntry {
            id: row.get::<_, i64>(0)? as u64,
            at: Timestamp::from_micros(row.get(1)?),
            actor: row.get(2)?,
            action: row.get(3)?,
            experiment: ExperimentKey::parse(&row.get::<_, String>(4)?).map_err(Inner::unreadable)?,
            from: row.get(5)?,
            to: row.get(6)?,
        });
    }
    Ok(entries)
}

pub(super) fn decisions(
    db: &mut Connection,
    key: &ExperimentKey,
    generation: u32,
) -> Result<Vec<DecisionRecord>, Inner> {
    let mut rows = db.prepare_cached(
        "SELECT at, revision, input, output FROM decision WHERE experiment = ?1 AND generation = ?2 ORDER BY id",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        let at = Timestamp::from_micros(row.get(0)?);
        Ok(DecisionRecord { generation, at, revision: row.get(1)?, input: row.get(2)?, output: row.get(3)? })
    };
    Ok(rows.query_map(params![key.as_str(), generation], read)?.collect::<Result<_, _>>()?)
}
