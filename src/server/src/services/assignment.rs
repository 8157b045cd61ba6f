//! `AssignmentService`: answers assignments from the snapshot in memory. The streams that send that snapshot to clients are
//! in `snapshot_route`.

use std::cell::Cell;
use std::sync::Arc;

use inroad_assignment::{Assignment, Context, ServedExperiment, Timestamp};
use inroad_store::Event;
use inroad_wire::assignment::assignment_to_wire;
use inroad_wire::context::{context_from_struct, context_to_struct};
use inroad_wire::v1::assignment_service_server::AssignmentService;
use inroad_wire::v1::{
    AssignRequest, AssignResponse, BatchAssignRequest, BatchAssignResponse, ExposureMode, GetReachRequest,
    GetReachResponse, ListClientsRequest, ListClientsResponse, ReportClientRequest, ReportClientResponse,
    WatchSnapshotsRequest,
};
use prost::Message;
use tonic::{Request, Response, Status};

use super::clients;
use super::snapshot_route::{MessageStream, SnapshotStreams};
use crate::catalogue::CatalogueState;
use crate::config::{MAX_BATCH_ASSIGN, MAX_CALL_STEPS, MAX_RESPONSE_BYTES};
use crate::error::ServerError;
use crate::ingest::served_exposure;
use crate::queries::Caller;
use crate::shared::SharedState;

/// The implementation of `AssignmentService`.
pub struct AssignmentHandler {
    shared: Arc<SharedState>,
    streams: SnapshotStreams,
}

/// An answer with the exposure that is recorded before it is sent.
struct PendingAnswer {
    response: AssignResponse,
    exposure: Option<PendingExposure>,
}

/// An exposure to record.
struct PendingExposure {
    digest: inroad_assignment::Digest,
    event: inroad_store::ExposureEvent,
    /// Whether the answer waits until the exposure is on disk.
    is_durable: bool,
}

impl AssignmentHandler {
    /// The service over the shared state.
    pub fn new(shared: Arc<SharedState>) -> Self {
        Self { streams: SnapshotStreams::new(Arc::clone(&shared)), shared }
    }

    /// Queues the exposures of these answers, writes those to disk that have to be, in one group, and returns the
    /// answers.
    async fn record_and_respond(
        &self,
        mut answers: Vec<PendingAnswer>,
        now: Timestamp,
    ) -> Result<Vec<AssignResponse>, Status> {
        let (mut events, mut written) = (Vec::new(), Vec::new());
        for (index, answer) in answers.iter_mut().enumerate() {
            let Some(exposure) = answer.exposure.take() else { continue };
            if exposure.is_durable {
                written.push((index, exposure.digest, exposure.event.arm));
                events.push(Event::Exposure(exposure.event));
            } else {
                answer.response.exposure_recorded = self.enqueue(exposure);
            }
        }
        if !events.is_empty() {
            self.shared.check_backlog()?;
            let count = events.len() as u64;
            self.shared.store.append(now, events).await.map_err(ServerError::from)?;
            for (index, digest, arm) in written {
                self.shared.exposures.mark_on_disk(digest, arm);
                if let Some(answer) = answers.get_mut(index) {
                    answer.response.exposure_recorded = true;
                }
            }
            self.shared.metrics.accepted_exposures.inc_by(count);
            self.shared.fold.wake();
        }
        Ok(answers.into_iter().map(|answer| answer.response).collect())
    }

    /// Queues an exposure for the log, and returns whether there was room.
    fn enqueue(&self, exposure: PendingExposure) -> bool {
        let is_queued = self.shared.exposures.enqueue(exposure.digest, exposure.event);
        if !is_queued {
            self.shared.metrics.unqueued_exposures.inc();
        }
        is_queued
    }
}

