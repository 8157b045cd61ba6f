//! Short calls to a server. They panic if the call fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::experiment_service_client::ExperimentServiceClient;
use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use inroad_wire::v1::server_service_client::ServerServiceClient;
use inroad_wire::v1::{self, AssignResponse, ExposureMode};
use prost_types::Struct;
use prost_types::value::Kind;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tonic_types::StatusExt;

/// The services on one channel, which reconnects automatically.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) channel: Channel,
}

impl Api {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("the address is valid");
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
        Self { channel: endpoint.connect_lazy() }
    }

    pub(crate) fn experiments(&self) -> ExperimentServiceClient<Channel> {
        ExperimentServiceClient::new(self.channel.clone())
    }

    pub(crate) fn assignments(&self) -> AssignmentServiceClient<Channel> {
        AssignmentServiceClient::new(self.channel.clone())
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub(crate) fn server(&self) -> ServerServiceClient<Channel> {
        ServerServiceClient::new(self.channel.clone())
    }

    pub(crate) fn result_service(&self) -> ResultServiceClient<Channel> {
        ResultServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn create(&self, experiment: v1::Experiment) -> v1::Experiment {
        let request = v1::CreateExperimentRequest { experiment: Some(experiment), validate_only: false };
        expect_ok(self.experiments().create_experiment(request).await)
    }

    /// Creates and starts an experiment.
    pub(crate) async fn launch(&self, experiment: v1::Experiment) -> v1::Experiment {
        let key = self.create(experiment).await.key;
        expect_ok(self.experiments().start_experiment(v1::StartExperimentRequest { key, etag: String::new() }).await)
    }

    pub(crate) async fn get(&self, key: &str) -> v1::Experiment {
        expect_ok(self.experiments().get_experiment(v1::GetExperimentRequest { key: key.to_owned() }).await)
    }

    /// Grows a variation to a total share, from 0 to 1.
    pub(crate) async fn grow(&self, key: &str, variation: &str, to: f64) -> v1::Experiment {
        let request = v1::GrowVariationRequest {
            key: key.to_owned(),
            variation: variation.to_owned(),
            amount: Some(Amount::ToShare(to)),
            etag: String::new(),
        };
        expect_ok(self.experiments().grow_variation(request).await)
    }

    /// Kills a variation, or the whole experiment if `variation` is empty.
    pub(crate) async fn kill(&self, key: &str, variation: &str) -> v1::Experiment {
        let request = v1::KillRequest { key: key.to_owned(), variation: variation.to_owned() };
        expect_ok(self.experiments().kill(request).await)
    }

    pub(crate) async fn restore(&self, key: &str, variation: &str) -> v1::Experiment {
        let request = v1::RestoreRequest { key: key.to_owned(), variation: variation.to_owned() };
        expect_ok(self.experiments().restore(request).await)
    }

    pub(crate) async fn revisions(&self, key: &str) -> Vec<v1::Revision> {
        let request = v1::ListRevisionsRequest { key: key.to_owned(), ..Default::default() };
        expect_ok(self.experiments().list_revisions(request).await).revisions
    }

    pub(crate) async fn explain(&self, key: &str, revision: u32) -> v1::ExplainRevisionResponse {
        let request = v1::ExplainRevisionRequest { key: key.to_owned(), generation: 0, revision };
        expect_ok(self.experiments().explain_revision(request).await)
    }

    /// The audit log of an experiment, or of all experiments if `key` is empty; newest first.
    pub(crate) async fn audit(&self, key: &str) -> Vec<v1::AuditEntry> {
        let request = v1::ListAuditEntriesRequest { key: key.to_owned(), page_size: 1_000, page_token: String::new() };
        expect_ok(self.experiments().list_audit_entries(request).await).entries
    }

    pub(crate) async fn assign(&self, key: &str, context: Struct, exposure: ExposureMode) -> AssignResponse {
        let request =
            v1::AssignRequest { experiment: key.to_owned(), context: Some(context), exposure: exposure.into() };
        expect_ok(self.assignments().assign(request).await)
    }

    /// The assignments of these units, in the same order. Records no exposures.
    pub(crate) async fn assign_all(&self, key: &str, units: &[String]) -> Vec<AssignResponse> {
        let mut responses = Vec::with_capacity(units.len());
        for chunk in units.chunks(1_000) {
            let request = |unit: &String| v1::AssignRequest {
                experiment: key.to_owned(),
                context: Some(context(unit)),
                exposure: ExposureMode::None.into(),
            };
            let requests = chunk.iter().map(request).collect();
            let batch = self.assignments().batch_assign(v1::BatchAssignRequest { requests }).await;
            responses.extend(expect_ok(batch).responses);
        }
        responses
    }

    /// Records events and checks that the server accepted all of them.
    pub(crate) async fn record(&self, exposures: Vec<v1::Exposure>, outcomes: Vec<v1::Outcome>) {
        let count = exposures.len() + outcomes.len();
        let response = expect_ok(self.events().record(v1::RecordRequest { exposures, outcomes }).await);
        assert_eq!(response.rejections, [], "all events are accepted");
        assert_eq!(response.accepted as usize, count);
    }

    /// The results, with every event that was acknowledged before this call.
    pub(crate) async fn results(&self, key: &str) -> v1::GetResultsResponse {
        let request = v1::GetResultsRequest { key: key.to_owned(), generation: 0, wait: true };
        expect_ok(self.result_service().get_results(request).await)
    }
}

#[track_caller]
fn expect_ok<T>(result: Result<Response<T>, Status>) -> T {
    match result {
        Ok(response) => response.into_inner(),
        Err(status) => panic!("{status:?}"),
    }
}

/// A context that contains only the unit key.
pub(crate) fn context(unit: &str) -> Struct {
    let kind = Some(Kind::StringValue(unit.to_owned()));
    Struct { fields: BTreeMap::from([("targetingKey".to_owned(), prost_types::Value { kind })]) }
}

/// The exposure of a unit to the variation that it was assigned.
pub(crate) fn exposure_of(key: &str, unit: &str, assignment: &AssignResponse) -> v1::Exposure {
    v1::Exposure {
        experiment: key.to_owned(),
        generation: assignment.generation,
        unit: unit.to_owned(),
        variation: assignment.variation.clone(),
        revision: assignment.revision,
        ..v1::Exposure::default()
    }
}

/// A `purchase` event of a unit.
pub(crate) fn outcome(unit: &str, value: f64, event_id: &str) -> v1::Outcome {
    v1::Outcome {
        units: BTreeMap::from([("targetingKey".to_owned(), unit.to_owned())]),
        event: "purchase".to_owned(),
        value,
        event_id: event_id.to_owned(),
        ..v1::Outcome::default()
    }
}

/// The results of one metric for one variation.
#[track_caller]
pub(crate) fn metric(results: &v1::GetResultsResponse, variation: &str, metric: &str) -> v1::MetricResult {
    let arm = results.arms.iter().find(|arm| arm.variation == variation).expect("the variation is in the results");
    arm.metrics.iter().find(|m| m.metric == metric).expect("the metric is in the results").clone()
}

/// An error response: the code and reason for programs, and the message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Refusal {
    /// The error of a call. Panics if the call succeeded.
    #[track_caller]
    pub(crate) fn from_result<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> Self {
        let status = result.expect_err("the call must fail");
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self {
            code: to_screaming_snake_case(&format!("{:?}", status.code())),
            reason,
            message: status.message().to_owned(),
        }
    }
}

/// Converts `NotFound` to `NOT_FOUND`.
fn to_screaming_snake_case(camel: &str) -> String {
    let mut out = String::new();
    for (i, c) in camel.chars().enumerate() {
        if i > 0 && c.is_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}
