//! Events that are refused one by one, in a batch whose good events are taken.

use std::collections::BTreeMap;

use inroad_wire::v1;
use prost_types::Timestamp;

use super::document;
use crate::harness::{Server, conversions, exposure_of, flag, gauge, now_micros, outcome};

const KEY: &str = "checkout";

fn from_now(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: now_micros() / 1_000_000 + seconds, nanos: 0 })
}

/// Texts in which numbers that differ from run to run have a name.
fn steady(message: &str) -> String {
    let ahead = message.split_once("it claims to happen ").and_then(|(_, rest)| rest.split_once(" s from now"));
    match ahead {
        Some((seconds, _)) => message.replace(seconds, "…"),
        None => message.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_refused_by_itself_and_the_good_ones_beside_it_are_taken() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.3), ("b", 0.3)]))).await;
    let units: Vec<String> = (0..100).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let home = |variation: &str| answers.iter().position(|a| a.variation == variation).expect("somebody");
    let good = |i: usize| exposure_of(KEY, &units[i], &answers[i]);
    let of_a = good(home("a"));
    let rival = v1::Exposure { variation: "b".to_owned(), ..of_a.clone() };
    let as_control = v1::Exposure { variation: "control".to_owned(), ..of_a.clone() };
    let exposures = [
        ("exposure: no such experiment", v1::Exposure { experiment: "nothing".to_owned(), ..of_a.clone() }),
        ("exposure: no such generation", v1::Exposure { generation: 9, ..of_a.clone() }),
        ("exposure: no generation", v1::Exposure { generation: 0, ..of_a.clone() }),
        ("exposure: no such revision", v1::Exposure { revision: 99, ..of_a.clone() }),
        ("exposure: no such variation", v1::Exposure { variation: "z".to_owned(), ..of_a.clone() }),
        ("exposure: a rival of what the hash gives", rival),
        ("exposure: control, where the hash gives a variation that nobody ever killed", as_control),
        ("exposure: the unit key is empty", v1::Exposure { unit: String::new(), ..of_a.clone() }),
        ("exposure: the unit key has over 1,024 bytes", v1::Exposure { unit: "x".repeat(1_025), ..of_a.clone() }),
        ("exposure: over 5 minutes in the future", v1::Exposure { occurred_at: from_now(3_600), ..of_a.clone() }),
        ("exposure: before the generation started", v1::Exposure { occurred_at: from_now(-3_600), ..of_a.clone() }),
        (
            "exposure: no instant",
            v1::Exposure { occurred_at: Some(Timestamp { seconds: i64::MAX, nanos: 0 }), ..of_a.clone() },
        ),
    ];
    let bought = outcome("u0", 1.0, "order-1");
    let units_of =
        |n: usize| -> BTreeMap<String, String> { (0..n).map(|i| (format!("type{i}"), "x".to_owned())).collect() };
    let outcomes = [
        ("outcome: over 5 minutes in the future", v1::Outcome { occurred_at: from_now(3_600), ..bought.clone() }),
        ("outcome: NaN", v1::Outcome { value: f64::NAN, ..bought.clone() }),
        ("outcome: a value beyond ±1e9", v1::Outcome { value: -1e10, ..bought.clone() }),
        ("outcome: no event_id", v1::Outcome { event_id: String::new(), ..bought.clone() }),
        ("outcome: an event_id of over 128 bytes", v1::Outcome { event_id: "x".repeat(129), ..bought.clone() }),
        ("outcome: no event name", v1::Outcome { event: String::new(), ..bought.clone() }),
        ("outcome: nobody did it", v1::Outcome { units: BTreeMap::new(), ..bought.clone() }),
        ("outcome: over 8 units", v1::Outcome { units: units_of(9), ..bought.clone() }),
        (
            "outcome: a unit key of no bytes",
            v1::Outcome { units: BTreeMap::from([("user".to_owned(), String::new())]), ..bought.clone() },
        ),
        (
            "outcome: the clock of an experiment that has none of its own",
            v1::Outcome { clock: KEY.to_owned(), ..bought.clone() },
        ),
    ];
    let mut request = v1::RecordRequest::default();
    request.exposures.push(good(1));
    request.exposures.extend(exposures.iter().map(|(_, e)| e.clone()));
    request.exposures.push(good(2));
    request.outcomes.extend(outcomes.iter().map(|(_, o)| o.clone()));
    request.outcomes.push(outcome("u1", 2.0, "order-1"));
    let response = api.events().record(request).await.expect("the batch is taken").into_inner();
    assert_eq!(response.accepted, 3, "{response:?}");
    assert_eq!(gauge(server.address, "inroad_log_head").await, 3.0);
    assert_eq!(response.rejections.len(), exposures.len() + outcomes.len(), "{response:?}");
    let mut rows = Vec::new();
    for rejection in &response.rejections {
        let index = rejection.index as usize;
        let case = if rejection.outcome { outcomes[index].0 } else { exposures[index - 1].0 };
        assert!(!rejection.message.is_empty(), "{rejection:?}");
        rows.push(vec![case.to_owned(), format!("`{}`", rejection.reason), steady(&rejection.message)]);
    }
    document::check("Events", &["case", "reason", "what it says"], &rows);
    let results = api.results(KEY).await;
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), 2);
    assert_eq!((results.units_moved, results.crossovers, results.stale_exposures), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_that_the_contract_lists_can_be_met_and_none_beside_them() {
    let proto =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/inroad/v1/event.proto")).expect("it");
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md")).expect("it");
    let (_, comment) = proto.split_once("// UPPER_SNAKE: ").expect("the list");
    let (list, _) = comment.split_once("string reason").expect("its end");
    let listed: Vec<&str> = list.split([',', '/', '.', ' ', '\n']).filter(|word| word.len() > 3).collect();
    let section = document.split("## Events").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let met: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| ")?.split('`').nth(1)).collect();
    for reason in &listed {
        assert!(met.contains(reason), "event.proto lists {reason}, which nothing is refused for");
    }
    for reason in &met {
        assert!(listed.contains(reason), "{reason} is met, and event.proto does not list it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_context_than_is_kept_is_left_out_and_counted() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.3)])).await;
    let units = ["u0".to_owned()];
    let mut exposure = exposure_of(KEY, &units[0], &api.assign_all(KEY, &units).await[0]);
    let text = |text: String| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text)) };
    let said = [("bulk", "x".repeat(3_000)), ("country", "fr".to_owned()), ("targetingKey", "u0".to_owned())];
    let fields = said.map(|(name, said)| (name.to_owned(), text(said))).into();
    exposure.context = Some(prost_types::Struct { fields });
    let request = v1::RecordRequest { exposures: vec![exposure], outcomes: vec![] };
    let response = api.events().record(request).await.expect("taken").into_inner();
    assert_eq!((response.accepted, response.contexts_trimmed, response.rejections.len()), (1, 1, 0));
    let log = rusqlite::Connection::open(server.folder.join("log.db")).expect("the log");
    let kept: String = log.query_row("SELECT context FROM log WHERE unit = 'u0'", [], |row| row.get(0)).expect("it");
    assert_eq!(kept, r#"{"country":"fr"}"#, "what fits, and no key of a unit");
}
