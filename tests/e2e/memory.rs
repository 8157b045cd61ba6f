//! Memory per connection: the bytes of a snapshot exist once, however many clients are connected.

use std::time::Duration;

use inroad_wire::v1::{self, payload};
use tokio_stream::StreamExt;

use crate::harness::{RawCalls, Server, eventually, flag, message_prefix, metric_value};

/// The experiments of a snapshot of 22 MB.
const EXPERIMENTS: usize = 200;
const PAYLOAD_BYTES: usize = 13_750;

/// A server with a snapshot of 22 MB.
async fn server_with_large_snapshot() -> Server {
    let server = Server::start().await;
    let api = server.api();
    let declarations = (0..EXPERIMENTS).map(|n| {
        let mut experiment = flag(&format!("large-{n:03}"), &["a", "b", "c", "d", "e", "f", "g"].map(|key| (key, 0.1)));
        for variation in &mut experiment.variations {
            let text = variation.key.chars().cycle().take(PAYLOAD_BYTES).collect();
            variation.payload = Some(v1::Payload { value: Some(payload::Value::StringValue(text)) });
        }
        let declaration = v1::ExperimentDeclaration { experiment: Some(experiment), etag: String::new(), start: true };
        v1::ApplyExperimentsRequest { validate_only: false, declarations: vec![declaration] }
    });
    let declarations: Vec<_> = declarations.collect();
    let applied = api.experiments().apply_experiments(tokio_stream::iter(declarations)).await.expect("an answer");
    assert_eq!(applied.into_inner().errors, []);
    server
}

/// Opens watchers that never read, and checks the memory that they add.
async fn check_watchers_that_never_read(count: usize, limit_bytes: u64) {
    let server = server_with_large_snapshot().await;
    let api = server.api();
    // A client that reads: the server has encoded the snapshot, and what it caches is counted before the watchers come.
    let request = v1::WatchSnapshotsRequest::default();
    let mut reading = api.assignments().watch_snapshots(request).await.expect("a stream").into_inner();
    while !reading.next().await.expect("a message").expect("no error").last_part {}
    let before = server.resident_bytes();
    let watchers: Vec<RawCalls> = (0..count)
        .map(|_| {
            let mut calls = RawCalls::connect(server.address);
            calls.begin("/inroad.v1.AssignmentService/WatchSnapshots", &message_prefix(0), true);
            calls
        })
        .collect();
    let open = format!("{count} watchers are open");
    eventually(&open, async || (metric_value(server.address, "inroad_watchers").await as usize > count).then_some(()))
        .await;
    // By the next heartbeat, 10 s later, every buffer is as full as it gets.
    let mut most = server.resident_bytes();
    {
        let mut heartbeat = std::pin::pin!(tokio::time::timeout(Duration::from_secs(30), reading.next()));
        loop {
            tokio::select! {
                message = &mut heartbeat => {
                    message.expect("a heartbeat").expect("a message").expect("no error");
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => most = most.max(server.resident_bytes()),
            }
        }
    }
    let added = most.saturating_sub(before);
    println!("{count} watchers that never read added {:.1} MB", added as f64 / 1e6);
    assert!(added < limit_bytes, "{count} watchers added {added} bytes, over the limit of {limit_bytes}");
    // They do not delay a kill, and the client that reads has it.
    api.kill("large-000", "a").await;
    let message = tokio::time::timeout(Duration::from_secs(5), reading.next()).await.expect("the kill");
    assert!(message.expect("a message").expect("no error").experiments[0].variations[1].killed);
    drop(watchers);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_share_the_bytes_of_a_large_snapshot() {
    // .ci/nightly opens 2,000, which may add 200 MB.
    let count = std::env::var("INROAD_WATCHERS").map_or(300, |text| text.parse().expect("a number of watchers"));
    check_watchers_that_never_read(count, 100_000 * count as u64).await;
}
