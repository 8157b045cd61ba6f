//! A server for tests: the real lifecycle and assignment over real gRPC, without a store, and with a policy that grows the
//! last variation by 5% each tick. Tests can make calls fail before or after the server has done the work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Arm, Definition, Experiment, Salt, ServedExperiment, Timestamp, Width};
use inroad_wire::v1::assignment_service_server::{AssignmentService, AssignmentServiceServer};
use inroad_wire::v1::event_service_server::{EventService, EventServiceServer};
use inroad_wire::v1::experiment_service_server::{ExperimentService, ExperimentServiceServer};
use inroad_wire::v1::result_service_server::{ResultService, ResultServiceServer};
use inroad_wire::v1::{self, MetricResult};
use inroad_wire::{
    assignment_to_wire, context_from_struct, definition_from_wire, experiment_to_wire, timestamp_from_wire,
};
use tonic::{Request, Response, Status};

use crate::connect::ServerArgs;

/// The state of the server, and how it fails.
#[derive(Default)]
pub(crate) struct TestServerState {
    pub(crate) experiments: BTreeMap<String, Experiment>,
    /// The first exposure time by unit and variation.
    pub(crate) exposures: BTreeMap<(String, String), Timestamp>,
    /// Outcomes by unit and event id.
    pub(crate) outcomes: BTreeSet<(String, String)>,
    /// Every n-th call fails; 0: none.
    pub(crate) fail_every: u64,
    /// All calls after this number fail.
    pub(crate) fail_after: Option<u64>,
    /// Calls received.
    pub(crate) calls: u64,
    /// Events received.
    pub(crate) events: u64,
}

/// A test server; clones share the state.
#[derive(Clone, Default)]
pub(crate) struct TestServer(Arc<Mutex<TestServerState>>);

type Answer<T> = Result<Response<T>, Status>;

impl TestServer {
    /// Starts serving, and returns the address.
    pub(crate) async fn start(&self) -> ServerArgs {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let router = tonic::transport::Server::builder()
            .add_service(AssignmentServiceServer::new(self.clone()))
            .add_service(EventServiceServer::new(self.clone()))
            .add_service(ExperimentServiceServer::new(self.clone()))
            .add_service(ResultServiceServer::new(self.clone()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(router.serve_with_incoming(incoming));
        ServerArgs { server }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, TestServerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a call, or fails: every second failure happens after the work was done.
    fn answer<T>(&self, work: impl FnOnce(&mut TestServerState) -> Result<T, Status>) -> Answer<T> {
        let mut state = self.state();
        state.calls += 1;
        let calls = state.calls;
        let fails = state.fail_every > 0 && calls.is_multiple_of(state.fail_every);
        let is_down = state.fail_after.is_some_and(|after| calls > after);
        let unavailable = || Err(Status::unavailable("the test server is down"));
        if is_down || fails && (calls / state.fail_every).is_multiple_of(2) {
            return unavailable();
        }
        let response = work(&mut state)?;
        if fails { unavailable() } else { Ok(Response::new(response)) }
    }
}

impl TestServerState {
    fn get(&self, key: &str) -> Result<&Experiment, Status> {
        self.experiments.get(key).ok_or_else(|| Status::not_found("no such experiment"))
    }

    fn to_wire(&self, key: &str) -> Result<v1::Experiment, Status> {
        Ok(experiment_to_wire(self.get(key)?, 1, Timestamp::default()))
    }

    fn advance(&mut self, key: &str, to: Timestamp) -> Result<(), Status> {
        let experiment = self.experiments.get_mut(key).ok_or_else(|| Status::not_found("no such experiment"))?;
        let arm = Arm::new(experiment.definition.variations().len() - 1).unwrap();
        while let Some(now) = experiment.manual_now.filter(|now| *now < to) {
            let boundary = experiment.next_tick_after(now);
            if boundary > to {
                break;
            }
            let step = Width::from_share(0.05).unwrap();
            let _ = experiment.grow(&[(arm, step)], RevisionCause::Policy, now, boundary);
            experiment.advance_clock(boundary).unwrap();
        }
        experiment.advance_clock(to).map_err(|e| Status::failed_precondition(e.to_string()))
    }
}

#[tonic::async_trait]
impl AssignmentService for TestServer {
    async fn assign(&self, _: Request<v1::AssignRequest>) -> Answer<v1::AssignResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }

    async fn batch_assign(&self, request: Request<v1::BatchAssignRequest>) -> Answer<v1::BatchAssignResponse> {
        self.answer(|state| {
            let mut responses = Vec::new();
            for request in request.into_inner().requests {
                let served =
                    ServedExperiment::from_experiment(state.get(&request.experiment)?, 1, Timestamp::default())
                        .unwrap();
                let context = context_from_struct(request.context).unwrap();
                responses.push(assignment_to_wire(&served.assign(&context, Timestamp::default())));
            }
            Ok(v1::BatchAssignResponse { responses })
        })
    }

    type WatchSnapshotsStream = tokio_stream::Empty<Result<v1::WatchSnapshotsResponse, Status>>;

    async fn watch_snapshots(&self, _: Request<v1::WatchSnapshotsRequest>) -> Answer<Self::WatchSnapshotsStream> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn report_client(&self, _: Request<v1::ReportClientRequest>) -> Answer<v1::ReportClientResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }

    async fn list_clients(&self, _: Request<v1::ListClientsRequest>) -> Answer<v1::ListClientsResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }

