//! Metrics of a real server: what they show while the store is held up, and that the alerts, the dashboard and the
//! documents name only metrics that exist, as `/metrics` prints them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use inroad_wire::v1::ExposureMode;
use rusqlite::{Connection, TransactionBehavior};
use serde_json::Value;

use crate::harness::{
    Server, context, eventually, exposure_of, flag, http_get, metric_value, outcome, with_conversion_metrics,
};

const KEY: &str = "checkout";

#[tokio::test(flavor = "multi_thread")]
async fn events_and_changes_that_wait_for_the_store_are_visible() {
    let server = Server::start().await;
    let (api, address) = (server.api(), server.address);
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    assert_eq!(metric_value(address, "inroad_oldest_unfolded_event_seconds").await, 0.0);
    assert!(metric_value(address, "inroad_resident_memory_bytes").await > 1e6);
    assert_eq!(metric_value(address, "inroad_backlog_limit_events").await, 5e6);

    // Another process holds the lock on the catalogue and the counts, but not on the log.
    let open = |file: &str| Connection::open(server.folder.join(file)).expect("the file opens");
    let mut others = ["inroad.db", "counts.db"].map(open);
    let immediate = TransactionBehavior::Immediate;
    let held = others.each_mut().map(|other| other.transaction_with_behavior(immediate).expect("the lock"));
    let answer = api.assign(KEY, context("u1"), ExposureMode::None).await;
    api.record(vec![exposure_of(KEY, "u1", &answer)], vec![outcome("u1", 1.0, "order-1")]).await;
    let is_old = async || (metric_value(address, "inroad_oldest_unfolded_event_seconds").await > 0.5).then_some(());
    eventually("the oldest unfolded event ages", is_old).await;
    let changes = [server.api(), server.api()].map(|api| tokio::spawn(async move { api.kill(KEY, "a").await }));
    let waits = async || (metric_value(address, "inroad_changes_waiting").await == 1.0).then_some(());
    eventually("one change is being stored and the other one waits", waits).await;

    drop(held);
    for change in changes {
        change.await.expect("both kills succeed");
    }
    let is_folded = async || (metric_value(address, "inroad_oldest_unfolded_event_seconds").await == 0.0).then_some(());
    eventually("all events are folded", is_folded).await;
    assert_eq!(metric_value(address, "inroad_changes_waiting").await, 0.0);
    assert!(metric_value(address, "inroad_change_wait_seconds_sum").await > 0.0);
    assert!(metric_value(address, "inroad_commit_seconds_sum").await > 0.0);
    let measured = async || (metric_value(address, "inroad_thread_wait_seconds_count").await > 0.0).then_some(());
    eventually("waits for threads are measured", measured).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_dashboard_documents_and_registry_name_metrics_as_they_are_printed() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    // A metric with a label appears with its first value.
    let answer = api.assign(KEY, context("u1"), ExposureMode::None).await;
    let mut unknown = exposure_of(KEY, "u1", &answer);
    unknown.experiment = "unknown".to_owned();
    let events = inroad_wire::v1::RecordRequest { exposures: vec![unknown], ..Default::default() };
    assert_eq!(api.events().record(events).await.expect("an answer").into_inner().rejections.len(), 1);

    let (samples, families) = metric_names(server.address).await;
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/inroad.json"] {
        let named = names_in(&read(path));
        assert!(named.len() > 15, "{path} names {named:?}");
        let missing: Vec<_> = named.difference(&samples).collect();
        assert!(missing.is_empty(), "{path} names {missing:?}, which /metrics does not have: {samples:?}");
    }
    let crates = crate_names();
    let mut found = 0;
    for path in texts() {
        let named = names_in(&read(&path));
        found += named.intersection(&samples).count();
        // A text may name all samples of a histogram at once.
        let is_known = |name: &&String| samples.contains(*name) || families.contains(*name) || crates.contains(*name);
        let missing: Vec<_> = named.iter().filter(|name| !is_known(name)).collect();
        assert!(missing.is_empty(), "{path} names {missing:?}, which /metrics does not print like this");
    }
    assert!(found > 30, "{found}");
    // Registered names, as in `register!("clients", …)`.
    let code = read("src/server/src/metrics.rs");
    let registered = code.split("register!(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let registered: Vec<String> =
        registered.filter_map(|rest| Some(format!("inroad_{}", rest.split_once('"')?.0))).collect();
    assert!(registered.len() > 45, "{registered:?}");
    for name in registered {
        let is_printed = samples.contains(&name) || samples.contains(&format!("{name}_total"));
        assert!(is_printed || families.contains(&name), "{name} is not in /metrics");
    }
}

