//! Maintenance of a server's data: retention of events, forgetting a unit, and backups.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use inroad_sdk::{Client, Context, Reason};
use inroad_wire::v1;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Api, FinishedProcess, Process, Server, Setup, eventually, exposure_of, flag, inroad_binary, metric_value, micros,
    outcome, wait_until, with_conversion_metrics,
};

const KEY: &str = "checkout";

/// Exposes units named `name-0`, `name-1`, …; each third unit buys.
async fn record_traffic(api: &Api, name: &str, count: usize) {
    let units: Vec<String> = (0..count).map(|i| format!("{name}-{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let outcomes = units.iter().step_by(3).map(|unit| outcome(unit, 2.0, "order-1")).collect();
    api.record(exposures, outcomes).await;
}

/// The results without the values that depend on the time of the request.
async fn stable_results(api: &Api) -> v1::GetResultsResponse {
    v1::GetResultsResponse { now: None, growth_per_day: 0.0, days_of_headroom: None, ..api.results(KEY).await }
}

/// How many events are in the log of a data folder.
fn count_logged(folder: &Path) -> i64 {
    let log = rusqlite::Connection::open(folder.join("log.db")).expect("the log");
    log.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).expect("a count")
}

/// Whether any file in a folder contains this text.
fn contains_text(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("a file").path());
    let matches = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    files.map(|path| std::fs::read(path).expect("the file can be read")).any(matches)
}

/// Runs `inroad backup`, which needs no server.
async fn backup(data: &Path, to: &Path, options: &[&str]) -> FinishedProcess {
    let mut command = Command::new(inroad_binary());
    command.arg("backup").arg(to).arg("--data").arg(data).args(options);
    Process::start(&mut command).finish(Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_are_deleted_and_stay_counted() {
    let setup = Setup { options: vec!["--retain-events".to_owned(), "1s".to_owned()], ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    record_traffic(&api, "u", 300).await;
    let before = stable_results(&api).await;
    eventually("all events are pruned", async || {
        (metric_value(server.address, "inroad_events_pruned_total").await == 400.0).then_some(())
    })
    .await;
    assert_eq!(metric_value(server.address, "inroad_log_head").await, 400.0, "positions in the log are not reused");
    assert_eq!(stable_results(&api).await, before);
    // Duplicates are still recognised, and new events are counted after a restart.
    record_traffic(&api, "u", 300).await;
    assert_eq!(stable_results(&api).await, before);
    server.send_sigterm();
    let ended = server.wait_until_stopped().await.ok();
    assert!(ended.stderr.contains("pruned") || ended.stdout.contains("pruned"), "{ended:?}");
    server.restart().await;
    let api = server.api();
    record_traffic(&api, "v", 30).await;
    let units = |r: &v1::GetResultsResponse| r.arms.iter().map(|arm| arm.units).sum::<u64>();
    assert_eq!(units(&stable_results(&api).await), units(&before) + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_without_a_retention_setting() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    record_traffic(&api, "u", 30).await;
    stable_results(&api).await;
    assert_eq!(metric_value(server.address, "inroad_events_pruned_total").await, 0.0);
    server.send_sigterm();
    server.wait_until_stopped().await.ok();
    assert_eq!(count_logged(&server.folder), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_taken_during_recording_serves_the_same_results() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.3), ("b", 0.3)]))).await;
    // Wait, so that duplicates sent later are assigned under the same revision.
    let grown = api.grow(KEY, "a", 0.5).await;
    wait_until(micros(&grown.effective_at)).await;
    record_traffic(&api, "u", 600).await;
    let known = stable_results(&api).await;
    let copies = TempDir::new().expect("a folder");
    let (idle, busy) = (copies.path().join("idle"), copies.path().join("deep").join("busy"));

    let summary = backup(&server.folder, &idle, &["--json"]).await.ok().json();
    assert_eq!(
        (&summary["experiments"], &summary["log_head"], &summary["counted"]),
        (&json!(1), &json!(800), &json!(800))
    );
    assert_eq!(summary["folder"], json!(idle.display().to_string()));
    let serving = Server::with(Setup { folder: Some(idle.clone()), ..Setup::default() }).await;
    assert_eq!(stable_results(&serving.api()).await, known);
    assert_eq!(serving.api().revisions(KEY).await, api.revisions(KEY).await);
    assert_eq!(serving.api().audit("").await, api.audit("").await);

    // While events are recorded, the backup contains those up to one moment. The rest is sent to it afterwards.
    let copying = async {
        let copied = backup(&server.folder, &busy, &[]).await.ok();
        assert!(copied.stdout.contains("copied to") && copied.stdout.contains("1 experiment,"), "{}", copied.stdout);
    };
    let streaming = async {
        for n in 0..20 {
            record_traffic(&api, &format!("n{n}"), 60).await;
        }
    };
    tokio::join!(copying, streaming);
    let serving = Server::with(Setup { folder: Some(busy), ..Setup::default() }).await;
    for n in 0..20 {
        record_traffic(&serving.api(), &format!("n{n}"), 60).await;
    }
    assert_eq!(stable_results(&serving.api()).await, stable_results(&api).await);
}

