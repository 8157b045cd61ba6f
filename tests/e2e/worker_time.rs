//! Calls and pages about the largest experiments keep no async worker busy: everything else on that worker would wait, kills too.

use std::time::Instant;

use inroad_wire::v1::{self, ExposureMode};
use tonic::Status;

use crate::harness::{
    Server, context, exposure_of, flag, http_get, metric_value, outcome, with_conversion_metrics, with_thompson_policy,
};

const LARGE: &str = "large";
const VARIATIONS: usize = 40;
/// Time on a worker that is always acceptable, in an unoptimised build on a busy machine. The work below takes many times as
/// long.
const SHORT_SECONDS: f64 = 0.2;

/// An experiment whose audiences take seconds to parse, and whose decisions take seconds to make.
fn large_experiment() -> v1::Experiment {
    let keys: Vec<String> = (1..=VARIATIONS).map(|i| format!("v{i}")).collect();
    let share = |i: usize| if i == 0 { 0.1 } else { 0.01 };
    let variations: Vec<(&str, f64)> = keys.iter().enumerate().map(|(i, key)| (key.as_str(), share(i))).collect();
    let mut experiment = with_thompson_policy(with_conversion_metrics(flag(LARGE, &variations)), 86_400);
    if let Some(v1::policy::Kind::Thompson(thompson)) = experiment.policy.as_mut().and_then(|p| p.kind.as_mut()) {
        thompson.draws_log2 = Some(16);
    }
    let like_first = experiment.metrics[0].clone();
    let others = (1..16).map(|i| v1::Metric { key: format!("m{i}"), decision: false, ..like_first.clone() });
    experiment.metrics = std::iter::once(like_first.clone()).chain(others).collect();
    experiment.salt = "large".to_owned();
    experiment.overrides = (0..VARIATIONS)
        .map(|i| v1::Override { when: large_audience(i), variation: keys[i].clone(), ..v1::Override::default() })
        .collect();
    experiment
}

/// An audience that is nearly as long as one may be, and selects nobody.
pub(crate) fn large_audience(number: usize) -> String {
    let parts: Vec<String> = (0..170).map(|i| format!("country == \"{number}-{i}\"")).collect();
    parts.join(" || ")
}

/// Makes a call and checks that it did its work on other threads than the workers. Compared with the duration of the call, and not
/// with a clock: a busy machine lengthens both.
async fn check_workers<T>(server: &Server, what: &str, call: impl Future<Output = T>) -> T {
    let busy_seconds = || metric_value(server.address, "inroad_worker_busy_seconds_sum");
    let (before, begun) = (busy_seconds().await, Instant::now());
    let answer = call.await;
    let took = begun.elapsed().as_secs_f64();
    let busy = busy_seconds().await - before;
    assert!(busy < (took / 4.0).max(SHORT_SECONDS), "{what} kept workers busy for {busy:.3} of {took:.3} s");
    answer
}

async fn check_call<T>(server: &Server, what: &str, call: impl Future<Output = Result<T, Status>>) -> T {
    check_workers(server, what, call).await.unwrap_or_else(|status| panic!("{what}: {status:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_about_large_definitions_keep_no_worker_busy() {
    let server = Server::start().await;
    let experiments = || server.api().experiments();
    let declared = || Some(large_experiment());
    for validate_only in [true, false] {
        let create = v1::CreateExperimentRequest { experiment: declared(), validate_only };
        check_call(&server, "a creation", experiments().create_experiment(create)).await;
    }
    let update = v1::UpdateExperimentRequest {
        experiment: Some(v1::Experiment { description: "other".to_owned(), ..large_experiment() }),
        etag: String::new(),
        validate_only: true,
    };
    check_call(&server, "an update", experiments().update_experiment(update.clone())).await;
    let update = v1::UpdateExperimentRequest { validate_only: false, ..update };
    let updated = check_call(&server, "an update", experiments().update_experiment(update)).await.into_inner();
    assert_eq!(updated.description, "other");
    let evaluate = v1::EvaluateAudienceRequest { audience: large_audience(0), unit: String::new() };
    check_call(&server, "an audience", experiments().evaluate_audience(evaluate)).await;
    check_call(&server, "the audit log", experiments().list_audit_entries(v1::ListAuditEntriesRequest::default()))
        .await;
    let found =
        check_call(&server, "a list", experiments().list_experiments(v1::ListExperimentsRequest::default())).await;
    assert_eq!(found.into_inner().experiments.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_of_decisions_keep_no_worker_busy() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(v1::Experiment { overrides: Vec::new(), ..large_experiment() }).await;
    let units: Vec<String> = (0..2_000).map(|i| format!("unit-{i}")).collect();
    let answers = api.assign_all(LARGE, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(LARGE, unit, answer)).collect();
    // Some units of each variation convert, and all of one.
    let converts = |(i, answer): (usize, &v1::AssignResponse)| answer.variation == "v1" || i % 2 == 0;
    let converted = units.iter().enumerate().zip(&answers).filter(|((i, _), answer)| converts((*i, answer)));
    let outcomes = converted.map(|((_, unit), _)| outcome(unit, 1.0, unit)).collect();
    api.record(exposures, outcomes).await;
    api.results(LARGE).await;
    let reallocate = v1::ReallocateRequest { key: LARGE.to_owned() };
    let decided = check_call(&server, "a decision", api.experiments().reallocate(reallocate)).await.into_inner();
    let (revision, summary) =
        decided.decision.map(|decision| (decision.revision, decision.summary)).expect("a decision");
    assert_eq!(revision, 2, "the policy has moved a boundary: {summary}");
    let explain = v1::ExplainRevisionRequest { key: LARGE.to_owned(), generation: 0, revision };
    let explained = check_call(&server, "an explanation", api.experiments().explain_revision(explain)).await;
    assert!(explained.into_inner().reproduced);
    let decisions = v1::ListDecisionsRequest { key: LARGE.to_owned(), ..Default::default() };
    check_call(&server, "a list of decisions", api.experiments().list_decisions(decisions)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_about_large_experiments_keep_no_worker_busy() {
    let server = Server::start().await;
    let api = server.api();
    let many = (0..64).map(|i| large_audience(i % VARIATIONS));
    let mut experiment = large_experiment();
    experiment.overrides = many
        .enumerate()
        .map(|(i, when)| v1::Override {
            when,
            variation: format!("v{}", i % VARIATIONS + 1),
            ..v1::Override::default()
        })
        .collect();
    let declaration = v1::ExperimentDeclaration { experiment: Some(experiment), start: true, ..Default::default() };
    let request = v1::ApplyExperimentsRequest { declarations: vec![declaration], ..Default::default() };
    api.experiments().apply_experiments(tokio_stream::iter([request])).await.expect("applied");
    api.assign(LARGE, context("unit"), ExposureMode::Durable).await;
    // The state at a past time is parsed again.
    let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    for path in [
        "/".to_owned(),
        format!("/experiments/{LARGE}"),
        format!("/experiments/{LARGE}/edit"),
        format!("/experiments/{LARGE}/ask/kill"),
        format!("/playground?experiment={LARGE}&unit=u1&at={at}"),
        "/audit".to_owned(),
        "/feed".to_owned(),
        "/new".to_owned(),
    ] {
        let page = check_workers(&server, &path, http_get(server.address, &path)).await;
        let (code, page) = page.unwrap_or_else(|| panic!("no answer: {path}"));
        assert_eq!(code, 200, "{path}: {page}");
    }
}
