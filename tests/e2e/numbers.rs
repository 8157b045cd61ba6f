//! Numbers that a reader compares agree on the experiment's page, the overview, the funnel and in the command line, or a
//! label says why they differ.

use inroad_wire::v1;
use serde_json::Value;

use crate::harness::{
    Server, Setup, at_second, context, eventually, exposure_of, flag, http_get, outcome, with_conversion_metrics,
    with_manual_clock, with_thompson_policy,
};

const KEY: &str = "checkout";
const START: i64 = 1_767_225_600;
const DAY: i64 = 86_400;

/// The visible text of a page, with white space normalised. Charts are left out.
pub(crate) async fn page_text(server: &Server, path: &str) -> String {
    let (code, html) = http_get(server.address, path).await.expect("the server answers");
    assert_eq!(code, 200, "{path}: {html}");
    let mut text = html;
    for element in ["svg", "script", "style"] {
        while let Some(start) = text.find(&format!("<{element}")) {
            let end =
                text[start..].find(&format!("</{element}>")).map_or(text.len(), |end| start + end + element.len() + 3);
            text.replace_range(start..end, " ");
        }
    }
    let mut parts = text.split('<');
    let mut visible = parts.next().unwrap_or_default().to_owned();
    for (tag, after) in parts.filter_map(|part| part.split_once('>')) {
        let name = tag.trim_start_matches('/').split([' ', '>']).next().unwrap_or_default();
        // Numbers, times and links are parts of sentences; other elements are apart on the page.
        if !["data", "time", "a", "code"].contains(&name) {
            visible.push(' ');
        }
        visible += after;
    }
    let visible = visible.replace("&gt;", ">").replace("&lt;", "<").replace("&quot;", "\"").replace("&amp;", "&");
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text between two others.
#[track_caller]
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start:?} in {text}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} after {start:?} in {text}")).0.trim()
}

/// The first words after a text.
#[track_caller]
fn words_after<'a>(text: &'a str, start: &str, words: usize) -> Vec<&'a str> {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start:?} in {text}"));
    rest.split_whitespace().take(words).collect()
}

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap_or_else(|e| panic!("{text:?} is not a number: {e}"))
}

/// Checks that a label is on a page.
#[track_caller]
fn assert_label(page: &str, label: &str) {
    assert!(page.contains(label), "no {label:?} in {page}");
}

/// Advances the simulated time to a time after the start.
async fn advance(server: &Server, seconds: i64) {
    let request = v1::AdvanceClockRequest { key: KEY.to_owned(), to: Some(at_second(START + seconds)) };
    server.api().experiments().advance_clock(request).await.expect("the clock advances");
}

/// Exposes units at a time after the start, and returns their variations.
async fn expose(server: &Server, units: &[String], seconds: i64) -> Vec<String> {
    let api = server.api();
    let answers = api.assign_all(KEY, units).await;
    let exposure = |(unit, answer): (&String, &v1::AssignResponse)| v1::Exposure {
        occurred_at: Some(at_second(START + seconds)),
        ..exposure_of(KEY, unit, answer)
    };
    api.record(units.iter().zip(&answers).map(exposure).collect(), vec![]).await;
    answers.into_iter().map(|answer| answer.variation).collect()
}

/// Records a purchase of every unit that converts, at a time after the start.
async fn convert(server: &Server, units: &[String], seconds: i64) {
    let purchase = |unit: &String| v1::Outcome {
        occurred_at: Some(at_second(START + seconds)),
        clock: KEY.to_owned(),
        ..outcome(unit, 1.0, &format!("{unit}-{seconds}"))
    };
    server.api().record(vec![], units.iter().map(purchase).collect()).await;
}

/// What is known of the world that [`record_world`] records.
struct World {
    /// Distinct exposed units.
    distinct: u64,
    /// Units that were exposed to control and later to green.
    crossovers: u64,
    /// Units exposed to control and to green.
    exposed: [u64; 2],
}

