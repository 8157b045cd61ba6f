//! The machine's clock jumps, as libfaketime shows it to a real server: nothing is decided, nothing is lost, and time
//! goes on.

use std::time::Duration;

use inroad_wire::v1::{self, ExposureMode};

use crate::harness::{
    Server, SetClock, Setup, context, eventually, exposure_of, flag, http_get, metric_value, outcome,
    with_conversion_metrics,
};

const KEY: &str = "checkout";

async fn ready(server: &Server) -> (u16, String) {
    http_get(server.address, "/readyz").await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn jump_ahead_with_writes_does_no_damage_once_it_is_taken_back() {
    let clock = SetClock::new();
    let mut server = Server::with(clock.setup()).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    assert_eq!(ready(&server).await.0, 200);

    clock.set("+30d");
    let (code, text) = ready(&server).await;
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("jumped 30days ahead") && text.contains("inroad clock accept"), "{text}");
    assert!(metric_value(server.address, "inroad_clock_offset_seconds").await > 29.9 * 86_400.0);
    // A write in that time, which once stopped time for 30 days, also across a restart.
    api.kill(KEY, "a").await;
    api.restore(KEY, "a").await;
    let restart = v1::RestartExperimentRequest { key: KEY.to_owned(), etag: String::new() };
    let refused = api.experiments().restart_experiment(restart).await.expect_err("a start needs the right time");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    server.kill();
    server.restart().await;
    assert_eq!(ready(&server).await.0, 503, "a restart does not hide the jump");

    clock.set("+0");
    assert_eq!(ready(&server).await, (200, "ready\n".to_owned()));
    api.launch(with_conversion_metrics(flag("other", &[("a", 0.4)]))).await;
    for key in [KEY, "other"] {
        let answer = api.assign(key, context("u1"), ExposureMode::None).await;
        let exposure = exposure_of(key, "u1", &answer);
        api.record(vec![exposure], vec![outcome("u1", 1.0, &format!("order-{key}"))]).await;
        eventually("the outcome is counted", async || {
            let results = api.results(key).await;
            let converted = results.arms.iter().flat_map(|arm| &arm.metrics).any(|metric| metric.converted == 1);
            converted.then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_be_right_wait_and_a_person_accepts_the_new_time() {
    let clock = SetClock::new();
    let server = Server::with(clock.setup()).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    clock.set("+2h");
    let in_two_hours = {
        let now = std::time::SystemTime::now() + Duration::from_secs(7_200);
        prost_types::Timestamp::from(now)
    };
    let request = v1::RecordRequest {
        outcomes: vec![v1::Outcome { occurred_at: Some(in_two_hours), ..outcome("u1", 1.0, "order-1") }],
        ..v1::RecordRequest::default()
    };
    let refused = api.events().record(request.clone()).await.expect_err("the sender tries again");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(inroad_wire::retry_delay(&refused).is_some());

    let shown = api.server().get_clock(v1::GetClockRequest {}).await.expect("an answer").into_inner();
    assert_eq!(shown.jump.and_then(|jump| jump.ahead).map(|ahead| (ahead.seconds + 1) / 10), Some(720));
    let accepted = api.server().accept_clock(v1::AcceptClockRequest {}).await.expect("an answer").into_inner();
    assert_eq!(accepted.jump, None);
    assert_eq!(ready(&server).await.0, 200);
    let recorded = api.events().record(request).await.expect("accepted").into_inner();
    assert_eq!(recorded.accepted, 1, "{recorded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_jump_is_not_lost_by_a_crash_right_after_its_acknowledgement_and_experiments_follow_it() {
    const EXPERIMENTS: usize = 40;
    let clock = SetClock::new();
    let mut server = Server::with(Setup { options: Setup::lead("10ms").options, ..clock.setup() }).await;
    let keys: Vec<String> = (0..EXPERIMENTS).map(|i| format!("e{i}")).collect();
    for key in &keys {
        server.api().launch(flag(key, &[("a", 0.1)])).await;
        server.api().grow(key, "a", 0.2).await;
    }
    clock.set("-2h");
    assert_eq!(ready(&server).await.0, 503);
    let accepted = server.api().server().accept_clock(v1::AcceptClockRequest {}).await.expect("an answer");
    server.kill();
    assert_eq!(accepted.into_inner().jump, None);
    server.restart().await;
    assert_eq!(ready(&server).await, (200, "ready\n".to_owned()), "the new reading is still accepted");
    // A new version, so that a client that missed the growth does not wait for its time once more.
    eventually("all experiments follow the jump", async || {
        let entries = server.api().audit("").await;
        let moved = |key: &String| entries.iter().any(|entry| entry.action == "clock" && entry.experiment == *key);
        keys.iter().all(moved).then_some(())
    })
    .await;
}