    async fn get_reach(&self, _: Request<v1::GetReachRequest>) -> Answer<v1::GetReachResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }
}

#[tonic::async_trait]
impl EventService for TestServer {
    async fn record(&self, request: Request<v1::RecordRequest>) -> Answer<v1::RecordResponse> {
        let request = request.into_inner();
        self.answer(|state| {
            let accepted = (request.exposures.len() + request.outcomes.len()) as u32;
            state.events += u64::from(accepted);
            for exposure in request.exposures {
                let at = timestamp_from_wire(&exposure.occurred_at.unwrap()).unwrap();
                let experiment = state.get(&exposure.experiment)?;
                let generation = experiment.generation().unwrap();
                assert!(at <= experiment.manual_now.unwrap(), "exposure in the future");
                assert_eq!(
                    generation.revision_in_effect(at).unwrap().number,
                    exposure.revision,
                    "wrong revision for the time"
                );
                let seen = state.exposures.entry((exposure.unit, exposure.variation)).or_insert(at);
                *seen = at.min(*seen);
            }
            for outcome in request.outcomes {
                let unit = outcome.units.into_values().next().unwrap();
                state.outcomes.insert((unit, outcome.event_id));
            }
            Ok(v1::RecordResponse { accepted, ..Default::default() })
        })
    }

    async fn forget_unit(&self, _: Request<v1::ForgetUnitRequest>) -> Answer<v1::ForgetUnitResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }
}

#[tonic::async_trait]
impl ResultService for TestServer {
    async fn get_funnel(&self, _: Request<v1::GetFunnelRequest>) -> Answer<v1::GetFunnelResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }

    async fn get_results(&self, request: Request<v1::GetResultsRequest>) -> Answer<v1::GetResultsResponse> {
        self.answer(|state| {
            let key = request.into_inner().key;
            let experiment = state.to_wire(&key)?;
            let arm = |v: &v1::Variation| {
                let units: Vec<&String> =
                    state.exposures.keys().filter(|(_, arm)| *arm == v.key).map(|(unit, _)| unit).collect();
                let converted =
                    state.outcomes.iter().filter(|(u, id)| id.ends_with(":0") && units.contains(&u)).count();
                let metric =
                    MetricResult { units: units.len() as u64, converted: converted as u64, ..Default::default() };
                v1::ArmResult {
                    variation: v.key.clone(),
                    share: v.share,
                    units: units.len() as u64,
                    metrics: vec![metric],
                    ..Default::default()
                }
            };
            let arms = experiment.variations.iter().map(arm).collect();
            Ok(v1::GetResultsResponse { key, arms, now: experiment.now, ..Default::default() })
        })
    }
}

