//! Invalid input and conflicting edits: errors are shown at their fields, and nothing typed is lost.

use inroad_wire::v1;

use crate::fixtures::{KEY, button_experiment, start_server};
use crate::harness::Server;
use crate::webdriver::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_shown_at_their_fields_and_input_is_kept() {
    let server = Server::start().await;
    let browser = Browser::open(&server, "/new").await;
    browser.type_into("key", "Shop Button").await;
    browser.type_into("description", "Which colour sells").await;
    browser.type_into("audience", "country ==").await;
    browser.type_into("variations.0.payload", "maybe").await;
    browser.type_into("variations.1.key", "green").await;
    browser.type_into("variations.1.payload", "true").await;
    browser.type_into("variations.1.share", "lots").await;
    browser.press_first_button("Create draft").await;
    browser.wait_for("Not saved. Fix these errors").await;
    // Unreadable values are reported first; the rest is validated once they are fixed.
    let error = browser.field_error("variations.0.payload").await.expect("an error");
    assert!(error.contains("A boolean payload is true or false."), "{error}");
    let error = browser.field_error("variations.1.share").await.expect("an error");
    assert!(error.contains("This is not a percentage. Enter a number such as 12.5."), "{error}");
    assert_eq!(browser.field_error("variations.1.key").await, None);
    assert_eq!(browser.value_of("variations.1.share").await, "lots");
    assert_eq!(browser.value_of("audience").await, "country ==");

    browser.type_into("variations.0.payload", "false").await;
    browser.type_into("variations.1.share", "99,9").await;
    browser.press_first_button("Create draft").await;
    browser.wait_for("reduce the shares").await;
    let error = browser.field_error("key").await.expect("an error");
    assert!(error.contains("is not valid: use 1 to 128 of the characters a-z"), "{error}");
    assert!(browser.field_error("audience").await.is_some());
    assert_eq!(browser.value_of("key").await, "Shop Button");
    assert_eq!(browser.value_of("description").await, "Which colour sells");
    // The blank metric keeps its default, and there is room for another one.
    assert_eq!(browser.value_of("metrics.0.window").await, "7d");
    assert_eq!(browser.value_of("metrics.1.key").await, "");
    // Errors name fields by their labels.
    let labels = "return [...document.querySelectorAll('#faults a')].map(a => a.textContent)";
    let labels = browser.evaluate(labels, vec![]).await;
    assert!(!labels.to_string().contains("[0]") && labels.to_string().contains("Key"), "{labels}");
    // The list of errors has the focus, and each error links to its field.
    let focused_id = "return document.activeElement.id";
    assert_eq!(browser.evaluate(focused_id, vec![]).await, "faults");
    let broken_links = "return [...document.querySelectorAll('#faults a')]
        .filter(a => !document.getElementById(a.getAttribute('href').slice(1))).map(a => a.textContent)";
    assert_eq!(browser.evaluate(broken_links, vec![]).await, serde_json::json!([]), "every link has a target");
    browser.expect_console_error("422").await;
    let all = server.api().experiments().list_experiments(v1::ListExperimentsRequest::default()).await;
    assert_eq!(all.expect("a list").into_inner().experiments, []);

    browser.type_into("key", KEY).await;
    browser.type_into("audience", "country == \"fr\"").await;
    browser.type_into("variations.1.share", "12,5").await;
    browser.type_into("metrics.0.key", "bought").await;
    browser.type_into("metrics.0.event", "purchase").await;
    browser.press_first_button("Create draft").await;
    browser.wait_for("Draft created.").await;
    let created = server.api().get(KEY).await;
    assert_eq!((created.variations[1].initial_share, created.audience.as_str()), (Some(0.125), "country == \"fr\""));
    // The key exists already.
    browser.go(&format!("/new?from={KEY}")).await;
    browser.type_into("key", KEY).await;
    browser.press_first_button("Create draft").await;
    browser.wait_for("exists").await;
    assert_eq!(browser.value_of("key").await, KEY);
    browser.expect_console_error("409").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicting_edits_do_not_overwrite_each_other() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let edit = format!("/experiments/{KEY}/edit");
    let (ada, bob) = (Browser::open(&server, &edit).await, Browser::open(&server, &edit).await);
    ada.set_name("Ada").await;
    bob.set_name("Bob").await;
    ada.type_into("owner", "Ada").await;
    ada.type_into("description", "Ada was here").await;
    bob.type_into("description", "Bob was here").await;
    ada.press_first_button("Save").await;
    ada.wait_for("Saved.").await;

    bob.press_first_button("Save").await;
    bob.wait_for("Somebody else changed this experiment in the meantime. Nothing was saved.").await;
    assert_eq!(api.get(KEY).await.description, "Ada was here");
    assert_eq!(bob.value_of("description").await, "Bob was here");
    let shown = bob.text_of(".changes").await;
    assert!(shown.contains("Ada was here → Bob was here"), "{shown}");
    bob.expect_console_error("409").await;
    bob.press_first_button("Save").await;
    bob.wait_for("Saved.").await;
    assert_eq!(api.get(KEY).await.description, "Bob was here");
    // The audit log has both changes.
    let audit = bob.text_of("#history").await;
    assert!(audit.contains("Bob") && audit.contains("Ada"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outdated_confirmation_is_shown_again_and_keeps_the_choice() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/conclude")).await;
    browser.click("radio", "green").await;
    api.grow(KEY, "blue", 0.3).await;
    browser.press_button("Conclude experiment").await;
    browser.wait_for("Somebody else changed this experiment in the meantime.").await;
    browser.expect_console_error("409").await;
    let chosen = "return document.querySelector('main [name=ship]:checked').value";
    assert_eq!(browser.evaluate(chosen, vec![]).await, "green", "otherwise control would be shipped");
    // Setting a name returns to a page, also from here.
    browser.set_name("Ada").await;
    browser.wait_for_path(&format!("/experiments/{KEY}")).await;
    browser.go(&format!("/experiments/{KEY}/ask/conclude?variation=green")).await;
    let count = "return document.querySelectorAll('main [name=ship]:checked').length";
    assert_eq!(browser.evaluate(count, vec![]).await, 0, "nothing is chosen beforehand, whatever the link says");
    browser.click("radio", "green").await;
    browser.press_button("Conclude experiment").await;
    browser.wait_for("Concluded: all units get green").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_others_appear_on_an_open_page() {
    let server = start_server().await;
    let api = server.api();
    api.create(button_experiment()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    browser.wait_for("live").await;
    browser.record_changes_of("controls").await;
    server.cli(&["experiment", "start", KEY]).await.ok();
    browser.wait_for_change_showing("Pause").await;
    assert!(browser.text_of("#contents").await.contains("Funnel"), "there are results now");
    api.kill(KEY, "green").await;
    browser.wait_for_change_showing("green 30\\.00% killed").await;
    browser.click("link", "Restore green").await;
    browser.press_button("Restore green").await;
    browser.wait_for("green is restored").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_page_and_too_large_form_have_clear_messages() {
    let server = Server::start().await;
    let browser = Browser::open(&server, "/experiments/nobody").await;
    browser.wait_for("Page not found").await;
    browser.wait_for("Search all experiments or create it.").await;
    browser.expect_console_error("404").await;
    browser.go("/new").await;
    let fill = "document.querySelector('main [name=description]').value = 'x'.repeat(3 << 20)";
    browser.evaluate(fill, vec![]).await;
    browser.press_first_button("Create draft").await;
    browser.wait_for("The form is larger than 2 MiB").await;
    browser.expect_console_error("413").await;
}
