//! Accepts connections and serves HTTP/1 and HTTP/2 on them, within limits: on their number, on what is buffered for a
//! client that does not read, on the bytes of requests ([`request_bytes`](crate::request_bytes)), and on the time for
//! which a connection may stay unused.
//!
//! ```text
//!  listener ──► connection ──► calls ──► routes
//!     │            │ unused for too long: closed, and the client may open another
//!     ▼            ▼
//!  too many:    stop: accepts no new call, ends when the calls in progress have ended
//!  refused with a message
//! ```
//!
//! tonic's own server has no limit on what it buffers for a stream: 400 KB each, for clients that never read.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tower::{ServiceExt, service_fn};

use crate::config::{CONNECTION_IDLE_TIMEOUT, FIRST_CALL_TIMEOUT, MAX_CALLS_PER_CONNECTION, MAX_SEND_BUFFER_BYTES};
use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::request_bytes::{ConnectionBudget, RequestBody, RequestBudgets};

/// How long a refused connection stays open, so that its client can read why.
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// The most refused connections that are open at once; beyond that they are closed without a message.
const MAX_REFUSED_CONNECTIONS: usize = 64;
/// How often a connection checks whether it is unused.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest time for which a call kept a worker busy that is recorded.
const MIN_BUSY_TIME: Duration = Duration::from_millis(1);
/// How long to wait after an error of the listener, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves connections until `stopping` turns true, and then until their calls have ended. Dropping the future closes all
/// connections.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    max_connections: usize,
    metrics: Arc<Metrics>,
    mut stopping: watch::Receiver<bool>,
) {
    let builder = builder();
    let budgets = RequestBudgets::new(Arc::clone(&metrics));
    let (mut connections, mut refused) = (JoinSet::new(), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {
                metrics.connections.set(connections.len() as i64);
                continue;
            }
            Some(_) = refused.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Small messages, such as a kill, are sent at once.
        let _ = stream.set_nodelay(true);
        if connections.len() < max_connections {
            let budget = budgets.connect(address.ip().to_canonical());
            connections.spawn(serve_connection(
                builder.clone(),
                stream,
                budget,
                (routes.clone(), Arc::clone(&metrics)),
                stopping.clone(),
            ));
            metrics.connections.set(connections.len() as i64);
            continue;
        }
        metrics.refused_connections.inc();
        if refused.len() < MAX_REFUSED_CONNECTIONS {
            refused.spawn(refuse_connection(builder.clone(), stream, max_connections));
        }
    }
    // New connections are refused by the operating system from now on.
    drop(listener);
    drop(refused);
    while connections.join_next().await.is_some() {
        metrics.connections.set(connections.len() as i64);
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES);
    // With a timer, headers that do not arrive within 30 s end the connection.
    builder.http1().timer(TokioTimer::new());
    builder
}

