//! What is over a limit of the server, or takes longer than a call may: refused with what to do, and nothing is lost.

use inroad_wire::v1;
use tempfile::TempDir;
use tonic_types::StatusExt;

use crate::harness::{Refused, Server, Setup, context, eventually, flag};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_of_the_server_is_refused_with_a_delay_after_which_to_try_again() {
    let setup = Setup { options: vec!["--max-streams".to_owned(), "2".to_owned()], ..Default::default() };
    let server = Server::with(setup).await;
    let api = server.api();
    let open = async || api.assignments().watch_snapshots(v1::WatchSnapshotsRequest::default()).await;
    let (one, _two) = (open().await.expect("one"), open().await.expect("two"));
    let status = open().await.expect_err("a third");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    drop(one);
    eventually("there is room again", async || open().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exposures_of_assignments_are_held_to_the_same_backlog() {
    let folder = TempDir::new().expect("a folder");
    let setup = |options: &[&str]| Setup {
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        folder: Some(folder.path().to_owned()),
        ..Default::default()
    };
    let mut roomy = Server::with(setup(&[])).await;
    roomy.api().launch(flag("flag", &[("a", 0.5)])).await;
    roomy.ask_to_stop();
    roomy.stopped().await.ok();
    drop(roomy);
    let assign = |mode: v1::ExposureMode| v1::AssignRequest {
        experiment: "flag".to_owned(),
        context: Some(context("u0")),
        exposure: mode.into(),
    };

    let mut full = Server::with(setup(&["--max-backlog", "0"])).await;
    let refused = Refused::by(full.api().assignments().assign(assign(v1::ExposureMode::Durable)).await);
    assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("RESOURCE_EXHAUSTED", "BACKLOG_FULL"));
    let answer =
        full.api().assignments().assign(assign(v1::ExposureMode::None)).await.expect("who only asks is answered");
    assert!(!answer.into_inner().variation.is_empty());
    full.ask_to_stop();
    full.stopped().await.ok();
    drop(full);

    // Nothing gets on disk while somebody else writes to it.
    let hasty = Server::with(setup(&["--request-timeout", "200ms"])).await;
    let log = rusqlite::Connection::open(folder.path().join("log.db")).expect("the log");
    log.execute_batch("BEGIN IMMEDIATE").expect("a turn to write");
    let refused = Refused::by(hasty.api().assignments().assign(assign(v1::ExposureMode::Durable)).await);
    assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("DEADLINE_EXCEEDED", "TOO_SLOW"));
    assert!(refused.message.contains("--request-timeout"), "{refused:?}");
    log.execute_batch("ROLLBACK").expect("it lets go");
}
