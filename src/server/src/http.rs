//! HTTP routes for operators, on the same port as gRPC: liveness, readiness and Prometheus metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::error::ServerError;
use crate::shared::SharedState;

/// The routes.
pub fn routes(shared: Arc<SharedState>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

/// Gives an unknown path a text that says what to do instead of an empty answer.
pub async fn explain_not_found(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let has_body = response.headers().contains_key(header::CONTENT_TYPE);
    if response.status() != StatusCode::NOT_FOUND || has_body {
        return response;
    }
    let path: String = path.chars().take(200).collect();
    let text = format!("There is no page at {path:?}. The overview of all experiments is at /.\n");
    (StatusCode::NOT_FOUND, text).into_response()
}

/// Middleware: limits the time until a page answers. A live page may go on after it has answered.
pub(crate) async fn limit_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, format!("{}\n", ServerError::CallTimeout { limit })).into_response(),
    }
}

async fn ready(State(shared): State<Arc<SharedState>>) -> impl IntoResponse {
    if *shared.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let (backlog, limit) = (shared.fold.backlog(), shared.config.max_backlog);
    if backlog >= limit {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{backlog} events are waiting to be processed\n"));
    }
    let disk = shared.store.disk();
    if disk.is_full {
        let text = format!(
            "the disk is full: assignments and kills continue, events and other changes are refused until there is \
             space; {} of {} bytes are left for kills\n",
            disk.reserve_bytes, disk.whole_reserve_bytes
        );
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    if let Some(jump) = shared.clock.status().jump {
        let (jump, resumes_in) = (jump.describe(), jump.resumes_in().as_secs());
        let text = format!(
            "the machine's clock jumped {jump}: assignments, events and kills continue by the steady clock, and \
             decisions wait for {resumes_in} s more, or until `inroad clock accept`\n"
        );
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    (StatusCode::OK, "ready\n".to_owned())
}

/// The longest that the metrics wait for the store: they must show an overload, not suffer from it.
const MAX_STORE_WAIT: Duration = Duration::from_secs(1);

/// How long ago the oldest unfolded event was received. None if the store does not answer in time; then the metric keeps
/// its value.
async fn oldest_unfolded_age(shared: &SharedState) -> Option<Duration> {
    if shared.fold.backlog() == 0 {
        return Some(Duration::ZERO);
    }
    let read = shared.store.read_log(shared.store.folded(), 1);
    let oldest = tokio::time::timeout(MAX_STORE_WAIT, read).await.ok()?.ok()?;
    Some(oldest.first().map_or(Duration::ZERO, |event| shared.clock.now().since(event.received_at)))
}

/// The free space on the disk of the data folder, in bytes. None if the system does not answer in time.
async fn free_disk_bytes(shared: &SharedState) -> Option<u64> {
    let folder = shared.config.folder.clone();
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&folder));
    let disk = tokio::time::timeout(MAX_STORE_WAIT, asked).await.ok()?.ok()?.ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The memory of this process, as Linux reports it.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    kibibytes.trim().parse::<i64>().ok().map(|kibibytes| kibibytes * 1024)
}

async fn metrics(State(shared): State<Arc<SharedState>>) -> impl IntoResponse {
    let metrics = &shared.metrics;
    metrics.backlog.set(shared.fold.backlog() as i64);
    if let Some(age) = oldest_unfolded_age(&shared).await {
        metrics.oldest_unfolded_seconds.set(age.as_secs_f64());
    }
    metrics.backlog_limit.set(i64::try_from(shared.config.max_backlog).unwrap_or(i64::MAX));
    metrics.watchers_limit.set(i64::try_from(shared.config.max_streams).unwrap_or(i64::MAX));
    metrics.resident_bytes.set(resident_bytes().unwrap_or(0));
    metrics.queued_events.set(shared.store.queued_events() as i64);
    metrics.queued_exposures.set(shared.exposures.waiting() as i64);
    metrics.log_head.set(shared.store.head() as i64);
    metrics.snapshot_bytes.set(shared.catalogue.peek().snapshot_bytes as i64);
    metrics.version.set(shared.catalogue.peek().version as i64);
    let disk = shared.store.disk();
    metrics.disk_full.set(i64::from(disk.is_full));
    metrics.disk_reserve_bytes.set(disk.reserve_bytes as i64);
    if let Some(bytes) = free_disk_bytes(&shared).await {
        metrics.disk_free_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    let clock = shared.clock.status();
    let ahead = clock.jump.map_or(0, |jump| jump.ahead_micros / 1_000_000);
    metrics.clock_offset_seconds.set(ahead);
    metrics.clock_behind_seconds.set((-ahead).max(0));
    metrics.clock_jumps.set(shared.clock.jumps());
    let clients = shared.clients.totals();
    metrics.clients.set(clients.connected as i64);
    metrics.anonymous_clients.set(clients.anonymous as i64);
    metrics.clients_behind.set(clients.behind as i64);
    metrics.client_dropped_exposures.set(clients.dropped_exposures as i64);
    metrics.client_dropped_outcomes.set(clients.dropped_outcomes as i64);
    metrics.client_queued_events.set(clients.queued_events as i64);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics.render())
}
