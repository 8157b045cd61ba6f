//! A server for the tests: the two services, scripted. It sends the snapshots that a test hands it, and answers batches
//! of events as the test says.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inroad_assignment::allocation::{Allocation, Arm, Bucket};
use inroad_assignment::experiment::{Kills, Status as Life};
use inroad_assignment::served::{ServedExperiment, ServedParts, ServedRevision, ServedVariation};
use inroad_assignment::{Context, ExperimentKey, Payload, Point, Salt, Timestamp, VariationKey};
use inroad_sdk::{Client, ClientBuilder};
use inroad_wire::v1::assignment_service_server::{AssignmentService, AssignmentServiceServer};
use inroad_wire::v1::event_service_server::{EventService, EventServiceServer};
use inroad_wire::{served_to_wire, timestamp_to_wire, v1};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// The longest that any test waits for what must come.
pub const SOON: Duration = Duration::from_secs(10);

type Answer = Box<dyn FnMut(&v1::RecordRequest) -> Result<v1::RecordResponse, Status> + Send>;

/// What the services share with the test.
pub struct Script {
    /// What a new stream is sent first.
    pub first: Mutex<Option<v1::WatchSnapshotsResponse>>,
    /// Sent to every open stream; an error ends it.
    pub live: broadcast::Sender<Result<v1::WatchSnapshotsResponse, Status>>,
    /// How the streams were asked for, the last in front.
    pub watched: watch::Sender<Vec<v1::WatchSnapshotsRequest>>,
    /// The batches that came, answered or not.
    pub batches: watch::Sender<Vec<v1::RecordRequest>>,
    /// The authorization that came with the last request.
    pub authorization: Mutex<Option<String>>,
    /// The reports that came, the last in front.
    pub reports: watch::Sender<Vec<v1::ReportClientRequest>>,
    /// What reports are answered with; thanks, if nothing.
    pub refuse_reports: Mutex<Option<Status>>,
    /// How batches are answered, in turn; then all are accepted.
    pub answers: Mutex<VecDeque<Answer>>,
}

#[derive(Clone)]
struct Services(Arc<Script>);

#[tonic::async_trait]
impl AssignmentService for Services {
    type WatchSnapshotsStream = ReceiverStream<Result<v1::WatchSnapshotsResponse, Status>>;

    async fn assign(&self, _: Request<v1::AssignRequest>) -> Result<Response<v1::AssignResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn batch_assign(
        &self,
        _: Request<v1::BatchAssignRequest>,
    ) -> Result<Response<v1::BatchAssignResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn watch_snapshots(
        &self,
        request: Request<v1::WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|v| v.to_str().ok().map(str::to_owned));
        *self.0.authorization.lock().unwrap() = authorization;
        let mut live = self.0.live.subscribe();
        let first = self.0.first.lock().unwrap().clone();
        self.0.watched.send_modify(|all| all.insert(0, request.into_inner()));
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
        match self.0.refuse_reports.lock().unwrap().clone() {
            Some(status) => Err(status),
            None => Ok(Response::new(v1::ReportClientResponse::default())),
        }
    }

    async fn list_clients(
        &self,
        _: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn get_reach(&self, _: Request<v1::GetReachRequest>) -> Result<Response<v1::GetReachResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}

#[tonic::async_trait]
impl EventService for Services {
    async fn record(&self, request: Request<v1::RecordRequest>) -> Result<Response<v1::RecordResponse>, Status> {
        let batch = request.into_inner();
        let answer = self.0.answers.lock().unwrap().pop_front();
        let accepted = v1::RecordResponse {
            accepted: u32::try_from(batch.exposures.len() + batch.outcomes.len()).unwrap(),
            ..Default::default()
        };
        let result = answer.map_or(Ok(accepted), |mut answer| answer(&batch));
        self.0.batches.send_modify(|all| all.push(batch));
        result.map(Response::new)
    }

    async fn forget_unit(&self, _: Request<v1::ForgetUnitRequest>) -> Result<Response<v1::ForgetUnitResponse>, Status> {
        Err(Status::unimplemented("no client forgets"))
    }
}

