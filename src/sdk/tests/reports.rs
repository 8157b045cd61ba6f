//! Client reports: which version a client applied and how many events it dropped, sent soon after each change.

mod support;

use std::time::Duration;

use inroad_sdk::Outcome;
use inroad_wire::v1;
use support::{ScriptedServer, TestExperiment, full_snapshot, snapshot_changes, user, wait_for_version, wait_until};
use tonic::Status;

async fn wait_for_report(server: &ScriptedServer, what: &str, matches: impl Fn(&v1::ReportClientRequest) -> bool) {
    wait_until(what, || server.script.reports.borrow().iter().any(&matches)).await;
}

fn versions(report: &v1::ReportClientRequest) -> Vec<u64> {
    report.applied.iter().map(|applied| applied.version).collect()
}

#[tokio::test]
async fn every_version_is_reported_once_under_the_client_id_of_the_stream() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.client().await;
    let requests = server.wait_for_streams(1).await;
    assert_eq!((requests[0].client_id.as_str(), requests[0].client_id.len()), (client.id(), 32));
    assert!(requests[0].sdk.starts_with("rust/"), "{requests:?}");
    wait_for_report(&server, "the first version is reported", |report| versions(report) == [1]).await;
    server.send(snapshot_changes(2, &[TestExperiment::all_in_variation("colour", 2).wire()]));
    server.send(snapshot_changes(3, &[TestExperiment::all_in_variation("colour", 3).wire()]));
    wait_for_version(&client, 3).await;
    let contains = |v: u64| move |report: &v1::ReportClientRequest| versions(report).contains(&v);
    wait_for_report(&server, "version 2 is reported", contains(2)).await;
    wait_for_report(&server, "version 3 is reported", contains(3)).await;
    let reports = server.script.reports.borrow().clone();
    assert!(
        reports.iter().all(|report| report.client_id == client.id() && report.applied.iter().all(|a| a.at.is_some()))
    );
    let all: Vec<u64> = reports.iter().rev().flat_map(versions).collect();
    assert_eq!(all, [1, 2, 3], "each version once, in order");
}

#[tokio::test]
async fn server_without_reports_is_asked_again_only_on_a_new_stream() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    *server.script.report_error.lock().unwrap() = Some(Status::unimplemented("unknown method"));
    let client = server.client().await;
    wait_for_report(&server, "a report was sent", |_| true).await;
    server.send(snapshot_changes(2, &[TestExperiment::all_in_variation("colour", 2).wire()]));
    wait_for_version(&client, 2).await;
    assert!(client.evaluate("colour", &user()).variation().is_some());
    assert_eq!(client.status().last_error, None, "a missing method is no error of the client");
    *server.script.report_error.lock().unwrap() = None;
    server.set_first_message(snapshot_changes(2, &[]));
    server.break_streams();
    wait_for_report(&server, "a report was sent on the new stream", |report| versions(report) == [2]).await;
}

#[tokio::test]
async fn refused_report_is_included_in_the_next_one() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    *server.script.report_error.lock().unwrap() = Some(Status::unavailable("not now"));
    let client = server.client().await;
    wait_for_report(&server, "a report was sent", |_| true).await;
    *server.script.report_error.lock().unwrap() = None;
    server.send(snapshot_changes(2, &[TestExperiment::all_in_variation("colour", 2).wire()]));
    wait_for_version(&client, 2).await;
    wait_for_report(&server, "both versions are reported", |report| versions(report) == [1, 2]).await;
}

#[tokio::test]
async fn dropped_events_are_reported_by_kind() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.builder().queue_capacity(1).flush_interval(Duration::from_secs(60)).build().unwrap();
    assert!(client.ready(support::TIMEOUT).await);
    client.assign("colour", &user());
    for _ in 0..3 {
        client.track(Outcome::new("purchase").targeting_key("user-1"));
    }
    client.assign("colour", &inroad_sdk::Context::new("user-2").with("user", "user-2"));
    let status = client.status();
    assert_eq!((status.dropped, status.dropped_exposures, status.dropped_outcomes), (4, 1, 3));
    wait_for_report(&server, "the dropped events are reported", |report| {
        (report.dropped_exposures, report.dropped_outcomes, report.queued_events) == (1, 3, 1)
    })
    .await;
}
