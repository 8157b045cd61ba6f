//! Whole replays against a server that breaks.

use std::fmt::Write;
use std::path::Path;

use clap::Parser;

use super::*;
use crate::fake::Fake;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ReplayArgs,
}

/// 900 customers in three arms by turns, of whom every fifth visits.
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

async fn replayed(fake: &Fake, log: &Path, more: &[&str]) -> anyhow::Result<Replayed> {
    let server = fake.start().await;
    let log = log.to_string_lossy();
    let usual = [("--control", "No E-Mail"), ("--outcome", "visit,spend"), ("--salt", "s"), ("--rows-per-day", "90")];
    let mut words = vec!["replay", &log];
    words.extend(usual.iter().filter(|(flag, _)| !more.contains(flag)).flat_map(|(flag, value)| [*flag, *value]));
    words.extend(more);
    let args = Line::try_parse_from(words).unwrap().args;
    replay(&args, &server, Output { json: true }).await
}

#[tokio::test]
async fn matching_rows_count_once_each_and_the_policy_grows_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let fake = Fake::default();
    let done = replayed(&fake, &log, &[]).await.unwrap();
    let used: u64 = done.seen.used.iter().map(|t| t.rows).sum();
    assert_eq!((used + done.seen.skipped, done.earlier), (900, 0));
    assert!(done.seen.refused.is_empty());
    let inner = fake.inner();
    assert_eq!(inner.exposures.len() as u64, used);
    let experiment = &inner.experiments["trial"];
    // Ten days, and the decision after the last.
    assert_eq!(experiment.generation().unwrap().revisions.len(), 11);
    for (tally, arm) in done.seen.used.iter().zip(&done.results.arms) {
        let metric = &arm.metrics[0];
        assert_eq!((metric.units, metric.converted), (tally.rows, tally.converted));
    }
}

#[tokio::test]
async fn a_server_that_breaks_over_and_over_gets_the_very_same_replay() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let (calm, rough) = (Fake::default(), Fake::default());
    let undisturbed = replayed(&calm, &log, &[]).await.unwrap();
    // Not while the experiment is declared: that is not tried again.
    replayed(&rough, &log, &["--limit", "1"]).await.unwrap();
    rough.inner().break_every = 3;
    rough.inner().calls = 0;
    let disturbed = replayed(&rough, &log, &[]).await.unwrap();
    assert!(calm.inner().exposures == rough.inner().exposures, "other exposures");
    assert!(calm.inner().outcomes == rough.inner().outcomes, "other outcomes");
    assert!(rough.inner().events > calm.inner().events, "nothing was sent again");
    assert_eq!(undisturbed.results.arms, disturbed.results.arms);
}

#[tokio::test]
async fn a_replay_that_was_broken_off_goes_on_where_the_clock_stands() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let (whole, halved) = (Fake::default(), Fake::default());
    replayed(&whole, &log, &[]).await.unwrap();
    halved.inner().dead_after = Some(17);
    let broken = replayed(&halved, &log, &["--retry-for", "0s"]).await.unwrap_err();
    assert!(format!("{broken:#}").contains("goes on where the clock stands"), "{broken:#}");
    halved.inner().dead_after = None;
    let rest = replayed(&halved, &log, &[]).await.unwrap();
    assert!(rest.earlier > 0 && rest.earlier.is_multiple_of(90), "{}", rest.earlier);
    assert!(whole.inner().exposures == halved.inner().exposures, "other exposures");
    assert!(whole.inner().outcomes == halved.inner().outcomes, "other outcomes");
}

#[tokio::test]
async fn another_experiment_under_the_same_key_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = write_log(folder.path());
    let fake = Fake::default();
    replayed(&fake, &log, &["--limit", "10"]).await.unwrap();
    let fault = replayed(&fake, &log, &["--floor", "20%"]).await.unwrap_err().to_string();
    assert!(fault.contains("floor: 0.05 → 0.2"), "{fault}");
    let fault = replayed(&fake, &log, &["--arm-column", "visit", "--control", "0"]).await.unwrap_err().to_string();
    assert!(fault.contains("has the variations"), "{fault}");
}
