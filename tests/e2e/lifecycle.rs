//! An experiment's whole life as a person lives it at a terminal, and the same as JSON for programs.

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
        std::fs::write(&path, text).expect("the folder takes a file");
        path
    }

    /// What a command says.
    async fn says(&self, args: &[&str]) -> String {
        self.server.cli(args).await.ok().stdout
    }

    /// What it says to a program.
    async fn json(&self, args: &[&str]) -> Value {
        self.server.cli(&[args, &["--json"]].concat()).await.ok().json()
    }

    async fn experiment(&self, args: &[&str]) -> Value {
        self.json(&[&["experiment"], args].concat()).await
    }

    async fn version(&self) -> String {
        self.server.api().get("checkout").await.etag
    }
}

fn share(experiment: &Value, variation: &str) -> f64 {
    let variations = experiment["variations"].as_array().expect("variations");
    variations
        .iter()
        .find(|v| v["key"] == variation)
        .expect("it")
        .get("share")
        .and_then(Value::as_f64)
        .expect("a share")
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_is_idempotent_and_a_dry_run_changes_nothing() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    let file = file.to_str().expect("UTF-8");
    let dry = t.says(&["apply", "-f", file, "--dry-run"]).await;
    assert!(dry.contains("would be created"), "{dry}");
    let none = t.json(&["experiment", "list"]).await;
    assert_eq!(none["experiments"], json!([]));

    let made = t.says(&["apply", "-f", file]).await;
    assert!(made.contains("checkout: created"), "{made}");
    let version = t.version().await;
    let again = t.says(&["apply", "-f", file]).await;
    assert!(again.contains("checkout: unchanged"), "{again}");
    assert_eq!(t.version().await, version);

    let changed = t.file("changed.toml", &TOML.replace("a shorter form", "a much shorter form"));
    let changed = changed.to_str().expect("UTF-8");
    let dry = t.says(&["apply", "-f", changed, "--dry-run"]).await;
    assert!(dry.contains("would be updated") && dry.contains("a much shorter form"), "{dry}");
    assert_eq!(t.version().await, version);
    let done = t.json(&["apply", "-f", changed]).await;
    assert_eq!(done["experiments"][0]["result"], "updated");
    assert_ne!(t.version().await, version);
    let last = t.json(&["apply", "-f", changed]).await;
    assert_eq!(
        (&last["experiments"][0]["result"], &last["experiments"][0]["changes"]),
        (&json!("unchanged"), &json!([]))
    );
    let audit = t.experiment(&["audit", "checkout"]).await;
    let actions: Vec<&str> =
        audit["entries"].as_array().expect("entries").iter().filter_map(|e| e["action"].as_str()).collect();
    assert_eq!(actions, ["update", "create"], "newest first, and nothing for what changed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_and_json_declare_the_same_as_toml() {
    let t = Terminal::new().await;
    let toml = t.file("checkout.toml", TOML);
    t.says(&["apply", "-f", toml.to_str().expect("UTF-8")]).await;
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
    assert!(t.says(&["apply", "-f", yaml.to_str().expect("UTF-8")]).await.contains("unchanged"));
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
    assert!(t.says(&["apply", "-f", doc.to_str().expect("UTF-8")]).await.contains("unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_lives_its_whole_life_at_a_terminal() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    t.says(&["apply", "-f", file.to_str().expect("UTF-8")]).await;
    assert_eq!(t.experiment(&["get", "checkout"]).await["state"], "draft");
    assert_eq!(t.json(&["assign", "checkout", "alice"]).await["reason"], "not_started");

    let started = t.says(&["experiment", "start", "checkout", "--actor", "ann"]).await;
    assert!(started.contains("checkout is running, generation 1"), "{started}");

    // What the server says, and what an SDK in another process would.
    let mut homes = Vec::new();
    for i in 0..25 {
        let unit = format!("u{i}");
        let answer = t.json(&["assign", "checkout", &unit]).await;
        assert_eq!(answer["reason"], "split");
        homes.push((unit, answer["variation"].clone(), answer["point"].clone()));
    }
    for (unit, variation, point) in homes.iter().take(3) {
        let local = t.json(&["assign", "checkout", unit, "--local"]).await;
        assert_eq!((&local["variation"], &local["point"]), (variation, point));
    }

    // One is seen and buys; the event ids make sure that it is counted once.
    let exposed = t.json(&["record", "exposure", "--experiment", "checkout", "--unit", "u0"]).await;
    assert_eq!((&exposed["accepted"], &exposed["variation"]), (&json!(1), &homes[0].1));
    let bought = ["record", "outcome", "--unit", "u0", "--event", "purchase", "--value", "12.5", "--event-id", "o-1"];
    for _ in 0..2 {
        assert_eq!(t.json(&bought).await["accepted"], 1);
    }
    let events = homes[1..].iter().map(|(unit, ..)| {
        json!({"unit": unit, "event": "purchase", "value": 1, "event_id": format!("p-{unit}")}).to_string()
    });
    let events = t.file("events.jsonl", &events.collect::<Vec<_>>().join("\n"));
    assert_eq!(t.json(&["record", "-f", events.to_str().expect("UTF-8")]).await["accepted"], 24);
    let results = t.server.api().results("checkout").await;
    let home = homes[0].1.as_str().expect("a variation");
    let counted = metric(&results, home, "bought");
    assert_eq!((counted.units, counted.converted, counted.outcomes), (1, 1, 1), "bought, once, after it was seen");
    let shown = t.json(&["results", "checkout", "--wait"]).await;
    assert_eq!((&shown["units_moved"], &shown["backlog"]), (&json!(0), &json!(0)));
    let told = t.says(&["results", "checkout", "--wait"]).await;
    assert!(told.contains(home) && told.contains("units moved between variations"), "{told}");

    // Nobody leaves a variation by growth, and a kill is lifted for the same units.
    let grown = t.experiment(&["grow", "checkout", "short", "--to", "40%"]).await;
    assert_eq!((share(&grown, "short"), &grown["revision"]), (0.4, &json!(2)));
    let twice = t.says(&["experiment", "grow", "checkout", "one-page", "--times", "2"]).await;
    assert!(twice.contains("one-page 10.00% → 20.00%"), "{twice}");
    let killed = t.says(&["experiment", "kill", "checkout", "short"]).await;
    assert!(killed.contains("short is killed"), "{killed}");
    for (unit, variation, _) in homes.iter().filter(|(_, v, _)| v == "short") {
        assert_eq!(t.json(&["assign", "checkout", unit]).await["variation"], "control", "{variation}");
    }
    t.says(&["experiment", "restore", "checkout", "short"]).await;
    for (unit, variation, _) in homes.iter().filter(|(_, v, _)| v != "control").take(4) {
        assert_eq!(&t.json(&["assign", "checkout", unit]).await["variation"], variation);
    }
    let all = t.server.cli(&["experiment", "kill", "checkout"]).await;
    assert_eq!(all.code(), Some(2), "killing everything is asked about: {all:?}");
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
    let explained = t.says(&["experiment", "explain", "checkout", "2"]).await;
    assert!(explained.contains("no decision of the policy stands behind it"), "{explained}");

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
    assert!(entries.iter().all(|e| e["to"].is_object()), "what it became");
    assert!(t.says(&["experiment", "audit", "checkout"]).await.lines().count() >= 13);
    assert!(t.says(&["experiment", "list"]).await.contains("archived"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_clock_is_advanced_from_a_terminal() {
    let t = Terminal::new().await;
    let manual = TOML.replace("[policy]", "[clock]\nkind = \"manual\"\nstart = \"2026-01-01T00:00:00Z\"\n\n[policy]");
    let file = t.file("checkout.toml", &manual);
    t.says(&["apply", "-f", file.to_str().expect("UTF-8"), "--start"]).await;
    let later = t.experiment(&["advance", "checkout", "--by", "36h"]).await;
    assert_eq!(later["experiment"]["now"], "2026-01-02T12:00:00Z");
    t.says(&["experiment", "advance", "checkout", "--to", "2026-02-01"]).await;
    assert_eq!(t.server.api().get("checkout").await.now, Some(at_second(1_769_904_000)));
    let back = t.server.cli(&["experiment", "advance", "checkout", "--to", "2026-01-15", "--json"]).await;
    assert_eq!(back.code(), Some(1));
    let told: Value = serde_json::from_str(&back.stderr).expect("an error as JSON on standard error");
    assert_eq!(told["error"]["code"], "FAILED_PRECONDITION");
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_tells_each_change_as_it_happens() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    t.says(&["apply", "-f", file.to_str().expect("UTF-8"), "--start"]).await;
    let watch = t.server.cli_started(&["watch", "checkout", "--json"]);
    let heard = async |word: &str| {
        crate::harness::eventually(&format!("the watcher tells {word}"), async || {
            watch.said().contains(word).then_some(())
        })
        .await;
    };
    heard("\"running\"").await;
    t.says(&["experiment", "grow", "checkout", "short", "--to", "20%"]).await;
    heard("\"revision\"").await;
    t.says(&["experiment", "kill", "checkout", "short"]).await;
    heard("\"killed\"").await;
    t.says(&["experiment", "restore", "checkout", "short"]).await;
    heard("\"restored\"").await;
    for line in watch.said().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

/// An outcome without an id is known by what it says: wherever it stands, and in whatever file.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_events_is_sent_again_mended_or_not_and_counts_what_happened() {
    let t = Terminal::new().await;
    let file = t.file("checkout.toml", TOML);
    t.says(&["apply", "-f", file.to_str().expect("UTF-8"), "--start"]).await;
    t.json(&["record", "exposure", "--experiment", "checkout", "--unit", "dave"]).await;
    let line = |unit: &str, value: f64, at: &str| {
        json!({"unit": unit, "event": "purchase", "value": value, "occurred_at": at}).to_string()
    };
    let begun = jiff::Timestamp::now();
    let now = |seconds: i64| (begun + jiff::SignedDuration::from_secs(seconds)).to_string();
    let (first, second) = (line("dave", 1.0, &now(1)), line("dave", 2.0, &now(2)));
    let bad = json!({"unit": "dave", "event": "purchase", "value": 1e12, "occurred_at": now(1)}).to_string();
    let timeless = json!({"unit": "dave", "event": "purchase", "value": 9}).to_string();
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
    let told = record("events.jsonl", &[&first, &bad, &timeless, &second]).await;
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(told.stderr.contains("2 events refused") && told.stderr.contains("nothing counts twice"), "{told:?}");
    assert!(told.stdout.contains("occurred_at"), "{told:?}");
    assert_eq!(bought().await, 2);
    record("events.jsonl", &[&first, &second]).await.ok();
    assert_eq!(bought().await, 2, "the lines stand elsewhere now");
    record("more.jsonl", &[&second, &line("dave", 2.0, &now(3)), &second]).await.ok();
    assert_eq!(bought().await, 4, "one at another time, and one that was told twice in one file");
}
