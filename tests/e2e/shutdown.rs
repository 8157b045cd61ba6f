//! An orderly stop: nothing that was acknowledged is lost, and nobody is left hanging.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use inroad_wire::v1;
use tokio_stream::StreamExt;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{Server, conversions, eventually, exposure_of, flag, outcome};

const KEY: &str = "checkout";

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_events_stream_in_keeps_all_that_was_acknowledged_and_exits_0() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.4)]))).await;
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
    let watched = health.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream");
    let mut watched = watched.into_inner();
    let first = watched.next().await.expect("a state").expect("good");
    assert_eq!(first.status(), ServingStatus::Serving);

    eventually("events are coming in", async || (count.load(Ordering::SeqCst) > 100).then_some(())).await;
    server.ask_to_stop();
    let second = tokio::time::timeout(Duration::from_secs(5), watched.next()).await.expect("soon");
    assert_eq!(second.expect("a state").expect("good").status(), ServingStatus::NotServing);
    drop((watched, health));
    let ended = server.stopped().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");

    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer"));
    }
    assert!(acknowledged.len() < 1_600, "the server stopped in the middle");
    server.restart().await;
    let api = server.api();
    let before = api.results(KEY).await;
    let seen: u64 = before.arms.iter().map(|arm| arm.units).sum();
    let sent: usize = acknowledged.iter().map(|request| request.exposures.len()).sum();
    assert!(seen >= sent as u64, "{seen} of {sent} that were acknowledged");
    for request in acknowledged {
        api.record(request.exposures, request.outcomes).await;
    }
    let mut after = api.results(KEY).await;
    after.now = before.now;
    assert_eq!(after, before, "all that was acknowledged was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_snapshot_streams_do_not_hold_up_a_stop() {
    let mut server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let request = v1::WatchSnapshotsRequest::default();
        let stream = server.api().assignments().watch_snapshots(request).await.expect("a stream");
        let mut stream = stream.into_inner();
        stream.next().await.expect("a message").expect("good");
        streams.push(stream);
    }
    let begun = Instant::now();
    server.ask_to_stop();
    for stream in &mut streams {
        let end = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("the stream ends");
        assert!(end.is_none_or(|message| message.is_err()));
    }
    let ended = server.stopped().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_watcher_and_an_idle_connection_do_not_hold_up_a_stop() {
    let mut server = Server::start().await;
    let mut health = HealthClient::new(server.api().channel);
    let mut watched = health.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream").into_inner();
    watched.next().await.expect("a state").expect("good");
    let _idle = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let begun = Instant::now();
    server.ask_to_stop();
    let ended = server.stopped().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
