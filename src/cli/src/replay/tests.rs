//! Whole replays against a server that fails.

use std::fmt::Write;
use std::path::Path;

use clap::Parser;

use super::*;
use crate::test_server::TestServer;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ReplayArgs,
}

/// 900 customers in three arms in rotation; every fifth visits.
fn write_log(folder: &Path) -> PathBuf {
    let mut text = "segment,visit,spend\n".to_owned();
    for i in 0..900 {
        let arm = ["No E-Mail", "Womens E-Mail", "Mens E-Mail"][i % 3];
        let visit = u8::from(i % 5 == 0);
        writeln!(text, "{arm},{visit},{}", if i % 10 == 0 { 9.5 } else { 0.0 }).unwrap();
    }
    let path = folder.join("trial.csv");
    std::fs::write(&path, text).unwrap();
    path
}

async fn run_replay(server: &TestServer, log: &Path, more: &[&str]) -> anyhow::Result<Replayed> {
    let address = server.start().await;
    let log = log.to_string_lossy();
    let defaults =
        [("--control", "No E-Mail"), ("--outcome", "visit,spend"), ("--salt", "s"), ("--rows-per-day", "90")];
    let mut words = vec!["replay", &log];
    words.extend(defaults.iter().filter(|(flag, _)| !more.contains(flag)).flat_map(|(flag, value)| [*flag, *value]));
    words.extend(more);
    let args = Line::try_parse_from(words).unwrap().args;
    replay(&args, &address, Output { json: true }).await
}

#[tokio::test]
async fn matching_rows_count_once_and_the_policy_grows() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let server = TestServer::default();
    let done = run_replay(&server, &log, &[]).await.unwrap();
    let used: u64 = done.counts.used.iter().map(|t| t.rows).sum();
    assert_eq!((used + done.counts.skipped, done.earlier), (900, 0));
    assert!(done.counts.refused.is_empty());
    let state = server.state();
    assert_eq!(state.exposures.len() as u64, used);
    let experiment = &state.experiments["trial"];
    // One revision per day for ten days, and one after the last.
    assert_eq!(experiment.generation().unwrap().revisions.len(), 11);
    for (tally, arm) in done.counts.used.iter().zip(&done.results.arms) {
        let metric = &arm.metrics[0];
        assert_eq!((metric.units, metric.converted), (tally.rows, tally.converted));
    }
}

#[tokio::test]
async fn failing_server_gets_the_same_replay() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let (stable, failing) = (TestServer::default(), TestServer::default());
    let undisturbed = run_replay(&stable, &log, &[]).await.unwrap();
    // The server fails only after the experiment is created, because creating is not retried.
    run_replay(&failing, &log, &["--limit", "1"]).await.unwrap();
    failing.state().fail_every = 3;
    failing.state().calls = 0;
    let disturbed = run_replay(&failing, &log, &[]).await.unwrap();
    assert!(stable.state().exposures == failing.state().exposures, "exposures differ");
    assert!(stable.state().outcomes == failing.state().outcomes, "outcomes differ");
    assert!(failing.state().events > stable.state().events, "nothing was resent");
    assert_eq!(undisturbed.results.arms, disturbed.results.arms);
}

#[tokio::test]
async fn interrupted_replay_continues_from_the_simulated_time() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let (whole, halved) = (TestServer::default(), TestServer::default());
    run_replay(&whole, &log, &[]).await.unwrap();
    halved.state().fail_after = Some(17);
    let interrupted = run_replay(&halved, &log, &["--retry-for", "0s"]).await.unwrap_err();
    assert!(format!("{interrupted:#}").contains("to continue it"), "{interrupted:#}");
    halved.state().fail_after = None;
    let rest = run_replay(&halved, &log, &[]).await.unwrap();
    assert!(rest.earlier > 0 && rest.earlier.is_multiple_of(90), "{}", rest.earlier);
    assert!(whole.state().exposures == halved.state().exposures, "exposures differ");
    assert!(whole.state().outcomes == halved.state().outcomes, "outcomes differ");
}

#[tokio::test]
async fn different_experiment_with_the_same_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let server = TestServer::default();
    run_replay(&server, &log, &["--limit", "10"]).await.unwrap();
    let error = run_replay(&server, &log, &["--floor", "20%"]).await.unwrap_err().to_string();
    assert!(error.contains("floor: 0.05 → 0.2"), "{error}");
    let error = run_replay(&server, &log, &["--arm-column", "spend", "--control", "0", "--outcome", "visit"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("has the variations"), "{error}");
}
