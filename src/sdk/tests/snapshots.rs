//! Snapshots: how they come, what is refused, and what a client answers meanwhile.

mod support;

use std::time::{Duration, Instant};

use inroad_assignment::experiment::{Kills, Status, Target};
use inroad_assignment::{Arm, Context, Timestamp};
use inroad_sdk::{Client, Error, Reason, Source};
use inroad_wire::{timestamp_to_wire, v1};
use support::{Made, SOON, Scripted, change, full, nobody, quick, until, user, version, wall};

#[tokio::test]
async fn before_any_snapshot_the_callers_default_stands_and_nothing_is_recorded() {
    let client = quick(&format!("http://{}", nobody().await)).build().unwrap();
    let decision = client.assign("colour", &user());
    assert_eq!((decision.reason(), decision.string("blue"), decision.variation()), (Reason::NotReady, "blue", None));
    assert!(!client.ready(Duration::from_millis(50)).await);
    assert_eq!(client.status().queue_depth, 0);
    assert_eq!(client.status().source, Source::None);
}

#[tokio::test]
async fn an_answer_has_a_typed_value_and_the_default_stands_where_the_type_is_another() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.client().await;
    let decision = client.evaluate("colour", &user());
    assert_eq!((decision.variation(), decision.reason()), (Some("green"), Reason::Split));
    assert_eq!((decision.generation(), decision.revision()), (1, 1));
    let empty = serde_json::Map::new();
    assert_eq!(decision.string("blue"), "green");
    assert_eq!((decision.boolean(true), decision.number(1.5), decision.object(&empty)), (true, 1.5, &empty));
    let other = client.evaluate("no-such", &user());
    assert_eq!((other.reason(), other.string("blue")), (Reason::UnknownExperiment, "blue"));
    assert_eq!(client.evaluate("colour", &Context::default()).reason(), Reason::NoUnit);
    assert_eq!(client.evaluate("colour", &Context::new("")).reason(), Reason::InvalidUnit);
    let pinned = client.snapshot();
    assert_eq!(pinned.evaluate("colour", &user()).variation.map(|v| v.key.as_str()), Some("green"));
    assert_eq!((pinned.version(), pinned.experiments().len()), (1, 1));
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_from_where_it_was() {
    let server = Scripted::with(full(7, &[Made::new("colour", 7).wire()])).await;
    let client = server.builder().client_name("shop").token("secret").build().unwrap();
    assert!(client.ready(SOON).await);
    let asked = server.watched(1).await;
    assert_eq!((asked[0].resume_version, asked[0].store_id.as_str(), asked[0].client_name.as_str()), (0, "", "shop"));
    assert_eq!(server.script.authorization.lock().unwrap().as_deref(), Some("Bearer secret"));
    server.first(change(8, &[Made::everybody("size", 8).wire()]));
    server.interrupt();
    version(&client, 8).await;
    let asked = server.watched(2).await;
    assert_eq!((asked[0].resume_version, asked[0].store_id.as_str()), (7, "store-a"));
    assert_eq!(client.snapshot().experiments().len(), 2, "what was there is still there");
    until("it says that it is connected", || client.status().connected && client.status().connections == 2).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let server = Scripted::with(full(1, &[])).await;
    let client = server.builder().silence_timeout(Duration::from_millis(60)).build().unwrap();
    assert!(client.ready(SOON).await);
    server.watched(3).await;
    assert!(client.status().last_error.unwrap().contains("nothing was heard"));
}

