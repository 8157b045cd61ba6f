//! Live updates: notifies open pages by server-sent events that something changed, and the pages then load the new
//! content. While nothing changes, only keep-alive messages are sent.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use inroad_dashboard::form::Form;
use tokio::time::{Instant, sleep_until};

use super::Pages;
use crate::clients::ClientState;

/// Most pages with live updates at one time.
const MAX_OPEN_PAGES: usize = 2_000;
/// Shortest time between two notifications to one page.
const MIN_INTERVAL: Duration = Duration::from_millis(300);
/// Times after opening a page with a completed action at which it is notified: clients report a little later that they
/// have the change.
const REPORT_DELAYS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1_200), Duration::from_millis(3_000)];
/// How often rates are updated while there is traffic.
const RATE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the connected clients are checked.
const CLIENT_INTERVAL: Duration = Duration::from_secs(1);

/// The number of pages with live updates.
#[derive(Default)]
pub(super) struct OpenPages(Arc<AtomicUsize>);

/// One open page; dropping it decrements the count.
struct OpenPage(Arc<AtomicUsize>);

impl Drop for OpenPage {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// An experiment with its counts.
    Experiment,
    /// The event log.
    Events,
    /// The list of experiments, with counts and rates.
    Overview,
    /// Connected clients.
    Clients,
}

/// The connection of one open page.
struct LiveConnection {
    pages: Arc<Pages>,
    scope: Scope,
    versions: tokio::sync::watch::Receiver<Arc<crate::catalogue::CatalogueState>>,
    counted: tokio::sync::watch::Receiver<(inroad_store::Seq, u64)>,
    summaries: tokio::sync::watch::Receiver<u64>,
    notices: tokio::sync::watch::Receiver<()>,
    stopping: tokio::sync::watch::Receiver<bool>,
    /// Pending times for client reports.
    report_times: Vec<Instant>,
    /// Earliest time of the next notification.
    next: Instant,
    /// Fingerprint of the last list of clients.
    seen_clients: u64,
    _open_page: OpenPage,
}

/// Why a waiting connection wakes up.
enum WakeReason {
    /// The server stops.
    Stopped,
    /// Experiments, counts, summaries or conditions of the server changed.
    Changed,
    /// Clients may have reported.
    ClientReports,
    /// A periodic check is due.
    Periodic,
}

impl LiveConnection {
    /// Waits until the page has to be notified; returns false when the server stops.
    async fn wait(&mut self) -> bool {
        loop {
            let report_time = self.report_times.iter().min().copied();
            let check_time = match self.scope {
                Scope::Overview => Some(Instant::now() + RATE_INTERVAL),
                Scope::Clients => Some(Instant::now() + CLIENT_INTERVAL),
                _ => None,
            };
            let counts_matter = self.scope != Scope::Clients;
            let summaries_matter = self.scope == Scope::Overview;
            let reason = tokio::select! {
                _ = self.stopping.wait_for(|stop| *stop) => WakeReason::Stopped,
                changed = self.versions.changed() => if changed.is_ok() { WakeReason::Changed } else { WakeReason::Stopped },
                changed = self.counted.changed(), if counts_matter => if changed.is_ok() { WakeReason::Changed } else { WakeReason::Stopped },
                changed = self.summaries.changed(), if summaries_matter => {
                    if changed.is_ok() { WakeReason::Changed } else { WakeReason::Stopped }
                }
                changed = self.notices.changed() => if changed.is_ok() { WakeReason::Changed } else { WakeReason::Stopped },
                () = until(report_time) => WakeReason::ClientReports,
                () = until(check_time) => WakeReason::Periodic,
            };
            match reason {
                WakeReason::Stopped => return false,
                WakeReason::Changed => {}
                WakeReason::ClientReports => {
                    let now = Instant::now();
                    self.report_times.retain(|at| *at > now);
                }
                WakeReason::Periodic if self.scope == Scope::Overview => {
                    if !self.pages.shared.recent_events.has_recent_traffic().await {
                        continue;
                    }
                }
                WakeReason::Periodic => {
                    let clients = fingerprint(&self.pages.shared.clients.list());
                    if clients == self.seen_clients {
                        continue;
                    }
                    self.seen_clients = clients;
                }
            }
            // Changes in quick succession cause one notification.
            sleep_until(self.next).await;
            self.next = Instant::now() + MIN_INTERVAL;
            self.versions.mark_unchanged();
            self.counted.mark_unchanged();
            self.summaries.mark_unchanged();
            self.notices.mark_unchanged();
            return true;
        }
    }
}

/// Waits until a time, or forever if there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A hash of everything that the page shows of the clients.
fn fingerprint(clients: &[ClientState]) -> u64 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    for client in clients {
        (client.stream, client.sent_version, client.applied_version, client.is_behind()).hash(&mut hasher);
        (client.dropped_exposures, client.dropped_outcomes, client.queued_events).hash(&mut hasher);
    }
    hasher.finish()
}

/// `GET /live?scope=…`
pub(super) async fn stream(State(pages): State<Arc<Pages>>, RawQuery(query): RawQuery) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    let open_page = OpenPage(Arc::clone(&pages.open_pages.0));
    if pages.open_pages.0.fetch_add(1, Ordering::Relaxed) >= MAX_OPEN_PAGES {
        let message = format!("Live updates are off: {MAX_OPEN_PAGES} pages have them already, which is the limit.\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "30")], message).into_response();
    }
    let scope = match query.text("scope") {
        "events" => Scope::Events,
        "overview" => Scope::Overview,
        "clients" => Scope::Clients,
        _ => Scope::Experiment,
    };
    let now = Instant::now();
    let shared = &pages.shared;
    let connection = LiveConnection {
        scope,
        versions: shared.catalogue.subscribe(),
        counted: shared.fold.progress(),
        summaries: pages.summaries.changes(),
        notices: pages.notice_changes.clone(),
        stopping: shared.stopping.clone(),
        report_times: if query.has_value("done") {
            REPORT_DELAYS.iter().map(|after| now + *after).collect()
        } else {
            Vec::new()
        },
        next: now,
        seen_clients: 0,
        pages,
        _open_page: open_page,
    };
    Sse::new(notifications(connection)).keep_alive(KeepAlive::default()).into_response()
}

fn notifications(connection: LiveConnection) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(connection, |mut connection| async move {
        // Browsers ignore events without data.
        connection.wait().await.then(|| (Ok(Event::default().event("changed").data("now")), connection))
    })
}
