//! Memory per connection and call: the bytes of a snapshot exist once, however many clients are connected, and calls
//! that are not complete hold a bounded number of bytes for a bounded time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use inroad_wire::v1::{self, payload};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::client::GrpcService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Api, RawCalls, Server, eventually, flag, message_prefix, metric_value};

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

/// A call of `Record` that sends all of its message but the last bytes, and then waits.
struct HalfSentCall {
    /// Turns true when everything is sent, and closes if the call ends before.
    sent: watch::Receiver<bool>,
    answer: JoinHandle<Status>,
}

const HALF_SENT_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// A request of this size is small (docs/limits.md).
const SMALL_HALF_SENT_BYTES: usize = 60 * 1024;

/// The largest part in which a call sends its bytes.
const CHUNK_BYTES: usize = 4 * 1024;

/// Begins a call that sends this many bytes.
fn half_sent_call(mut channel: Channel, bytes: usize) -> HalfSentCall {
    let (all_sent, sent) = watch::channel(false);
    let mut request = message_prefix(bytes as u32);
    request.resize(bytes.max(request.len()), 0);
    request.truncate(bytes);
    let chunks: Vec<Bytes> = request.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
    let frames = tokio_stream::iter(chunks).map(|bytes| Ok::<_, Status>(Frame::data(bytes)));
    let rest = futures::stream::once(async move {
        all_sent.send_replace(true);
        std::future::pending().await
    });
    let request = http::Request::post("/inroad.v1.EventService/Record")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(StreamBody::new(frames.chain(rest))))
        .expect("the request is valid");
    let answer = tokio::spawn(async move {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("a connection");
        let response = channel.call(request).await.expect("an answer");
        Status::from_header_map(response.headers()).expect("a status")
    });
    HalfSentCall { sent, answer }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_calls_hold_bounded_memory_for_a_bounded_time_and_kills_go_on() {
    let server = Server::start().await;
    let probe = server.api();
    probe.launch(flag("probed", &[("a", 0.5)])).await;
    let before = server.resident_bytes();
    // As many again later. The server releases the bytes; the allocator of the C library keeps a part of the pages for
    // later, more in each of the first rounds. Without a limit, the first round alone adds more than 400 MB.
    for round in 0..2 {
        let connections: Vec<Channel> = (0..10).map(|_| server.api().channel).collect();
        let mut calls: Vec<HalfSentCall> =
            (0..100).map(|i| half_sent_call(connections[i % 10].clone(), HALF_SENT_BYTES)).collect();
        for call in &mut calls {
            let _ = call.sent.wait_for(|sent| *sent).await;
        }
        let begun = Instant::now();
        // On a connection of its own, and on one that is busy.
        for api in [probe.clone(), Api { channel: connections[0].clone() }] {
            let at = Instant::now();
            api.kill("probed", "a").await;
            api.restore("probed", "a").await;
            assert!(at.elapsed() < Duration::from_secs(2), "a kill and a restore took {:?}", at.elapsed());
        }
        let added = server.resident_bytes().saturating_sub(before);
        println!("round {round}: 100 half-sent calls added {:.1} MB", added as f64 / 1e6);
        assert!(added < 320_000_000, "half-sent calls added {added} bytes");
        let held = metric_value(server.address, "inroad_request_bytes_in_flight").await;
        assert!(held > HALF_SENT_BYTES as f64, "some calls are accepted");
        let mut reasons = BTreeMap::<String, usize>::new();
        for call in calls {
            let ended = tokio::time::timeout(Duration::from_secs(30), call.answer).await.expect("every call ends");
            let status = ended.expect("no call panics");
            let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            if reason == "TOO_MANY_REQUEST_BYTES" {
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
            }
            *reasons.entry(reason).or_default() += 1;
        }
        println!("the calls ended within {:?}: {reasons:?}", begun.elapsed());
        let expected = ["REQUEST_TOO_SLOW", "TOO_MANY_REQUEST_BYTES"];
        assert!(reasons.keys().eq(expected), "{reasons:?}");
        assert_eq!(metric_value(server.address, "inroad_request_bytes_in_flight").await, 0.0);
    }
    assert!(metric_value(server.address, "inroad_request_bytes_refused_total").await > 0.0);
    assert!(metric_value(server.address, "inroad_requests_too_slow_total").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_small_requests_leave_room_for_the_kills_of_their_address() {
    let server = Server::start().await;
    let probe = server.api();
    probe.launch(flag("probed", &[("a", 0.5)])).await;
    let connections: Vec<Channel> = (0..4).map(|_| server.api().channel).collect();
    let mut calls = Vec::new();
    // Ever smaller ones, until not one more byte of them is accepted. The first ones together have more than the 64 MiB
    // of an address, and on no connection more than its 32 MiB.
    for (count, bytes) in [(1_400, SMALL_HALF_SENT_BYTES), (20, 4_096), (20, 256), (20, 16), (20, 1)] {
        let refused = async || metric_value(server.address, "inroad_request_bytes_refused_total").await;
        let before = refused().await;
        for i in 0..count {
            calls.push(half_sent_call(connections[i % 4].clone(), bytes));
        }
        let what = format!("a half-sent request of {bytes} bytes is refused");
        eventually(&what, async || (refused().await > before).then_some(())).await;
    }
    let at = Instant::now();
    probe.kill("probed", "a").await;
    probe.restore("probed", "a").await;
    assert!(at.elapsed() < Duration::from_secs(2), "a kill and a restore took {:?}", at.elapsed());
    let held = metric_value(server.address, "inroad_request_bytes_in_flight").await;
    assert!(held > (48 << 20) as f64, "only {held} bytes are held");
    calls.iter().for_each(|call| call.answer.abort());
}
