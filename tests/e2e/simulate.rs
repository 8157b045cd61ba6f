//! `inroad simulate`: from a scenario to a report page, CSV tables and JSON, without a server.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{FinishedProcess, Process, inroad_binary};

async fn simulate(folder: &TempDir, options: &[&str]) -> FinishedProcess {
    let mut command = Command::new(inroad_binary());
    command.current_dir(folder.path()).arg("simulate").args(options);
    Process::start(&mut command).finish(Duration::from_secs(120)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn simulation_writes_a_report_tables_and_json_independent_of_threads() {
    let folder = TempDir::new().expect("a folder");
    let run = async |report: &str, threads: &str| {
        let outputs = ["--report", report, "--table", "policies.csv", "--runs-table", "runs.csv", "--json"];
        let options = [&["s1", "--replications", "2", "--threads", threads], outputs.as_slice()].concat();
        simulate(&folder, &options).await.ok().json()
    };
    let (one, two) = (run("one.html", "1").await, run("two.html", "2").await);
    assert_eq!(one, two, "the number of threads changes nothing");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
    assert!(read("one.html") == read("two.html"), "the pages differ");

    let page = read("one.html");
    for text in ["S1 classic", "growth", "equal", "unconstrained", "inroad simulate s1 --replications 2"] {
        assert!(page.contains(text), "{text} is not on the page");
    }
    assert!(!page.contains("<script") && !page.contains("://"), "the page loads external resources");
    let summaries = one["simulations"][0]["summaries"].as_array().expect("summaries");
    assert_eq!(summaries.iter().map(|s| &s["policy"]).collect::<Vec<_>>(), ["growth", "equal", "unconstrained"]);
    assert_eq!(summaries[0]["moved_between_variations"], 0);
    assert!(read("policies.csv").lines().skip(1).all(|line| line.starts_with("s1,")));
    assert_eq!(read("runs.csv").lines().count(), 1 + 2 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulation_prints_a_table_and_helpful_errors() {
    let folder = TempDir::new().expect("a folder");
    let ended = simulate(&folder, &["s1", "--replications", "1", "--policies", "equal"]).await.ok();
    assert!(ended.stdout.contains("equal") && ended.stdout.contains("regret"), "{}", ended.stdout);
    assert!(ended.stderr.is_empty(), "no progress bar without a terminal: {}", ended.stderr);
    let listed = simulate(&folder, &["--list"]).await.ok();
    assert!(listed.stdout.contains("s1") && listed.stdout.contains("S1 classic"), "{}", listed.stdout);

    let unknown = simulate(&folder, &["s99", "--json"]).await;
    assert_eq!(unknown.code(), Some(2));
    let error: Value = serde_json::from_str(&unknown.stderr).expect("JSON");
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("s1, s2")), "{error}");
    let nowhere = simulate(&folder, &["s1", "--report", "no/such/folder.html"]).await;
    assert_eq!((nowhere.code(), nowhere.stdout.as_str()), (Some(2), ""), "{}", nowhere.stderr);
}
