//! `Assign` and the exposures that it records by itself.

use inroad_wire::v1::{AssignRequest, ExposureMode, GetResultsRequest, Override, Reason};

use crate::harness::{Server, context, conversions, eventually, flag, gauge};

fn experiment() -> inroad_wire::v1::Experiment {
    conversions(flag("banner", &[("a", 0.3), ("b", 0.3)]))
}

fn units(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("unit-{i}")).collect()
}

fn seen(results: &inroad_wire::v1::GetResultsResponse) -> u64 {
    results.arms.iter().map(|arm| arm.units).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_exposure_is_counted_after_kill_9() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    let units = units(120);
    for unit in &units {
        let answer = api.assign("banner", context(unit), ExposureMode::Durable).await;
        assert!(answer.exposure_recorded);
        assert_eq!(answer.reason(), Reason::Split);
    }
    server.kill();
    server.restart().await;
    assert_eq!(seen(&api.results("banner").await), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_answer_waits_for_an_exposure_that_is_only_queued() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    let mut promised = 0;
    for round in 0..5 {
        let ask = |mode: ExposureMode| {
            let request = move |i: usize| inroad_wire::v1::AssignRequest {
                experiment: "banner".to_owned(),
                context: Some(context(&format!("unit-{round}-{i}"))),
                exposure: mode.into(),
            };
            let requests = (0..1_000).map(request).collect();
            let mut client = api.assignments();
            async move { client.batch_assign(inroad_wire::v1::BatchAssignRequest { requests }).await }
        };
        ask(ExposureMode::Background).await.expect("an answer");
        let answers = ask(ExposureMode::Durable).await.expect("an answer").into_inner().responses;
        server.kill();
        assert!(answers.iter().all(|answer| answer.exposure_recorded));
        promised += 1_000;
        server.restart().await;
        assert_eq!(seen(&api.results("banner").await), promised, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_asks_again_and_again_is_recorded_once() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    for _ in 0..300 {
        assert!(api.assign("banner", context("alice"), ExposureMode::Background).await.exposure_recorded);
    }
    api.assign("banner", context("bob"), ExposureMode::Durable).await;
    eventually("both are in the log", async || (gauge(server.address, "inroad_log_head").await >= 2.0).then_some(()))
        .await;
    assert_eq!(seen(&api.results("banner").await), 2);
    assert_eq!(gauge(server.address, "inroad_log_head").await, 2.0, "300 questions of alice make one row");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_exposure_is_not_recorded() {
    let server = Server::start().await;
    let api = server.api();
    let mut pinned = experiment();
    pinned.overrides =
        vec![Override { units: vec!["qa".to_owned()], variation: "b".to_owned(), ..Override::default() }];
    api.launch(pinned).await;
    let qa = api.assign("banner", context("qa"), ExposureMode::Durable).await;
    assert_eq!((qa.variation.as_str(), qa.reason(), qa.exposure_recorded), ("b", Reason::Override, false));
    let none = api.assign("banner", context("alice"), ExposureMode::None).await;
    assert!(!none.exposure_recorded);
    let key = "banner".to_owned();
    let pause = inroad_wire::v1::PauseExperimentRequest { key, etag: String::new() };
    api.experiments().pause_experiment(pause).await.expect("it pauses");
    let paused = api.assign("banner", context("alice"), ExposureMode::Durable).await;
    assert_eq!(paused.reason(), Reason::Paused);
    assert_eq!(paused.variation, none.variation, "everybody keeps what they have");
    assert_eq!(seen(&api.results("banner").await), 0);
    assert_eq!(gauge(server.address, "inroad_log_head").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exposures_that_are_queued_are_on_disk_after_an_orderly_stop() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    let units = units(1_000);
    let request = |unit: &String| inroad_wire::v1::AssignRequest {
        experiment: "banner".to_owned(),
        context: Some(context(unit)),
        exposure: ExposureMode::Background.into(),
    };
    let requests = units.iter().map(request).collect();
    let answers = api.assignments().batch_assign(inroad_wire::v1::BatchAssignRequest { requests }).await;
    assert!(answers.expect("answers").into_inner().responses.iter().all(|answer| answer.exposure_recorded));
    server.ask_to_stop();
    server.stopped().await.ok();
    server.restart().await;
    assert_eq!(seen(&api.results("banner").await), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn exposures_of_assignments_alone_are_counted_without_anybody_waiting_for_them() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag("alone", &[("a", 0.5)]))).await;
    for unit in 0..10 {
        let request = AssignRequest {
            experiment: "alone".to_owned(),
            context: Some(context(&format!("unit-{unit}"))),
            exposure: ExposureMode::Background.into(),
        };
        api.assignments().assign(request).await.expect("an answer");
    }
    eventually("they are counted", async || {
        let request = GetResultsRequest { key: "alone".to_owned(), generation: 0, wait: false };
        let results = api.result_service().get_results(request).await.expect("results").into_inner();
        (seen(&results) == 10).then_some(())
    })
    .await;
}