/// The answer to one request, with the exposure to record. Adds the steps that expensive audiences and overrides took.
fn answer(
    shared: &SharedState,
    state: &CatalogueState,
    request: AssignRequest,
    now: Timestamp,
    steps: &Cell<u64>,
) -> Result<PendingAnswer, ServerError> {
    let context = context_from_struct(request.context)?;
    let served = state.snapshot.get(&request.experiment);
    let assignment = match served.filter(|served| served.is_expensive()) {
        Some(served) => served.assign_counting_steps(&context, now, steps),
        None => state.snapshot.assign(&request.experiment, &context, now),
    };
    let mut response = assignment_to_wire(&assignment);
    shared.metrics.assignments.inc();
    if let Some(served) = served {
        shared.recent_contexts.record(served, &context, now);
    }
    let mode = ExposureMode::try_from(request.exposure).unwrap_or(ExposureMode::Unspecified);
    let (true, Some(digest), Some(served)) = (assignment.records_exposure, assignment.digest, served) else {
        return Ok(PendingAnswer { response, exposure: None });
    };
    if mode == ExposureMode::None {
        return Ok(PendingAnswer { response, exposure: None });
    }
    let is_recorded = match mode {
        ExposureMode::Durable => shared.exposures.is_on_disk(digest, assignment.arm),
        _ => shared.exposures.already_queued(digest, assignment.arm),
    };
    if is_recorded {
        response.exposure_recorded = true;
        return Ok(PendingAnswer { response, exposure: None });
    }
    let exposure = exposure_event(served, &context, &assignment, now).map(|event| PendingExposure {
        digest,
        event,
        is_durable: mode == ExposureMode::Durable,
    });
    Ok(PendingAnswer { response, exposure })
}

/// The exposure event of an assignment; none if the context names no unit.
fn exposure_event(
    served: &ServedExperiment,
    context: &Context,
    assignment: &Assignment<'_>,
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
        let request = request.into_inner();
        let is_expensive = |served: &Arc<ServedExperiment>| served.is_expensive();
        let mut answer = if self.shared.catalogue.peek().snapshot.get(&request.experiment).is_some_and(is_expensive) {
            // It can take longer than an async worker may be occupied.
            let (shared, state) = (Arc::clone(&self.shared), self.shared.catalogue.state());
            self.shared.batches.run(move |_| answer(&shared, &state, request, now, &Cell::default())).await?
        } else {
            answer(&self.shared, &self.shared.catalogue.peek(), request, now, &Cell::default())?
        };
        if let Some(exposure) = answer.exposure.take_if(|exposure| !exposure.is_durable) {
            answer.response.exposure_recorded = self.enqueue(exposure);
        }
        if answer.exposure.is_none() {
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
        let (shared, state) = (Arc::clone(&self.shared), self.shared.catalogue.state());
        let answer_all = move |caller: &Caller| {
            let steps = Cell::default();
            let answer = |request| {
                caller.check()?;
                if steps.get() > MAX_CALL_STEPS {
                    shared.metrics.expensive_batches.inc();
                    return Err(ServerError::AudiencesTooExpensive { limit: MAX_CALL_STEPS });
                }
                answer(&shared, &state, request, now, &steps)
            };
            requests.into_iter().map(answer).collect::<Result<Vec<_>, _>>()
        };
        let answers = self.shared.batches.run(answer_all).await?;
        // Before anything is recorded: a caller that gets no answer shows no variation. A field of a message has at most
        // 10 bytes of its own, and recording sets one flag.
        let bytes = answers.iter().map(|answer| answer.response.encoded_len() + 12).sum();
        if bytes > MAX_RESPONSE_BYTES {
            self.shared.metrics.oversized_responses.inc();
            let advice = "the payloads are large; split the batch. No exposure was recorded";
            return Err(ServerError::ResponseTooLarge { bytes, limit: MAX_RESPONSE_BYTES, advice }.into());
        }
        Ok(Response::new(BatchAssignResponse { responses: self.record_and_respond(answers, now).await? }))
    }

    type WatchSnapshotsStream = MessageStream;

    /// For callers within the process. Over the network, `snapshot_route` answers the same method without
    /// copying messages.
    async fn watch_snapshots(
        &self,
        request: Request<WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let address = request.remote_addr();
        Ok(Response::new(self.streams.open_messages(request.into_inner(), address)?))
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