/// Two days: green grows after the first, when its units buy less often than on the second, so that the plain ratio of the
/// rates is not the lift. Some units cross over from control within their window.
async fn record_world(server: &Server) -> World {
    let api = server.api();
    let mut experiment = with_manual_clock(with_conversion_metrics(flag(KEY, &[("green", 0.2)])), START);
    experiment.audience = "true".to_owned();
    api.launch(experiment).await;
    let first: Vec<String> = (0..2_000).map(|n| format!("first-{n}")).collect();
    advance(server, 3_600).await;
    let before = expose(server, &first, 3_600).await;
    // On the first day 10% buy in control, and 20% with green.
    let buys = |variations: &[String], units: &[String], rates: [usize; 2]| -> Vec<String> {
        let rate = |variation: &String| if variation == "green" { rates[1] } else { rates[0] };
        let chosen = units.iter().zip(variations).enumerate();
        chosen.filter(|(i, (_, variation))| i % 20 < rate(variation)).map(|(_, (unit, _))| unit.clone()).collect()
    };
    advance(server, 7_200).await;
    convert(server, &buys(&before, &first, [2, 4]), 7_200).await;
    api.grow(KEY, "green", 0.7).await;
    advance(server, DAY + 3_600).await;
    let again = expose(server, &first, DAY + 3_600).await;
    let second: Vec<String> = (0..2_000).map(|n| format!("second-{n}")).collect();
    let new = expose(server, &second, DAY + 3_600).await;
    advance(server, DAY + 7_200).await;
    convert(server, &buys(&new, &second, [8, 16]), DAY + 7_200).await;
    // The events are counted before the first number is read.
    api.results(KEY).await;
    let is_green = |variation: &&String| *variation == "green";
    let crossovers = before.iter().zip(&again).filter(|(before, again)| before != again).count() as u64;
    let green = again.iter().chain(&new).filter(is_green).count() as u64;
    let control = (before.iter().chain(&new).filter(|variation| *variation == "control").count()) as u64;
    World { distinct: 4_000, crossovers, exposed: [control, green] }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_agree_on_all_pages_and_in_the_command_line() {
    let server = Server::with(Setup::lead("20ms")).await;
    let world = record_world(&server).await;
    assert!(world.crossovers > 500, "{}", world.crossovers);
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    // The overview computes its summaries in the background.
    let overview = eventually("the overview has the number of units", async || {
        Some(page_text(&server, "/").await).filter(|text| !text.contains('…'))
    })
    .await;
    let funnel = page_text(&server, &format!("/experiments/{KEY}/funnel?step=purchase")).await;
    let json: Value = server.cli(&["results", KEY, "--wait", "--json"]).await.ok().json();
    let cli = server.cli(&["results", KEY]).await.ok().stdout;
    let cli_funnel = server.cli(&["funnel", KEY, "purchase"]).await.ok().stdout;

    // Distinct units: overview, page, command line.
    assert_eq!(number(words_after(&overview, "Exposed units", 1)[0]), world.distinct);
    assert!(page.contains(&format!("{} units were exposed", "4,000")), "{page}");
    assert_eq!(json["units"], world.distinct);
    // The column adds up to more, and the label says by how much and why.
    let label = between(&page, "4,000 units were exposed;", ".");
    assert!(
        label.starts_with(&format!("{} of them were exposed to two variations", grouped(world.crossovers))),
        "{label}"
    );
    assert!(label.ends_with(&grouped(world.exposed[0] + world.exposed[1])), "{label}");
    assert!(cli.contains(label), "{cli}");
    assert_eq!(
        number(between(&page, "moved between variations", "Crossovers").rsplit(' ').next().unwrap_or_default()),
        world.crossovers
    );

    let counted_label = between(&page, "under its first variation:", "excluded");
    let (counted, excluded) = counted_label.split_once(" are counted, ").expect("two numbers");
    assert_eq!(number(counted) + number(excluded), world.distinct, "{counted_label}");
    assert_eq!(json["dropped_records"], number(excluded));

    // Each row: exposed and counted units, converted, rate and lift.
    let table = between(&page, "By variation", "Other estimates");
    for (i, variation) in ["control", "green"].into_iter().enumerate() {
        let arm = &json["arms"][i];
        let row = words_after(table.split_once("Expected loss").expect("the last column").1, variation, 4);
        assert_eq!(number(row[0]), world.exposed[i]);
        assert_eq!(arm["units"], world.exposed[i]);
        assert_eq!(number(row[1]), arm["metrics"][0]["units"].as_u64().unwrap_or_default());
        assert_eq!(number(row[2]), arm["metrics"][0]["converted"].as_u64().unwrap_or_default());
        let cli_row: Vec<&str> =
            cli.lines().find(|line| line.starts_with(variation)).expect("a row").split_whitespace().collect();
        assert_eq!([cli_row[2], cli_row[3], cli_row[4]], [row[0], row[1], row[3]], "exposed, counted, rate: {cli}");
        // The funnel's first step is exposure.
        assert!(funnel.contains(&format!("{variation} {} 100.0%", row[0])), "{funnel}");
        assert!(cli_funnel.lines().any(|line| line.contains(variation) && line.contains(row[0])), "{cli_funnel}");
    }
    let window =
        "Results count only those within the metric's window, and there a unit may get another variation after";
    assert!(funnel.contains(window) && cli_funnel.contains(window), "{funnel}\n{cli_funnel}");
    // Why rates and lifts differ is the same sentence on the page and in the command line.
    let why = "Rates are of all exposed units. Lifts compare only units that were served one variation throughout";
    assert!(funnel.contains(why) && cli_funnel.contains(why), "{funnel}\n{cli_funnel}");

    // The lift is the same everywhere, and is not the plain ratio: the label says so.
    let lift = signed_percent(json["arms"][1]["lift"]["estimate"].as_f64().expect("a lift"));
    let rate = |arm: usize| json["arms"][arm]["metrics"][0]["mean"].as_f64().expect("a rate");
    let ratio = signed_percent(rate(1) / rate(0) - 1.0);
    assert_ne!(lift, ratio);
    assert!(
        between(&page, "Simulated time:", "Traffic allocation").contains(&format!("{lift} over control")),
        "{page}"
    );
    let note = format!(
        "the plain ratio to control is {ratio}; the lift {lift} compares only units of the same reporting interval"
    );
    assert!(page.contains(&note), "{note}: {page}");
    assert!(cli.contains(&note), "{note}: {cli}");
    assert!(table.contains(&lift) && cli.contains(&lift));

    // Shares: page, overview and command line.
    assert!(page.contains("green 70.00% served"), "{page}");
    assert!(cli.lines().any(|line| line.starts_with("green") && line.contains("70.0%")), "{cli}");
    let list = server.cli(&["experiment", "list"]).await.ok().stdout;
    assert!(list.contains("30.0% / 70.0%"), "{list}");
}

/// A relative change as pages write it.
fn signed_percent(change: f64) -> String {
    if change >= 0.9995 { format!("{:+.0}%", 100.0 * change) } else { format!("{:+.1}%", 100.0 * change) }
}

fn grouped(number: u64) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}

