//! Invalid events in a batch: each is refused by itself, and the valid events of the batch are accepted.

use std::collections::BTreeMap;

use inroad_wire::v1;
use prost_types::Timestamp;

use super::document;
use crate::harness::{Server, exposure_of, flag, metric_value, now_micros, outcome, with_conversion_metrics};

const KEY: &str = "checkout";

fn from_now(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: now_micros() / 1_000_000 + seconds, nanos: 0 })
}

/// Replaces the number of seconds in a message about an event one hour in the future: it differs between runs.
fn without_seconds(message: &str) -> String {
    let is_about_an_hour = |word: &str| word.parse::<u32>().is_ok_and(|seconds| (3_500..=3_600).contains(&seconds));
    let words = message.split(' ').map(|word| if is_about_an_hour(word) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_event_is_refused_and_valid_events_in_the_batch_are_accepted() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.3), ("b", 0.3)]))).await;
    let units: Vec<String> = (0..100).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let unit_in =
        |variation: &str| answers.iter().position(|a| a.variation == variation).expect("a unit has the variation");
    let valid = |i: usize| exposure_of(KEY, &units[i], &answers[i]);
    let of_a = valid(unit_in("a"));
    let other_variation = v1::Exposure { variation: "b".to_owned(), ..of_a.clone() };
    let as_control = v1::Exposure { variation: "control".to_owned(), ..of_a.clone() };
    let exposures = [
        ("exposure: the experiment does not exist", v1::Exposure { experiment: "nothing".to_owned(), ..of_a.clone() }),
        ("exposure: the generation does not exist", v1::Exposure { generation: 9, ..of_a.clone() }),
        ("exposure: no generation", v1::Exposure { generation: 0, ..of_a.clone() }),
        ("exposure: the revision does not exist", v1::Exposure { revision: 99, ..of_a.clone() }),
        ("exposure: the variation does not exist", v1::Exposure { variation: "z".to_owned(), ..of_a.clone() }),
        ("exposure: another variation than the assigned one", other_variation),
        ("exposure: control instead of a variation that was never killed", as_control),
        ("exposure: the unit key is empty", v1::Exposure { unit: String::new(), ..of_a.clone() }),
        ("exposure: the unit key has more than 1,024 bytes", v1::Exposure { unit: "x".repeat(1_025), ..of_a.clone() }),
        ("exposure: more than 5 minutes in the future", v1::Exposure { occurred_at: from_now(3_600), ..of_a.clone() }),
        ("exposure: before the generation started", v1::Exposure { occurred_at: from_now(-3_600), ..of_a.clone() }),
        (
            "exposure: an invalid time",
            v1::Exposure { occurred_at: Some(Timestamp { seconds: i64::MAX, nanos: 0 }), ..of_a.clone() },
        ),
    ];
    let purchase = outcome("u0", 1.0, "order-1");
    let units_of =
        |n: usize| -> BTreeMap<String, String> { (0..n).map(|i| (format!("type{i}"), "x".to_owned())).collect() };
    let outcomes = [
        (
            "outcome: more than 5 minutes in the future",
            v1::Outcome { occurred_at: from_now(3_600), ..purchase.clone() },
        ),
        ("outcome: the value is NaN", v1::Outcome { value: f64::NAN, ..purchase.clone() }),
        ("outcome: the value is outside ±1e9", v1::Outcome { value: -1e10, ..purchase.clone() }),
        ("outcome: no event id", v1::Outcome { event_id: String::new(), ..purchase.clone() }),
        ("outcome: an event id of more than 128 bytes", v1::Outcome { event_id: "x".repeat(129), ..purchase.clone() }),
        ("outcome: no event name", v1::Outcome { event: String::new(), ..purchase.clone() }),
        ("outcome: no unit", v1::Outcome { units: BTreeMap::new(), ..purchase.clone() }),
        ("outcome: more than 8 units", v1::Outcome { units: units_of(9), ..purchase.clone() }),
        (
            "outcome: an empty unit key",
            v1::Outcome { units: BTreeMap::from([("user".to_owned(), String::new())]), ..purchase.clone() },
        ),
        (
            "outcome: the clock of an experiment without a manual clock",
            v1::Outcome { clock: KEY.to_owned(), ..purchase.clone() },
        ),
    ];
    let mut request = v1::RecordRequest::default();
    request.exposures.push(valid(1));
    request.exposures.extend(exposures.iter().map(|(_, e)| e.clone()));
    request.exposures.push(valid(2));
    request.outcomes.extend(outcomes.iter().map(|(_, o)| o.clone()));
    request.outcomes.push(outcome("u1", 2.0, "order-1"));
    let response = api.events().record(request).await.expect("the batch is accepted").into_inner();
    assert_eq!(response.accepted, 3, "{response:?}");
    assert_eq!(metric_value(server.address, "inroad_log_head").await, 3.0);
    assert_eq!(response.rejections.len(), exposures.len() + outcomes.len(), "{response:?}");
    let mut rows = Vec::new();
    for rejection in &response.rejections {
        let index = rejection.index as usize;
        let case = if rejection.outcome { outcomes[index].0 } else { exposures[index - 1].0 };
        assert!(!rejection.message.is_empty(), "{rejection:?}");
        rows.push(vec![case.to_owned(), format!("`{}`", rejection.reason), without_seconds(&rejection.message)]);
    }
    document::check("Events", &["case", "reason", "message"], &rows);
    let results = api.results(KEY).await;
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), 2);
    assert_eq!((results.units_moved, results.crossovers, results.stale_exposures), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_rejection_reasons_are_exactly_those_that_occur() {
    let proto = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/inroad/v1/event.proto"))
        .expect("event.proto");
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md")).expect("docs/errors.md");
    let (_, comment) = proto.split_once("The reason, for programs: ").expect("the list of reasons");
    let (list, _) = comment.split_once("string reason").expect("the end of the list");
    let listed: Vec<&str> = list.split([',', '/', '.', ' ', '\n']).filter(|word| word.len() > 3).collect();
    let section = document.split("## Events").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let occurring: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| ")?.split('`').nth(1)).collect();
    for reason in &listed {
        assert!(occurring.contains(reason), "event.proto lists {reason}, but no event is refused for it");
    }
    for reason in &occurring {
        assert!(listed.contains(reason), "events are refused for {reason}, but event.proto does not list it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn context_beyond_the_limit_is_trimmed_and_counted() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.3)])).await;
    let units = ["u0".to_owned()];
    let mut exposure = exposure_of(KEY, &units[0], &api.assign_all(KEY, &units).await[0]);
    let text = |text: String| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text)) };
    let attributes = [("bulk", "x".repeat(3_000)), ("country", "fr".to_owned()), ("targetingKey", "u0".to_owned())];
    let fields = attributes.map(|(name, value)| (name.to_owned(), text(value))).into();
    exposure.context = Some(prost_types::Struct { fields });
    let request = v1::RecordRequest { exposures: vec![exposure], outcomes: vec![] };
    let response = api.events().record(request).await.expect("the batch is accepted").into_inner();
    assert_eq!((response.accepted, response.contexts_trimmed, response.rejections.len()), (1, 1, 0));
    let log = rusqlite::Connection::open(server.folder.join("log.db")).expect("the log");
    let stored: String =
        log.query_row("SELECT context FROM log WHERE unit = 'u0'", [], |row| row.get(0)).expect("the event");
    assert_eq!(stored, r#"{"country":"fr"}"#, "the small attribute, without the unit key");
}
