//! The search in the audit log of all experiments. It reads the whole table, which is small against the log: people make
//! changes, not visitors.

use rusqlite::{Connection, params};

use super::catalogue::{AUDIT_COLUMNS, read_audit_entry};
use super::column_values::to_sql_integer;
use crate::catalogue::{AuditEntry, AuditFilter};
use crate::error::StoreError;

const MATCHES: &str = "(?1 = '' OR instr(experiment, ?1) > 0) AND (?2 = '' OR instr(lower(actor), lower(?2)) > 0)
    AND (action = ?3 OR (?3 = '' AND action <> 'tick'))";

/// At most `limit` matching entries after the first `skip`, newest first, and the number of all that match.
pub(crate) fn search(
    connection: &Connection,
    filter: &AuditFilter,
    skip: usize,
    limit: usize,
) -> Result<(Vec<AuditEntry>, usize), StoreError> {
    let AuditFilter { experiment, actor, action } = filter;
    let mut count = connection.prepare_cached(&format!("SELECT count(*) FROM audit WHERE {MATCHES}"))?;
    let total: i64 = count.query_row(params![experiment, actor, action], |row| row.get(0))?;
    let sql = format!("SELECT {AUDIT_COLUMNS} FROM audit WHERE {MATCHES} ORDER BY id DESC LIMIT ?4 OFFSET ?5");
    let mut statement = connection.prepare_cached(&sql)?;
    let (limit, skip) = (to_sql_integer(limit as u64), to_sql_integer(skip as u64));
    let mut rows = statement.query(params![experiment, actor, action, limit, skip])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(read_audit_entry(row)?);
    }
    Ok((entries, total as usize))
}
