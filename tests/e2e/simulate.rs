//! `inroad simulate`: the real binary, from a scenario's name to a page, tables and numbers, without a server.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Ended, Process, inroad};

async fn simulate(folder: &TempDir, options: &[&str]) -> Ended {
    let mut command = Command::new(inroad());
    command.current_dir(folder.path()).arg("simulate").args(options);
    Process::start(&mut command).finish(Duration::from_secs(120)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_becomes_a_page_and_numbers_and_the_same_again() {
    let folder = TempDir::new().expect("a folder");
    let run = async |report: &str, threads: &str| {
        let more = ["--report", report, "--table", "policies.csv", "--runs-table", "runs.csv", "--json"];
        let options = [&["s1", "--replications", "2", "--threads", threads], more.as_slice()].concat();
        simulate(&folder, &options).await.ok().json()
    };
    let (one, two) = (run("one.html", "1").await, run("two.html", "2").await);
    assert_eq!(one, two, "threads change nothing");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
    assert!(read("one.html") == read("two.html"), "another page");

    let page = read("one.html");
    for text in ["S1 classic", "growth", "equal", "thompson", "inroad simulate s1 --replications 2"] {
        assert!(page.contains(text), "{text} is not on the page");
    }
    assert!(!page.contains("<script") && !page.contains("://"), "the page needs something from outside");
    let summaries = one["simulations"][0]["summaries"].as_array().expect("summaries");
    assert_eq!(summaries.iter().map(|s| &s["policy"]).collect::<Vec<_>>(), ["growth", "equal", "thompson"]);
    assert_eq!(summaries[0]["moved_between_variations"], 0);
    assert!(read("policies.csv").lines().skip(1).all(|line| line.starts_with("s1,")));
    assert_eq!(read("runs.csv").lines().count(), 1 + 2 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_a_table_and_faults_with_a_way_out() {
    let folder = TempDir::new().expect("a folder");
    let ended = simulate(&folder, &["s1", "--replications", "1", "--policies", "equal"]).await.ok();
    assert!(ended.stdout.contains("equal") && ended.stdout.contains("regret"), "{}", ended.stdout);
    assert!(ended.stderr.is_empty(), "no bar where nobody looks: {}", ended.stderr);
    let listed = simulate(&folder, &["--list"]).await.ok();
    assert!(listed.stdout.contains("s1") && listed.stdout.contains("S1 classic"), "{}", listed.stdout);

    let unknown = simulate(&folder, &["s99", "--json"]).await;
    assert_eq!(unknown.code(), Some(2));
    let error: Value = serde_json::from_str(&unknown.stderr).expect("JSON");
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("s1, s2")), "{error}");
    let nowhere = simulate(&folder, &["s1", "--report", "no/such/folder.html"]).await;
    assert_eq!((nowhere.code(), nowhere.stdout.as_str()), (Some(2), ""), "{}", nowhere.stderr);
}
