//! Calls to a server, short to write and loud when they fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::experiment_service_client::ExperimentServiceClient;
use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use inroad_wire::v1::{self, AssignResponse, ExposureMode};
use prost_types::Struct;
use prost_types::value::Kind;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tonic_types::StatusExt;

/// An answer larger than any request may be.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The four services behind one channel, which connects again by itself.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) channel: Channel,
}

impl Api {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
        Self { channel: endpoint.connect_lazy() }
    }

    pub(crate) fn experiments(&self) -> ExperimentServiceClient<Channel> {
        ExperimentServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn assignments(&self) -> AssignmentServiceClient<Channel> {
        AssignmentServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub(crate) fn result_service(&self) -> ResultServiceClient<Channel> {
        ResultServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn create(&self, experiment: v1::Experiment) -> v1::Experiment {
        let request = v1::CreateExperimentRequest { experiment: Some(experiment), validate_only: false };
        good(self.experiments().create_experiment(request).await)
    }

    /// Creates and starts.
    pub(crate) async fn launch(&self, experiment: v1::Experiment) -> v1::Experiment {
        let key = self.create(experiment).await.key;
        good(self.experiments().start_experiment(v1::StartExperimentRequest { key, etag: String::new() }).await)
    }

    pub(crate) async fn get(&self, key: &str) -> v1::Experiment {
        good(self.experiments().get_experiment(v1::GetExperimentRequest { key: key.to_owned() }).await)
    }

    /// Grows a variation to a share in all.
    pub(crate) async fn grow(&self, key: &str, variation: &str, to: f64) -> v1::Experiment {
        let request = v1::GrowVariationRequest {
            key: key.to_owned(),
            variation: variation.to_owned(),
            amount: Some(Amount::ToShare(to)),
            etag: String::new(),
        };
        good(self.experiments().grow_variation(request).await)
    }

    /// Kills a variation, or everything if it is empty.
    pub(crate) async fn kill(&self, key: &str, variation: &str) -> v1::Experiment {
        let request = v1::KillRequest { key: key.to_owned(), variation: variation.to_owned() };
        good(self.experiments().kill(request).await)
    }

    pub(crate) async fn restore(&self, key: &str, variation: &str) -> v1::Experiment {
        let request = v1::RestoreRequest { key: key.to_owned(), variation: variation.to_owned() };
        good(self.experiments().restore(request).await)
    }

    pub(crate) async fn revisions(&self, key: &str) -> Vec<v1::Revision> {
        let request = v1::ListRevisionsRequest { key: key.to_owned(), generation: 0 };
        good(self.experiments().list_revisions(request).await).revisions
    }

    pub(crate) async fn explain(&self, key: &str, revision: u32) -> v1::ExplainRevisionResponse {
        let request = v1::ExplainRevisionRequest { key: key.to_owned(), generation: 0, revision };
        good(self.experiments().explain_revision(request).await)
    }

    /// The audit log, newest first.
    pub(crate) async fn audit(&self, key: &str) -> Vec<v1::AuditEntry> {
        let request = v1::ListAuditEntriesRequest { key: key.to_owned(), page_size: 1_000, page_token: String::new() };
        good(self.experiments().list_audit_entries(request).await).entries
    }

    pub(crate) async fn assign(&self, key: &str, context: Struct, exposure: ExposureMode) -> AssignResponse {
        let request =
            v1::AssignRequest { experiment: key.to_owned(), context: Some(context), exposure: exposure.into() };
        good(self.assignments().assign(request).await)
    }

    /// What the server itself would serve these units now; records nothing.
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
            responses.extend(good(batch).responses);
        }
        responses
    }

    /// Records, and insists that everything is taken.
    pub(crate) async fn record(&self, exposures: Vec<v1::Exposure>, outcomes: Vec<v1::Outcome>) {
        let count = exposures.len() + outcomes.len();
        let response = good(self.events().record(v1::RecordRequest { exposures, outcomes }).await);
        assert_eq!(response.rejections, [], "all are good");
        assert_eq!(response.accepted as usize, count);
    }

    /// Results with every event in them that was acknowledged before.
    pub(crate) async fn results(&self, key: &str) -> v1::GetResultsResponse {
        let request = v1::GetResultsRequest { key: key.to_owned(), generation: 0, wait: true };
        good(self.result_service().get_results(request).await)
    }
}

#[track_caller]
fn good<T>(answer: Result<Response<T>, Status>) -> T {
    match answer {
        Ok(response) => response.into_inner(),
        Err(status) => panic!("{status:?}"),
    }
}

/// A context that names the unit and nothing else.
pub(crate) fn context(unit: &str) -> Struct {
    let kind = Some(Kind::StringValue(unit.to_owned()));
    Struct { fields: BTreeMap::from([("targetingKey".to_owned(), prost_types::Value { kind })]) }
}

/// The exposure that an answer is.
pub(crate) fn exposure_of(key: &str, unit: &str, answer: &AssignResponse) -> v1::Exposure {
    v1::Exposure {
        experiment: key.to_owned(),
        generation: answer.generation,
        unit: unit.to_owned(),
        variation: answer.variation.clone(),
        revision: answer.revision,
        ..v1::Exposure::default()
    }
}

/// A purchase of a unit.
pub(crate) fn outcome(unit: &str, value: f64, event_id: &str) -> v1::Outcome {
    v1::Outcome {
        units: BTreeMap::from([("targetingKey".to_owned(), unit.to_owned())]),
        event: "purchase".to_owned(),
        value,
        event_id: event_id.to_owned(),
        ..v1::Outcome::default()
    }
}

/// One metric of one variation.
#[track_caller]
pub(crate) fn metric(results: &v1::GetResultsResponse, variation: &str, metric: &str) -> v1::MetricResult {
    let arm = results.arms.iter().find(|arm| arm.variation == variation).expect("the variation");
    arm.metrics.iter().find(|m| m.metric == metric).expect("the metric").clone()
}

/// A call that was refused, as a program and as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Refused {
    /// Out of an answer that has to be a refusal.
    #[track_caller]
    pub(crate) fn by<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> Self {
        let status = answer.expect_err("a refusal");
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self { code: screaming(&format!("{:?}", status.code())), reason, message: status.message().to_owned() }
    }
}

/// `NotFound` as `NOT_FOUND`.
fn screaming(camel: &str) -> String {
    let mut out = String::new();
    for (i, c) in camel.chars().enumerate() {
        if i > 0 && c.is_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}
