//! The method `AssignmentService.WatchSnapshots` over HTTP/2. It is not served by the generated code, which copies every
//! message for every stream: here a message is a prefix of its own and bytes that all streams share. To clients it is the
//! same method.
//!
//! ```text
//!  gRPC message = length ─ own fields ─ experiment ─ experiment ─ … ─ experiment
//!                 └──── copied ────┘   └─ shared, or copied into a chunk if small ─┘
//! ```

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::routing::post;
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http_body::Frame;
use http_body_util::StreamBody;
use inroad_wire::v1::{WatchSnapshotsRequest, WatchSnapshotsResponse};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, Streaming};
use tonic::transport::server::TcpConnectInfo;

use super::clients;
use super::snapshot_stream::{SnapshotMessage, StreamGuard, Watcher};
use crate::config::{MAX_MESSAGE_BYTES, SNAPSHOT_CHUNK_BYTES};
use crate::shared::SharedState;

/// The route of the method.
pub(crate) fn routes(shared: Arc<SharedState>) -> Router {
    let route = "/inroad.v1.AssignmentService/WatchSnapshots";
    Router::new().route(route, post(answer)).with_state(SnapshotStreams::new(shared))
}

/// The messages of a stream for a caller within the process.
pub(crate) type MessageStream = Pin<Box<dyn Stream<Item = Result<WatchSnapshotsResponse, Status>> + Send>>;

/// Opens streams, up to the limit.
#[derive(Clone)]
pub(super) struct SnapshotStreams {
    shared: Arc<SharedState>,
    open: Arc<AtomicUsize>,
}

async fn answer(State(streams): State<SnapshotStreams>, request: Request) -> Response<tonic::body::Body> {
    let address = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let decoder = tonic_prost::ProstCodec::<WatchSnapshotsResponse, WatchSnapshotsRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_MESSAGE_BYTES));
    let opened = match messages.message().await {
        Ok(Some(request)) => streams.open(request, address),
        Ok(None) => Err(Status::invalid_argument("the request has no message: send one")),
        Err(status) => Err(status),
    };
    match opened {
        Ok(watcher) => {
            let mut response = Response::new(tonic::body::Body::new(StreamBody::new(frames(watcher))));
            let content_type = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response
        }
        Err(status) => status.into_http(),
    }
}

impl SnapshotStreams {
    pub(super) fn new(shared: Arc<SharedState>) -> Self {
        Self { shared, open: Arc::default() }
    }

    pub(super) fn open_messages(
        &self,
        request: WatchSnapshotsRequest,
        address: Option<SocketAddr>,
    ) -> Result<MessageStream, Status> {
        let watcher = self.open(request, address)?;
        Ok(Box::pin(futures::stream::unfold(watcher, |mut watcher| async move {
            let message = watcher.next().await?;
            Some((message.decode(), watcher))
        })))
    }

    fn open(&self, request: WatchSnapshotsRequest, address: Option<SocketAddr>) -> Result<Watcher, Status> {
        let identity = clients::client_identity(&request, address)?;
        let guard = StreamGuard::open(&self.shared, &self.open)?;
        tracing::debug!(
            client = request.client_name,
            resume = request.resume_version,
            "a client opened a snapshot stream"
        );
        let store = &self.shared.store;
        // A client of an earlier release knows no lineage.
        let is_continued = request.store_id == store.store_id()
            && (request.lineage_id.is_empty() || store.continues(&request.lineage_id, request.resume_version));
        let sent_version = if is_continued { request.resume_version } else { 0 };
        let client = self.shared.clients.open_stream(identity);
        Ok(Watcher::new(Arc::clone(&self.shared), sent_version, client, guard))
    }
}

/// The messages of a stream as frames of HTTP/2. Each is made when the connection has room for it.
fn frames(watcher: Watcher) -> impl Stream<Item = Result<Frame<Bytes>, Status>> {
    // The watcher, and the message that it is in; none behind the last message.
    futures::stream::unfold(Some((watcher, None)), |place| async {
        let (mut watcher, within) = place?;
        let mut chunks = match within {
            Some(chunks) => chunks,
            None => match watcher.next().await {
                Some(message) => MessageChunks::new(message),
                None => return Some((trailers(), None)),
            },
        };
        let chunk = chunks.next_chunk();
        let within = (!chunks.is_empty()).then_some(chunks);
        Some((Ok(Frame::data(chunk)), Some((watcher, within))))
    })
}

fn trailers() -> Result<Frame<Bytes>, Status> {
    let mut trailers = axum::http::HeaderMap::new();
    Status::ok("").add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// The rest of a message.
struct MessageChunks {
    prefix: Option<Bytes>,
    message: SnapshotMessage,
}

impl MessageChunks {
    fn new(message: SnapshotMessage) -> Self {
        let shared: usize = message.experiments[message.range.clone()].iter().map(|e| e.field().len()).sum();
        let own = message.fields.encoded_len();
        let mut prefix = BytesMut::with_capacity(5 + own);
        // Not compressed, then the length.
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(own + shared).unwrap_or(u32::MAX));
        prefix.put_slice(&message.fields.encode_to_vec());
        Self { prefix: Some(prefix.freeze()), message }
    }

    fn is_empty(&self) -> bool {
        self.prefix.is_none() && self.message.range.is_empty()
    }

    /// The next experiment itself if it is large, or a copy of several small pieces.
    fn next_chunk(&mut self) -> Bytes {
        let mut chunk = self.prefix.take().map(BytesMut::from).unwrap_or_default();
        let experiments = &self.message.experiments[self.message.range.clone()];
        for field in experiments.iter().map(|experiment| experiment.field()) {
            let is_chunk_of_its_own = chunk.is_empty() && field.len() >= SNAPSHOT_CHUNK_BYTES / 2;
            if is_chunk_of_its_own {
                self.message.range.start += 1;
                return field.clone();
            }
            if !chunk.is_empty() && chunk.len() + field.len() > SNAPSHOT_CHUNK_BYTES {
                break;
            }
            chunk.extend_from_slice(field);
            self.message.range.start += 1;
        }
        chunk.freeze()
    }
}