/// A server that listens.
pub struct Scripted {
    pub script: Arc<Script>,
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    /// On a port of its own.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    /// On a given port.
    pub async fn at(address: SocketAddr) -> Self {
        let script = Arc::new(Script {
            first: Mutex::default(),
            live: broadcast::Sender::new(16),
            watched: watch::Sender::default(),
            batches: watch::Sender::default(),
            reports: watch::Sender::default(),
            refuse_reports: Mutex::default(),
            authorization: Mutex::default(),
            answers: Mutex::default(),
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

    /// With something to send first.
    pub async fn with(first: v1::WatchSnapshotsResponse) -> Self {
        let server = Self::start().await;
        server.first(first);
        server
    }

    pub fn first(&self, message: v1::WatchSnapshotsResponse) {
        *self.script.first.lock().unwrap() = Some(message);
    }

    pub fn send(&self, message: v1::WatchSnapshotsResponse) {
        let _ = self.script.live.send(Ok(message));
    }

    /// Breaks every open stream.
    pub fn interrupt(&self) {
        let _ = self.script.live.send(Err(Status::unavailable("going away")));
    }

    pub fn answer(
        &self,
        answer: impl FnMut(&v1::RecordRequest) -> Result<v1::RecordResponse, Status> + Send + 'static,
    ) {
        self.script.answers.lock().unwrap().push_back(Box::new(answer));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A builder that does not make tests wait.
    pub fn builder(&self) -> ClientBuilder {
        quick(&self.url())
    }

    /// A client with a first snapshot.
    pub async fn client(&self) -> Client {
        let client = self.builder().build().unwrap();
        assert!(client.ready(SOON).await, "{:?}", client.status());
        client
    }

    pub async fn batches(&self, count: usize) -> Vec<v1::RecordRequest> {
        let mut batches = self.script.batches.subscribe();
        let batches = tokio::time::timeout(SOON, batches.wait_for(|all| all.len() >= count)).await;
        batches.expect("the batches did not come").unwrap().clone()
    }

    pub async fn watched(&self, count: usize) -> Vec<v1::WatchSnapshotsRequest> {
        let mut watched = self.script.watched.subscribe();
        let watched = tokio::time::timeout(SOON, watched.wait_for(|all| all.len() >= count)).await;
        watched.expect("the stream was not opened").unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn quick(url: &str) -> ClientBuilder {
    Client::builder(url)
        .backoff(Duration::from_millis(5), Duration::from_millis(40))
        .flush_interval(Duration::from_millis(20))
        .connect_timeout(Duration::from_millis(500))
}

/// Waits until the client's snapshot has this version.
pub async fn version(client: &Client, version: u64) {
    let mut changes = client.subscribe();
    let came = tokio::time::timeout(SOON, changes.wait_for(|v| *v == version)).await;
    came.unwrap_or_else(|_| panic!("version {version} did not come: {:?}", client.status())).unwrap();
}

/// Waits for something that no channel tells.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came: {what}");
}

/// An experiment as a test wants it: control, and a variation that owns the line from `starts[r]` on at revision `r + 1`.
#[derive(Clone)]
pub struct Made {
    pub key: &'static str,
    pub version: u64,
    pub generation: u32,
    pub starts: Vec<u64>,
    pub effective: Vec<Timestamp>,
    pub kills: Kills,
    pub life: Life,
    pub manual_now: Option<Timestamp>,
    pub unit: &'static str,
    pub first_revision: u32,
}

impl Made {
    /// Half of the line each.
    pub fn new(key: &'static str, version: u64) -> Self {
        Self {
            key,
            version,
            generation: 1,
            starts: vec![1 << 63],
            effective: vec![Timestamp::from_micros(0)],
            kills: Kills::default(),
            life: Life::Running,
            manual_now: None,
            unit: "targetingKey",
            first_revision: 1,
        }
    }

    /// Everybody gets the variation, but for one point.
    pub fn everybody(key: &'static str, version: u64) -> Self {
        Self { starts: vec![1], ..Self::new(key, version) }
    }

    pub fn wire(&self) -> v1::ExperimentSnapshot {
        served_to_wire(&self.served())
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
            status: self.life,
            generation: self.generation,
            salt: Some(Salt::parse("salt").unwrap()),
            unit: self.unit.to_owned(),
            audience: None,
            overrides: Vec::new(),
            variations: vec![variation("control", "blue"), variation("green", "green")],
            kills: self.kills,
            revisions: revisions.map(revision).collect(),
            manual_now: self.manual_now,
        })
        .unwrap()
    }
}

/// A whole snapshot.
pub fn full(version: u64, experiments: &[v1::ExperimentSnapshot]) -> v1::WatchSnapshotsResponse {
    v1::WatchSnapshotsResponse { full: true, ..change(version, experiments) }
}

/// A change.
pub fn change(version: u64, experiments: &[v1::ExperimentSnapshot]) -> v1::WatchSnapshotsResponse {
    v1::WatchSnapshotsResponse {
        version,
        store_id: "store-a".to_owned(),
        full: false,
        experiments: experiments.to_vec(),
        removed: Vec::new(),
        server_time: Some(timestamp_to_wire(wall())),
    }
}

/// This machine's wall clock.
pub fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

pub fn user() -> Context {
    Context::new("user-1")
}

/// A port where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
