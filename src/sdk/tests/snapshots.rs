//! Snapshots: how a client receives them, which it refuses, and what it answers meanwhile.

mod support;

use std::time::{Duration, Instant};

use inroad_assignment::experiment::{KillTarget, Kills, Status};
use inroad_assignment::{Arm, Context, Timestamp};
use inroad_sdk::{Client, Error, Reason, Source};
use inroad_wire::{timestamp_to_wire, v1};
use support::{
    ScriptedServer, TIMEOUT, TestExperiment, fast_builder, full_snapshot, snapshot_changes, unused_address, user,
    wait_for_version, wait_until, wall_clock_now,
};

#[tokio::test]
async fn before_the_first_snapshot_the_default_is_returned_and_nothing_is_recorded() {
    let client = fast_builder(&format!("http://{}", unused_address().await)).build().unwrap();
    let decision = client.assign("colour", &user());
    assert_eq!((decision.reason(), decision.string("blue"), decision.variation()), (Reason::NotReady, "blue", None));
    assert!(!client.ready(Duration::from_millis(50)).await);
    assert_eq!(client.status().queue_depth, 0);
    assert_eq!(client.status().source, Source::None);
}

#[tokio::test]
async fn decision_has_a_typed_value_and_a_mismatched_type_returns_the_default() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
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
async fn broken_stream_is_reopened_from_the_last_version() {
    let server = ScriptedServer::with_first_message(full_snapshot(7, &[TestExperiment::new("colour", 7).wire()])).await;
    let client = server.builder().client_name("shop").token("secret").build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    let requests = server.wait_for_streams(1).await;
    assert_eq!(
        (requests[0].resume_version, requests[0].store_id.as_str(), requests[0].client_name.as_str()),
        (0, "", "shop")
    );
    assert_eq!(server.script.authorization.lock().unwrap().as_deref(), Some("Bearer secret"));
    server.set_first_message(snapshot_changes(8, &[TestExperiment::all_in_variation("size", 8).wire()]));
    server.break_streams();
    wait_for_version(&client, 8).await;
    let requests = server.wait_for_streams(2).await;
    assert_eq!((requests[0].resume_version, requests[0].store_id.as_str()), (7, "store-a"));
    assert_eq!(client.snapshot().experiments().len(), 2, "earlier experiments are kept");
    wait_until("the client is connected again", || client.status().connected && client.status().connections == 2).await;
}

#[tokio::test]
async fn silent_stream_is_reopened() {
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[])).await;
    let client = server.builder().silence_timeout(Duration::from_millis(60)).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    server.wait_for_streams(3).await;
    assert!(client.status().last_error.unwrap().contains("sent nothing for too long"));
}

#[tokio::test]
async fn state_that_takes_points_from_a_variation_is_refused_and_the_old_one_stays() {
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment::all_in_variation("colour", 1).wire(), TestExperiment::new("size", 1).wire()],
    ))
    .await;
    let client = server.client().await;
    let shrunk = TestExperiment { first_revision: 2, ..TestExperiment::new("colour", 2) };
    server.send(snapshot_changes(2, &[shrunk.wire(), TestExperiment::all_in_variation("shape", 2).wire()]));
    wait_for_version(&client, 2).await;
    assert_eq!(client.evaluate("shape", &user()).variation(), Some("green"), "the other experiments are applied");
    let decision = client.evaluate("colour", &user());
    assert_eq!((decision.variation(), decision.revision()), (Some("green"), 1));
    let status = client.status();
    assert_eq!((status.refusals, status.refused.len()), (1, 1));
    assert_eq!(status.refused[0].experiment, "colour");
    assert!(status.refused[0].reason.contains("moves points"), "{:?}", status.refused);

    let good = TestExperiment { first_revision: 2, ..TestExperiment::all_in_variation("colour", 3) };
    server.send(snapshot_changes(3, &[good.wire()]));
    wait_for_version(&client, 3).await;
    assert_eq!(client.evaluate("colour", &user()).revision(), 2);
    assert!(client.status().refused.is_empty(), "a valid state clears the refusal");
    assert_eq!(client.status().refusals, 1);
}

#[tokio::test]
async fn invalid_state_is_refused() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.client().await;
    let mut broken = TestExperiment::all_in_variation("colour", 2).wire();
    broken.revisions[0].buckets[1].owner = 9;
    server.send(snapshot_changes(2, &[broken]));
    wait_for_version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("green"));
    assert_eq!(client.status().refusals, 1);
}

