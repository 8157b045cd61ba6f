//! The audit log: an entry for each change, with the parts of the experiment that it changed. Entries of earlier
//! releases have the whole experiment twice; they are reduced to the same form when they are read.

use std::collections::BTreeMap;

use inroad_assignment::experiment::{Alert, KillResult, Kills};
use inroad_assignment::{Experiment, ExperimentKey, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::column_values::{corrupt, from_json, to_json, to_sql_integer};
use crate::audit_chain::{AuditHash, hash_content, hash_entry, hash_texts};
use crate::catalogue::{AuditContext, AuditEntry, AuditFilter, PageRequest};
use crate::error::StoreError;
use crate::json_difference::{differing_parts, restore_before};

/// The newest revision and its shares, for the audit log.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct AllocationSummary {
    generation: u32,
    revision: u32,
    /// The share of each variation, in the definition's order, 0 to 1.
    shares: Vec<f64>,
}

impl AllocationSummary {
    pub(super) fn new(experiment: &Experiment) -> Self {
        let Some(generation) = experiment.generation() else { return Self::default() };
        let allocation = experiment.latest_allocation();
        let arms = (0..experiment.definition.variations().len()).filter_map(inroad_assignment::Arm::new);
        Self {
            generation: generation.number,
            revision: generation.latest().map_or(0, |r| r.number),
            shares: arms.map(|arm| allocation.width_of(arm).share()).collect(),
        }
    }
}

/// The part of an experiment that the audit log observes.
#[derive(Serialize, Deserialize)]
struct AuditedBody {
    definition: Value,
    status: Value,
    kills: Kills,
    manual_now: Option<Timestamp>,
    #[serde(default)]
    alerts: Vec<Alert>,
    #[serde(default)]
    shipped_within_audience: bool,
    /// Missing in bodies of the first release.
    #[serde(default)]
    line: AllocationSummary,
}

/// The results of killed variations in a stored body.
#[derive(Deserialize)]
struct StoredKillResults {
    #[serde(default)]
    kill_results: Vec<KillResult>,
}

/// The texts of an entry, as they are stored.
pub(super) struct AuditedChange {
    before: String,
    after: String,
    context: String,
    /// Of the three texts.
    hash: AuditHash,
}

fn audited(body: &str) -> Result<Value, StoreError> {
    let body: AuditedBody = from_json("experiment.body", body)?;
    serde_json::to_value(body).map_err(|e| StoreError::Database(format!("cannot write JSON: {e}")))
}

impl AuditedChange {
    /// The difference between two stored bodies; the first is `None` for a new experiment. `results` are the results of
    /// killed variations after the change: the entry has those that this change added.
    pub(super) fn new(before: Option<&str>, after: &str, results: &[KillResult]) -> Result<Self, StoreError> {
        let mut new = audited(after)?;
        let old = before.map(audited).transpose()?;
        let earlier = match before.filter(|_| !results.is_empty()) {
            Some(body) => from_json::<StoredKillResults>("experiment.body", body)?.kill_results,
            None => Vec::new(),
        };
        let added: Vec<_> = results.iter().filter(|result| !earlier.contains(result)).collect();
        if !added.is_empty() {
            new["kill_results"] =
                serde_json::to_value(added).map_err(|e| StoreError::Database(format!("cannot write JSON: {e}")))?;
        }
        let (before, after, context) = reduced(old, new);
        let before = if before.is_null() { String::new() } else { to_json(&before)? };
        let context = if context == AuditContext::default() { String::new() } else { to_json(&context)? };
        Ok(Self::of_texts(before, to_json(&after)?, context))
    }

    fn of_texts(before: String, after: String, context: String) -> Self {
        let hash = hash_texts(&before, &after, &context);
        Self { before, after, context, hash }
    }

    /// The entry for a forgotten unit. It names no experiment, and the digest instead of the key.
    pub(super) fn forgotten_unit(unit_type: &str, digest: &str) -> Self {
        let after = serde_json::json!({"unit_type": unit_type, "digest": digest}).to_string();
        Self::of_texts(String::new(), after, String::new())
    }
}

