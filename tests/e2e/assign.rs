//! Assignments by the server and the exposures that it records for them.

use inroad_wire::v1::{AssignRequest, ExposureMode, GetResultsRequest, Override, Reason};

use crate::harness::{Server, context, eventually, flag, metric_value, with_conversion_metrics};

fn experiment() -> inroad_wire::v1::Experiment {
    with_conversion_metrics(flag("banner", &[("a", 0.3), ("b", 0.3)]))
}

fn units(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("unit-{i}")).collect()
}

fn exposed_units(results: &inroad_wire::v1::GetResultsResponse) -> u64 {
    results.arms.iter().map(|arm| arm.units).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_exposure_is_counted_after_kill_9() {
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
    assert_eq!(exposed_units(&api.results("banner").await), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_assignment_waits_for_an_exposure_that_is_only_queued() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    let mut acknowledged = 0;
    for round in 0..5 {
        let assign_all = |mode: ExposureMode| {
            let request = move |i: usize| inroad_wire::v1::AssignRequest {
                experiment: "banner".to_owned(),
                context: Some(context(&format!("unit-{round}-{i}"))),
                exposure: mode.into(),
            };
            let requests = (0..1_000).map(request).collect();
            let mut client = api.assignments();
            async move { client.batch_assign(inroad_wire::v1::BatchAssignRequest { requests }).await }
        };
        assign_all(ExposureMode::Background).await.expect("the assignments succeed");
        let answers = assign_all(ExposureMode::Durable).await.expect("the assignments succeed").into_inner().responses;
        server.kill();
        assert!(answers.iter().all(|answer| answer.exposure_recorded));
        acknowledged += 1_000;
        server.restart().await;
        assert_eq!(exposed_units(&api.results("banner").await), acknowledged, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_assignment_records_one_exposure() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    for _ in 0..300 {
        assert!(api.assign("banner", context("alice"), ExposureMode::Background).await.exposure_recorded);
    }
    api.assign("banner", context("bob"), ExposureMode::Durable).await;
    eventually("both exposures are in the log", async || {
        (metric_value(server.address, "inroad_log_head").await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(exposed_units(&api.results("banner").await), 2);
    assert_eq!(metric_value(server.address, "inroad_log_head").await, 2.0, "300 assignments of alice make one event");
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_and_paused_experiments_record_no_exposure() {
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
    api.experiments().pause_experiment(pause).await.expect("the experiment is paused");
    let paused = api.assign("banner", context("alice"), ExposureMode::Durable).await;
    assert_eq!(paused.reason(), Reason::Paused);
    assert_eq!(paused.variation, none.variation, "units keep their variation");
    assert_eq!(exposed_units(&api.results("banner").await), 0);
    assert_eq!(metric_value(server.address, "inroad_log_head").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_exposures_are_on_disk_after_an_orderly_shutdown() {
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
    assert!(
        answers.expect("the assignments succeed").into_inner().responses.iter().all(|answer| answer.exposure_recorded)
    );
    server.send_sigterm();
    server.wait_until_stopped().await.ok();
    server.restart().await;
    assert_eq!(exposed_units(&api.results("banner").await), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn background_exposures_are_counted_without_a_waiting_caller() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag("background", &[("a", 0.5)]))).await;
    for unit in 0..10 {
        let request = AssignRequest {
            experiment: "background".to_owned(),
            context: Some(context(&format!("unit-{unit}"))),
            exposure: ExposureMode::Background.into(),
        };
        api.assignments().assign(request).await.expect("the assignments succeed");
    }
    eventually("all exposures are counted", async || {
        let request = GetResultsRequest { key: "background".to_owned(), generation: 0, wait: false };
        let results = api.result_service().get_results(request).await.expect("the results are available").into_inner();
        (exposed_units(&results) == 10).then_some(())
    })
    .await;
}
