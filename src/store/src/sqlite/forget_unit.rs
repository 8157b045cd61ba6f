//! Removes the raw key of one unit from the log, after an audit entry says so.

use std::sync::Arc;

use inroad_assignment::{UnitKey, unit_digest};
use rusqlite::{Connection, TransactionBehavior};

use super::audit::{self, AuditedAction, AuditedChange};
use super::{SqliteStore, log_erasure};
use crate::Store;
use crate::error::StoreError;
use crate::maintenance::{ForgetRequest, ForgetResult};

impl SqliteStore {
    /// Blanks the raw key of one unit, see [`Store::forget_unit`].
    pub(super) async fn forget(&self, request: ForgetRequest) -> Result<ForgetResult, StoreError> {
        let key = UnitKey::parse(&request.unit).map_err(|error| StoreError::Database(error.to_string()))?;
        // Outcomes are stored under this digest. It can be computed from the key, but not the key from it.
        let digest = format!("{:?}", unit_digest("", &request.unit_type, key));
        let _guard = self.inner.maintenance.acquire().await?;
        let read_by_all = self.read_by_all().await?;
        let (_, stored) = self.load().await?;
        let of_type = stored.iter().map(|s| &s.experiment.definition).filter(|d| d.unit() == request.unit_type);
        let experiments: Vec<String> = of_type.map(|d| d.key().to_string()).collect();
        let ForgetRequest { unit_type, unit, actor, at } = request;
        // The audit entry is written first: the log is another file, and no key may be removed from it without an
        // entry.
        let (kind, hex) = (unit_type.clone(), digest.clone());
        self.blocking(move |inner| {
            let action = AuditedAction { at, actor: &actor, action: "forget", experiment: "" };
            let write = |connection: &mut Connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                audit::add_entry(&transaction, &action, &AuditedChange::forgotten_unit(&kind, &hex))?;
                Ok(transaction.commit()?)
            };
            inner.reserve.write(|| inner.writer.with_connection(write))
        })
        .await?;
        let inner = Arc::clone(&self.inner);
        let find = move || {
            let find = |c: &mut Connection| log_erasure::find_events_with_key(c, &unit_type, &unit, &experiments);
            let with_key = inner.log_readers.with_connection(find)?;
            Ok((unit_type, unit, with_key))
        };
        let (unit_type, unit, mut with_key) = self.long_reads.run(find).await?;
        let found = with_key.len();
        with_key.retain(|event| event.seq <= read_by_all);
        let waiting = (found - with_key.len()) as u64;
        let blank = move |connection: &mut _| log_erasure::blank_key(connection, &unit_type, &unit, &with_key);
        let events = self.inner.log.run(blank).await.map_err(|error| error.located(&self.inner.folder))?;
        Ok(ForgetResult { digest, events, waiting })
    }
}
