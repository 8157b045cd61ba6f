//! An orderly shutdown: no acknowledged event is lost, and no client blocks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use inroad_wire::v1;
use tokio_stream::StreamExt;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{Server, eventually, exposure_of, flag, outcome, with_conversion_metrics};

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
