//! `AssignmentService`: answers assignments from the snapshot in memory, and streams that snapshot to clients. Kills
//! reach clients here: the stream sends every change as soon as it is published (I8).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::Stream;
use inroad_assignment::{Context, ServedExperiment, Timestamp};
use inroad_store::Event;
use inroad_wire::assignment::assignment_to_wire;
use inroad_wire::context::{context_from_struct, context_to_struct};
use inroad_wire::snapshot::snapshot_to_wire;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::assignment_service_server::AssignmentService;
use inroad_wire::v1::{
    AssignRequest, AssignResponse, BatchAssignRequest, BatchAssignResponse, ExposureMode, GetReachRequest,
    GetReachResponse, ListClientsRequest, ListClientsResponse, ReportClientRequest, ReportClientResponse,
    WatchSnapshotsRequest, WatchSnapshotsResponse,
};
use tonic::{Request, Response, Status};

use super::clients;
use crate::catalogue::CatalogueState;
use crate::clients::StreamHandle;
use crate::config::{HEARTBEAT_INTERVAL, MAX_BATCH_ASSIGN};
use crate::error::ServerError;
use crate::ingest::served_exposure;
use crate::shared::SharedState;

/// The implementation of `AssignmentService`.
pub struct AssignmentHandler {
    shared: Arc<SharedState>,
    streams: Arc<AtomicUsize>,
}

/// An answer that may have to wait for its exposure to be on disk.
struct PendingAnswer {
    response: AssignResponse,
    /// The exposure to write before the answer is sent.
    durable: Option<(inroad_assignment::Digest, inroad_store::ExposureEvent)>,
}

impl AssignmentHandler {
    /// The service over the shared state.
    pub fn new(shared: Arc<SharedState>) -> Self {
        Self { shared, streams: Arc::default() }
    }

    #[allow(clippy::result_large_err)]
    fn answer(&self, state: &CatalogueState, request: AssignRequest, now: Timestamp) -> Result<PendingAnswer, Status> {
        let context = context_from_struct(request.context).map_err(ServerError::from)?;
        let assignment = state.snapshot.assign(&request.experiment, &context, now);
        let mut response = assignment_to_wire(&assignment);
        self.shared.metrics.assignments.inc();
        let served = state.snapshot.get(&request.experiment);
        if let Some(served) = served {
            self.shared.recent_contexts.record(served, &context, now);
        }
        let mode = ExposureMode::try_from(request.exposure).unwrap_or(ExposureMode::Unspecified);
        let (true, Some(digest), Some(served)) = (assignment.records_exposure, assignment.digest, served) else {
            return Ok(PendingAnswer { response, durable: None });
        };
        if mode == ExposureMode::None {
            return Ok(PendingAnswer { response, durable: None });
        }
        let is_recorded = match mode {
            ExposureMode::Durable => self.shared.exposures.is_on_disk(digest, assignment.arm),
            _ => self.shared.exposures.already_queued(digest, assignment.arm),
        };
        if is_recorded {
            response.exposure_recorded = true;
            return Ok(PendingAnswer { response, durable: None });
        }
        let Some(event) = exposure_event(served, &context, &assignment, now) else {
            return Ok(PendingAnswer { response, durable: None });
        };
        if mode == ExposureMode::Durable {
            return Ok(PendingAnswer { response, durable: Some((digest, event)) });
        }
        response.exposure_recorded = self.shared.exposures.enqueue(digest, event);
        if !response.exposure_recorded {
            self.shared.metrics.unqueued_exposures.inc();
        }
        Ok(PendingAnswer { response, durable: None })
    }

    /// Writes the exposures of these answers to disk in one group, then returns the answers.
    async fn record_and_respond(
        &self,
        mut answers: Vec<PendingAnswer>,
        now: Timestamp,
    ) -> Result<Vec<AssignResponse>, Status> {
        let durable: Vec<_> =
            answers.iter_mut().filter_map(|answer| answer.durable.take().map(|d| (d, answer))).collect();
        if durable.is_empty() {
            return Ok(answers.into_iter().map(|answer| answer.response).collect());
        }
        self.shared.check_backlog()?;
        let written: Vec<_> = durable.iter().map(|((digest, event), _)| (*digest, event.arm)).collect();
        let mut events = Vec::with_capacity(durable.len());
        for ((_, event), answer) in durable {
            events.push(Event::Exposure(event));
            answer.response.exposure_recorded = true;
        }
        let count = events.len() as u64;
        if let Err(error) = self.shared.store.append(now, events).await {
            return Err(ServerError::from(error).into());
        }
        for (digest, arm) in written {
            self.shared.exposures.mark_on_disk(digest, arm);
        }
        self.shared.metrics.accepted_exposures.inc_by(count);
        self.shared.fold.wake();
        Ok(answers.into_iter().map(|answer| answer.response).collect())
    }
}

/// The exposure event of an assignment; none if the context names no unit.
fn exposure_event(
    served: &ServedExperiment,
    context: &Context,
    assignment: &inroad_assignment::Assignment<'_>,
    wall_now: Timestamp,
) -> Option<inroad_store::ExposureEvent> {
    let unit = served.unit_key(context)?;
    let now = served.parts().manual_now.unwrap_or(wall_now);
    Some(served_exposure(served.parts(), &unit, assignment, now, context_to_struct(context)))
}

