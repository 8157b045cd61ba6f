//! What is said about an experiment after its conclusion is true of what it serves then, also while the shipped variation is
//! killed, and nothing that happens afterwards changes what is said about its run.

use inroad_wire::v1;
use serde_json::Value;

use crate::harness::{Server, at_second, exposure_of, flag, outcome, with_conversion_metrics, with_manual_clock};
use crate::numbers::page_text;

const KEY: &str = "checkout";
const START: i64 = 1_767_225_600;

/// A run of 200 exposed units, of which every fourth converts, with a quarter of the traffic for green and for red. Time does not pass, so that kills have the
/// time of the conclusion.
async fn running() -> Server {
    let server = Server::start().await;
    let api = server.api();
    let experiment = with_manual_clock(with_conversion_metrics(flag(KEY, &[("green", 0.25), ("red", 0.25)])), START);
    api.launch(v1::Experiment { audience: "true".to_owned(), ..experiment }).await;
    let units: Vec<String> = (0..200).map(|n| format!("unit-{n}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units
        .iter()
        .zip(&answers)
        .map(|(unit, answer)| v1::Exposure { occurred_at: Some(at_second(START)), ..exposure_of(KEY, unit, answer) });
    let purchase = |unit: &String| v1::Outcome {
        occurred_at: Some(at_second(START)),
        clock: KEY.to_owned(),
        ..outcome(unit, 1.0, unit)
    };
    api.record(exposures.collect(), units.iter().step_by(4).map(purchase).collect()).await;
    api.results(KEY).await;
    server
}

async fn change(server: &Server, args: &[&str]) -> String {
    let args = [&["experiment"], args].concat();
    server.cli(&args).await.ok().stdout
}

async fn ask(server: &Server, action: &str) -> String {
    page_text(server, &format!("/experiments/{KEY}/ask/{action}")).await
}

async fn results(server: &Server) -> Value {
    let text = server.cli(&["results", KEY, "--wait", "--json"]).await.ok().stdout;
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_say_what_they_change_after_a_variation_was_shipped() {
    let server = running().await;
    change(&server, &["conclude", KEY, "--ship", "green", "--yes"]).await;
    let kill = ask(&server, "kill?variation=green").await;
    assert!(kill.contains("Units in the audience get control instead of green immediately."), "{kill}");
    assert!(kill.contains("Switches from a variation to control 100.00%"), "as the experiment's page: {kill}");
    for wrong in ["25.00%", "25.0%", "No unit has been exposed"] {
        assert!(!kill.contains(wrong), "{wrong}: {kill}");
    }
    let other = ask(&server, "kill?variation=red").await;
    assert!(other.contains("No unit gets red: the experiment is concluded."), "{other}");
    let all = ask(&server, "kill").await;
    assert!(all.contains("All units get control immediately: units in the audience stop getting green."), "{all}");
    let restart = ask(&server, "restart").await;
    assert!(
        restart.contains("Units in the audience get green now and may get another variation or control."),
        "{restart}"
    );
    let said = change(&server, &["kill", KEY, "red"]).await;
    assert!(said.contains("no unit of checkout gets it") && !said.contains("stop seeing"), "{said}");
    let said = change(&server, &["kill", KEY, "green", "--yes"]).await;
    assert!(!said.contains("stop seeing") && !said.contains("leave the comparison"), "{said}");
    let restart = ask(&server, "restart").await;
    assert!(restart.contains("All units get control now. In the new run, units may get a variation."), "{restart}");
    let restore = ask(&server, "restore?variation=green").await;
    assert!(restore.contains("Units in the audience get green again, immediately."), "{restore}");
    assert!(restore.contains("Gets its variation back 100.00%") && !restore.contains("25.00%"), "{restore}");
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_say_what_they_change_after_a_rollback() {
    let server = running().await;
    change(&server, &["conclude", KEY, "--roll-back", "--yes"]).await;
    for page in [ask(&server, "kill").await, ask(&server, "restart").await] {
        assert!(page.contains("All units get control") && !page.contains("50.00%"), "{page}");
    }
    let kill = ask(&server, "kill?variation=green").await;
    assert!(kill.contains("No unit gets green: the experiment is rolled back."), "{kill}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_after_a_conclusion_changes_nothing_that_is_said_about_the_run() {
    let server = running().await;
    change(&server, &["kill", KEY, "red"]).await;
    change(&server, &["conclude", KEY, "--ship", "green", "--yes"]).await;
    let ended = "green was shipped; shares until then: control 75.00%, green 25.00%, red 0.00%";
    let before = results(&server).await;
    assert_eq!(before["ended"], ended);
    change(&server, &["kill", KEY, "green", "--yes"]).await;
    let after = results(&server).await;
    assert_eq!(after["ended"], ended);
    let shares = |results: &Value| -> Vec<Value> {
        results["arms"].as_array().expect("a list").iter().map(|arm| arm["share"].clone()).collect()
    };
    assert_eq!(shares(&after), shares(&before));
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(page.contains("Until then: control 75.00%, green 25.00%, red 0.00%."), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_the_shipped_variation_is_said_everywhere() {
    let server = running().await;
    change(&server, &["conclude", KEY, "--ship", "green", "--yes"]).await;
    change(&server, &["kill", KEY, "green", "--yes"]).await;
    let overview = page_text(&server, "/").await;
    assert!(overview.contains("Shipped green, but it is killed: all units get control"), "{overview}");
    let list = change(&server, &["list"]).await;
    assert!(list.contains("shipped, but killed: all units get control"), "{list}");
    let get = change(&server, &["get", KEY]).await;
    assert!(get.contains("concluded, but green is killed: all units get control"), "{get}");
    change(&server, &["restore", KEY, "green"]).await;
    change(&server, &["kill", KEY, "--yes"]).await;
    let overview = page_text(&server, "/").await;
    assert!(overview.contains("Shipped green, but it is killed: all units get control"), "{overview}");
}

#[tokio::test(flavor = "multi_thread")]
async fn allocated_shares_of_an_ended_run_are_told_from_those_that_were_served() {
    let server = running().await;
    change(&server, &["kill", KEY, "red"]).await;
    change(&server, &["conclude", KEY, "--ship", "green", "--yes"]).await;
    let results = server.cli(&["results", KEY]).await.ok().stdout;
    assert!(results.contains("share before the end"), "{results}");
    let get = change(&server, &["get", KEY]).await;
    assert!(!get.contains("share before the end") && get.contains("allocated share"), "{get}");
    assert!(get.contains("variations that were killed before the end got control"), "{get}");
    assert!(!get.contains("until the end, units of killed variations"), "some are killed since the end: {get}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conclusion_counts_units_that_a_changed_audience_left_out_as_such() {
    let server = running().await;
    let page = ask(&server, "conclude").await;
    assert!(page.contains("Units in the audience: up to 200 exposed units."), "{page}");
    assert!(
        page.contains("Exposed units that are no longer in the audience are counted as well; they keep control."),
        "{page}"
    );
}

/// What `results` says of the comparison of variations.
fn comparison(results: &Value) -> Vec<Value> {
    let of_arm = |arm: &Value| {
        ["killed", "p_best", "p_above_control", "expected_loss", "lift", "metrics"].map(|field| arm[field].clone())
    };
    let arms = results["arms"].as_array().expect("a list").iter().flat_map(of_arm);
    let fields = ["leader", "not_ranked", "potential_value_remaining", "verdict"];
    arms.chain(fields.map(|field| results[field].clone())).map(rounded).collect()
}

/// The value with nine digits of each number: sums of floating-point numbers depend on their order.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, |number| format!("{number:.9}").into()),
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, rounded(value))).collect(),
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_after_a_conclusion_changes_no_comparison_and_is_shown() {
    let server = running().await;
    // Units that were exposed in the instant of the end are not counted.
    change(&server, &["advance", KEY, "--by", "1h"]).await;
    change(&server, &["conclude", KEY, "--ship", "green", "--yes"]).await;
    let before = results(&server).await;
    assert!(before["arms"][2]["p_best"].is_number(), "{before}");
    change(&server, &["kill", KEY, "red", "--yes"]).await;
    let after = results(&server).await;
    assert_eq!(comparison(&after), comparison(&before));
    assert_eq!(after["arms"][2]["killed_after_end"], true, "{after}");
    let results = server.cli(&["results", KEY]).await.ok().stdout;
    assert!(results.contains("killed after the end"), "{results}");
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(page.contains("red killed after the end"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_that_never_took_effect_is_said_so() {
    let server = running().await;
    server.api().grow(KEY, "green", 0.4).await;
    change(&server, &["conclude", KEY, "--ship", "green", "--yes"]).await;
    let results = results(&server).await;
    assert_eq!((&results["revision"], &results["arms"][1]["share"]), (&1.into(), &0.25.into()), "{results}");
    let get = change(&server, &["get", KEY]).await;
    assert!(get.contains("2, never in effect: the run ended before"), "{get}");
    assert!(get.contains("revision 2 never took effect: `inroad results` shows the shares that were served"), "{get}");
    let revisions = change(&server, &["revisions", KEY]).await;
    assert!(revisions.contains("never in effect: the run ended before"), "{revisions}");
}