/// The names of all time series in `/metrics`, and those of the histograms.
async fn metric_names(address: SocketAddr) -> (BTreeSet<String>, BTreeSet<String>) {
    let (_, text) = http_get(address, "/metrics").await.expect("the metrics");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.split([' ', '{']).next().map(str::to_owned)).collect();
    let histograms = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"));
    (samples, histograms.map(str::to_owned).collect())
}

/// The names of metrics in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("inroad_")).map(str::to_owned).collect()
}

/// The names of the crates as in code, such as `inroad_sdk`.
fn crate_names() -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let lines = manifest.lines().filter_map(|line| line.split_once(" = ").map(|(key, _)| key.trim()));
    lines.filter(|key| key.starts_with("inroad-")).map(|key| key.replace('-', "_")).collect()
}

/// The texts that people read about metrics.
fn texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let mut texts = Vec::new();
    for folder in ["", "docs", "docs/decisions", "deploy", "benches"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            let is_text = name.ends_with(".md") || name.ends_with(".yml") || name.ends_with(".service");
            if is_text && !name.starts_with('.') {
                texts.push(Path::new(folder).join(name).to_str().expect("UTF-8").to_owned());
            }
        }
    }
    assert!(texts.iter().any(|path| path == "docs/limits.md") && texts.len() > 20, "{texts:?}");
    texts
}

#[test]
fn each_alert_says_what_to_do_and_the_manual_has_it() {
    let manual = read("docs/operations.md");
    let headings: BTreeSet<String> = manual.lines().filter_map(|line| line.strip_prefix('#')).map(anchor).collect();
    let alerts: Value = serde_saphyr::from_str(&read("deploy/prometheus/alerts.yml")).expect("YAML");
    let rules = alerts["groups"][0]["rules"].as_array().expect("a list of rules");
    assert!(rules.len() > 15, "{rules:?}");
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        let text = |field: &str| rule["annotations"][field].as_str().unwrap_or_else(|| panic!("{name} lacks {field}"));
        assert!(["page", "ticket"].contains(&rule["labels"]["severity"].as_str().expect("a severity")), "{name}");
        assert!(text("summary").ends_with('.') && text("description").ends_with('.'), "{name}");
        let section = text("runbook").strip_prefix("docs/operations.md#");
        let section = section.unwrap_or_else(|| panic!("{name} links elsewhere"));
        assert!(headings.contains(section), "{name} links to {section:?}, not one of {headings:?}");
        assert!(manual.contains(&format!("`{name}`")), "docs/operations.md does not mention {name}");
    }
}

/// A limit that nobody sees coming is met as a surprise.
#[test]
fn each_metric_of_a_limit_has_an_alert_and_is_on_the_dashboard() {
    let limits = names_in(&read("docs/limits.md"));
    assert!(limits.len() > 20, "{limits:?}");
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/inroad.json"] {
        // A histogram is named by its buckets.
        let named: BTreeSet<String> =
            names_in(&read(path)).into_iter().map(|name| name.trim_end_matches("_bucket").to_owned()).collect();
        let missing: Vec<_> = limits.difference(&named).collect();
        assert!(missing.is_empty(), "{path} lacks {missing:?}, which docs/limits.md names");
    }
}

#[test]
fn panels_of_the_dashboard_are_apart_and_use_its_data_source() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/inroad.json")).expect("JSON");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    assert!(variables.iter().any(|v| v["name"] == "datasource" && v["query"] == "prometheus"));
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has its own id");
    let mut used = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a position"));
        assert!(x + w <= 24, "{title} is outside");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(used.insert(cell), "{title} covers another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{title} has no query");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(target["expr"].as_str().expect("a query").contains("inroad_"), "{title}");
        }
    }
}

/// The anchor of a heading, as in links to it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-')).collect::<String>().replace(' ', "-")
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
