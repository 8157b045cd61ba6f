//! What people get wrong, and what two people do to each other: it is said where it is, and nothing typed is lost.

use inroad_wire::v1;

use crate::driving::Browser;
use crate::harness::Server;
use crate::stage::{KEY, button, server};

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_stands_beside_its_field_and_what_was_typed_stays() {
    let server = Server::start().await;
    let browser = Browser::open(&server, "/new").await;
    browser.type_into("key", "Shop Button").await;
    browser.type_into("description", "Which colour sells").await;
    browser.type_into("audience", "country ==").await;
    browser.type_into("variations.0.payload", "maybe").await;
    browser.type_into("variations.1.key", "green").await;
    browser.type_into("variations.1.payload", "true").await;
    browser.type_into("variations.1.share", "lots").await;
    browser.press_first("Create as a draft").await;
    browser.wait_for("This cannot be saved yet").await;
    // What does not read at all comes first: nothing can be said of the rest yet.
    let fault = browser.fault_at("variations.0.payload").await.expect("a fault");
    assert!(fault.contains("a boolean is true or false"), "{fault}");
    let fault = browser.fault_at("variations.1.share").await.expect("a fault");
    assert!(fault.contains("write per cent, such as 12.5"), "{fault}");
    assert_eq!(browser.fault_at("variations.1.key").await, None);
    assert_eq!(browser.value_of("variations.1.share").await, "lots");
    assert_eq!(browser.value_of("audience").await, "country ==");

    browser.type_into("variations.0.payload", "false").await;
    browser.type_into("variations.1.share", "99,9").await;
    browser.press_first("Create as a draft").await;
    browser.wait_for("make them smaller").await;
    let fault = browser.fault_at("key").await.expect("a fault");
    assert!(fault.contains("is not well formed: use 1 to 128 of a-z"), "{fault}");
    assert!(browser.fault_at("audience").await.is_some());
    assert_eq!(browser.value_of("key").await, "Shop Button");
    assert_eq!(browser.value_of("description").await, "Which colour sells");
    // The faults are read first, and each leads to where it is.
    let read = "return document.activeElement.id";
    assert_eq!(browser.evaluate(read, vec![]).await, "faults");
    let lead = "return [...document.querySelectorAll('#faults a')]
        .filter(a => !document.getElementById(a.getAttribute('href').slice(1))).map(a => a.textContent)";
    assert_eq!(browser.evaluate(lead, vec![]).await, serde_json::json!([]), "each leads somewhere");
    browser.expect_complaint("422").await;
    let all = server.api().experiments().list_experiments(v1::ListExperimentsRequest::default()).await;
    assert_eq!(all.expect("a list").into_inner().experiments, []);

    browser.type_into("key", KEY).await;
    browser.type_into("audience", "country == \"fr\"").await;
    browser.type_into("variations.1.share", "12,5").await;
    browser.type_into("metrics.0.key", "bought").await;
    browser.type_into("metrics.0.event", "purchase").await;
    browser.press_first("Create as a draft").await;
    browser.wait_for("Created, as a draft.").await;
    let made = server.api().get(KEY).await;
    assert_eq!((made.variations[1].initial_share, made.audience.as_str()), (Some(0.125), "country == \"fr\""));
    // The same key once more.
    browser.go(&format!("/new?from={KEY}")).await;
    browser.type_into("key", KEY).await;
    browser.press_first("Create as a draft").await;
    browser.wait_for("exists").await;
    assert_eq!(browser.value_of("key").await, KEY);
    browser.expect_complaint("409").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_do_not_overwrite_each_other() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let edit = format!("/experiments/{KEY}/edit");
    let (ada, bob) = (Browser::open(&server, &edit).await, Browser::open(&server, &edit).await);
    ada.say_who("Ada").await;
    bob.say_who("Bob").await;
    ada.type_into("owner", "Ada").await;
    ada.type_into("description", "Ada was here").await;
    bob.type_into("description", "Bob was here").await;
    ada.press_first("Save").await;
    ada.wait_for("Saved.").await;

    bob.press_first("Save").await;
    bob.wait_for("Somebody changed this experiment while you were editing. Nothing was saved.").await;
    assert_eq!(api.get(KEY).await.description, "Ada was here");
    assert_eq!(bob.value_of("description").await, "Bob was here");
    let shown = bob.text_of(".changes").await;
    assert!(shown.contains("Ada was here → Bob was here"), "{shown}");
    bob.expect_complaint("409").await;
    bob.press_first("Save").await;
    bob.wait_for("Saved.").await;
    assert_eq!(api.get(KEY).await.description, "Bob was here");
    // Both are in the log, each with what they changed.
    let audit = bob.text_of("#history").await;
    assert!(audit.contains("Bob") && audit.contains("Ada"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_decides_on_what_no_longer_stands_is_asked_again_and_keeps_their_choice() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/conclude")).await;
    browser.click("radio", "green").await;
    api.grow(KEY, "blue", 0.3).await;
    browser.press_button("Conclude the experiment").await;
    browser.wait_for("Somebody changed this experiment while you were deciding.").await;
    browser.expect_complaint("409").await;
    let chosen = "return document.querySelector('main [name=ship]:checked').value";
    assert_eq!(browser.evaluate(chosen, vec![]).await, "green", "control would be shipped to everybody instead");
    // To say who one is leads back to a page, also from here.
    browser.say_who("Ada").await;
    browser.wait_for_path(&format!("/experiments/{KEY}")).await;
    browser.go(&format!("/experiments/{KEY}/ask/conclude?variation=green")).await;
    browser.press_button("Conclude the experiment").await;
    browser.wait_for("Concluded: everybody gets green").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_does_the_other_sees_wherever_it_is_told() {
    let server = server().await;
    let api = server.api();
    api.create(button()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    browser.wait_for("live").await;
    browser.note_changes_of("controls").await;
    server.cli(&["experiment", "start", KEY]).await.ok();
    browser.first_showed("Pause").await;
    assert!(browser.text_of("#contents").await.contains("Funnel"), "there are results now");
    api.kill(KEY, "green").await;
    browser.first_showed("green 30\\.00% killed").await;
    browser.click("link", "Restore green").await;
    browser.press_button("Restore green").await;
    browser.wait_for("green is restored").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_is_too_much_is_said_in_words() {
    let server = Server::start().await;
    let browser = Browser::open(&server, "/experiments/nobody").await;
    browser.wait_for("There is no such thing").await;
    browser.wait_for("Look for it among all experiments, or create it.").await;
    browser.expect_complaint("404").await;
    browser.go("/new").await;
    let fill = "document.querySelector('main [name=description]').value = 'x'.repeat(3 << 20)";
    browser.evaluate(fill, vec![]).await;
    browser.press_first("Create as a draft").await;
    browser.wait_for("A form may have 2 MiB").await;
    browser.expect_complaint("413").await;
}
