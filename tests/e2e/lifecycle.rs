//! The life cycle of an experiment through the CLI, with text output for people and JSON for programs.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, at_second, metric};

const TOML: &str = r#"
key = "checkout"
description = "a shorter form"
owner = "shop"
salt = "s1"

[policy]
kind = "manual"
floor = 0.05

[[variations]]
key = "control"
payload = "long"

[[variations]]
key = "short"
payload = "short"
share = 0.10

[[variations]]
key = "one-page"
payload = "one page"
share = 0.10

[[metrics]]
key = "bought"
event = "purchase"
decision = true
"#;

struct Terminal {
    server: Server,
    folder: TempDir,
}

impl Terminal {
    async fn new() -> Self {
        Self { server: Server::start().await, folder: TempDir::new().expect("a folder") }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("the file can be written");
        path
    }

    /// The text output of a command.
    async fn text(&self, args: &[&str]) -> String {
        self.server.cli(args).await.ok().stdout
    }

    /// The JSON output of a command.
    async fn json(&self, args: &[&str]) -> Value {
        self.server.cli(&[args, &["--json"]].concat()).await.ok().json()
    }

    async fn experiment(&self, args: &[&str]) -> Value {
        self.json(&[&["experiment"], args].concat()).await
    }

    async fn etag(&self) -> String {
        self.server.api().get("checkout").await.etag
    }
}