#[tokio::test]
async fn replica_that_lags_removes_nothing() {
    let new = TestExperiment { first_revision: 2, ..TestExperiment::all_in_variation("colour", 5) };
    let server =
        ScriptedServer::with_first_message(full_snapshot(6, &[new.wire(), TestExperiment::new("size", 6).wire()]))
            .await;
    let client = server.client().await;
    server.set_first_message(full_snapshot(4, &[TestExperiment::new("colour", 3).wire()]));
    server.break_streams();
    server.wait_for_streams(2).await;
    wait_until("the old state is counted", || client.status().stale == 1).await;
    let status = client.status();
    assert_eq!((status.version, status.experiments, status.refusals), (6, 2, 0));
    assert_eq!(client.evaluate("colour", &user()).revision(), 2);
}

#[tokio::test]
async fn newer_version_of_an_older_generation_is_refused_and_listed() {
    let second = TestExperiment { generation: 2, ..TestExperiment::all_in_variation("colour", 5) };
    let server = ScriptedServer::with_first_message(full_snapshot(5, &[second.wire()])).await;
    let client = server.client().await;
    server.send(snapshot_changes(6, &[TestExperiment::new("colour", 6).wire()]));
    wait_for_version(&client, 6).await;
    assert_eq!(client.evaluate("colour", &user()).generation(), 2);
    let status = client.status();
    assert_eq!((status.stale, status.refusals), (0, 1));
    assert!(status.refused[0].reason.contains("older"), "{:?}", status.refused);
}

#[tokio::test]
async fn heartbeat_keeps_the_stream_open_and_notifies_no_subscriber() {
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::new("colour", 1).wire()])).await;
    let client = server.builder().silence_timeout(Duration::from_millis(200)).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    let mut changes = client.subscribe();
    changes.mark_unchanged();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        server.send(snapshot_changes(1, &[]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!changes.has_changed().unwrap());
    assert_eq!(server.wait_for_streams(1).await.len(), 1);
    assert!(client.status().snapshot_age.is_some_and(|age| age < Duration::from_millis(200)));
}

#[tokio::test]
async fn revision_in_effect_stays_in_effect_when_the_servers_clock_is_set_back() {
    let hour = Duration::from_secs(3_600);
    let grown = TestExperiment {
        starts: vec![u64::MAX, 1],
        effective: vec![Timestamp::from_micros(0), wall_clock_now().minus(hour)],
        ..TestExperiment::new("colour", 1)
    };
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[grown.wire()])).await;
    let client = server.client().await;
    let revisions = || client.snapshot().experiments().map(|e| e.parts().revisions.len()).sum::<usize>();
    server.send(snapshot_changes(1, &[]));
    wait_until("the past revision is forgotten", || revisions() == 1).await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("green"));
}

#[tokio::test]
async fn snapshot_of_another_lineage_replaces_everything_and_a_restart_continues() {
    let of_lineage = |lineage: &str, message| v1::WatchSnapshotsResponse { lineage_id: lineage.to_owned(), ..message };
    let first = full_snapshot(9, &[TestExperiment::all_in_variation("colour", 9).wire()]);
    let server = ScriptedServer::with_first_message(of_lineage("one", first)).await;
    let client = server.client().await;
    server.wait_for_streams(1).await;
    // The server was restarted and continues the same data.
    server.set_first_message(of_lineage("two", snapshot_changes(10, &[TestExperiment::new("size", 10).wire()])));
    server.break_streams();
    wait_for_version(&client, 10).await;
    assert_eq!(client.status().experiments, 2);
    let requests = server.wait_for_streams(1).await;
    assert_eq!((requests[0].resume_version, requests[0].lineage_id.as_str()), (9, "one"));
    // Its data was replaced by an older copy, which has lower versions and other content.
    let copy = TestExperiment { starts: vec![u64::MAX], ..TestExperiment::new("colour", 3) };
    server.set_first_message(of_lineage("three", full_snapshot(3, &[copy.wire()])));
    server.break_streams();
    wait_for_version(&client, 3).await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("control"));
    assert_eq!((client.status().experiments, client.status().refusals), (1, 0));
}

