//! The baseline of the gRPC benches: a tonic service with the server's settings and messages that does no work. The
//! difference to the server is the cost of Inroad itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use inroad_server::ServerConfig;
use inroad_server::config::{MAX_MESSAGE_BYTES, MAX_RESPONSE_BYTES};
use inroad_wire::v1::assignment_service_server::{AssignmentService, AssignmentServiceServer};
use inroad_wire::v1::{
    self, AssignRequest, AssignResponse, BatchAssignRequest, BatchAssignResponse, WatchSnapshotsRequest,
    WatchSnapshotsResponse,
};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::BenchResult;

/// Returns prepared answers, whatever the request.
struct NoOpService {
    answer: AssignResponse,
    answers: BatchAssignResponse,
    messages: broadcast::Sender<WatchSnapshotsResponse>,
}

#[tonic::async_trait]
impl AssignmentService for NoOpService {
    async fn assign(&self, _: Request<AssignRequest>) -> Result<Response<AssignResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn batch_assign(&self, _: Request<BatchAssignRequest>) -> Result<Response<BatchAssignResponse>, Status> {
        Ok(Response::new(self.answers.clone()))
    }

    type WatchSnapshotsStream = Pin<Box<dyn Stream<Item = Result<WatchSnapshotsResponse, Status>> + Send>>;

    async fn watch_snapshots(
        &self,
        _: Request<WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let messages = BroadcastStream::new(self.messages.subscribe());
        Ok(Response::new(Box::pin(messages.map(|item| item.map_err(|e| Status::internal(e.to_string()))))))
    }

    async fn report_client(
        &self,
        _: Request<v1::ReportClientRequest>,
    ) -> Result<Response<v1::ReportClientResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_clients(
        &self,
        _: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_reach(&self, _: Request<v1::GetReachRequest>) -> Result<Response<v1::GetReachResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A running baseline service.
pub(crate) struct Baseline {
    /// Its address.
    pub(crate) address: String,
    /// Sends a message to every open stream.
    pub(crate) messages: broadcast::Sender<WatchSnapshotsResponse>,
}

impl Baseline {
    /// Starts the service; it runs until the process ends.
    pub(crate) async fn start(answer: AssignResponse, answers: BatchAssignResponse) -> BenchResult<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let (messages, _) = broadcast::channel(16);
        let service = AssignmentServiceServer::new(NoOpService { answer, answers, messages: messages.clone() })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES);
        // The same settings as in `inroad_server::Server`.
        let server = tonic::transport::Server::builder()
            .accept_http1(true)
            .timeout(ServerConfig::default().request_timeout)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .max_concurrent_streams(Some(1024))
            .add_routes(Routes::new(service).prepare());
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
        Ok(Self { address, messages })
    }
}
