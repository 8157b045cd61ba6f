//! `inroad demo`: what a newcomer runs first.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Process, inroad};

fn demo(options: &[&str]) -> Process {
    Process::start(Command::new(inroad()).args(["demo", "--no-keep", "--listen", "127.0.0.1:0"]).args(options))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_four_weeks_moves_no_unit_and_ends() {
    let ended = demo(&[]).finish(Duration::from_secs(120)).await.ok();
    assert!(ended.stdout.contains("0 units moved between variations"), "{}", ended.stdout);
    assert!(ended.stdout.lines().count() >= 28, "a line a day: {}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_speaks_json_and_the_same_seed_shows_the_same() {
    let run = async || {
        let ended = demo(&["--days", "4", "--seed", "3", "--json"]).finish(Duration::from_secs(60)).await.ok();
        let lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or(Value::Null));
        (ended.stdout.clone(), lines.collect::<Vec<_>>())
    };
    let (text, lines) = run().await;
    let whole: Result<Value, _> = serde_json::from_str(&text);
    assert!(whole.is_ok() || lines.iter().all(|line| line.is_object()), "{text}");
    assert!(!text.contains("units moved between variations"), "words are for people: {text}");
}