#[tokio::test]
async fn snapshot_of_another_store_replaces_everything() {
    let server = ScriptedServer::with_first_message(full_snapshot(
        9,
        &[TestExperiment::all_in_variation("colour", 9).wire(), TestExperiment::new("size", 9).wire()],
    ))
    .await;
    let client = server.client().await;
    let restored = v1::WatchSnapshotsResponse {
        store_id: "store-b".to_owned(),
        ..full_snapshot(
            2,
            &[TestExperiment { generation: 1, starts: vec![u64::MAX], ..TestExperiment::new("colour", 1) }.wire()],
        )
    };
    server.set_first_message(restored);
    server.break_streams();
    wait_for_version(&client, 2).await;
    assert_eq!(
        client.evaluate("colour", &user()).variation(),
        Some("control"),
        "not compared with the other store's history"
    );
    assert_eq!((client.status().experiments, client.status().refusals), (1, 0));
    assert_eq!(client.status().store_id, "store-b");
}

#[tokio::test]
async fn removed_experiment_is_unknown() {
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment::new("colour", 1).wire(), TestExperiment::new("size", 1).wire()],
    ))
    .await;
    let client = server.client().await;
    server.send(v1::WatchSnapshotsResponse { removed: vec!["colour".to_owned()], ..snapshot_changes(2, &[]) });
    wait_for_version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).reason(), Reason::UnknownExperiment);
    server.send(full_snapshot(3, &[]));
    wait_for_version(&client, 3).await;
    assert_eq!(client.status().experiments, 0);
}

#[tokio::test]
async fn kill_takes_effect_on_arrival() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.client().await;
    let earlier = client.evaluate("colour", &user());
    let kills = Kills::default().with_change(KillTarget::Variation(Arm::new(1).unwrap()), true);
    server
        .send(snapshot_changes(2, &[TestExperiment { kills, ..TestExperiment::all_in_variation("colour", 2) }.wire()]));
    wait_for_version(&client, 2).await;
    let decision = client.evaluate("colour", &user());
    assert_eq!((decision.variation(), decision.reason()), (Some("control"), Reason::Killed));
    assert_eq!(earlier.string("blue"), "green", "an earlier decision does not change");
    server.send(snapshot_changes(3, &[TestExperiment::all_in_variation("colour", 3).wire()]));
    wait_for_version(&client, 3).await;
    assert_eq!(
        client.evaluate("colour", &user()).variation(),
        Some("green"),
        "the restored variation has the same units"
    );
}

/// Two revisions: the variation has one point, then all points but one from `at` on.
fn with_pending_revision(at: Timestamp) -> v1::ExperimentSnapshot {
    let starts = vec![u64::MAX, 1];
    TestExperiment { starts, effective: vec![Timestamp::from_micros(0), at], ..TestExperiment::new("colour", 1) }.wire()
}

#[tokio::test]
async fn pending_revision_takes_effect_by_the_servers_clock() {
    let hour = Duration::from_secs(3600);
    for (server_time, at, revision) in [
        // The server is an hour ahead: a revision due in half an hour by this machine's clock is in effect.
        (wall_clock_now().plus(hour), wall_clock_now().plus(hour / 2), 2),
        // The server is an hour behind: a revision due half an hour ago by this machine's clock is not in effect.
        (wall_clock_now().minus(hour), wall_clock_now().minus(hour / 2), 1),
    ] {
        let first = v1::WatchSnapshotsResponse {
            server_time: Some(timestamp_to_wire(server_time)),
            ..full_snapshot(1, &[with_pending_revision(at)])
        };
        let server = ScriptedServer::with_first_message(first).await;
        let client = server.client().await;
        let offset = client.status().clock_offset_micros;
        assert_eq!(client.evaluate("colour", &user()).revision(), revision, "offset {offset}");
        assert!(client.now() >= server_time);
    }
}

#[tokio::test]
async fn pending_revision_takes_effect_without_another_message() {
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[with_pending_revision(wall_clock_now().plus(Duration::from_millis(400)))],
    ))
    .await;
    let client = server.client().await;
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("control"));
    wait_until("the flip", || client.evaluate("colour", &user()).variation() == Some("green")).await;
    assert_eq!(client.status().version, 1);
}

#[tokio::test]
async fn manual_clock_is_read_from_the_snapshot() {
    let at = Timestamp::from_micros(1_000_000);
    let two = |version, now| {
        let starts = vec![u64::MAX, 1];
        let effective = vec![Timestamp::from_micros(0), at];
        let manual_now = Some(Timestamp::from_micros(now));
        TestExperiment { starts, effective, manual_now, ..TestExperiment::new("colour", version) }.wire()
    };
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[two(1, 999_999)])).await;
    let client = server.client().await;
    assert_eq!(client.evaluate("colour", &user()).revision(), 1);
    server.send(snapshot_changes(2, &[two(2, 1_000_000)]));
    wait_for_version(&client, 2).await;
    assert_eq!(client.evaluate("colour", &user()).revision(), 2);
}

