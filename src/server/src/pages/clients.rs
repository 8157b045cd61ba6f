//! The page of connected clients.

use std::ops::Range;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use inroad_dashboard::clients::{Client, ClientsPage};
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::NavItem;
use inroad_dashboard::pager::Pager;

use super::access::Caller;
use super::{PageResponse, PagesState};

/// `GET /clients`
pub(super) async fn page(State(pages): PagesState, caller: Caller, RawQuery(query): RawQuery) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    let (text, only_outdated) = (query.text("q").to_owned(), query.text("version") == "outdated");
    let searched = text.to_lowercase();
    let version = pages.shared.catalogue.state().version;
    let mut all = pages.shared.clients.list();
    let total = all.len();
    let anonymous = all.iter().filter(|client| client.client_id.is_empty()).count();
    all.sort_by_key(|client| (std::cmp::Reverse(client.versions_behind), client.stream));
    all.retain(|client| {
        let has_text = |field: &str| field.to_lowercase().contains(&searched);
        (has_text(&client.client_name) || has_text(&client.sdk)) && (!only_outdated || client.is_behind())
    });
    let pager = Pager::new(query.text("page"), all.len());
    let Range { start, end } = pager.range();
    let shown = all.into_iter().skip(start).take(end - start).map(|client| {
        // Only clients with an id report their state; an anonymous watcher does not.
        let reports = !client.client_id.is_empty() && client.reported_at.is_some();
        Client {
            is_behind: client.is_behind(),
            name: client.client_name,
            sdk: client.sdk,
            connected_at: client.connected_at,
            sent: client.sent_version,
            applied: client.applied_version,
            lag_ms: client.lag.map(|lag| lag.as_secs_f64() * 1e3),
            dropped_exposures: reports.then_some(client.dropped_exposures),
            dropped_outcomes: reports.then_some(client.dropped_outcomes),
            queued: reports.then_some(client.queued_events),
        }
    });
    let page = ClientsPage { version, text, only_outdated, clients: shown.collect(), pager, total, anonymous };
    PageResponse::new("Clients", NavItem::Clients, page.render()).with_live_updates("scope=clients").send(&caller)
}