/// What differs between two whole states, and what a reader needs to know besides.
fn reduced(before: Option<Value>, after: Value) -> (Value, Value, AuditContext) {
    let Some(before) = before else { return (Value::Null, after, AuditContext::default()) };
    let (from, to) = differing_parts(&before, &after);
    let variations = arms_in(&from)
        .chain(arms_in(&to))
        .filter_map(|arm| {
            let key =
                [&after, &before].into_iter().find_map(|side| side["definition"]["variations"][arm]["key"].as_str());
            Some((arm, key?.to_owned()))
        })
        .collect::<BTreeMap<_, _>>();
    // Who gets the shipped variation depends on fields that the change may not touch.
    let is_conclusion = !to["status"]["shipped"].is_null() && to["status"]["state"] == "concluded";
    let within_audience = after["shipped_within_audience"] == true && !after["definition"]["audience"].is_null();
    let shipped_within_audience = is_conclusion.then_some(within_audience);
    (from, to, AuditContext { variations, shipped_within_audience })
}

/// The indices of the variations that a part of an experiment refers to.
fn arms_in(part: &Value) -> impl Iterator<Item = usize> + '_ {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let of_each = |value: &Value| list(value).into_iter().map(|item| item["arm"].clone()).collect::<Vec<_>>();
    let shares = (0..list(&part["line"]["shares"]).len()).map(Value::from);
    let killed = list(&part["kills"]["arms"]);
    let others = of_each(&part["alerts"]).into_iter().chain(of_each(&part["kill_results"]));
    let all = shares.chain(killed).chain(others).chain([part["status"]["shipped"].clone()]);
    all.filter_map(|arm| usize::try_from(arm.as_u64()?).ok()).collect::<Vec<_>>().into_iter()
}

/// Who changed what and when, besides the texts.
pub(super) struct AuditedAction<'a> {
    pub(super) at: Timestamp,
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
    /// Empty if the entry names no experiment.
    pub(super) experiment: &'a str,
}

/// The end of the chain, in a transaction that adds entries.
pub(super) struct ChainEnd {
    head: AuditHash,
    next_id: i64,
}

impl ChainEnd {
    pub(super) fn read(transaction: &Transaction<'_>) -> Result<Self, StoreError> {
        let sql = "SELECT value, (SELECT coalesce(max(id), 0) + 1 FROM audit) FROM meta WHERE key = 'audit_head'";
        let (head, next_id): ([u8; 32], i64) =
            transaction.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self { head: AuditHash(head), next_id })
    }

    /// Adds an entry.
    pub(super) fn add(
        &mut self,
        transaction: &Transaction<'_>,
        action: &AuditedAction<'_>,
        change: &AuditedChange,
    ) -> Result<(), StoreError> {
        let AuditedAction { at, actor, action, experiment } = *action;
        let AuditedChange { before, after, context, hash } = change;
        let (id, hash) = (self.next_id, hash_content(at, [actor, action, experiment], *hash));
        let hash = hash_entry(self.head, id, hash);
        let sql = "INSERT INTO audit (id, at, actor, action, experiment, before, after, context, hash)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let row = params![id, at.as_micros(), actor, action, experiment, before, after, context, hash.0];
        transaction.prepare_cached(sql)?.execute(row)?;
        *self = Self { head: hash, next_id: id + 1 };
        Ok(())
    }

    /// Stores the end, once all entries are added.
    pub(super) fn store(self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        transaction.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'audit_head'")?.execute([self.head.0])?;
        Ok(())
    }
}

/// Adds one entry to the chain, in the transaction of what it describes.
pub(super) fn add_entry(
    transaction: &Transaction<'_>,
    action: &AuditedAction<'_>,
    change: &AuditedChange,
) -> Result<(), StoreError> {
    let mut end = ChainEnd::read(transaction)?;
    end.add(transaction, action, change)?;
    end.store(transaction)
}

/// The state of an experiment at a time by its own clock, as the audit log observed it: the stored state, from which
/// the newer entries are undone. `None` if the experiment did not exist then.
pub(crate) fn state_at(
    connection: &mut Connection,
    key: &ExperimentKey,
    at: Timestamp,
) -> Result<Option<String>, StoreError> {
    let transaction = connection.transaction()?;
    let stored: Option<String> = transaction
        .query_row("SELECT body FROM experiment WHERE key = ?1", [key.as_str()], |row| row.get(0))
        .optional()?;
    let Some(body) = stored else { return Ok(None) };
    let mut state = audited(&body)?;
    let mut statement =
        transaction.prepare_cached(&format!("SELECT {COLUMNS} FROM audit WHERE experiment = ?1 ORDER BY id DESC"))?;
    let mut rows = statement.query([key.as_str()])?;
    while let Some(row) = rows.next()? {
        let entry = read_entry(row)?;
        // A manual clock takes precedence over the time of the entry.
        let now = state["manual_now"].as_i64().map_or(entry.at, Timestamp::from_micros);
        if now <= at {
            return Ok(Some(to_json(&state)?));
        }
        if entry.from.is_empty() {
            return Ok(None);
        }
        if entry.from != entry.to {
            let [from, to] = [&entry.from, &entry.to].map(|text| from_json::<Value>("audit", text));
            state = restore_before(&state, &from?, &to?);
        }
    }
    Ok(None)
}

