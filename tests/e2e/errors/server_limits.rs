//! Limits of the server: calls beyond them are refused with a remedy, and nothing is lost.

use inroad_wire::v1;
use tempfile::TempDir;
use tonic_types::StatusExt;

use crate::harness::{Refusal, Server, Setup, context, eventually, flag};

#[tokio::test(flavor = "multi_thread")]
async fn stream_beyond_the_limit_is_refused_with_a_retry_delay() {
    let setup = Setup { options: vec!["--max-streams".to_owned(), "2".to_owned()], ..Default::default() };
    let server = Server::with(setup).await;
    let api = server.api();
    let open = async || api.assignments().watch_snapshots(v1::WatchSnapshotsRequest::default()).await;
    let (first, _second) = (open().await.expect("the first stream"), open().await.expect("the second stream"));
    let status = open().await.expect_err("the third stream must fail");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    drop(first);
    eventually("another stream can be opened", async || open().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_assignments_obey_the_backlog_limit_and_the_request_timeout() {
    let folder = TempDir::new().expect("a folder");
    let setup = |options: &[&str]| Setup {
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        folder: Some(folder.path().to_owned()),
        ..Default::default()
    };
    let mut unlimited = Server::with(setup(&[])).await;
    unlimited.api().launch(flag("flag", &[("a", 0.5)])).await;
    unlimited.send_sigterm();
    unlimited.wait_until_stopped().await.ok();
    drop(unlimited);
    let assign = |mode: v1::ExposureMode| v1::AssignRequest {
        experiment: "flag".to_owned(),
        context: Some(context("u0")),
        exposure: mode.into(),
    };

    let mut full = Server::with(setup(&["--max-backlog", "0"])).await;
    let refusal = Refusal::from_result(full.api().assignments().assign(assign(v1::ExposureMode::Durable)).await);
    assert_eq!((refusal.code.as_str(), refusal.reason.as_str()), ("RESOURCE_EXHAUSTED", "BACKLOG_FULL"));
    let answer = full
        .api()
        .assignments()
        .assign(assign(v1::ExposureMode::None))
        .await
        .expect("an assignment without an exposure succeeds");
    assert!(!answer.into_inner().variation.is_empty());
    full.send_sigterm();
    full.wait_until_stopped().await.ok();
    drop(full);

    // An open write transaction blocks all other writes to the log.
    let impatient = Server::with(setup(&["--request-timeout", "200ms"])).await;
    let log = rusqlite::Connection::open(folder.path().join("log.db")).expect("the log");
    log.execute_batch("BEGIN IMMEDIATE").expect("the transaction starts");
    let refusal = Refusal::from_result(impatient.api().assignments().assign(assign(v1::ExposureMode::Durable)).await);
    assert_eq!((refusal.code.as_str(), refusal.reason.as_str()), ("DEADLINE_EXCEEDED", "TOO_SLOW"));
    assert!(refusal.message.contains("--request-timeout"), "{refusal:?}");
    log.execute_batch("ROLLBACK").expect("the transaction ends");
}