/// Readers share a list for up to a second, but never across a change.
#[tokio::test(flavor = "multi_thread")]
async fn overview_shows_each_change_at_once_to_each_filter() {
    let server = Server::start().await;
    let api = server.api();
    let shown = async |query: &str| page_text(&server, &format!("/{query}")).await;
    assert!(shown("").await.contains("No experiments yet"));
    for (number, key) in ["first", "second", "third"].into_iter().enumerate() {
        api.launch(with_conversion_metrics(flag(key, &[("green", 0.2)]))).await;
        // The second request has the same answer as the first one.
        for _ in 0..2 {
            let (all, other) = (shown("").await, shown("?q=nothing").await);
            assert!(all.contains(key) && all.contains(&format!("{0} of {0}", number + 1)), "{all}");
            assert!(other.contains("No matches") && !other.contains(&format!("{key} running")), "{other}");
        }
    }
    api.kill("second", "").await;
    assert!(shown("").await.contains("second killed"));
    api.restore("second", "").await;
    assert!(!shown("").await.contains("second killed"));
    let answer = api.assign("third", context("unit"), v1::ExposureMode::Durable).await;
    assert!(answer.exposure_recorded);
    api.results("third").await;
    // Summaries of counted events may arrive a little later.
    eventually("the overview counts the unit", async || {
        Some(shown("?q=third").await).filter(|text| words_after(text, "Exposed units", 1)[0] == "1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revision_that_is_not_in_effect_is_labelled() {
    let server = Server::with(Setup::lead("20ms")).await;
    server.api().launch(with_manual_clock(flag(KEY, &[("green", 0.2)]), START)).await;
    server.api().grow(KEY, "green", 0.7).await;
    let label = "in effect from 2026-01-01";
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(page.contains(label), "{page}");
    let cli = server.cli(&["results", KEY]).await.ok().stdout;
    assert!(cli.contains(label), "{cli}");
    advance(&server, DAY).await;
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(!between(&page, "Revision", "Traffic allocation").contains("in effect from"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_conclusion_everything_shows_what_is_served_now() {
    let server = Server::with(Setup::lead("20ms")).await;
    record_world(&server).await;
    server.cli(&["experiment", "conclude", KEY, "--ship", "green", "--yes"]).await.ok();
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(page.contains("Concluded: units in the audience get green, all others control"), "{page}");
    let allocation = between(&page, "so a unit that has seen a variation keeps it.", "Traffic shares over time");
    assert!(allocation.starts_with("This is what units in the audience get since the conclusion at"), "{allocation}");
    assert!(allocation.contains("Until then: control 30.00%, green 70.00%."), "{allocation}");
    assert!(allocation.contains("green 100.0%"), "{allocation}");
    let over_time = between(&page, "Traffic shares over time", "Results");
    assert!(over_time.contains("0.0% 100.0%"), "the last step is the conclusion: {over_time}");
    let manage = between(&page, "Variations and their actions", "History");
    assert!(manage.contains("green 100.00% served to all units in the audience"), "{manage}");
    assert!(manage.contains("control 0.00% control, served to units outside the audience"), "{manage}");
    assert!(!page.contains("Control traffic still available"), "{page}");
    let list = server.cli(&["experiment", "list"]).await.ok().stdout;
    assert!(
        list.contains("shipped: units in the audience")
            && list.contains("get green, all others control")
            && !list.contains("70%"),
        "{list}"
    );
    let results = server.cli(&["results", KEY]).await.ok().stdout;
    assert!(results.contains("share before the end"), "{results}");
    let overview = page_text(&server, "/").await;
    assert!(overview.contains("Shipped green, to units in the audience"), "{overview}");
    let audit = between(&page, "Audit log", "Definition");
    // The page, the CLI and gRPC show the same sentences.
    let listed = server.cli(&["experiment", "audit", KEY]).await.ok().stdout;
    for shown in [audit, &listed] {
        assert!(shown.contains(&format!("shipped green in {KEY} to the units of its audience")), "{shown}");
        assert!(shown.contains("gave green 50 percentage points of traffic (20% to 70%)"), "{shown}");
        assert!(shown.contains(&format!("advanced the simulated time of {KEY} to 2026-01-02 02:00 UTC")), "{shown}");
    }
    for entry in server.api().audit(KEY).await {
        assert!(audit.contains(&entry.summary) && listed.contains(&entry.summary), "{entry:?}: {audit} {listed}");
    }
}

/// The page, the CLI's text and its JSON on the first run, after a restart.
async fn first_run(server: &Server) -> (String, String, Value) {
    let page = page_text(server, &format!("/experiments/{KEY}?generation=1")).await;
    let text = server.cli(&["results", KEY, "--generation", "1"]).await.ok().stdout;
    let json = server.cli(&["results", KEY, "--generation", "1", "--json"]).await.ok().stdout;
    (page, text, serde_json::from_str(&json).expect("JSON"))
}

/// The shares of the variations in JSON, in percent.
fn shares_in_json(json: &Value, field: &str) -> Vec<i64> {
    let arms = json["arms"].as_array().expect("a list of variations");
    arms.iter().map(|arm| (arm[field].as_f64().expect("a share") * 100.0).round() as i64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_was_shipped_and_restarted_is_shown_as_ended_everywhere() {
    let server = Server::with(Setup::lead("20ms")).await;
    record_world(&server).await;
    server.cli(&["experiment", "conclude", KEY, "--ship", "green", "--yes"]).await.ok();
    server.cli(&["experiment", "restart", KEY, "--yes"]).await.ok();
    // A kill and an edit in the second run do not change the first one.
    server.cli(&["experiment", "kill", KEY, "green", "--yes"]).await.ok();
    let (page, text, json) = first_run(&server).await;
    let head = between(&page, "Experiments", "Run 1 of 2");
    assert!(head.contains("ended") && !head.contains("running") && !head.contains("killed"), "{head}");
    let verdict = "Run 1 has ended: green was shipped, then the experiment was restarted.";
    assert!(page.contains(verdict) && text.contains(verdict), "{page}\n{text}");
    let allocation = between(&page, "so a unit that has seen a variation keeps it.", "Traffic shares over time");
    assert!(allocation.contains("green was shipped, until the restart at"), "{allocation}");
    assert!(allocation.contains("Shares until the end: control 30.00%, green 70.00%."), "{allocation}");
    assert!(allocation.contains("green 100.0%"), "as the chart ends: {allocation}");
    assert!(between(&page, "Traffic shares over time", "Results").contains("0.0% 100.0%"), "{page}");
    assert!(page.contains("Run 1 has ended. Manage run 2"), "{page}");
    assert!(text.starts_with("checkout run 1, revision 2, ended, "), "{text}");
    assert!(text.contains("share before the end"), "{text}");
    assert!(
        text.contains("then the experiment was restarted; shares until then: control 30.00%, green 70.00%"),
        "{text}"
    );
    assert_eq!(json["state"], "ended");
    assert_eq!(shares_in_json(&json, "share"), [30, 70]);
    assert_eq!(shares_in_json(&json, "final_share"), [0, 100]);
    assert!(json["ended"].as_str().expect("text").starts_with("green was shipped, then"), "{json}");
    let arms = json["arms"].as_array().expect("a list of variations");
    assert!(arms.iter().all(|arm| arm["killed"] == false), "{json}");
    let second = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(between(&second, "Experiments", "Run 2 of 2").contains("running"), "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_was_only_restarted_keeps_its_last_allocation() {
    let server = Server::with(Setup::lead("20ms")).await;
    record_world(&server).await;
    server.cli(&["experiment", "kill", KEY, "green", "--yes"]).await.ok();
    server.cli(&["experiment", "restart", KEY, "--yes"]).await.ok();
    server.cli(&["experiment", "restore", KEY, "green"]).await.ok();
    let (page, text, json) = first_run(&server).await;
    assert!(page.contains("This is the last allocation of this run, which a restart ended at"), "{page}");
    assert!(page.contains("Run 1 has ended: the experiment was restarted."), "{page}");
    assert!(text.contains("the experiment was restarted; shares until then: control 100.00%, green 0.00%"), "{text}");
    assert_eq!((shares_in_json(&json, "share"), json["arms"][1]["killed"].as_bool()), (vec![100, 0], Some(true)));
    assert_eq!(shares_in_json(&json, "final_share"), [100, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_shows_control_for_all_units() {
    let server = Server::start().await;
    server.api().launch(flag(KEY, &[("green", 0.7)])).await;
    server.cli(&["experiment", "conclude", KEY, "--roll-back", "--yes"]).await.ok();
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert!(page.contains("Rolled back: all units get control until it is restarted."), "{page}");
    assert!(page.contains("This is what all units get since the rollback at"), "{page}");
    let overview = page_text(&server, "/").await;
    assert!(overview.contains("Rolled back to control, for all units") && !overview.contains("Shipped"), "{overview}");
    let list = server.cli(&["experiment", "list"]).await.ok().stdout;
    assert!(list.contains("rolled back: all units get control"), "{list}");
    let get = server.cli(&["experiment", "get", KEY]).await.ok().stdout;
    assert!(get.contains("concluded, rolled back: all units get control"), "{get}");
    let again = server.cli(&["experiment", "conclude", KEY, "--roll-back", "--yes"]).await.ok().stdout;
    assert!(again.contains("is rolled back already"), "{again}");
    let manage = between(&page, "Variations and their actions", "History");
    assert!(manage.contains("control 100.00% control, served to all units"), "{manage}");
    assert!(manage.contains("green 0.00% not served: the experiment is rolled back"), "{manage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_of_a_manual_revision_names_its_author_and_the_shares() {
    let server = Server::start().await;
    server.api().launch(flag(KEY, &[("green", 0.2)])).await;
    server.cli(&["experiment", "grow", KEY, "green", "--to", "0.5", "--actor", "ann"]).await.ok();
    let text = server.cli(&["experiment", "explain", KEY, "2"]).await.ok().stdout;
    assert!(text.contains("grown by ann: control 80.00% → 50.00%, green 20.00% → 50.00%"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn change_has_one_time_in_its_audit_entry_and_in_what_it_changed() {
    let server = Server::with(Setup::lead("20ms")).await;
    let api = server.api();
    api.create(with_conversion_metrics(flag(KEY, &[("green", 0.4)]))).await;
    server.cli(&["experiment", "start", KEY]).await.ok();
    let units: Vec<String> = (0..50).map(|n| format!("u{n}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    api.record(units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect(), vec![]).await;
    api.results(KEY).await;
    api.kill(KEY, "green").await;
    let killed_at = eventually("the results of the kill are kept", async || {
        api.results(KEY).await.kills.first().map(|kill| kill.at)
    })
    .await;
    api.restore(KEY, "green").await;
    let restored_at = api.results(KEY).await.kills[0].restored_at;
    let audit = api.audit(KEY).await;
    let audited = |action: &str| audit.iter().find(|entry| entry.action == action).expect("an audit entry").at;
    assert_eq!(api.revisions(KEY).await[0].created_at, audited("start"));
    assert_eq!(killed_at, audited("kill"));
    assert_eq!(restored_at, audited("restore"));
}

/// A day of simulated time with the automatic policy: three variations of which one is better, and nobody converts later.
async fn record_day(server: &Server) -> v1::GetResultsResponse {
    let mut experiment = with_conversion_metrics(flag(KEY, &[("green", 0.3), ("red", 0.3)]));
    // With a random one, chance may give the converting units to any variation, and the policy may then change nothing.
    experiment.salt = "numbers".to_owned();
    server.api().launch(with_manual_clock(with_thompson_policy(experiment, DAY), START)).await;
    let units: Vec<String> = (0..2_000).map(|n| format!("u{n}")).collect();
    advance(server, 3_600).await;
    let served = expose(server, &units, 3_600).await;
    let converts = |(i, (_, variation)): &(usize, (&String, &String))| match variation.as_str() {
        "green" => i % 10 == 0,
        "red" => i % 9 == 0,
        _ => i % 12 == 0,
    };
    let converting = units.iter().zip(&served).enumerate().filter(converts).map(|(_, (unit, _))| unit.clone());
    advance(server, 7_200).await;
    convert(server, &converting.collect::<Vec<_>>(), 7_200).await;
    server.api().results(KEY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_has_the_probabilities_that_the_results_showed_before_it() {
    let server = Server::with(Setup::lead("20ms")).await;
    let results = record_day(&server).await;
    assert!(results.not_ranked.is_empty(), "{results:?}");
    advance(&server, DAY).await;
    let explained = server.api().explain(KEY, 2).await.decision.expect("a decision of the policy");
    let shown: Vec<f64> = results.arms.iter().map(|arm| arm.p_best).collect();
    let decided: Vec<f64> = explained.arms.iter().map(|arm| arm.p_best).collect();
    assert!(shown.iter().all(|p| *p < 0.999) && shown.iter().any(|p| *p > 0.3), "{shown:?}");
    assert_eq!(shown, decided);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_end_of_control_traffic_is_predicted_while_growth_leaves_control_more() {
    let server = Server::with(Setup::lead("20ms")).await;
    record_day(&server).await;
    advance(&server, DAY).await;
    let results = server.api().results(KEY).await;
    assert!(results.growth_per_day > 0.0 && results.headroom_note.contains("leaves control 15.0%"), "{results:?}");
    assert_eq!(results.days_of_headroom, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_says_what_it_saw_whatever_is_excluded_later() {
    let server = Server::with(Setup::lead("20ms")).await;
    record_day(&server).await;
    advance(&server, DAY).await;
    let before = (server.api().explain(KEY, 2).await.decision, server.api().results(KEY).await.dropped_records);
    let text = server.cli(&["experiment", "explain", KEY, "2"]).await.ok().stdout;
    server.api().kill(KEY, "green").await;
    let after = (server.api().explain(KEY, 2).await.decision, server.api().results(KEY).await.dropped_records);
    assert!(before.1 < after.1, "the kill excluded records: {} {}", before.1, after.1);
    assert_eq!(before.0, after.0);
    let page = page_text(&server, &format!("/experiments/{KEY}")).await;
    assert_label(&page, "Each says what was known at its time. The verdict and the results use what is known now");
    assert_label(&text, "with what was known then; `inroad results` uses what is known now");
    let decisions = server.cli(&["experiment", "decisions", KEY]).await.ok().stdout;
    assert_label(
        &decisions,
        "each says what was known at its time, shortly before its entry in the audit log; `inroad results` uses what is known now",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_from_fewer_events_than_a_minute_has_is_labelled_on_the_pages() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag(KEY, &[("green", 0.4)])).await;
    let units: Vec<String> = (0..1_000).map(|n| format!("u{n}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposure = |(unit, answer): (&String, &v1::AssignResponse)| exposure_of(KEY, unit, answer);
    let exposures: Vec<v1::Exposure> = units.iter().zip(&answers).map(exposure).collect();
    api.record(exposures[..10].to_vec(), vec![]).await;
    let (feed, overview) = (page_text(&server, "/feed").await, page_text(&server, "/").await);
    assert_label(&feed, "10 events in the last minute");
    assert_label(&overview, "Exposures in the last minute 10");
    for _ in 0..6 {
        api.record(exposures.clone(), vec![]).await;
    }
    let feed = page_text(&server, "/feed").await;
    assert!(!feed.contains("last minute"), "{feed}");
    // The list of the overview is kept until the summaries are computed again.
    let overview = eventually("the overview has the rate of the newest events", async || {
        Some(page_text(&server, "/").await).filter(|page| !page.contains("last minute"))
    })
    .await;
    for page in [feed, overview] {
        let label = between(&page, "at the rate of the newest 5,000 events (", ")");
        assert!(label.ends_with(" s"), "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draft_has_its_primary_metric_and_no_control_traffic_to_take() {
    let server = Server::start().await;
    server.api().create(with_thompson_policy(with_conversion_metrics(flag(KEY, &[("green", 0.2)])), DAY)).await;
    let results = server.cli(&["results", KEY]).await.ok().stdout;
    assert_eq!(words_after(&results, "primary metric", 1), ["bought"], "{results}");
    assert_eq!(words_after(&results, "control traffic still available", 1), ["–"], "as on the overview: {results}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_just_after_a_change_are_those_of_a_moment_later_or_say_that_they_are_not() {
    let server = Server::start().await;
    let experiment = with_manual_clock(with_conversion_metrics(flag(KEY, &[("green", 0.5)])), START);
    server.api().launch(experiment).await;
    let units: Vec<String> = (0..4_000).map(|n| format!("unit-{n}")).collect();
    expose(&server, &units, 0).await;
    server.api().results(KEY).await;
    for killed in [true, false] {
        match killed {
            true => server.api().kill(KEY, "green").await,
            false => server.api().restore(KEY, "green").await,
        };
        let request = |wait| v1::GetResultsRequest { key: KEY.to_owned(), generation: 0, wait };
        let read =
            async |wait| server.api().result_service().get_results(request(wait)).await.expect("results").into_inner();
        let (at_once, later) = (read(false).await, read(true).await);
        let is_labelled = at_once.units_note.contains("is still being counted");
        assert!(
            is_labelled || at_once.dropped_records == later.dropped_records,
            "{} {}",
            at_once.units_note,
            later.units_note
        );
        assert!(!later.units_note.contains("is still being counted"), "{}", later.units_note);
    }
}
