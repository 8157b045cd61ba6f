//! Decisions of the policy with everything that they were based on (I7). The input grows with the age of a generation, and
//! most of it is in the decision before. So each input is stored as its difference from an earlier one:
//!
//! ```text
//! 0 ◄─ 1 ◄─ 2 … 7    8 ◄─ 9 …     64 ◄─ 65 …          the decision before,
//! 0 ◄─────────────── 8 ◄─ 16 …                        for multiples of 8 the one 8 before,
//! 0 ◄──────────────────────────── 64 ◄─ 128 …         for multiples of 64 the one 64 before, …
//! ```
//!
//! Only decision 0 is whole. So there are at most 7 steps per octal digit between any input and a whole one, and a
//! decision adds on average what changed since the last one, times the number of octal digits.

use std::collections::HashMap;
use std::sync::Arc;

use inroad_assignment::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::column_values::{corrupt, to_sql_integer};
use crate::catalogue::{DecisionRecord, PageRequest, StoredDecision};
use crate::error::StoreError;
use crate::text_delta;

/// The most steps between an input and a whole one: 22 octal digits.
const MAX_STEPS: usize = 7 * 22;
/// The most bytes of inputs that are kept in memory to read the next one.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// How the input of a decision is stored.
pub(super) struct PreparedDecision {
    ordinal: i64,
    /// The id of the decision that the delta is based on, and the delta; `None` if the input is stored whole.
    delta: Option<(i64, Vec<u8>)>,
}

impl PreparedDecision {
    /// Compares the input with that of an earlier decision. Call it before the transaction that stores the decision: that
    /// it is still the next one follows from the version of the experiment.
    pub(super) fn new(
        connection: &Connection,
        experiment: Option<i64>,
        record: &DecisionRecord,
    ) -> Result<Self, StoreError> {
        let sql = "SELECT ordinal FROM decision WHERE experiment_id = ?1 AND generation = ?2 ORDER BY id DESC LIMIT 1";
        let last: Option<Option<i64>> = match experiment {
            Some(id) => {
                let mut statement = connection.prepare_cached(sql)?;
                statement.query_row(params![id, record.generation], |row| row.get(0)).optional()?
            }
            None => None,
        };
        let ordinal = last.flatten().map_or(0, |last| last + 1);
        let Some(back) = base_distance(ordinal) else { return Ok(Self { ordinal, delta: None }) };
        let sql =
            "SELECT id FROM decision WHERE experiment_id = ?1 AND generation = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let base: i64 = statement.query_row(params![experiment, record.generation, back - 1], |row| row.get(0))?;
        let delta = text_delta::encode(&Inputs::new(connection).input(base)?, &record.input);
        let is_smaller = delta.len() < record.input.len();
        Ok(Self { ordinal, delta: is_smaller.then_some((base, delta)) })
    }
}

/// How many decisions before this one its base is; `None` for the first.
fn base_distance(ordinal: i64) -> Option<i64> {
    if ordinal == 0 {
        return None;
    }
    let octal_zeros = ordinal.trailing_zeros() / 3;
    Some(1 << (3 * octal_zeros))
}

/// Stores a decision, in the transaction of the change that it made.
pub(super) fn add(
    transaction: &Transaction<'_>,
    experiment: i64,
    record: &DecisionRecord,
    PreparedDecision { ordinal, delta }: &PreparedDecision,
) -> Result<(), StoreError> {
    let DecisionRecord { generation, at, revision, input, output } = record;
    let (input, base, delta) = match delta {
        Some((base, delta)) => ("", Some(base), Some(delta)),
        None => (input.as_str(), None, None),
    };
    let sql = "INSERT INTO decision (experiment_id, generation, at, revision, input, output, ordinal, base, delta)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let row = params![experiment, generation, at.as_micros(), revision, input, output, ordinal, base, delta];
    transaction.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// Reads inputs, newest first, and keeps those that an input was made from: the one before it is made from them too.
struct Inputs<'c> {
    connection: &'c Connection,
    kept: HashMap<i64, Arc<str>>,
}

impl<'c> Inputs<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self { connection, kept: HashMap::new() }
    }

    /// The input of the decision with an id, to the byte.
    fn input(&mut self, id: i64) -> Result<Arc<str>, StoreError> {
        let sql = "SELECT input, base, delta FROM decision WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut deltas: Vec<(i64, Vec<u8>)> = Vec::new();
        let mut at = id;
        let mut text: Arc<str> = loop {
            if let Some(text) = self.kept.get(&at) {
                break Arc::clone(text);
            }
            let (input, base, delta): (String, Option<i64>, Option<Vec<u8>>) =
                statement.query_row([at], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            match (base, delta) {
                (Some(base), Some(delta)) if base < at && deltas.len() < MAX_STEPS => {
                    deltas.push((at, delta));
                    at = base;
                }
                (None, None) => break input.into(),
                _ => return Err(corrupt("decision.base", format!("decision {id} is based on no earlier one"))),
            }
        };
        self.kept.insert(at, Arc::clone(&text));
        for (at, delta) in deltas.iter().rev() {
            let next = text_delta::apply(&text, delta);
            let next = next.filter(|next| *at != id || text_delta::is_intact(next, delta));
            text =
                next.ok_or_else(|| corrupt("decision.delta", format!("the input of decision {id} is damaged")))?.into();
            self.kept.insert(*at, Arc::clone(&text));
        }
        self.kept.retain(|kept, _| *kept < id);
        if self.kept.values().map(|text| text.len()).sum::<usize>() > MAX_KEPT_BYTES {
            self.kept.clear();
        }
        Ok(text)
    }
}

const COLUMNS: &str = "id, generation, at, revision, output";

fn read_without_input(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredDecision> {
    let at = Timestamp::from_micros(row.get(2)?);
    let (generation, revision, output) = (row.get(1)?, row.get(3)?, row.get(4)?);
    let record = DecisionRecord { generation, at, revision, input: String::new(), output };
    Ok(StoredDecision { id: row.get::<_, i64>(0)? as u64, record })
}

/// Decisions on one generation, newest first.
pub(super) fn list(
    connection: &Connection,
    experiment: i64,
    number: u32,
    page: PageRequest,
) -> Result<Vec<StoredDecision>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM decision WHERE experiment_id = ?1 AND generation = ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4"
    ))?;
    let (before, limit) = (to_sql_integer(page.before), to_sql_integer(page.limit as u64));
    let mut rows = statement.query(params![experiment, number, before, limit])?;
    let mut inputs = Inputs::new(connection);
    let (mut found, mut bytes): (Vec<StoredDecision>, usize) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let mut decision = read_without_input(row)?;
        let input = inputs.input(to_sql_integer(decision.id))?;
        bytes += input.len() + decision.record.output.len();
        if bytes > page.max_bytes && !found.is_empty() {
            break;
        }
        decision.record.input = input.to_string();
        found.push(decision);
    }
    Ok(found)
}

/// The decision that made one revision.
pub(super) fn of_revision(
    connection: &Connection,
    experiment: i64,
    number: u32,
    revision: u32,
) -> Result<Option<DecisionRecord>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM decision WHERE experiment_id = ?1 AND generation = ?2 AND revision = ?3"
    ))?;
    let found = statement.query_row(params![experiment, number, revision], read_without_input).optional()?;
    let Some(StoredDecision { id, mut record }) = found else { return Ok(None) };
    record.input = Inputs::new(connection).input(to_sql_integer(id))?.to_string();
    Ok(Some(record))
}
