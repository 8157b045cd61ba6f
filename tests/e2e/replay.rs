//! `inroad replay`: replaying a trial on a server that is killed meanwhile gives exactly the same numbers (I5, I6), and
//! every decision can be recomputed (I7).

use std::time::Duration;

use inroad_wire::v1;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{FinishedProcess, Process, Server, eventually_within, http_get, metric_value, write_trial};

const KEY: &str = "trial";
const ROWS: usize = 24_000;
const LIMIT: Duration = Duration::from_secs(120);

fn start_replay(server: &Server, trial: &std::path::Path) -> Process {
    server.start_cli(&[
        "replay",
        trial.to_str().expect("a path in UTF-8"),
        "--experiment",
        KEY,
        "--control",
        "No E-Mail",
        "--outcome",
        "visit,conversion,spend",
        "--salt",
        "seed42",
        // Small steps, so that there are many decisions to compare.
        "--daily-cap",
        "8%",
        "--json",
    ])
}

/// Everything that a replay produces.
#[derive(Debug, PartialEq)]
struct ReplayOutput {
    report: Value,
    experiment: v1::Experiment,
    results: v1::GetResultsResponse,
    revisions: Vec<v1::Revision>,
    decisions: Vec<v1::ExplainRevisionResponse>,
}

async fn read_output(server: &Server, ended: &FinishedProcess) -> ReplayOutput {
    let api = server.api();
    let results = api.results(KEY).await;
    let revisions = api.revisions(KEY).await;
    let mut decisions = Vec::new();
    for revision in revisions.iter().filter(|revision| revision.has_decision) {
        decisions.push(api.explain(KEY, revision.number).await);
    }
    let mut experiment = api.get(KEY).await;
    // These depend on the wall clock and on the number of retries.
    (experiment.create_time, experiment.etag) = (None, String::new());
    ReplayOutput { report: ended.json(), experiment, results, revisions, decisions }
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_with_repeated_server_kills_gives_identical_results() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), ROWS, 42);

    let reference = Server::start().await;
    let ended = start_replay(&reference, &trial).finish(LIMIT).await.ok();
    let expected = read_output(&reference, &ended).await;
    let events = metric_value(reference.address, "inroad_log_head").await;
    assert!(events > 8_000.0, "{events}");
    assert_eq!(expected.results.units_moved, 0);
    assert!(expected.results.crossovers == 0, "each customer appears once");
    assert!(expected.decisions.len() >= 5, "several revisions: {:?}", expected.revisions.len());

    let mut server = Server::start().await;
    let mut replay = start_replay(&server, &trial);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let kills = 6;
    for kill in 0..kills {
        // One kill at a random point in each part of the replay.
        let at = events * (f64::from(kill) + rng.random_range(0.0..0.8)) / f64::from(kills);
        let address = server.address;
        eventually_within(LIMIT, "the replay has recorded enough events", async || {
            assert!(replay.exit_status().is_none(), "the replay gave up:\n{}", replay.output());
            (metric_value(address, "inroad_log_head").await >= at).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
        assert!(replay.exit_status().is_none(), "the replay ended before kill {kill}:\n{}", replay.output());
        server.kill();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        server.restart().await;
    }
    let ended = replay.finish(LIMIT).await.ok();
    let found = read_output(&server, &ended).await;
    assert_eq!(found.results, expected.results);
    assert_eq!(found.revisions, expected.revisions);
    assert_eq!(found.decisions, expected.decisions);
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_of_a_replay_can_be_recomputed_after_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), ROWS, 7);
    let mut server = Server::start().await;
    let ended = start_replay(&server, &trial).finish(LIMIT).await.ok();
    let before = read_output(&server, &ended).await;
    // After the restart the server has only what is on disk.
    server.kill();
    server.restart().await;
    let after = read_output(&server, &ended).await;
    assert_eq!(after, before);
    assert!(after.decisions.len() >= 5, "{:?}", after.revisions.len());
    assert_eq!(
        after.revisions.iter().map(|r| r.number).collect::<Vec<_>>(),
        Vec::from_iter(1..=after.results.revision)
    );
    for explained in &after.decisions {
        let revision = explained.revision.as_ref().expect("a revision");
        let decision = explained.decision.as_ref().expect("a decision");
        assert!(explained.reproduced, "I7: {explained:?}");
        assert_eq!((revision.cause.as_str(), decision.revision), ("policy", revision.number));
        assert!(!decision.summary.is_empty() && decision.hold.is_empty());
        serde_json::from_str::<Value>(&explained.record_json).expect("the record is JSON");
    }
    let first = server.api().explain(KEY, 1).await;
    assert!(first.decision.is_none() && first.record_json.is_empty(), "the first revision has no decision");

    // The better variation has more traffic, and control keeps its minimum share.
    let share = |key: &str| after.results.arms.iter().find(|arm| arm.variation == key).expect("an arm").share;
    assert!(share("mens-e-mail") > share("womens-e-mail"), "{:?}", after.results.arms);
    assert!(share("no-e-mail") >= 0.05);
    assert_eq!(http_get(server.address, "/readyz").await.map(|(code, _)| code), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_replay_continues_where_it_stopped() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), ROWS, 42);
    let reference = Server::start().await;
    let ended = start_replay(&reference, &trial).finish(LIMIT).await.ok();
    let expected = read_output(&reference, &ended).await;
    let events = metric_value(reference.address, "inroad_log_head").await;

    let server = Server::start().await;
    for part in [0.2, 0.6] {
        let mut replay = start_replay(&server, &trial);
        eventually_within(LIMIT, "the replay has recorded enough events", async || {
            (metric_value(server.address, "inroad_log_head").await >= events * part).then_some(())
        })
        .await;
        assert!(replay.exit_status().is_none(), "{}", replay.output());
        replay.kill();
    }
    let ended = start_replay(&server, &trial).finish(LIMIT).await.ok();
    let mut found = read_output(&server, &ended).await;
    // The report covers only the last run, so only the state of the server is compared.
    found.report = expected.report.clone();
    assert_eq!(found, expected);
}
