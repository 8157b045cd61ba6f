//! Tells open pages that something changed, by server-sent events; they ask for what. Nothing is sent while nothing
//! happens but a word now and then that keeps the connection open.

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

/// The most pages that may follow at once.
const MAX_OPEN: usize = 2_000;
/// The least time between two words to one page.
const GAP: Duration = Duration::from_millis(300);
/// When to say so after a page was opened that tells what was just done: clients report a little later that they have it.
const ECHOES: [Duration; 3] = [Duration::from_millis(500), Duration::from_millis(1_200), Duration::from_millis(3_000)];
/// How often rates are told anew while there is traffic.
const RATES: Duration = Duration::from_secs(10);
/// How often connected clients are looked at.
const CLIENTS: Duration = Duration::from_secs(1);

/// Counts the pages that follow.
#[derive(Default)]
pub(super) struct Open(Arc<AtomicUsize>);

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a page follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Changes and counts.
    Counts,
    /// The log.
    Events,
    /// The list of experiments: counts, and rates.
    Overview,
    /// Who is connected.
    Clients,
}

struct Follower {
    pages: Arc<Pages>,
    scope: Scope,
    versions: tokio::sync::watch::Receiver<Arc<crate::catalogue::State>>,
    counted: tokio::sync::watch::Receiver<(inroad_store::Seq, u64)>,
    standings: tokio::sync::watch::Receiver<u64>,
    stopping: tokio::sync::watch::Receiver<bool>,
    echoes: Vec<Instant>,
    next: Instant,
    seen_clients: u64,
    _guard: Guard,
}

/// Why a follower woke.
enum Woken {
    Over,
    Heard,
    Echo,
    Slow,
}

impl Follower {
    /// Waits until there is something to say; false when it is over.
    async fn wait(&mut self) -> bool {
        loop {
            let echo = self.echoes.iter().min().copied();
            let slow = match self.scope {
                Scope::Overview => Some(Instant::now() + RATES),
                Scope::Clients => Some(Instant::now() + CLIENTS),
                _ => None,
            };
            let counts_matter = self.scope != Scope::Clients;
            let standings_matter = self.scope == Scope::Overview;
            let woken = tokio::select! {
                _ = self.stopping.wait_for(|stop| *stop) => Woken::Over,
                heard = self.versions.changed() => if heard.is_ok() { Woken::Heard } else { Woken::Over },
                heard = self.counted.changed(), if counts_matter => if heard.is_ok() { Woken::Heard } else { Woken::Over },
                heard = self.standings.changed(), if standings_matter => {
                    if heard.is_ok() { Woken::Heard } else { Woken::Over }
                }
                () = until(echo) => Woken::Echo,
                () = until(slow) => Woken::Slow,
            };
            match woken {
                Woken::Over => return false,
                Woken::Heard => {}
                Woken::Echo => {
                    let passed = Instant::now();
                    self.echoes.retain(|at| *at > passed);
                }
                Woken::Slow if self.scope == Scope::Overview => {
                    if !self.pages.shared.recent.is_lively(&self.pages.shared).await {
                        continue;
                    }
                }
                Woken::Slow => {
                    let clients = print(&self.pages.shared.clients.list());
                    if clients == self.seen_clients {
                        continue;
                    }
                    self.seen_clients = clients;
                }
            }
            // What comes close together is told together.
            sleep_until(self.next).await;
            self.next = Instant::now() + GAP;
            self.versions.mark_unchanged();
            self.counted.mark_unchanged();
            self.standings.mark_unchanged();
            return true;
        }
    }
}

/// Waits until an instant; for ever if there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Tells lists of clients apart.
fn print(clients: &[ClientState]) -> u64 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    for client in clients {
        (client.stream, client.sent_version, client.applied_version, client.is_behind()).hash(&mut hasher);
        (client.dropped_exposures, client.dropped_outcomes, client.queued_events).hash(&mut hasher);
    }
    hasher.finish()
}

/// `GET /live?scope=…`
pub(super) async fn stream(State(pages): State<Arc<Pages>>, RawQuery(query): RawQuery) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    let guard = Guard(Arc::clone(&pages.open.0));
    if pages.open.0.fetch_add(1, Ordering::Relaxed) >= MAX_OPEN {
        let message = format!("{MAX_OPEN} pages follow already, which is the limit: this one stands still\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "30")], message).into_response();
    }
    let scope = match asked.text("scope") {
        "events" => Scope::Events,
        "overview" => Scope::Overview,
        "clients" => Scope::Clients,
        _ => Scope::Counts,
    };
    let now = Instant::now();
    let shared = &pages.shared;
    let follower = Follower {
        scope,
        versions: shared.catalogue.subscribe(),
        counted: shared.fold.progress(),
        standings: pages.standings.changes(),
        stopping: shared.stopping.clone(),
        echoes: if asked.is_on("done") { ECHOES.iter().map(|after| now + *after).collect() } else { Vec::new() },
        next: now,
        seen_clients: 0,
        pages,
        _guard: guard,
    };
    Sse::new(words(follower)).keep_alive(KeepAlive::default()).into_response()
}

fn words(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(follower, |mut follower| async move {
        // Browsers drop an event without data unheard.
        follower.wait().await.then(|| (Ok(Event::default().event("changed").data("now")), follower))
    })
}
