//! Verifies the chain of the audit log from the outside: it reads the file only, so the answer does not depend on a server
//! that may run on it, and it works on a copy.

use std::path::Path;
use std::time::Duration;

use inroad_assignment::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction};

use super::schema::STATE;
use crate::audit_chain::{AuditHash, AuditVerification, ChainFault, hash_content, hash_entry, hash_texts};
use crate::error::StoreError;

/// How long to wait for another connection that recovers the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Verifies the entries in their order, in one read transaction.
pub(super) fn verify(path: &Path, expected: Option<AuditHash>) -> Result<AuditVerification, StoreError> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if !STATE.matches(&connection)? {
        return Err(StoreError::Corrupt { path: String::new(), detail: "another program's database".to_owned() });
    }
    let transaction = connection.transaction()?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > STATE.known() {
        return Err(StoreError::NewerSchema { path: String::new(), found: version, known: STATE.known() });
    }
    if transaction.prepare("SELECT hash FROM audit").is_ok() {
        return verify_chain(&transaction, expected);
    }
    // A database that was not opened since the chain exists.
    let older = transaction.query_row("SELECT count(*) FROM audit", [], |row| row.get::<_, i64>(0))? as u64;
    let fault = expected.map(|expected| ChainFault::Unexpected { expected });
    Ok(AuditVerification { older, verified: 0, newest: AuditHash::default(), fault })
}

fn verify_chain(transaction: &Transaction<'_>, expected: Option<AuditHash>) -> Result<AuditVerification, StoreError> {
    let sql = "SELECT (SELECT value FROM meta WHERE key = 'audit_older'),
                      (SELECT value FROM meta WHERE key = 'audit_head'),
                      (SELECT count(*) FROM audit
                       WHERE id <= (SELECT value FROM meta WHERE key = 'audit_older'))";
    let (last_older, head, older): (i64, [u8; 32], i64) =
        transaction.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut found = AuditVerification { older: older as u64, verified: 0, newest: AuditHash::default(), fault: None };
    let mut is_expected = expected.is_none();
    let mut next = last_older + 1;
    let sql = "SELECT id, at, actor, action, experiment, before, after, context, hash FROM audit
               WHERE id > ?1 ORDER BY id";
    let mut statement = transaction.prepare(sql)?;
    let mut rows = statement.query([last_older])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if id != next {
            found.fault = Some(ChainFault::Missing { first: next as u64, last: id as u64 - 1 });
            return Ok(found);
        }
        let hash = hash_row(row, found.newest)?;
        if row.get::<_, Option<Vec<u8>>>(8)?.is_none_or(|stored| stored != hash.0) {
            found.fault = Some(ChainFault::Changed { entry: id as u64 });
            return Ok(found);
        }
        (found.newest, next) = (hash, id + 1);
        found.verified += 1;
        is_expected |= expected == Some(hash);
    }
    found.fault = match expected {
        _ if found.newest.0 != head => Some(ChainFault::Truncated { first: next as u64 }),
        Some(expected) if !is_expected => Some(ChainFault::Unexpected { expected }),
        _ => None,
    };
    Ok(found)
}

/// The hash that an entry must have.
fn hash_row(row: &rusqlite::Row<'_>, before: AuditHash) -> Result<AuditHash, StoreError> {
    let text = |column: usize| {
        let value = row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        Ok::<_, rusqlite::Error>(value.unwrap_or_default())
    };
    let texts = hash_texts(text(5)?, text(6)?, text(7)?);
    let content = hash_content(Timestamp::from_micros(row.get(1)?), [text(2)?, text(3)?, text(4)?], texts);
    Ok(hash_entry(before, row.get(0)?, content))
}