const COLUMNS: &str = "id, at, actor, action, experiment, before, after, context, hash";

/// Audit entries, newest first.
pub(crate) fn list(
    connection: &Connection,
    key: Option<&str>,
    page: PageRequest,
) -> Result<Vec<AuditEntry>, StoreError> {
    let which = if key.is_some() { "experiment = ?3" } else { "?3 IS NULL" };
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE id < ?1 AND {which} ORDER BY id DESC LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query(params![to_sql_integer(page.before), to_sql_integer(page.limit as u64), key])?;
    read_entries(rows, page.max_bytes)
}

const MATCHES: &str = "(?1 = '' OR instr(experiment, ?1) > 0) AND (?2 = '' OR instr(lower(actor), lower(?2)) > 0)
    AND (action = ?3 OR (?3 = '' AND action <> 'tick'))";

/// The number of entries that match a filter. It reads the whole table, which is small against the log: people make
/// changes, not visitors.
pub(crate) fn count(connection: &Connection, filter: &AuditFilter) -> Result<usize, StoreError> {
    let AuditFilter { experiment, actor, action } = filter;
    let mut count = connection.prepare_cached(&format!("SELECT count(*) FROM audit WHERE {MATCHES}"))?;
    let total: i64 = count.query_row(params![experiment, actor, action], |row| row.get(0))?;
    Ok(total as usize)
}

/// At most `limit` matching entries after the first `skip`, newest first.
pub(crate) fn search(
    connection: &Connection,
    filter: &AuditFilter,
    skip: usize,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<AuditEntry>, StoreError> {
    let AuditFilter { experiment, actor, action } = filter;
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE {MATCHES} ORDER BY id DESC LIMIT ?4 OFFSET ?5");
    let mut statement = connection.prepare_cached(&sql)?;
    let (limit, skip) = (to_sql_integer(limit as u64), to_sql_integer(skip as u64));
    read_entries(statement.query(params![experiment, actor, action, limit, skip])?, max_bytes)
}

/// Reads entries until their texts have more than `max_bytes`: at least one, if there is one.
fn read_entries(mut rows: rusqlite::Rows<'_>, max_bytes: usize) -> Result<Vec<AuditEntry>, StoreError> {
    let (mut entries, mut bytes): (Vec<AuditEntry>, usize) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let entry = read_entry(row)?;
        bytes += entry.from.len() + entry.to.len();
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn read_entry(row: &rusqlite::Row<'_>) -> Result<AuditEntry, StoreError> {
    let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let experiment = match text(4)? {
        "" => None,
        key => Some(ExperimentKey::parse(key).map_err(|e| corrupt("audit.experiment", e))?),
    };
    let (before, after) = (text(5)?, text(6)?);
    let (from, to, context) = match row.get_ref(7)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        None if !before.is_empty() => reduce_whole_states(before, after)?,
        None | Some("") => (before.to_owned(), after.to_owned(), AuditContext::default()),
        Some(context) => (before.to_owned(), after.to_owned(), from_json("audit.context", context)?),
    };
    Ok(AuditEntry {
        id: row.get::<_, i64>(0)? as u64,
        at: Timestamp::from_micros(row.get(1)?),
        actor: row.get(2)?,
        action: row.get(3)?,
        experiment,
        from,
        to,
        context,
        hash: row.get::<_, Option<[u8; 32]>>(8)?.map(AuditHash),
    })
}

/// The texts of an entry that has two whole states.
fn reduce_whole_states(before: &str, after: &str) -> Result<(String, String, AuditContext), StoreError> {
    let parse = |what: &str, text: &str| from_json::<Map<String, Value>>(what, text).map(Value::Object);
    let (before, after) = (parse("audit.before", before)?, parse("audit.after", after)?);
    let (from, to, context) = reduced(Some(before), after);
    Ok((to_json(&from)?, to_json(&to)?, context))
}
