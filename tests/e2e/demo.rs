//! `inroad demo`, the first command that a new user runs.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Process, inroad_binary};

fn demo(options: &[&str]) -> Process {
    Process::start(Command::new(inroad_binary()).args(["demo", "--no-keep", "--listen", "127.0.0.1:0"]).args(options))
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_prints_four_weeks_and_moves_no_unit() {
    let ended = demo(&[]).finish(Duration::from_secs(120)).await.ok();
    assert!(ended.stdout.contains("0 units moved between variations"), "{}", ended.stdout);
    assert!(ended.stdout.lines().count() >= 28, "one line per day: {}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_prints_json_on_request() {
    let run = async || {
        let ended = demo(&["--days", "4", "--seed", "3", "--json"]).finish(Duration::from_secs(60)).await.ok();
        let lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or(Value::Null));
        (ended.stdout.clone(), lines.collect::<Vec<_>>())
    };
    let (text, lines) = run().await;
    let single: Result<Value, _> = serde_json::from_str(&text);
    assert!(single.is_ok() || lines.iter().all(|line| line.is_object()), "{text}");
    assert!(!text.contains("counted by the"), "JSON output contains no text for people: {text}");
}
