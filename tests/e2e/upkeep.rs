//! What an operator does to a server's data: lets old events go, forgets a unit, takes a copy and serves from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use inroad_sdk::{Client, Context, Reason};
use inroad_wire::v1;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Api, Ended, Process, Server, Setup, conversions, eventually, exposure_of, flag, gauge, inroad, micros, outcome,
    wait_until,
};

const KEY: &str = "checkout";

/// Exposes units and has each third of them buy, under `name` and a number.
async fn traffic(api: &Api, name: &str, count: usize) {
    let units: Vec<String> = (0..count).map(|i| format!("{name}-{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let outcomes = units.iter().step_by(3).map(|unit| outcome(unit, 2.0, "order-1")).collect();
    api.record(exposures, outcomes).await;
}

/// Results, but for what time it is, and for what is told a day.
async fn results(api: &Api) -> v1::GetResultsResponse {
    v1::GetResultsResponse { now: None, growth_per_day: 0.0, days_of_headroom: None, ..api.results(KEY).await }
}

/// How many events the log of a folder has.
fn logged(folder: &Path) -> i64 {
    let log = rusqlite::Connection::open(folder.join("log.db")).expect("the log");
    log.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).expect("a count")
}

/// Whether any file of a folder has these bytes in it.
fn has(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("a file").path());
    let has = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    files.map(|path| std::fs::read(path).expect("it can be read")).any(has)
}

/// `inroad backup`, which asks no server.
async fn backup(data: &Path, to: &Path, options: &[&str]) -> Ended {
    let mut command = Command::new(inroad());
    command.arg("backup").arg(to).arg("--data").arg(data).args(options);
    Process::start(&mut command).finish(Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_leave_the_log_and_what_was_counted_stays() {
    let setup = Setup { options: vec!["--retain-events".to_owned(), "1s".to_owned()], ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.4)]))).await;
    traffic(&api, "u", 300).await;
    let before = results(&api).await;
    eventually("all events are pruned", async || {
        (gauge(server.address, "inroad_events_pruned_total").await == 400.0).then_some(())
    })
    .await;
    assert_eq!(gauge(server.address, "inroad_log_head").await, 400.0, "places are not given twice");
    assert_eq!(results(&api).await, before);
    // What is sent again was counted already; what is new is counted after a restart, too.
    traffic(&api, "u", 300).await;
    assert_eq!(results(&api).await, before);
    server.ask_to_stop();
    let ended = server.stopped().await.ok();
    assert!(ended.stderr.contains("pruned") || ended.stdout.contains("pruned"), "{ended:?}");
    server.restart().await;
    let api = server.api();
    traffic(&api, "v", 30).await;
    let units = |r: &v1::GetResultsResponse| r.arms.iter().map(|arm| arm.units).sum::<u64>();
    assert_eq!(units(&results(&api).await), units(&before) + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_age_events_are_kept() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.4)]))).await;
    traffic(&api, "u", 30).await;
    results(&api).await;
    assert_eq!(gauge(server.address, "inroad_events_pruned_total").await, 0.0);
    server.ask_to_stop();
    server.stopped().await.ok();
    assert_eq!(logged(&server.folder), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_while_events_stream_in_serves_the_same() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.3), ("b", 0.3)]))).await;
    // What is sent again later would be served by other boundaries if these flipped in between.
    let grown = api.grow(KEY, "a", 0.5).await;
    wait_until(micros(&grown.effective_at)).await;
    traffic(&api, "u", 600).await;
    let known = results(&api).await;
    let copies = TempDir::new().expect("a folder");
    let (quiet, busy) = (copies.path().join("quiet"), copies.path().join("deep").join("busy"));

    let said = backup(&server.folder, &quiet, &["--json"]).await.ok().json();
    assert_eq!((&said["experiments"], &said["log_head"], &said["counted"]), (&json!(1), &json!(800), &json!(800)));
    assert_eq!(said["folder"], json!(quiet.display().to_string()));
    let serving = Server::with(Setup { folder: Some(quiet.clone()), ..Setup::default() }).await;
    assert_eq!(results(&serving.api()).await, known);
    assert_eq!(serving.api().revisions(KEY).await, api.revisions(KEY).await);
    assert_eq!(serving.api().audit("").await, api.audit("").await);

    // Beside a stream of events: whatever of it the copy has, it has at one moment; the rest is sent again.
    let copying = async {
        let copied = backup(&server.folder, &busy, &[]).await.ok();
        assert!(copied.stdout.contains("copied to") && copied.stdout.contains("1 experiments"), "{}", copied.stdout);
    };
    let streaming = async {
        for n in 0..20 {
            traffic(&api, &format!("n{n}"), 60).await;
        }
    };
    tokio::join!(copying, streaming);
    let serving = Server::with(Setup { folder: Some(busy), ..Setup::default() }).await;
    for n in 0..20 {
        traffic(&serving.api(), &format!("n{n}"), 60).await;
    }
    assert_eq!(results(&serving.api()).await, results(&api).await);
}

