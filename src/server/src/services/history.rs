//! Lists of what is stored about experiments: decisions of the policy, and entries of the audit log. Both read and convert
//! megabytes, so they run in turns ([`Queries::run_in_parts`](crate::queries::Queries::run_in_parts)).

use std::sync::Arc;

use inroad_store::{PageRequest, StoredDecision};
use inroad_wire::v1;

use super::audit_entry::audit_entry_to_wire;
use super::{PageBuilder, page_before, page_size};
use crate::config::MAX_PART_BYTES;
use crate::error::ServerError;
use crate::explain::decision_to_wire;
use crate::shared::SharedState;

/// How many audit entries or decisions are read from the store at once.
const READ_AT_ONCE: usize = 50;

/// A page of decisions of a run, the newest first.
///
/// # Errors
/// [`ServerError::Invalid`] for a bad page; an unknown experiment or run; errors of the store.
pub(super) async fn list_decisions(
    shared: Arc<SharedState>,
    request: v1::ListDecisionsRequest,
) -> Result<v1::ListDecisionsResponse, ServerError> {
    let v1::ListDecisionsRequest { key, generation, page_size: size, page_token } = request;
    let (limit, before) = (page_size(size)?, page_before(&page_token)?);
    let entry = shared.catalogue.state().get(&key)?.clone();
    let number = entry.generation(generation)?;
    // Records are large, so few are read at once.
    let (mut decisions, mut last) = (PageBuilder::new(limit), before);
    loop {
        let page = PageRequest { before: last, limit: READ_AT_ONCE.min(limit + 1), max_bytes: 4 * MAX_PART_BYTES };
        let records = shared.store.decisions(entry.experiment.definition.key(), number, page).await?;
        for StoredDecision { id, record } in &records {
            let input = serde_json::from_str(&record.input)?;
            let output = serde_json::from_str(&record.output)?;
            if !decisions.push(decision_to_wire(&entry.experiment, number, record.revision, &input, &output)) {
                break;
            }
            last = *id;
        }
        if decisions.is_full || records.is_empty() {
            break;
        }
    }
    let next_page_token = if decisions.is_full { last.to_string() } else { String::new() };
    Ok(v1::ListDecisionsResponse { decisions: decisions.entries, next_page_token })
}

/// A page of the audit log of one experiment or of all, the newest first.
///
/// # Errors
/// [`ServerError::Invalid`] for a bad page; an unknown experiment; errors of the store.
pub(super) async fn list_audit_entries(
    shared: Arc<SharedState>,
    request: v1::ListAuditEntriesRequest,
) -> Result<v1::ListAuditEntriesResponse, ServerError> {
    let v1::ListAuditEntriesRequest { key, page_size: size, page_token } = request;
    let (limit, before) = (page_size(size)?, page_before(&page_token)?);
    let state = shared.catalogue.state();
    let key = if key.is_empty() { None } else { Some(state.get(&key)?.experiment.definition.key().clone()) };
    // A new experiment may have megabytes, so few entries are read at once.
    let (mut found, mut last) = (PageBuilder::new(limit), before);
    loop {
        let page = PageRequest { before: last, limit: READ_AT_ONCE.min(limit + 1), max_bytes: MAX_PART_BYTES };
        let entries = shared.store.audit(key.as_ref(), page).await?;
        let is_end = entries.is_empty();
        for e in entries {
            let id = e.id;
            if !found.push(audit_entry_to_wire(e)) {
                break;
            }
            last = id;
        }
        if found.is_full || is_end {
            break;
        }
    }
    let next_page_token = if found.is_full { last.to_string() } else { String::new() };
    Ok(v1::ListAuditEntriesResponse { entries: found.entries, next_page_token })
}