#[tokio::test]
async fn a_snapshot_that_takes_points_from_a_variation_is_refused_and_the_old_one_stays() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire(), Made::new("size", 1).wire()])).await;
    let client = server.client().await;
    let shrunk = Made { first_revision: 2, ..Made::new("colour", 2) };
    server.send(change(2, &[shrunk.wire(), Made::everybody("shape", 2).wire()]));
    version(&client, 2).await;
    assert_eq!(client.evaluate("shape", &user()).variation(), Some("green"), "the others are taken");
    let decision = client.evaluate("colour", &user());
    assert_eq!((decision.variation(), decision.revision()), (Some("green"), 1));
    let status = client.status();
    assert_eq!((status.refusals, status.refused.len()), (1, 1));
    assert_eq!(status.refused[0].experiment, "colour");
    assert!(status.refused[0].reason.contains("takes points"), "{:?}", status.refused);

    let good = Made { first_revision: 2, ..Made::everybody("colour", 3) };
    server.send(change(3, &[good.wire()]));
    version(&client, 3).await;
    assert_eq!(client.evaluate("colour", &user()).revision(), 2);
    assert!(client.status().refused.is_empty(), "what is good again is not shown as refused");
    assert_eq!(client.status().refusals, 1);
}

#[tokio::test]
async fn a_snapshot_that_is_not_whole_is_refused() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.client().await;
    let mut broken = Made::everybody("colour", 2).wire();
    broken.revisions[0].buckets[1].owner = 9;
    server.send(change(2, &[broken]));
    version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("green"));
    assert_eq!(client.status().refusals, 1);
}

#[tokio::test]
async fn a_replica_that_lags_takes_nothing_away() {
    let new = Made { first_revision: 2, ..Made::everybody("colour", 5) };
    let server = Scripted::with(full(6, &[new.wire(), Made::new("size", 6).wire()])).await;
    let client = server.client().await;
    server.first(full(4, &[Made::new("colour", 3).wire()]));
    server.interrupt();
    server.watched(2).await;
    until("the old state is counted", || client.status().stale == 1).await;
    let status = client.status();
    assert_eq!((status.version, status.experiments, status.refusals), (6, 2, 0));
    assert_eq!(client.evaluate("colour", &user()).revision(), 2);
}

#[tokio::test]
async fn a_newer_snapshot_of_an_older_generation_is_refused_and_told() {
    let second = Made { generation: 2, ..Made::everybody("colour", 5) };
    let server = Scripted::with(full(5, &[second.wire()])).await;
    let client = server.client().await;
    server.send(change(6, &[Made::new("colour", 6).wire()]));
    version(&client, 6).await;
    assert_eq!(client.evaluate("colour", &user()).generation(), 2);
    let status = client.status();
    assert_eq!((status.stale, status.refusals), (0, 1));
    assert!(status.refused[0].reason.contains("older"), "{:?}", status.refused);
}

#[tokio::test]
async fn a_message_that_changes_nothing_keeps_the_connection_and_tells_nobody() {
    let server = Scripted::with(full(1, &[Made::new("colour", 1).wire()])).await;
    let client = server.builder().silence_timeout(Duration::from_millis(200)).build().unwrap();
    assert!(client.ready(SOON).await);
    let mut changes = client.subscribe();
    changes.mark_unchanged();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        server.send(change(1, &[]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!changes.has_changed().unwrap());
    assert_eq!(server.watched(1).await.len(), 1);
    assert!(client.status().snapshot_age.is_some_and(|age| age < Duration::from_millis(200)));
}

#[tokio::test]
async fn another_store_replaces_everything() {
    let server = Scripted::with(full(9, &[Made::everybody("colour", 9).wire(), Made::new("size", 9).wire()])).await;
    let client = server.client().await;
    let restored = v1::WatchSnapshotsResponse {
        store_id: "store-b".to_owned(),
        ..full(2, &[Made { generation: 1, starts: vec![u64::MAX], ..Made::new("colour", 1) }.wire()])
    };
    server.first(restored);
    server.interrupt();
    version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("control"), "not held to the other store's past");
    assert_eq!((client.status().experiments, client.status().refusals), (1, 0));
    assert_eq!(client.status().store_id, "store-b");
}

