//! The stream of snapshots, and health, reflection and metrics on the same port.

use std::collections::BTreeSet;
use std::time::Duration;

use inroad_wire::v1::{self, payload};
use tokio_stream::StreamExt;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::{Api, Server, eventually, exposure_of, flag, http_get, metric_value};

async fn open_stream(api: &Api, resume_version: u64, store_id: &str) -> tonic::Streaming<v1::WatchSnapshotsResponse> {
    let (store_id, client_name) = (store_id.to_owned(), "test".to_owned());
    let request = v1::WatchSnapshotsRequest { resume_version, store_id, client_name, ..Default::default() };
    api.assignments().watch_snapshots(request).await.expect("a stream").into_inner()
}

async fn next(stream: &mut tonic::Streaming<v1::WatchSnapshotsResponse>) -> v1::WatchSnapshotsResponse {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.next()).await;
    message.expect("a message arrives in time").expect("the stream is open").expect("a message")
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_receives_500_changes_merged_and_ends_with_the_latest_state() {
    let server = Server::start().await;
    let api = server.api();
    let mut large = flag("large", &[("a", 0.1)]);
    for variation in &mut large.variations {
        let text = "x".repeat(15_000);
        variation.payload = Some(v1::Payload { value: Some(payload::Value::StringValue(text)) });
    }
    let mut last = api.launch(large).await;
    let mut stream = open_stream(&server.api(), 0, "").await;
    for i in 0..500 {
        last = if i % 2 == 0 { api.kill("large", "a").await } else { api.restore("large", "a").await };
    }
    let last_version: u64 = last.etag.parse().expect("a number");
    let (mut messages, mut seen) = (0, 0);
    let state = loop {
        let message = next(&mut stream).await;
        messages += 1;
        assert!(message.version > seen || message.experiments.is_empty(), "versions increase");
        assert_eq!(message.full, messages == 1);
        seen = message.version;
        if seen >= last_version {
            break message.experiments;
        }
    };
    assert!(messages < 400, "{messages} messages of 30 kB for 500 changes: changes were not merged");
    assert_eq!(
        (state[0].key.as_str(), state[0].version, state[0].variations[1].killed),
        ("large", last_version, false)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_stream_sends_only_changed_experiments() {
    let mut server = Server::start().await;
    let api = server.api();
    for key in ["one", "two", "three"] {
        api.launch(flag(key, &[("a", 0.1)])).await;
    }
    let all = next(&mut open_stream(&api, 0, "").await).await;
    let keys = |message: &v1::WatchSnapshotsResponse| -> BTreeSet<String> {
        message.experiments.iter().map(|e| e.key.clone()).collect()
    };
    assert!(all.full && keys(&all) == ["one", "three", "two"].map(str::to_owned).into());
    api.kill("two", "a").await;
    let step = next(&mut open_stream(&api, all.version, &all.store_id).await).await;
    assert!(!step.full && step.removed.is_empty());
    assert_eq!(keys(&step), BTreeSet::from(["two".to_owned()]));
    assert!(step.version > all.version);
    // The same after kill -9: versions and the store id are on disk.
    server.kill();
    server.restart().await;
    let step = next(&mut open_stream(&api, all.version, &all.store_id).await).await;
    assert!(!step.full && keys(&step) == BTreeSet::from(["two".to_owned()]));
    assert_eq!(step.store_id, all.store_id);
    let other = next(&mut open_stream(&api, all.version, "another store").await).await;
    assert!(other.full && keys(&other).len() == 3, "versions of another store are not comparable");
    let ahead = next(&mut open_stream(&api, u64::MAX, &all.store_id).await).await;
    assert!(ahead.full && keys(&ahead).len() == 3, "a version that this store does not have");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_reaches_a_watcher_immediately_and_growth_before_it_takes_effect() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag("one", &[("a", 0.1)])).await;
    let mut stream = open_stream(&api, 0, "").await;
    next(&mut stream).await;
    let grown = api.grow("one", "a", 0.2).await;
    let message = next(&mut stream).await;
    let revisions = &message.experiments[0].revisions;
    assert_eq!(revisions.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2], "the current and the pending revision");
    assert!(crate::harness::micros(&message.server_time) < crate::harness::micros(&grown.effective_at));
    api.kill("one", "a").await;
    let message =
        tokio::time::timeout(Duration::from_secs(1), next(&mut stream)).await.expect("the kill arrives within 1 s");
    assert!(message.experiments[0].variations[1].killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_stream_receives_heartbeats() {
    let server = Server::start().await;
    server.api().launch(flag("one", &[("a", 0.1)])).await;
    let mut stream = open_stream(&server.api(), 0, "").await;
    let first = next(&mut stream).await;
    let heartbeat = tokio::time::timeout(Duration::from_secs(15), next(&mut stream)).await.expect("a heartbeat");
    assert_eq!((heartbeat.version, heartbeat.experiments.len(), heartbeat.full), (first.version, 0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_are_counted() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = open_stream(&server.api(), 0, "").await;
        next(&mut stream).await;
        streams.push(stream);
    }
    assert_eq!(metric_value(server.address, "inroad_watchers").await, 5.0);
    drop(streams);
    eventually("closed streams are not counted", async || {
        (metric_value(server.address, "inroad_watchers").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reflection_and_metrics_answer_on_the_same_port() {
    let server = Server::start().await;
    let api = server.api();
    let mut health = HealthClient::new(api.channel.clone());
    let status = health
        .check(HealthCheckRequest { service: String::new() })
        .await
        .expect("the health service answers")
        .into_inner();
    assert_eq!(status.status(), ServingStatus::Serving);

    let list_services = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list_services) };
    let mut reflection = ServerReflectionClient::new(api.channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.expect("a stream");
    let answer: ServerReflectionResponse = answers.into_inner().next().await.expect("a message").expect("no error");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["AssignmentService", "EventService", "ExperimentService", "ResultService"] {
        assert!(names.contains(&format!("inroad.v1.{name}")), "{names:?}");
    }
    assert!(names.contains("grpc.health.v1.Health"), "{names:?}");

    assert_eq!(http_get(server.address, "/healthz").await, Some((200, "ok\n".to_owned())));
    assert_eq!(http_get(server.address, "/readyz").await, Some((200, "ready\n".to_owned())));
    assert_eq!(metric_value(server.address, "inroad_backlog_events").await, 0.0);
    let (_, text) = http_get(server.address, "/metrics").await.expect("the server answers");
    assert!(text.ends_with("# EOF\n"), "OpenMetrics: {text}");

    api.launch(flag("one", &[("a", 0.1)])).await;
    let unit = "alice".to_owned();
    let answer = api.assign_all("one", std::slice::from_ref(&unit)).await.remove(0);
    api.record(vec![exposure_of("one", &unit, &answer)], vec![]).await;
    api.results("one").await;
    assert_eq!(metric_value(server.address, "inroad_log_head").await, 1.0);
    assert_eq!(metric_value(server.address, "inroad_exposures_accepted_total").await, 1.0);
    assert_eq!(metric_value(server.address, "inroad_backlog_events").await, 0.0);
}
