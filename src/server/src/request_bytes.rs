//! Bounds the bytes of requests that the server holds before it has handled them, and ends requests that arrive too slowly.
//!
//! ```text
//!  body ──► reserves bytes from the budgets of its connection, its caller and the server ──► decoder ──► handler
//!             │ a budget is used up, or too few bytes arrive            released when the call ends ◄──┘
//!             ▼
//!           the call ends with an error
//! ```
//!
//! A unary call holds its bytes until it ends. A stream of requests holds only the message that is not complete yet,
//! because complete messages are decoded before more is read.
//!
//! The last part of each budget is kept for small requests that are complete. Those are handled soon and give their bytes
//! back, so a kill finds room there. A request that waits for its end may not use it, however small it is: otherwise
//! many of them could fill the budget of their address for as long as they may take to arrive.
//!
//! Without these budgets, each call may hold one message of 4 MiB for as long as a call may take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::config::{
    MAX_CALLER_REQUEST_BYTES, MAX_CONNECTION_REQUEST_BYTES, MAX_REQUEST_BYTES, MIN_REQUEST_BYTES_PER_WINDOW,
    REQUEST_WINDOW, SMALL_REQUEST_BYTES,
};
use crate::error::ServerError;
use crate::metrics::Metrics;

/// One part in this many of each budget is kept for small requests that are complete.
const PARTS: usize = 8;
/// What the content type of a gRPC request begins with.
const GRPC_CONTENT_TYPE: &[u8] = b"application/grpc";
/// The bytes before a gRPC message: a flag and the length.
const PREFIX_BYTES: usize = 5;
/// The calls that send any number of messages.
const REQUEST_STREAMS: [&str; 3] = [
    "/inroad.v1.ExperimentService/ApplyExperiments",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// A number of bytes that requests may hold together.
struct Budget {
    /// Whose requests, for the message.
    owner: &'static str,
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    fn new(owner: &'static str, limit: usize) -> Self {
        Self { owner, limit, used: AtomicUsize::new(0) }
    }

    /// Only some requests may use all of it.
    fn reserve(&self, bytes: usize, may_use_all: bool) -> Result<(), ServerError> {
        let limit = if may_use_all { self.limit } else { self.limit - self.limit / PARTS };
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(ServerError::TooManyRequestBytes { owner: self.owner, limit }),
        }
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The budgets of the server and of its callers.
pub(crate) struct RequestBudgets {
    server: Budget,
    callers: Mutex<HashMap<IpAddr, Caller>>,
    metrics: Arc<Metrics>,
}

/// An address with open connections.
struct Caller {
    budget: Arc<Budget>,
    connections: usize,
}

impl RequestBudgets {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let server = Budget::new("all callers", MAX_REQUEST_BYTES);
        Arc::new(Self { server, callers: Mutex::default(), metrics })
    }

    /// The budgets that a new connection of this address uses.
    pub(crate) fn connect(self: &Arc<Self>, address: IpAddr) -> Arc<ConnectionBudget> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = callers.entry(address).or_insert_with(|| Caller {
            budget: Arc::new(Budget::new("this address", MAX_CALLER_REQUEST_BYTES)),
            connections: 0,
        });
        caller.connections += 1;
        Arc::new(ConnectionBudget {
            connection: Budget::new("this connection", MAX_CONNECTION_REQUEST_BYTES),
            caller: Arc::clone(&caller.budget),
            address,
            shared: Arc::clone(self),
        })
    }
}

/// The budgets that the calls of one connection use.
pub(crate) struct ConnectionBudget {
    connection: Budget,
    caller: Arc<Budget>,
    address: IpAddr,
    shared: Arc<RequestBudgets>,
}

impl ConnectionBudget {
    /// Begins a call that holds no bytes yet.
    pub(crate) fn begin_call(self: &Arc<Self>) -> Arc<CallBytes> {
        Arc::new(CallBytes { budget: Arc::clone(self), held: AtomicUsize::new(0) })
    }

    fn reserve(&self, bytes: usize, may_use_all: bool) -> Result<(), ServerError> {
        self.connection.reserve(bytes, may_use_all)?;
        self.caller.reserve(bytes, may_use_all).inspect_err(|_| self.connection.release(bytes))?;
        self.shared.server.reserve(bytes, may_use_all).inspect_err(|_| {
            self.connection.release(bytes);
            self.caller.release(bytes);
        })?;
        self.shared.metrics.request_bytes.inc_by(bytes as i64);
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.connection.release(bytes);
        self.caller.release(bytes);
        self.shared.server.release(bytes);
        self.shared.metrics.request_bytes.dec_by(bytes as i64);
    }
}

