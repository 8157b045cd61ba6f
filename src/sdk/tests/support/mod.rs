//! A scripted server for the tests. It sends the snapshots that a test provides, and answers batches of events as the
//! test defines.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inroad_assignment::allocation::{Allocation, Arm, Bucket};
use inroad_assignment::experiment::{Kills, Status as ExperimentStatus};
use inroad_assignment::served::{ServedExperiment, ServedParts, ServedRevision, ServedVariation};
use inroad_assignment::{Context, ExperimentKey, Payload, Point, Salt, Timestamp, VariationKey};
use inroad_sdk::{Client, ClientBuilder};
use inroad_wire::v1::assignment_service_server::{AssignmentService, AssignmentServiceServer};
use inroad_wire::v1::event_service_server::{EventService, EventServiceServer};
use inroad_wire::{snapshot_to_wire, timestamp_to_wire, v1};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// How long a test waits for something that must happen.
pub const TIMEOUT: Duration = Duration::from_secs(10);

type BatchAnswer = Box<dyn FnMut(&v1::RecordRequest) -> Result<v1::RecordResponse, Status> + Send>;

/// The state that the services share with the test.
pub struct Script {
    /// The first message of each new stream.
    pub first_message: Mutex<Option<v1::WatchSnapshotsResponse>>,
    /// Messages for every open stream; an error ends the stream.
    pub live_messages: broadcast::Sender<Result<v1::WatchSnapshotsResponse, Status>>,
    /// The requests that opened streams, newest first.
    pub watch_requests: watch::Sender<Vec<v1::WatchSnapshotsRequest>>,
    /// All batches received, accepted or not.
    pub batches: watch::Sender<Vec<v1::RecordRequest>>,
    /// The authorization header of the last stream.
    pub authorization: Mutex<Option<String>>,
    /// The client reports received, newest first.
    pub reports: watch::Sender<Vec<v1::ReportClientRequest>>,
    /// The error that client reports are answered with, if any.
    pub report_error: Mutex<Option<Status>>,
    /// The answers to the next batches, in order. Later batches are accepted.
    pub batch_answers: Mutex<VecDeque<BatchAnswer>>,
}

#[derive(Clone)]
struct Services(Arc<Script>);

#[tonic::async_trait]
impl AssignmentService for Services {
    type WatchSnapshotsStream = ReceiverStream<Result<v1::WatchSnapshotsResponse, Status>>;

    async fn assign(&self, _: Request<v1::AssignRequest>) -> Result<Response<v1::AssignResponse>, Status> {
        Err(Status::unimplemented("not part of this script"))
    }

    async fn batch_assign(
        &self,
        _: Request<v1::BatchAssignRequest>,
    ) -> Result<Response<v1::BatchAssignResponse>, Status> {
        Err(Status::unimplemented("not part of this script"))
    }

