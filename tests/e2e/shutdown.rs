//! An orderly shutdown: no acknowledged event is lost, and no client blocks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use inroad_wire::v1;
use prost_types::ListValue;
use prost_types::value::Kind;
use tokio_stream::StreamExt;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{
    RawCalls, Refusal, Server, Setup, context, eventually, exposure_of, flag, http_get, message_prefix, metric_value,
    outcome, with_conversion_metrics,
};

const KEY: &str = "checkout";

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_recording_keeps_all_acknowledged_events_and_exits_with_0() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    let units: Vec<String> = (0..8_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let events: Vec<(v1::Exposure, v1::Outcome)> = units
        .iter()
        .zip(&answers)
        .map(|(unit, answer)| (exposure_of(KEY, unit, answer), outcome(unit, 1.0, "order-1")))
        .collect();

    let count = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = events
        .chunks(1_000)
        .map(|mine| {
            let (api, mine, count) = (server.api(), mine.to_vec(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for chunk in mine.chunks(5) {
                    let (exposures, outcomes) = chunk.iter().cloned().unzip();
                    let request = v1::RecordRequest { exposures, outcomes };
                    if api.events().record(request.clone()).await.is_err() {
                        break;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    acknowledged.push(request);
                }
                acknowledged
            })
        })
        .collect();
    let mut health = HealthClient::new(server.api().channel);
    let states = health.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream");
    let mut states = states.into_inner();
    let first = states.next().await.expect("a state").expect("a message without an error");
    assert_eq!(first.status(), ServingStatus::Serving);

    eventually("events are recorded", async || (count.load(Ordering::SeqCst) > 100).then_some(())).await;
    server.send_sigterm();
    let second =
        tokio::time::timeout(Duration::from_secs(5), states.next()).await.expect("the state changes within 5 s");
    assert_eq!(second.expect("a state").expect("a message without an error").status(), ServingStatus::NotServing);
    drop((states, health));
    let ended = server.wait_until_stopped().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");

    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("no writer panics"));
    }
    assert!(acknowledged.len() < 1_600, "the server stopped while events were recorded");
    server.restart().await;
    let api = server.api();
    let before = api.results(KEY).await;
    let exposed: u64 = before.arms.iter().map(|arm| arm.units).sum();
    let sent: usize = acknowledged.iter().map(|request| request.exposures.len()).sum();
    assert!(exposed >= sent as u64, "{exposed} of {sent} acknowledged exposures are counted");
    for request in acknowledged {
        api.record(request.exposures, request.outcomes).await;
    }
    let mut after = api.results(KEY).await;
    after.now = before.now;
    assert_eq!(after, before, "all acknowledged events were counted already");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_snapshot_streams_do_not_block_shutdown() {
    let mut server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let request = v1::WatchSnapshotsRequest::default();
        let stream = server.api().assignments().watch_snapshots(request).await.expect("a stream");
        let mut stream = stream.into_inner();
        stream.next().await.expect("a message").expect("a message without an error");
        streams.push(stream);
    }
    let started = Instant::now();
    server.send_sigterm();
    for stream in &mut streams {
        let end = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("the stream ends");
        assert!(end.is_none_or(|message| message.is_err()));
    }
    let ended = server.wait_until_stopped().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_watcher_and_idle_connection_do_not_block_shutdown() {
    let mut server = Server::start().await;
    let mut health = HealthClient::new(server.api().channel);
    let mut states = health.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream").into_inner();
    states.next().await.expect("a state").expect("a message without an error");
    let _idle = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let started = Instant::now();
    server.send_sigterm();
    let ended = server.wait_until_stopped().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// Whatever runs, the process ends within its drain timeout and half a second; the rest is for a busy machine.
const MARGIN: Duration = Duration::from_millis(1_250);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_server_within_the_drain_timeout_whatever_is_running() {
    let drain = Duration::from_secs(3);
    let mut server = Server::with(Setup::with_options(&["--drain-timeout", "3s", "--retain-events", "1s"])).await;
    let api = server.api();
    let arms: Vec<String> = (0..60).map(|i| format!("a{i}")).collect();
    let variations: Vec<(&str, f64)> = arms.iter().map(|key| (key.as_str(), 0.01)).collect();
    let mut experiment = with_conversion_metrics(flag(KEY, &variations));
    let metric = experiment.metrics[0].clone();
    experiment.metrics =
        (0..12).map(|i| v1::Metric { key: format!("m{i}"), decision: i == 0, ..metric.clone() }).collect();
    // Each pair of tags is compared: an assignment takes seconds on an async worker.
    experiment.overrides = (0..20)
        .map(|i| v1::Override {
            when: format!("tags.exists(a, tags.exists(b, a + b == \"{i}\"))"),
            variation: arms[i].clone(),
            ..v1::Override::default()
        })
        .collect();
    api.launch(experiment).await;
    let units: Vec<String> = (0..40_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    // The fold is behind by these, and is interrupted.
    let mut acknowledged = 0;
    for chunk in units.iter().zip(&answers).collect::<Vec<_>>().chunks(5_000) {
        let exposures = chunk.iter().map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
        let outcomes = chunk.iter().map(|(unit, _)| outcome(unit, 1.0, "order-1")).collect();
        api.record(exposures, outcomes).await;
        acknowledged += chunk.len() as u64;
    }
    // Half-sent calls, and watchers that never read.
    let mut raw = Vec::new();
    for _ in 0..20 {
        let mut calls = RawCalls::connect(server.address);
        let half = [message_prefix(1_000_000), vec![0; 50_000]].concat();
        calls.begin("/inroad.v1.EventService/Record", &half, false);
        calls.begin("/inroad.v1.AssignmentService/WatchSnapshots", &message_prefix(0), true);
        raw.push(calls);
    }
    // Long queries, and assignments that compute for seconds.
    let mut tags = context("u1");
    let text = |i: usize| prost_types::Value { kind: Some(Kind::StringValue(format!("tag-{i}"))) };
    let list = ListValue { values: (0..600).map(text).collect() };
    tags.fields.insert("tags".to_owned(), prost_types::Value { kind: Some(Kind::ListValue(list)) });
    let mut calls = tokio::task::JoinSet::new();
    // Results are shared by all who ask for them, so the assignments are what others wait for.
    for _ in 0..40 {
        let request = v1::GetResultsRequest { key: KEY.to_owned(), generation: 0, wait: false };
        let (api, context) = (server.api(), tags.clone());
        calls.spawn(async move {
            let assigned = v1::AssignRequest { experiment: KEY.to_owned(), context: Some(context), exposure: 0 };
            let (mut results, mut assignments) = (api.result_service(), api.assignments());
            let _ = tokio::join!(results.get_results(request), assignments.assign(assigned));
        });
    }
    // Only a part of the queries runs at a time.
    eventually("queries run and others wait", async || {
        let (_, text) = http_get(server.address, "/metrics").await?;
        let waiting = text.lines().find_map(|line| line.strip_prefix("inroad_queries_waiting "))?;
        (waiting.parse::<u32>().ok()? >= 2).then_some(())
    })
    .await;
    let started = Instant::now();
    server.send_sigterm();
    let ended = server.wait_until_stopped().await;
    let took = started.elapsed();
    println!("the server ended {took:?} after SIGTERM");
    assert!(took < drain + MARGIN, "{took:?}");
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    drop((raw, calls));

    server.restart().await;
    let results = server.api().results(KEY).await;
    let exposed: u64 = results.arms.iter().map(|arm| arm.units).sum();
    assert_eq!(exposed, acknowledged, "every acknowledged exposure is counted");
    let bought: u64 =
        results.arms.iter().map(|arm| crate::harness::metric(&results, &arm.variation, "m0").converted).sum();
    assert_eq!(bought, acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_on_open_files_is_raised_and_reported() {
    let wrapper = Some("ulimit -Sn 400; exec \"$@\"".to_owned());
    let server = Server::with(Setup { wrapper, ..Setup::default() }).await;
    let hard = std::fs::read_to_string("/proc/self/limits").expect("the limits");
    let line = hard.lines().find(|line| line.starts_with("Max open files")).expect("the limit on open files");
    let hard: f64 = line.split_whitespace().nth(4).and_then(|n| n.parse().ok()).expect("a number");
    assert_eq!(metric_value(server.address, "inroad_open_files_limit").await, hard);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_on_open_files_are_refused_with_a_message() {
    let wrapper = Some("ulimit -n 300; exec \"$@\"".to_owned());
    let server = Server::with(Setup { wrapper, ..Setup::default() }).await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.4)])).await;
    let mut idle = Vec::new();
    let refused = loop {
        assert!(idle.len() < 300, "no connection is refused");
        let other = server.api();
        let answer = other.experiments().get_experiment(v1::GetExperimentRequest { key: KEY.to_owned() }).await;
        match answer {
            Ok(_) => idle.push(other),
            Err(_) => break Refusal::from_result(answer),
        }
    };
    assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("RESOURCE_EXHAUSTED", "TOO_MANY_CONNECTIONS"));
    assert!(refused.message.contains("nofile"), "{}", refused.message);
    // A client that is connected is not affected.
    api.kill(KEY, "a").await;
    drop(idle);
    eventually("there is room again", async || {
        http_get(server.address, "/metrics").await.filter(|(code, _)| *code == 200)
    })
    .await;
    assert!(metric_value(server.address, "inroad_connections_refused_total").await >= 1.0);
}
