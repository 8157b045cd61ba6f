//! Pages that follow what happens: numbers move by themselves, soon, and only where there is something new.

use crate::driving::Browser;
use crate::harness::{eventually, exposure_of, now_micros, outcome};
use crate::stage::{KEY, button, caught_up, clients, server, traffic};

/// How long an event may take from its caller to the page, in milliseconds. Asked of the quickest of a few: nothing in the
/// way waits by design. How long the others take is the machine's affair, which other tests keep busy beside this one.
const SOON_MS: i64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn numbers_move_within_a_second_of_the_event_and_without_a_reload() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    traffic(&api, KEY, "customer", 50).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    browser.wait_for("live").await;
    let control: Vec<String> = {
        let units: Vec<String> = (0..100).map(|n| format!("more-{n}")).collect();
        let answers = api.assign_all(KEY, &units).await;
        units.into_iter().zip(answers).filter(|(_, answer)| answer.variation == "green").map(|(unit, _)| unit).collect()
    };
    let row = "return [...document.querySelector('#results table').tBodies[0].rows].find(r => r.cells[0].innerText \
        .startsWith('green')).cells[1].innerText";
    eventually("what was before is there", async || {
        let answer = api.results(KEY).await;
        let units = answer.arms.iter().find(|arm| arm.variation == "green")?.units;
        (browser.evaluate(row, vec![]).await.as_str()?.parse() == Ok(units)).then_some(())
    })
    .await;
    let before: usize = browser.evaluate(row, vec![]).await.as_str().and_then(|n| n.parse().ok()).expect("a number");
    browser.note_changes_of("results").await;
    let mut took = Vec::new();
    for (n, unit) in control.iter().take(5).enumerate() {
        let answer = api.assign_all(KEY, std::slice::from_ref(unit)).await.remove(0);
        let begun = now_micros() / 1_000;
        api.record(vec![exposure_of(KEY, unit, &answer)], vec![outcome(unit, 1.0, &format!("event-{n}"))]).await;
        let shown = browser.first_showed(&format!("green {} ", before + n + 1)).await;
        took.push(shown - begun);
    }
    println!("milliseconds from an event to the page: {took:?}");
    assert!(took.iter().all(|ms| *ms >= 0) && took.iter().any(|ms| *ms < SOON_MS), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_the_list_and_the_clients_follow_too() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let feed = Browser::open(&server, "/feed?kind=outcome").await;
    let list = Browser::open(&server, "/clients").await;
    feed.wait_for("Nothing yet").await;
    list.wait_for("Nobody is connected").await;
    feed.note_changes_of("events").await;
    list.note_changes_of("clients").await;
    traffic(&api, KEY, "customer", 10).await;
    feed.first_showed("customer-5").await;
    assert!(!feed.text_of("#events").await.contains("exposure"), "only what was asked for");
    let callers = clients(&server, &["till"]).await;
    caught_up(&api, 1).await;
    list.first_showed("till rust/").await;
    drop(callers);
    list.wait_for("Nobody is connected").await;

    list.go("/").await;
    list.wait_for("live").await;
    list.note_changes_of("experiments").await;
    api.kill(KEY, "").await;
    list.first_showed("shop.button killed running").await;
    list.first_showed("Units 10").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_loses_its_server_says_so_and_finds_it_again() {
    let mut server = server().await;
    server.api().launch(button()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    browser.wait_for("live").await;
    server.kill();
    browser.wait_for("reconnecting").await;
    server.restart().await;
    eventually("it is found again", async || (browser.text_of("#pulse").await == "live").then_some(())).await;
    browser.note_changes_of("head").await;
    server.api().kill(KEY, "").await;
    browser.first_showed("killed").await;
    browser.expect_complaint("ERR_").await;
}