#[tokio::test]
async fn an_experiment_that_is_gone_is_not_known_any_more() {
    let server = Scripted::with(full(1, &[Made::new("colour", 1).wire(), Made::new("size", 1).wire()])).await;
    let client = server.client().await;
    server.send(v1::WatchSnapshotsResponse { removed: vec!["colour".to_owned()], ..change(2, &[]) });
    version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).reason(), Reason::UnknownExperiment);
    server.send(full(3, &[]));
    version(&client, 3).await;
    assert_eq!(client.status().experiments, 0);
}

#[tokio::test]
async fn a_kill_works_as_soon_as_it_arrives() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.client().await;
    let kept = client.evaluate("colour", &user());
    let kills = Kills::default().with(Target::Variation(Arm::new(1).unwrap()), true);
    server.send(change(2, &[Made { kills, ..Made::everybody("colour", 2) }.wire()]));
    version(&client, 2).await;
    let decision = client.evaluate("colour", &user());
    assert_eq!((decision.variation(), decision.reason()), (Some("control"), Reason::Killed));
    assert_eq!(kept.string("blue"), "green", "an answer that was given stays as it was given");
    server.send(change(3, &[Made::everybody("colour", 3).wire()]));
    version(&client, 3).await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("green"), "the same units are back");
}

/// Two revisions: nobody, then everybody from `at` on.
fn pending(at: Timestamp) -> v1::ExperimentSnapshot {
    let starts = vec![u64::MAX, 1];
    Made { starts, effective: vec![Timestamp::from_micros(0), at], ..Made::new("colour", 1) }.wire()
}

#[tokio::test]
async fn a_pending_revision_flips_by_the_servers_clock_and_not_by_this_machines() {
    let hour = Duration::from_secs(3600);
    for (server_time, at, revision) in [
        // The server is an hour ahead: what is due in half an hour by this machine's clock is due.
        (wall().plus(hour), wall().plus(hour / 2), 2),
        // It is an hour behind: what was due half an hour ago by this machine's clock is not.
        (wall().minus(hour), wall().minus(hour / 2), 1),
    ] {
        let first =
            v1::WatchSnapshotsResponse { server_time: Some(timestamp_to_wire(server_time)), ..full(1, &[pending(at)]) };
        let server = Scripted::with(first).await;
        let client = server.client().await;
        let offset = client.status().clock_offset_micros;
        assert_eq!(client.evaluate("colour", &user()).revision(), revision, "offset {offset}");
        assert!(client.now() >= server_time);
    }
}

#[tokio::test]
async fn a_pending_revision_flips_at_its_instant_without_a_message() {
    let server = Scripted::with(full(1, &[pending(wall().plus(Duration::from_millis(400)))])).await;
    let client = server.client().await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("control"));
    until("the flip", || client.evaluate("colour", &user()).variation() == Some("green")).await;
    assert_eq!(client.status().version, 1);
}

#[tokio::test]
async fn a_manual_clock_is_read_off_the_snapshot() {
    let at = Timestamp::from_micros(1_000_000);
    let two = |version, now| {
        let starts = vec![u64::MAX, 1];
        let effective = vec![Timestamp::from_micros(0), at];
        let manual_now = Some(Timestamp::from_micros(now));
        Made { starts, effective, manual_now, ..Made::new("colour", version) }.wire()
    };
    let server = Scripted::with(full(1, &[two(1, 999_999)])).await;
    let client = server.client().await;
    assert_eq!(client.evaluate("colour", &user()).revision(), 1);
    server.send(change(2, &[two(2, 1_000_000)]));
    version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).revision(), 2);
}

#[tokio::test]
async fn a_paused_experiment_serves_on_and_records_nothing() {
    let server = Scripted::with(full(1, &[Made { life: Status::Paused, ..Made::everybody("colour", 1) }.wire()])).await;
    let client = server.client().await;
    let decision = client.assign("colour", &user());
    assert_eq!((decision.variation(), decision.reason()), (Some("green"), Reason::Paused));
    assert_eq!(client.status().queue_depth, 0);
}

