//! `inroad replay` end to end: a whole trial through the real binary, on a server that is killed on the way, comes to
//! the same numbers to the last unit (I5, I6); and every decision on the way can be recomputed (I7).

use std::time::Duration;

use inroad_wire::v1;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Ended, Process, Server, eventually_within, gauge, get, write_trial};

const KEY: &str = "trial";
const ROWS: usize = 24_000;
const LIMIT: Duration = Duration::from_secs(120);

fn start_replay(server: &Server, trial: &std::path::Path) -> Process {
    server.cli_started(&[
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
        // In small steps, so that there are decisions to compare.
        "--daily-cap",
        "8%",
        "--json",
    ])
}

/// Everything that a replay leaves behind.
#[derive(Debug, PartialEq)]
struct Left {
    report: Value,
    experiment: v1::Experiment,
    results: v1::GetResultsResponse,
    revisions: Vec<v1::Revision>,
    decisions: Vec<v1::ExplainRevisionResponse>,
}

async fn left(server: &Server, ended: &Ended) -> Left {
    let api = server.api();
    let results = api.results(KEY).await;
    let revisions = api.revisions(KEY).await;
    let mut decisions = Vec::new();
    for revision in revisions.iter().filter(|revision| revision.has_decision) {
        decisions.push(api.explain(KEY, revision.number).await);
    }
    let mut experiment = api.get(KEY).await;
    // By the wall's clock, and by how often the calls were repeated.
    (experiment.create_time, experiment.etag) = (None, String::new());
    Left { report: ended.json(), experiment, results, revisions, decisions }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_through_a_server_that_is_killed_again_and_again_comes_to_the_very_same_numbers() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), ROWS, 42);

    let calm = Server::start().await;
    let ended = start_replay(&calm, &trial).finish(LIMIT).await.ok();
    let expected = left(&calm, &ended).await;
    let events = gauge(calm.address, "inroad_log_head").await;
    assert!(events > 8_000.0, "{events}");
    assert_eq!(expected.results.units_moved, 0);
    assert!(expected.results.crossovers == 0, "each customer comes once");
    assert!(expected.decisions.len() >= 5, "boundaries moved: {:?}", expected.revisions.len());

    let mut stormy = Server::start().await;
    let mut replay = start_replay(&stormy, &trial);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let kills = 6;
    for kill in 0..kills {
        // One kill in each part of the run, wherever in it.
        let at = events * (f64::from(kill) + rng.random_range(0.0..0.8)) / f64::from(kills);
        let address = stormy.address;
        eventually_within(LIMIT, "the replay has come so far", async || {
            assert!(replay.ended().is_none(), "the replay gave up:\n{}", replay.said());
            (gauge(address, "inroad_log_head").await >= at).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
        assert!(replay.ended().is_none(), "it was over before kill {kill}:\n{}", replay.said());
        stormy.kill();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        stormy.restart().await;
    }
    let ended = replay.finish(LIMIT).await.ok();
    let found = left(&stormy, &ended).await;
    assert_eq!(found.results, expected.results);
    assert_eq!(found.revisions, expected.revisions);
    assert_eq!(found.decisions, expected.decisions);
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revision_that_a_replay_made_explains_itself() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), ROWS, 7);
    let mut server = Server::start().await;
    let ended = start_replay(&server, &trial).finish(LIMIT).await.ok();
    let before = left(&server, &ended).await;
    // A server that knows nothing but what is on disk.
    server.kill();
    server.restart().await;
    let after = left(&server, &ended).await;
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
    assert!(first.decision.is_none() && first.record_json.is_empty(), "nobody decided the first");

    // The better arm has most of the line, and control its floor or more.
    let share = |key: &str| after.results.arms.iter().find(|arm| arm.variation == key).expect("an arm").share;
    assert!(share("mens-e-mail") > share("womens-e-mail"), "{:?}", after.results.arms);
    assert!(share("no-e-mail") >= 0.05);
    assert_eq!(get(server.address, "/readyz").await.map(|(code, _)| code), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_was_broken_off_goes_on_where_it_stopped() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), ROWS, 42);
    let calm = Server::start().await;
    let ended = start_replay(&calm, &trial).finish(LIMIT).await.ok();
    let expected = left(&calm, &ended).await;
    let events = gauge(calm.address, "inroad_log_head").await;

    let server = Server::start().await;
    for part in [0.2, 0.6] {
        let mut replay = start_replay(&server, &trial);
        eventually_within(LIMIT, "the replay has come so far", async || {
            (gauge(server.address, "inroad_log_head").await >= events * part).then_some(())
        })
        .await;
        assert!(replay.ended().is_none(), "{}", replay.said());
        replay.kill();
    }
    let ended = start_replay(&server, &trial).finish(LIMIT).await.ok();
    let mut found = left(&server, &ended).await;
    // What a run has seen itself is less, what the server knows is the same.
    found.report = expected.report.clone();
    assert_eq!(found, expected);
}