/// Versions in a restored backup continue from the backup. Clients that know later versions must not ignore them as
/// old.
#[tokio::test(flavor = "multi_thread")]
async fn clients_with_later_versions_follow_a_restored_backup() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.3)]))).await;
    let client = Client::builder(server.url()).build().expect("a client");
    assert!(client.ready(Duration::from_secs(20)).await);
    let copies = TempDir::new().expect("a folder");
    let copy = copies.path().join("copy");
    backup(&server.folder, &copy, &[]).await.ok();
    for share in [0.4, 0.5, 0.6] {
        api.grow(KEY, "a", share).await;
    }
    let known = api.revisions(KEY).await.len() as u64;
    eventually("the client has all revisions", async || (client.status().version > known).then_some(())).await;
    let before = client.status();

    server.kill();
    server.folder = copy;
    server.restart().await;
    server.api().kill(KEY, "").await;
    let unit = Context::new("alice");
    eventually("the client applies the kill of the restored server", async || {
        (client.assign(KEY, &unit).reason() == Reason::Killed).then_some(())
    })
    .await;
    let after = client.status();
    assert!(after.store_id != before.store_id && after.version < before.version, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_log_is_verified_on_a_serving_folder_and_on_a_copy() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.3)])).await;
    api.grow(KEY, "a", 0.5).await;
    let verify = async |folder: &Path, options: &[&str]| {
        let mut command = Command::new(inroad_binary());
        command.args(["audit", "verify", "--data"]).arg(folder).args(options);
        Process::start(&mut command).finish(Duration::from_secs(60)).await
    };
    let found = verify(&server.folder, &["--json"]).await.ok().json();
    let newest = api.audit(KEY).await[0].hash.clone();
    assert_eq!(
        (&found["entries"], &found["older_entries"], &found["newest_hash"]),
        (&json!(3), &json!(0), &json!(newest))
    );
    let forget = ["forget", "--unit", "user=alice", "--yes", "--actor", "eve"];
    server.cli(&forget).await.ok();
    let copies = TempDir::new().expect("a folder");
    let copy = copies.path().join("copy");
    backup(&server.folder, &copy, &[]).await.ok();
    let text = verify(&copy, &["--expect", &newest]).await.ok().stdout;
    assert!(text.starts_with("4 entries, unbroken; the newest has hash "), "{text}");
    assert!(text.contains("the expected hash is among them") && !text.contains("older"), "{text}");
    let state = rusqlite::Connection::open(copy.join("inroad.db")).expect("a database");
    state.execute("UPDATE audit SET actor = 'bob' WHERE id = 3", []).expect("an update");
    let broken = verify(&copy, &[]).await;
    assert_eq!(broken.code(), Some(1), "{broken:?}");
    assert!(broken.stderr.contains("entry 3 does not match its hash"), "{broken:?}");
    assert!(broken.stderr.contains("Unbroken before that: 2 entries"), "{broken:?}");
    let other = "0".repeat(64);
    let unexpected = verify(&server.folder, &["--expect", &other]).await;
    assert_eq!(unexpected.code(), Some(1), "{unexpected:?}");
    assert!(unexpected.stderr.contains(&format!("no entry has the expected hash {other}")), "{unexpected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_of_a_killed_server_is_complete() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.3)]))).await;
    record_traffic(&api, "u", 90).await;
    let known = stable_results(&api).await;
    server.kill();
    let copies = TempDir::new().expect("a folder");
    let copy = copies.path().join("copy");
    backup(&server.folder, &copy, &[]).await.ok();
    let serving = Server::with(Setup { folder: Some(copy), ..Setup::default() }).await;
    assert_eq!(stable_results(&serving.api()).await, known);
    server.restart().await;
    assert_eq!(stable_results(&server.api()).await, known, "the original is unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_unit_is_in_no_file_and_stays_counted() {
    let server = Server::start().await;
    let api = server.api();
    let mut experiment = with_conversion_metrics(flag(KEY, &[("a", 0.4)]));
    experiment.unit = "user".to_owned();
    api.launch(experiment).await;
    let assign = ["assign", KEY, "alice-of-wonderland", "--record", "--json"];
    server.cli(&assign).await.ok();
    let purchase_of = |unit: &str| v1::Outcome {
        units: BTreeMap::from([("user".to_owned(), unit.to_owned()), ("account".to_owned(), "acme".to_owned())]),
        ..outcome(unit, 2.0, "order-1")
    };
    api.record(vec![], vec![purchase_of("alice-of-wonderland"), purchase_of("bob")]).await;
    let before = stable_results(&api).await;
    assert!(contains_text(&server.folder, "alice-of-wonderland"));

    // The command asks for a confirmation, and there is no terminal to answer.
    let unconfirmed = server.cli(&["forget", "--unit", "user=alice-of-wonderland"]).await;
    assert_eq!(unconfirmed.code(), Some(2), "{unconfirmed:?}");
    assert!(unconfirmed.stderr.contains("--yes") && !unconfirmed.stderr.contains("alice"), "{unconfirmed:?}");
    let other = ["forget", "--unit", "account=alice-of-wonderland", "--yes", "--json"];
    let none = server.cli(&other).await.ok().json();
    assert_eq!((&none["events"], &none["waiting"]), (&json!(0), &json!(0)), "the key is not an account");
    assert!(contains_text(&server.folder, "alice-of-wonderland"));

    let forget = ["forget", "--unit", "user=alice-of-wonderland", "--yes", "--actor", "eve"];
    let forgotten = server.cli(&[&forget[..], &["--json"]].concat()).await.ok();
    let digest = forgotten.json()["digest"].as_str().expect("a digest").to_owned();
    let expected = json!({"unit_type": "user", "digest": digest, "events": 2, "waiting": 0});
    assert_eq!(forgotten.json(), expected);
    assert!(!contains_text(&server.folder, "alice-of-wonderland"), "no file contains the key");
    assert!(contains_text(&server.folder, "acme"), "other fields of the events are kept");
    assert_eq!(stable_results(&api).await, before);
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
    let text = server.cli(&["experiment", "audit"]).await.ok().stdout;
    assert!(text.contains(&format!("eve forgot user {digest}")), "{text}");

    // A forgotten unit that returns is the same unit as before: assignment and counts do not depend on the log.
    server.cli(&assign).await.ok();
    api.record(vec![], vec![purchase_of("alice-of-wonderland")]).await;
    assert_eq!(stable_results(&api).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_server_on_the_same_folder_is_refused_even_if_the_lock_file_was_deleted() {
    let server = Server::start().await;
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let start_second = || Process::start(&mut Setup::default().command(any_port, &server.folder));
    for is_deleted in [false, true] {
        if is_deleted {
            std::fs::remove_file(server.folder.join("inroad.lock")).expect("the lock file can be deleted");
        }
        let second = start_second().finish(Duration::from_secs(20)).await;
        assert_ne!(second.code(), Some(0));
        assert!(second.stderr.contains("is in use by another process"), "{}", second.stderr);
    }
    // Other commands still open the folder, and the first server goes on.
    let copy = server.folder.with_file_name("copy");
    let paths = [&server.folder, &copy].map(|path| path.to_str().expect("plain text").to_owned());
    let backup = Process::start(Command::new(inroad_binary()).args(["backup", "--data", &paths[0], &paths[1]]));
    backup.finish(Duration::from_secs(20)).await.ok();
    server.api().create(flag("later", &[("a", 0.4)])).await;
}