fn share(experiment: &Value, variation: &str) -> f64 {
    let variations = experiment["variations"].as_array().expect("variations");
    variations
        .iter()
        .find(|v| v["key"] == variation)
        .expect("the variation exists")
        .get("share")
        .and_then(Value::as_f64)
        .expect("a share")
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_is_idempotent_and_a_dry_run_changes_nothing() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    let file = file.to_str().expect("UTF-8");
    let dry = t.text(&["apply", "-f", file, "--dry-run"]).await;
    assert!(dry.contains("would be created"), "{dry}");
    let none = t.json(&["experiment", "list"]).await;
    assert_eq!(none["experiments"], json!([]));

    let made = t.text(&["apply", "-f", file]).await;
    assert!(made.contains("checkout: created"), "{made}");
    let etag = t.etag().await;
    let again = t.text(&["apply", "-f", file]).await;
    assert!(again.contains("checkout: unchanged"), "{again}");
    assert_eq!(t.etag().await, etag);

    let changed = t.file("changed.toml", &TOML.replace("a shorter form", "a much shorter form"));
    let changed = changed.to_str().expect("UTF-8");
    let dry = t.text(&["apply", "-f", changed, "--dry-run"]).await;
    assert!(dry.contains("would be updated") && dry.contains("a much shorter form"), "{dry}");
    assert_eq!(t.etag().await, etag);
    let done = t.json(&["apply", "-f", changed]).await;
    assert_eq!(done["experiments"][0]["result"], "updated");
    assert_ne!(t.etag().await, etag);
    let last = t.json(&["apply", "-f", changed]).await;
    assert_eq!(
        (&last["experiments"][0]["result"], &last["experiments"][0]["changes"]),
        (&json!("unchanged"), &json!([]))
    );
    let audit = t.experiment(&["audit", "checkout"]).await;
    let actions: Vec<&str> =
        audit["entries"].as_array().expect("entries").iter().filter_map(|e| e["action"].as_str()).collect();
    assert_eq!(actions, ["update", "create"], "newest first, and no entry without a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_and_json_files_are_equivalent_to_toml() {
    let t = Terminal::new().await;
    let toml = t.file("checkout.toml", TOML);
    t.text(&["apply", "-f", toml.to_str().expect("UTF-8")]).await;
    let yaml = "
key: checkout
description: a shorter form
owner: shop
salt: s1
policy: {kind: manual, floor: 0.05}
variations:
  - {key: control, payload: long}
  - {key: short, payload: short, share: 0.10}
  - {key: one-page, payload: one page, share: 0.10}
metrics:
  - {key: bought, event: purchase, decision: true}
";
    let yaml = t.file("checkout.yaml", yaml);
    assert!(t.text(&["apply", "-f", yaml.to_str().expect("UTF-8")]).await.contains("unchanged"));
    let doc = json!({
        "key": "checkout", "description": "a shorter form", "owner": "shop", "salt": "s1",
        "policy": {"kind": "manual", "floor": 0.05},
        "variations": [
            {"key": "control", "payload": "long"}, {"key": "short", "payload": "short", "share": 0.10},
            {"key": "one-page", "payload": "one page", "share": 0.10},
        ],
        "metrics": [{"key": "bought", "event": "purchase", "decision": true}],
    });
    let doc = t.file("checkout.json", &doc.to_string());
    assert!(t.text(&["apply", "-f", doc.to_str().expect("UTF-8")]).await.contains("unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn full_life_cycle_works_through_the_cli() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    t.text(&["apply", "-f", file.to_str().expect("UTF-8")]).await;
    assert_eq!(t.experiment(&["get", "checkout"]).await["state"], "draft");
    assert_eq!(t.json(&["assign", "checkout", "alice"]).await["reason"], "not_started");

    let started = t.text(&["experiment", "start", "checkout", "--actor", "ann"]).await;
    assert!(started.contains("checkout is running, run 1"), "{started}");

    // Assignments by the server, and by an SDK in another process.
    let mut assigned = Vec::new();
    for i in 0..25 {
        let unit = format!("u{i}");
        let answer = t.json(&["assign", "checkout", &unit]).await;
        assert_eq!(answer["reason"], "split");
        assigned.push((unit, answer["variation"].clone(), answer["point"].clone()));
    }
    for (unit, variation, point) in assigned.iter().take(3) {
        let local = t.json(&["assign", "checkout", unit, "--local"]).await;
        assert_eq!((&local["variation"], &local["point"]), (variation, point));
    }

    // One unit is exposed and buys. The event id makes sure that the purchase is counted once.
    let exposed = t.json(&["record", "exposure", "--experiment", "checkout", "--unit", "u0"]).await;
    assert_eq!((&exposed["accepted"], &exposed["variation"]), (&json!(1), &assigned[0].1));
    let bought = ["record", "outcome", "--unit", "u0", "--event", "purchase", "--value", "12.5", "--event-id", "o-1"];
    for _ in 0..2 {
        assert_eq!(t.json(&bought).await["accepted"], 1);
    }
    let events = assigned[1..].iter().map(|(unit, ..)| {
        json!({"unit": unit, "event": "purchase", "value": 1, "event_id": format!("p-{unit}")}).to_string()
    });
    let events = t.file("events.jsonl", &events.collect::<Vec<_>>().join("\n"));
    assert_eq!(t.json(&["record", "-f", events.to_str().expect("UTF-8")]).await["accepted"], 24);
    let results = t.server.api().results("checkout").await;
    let variation = assigned[0].1.as_str().expect("a variation");
    let counted = metric(&results, variation, "bought");
    assert_eq!(
        (counted.units, counted.converted, counted.outcomes),
        (1, 1, 1),
        "only the purchase after the exposure counts, once"
    );
    let shown = t.json(&["results", "checkout", "--wait"]).await;
    assert_eq!((&shown["units_moved"], &shown["backlog"]), (&json!(0), &json!(0)));
    let text = t.text(&["results", "checkout", "--wait"]).await;
    assert!(text.contains(variation) && text.contains("units moved between variations"), "{text}");

    // Growth moves no unit out of a variation, and a restore returns the same units.
    let grown = t.experiment(&["grow", "checkout", "short", "--to", "40%"]).await;
    assert_eq!((share(&grown, "short"), &grown["revision"]), (0.4, &json!(2)));
    let twice = t.text(&["experiment", "grow", "checkout", "one-page", "--times", "2"]).await;
    assert!(twice.contains("one-page 10.0% → 20.0%"), "{twice}");
    let killed = t.text(&["experiment", "kill", "checkout", "short"]).await;
    assert!(killed.contains("short is killed"), "{killed}");
    for (unit, variation, _) in assigned.iter().filter(|(_, v, _)| v == "short") {
        assert_eq!(t.json(&["assign", "checkout", unit]).await["variation"], "control", "{variation}");
    }
    t.text(&["experiment", "restore", "checkout", "short"]).await;
    for (unit, variation, _) in assigned.iter().filter(|(_, v, _)| v != "control").take(4) {
        assert_eq!(&t.json(&["assign", "checkout", unit]).await["variation"], variation);
    }
    let all = t.server.cli(&["experiment", "kill", "checkout"]).await;
    assert_eq!(all.code(), Some(2), "killing the experiment needs a confirmation: {all:?}");
    assert!(all.stderr.contains("--yes"), "{}", all.stderr);
    assert_eq!(t.experiment(&["kill", "checkout", "--yes"]).await["killed"], true);
    assert_eq!(t.json(&["assign", "checkout", "u1"]).await["reason"], "killed");
    assert_eq!(t.experiment(&["restore", "checkout"]).await["killed"], false);

    assert_eq!(t.experiment(&["pause", "checkout"]).await["state"], "paused");
    assert_eq!(t.json(&["assign", "checkout", "u1"]).await["reason"], "paused");
    assert_eq!(t.experiment(&["resume", "checkout"]).await["state"], "running");

    let revisions = t.experiment(&["revisions", "checkout"]).await;
    let causes: Vec<&str> =
        revisions["revisions"].as_array().expect("revisions").iter().filter_map(|r| r["cause"].as_str()).collect();
    assert_eq!(causes, ["start", "grown", "grown"]);
    let explained = t.text(&["experiment", "explain", "checkout", "2"]).await;
    assert!(explained.contains("grown by"), "{explained}");

    let restarted = t.experiment(&["restart", "checkout", "--yes"]).await;
    assert_eq!((&restarted["generation"], &restarted["revision"]), (&json!(2), &json!(1)));
    assert_ne!(restarted["generation_salt"], "s1");
    assert_eq!(t.json(&["results", "checkout", "--wait"]).await["generation"], 2);
    assert_eq!(t.json(&["results", "checkout", "--wait", "--generation", "1"]).await["generation"], 1);

    let concluded = t.experiment(&["conclude", "checkout", "--ship", "short", "--yes"]).await;
    assert_eq!((&concluded["state"], &concluded["shipped"]), (&json!("concluded"), &json!("short")));
    let answer = t.json(&["assign", "checkout", "u1"]).await;
    assert_eq!((&answer["variation"], &answer["reason"]), (&json!("short"), &json!("concluded")));
    assert_eq!(t.experiment(&["archive", "checkout", "--yes"]).await["state"], "archived");
    assert_eq!(t.json(&["assign", "checkout", "u1"]).await["variation"], "short");

    let audit = t.experiment(&["audit", "checkout", "--limit", "100"]).await;
    let entries = audit["entries"].as_array().expect("entries");
    let mut actions: Vec<&str> = entries.iter().filter_map(|e| e["action"].as_str()).collect();
    actions.reverse();
    assert_eq!(
        actions,
        [
            "create", "start", "grow", "grow", "kill", "restore", "kill", "restore", "pause", "resume", "restart",
            "conclude", "archive",
        ]
    );
    assert_eq!(entries[entries.len() - 2]["actor"], "ann");
    assert!(entries.iter().all(|e| e["to"].is_object()), "each entry has the new state");
    assert!(t.text(&["experiment", "audit", "checkout"]).await.lines().count() >= 13);
    assert!(t.text(&["experiment", "list"]).await.contains("archived"));
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_clock_is_advanced_through_the_cli() {
    let t = Terminal::new().await;
    let manual = TOML.replace("[policy]", "[clock]\nkind = \"manual\"\nstart = \"2026-01-01T00:00:00Z\"\n\n[policy]");
    let file = t.file("checkout.toml", &manual);
    t.text(&["apply", "-f", file.to_str().expect("UTF-8"), "--start"]).await;
    let later = t.experiment(&["advance", "checkout", "--by", "36h"]).await;
    assert_eq!(later["experiment"]["now"], "2026-01-02T12:00:00Z");
    t.text(&["experiment", "advance", "checkout", "--to", "2026-02-01"]).await;
    assert_eq!(t.server.api().get("checkout").await.now, Some(at_second(1_769_904_000)));
    let back = t.server.cli(&["experiment", "advance", "checkout", "--to", "2026-01-15", "--json"]).await;
    assert_eq!(back.code(), Some(1));
    let error: Value = serde_json::from_str(&back.stderr).expect("an error as JSON on standard error");
    assert_eq!(error["error"]["code"], "FAILED_PRECONDITION");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_each_change_as_it_happens() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    t.text(&["apply", "-f", file.to_str().expect("UTF-8"), "--start"]).await;
    let watch = t.server.start_cli(&["watch", "checkout", "--json"]);
    let printed = async |word: &str| {
        crate::harness::eventually(&format!("watch prints {word}"), async || {
            watch.output().contains(word).then_some(())
        })
        .await;
    };
    printed("\"running\"").await;
    t.text(&["experiment", "grow", "checkout", "short", "--to", "20%"]).await;
    printed("\"revision\"").await;
    t.text(&["experiment", "kill", "checkout", "short"]).await;
    printed("\"killed\"").await;
    t.text(&["experiment", "restore", "checkout", "short"]).await;
    printed("\"restored\"").await;
    for line in watch.output().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

/// An outcome without an id gets one from its content, so it is the same event on any line and in any file.
#[tokio::test(flavor = "multi_thread")]
async fn resent_event_file_counts_each_event_once() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    t.text(&["apply", "-f", file.to_str().expect("UTF-8"), "--start"]).await;
    t.json(&["record", "exposure", "--experiment", "checkout", "--unit", "dave"]).await;
    let line = |unit: &str, value: f64, at: &str| {
        json!({"unit": unit, "event": "purchase", "value": value, "occurred_at": at}).to_string()
    };
    let started = jiff::Timestamp::now();
    let now = |seconds: i64| (started + jiff::SignedDuration::from_secs(seconds)).to_string();
    let (first, second) = (line("dave", 1.0, &now(1)), line("dave", 2.0, &now(2)));
    let bad = json!({"unit": "dave", "event": "purchase", "value": 1e12, "occurred_at": now(1)}).to_string();
    let without_time = json!({"unit": "dave", "event": "purchase", "value": 9}).to_string();
    let record = async |name: &str, lines: &[&str]| {
        let file = t.file(name, &lines.join("\n"));
        t.server.cli(&["record", "-f", file.to_str().expect("UTF-8"), "--json"]).await
    };
    let bought = async || {
        let results = t.server.api().results("checkout").await;
        results
            .arms
            .iter()
            .flat_map(|arm| &arm.metrics)
            .filter(|m| m.metric == "bought")
            .map(|m| m.outcomes)
            .sum::<u64>()
    };
    let refused = record("events.jsonl", &[&first, &bad, &without_time, &second]).await;
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("2 events refused") && refused.stderr.contains("duplicates are ignored"),
        "{refused:?}"
    );
    assert!(refused.stdout.contains("occurred_at"), "{refused:?}");
    assert_eq!(bought().await, 2);
    record("events.jsonl", &[&first, &second]).await.ok();
    assert_eq!(bought().await, 2, "the same events on other lines");
    record("more.jsonl", &[&second, &line("dave", 2.0, &now(3)), &second]).await.ok();
    assert_eq!(bought().await, 4, "one event at another time, and one that is twice in one file");
}