impl Drop for ConnectionBudget {
    fn drop(&mut self) {
        let mut callers = self.shared.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get_mut(&self.address) {
            caller.connections -= 1;
            if caller.connections == 0 {
                callers.remove(&self.address);
            }
        }
    }
}

/// The bytes that a call holds. Dropping it releases them.
pub(crate) struct CallBytes {
    budget: Arc<ConnectionBudget>,
    held: AtomicUsize,
}

impl CallBytes {
    /// `is_complete`: whether the message that these bytes belong to has arrived as a whole.
    fn reserve(&self, bytes: usize, is_complete: bool) -> Result<(), ServerError> {
        let is_small = self.held.load(Ordering::Acquire) + bytes <= SMALL_REQUEST_BYTES;
        self.budget.reserve(bytes, is_small && is_complete)?;
        self.held.fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        self.budget.release(bytes);
    }
}

impl Drop for CallBytes {
    fn drop(&mut self) {
        self.budget.release(*self.held.get_mut());
    }
}

/// Where messages end in a stream of them.
#[derive(Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Bytes of the message that are still to come, once its prefix is complete.
    missing: usize,
    /// Bytes of the message that have come, with the prefix.
    begun: usize,
}

impl Messages {
    /// Reads the next bytes. [`Self::begun`] then belongs to the last message, and is 0 if that is complete.
    fn read(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                self.prefix[self.prefix_bytes] = data[0];
                self.prefix_bytes += 1;
                self.begun += 1;
                data = &data[1..];
                if self.prefix_bytes == PREFIX_BYTES {
                    let [_, length @ ..] = self.prefix;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                let count = self.missing.min(data.len());
                self.missing -= count;
                self.begun += count;
                data = &data[count..];
            }
            if self.prefix_bytes == PREFIX_BYTES && self.missing == 0 {
                (self.prefix_bytes, self.begun) = (0, 0);
            }
        }
    }
}

/// The body of a request, which reserves its bytes as they arrive.
pub(crate) struct RequestBody<B> {
    body: B,
    call: Arc<CallBytes>,
    /// For gRPC.
    messages: Option<Messages>,
    /// Whether it is a stream of any number of messages.
    is_stream: bool,
    /// Bytes of messages that the decoder handles before it asks for more.
    decoded: usize,
    /// The end of the window in which enough bytes must arrive. There is none until the body waits for bytes.
    window_end: Option<Pin<Box<Sleep>>>,
    window_bytes: usize,
    has_failed: bool,
}

impl<B> RequestBody<B> {
    /// The body of a request with this head.
    pub(crate) fn new(head: &Parts, body: B, call: Arc<CallBytes>) -> Self {
        let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_grpc = content_type.is_some_and(|found| found.starts_with(GRPC_CONTENT_TYPE));
        Self {
            body,
            call,
            messages: is_grpc.then(Messages::default),
            is_stream: is_grpc && REQUEST_STREAMS.contains(&head.uri.path()),
            decoded: 0,
            window_end: None,
            window_bytes: 0,
            has_failed: false,
        }
    }

    /// Reserves the bytes that have arrived. `is_end`: whether the body ends with them.
    fn receive(&mut self, data: &[u8], is_end: bool) -> Result<(), ServerError> {
        let begun_before = self.messages.as_ref().map_or(0, |messages| messages.begun);
        if let Some(messages) = &mut self.messages {
            messages.read(data);
        }
        let is_complete = is_end || self.messages.as_ref().is_some_and(|messages| messages.begun == 0);
        self.call.reserve(data.len(), is_complete)?;
        self.window_bytes += data.len();
        if let Some(messages) = self.messages.as_ref().filter(|_| self.is_stream) {
            self.decoded = begun_before + data.len() - messages.begun;
            // A stream may take its time, as long as bytes arrive.
            self.window_end = None;
        }
        Ok(())
    }