#[tokio::test]
async fn paused_experiment_is_still_served_and_records_nothing() {
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment { status: Status::Paused, ..TestExperiment::all_in_variation("colour", 1) }.wire()],
    ))
    .await;
    let client = server.client().await;
    let decision = client.assign("colour", &user());
    assert_eq!((decision.variation(), decision.reason()), (Some("green"), Reason::Paused));
    assert_eq!(client.status().queue_depth, 0);
}

#[tokio::test]
async fn bootstrap_file_is_served_until_the_server_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let server =
        ScriptedServer::with_first_message(full_snapshot(3, &[TestExperiment::all_in_variation("colour", 3).wire()]))
            .await;
    let client = server.builder().bootstrap_file(&path).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    wait_until("the file is written", || path.exists()).await;
    server.send(snapshot_changes(4, &[TestExperiment::all_in_variation("size", 4).wire()]));
    wait_for_version(&client, 4).await;
    assert!(client.shutdown(TIMEOUT).await.is_complete());
    let address = server.address;
    drop((client, server));
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["snapshot"], "no temporary file is left");

    let client = fast_builder(&format!("http://{address}")).bootstrap_file(&path).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    let status = client.status();
    assert_eq!((status.source, status.connected, status.version), (Source::Bootstrap, false, 4));
    assert_eq!(client.evaluate("colour", &user()).variation(), Some("green"));
    assert_eq!(
        client.evaluate("size", &user()).variation(),
        Some("green"),
        "the shutdown has written the latest snapshot"
    );

    let server = ScriptedServer::at(address).await;
    server.set_first_message(snapshot_changes(5, &[TestExperiment::all_in_variation("shape", 5).wire()]));
    wait_for_version(&client, 5).await;
    let requests = server.wait_for_streams(1).await;
    assert_eq!((requests[0].resume_version, requests[0].store_id.as_str()), (4, "store-a"));
    assert_eq!((client.status().source, client.status().experiments), (Source::Server, 3));
}

#[tokio::test]
async fn damaged_bootstrap_file_is_reported_and_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let server =
        ScriptedServer::with_first_message(full_snapshot(3, &[TestExperiment::all_in_variation("colour", 3).wire()]))
            .await;
    let client = server.builder().bootstrap_file(&path).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    let _ = client.shutdown(TIMEOUT).await;
    let valid = std::fs::read(&path).unwrap();
    let unused = unused_address().await;
    for broken in [&valid[..valid.len() - 1], b"not a snapshot", b""] {
        std::fs::write(&path, broken).unwrap();
        let client = fast_builder(&format!("http://{unused}")).bootstrap_file(&path).build().unwrap();
        wait_until("the error is in the status", || client.status().bootstrap_error.is_some()).await;
        assert_eq!(client.evaluate("colour", &user()).reason(), Reason::NotReady);
    }
    let client = fast_builder(&format!("http://{unused}")).bootstrap_file(folder.path().join("none")).build().unwrap();
    assert!(!client.ready(Duration::from_millis(50)).await, "a missing file is no error");
}

#[tokio::test]
async fn bootstrap_file_is_served_if_the_server_accepts_and_never_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let server =
        ScriptedServer::with_first_message(full_snapshot(3, &[TestExperiment::all_in_variation("colour", 3).wire()]))
            .await;
    let client = server.builder().bootstrap_file(&path).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    let _ = client.shutdown(TIMEOUT).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = fast_builder(&url).connect_timeout(Duration::from_millis(50)).bootstrap_file(&path).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    assert_eq!(client.status().source, Source::Bootstrap);
}

#[test]
fn client_built_outside_tokio_starts_its_own_thread() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment::all_in_variation("colour", 1).wire()],
    )));
    let client = server.builder().build().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while client.status().version == 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(client.assign("colour", &user()).string("blue"), "green");
    let flushed = runtime.block_on(client.flush(TIMEOUT));
    assert_eq!((flushed.unacknowledged, flushed.sent), (0, 1));
}

#[test]
fn invalid_address_or_token_fails_at_build() {
    for address in ["", "127.0.0.1:7070", "ftp://host", "http://", "https://host:1", "http://a b"] {
        let error = Client::builder(address).build().unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{address:?}: {error}");
    }
    let error = Client::builder("http://127.0.0.1:1").token("a\nb").build().unwrap_err();
    assert!(matches!(error, Error::Token));
}