macro_rules! unimplemented_methods {
    ($($name:ident: $request:ty => $response:ty),* $(,)?) => {
        $(fn $name<'s, 'f>(&'s self, _: Request<$request>)
            -> std::pin::Pin<Box<dyn Future<Output = Answer<$response>> + Send + 'f>>
        where 's: 'f, Self: 'f {
            Box::pin(async { Err(Status::unimplemented("not implemented by the test server")) })
        })*
    };
}

#[tonic::async_trait]
impl ExperimentService for TestServer {
    async fn create_experiment(&self, request: Request<v1::CreateExperimentRequest>) -> Answer<v1::Experiment> {
        let doc = definition_from_wire(request.into_inner().experiment.unwrap_or_default()).unwrap();
        let key = doc.key.clone();
        self.answer(|state| {
            if state.experiments.contains_key(&key) {
                return Err(Status::already_exists("it exists already"));
            }
            let definition = Definition::try_from(doc).map_err(|e| Status::invalid_argument(e.to_string()))?;
            state.experiments.insert(key.clone(), Experiment::create(definition, Timestamp::default()));
            state.to_wire(&key)
        })
    }

    async fn list_experiments(&self, _: Request<v1::ListExperimentsRequest>) -> Answer<v1::ListExperimentsResponse> {
        self.answer(|state| {
            let experiments = state.experiments.keys().map(|key| state.to_wire(key)).collect::<Result<_, _>>()?;
            Ok(v1::ListExperimentsResponse { experiments, ..Default::default() })
        })
    }

    async fn get_experiment(&self, request: Request<v1::GetExperimentRequest>) -> Answer<v1::Experiment> {
        self.answer(|state| state.to_wire(&request.into_inner().key))
    }

    async fn start_experiment(&self, request: Request<v1::StartExperimentRequest>) -> Answer<v1::Experiment> {
        let key = request.into_inner().key;
        self.answer(|state| {
            let experiment = state.experiments.get_mut(&key).ok_or_else(|| Status::not_found("no such experiment"))?;
            let salt = experiment.definition.salt().cloned().unwrap_or_else(|| Salt::parse("drawn").unwrap());
            let now = experiment.now(Timestamp::default());
            experiment.start(now, salt).map_err(|e| Status::failed_precondition(e.to_string()))?;
            state.to_wire(&key)
        })
    }

    async fn advance_clock(&self, request: Request<v1::AdvanceClockRequest>) -> Answer<v1::AdvanceClockResponse> {
        let request = request.into_inner();
        self.answer(|state| {
            state.advance(&request.key, timestamp_from_wire(&request.to.unwrap()).unwrap())?;
            Ok(v1::AdvanceClockResponse {
                decisions: Vec::new(),
                experiment: Some(state.to_wire(&request.key)?),
                decisions_left_out: 0,
            })
        })
    }

    async fn apply_experiments(
        &self,
        _: Request<tonic::Streaming<v1::ApplyExperimentsRequest>>,
    ) -> Answer<v1::ApplyExperimentsResponse> {
        Err(Status::unimplemented("not implemented by the test server"))
    }

    unimplemented_methods! {
        evaluate_audience: v1::EvaluateAudienceRequest => v1::AudienceReport,
        update_experiment: v1::UpdateExperimentRequest => v1::Experiment,
        pause_experiment: v1::PauseExperimentRequest => v1::Experiment,
        resume_experiment: v1::ResumeExperimentRequest => v1::Experiment,
        grow_variation: v1::GrowVariationRequest => v1::Experiment,
        kill: v1::KillRequest => v1::Experiment,
        restore: v1::RestoreRequest => v1::Experiment,
        restart_experiment: v1::RestartExperimentRequest => v1::Experiment,
        conclude_experiment: v1::ConcludeExperimentRequest => v1::Experiment,
        archive_experiment: v1::ArchiveExperimentRequest => v1::Experiment,
        reallocate: v1::ReallocateRequest => v1::ReallocateResponse,
        list_revisions: v1::ListRevisionsRequest => v1::ListRevisionsResponse,
        explain_revision: v1::ExplainRevisionRequest => v1::ExplainRevisionResponse,
        list_decisions: v1::ListDecisionsRequest => v1::ListDecisionsResponse,
        list_audit_entries: v1::ListAuditEntriesRequest => v1::ListAuditEntriesResponse,
    }
}
