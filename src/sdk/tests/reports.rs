//! What a client tells the server of itself: soon after a change, over and over, and never in anybody's way.

mod support;

use std::time::Duration;

use inroad_sdk::Outcome;
use inroad_wire::v1;
use support::{Made, Scripted, change, full, until, user, version};
use tonic::Status;

async fn reported(server: &Scripted, what: &str, holds: impl Fn(&v1::ReportClientRequest) -> bool) {
    until(what, || server.script.reports.borrow().iter().any(&holds)).await;
}

fn versions(report: &v1::ReportClientRequest) -> Vec<u64> {
    report.applied.iter().map(|applied| applied.version).collect()
}

#[tokio::test]
async fn every_version_is_told_under_the_id_that_watches() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.client().await;
    let asked = server.watched(1).await;
    assert_eq!((asked[0].client_id.as_str(), asked[0].client_id.len()), (client.id(), 32));
    assert!(asked[0].sdk.starts_with("rust/"), "{asked:?}");
    reported(&server, "the first version is told", |report| versions(report) == [1]).await;
    server.send(change(2, &[Made::everybody("colour", 2).wire()]));
    server.send(change(3, &[Made::everybody("colour", 3).wire()]));
    version(&client, 3).await;
    let told = |v: u64| move |report: &v1::ReportClientRequest| versions(report).contains(&v);
    reported(&server, "2 is told", told(2)).await;
    reported(&server, "3 is told", told(3)).await;
    let reports = server.script.reports.borrow().clone();
    assert!(
        reports.iter().all(|report| report.client_id == client.id() && report.applied.iter().all(|a| a.at.is_some()))
    );
    let all: Vec<u64> = reports.iter().rev().flat_map(versions).collect();
    assert_eq!(all, [1, 2, 3], "each once, in order");
}

#[tokio::test]
async fn a_server_that_does_not_know_of_reports_is_left_alone_until_the_stream_is_another() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    *server.script.refuse_reports.lock().unwrap() = Some(Status::unimplemented("what is that?"));
    let client = server.client().await;
    reported(&server, "it has tried", |_| true).await;
    server.send(change(2, &[Made::everybody("colour", 2).wire()]));
    version(&client, 2).await;
    assert!(client.evaluate("colour", &user()).variation().is_some());
    assert_eq!(client.status().last_error, None, "nobody is told of it");
    *server.script.refuse_reports.lock().unwrap() = None;
    server.first(change(2, &[]));
    server.interrupt();
    reported(&server, "the new stream is reported on", |report| versions(report) == [2]).await;
}

#[tokio::test]
async fn a_report_that_is_refused_is_told_again_with_the_next() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    *server.script.refuse_reports.lock().unwrap() = Some(Status::unavailable("not now"));
    let client = server.client().await;
    reported(&server, "it has tried", |_| true).await;
    *server.script.refuse_reports.lock().unwrap() = None;
    server.send(change(2, &[Made::everybody("colour", 2).wire()]));
    version(&client, 2).await;
    reported(&server, "both are told", |report| versions(report) == [1, 2]).await;
}

#[tokio::test]
async fn what_was_dropped_is_told_by_kind() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.builder().queue_capacity(1).flush_interval(Duration::from_secs(60)).build().unwrap();
    assert!(client.ready(support::SOON).await);
    client.assign("colour", &user());
    for _ in 0..3 {
        client.track(Outcome::new("purchase").by("user-1"));
    }
    client.assign("colour", &inroad_sdk::Context::new("user-2").with("user", "user-2"));
    let status = client.status();
    assert_eq!((status.dropped, status.dropped_exposures, status.dropped_outcomes), (4, 1, 3));
    reported(&server, "it is told", |report| {
        (report.dropped_exposures, report.dropped_outcomes, report.queued_events) == (1, 3, 1)
    })
    .await;
}
