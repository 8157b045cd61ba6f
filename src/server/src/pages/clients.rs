//! The page of connected clients.

use axum::extract::State;
use axum::response::Response;
use inroad_dashboard::clients::{Client, ClientsPage};
use inroad_dashboard::layout::NavItem;

use super::access::Caller;
use super::{PageResponse, PagesState};

/// Most clients on the page.
const MAX_CLIENTS: usize = 500;

/// `GET /clients`
pub(super) async fn page(State(pages): PagesState, caller: Caller) -> Response {
    let version = pages.shared.catalogue.state().version;
    let mut all = pages.shared.clients.list();
    let total = all.len();
    all.sort_by_key(|client| (std::cmp::Reverse(client.versions_behind), client.stream));
    let shown = all.into_iter().take(MAX_CLIENTS).map(|client| {
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
    let page = ClientsPage { version, clients: shown.collect(), total };
    PageResponse::new("Clients", NavItem::Clients, page.render()).with_live_updates("scope=clients").send(&caller)
}
