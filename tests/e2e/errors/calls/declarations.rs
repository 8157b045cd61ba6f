//! Invalid definitions of experiments: creation, and updates of what is fixed after the start.

use inroad_wire::v1::{self, Override, payload};
use tonic_types::StatusExt;

use super::{RefusedCalls, create_request};
use crate::harness::{Server, flag, with_conversion_metrics, with_thompson_policy};

pub(super) async fn check(t: &mut RefusedCalls) {
    check_experiment(t).await;
    check_variations(t).await;
    check_policy_and_metrics(t).await;
    check_updates(t).await;
}

/// A definition with three errors, in different fields.
fn with_several_errors() -> v1::Experiment {
    let mut invalid = flag("new", &[("a", 0.1)]);
    (invalid.audience, invalid.salt) = ("((".to_owned(), "!".to_owned());
    invalid.variations[1].key = "A".to_owned();
    invalid
}

async fn check_create(t: &mut RefusedCalls, case: &str, code: &str, experiment: v1::Experiment) {
    let mut experiments = t.api.experiments();
    t.check(case, "CreateExperiment", code, experiments.create_experiment(create_request(experiment))).await;
}

async fn check_experiment(t: &mut RefusedCalls) {
    check_create(t, "the key exists already", "ALREADY_EXISTS", flag("button", &[("a", 0.1)])).await;
    check_create(t, "a malformed key", "INVALID_ARGUMENT", flag("No Key", &[("a", 0.1)])).await;
    let mut experiments = t.api.experiments();
    t.check(
        "no experiment in the request",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        experiments.create_experiment(v1::CreateExperimentRequest::default()),
    )
    .await;
    let mut invalid = flag("new", &[("a", 0.1)]);
    invalid.audience = "plan == ".to_owned();
    t.check(
        "an audience that is not a CEL expression",
        "CreateExperiment, UpdateExperiment",
        "INVALID_ARGUMENT",
        experiments.create_experiment(create_request(invalid)),
    )
    .await;
    let mut invalid = flag("new", &[("a", 0.1)]);
    invalid.salt = "not a salt!".to_owned();
    check_create(t, "a malformed salt", "INVALID_ARGUMENT", invalid).await;
}

async fn check_variations(t: &mut RefusedCalls) {
    let invalid = flag("new", &[("a", 0.6), ("b", 0.5)]);
    check_create(t, "initial shares that leave less than the minimum control share", "INVALID_ARGUMENT", invalid).await;
    check_create(t, "no variation beside control", "INVALID_ARGUMENT", flag("new", &[])).await;
    let invalid = flag("new", &[("a", 0.1), ("a", 0.1)]);
    check_create(t, "two variations with the same key", "INVALID_ARGUMENT", invalid).await;
    let mut invalid = flag("new", &[("a", 0.1)]);
    invalid.variations[1].payload = Some(v1::Payload { value: Some(payload::Value::BooleanValue(true)) });
    check_create(t, "payloads of different types", "INVALID_ARGUMENT", invalid).await;
    let mut invalid = flag("new", &[("a", 0.1)]);
    invalid.variations[1].payload = Some(v1::Payload { value: Some(payload::Value::StringValue("x".repeat(20_000))) });
    check_create(t, "a payload of more than 16 KiB", "INVALID_ARGUMENT", invalid).await;
    let mut invalid = flag("new", &[("a", 0.1)]);
    invalid.variations[1].payload = None;
    check_create(t, "a variation without a payload", "INVALID_ARGUMENT", invalid).await;
    let mut invalid = flag("new", &[("a", 0.1)]);
    invalid.overrides = vec![Override { units: vec!["qa".to_owned()], when: String::new(), variation: "z".to_owned() }];
    check_create(t, "an override to a variation that does not exist", "INVALID_ARGUMENT", invalid).await;
}

async fn check_policy_and_metrics(t: &mut RefusedCalls) {
    let mut invalid = with_conversion_metrics(flag("new", &[("a", 0.1)]));
    invalid.metrics[1].decision = true;
    check_create(t, "two decision metrics", "INVALID_ARGUMENT", invalid).await;
    let invalid = with_thompson_policy(with_conversion_metrics(flag("new", &[("a", 0.1)])), 1);
    check_create(t, "a tick shorter than a minute", "INVALID_ARGUMENT", invalid).await;
    let case = "several errors: BadRequest lists each one with its field";
    check_create(t, case, "INVALID_ARGUMENT", with_several_errors()).await;
}

async fn check_updates(t: &mut RefusedCalls) {
    let mut experiments = t.api.experiments();
    let update = |experiment: v1::Experiment| v1::UpdateExperimentRequest {
        experiment: Some(experiment),
        etag: String::new(),
        validate_only: false,
    };
    let mut changed = t.api.get("button").await;
    changed.unit = "account".to_owned();
    t.check(
        "another unit type after the start",
        "UpdateExperiment",
        "FAILED_PRECONDITION",
        experiments.update_experiment(update(changed)),
    )
    .await;
    let mut changed = t.api.get("button").await;
    changed.variations.pop();
    t.check(
        "a variation removed after the start",
        "UpdateExperiment",
        "FAILED_PRECONDITION",
        experiments.update_experiment(update(changed)),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_a_definition_is_listed_with_its_field() {
    let server = Server::start().await;
    let request = create_request(with_several_errors());
    let status = server.api().experiments().create_experiment(request).await.expect_err("the call must fail");
    let fields: Vec<String> =
        status.get_details_bad_request().expect("details").field_violations.into_iter().map(|v| v.field).collect();
    for field in ["audience", "salt", "variations[1].key"] {
        assert!(fields.iter().any(|f| f == field), "{fields:?}");
    }
}
