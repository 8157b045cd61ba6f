//! The page of the audit log of all experiments.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use inroad_dashboard::audit::AuditPage;
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::NavItem;
use inroad_dashboard::pager::{PAGE_SIZE, Pager};
use inroad_store::AuditFilter;

use super::access::Caller;
use super::experiment::audit_entry;
use super::{PageResponse, Pages, PagesState, error_response};
use crate::error::ServerError;

/// The most bytes of entries that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// `GET /audit`
pub(super) async fn page(State(pages): PagesState, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    match search_entries(&pages, &query).await {
        Ok(page) => PageResponse::new("Audit log", NavItem::Audit, page.render()).send(&caller),
        Err(error) => error_response(&caller, error),
    }
}

async fn search_entries(pages: &Pages, query: &Form) -> Result<AuditPage, ServerError> {
    let filter = AuditFilter {
        experiment: query.text("experiment").to_owned(),
        actor: query.text("actor").to_owned(),
        action: query.text("action").to_owned(),
    };
    // The number of matches decides which pages exist.
    let store = &pages.shared.store;
    let pager = Pager::new(query.text("page"), store.count_audit(filter.clone()).await?);
    let (first, mut entries) = (pager.range().start, Vec::new());
    // Few entries are in memory at once: the creation of an experiment may have more than a megabyte.
    while entries.len() < PAGE_SIZE {
        let (skip, limit) = (first + entries.len(), PAGE_SIZE - entries.len());
        let found = store.search_audit(filter.clone(), skip, limit, READ_BYTES).await?;
        if found.is_empty() {
            break;
        }
        entries.extend(found.iter().map(audit_entry));
    }
    let AuditFilter { experiment, actor, action } = filter;
    Ok(AuditPage { experiment, actor, action, entries, pager })
}