    /// Ready if too few bytes have arrived in the window.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_stream = self.is_stream;
        // Between its messages, a stream holds nothing.
        if is_stream && self.messages.as_ref().is_some_and(|messages| messages.begun == 0) {
            return Poll::Pending;
        }
        let window = self.window_end.get_or_insert_with(|| {
            self.window_bytes = 0;
            Box::pin(tokio::time::sleep(REQUEST_WINDOW))
        });
        while window.as_mut().poll(cx).is_ready() {
            if is_stream || self.window_bytes < MIN_REQUEST_BYTES_PER_WINDOW {
                return Poll::Ready(());
            }
            self.window_bytes = 0;
            window.as_mut().reset(Instant::now() + REQUEST_WINDOW);
        }
        Poll::Pending
    }

    fn fail(&mut self, error: ServerError) -> RequestBodyError {
        self.has_failed = true;
        let metrics = &self.call.budget.shared.metrics;
        match &error {
            ServerError::RequestTooSlow { .. } => metrics.slow_requests.inc(),
            _ => metrics.refused_requests.inc(),
        };
        RequestBodyError::Refused(error.into())
    }
}

/// Why a body ended before its end. tonic answers with the status that it finds in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// A limit of the server.
    #[error("{}", .0.message())]
    Refused(#[source] Status),
    /// The connection.
    #[error("{0}")]
    Connection(#[source] hyper::Error),
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let decoded = std::mem::take(&mut self.decoded);
        self.call.release(decoded);
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let is_end = self.body.is_end_stream();
                let received = frame.data_ref().map_or(Ok(()), |data| self.receive(data, is_end));
                Poll::Ready(Some(received.map(|()| frame).map_err(|error| self.fail(error))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(RequestBodyError::Connection(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_window(cx).map(|()| {
                let error = ServerError::RequestTooSlow { window: REQUEST_WINDOW };
                Some(Err(self.fail(error)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn connect() -> (Arc<RequestBudgets>, Arc<ConnectionBudget>) {
        let budgets = RequestBudgets::new(Arc::new(Metrics::new()));
        let connection = budgets.connect(Ipv4Addr::LOCALHOST.into());
        (budgets, connection)
    }

    #[test]
    fn large_requests_leave_room_for_small_ones_and_release_it_at_their_end() {
        let (budgets, connection) = connect();
        let large: Vec<_> = (0..MAX_CONNECTION_REQUEST_BYTES / (1 << 20)).map(|_| connection.begin_call()).collect();
        let refused = large.iter().filter(|call| call.reserve(1 << 20, false).is_err()).count();
        assert_eq!(refused, large.len() / PARTS);
        assert!(connection.begin_call().reserve(SMALL_REQUEST_BYTES, true).is_ok());
        drop(large);
        assert_eq!(budgets.server.used.load(Ordering::Acquire), 0);
        assert_eq!(connection.caller.used.load(Ordering::Acquire), 0);
        assert_eq!(budgets.metrics.request_bytes.get(), 0);
    }

    #[test]
    fn incomplete_small_requests_leave_the_same_room_as_large_ones() {
        let (_, connection) = connect();
        let calls: Vec<_> = (0..MAX_CONNECTION_REQUEST_BYTES / 1_024).map(|_| connection.begin_call()).collect();
        let refused = calls.iter().filter(|call| call.reserve(1_024, false).is_err()).count();
        assert_eq!(refused, calls.len() / PARTS);
        let (small, large) = (connection.begin_call(), connection.begin_call());
        assert!(small.reserve(SMALL_REQUEST_BYTES, true).is_ok());
        assert!(large.reserve(SMALL_REQUEST_BYTES + 1, true).is_err());
    }

    #[test]
    fn connections_of_one_address_share_a_budget_and_other_addresses_are_not_affected() {
        let (budgets, first) = connect();
        let connections: Vec<_> = (0..4).map(|_| budgets.connect(Ipv4Addr::LOCALHOST.into())).collect();
        let calls: Vec<_> = connections.iter().flat_map(|c| (0..20).map(|_| c.begin_call())).collect();
        let accepted = calls.iter().filter(|call| call.reserve(1 << 20, true).is_ok()).count();
        assert_eq!(accepted, (MAX_CALLER_REQUEST_BYTES - MAX_CALLER_REQUEST_BYTES / PARTS) >> 20);
        let other = budgets.connect(Ipv4Addr::new(10, 0, 0, 1).into());
        assert!(other.begin_call().reserve(1 << 20, true).is_ok());
        drop((first, connections, calls, other));
        assert!(budgets.callers.lock().expect("no test panics").is_empty(), "unused budgets are forgotten");
    }

    #[test]
    fn bytes_belong_to_the_message_that_is_not_complete_however_they_are_split() {
        let stream = [&[0, 0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 1, 2]].concat();
        for size in 1..=stream.len() {
            let mut messages = Messages::default();
            for part in stream.chunks(size) {
                messages.read(part);
            }
            assert_eq!((messages.begun, messages.missing), (7, 7), "in parts of {size}");
        }
    }
}