#[tonic::async_trait]
impl AssignmentService for AssignmentHandler {
    async fn assign(&self, request: Request<AssignRequest>) -> Result<Response<AssignResponse>, Status> {
        let now = self.shared.clock.now();
        let answer = {
            let state = self.shared.catalogue.peek();
            self.answer(&state, request.into_inner(), now)?
        };
        if answer.durable.is_none() {
            return Ok(Response::new(answer.response));
        }
        let mut responses = self.record_and_respond(vec![answer], now).await?;
        Ok(Response::new(responses.pop().unwrap_or_default()))
    }

    async fn batch_assign(
        &self,
        request: Request<BatchAssignRequest>,
    ) -> Result<Response<BatchAssignResponse>, Status> {
        let requests = request.into_inner().requests;
        if requests.len() > MAX_BATCH_ASSIGN {
            let message =
                format!("{} requests are over the limit of {MAX_BATCH_ASSIGN}: split the batch", requests.len());
            return Err(ServerError::Invalid { field: "requests", message }.into());
        }
        let now = self.shared.clock.now();
        let answers = {
            let state = self.shared.catalogue.peek();
            requests.into_iter().map(|request| self.answer(&state, request, now)).collect::<Result<Vec<_>, _>>()?
        };
        Ok(Response::new(BatchAssignResponse { responses: self.record_and_respond(answers, now).await? }))
    }

    type WatchSnapshotsStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<WatchSnapshotsResponse, Status>> + Send + 'static>>;

    async fn watch_snapshots(
        &self,
        request: Request<WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let address = request.remote_addr();
        let request = request.into_inner();
        let identity = clients::client_identity(&request, address)?;
        let guard = StreamGuard::open(&self.shared, &self.streams)?;
        tracing::debug!(
            client = request.client_name,
            resume = request.resume_version,
            "a client opened a snapshot stream"
        );
        let sent_version = if request.store_id == self.shared.store.store_id() { request.resume_version } else { 0 };
        let watcher = Watcher {
            changes: self.shared.catalogue.subscribe(),
            stopping: self.shared.stopping.clone(),
            shared: Arc::clone(&self.shared),
            sent_version,
            is_first: true,
            client: self.shared.clients.open_stream(identity),
            _guard: guard,
        };
        let stream = futures::stream::unfold(watcher, |mut watcher| async move {
            let message = watcher.next().await?;
            Some((Ok(message), watcher))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn report_client(
        &self,
        request: Request<ReportClientRequest>,
    ) -> Result<Response<ReportClientResponse>, Status> {
        Ok(Response::new(clients::report(&self.shared, request.into_inner())?))
    }

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        Ok(Response::new(clients::list(&self.shared, request.get_ref())?))
    }

    async fn get_reach(&self, request: Request<GetReachRequest>) -> Result<Response<GetReachResponse>, Status> {
        Ok(Response::new(clients::reach(&self.shared, request.get_ref())?))
    }
}

/// One client's snapshot stream. It has no queue: a client that reads slowly gets, when it is ready, all experiments
/// that changed since the version sent last.
struct Watcher {
    changes: tokio::sync::watch::Receiver<Arc<CatalogueState>>,
    stopping: tokio::sync::watch::Receiver<bool>,
    shared: Arc<SharedState>,
    /// The version sent last; 0 if the client needs a full snapshot.
    sent_version: u64,
    is_first: bool,
    client: StreamHandle,
    _guard: StreamGuard,
}

impl Watcher {
    async fn next(&mut self) -> Option<WatchSnapshotsResponse> {
        if *self.stopping.borrow() {
            return None;
        }
        if !self.is_first {
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
                _ = self.stopping.wait_for(|stop| *stop) => return None,
            }
        }
        self.is_first = false;
        let state = self.changes.borrow_and_update().clone();
        // The client has a version that this store does not have yet: a backup was restored. Send a full snapshot.
        let since = if self.sent_version > state.version { 0 } else { self.sent_version };
        let experiments = state.experiments_changed_since(since);
        let now = self.shared.clock.now();
        let message = WatchSnapshotsResponse {
            version: state.version,
            store_id: self.shared.store.store_id().to_owned(),
            full: since == 0,
            experiments,
            removed: Vec::new(),
            server_time: Some(timestamp_to_wire(now)),
        };
        self.client.record_sent(state.version, now);
        self.sent_version = state.version;
        Some(message)
    }
}

impl CatalogueState {
    /// The experiments that changed after `version`, in wire form; all experiments for version 0.
    fn experiments_changed_since(&self, version: u64) -> Vec<inroad_wire::v1::ExperimentSnapshot> {
        let changed = self.snapshot.experiments().filter(|served| version == 0 || served.parts().version > version);
        changed.map(|served| snapshot_to_wire(served)).collect()
    }
}

/// Counts a stream against the limit while it is open.
struct StreamGuard {
    streams: Arc<AtomicUsize>,
    shared: Arc<SharedState>,
}

impl StreamGuard {
    fn open(shared: &Arc<SharedState>, streams: &Arc<AtomicUsize>) -> Result<Self, ServerError> {
        let limit = shared.config.max_streams;
        let open = streams.fetch_add(1, Ordering::Relaxed);
        let guard = Self { streams: Arc::clone(streams), shared: Arc::clone(shared) };
        shared.metrics.watchers.inc();
        if open >= limit { Err(ServerError::TooManyStreams { limit }) } else { Ok(guard) }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.watchers.dec();
    }
}