/// Versions go on from where the copy was taken: clients that had seen later ones must not take its word for old news.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_is_obeyed_by_clients_that_knew_more() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.3)]))).await;
    let client = Client::builder(server.url()).build().expect("a client");
    assert!(client.ready(Duration::from_secs(20)).await);
    let copies = TempDir::new().expect("a folder");
    let copy = copies.path().join("copy");
    backup(&server.folder, &copy, &[]).await.ok();
    for share in [0.4, 0.5, 0.6] {
        api.grow(KEY, "a", share).await;
    }
    let knew = api.revisions(KEY).await.len() as u64;
    eventually("the client has all of it", async || (client.status().version > knew).then_some(())).await;
    let before = client.status();

    server.kill();
    server.folder = copy;
    server.restart().await;
    server.api().kill(KEY, "").await;
    let unit = Context::new("somebody");
    eventually("the client obeys the copy", async || {
        (client.assign(KEY, &unit).reason() == Reason::Killed).then_some(())
    })
    .await;
    let after = client.status();
    assert!(after.store_id != before.store_id && after.version < before.version, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_can_be_taken_of_a_server_that_was_killed() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.3)]))).await;
    traffic(&api, "u", 90).await;
    let known = results(&api).await;
    server.kill();
    let copies = TempDir::new().expect("a folder");
    let copy = copies.path().join("copy");
    backup(&server.folder, &copy, &[]).await.ok();
    let serving = Server::with(Setup { folder: Some(copy), ..Setup::default() }).await;
    assert_eq!(results(&serving.api()).await, known);
    server.restart().await;
    assert_eq!(results(&server.api()).await, known, "the original is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_unit_is_in_no_file_and_is_still_counted() {
    let server = Server::start().await;
    let api = server.api();
    let mut experiment = conversions(flag(KEY, &[("a", 0.4)]));
    experiment.unit = "user".to_owned();
    api.launch(experiment).await;
    let assign = ["assign", KEY, "alice-of-wonderland", "--durable", "--json"];
    server.cli(&assign).await.ok();
    let bought = |unit: &str| v1::Outcome {
        units: BTreeMap::from([("user".to_owned(), unit.to_owned()), ("account".to_owned(), "acme".to_owned())]),
        ..outcome(unit, 2.0, "order-1")
    };
    api.record(vec![], vec![bought("alice-of-wonderland"), bought("bob")]).await;
    let before = results(&api).await;
    assert!(has(&server.folder, "alice-of-wonderland"));

    // It is asked for before it is done, and nobody is there to answer.
    let unsure = server.cli(&["forget", "--unit", "user=alice-of-wonderland"]).await;
    assert_eq!(unsure.code(), Some(2), "{unsure:?}");
    assert!(unsure.stderr.contains("--yes") && !unsure.stderr.contains("alice"), "{unsure:?}");
    let other = ["forget", "--unit", "account=alice-of-wonderland", "--yes", "--json"];
    let none = server.cli(&other).await.ok().json();
    assert_eq!((&none["events"], &none["waiting"]), (&json!(0), &json!(0)), "she is no account");
    assert!(has(&server.folder, "alice-of-wonderland"));

    let forget = ["forget", "--unit", "user=alice-of-wonderland", "--yes", "--actor", "eve"];
    let told = server.cli(&[&forget[..], &["--json"]].concat()).await.ok();
    let digest = told.json()["digest"].as_str().expect("a digest").to_owned();
    let expected = json!({"unit_type": "user", "digest": digest, "events": 2, "waiting": 0});
    assert_eq!(told.json(), expected);
    assert!(!has(&server.folder, "alice-of-wonderland"), "the key is in no byte of any file");
    assert!(has(&server.folder, "acme"), "what else the events tell is left");
    assert_eq!(results(&api).await, before);
    let again = server.cli(&forget).await.ok().stdout;
    assert!(again.contains("0 events") && again.contains(&digest) && !again.contains("alice"), "{again}");

    let audit = server.cli(&["experiment", "audit", "--json"]).await.ok();
    assert!(!audit.stdout.contains("alice"), "{}", audit.stdout);
    let audit = audit.json();
    let entries = audit["entries"].as_array().expect("entries");
    let forgets: Vec<&Value> = entries.iter().filter(|e| e["action"] == "forget").collect();
    assert_eq!(forgets.len(), 3);
    let unit = json!({"unit_type": "user", "digest": digest});
    assert_eq!(
        (&forgets[1]["actor"], &forgets[1]["experiment"], &forgets[1]["to"]),
        (&json!("eve"), &json!(""), &unit)
    );
    let words = server.cli(&["experiment", "audit"]).await.ok().stdout;
    assert!(words.contains(&format!("eve  forget  –  user {digest}")), "{words}");

    // Who comes back is the same unit as before: what is served, and what is counted, does not depend on the log.
    server.cli(&assign).await.ok();
    api.record(vec![], vec![bought("alice-of-wonderland")]).await;
    assert_eq!(results(&api).await, before);
}