async fn serve_connection(
    builder: Builder<TokioExecutor>,
    stream: TcpStream,
    budget: Arc<ConnectionBudget>,
    (routes, metrics): (Router, Arc<Metrics>),
    mut stopping: watch::Receiver<bool>,
) {
    let info = stream.connect_info();
    let usage = Arc::new(Usage::new());
    let counted = Arc::clone(&usage);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let call = counted.begin_call();
        let bytes = budget.begin_call();
        let (head, body) = request.into_parts();
        let body = RequestBody::new(&head, body, Arc::clone(&bytes));
        let mut request = Request::from_parts(head, Body::new(body));
        request.extensions_mut().insert::<TcpConnectInfo>(info.clone());
        let answered = routes.clone().oneshot(request);
        let metrics = Arc::clone(&metrics);
        async move {
            let mut answered = std::pin::pin!(answered);
            let answered = std::future::poll_fn(|cx| measure_busy_time(&metrics, || answered.as_mut().poll(cx))).await;
            // The request is handled. A stream of requests holds its bytes until it ends.
            drop(bytes);
            answered.map(|response| response.map(|body| Body::new(CallBody { body, metrics, _call: call })))
        }
    });
    let mut connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let mut checks = tokio::time::interval(IDLE_CHECK_INTERVAL);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended with an error");
                }
                return;
            }
            _ = stopping.wait_for(|stop| *stop), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = checks.tick(), if !is_stopping => {
                if usage.is_unused() {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Runs a part of a call, and records how long it kept the async worker busy if that was over a millisecond.
fn measure_busy_time<T>(metrics: &Metrics, part: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = part();
    let busy = begun.elapsed();
    if busy >= MIN_BUSY_TIME {
        metrics.worker_busy_seconds.observe(busy.as_secs_f64());
    }
    done
}

/// Answers every call with the reason, for a short time.
async fn refuse_connection(builder: Builder<TokioExecutor>, stream: TcpStream, limit: usize) {
    let service = service_fn(move |_: Request<hyper::body::Incoming>| async move {
        Ok::<Response, std::convert::Infallible>(
            tonic::Status::from(ServerError::TooManyConnections { limit }).into_http(),
        )
    });
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let _ = tokio::time::timeout(REFUSAL_TIME, connection).await;
}

/// Whether calls are in progress on a connection, and since when there are none.
struct Usage {
    calls: AtomicUsize,
    had_call: std::sync::atomic::AtomicBool,
    unused_since: Mutex<Instant>,
}

/// A call in progress, from its headers to the end of its response.
struct CallGuard(Arc<Usage>);

impl Usage {
    fn new() -> Self {
        Self { calls: AtomicUsize::new(0), had_call: false.into(), unused_since: Mutex::new(Instant::now()) }
    }

    fn begin_call(self: &Arc<Self>) -> CallGuard {
        self.calls.fetch_add(1, Ordering::AcqRel);
        self.had_call.store(true, Ordering::Relaxed);
        CallGuard(Arc::clone(self))
    }

    fn is_unused(&self) -> bool {
        let limit = if self.had_call.load(Ordering::Relaxed) { CONNECTION_IDLE_TIMEOUT } else { FIRST_CALL_TIMEOUT };
        let since = *self.unused_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.calls.load(Ordering::Acquire) == 0 && since.elapsed() >= limit
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        *self.0.unused_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of a response, which belongs to its call until the end.
struct CallBody {
    body: Body,
    metrics: Arc<Metrics>,
    _call: CallGuard,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, metrics, .. } = &mut *self;
        measure_busy_time(metrics, || Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// How long a connection stays open on which `requests` are sent at the beginning and nothing afterwards.
    async fn time_until_closed(requests: &[u8]) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopping) = watch::channel(false);
        let routes = Router::new().fallback(|| async { "" });
        let server = tokio::spawn(serve(listener, routes, 10, Arc::new(Metrics::new()), stopping));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(requests).await.unwrap();
        let begun = Instant::now();
        let _ = client.read_to_end(&mut Vec::new()).await;
        server.abort();
        begun.elapsed()
    }

    /// The clock advances when nothing else is left to do, so the limits take no time.
    #[tokio::test(start_paused = true)]
    async fn connections_without_a_call_are_closed() {
        for requests in ["", "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            let took = time_until_closed(requests.as_bytes()).await;
            // HTTP/1.1 waits no longer for a further request than for the first one.
            assert!(took >= FIRST_CALL_TIMEOUT && took < FIRST_CALL_TIMEOUT + 2 * IDLE_CHECK_INTERVAL, "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_unused_a_while_after_its_last_call() {
        let usage = Arc::new(Usage::new());
        tokio::time::advance(FIRST_CALL_TIMEOUT).await;
        assert!(usage.is_unused());
        let calls = [usage.begin_call(), usage.begin_call()];
        for call in calls {
            tokio::time::advance(2 * CONNECTION_IDLE_TIMEOUT).await;
            assert!(!usage.is_unused(), "a call is in progress");
            drop(call);
        }
        tokio::time::advance(CONNECTION_IDLE_TIMEOUT - Duration::from_millis(1)).await;
        assert!(!usage.is_unused());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(usage.is_unused());
    }
}
