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
    let (_, total) = pages.shared.store.search_audit(filter.clone(), 0, 0).await?;
    let pager = Pager::new(query.text("page"), total);
    let (found, _) = pages.shared.store.search_audit(filter.clone(), pager.range().start, PAGE_SIZE).await?;
    let key = |entry: &inroad_store::AuditEntry| entry.experiment.as_ref().map(ToString::to_string).unwrap_or_default();
    let entries = found.iter().map(|entry| (key(entry), audit_entry(entry))).collect();
    let AuditFilter { experiment, actor, action } = filter;
    Ok(AuditPage { experiment, actor, action, entries, pager })
}