    async fn watch_snapshots(
        &self,
        request: Request<v1::WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|v| v.to_str().ok().map(str::to_owned));
        *self.0.authorization.lock().unwrap() = authorization;
        let mut live = self.0.live_messages.subscribe();
        let first = self.0.first_message.lock().unwrap().clone();
        self.0.watch_requests.send_modify(|all| all.insert(0, request.into_inner()));
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            if let Some(first) = first {
                let _ = sender.send(Ok(first)).await;
            }
            loop {
                tokio::select! {
                    next = live.recv() => match next {
                        Ok(Ok(message)) => { let _ = sender.send(Ok(message)).await; }
                        Ok(Err(status)) => { let _ = sender.send(Err(status)).await; return; }
                        Err(_) => return,
                    },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report_client(
        &self,
        request: Request<v1::ReportClientRequest>,
    ) -> Result<Response<v1::ReportClientResponse>, Status> {
        self.0.reports.send_modify(|all| all.insert(0, request.into_inner()));
        match self.0.report_error.lock().unwrap().clone() {
            Some(status) => Err(status),
            None => Ok(Response::new(v1::ReportClientResponse::default())),
        }
    }

    async fn list_clients(
        &self,
        _: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        Err(Status::unimplemented("not part of this script"))
    }

    async fn get_reach(&self, _: Request<v1::GetReachRequest>) -> Result<Response<v1::GetReachResponse>, Status> {
        Err(Status::unimplemented("not part of this script"))
    }
}

#[tonic::async_trait]
impl EventService for Services {
    async fn record(&self, request: Request<v1::RecordRequest>) -> Result<Response<v1::RecordResponse>, Status> {
        let batch = request.into_inner();
        let answer = self.0.batch_answers.lock().unwrap().pop_front();
        let accepted = v1::RecordResponse {
            accepted: u32::try_from(batch.exposures.len() + batch.outcomes.len()).unwrap(),
            ..Default::default()
        };
        let result = answer.map_or(Ok(accepted), |mut answer| answer(&batch));
        self.0.batches.send_modify(|all| all.push(batch));
        result.map(Response::new)
    }

    async fn forget_unit(&self, _: Request<v1::ForgetUnitRequest>) -> Result<Response<v1::ForgetUnitResponse>, Status> {
        Err(Status::unimplemented("not part of this script"))
    }
}

/// A server that listens on a local port.
pub struct ScriptedServer {
    pub script: Arc<Script>,
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl ScriptedServer {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts on a given address.
    pub async fn at(address: SocketAddr) -> Self {
        let script = Arc::new(Script {
            first_message: Mutex::default(),
            live_messages: broadcast::Sender::new(16),
            watch_requests: watch::Sender::default(),
            batches: watch::Sender::default(),
            reports: watch::Sender::default(),
            report_error: Mutex::default(),
            authorization: Mutex::default(),
            batch_answers: Mutex::default(),
        });
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let services = Services(Arc::clone(&script));
        let server = Server::builder()
            .add_service(AssignmentServiceServer::new(services.clone()))
            .add_service(EventServiceServer::new(services));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { script, address, task }
    }

    /// Starts on a free port, with a first message for each stream.
    pub async fn with_first_message(message: v1::WatchSnapshotsResponse) -> Self {
        let server = Self::start().await;
        server.set_first_message(message);
        server
    }

    pub fn set_first_message(&self, message: v1::WatchSnapshotsResponse) {
        *self.script.first_message.lock().unwrap() = Some(message);
    }

    pub fn send(&self, message: v1::WatchSnapshotsResponse) {
        let _ = self.script.live_messages.send(Ok(message));
    }

    /// Ends every open stream with an error.
    pub fn break_streams(&self) {
        let _ = self.script.live_messages.send(Err(Status::unavailable("shutting down")));
    }

    /// Sets the answer to the next batch that has none yet.
    pub fn answer_next_batch(
        &self,
        answer: impl FnMut(&v1::RecordRequest) -> Result<v1::RecordResponse, Status> + Send + 'static,
    ) {
        self.script.batch_answers.lock().unwrap().push_back(Box::new(answer));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A builder with short delays, so that tests are fast.
    pub fn builder(&self) -> ClientBuilder {
        fast_builder(&self.url())
    }

    /// A client that has received its first snapshot.
    pub async fn client(&self) -> Client {
        let client = self.builder().build().unwrap();
        assert!(client.ready(TIMEOUT).await, "{:?}", client.status());
        client
    }

    /// Waits until at least `count` batches have arrived, and returns all of them.
    pub async fn wait_for_batches(&self, count: usize) -> Vec<v1::RecordRequest> {
        let mut batches = self.script.batches.subscribe();
        let batches = tokio::time::timeout(TIMEOUT, batches.wait_for(|all| all.len() >= count)).await;
        batches.expect("the batches did not arrive").unwrap().clone()
    }

    /// Waits until at least `count` streams were opened, and returns their requests, newest first.
    pub async fn wait_for_streams(&self, count: usize) -> Vec<v1::WatchSnapshotsRequest> {
        let mut requests = self.script.watch_requests.subscribe();
        let requests = tokio::time::timeout(TIMEOUT, requests.wait_for(|all| all.len() >= count)).await;
        requests.expect("the streams were not opened").unwrap().clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn fast_builder(url: &str) -> ClientBuilder {
    Client::builder(url)
        .backoff(Duration::from_millis(5), Duration::from_millis(40))
        .flush_interval(Duration::from_millis(20))
        .connect_timeout(Duration::from_millis(500))
}

/// Waits until the client's snapshot has this version.
pub async fn wait_for_version(client: &Client, version: u64) {
    let mut changes = client.subscribe();
    let arrived = tokio::time::timeout(TIMEOUT, changes.wait_for(|v| *v == version)).await;
    arrived.unwrap_or_else(|_| panic!("version {version} did not arrive: {:?}", client.status())).unwrap();
}

/// Waits until a condition is true, by polling.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "this did not happen in time: {what}");
}

/// An experiment with control and one variation, `green`, which owns the line from `starts[r]` on at the revision with
/// index `r`.
#[derive(Clone)]
pub struct TestExperiment {
    pub key: &'static str,
    pub version: u64,
    pub generation: u32,
    pub starts: Vec<u64>,
    pub effective: Vec<Timestamp>,
    pub kills: Kills,
    pub status: ExperimentStatus,
    pub manual_now: Option<Timestamp>,
    pub unit: &'static str,
    pub first_revision: u32,
}

impl TestExperiment {
    /// Control and the variation own half of the line each.
    pub fn new(key: &'static str, version: u64) -> Self {
        Self {
            key,
            version,
            generation: 1,
            starts: vec![1 << 63],
            effective: vec![Timestamp::from_micros(0)],
            kills: Kills::default(),
            status: ExperimentStatus::Running,
            manual_now: None,
            unit: "targetingKey",
            first_revision: 1,
        }
    }

    /// The variation owns the whole line except one point.
    pub fn all_in_variation(key: &'static str, version: u64) -> Self {
        Self { starts: vec![1], ..Self::new(key, version) }
    }

    pub fn wire(&self) -> v1::ExperimentSnapshot {
        snapshot_to_wire(&self.served())
    }

    fn served(&self) -> ServedExperiment {
        let variation = |key: &str, value: &str| ServedVariation {
            key: VariationKey::parse(key).unwrap(),
            payload: Payload::String(value.to_owned()),
        };
        let one = Arm::new(1).unwrap();
        let allocation = |start: &u64| {
            let buckets = [(0, Arm::CONTROL), (*start, one)];
            Arc::new(Allocation::new(buckets.map(|(s, owner)| Bucket { start: Point::new(s), owner })).unwrap())
        };
        let revisions = self.starts.iter().zip(&self.effective).zip(self.first_revision..);
        let revision = |((start, at), number): ((&u64, &Timestamp), u32)| ServedRevision {
            number,
            effective_at: *at,
            allocation: allocation(start),
        };
        ServedExperiment::new(ServedParts {
            key: ExperimentKey::parse(self.key).unwrap(),
            version: self.version,
            status: self.status,
            generation: self.generation,
            salt: Some(Salt::parse("salt").unwrap()),
            unit: self.unit.to_owned(),
            audience: None,
            overrides: Vec::new(),
            variations: vec![variation("control", "blue"), variation("green", "green")],
            kills: self.kills,
            revisions: revisions.map(revision).collect(),
            manual_now: self.manual_now,
            shipped_within_audience: false,
        })
        .unwrap()
    }
}

/// A full snapshot.
pub fn full_snapshot(version: u64, experiments: &[v1::ExperimentSnapshot]) -> v1::WatchSnapshotsResponse {
    v1::WatchSnapshotsResponse { full: true, ..snapshot_changes(version, experiments) }
}

/// Changes to the previous snapshot.
pub fn snapshot_changes(version: u64, experiments: &[v1::ExperimentSnapshot]) -> v1::WatchSnapshotsResponse {
    v1::WatchSnapshotsResponse {
        version,
        store_id: "store-a".to_owned(),
        full: false,
        experiments: experiments.to_vec(),
        removed: Vec::new(),
        server_time: Some(timestamp_to_wire(wall_clock_now())),
        ..v1::WatchSnapshotsResponse::default()
    }
}

/// The time of this machine's wall clock.
pub fn wall_clock_now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

pub fn user() -> Context {
    Context::new("user-1")
}

/// An address on which no server listens.
pub async fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