#[tokio::test]
async fn without_a_server_the_bootstrap_file_stands_in_until_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let server = Scripted::with(full(3, &[Made::everybody("colour", 3).wire()])).await;
    let client = server.builder().bootstrap_file(&path).build().unwrap();
    assert!(client.ready(SOON).await);
    until("the file is written", || path.exists()).await;
    server.send(change(4, &[Made::everybody("size", 4).wire()]));
    version(&client, 4).await;
    assert!(client.shutdown(SOON).await.is_complete());
    let address = server.address;
    drop((client, server));
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["snapshot"], "nothing is left beside it");

    let client = quick(&format!("http://{address}")).bootstrap_file(&path).build().unwrap();
    assert!(client.ready(SOON).await);
    let status = client.status();
    assert_eq!((status.source, status.connected, status.version), (Source::Bootstrap, false, 4));
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("green"));
    assert_eq!(client.evaluate("size", &user()).variation(), Some("green"), "a shutdown writes what came last");

    let server = Scripted::at(address).await;
    server.first(change(5, &[Made::everybody("shape", 5).wire()]));
    version(&client, 5).await;
    let asked = server.watched(1).await;
    assert_eq!((asked[0].resume_version, asked[0].store_id.as_str()), (4, "store-a"));
    assert_eq!((client.status().source, client.status().experiments), (Source::Server, 3));
}

#[tokio::test]
async fn a_bootstrap_file_that_is_not_whole_is_reported_and_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let server = Scripted::with(full(3, &[Made::everybody("colour", 3).wire()])).await;
    let client = server.builder().bootstrap_file(&path).build().unwrap();
    assert!(client.ready(SOON).await);
    let _ = client.shutdown(SOON).await;
    let whole = std::fs::read(&path).unwrap();
    let nobody = nobody().await;
    for broken in [&whole[..whole.len() - 1], b"not a snapshot", b""] {
        std::fs::write(&path, broken).unwrap();
        let client = quick(&format!("http://{nobody}")).bootstrap_file(&path).build().unwrap();
        until("the fault is told", || client.status().bootstrap_error.is_some()).await;
        assert_eq!(client.evaluate("colour", &user()).reason(), Reason::NotReady);
    }
    let client = quick(&format!("http://{nobody}")).bootstrap_file(folder.path().join("none")).build().unwrap();
    assert!(!client.ready(Duration::from_millis(50)).await, "no file is no fault");
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_does_not_keep_the_bootstrap_file_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let server = Scripted::with(full(3, &[Made::everybody("colour", 3).wire()])).await;
    let client = server.builder().bootstrap_file(&path).build().unwrap();
    assert!(client.ready(SOON).await);
    let _ = client.shutdown(SOON).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    let client = quick(&url).connect_timeout(Duration::from_millis(50)).bootstrap_file(&path).build().unwrap();
    assert!(client.ready(SOON).await);
    assert_eq!(client.status().source, Source::Bootstrap);
}

#[test]
fn a_client_built_outside_of_tokio_runs_on_a_thread_of_its_own() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])));
    let client = server.builder().build().unwrap();
    let deadline = Instant::now() + SOON;
    while client.status().version == 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(client.assign("colour", &user()).string("blue"), "green");
    let flushed = runtime.block_on(client.flush(SOON));
    assert_eq!((flushed.left, flushed.sent), (0, 1));
}

#[test]
fn an_address_or_a_token_that_cannot_be_used_is_told_at_once() {
    for address in ["", "127.0.0.1:7070", "ftp://host", "http://", "https://host:1", "http://a b"] {
        let error = Client::builder(address).build().unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{address:?}: {error}");
    }
    let error = Client::builder("http://127.0.0.1:1").token("a\nb").build().unwrap_err();
    assert!(matches!(error, Error::Token));
}
