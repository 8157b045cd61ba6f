//! The browser under test itself: what it has to catch is caught, and what it pretends to be, pages see.

use futures::FutureExt;

use crate::driving::{Browser, Key, Look, Scheme, assert_accessible, violations};
use crate::harness::{Server, eventually};

const FORM: &str = r##"<!doctype html><html lang="en"><title>A form</title><main><h1>A form</h1>
    <p><a href="#there">There</a></p>
    <label>Name <input id="name"></label>
    <label for="tick">Tick</label><select id="tick"><option>1h<option>5m</select>
    <button id="go">Go</button><button hidden>Go</button><p id="said"></p></main><script>
    document.getElementById("go").onclick = () => {
        const [name, tick] = ["name", "tick"].map(id => document.getElementById(id).value);
        setTimeout(() => { document.getElementById("said").textContent = `${name}  every ${tick}` }, 50);
    }</script>"##;

/// What a piece of a test panics with.
async fn failure(piece: impl Future<Output = ()>) -> String {
    let panic = std::panic::AssertUnwindSafe(piece).catch_unwind().await.expect_err("a failure");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("a text")).to_owned(),
    }
}

async fn complained(html: &str) -> String {
    failure(async { drop(Browser::showing(Look::default(), html).await) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_throws_or_logs_an_error_fails_its_test_unasked() {
    let text = complained("<script>setTimeout(() => { throw new Error('oh') }); console.error('ah')</script>").await;
    assert!(text.contains("the page complained") && text.contains("oh") && text.contains("ah"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_of_a_page_refuses_fails_its_test_unasked() {
    let policy = r#"<meta http-equiv="Content-Security-Policy" content="script-src 'none'"><script>1</script>"#;
    let text = complained(policy).await;
    assert!(text.contains("Content Security Policy"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complaint_that_is_meant_is_forgiven_and_no_other() {
    let html = "<script>console.error('meant'); console.error('other')</script>";
    let text = failure(async {
        let browser = Browser::showing(Look::default(), html).await;
        browser.expect_complaint("meant").await;
    })
    .await;
    assert!(text.contains("other") && !text.contains("meant"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inaccessible_page_is_caught_even_under_a_strict_policy() {
    let html = r#"<!doctype html><html lang="en"><title>A page</title>
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'"><main><h1>A page</h1><input></main>"#;
    let browser = Browser::showing(Look::default(), html).await;
    let text = failure(assert_accessible(&browser)).await;
    assert!(text.contains("critical (label)") && text.contains("<input>"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_filled_by_mouse() {
    let browser = Browser::showing(Look::default(), FORM).await;
    assert_eq!(violations(&browser).await, Vec::<serde_json::Value>::new());
    browser.fill("Name", "ada").await;
    browser.choose("Tick", "5m").await;
    browser.press_button("Go").await;
    browser.wait_for("ada every 5m").await;
    assert_eq!(browser.all("button", "").await.len(), 1, "the hidden one is not there");
    let picture = std::fs::read(browser.screenshot("self-test-form").await).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_filled_by_keyboard() {
    let browser = Browser::showing(Look::default(), FORM).await;
    let over = browser.tab_to("textbox", "Name").await;
    assert_eq!(over, [("link".to_owned(), "There".to_owned())]);
    browser.type_text("bob").await;
    browser.tab_to("button", "Go").await;
    browser.press(&[Key::Enter]).await;
    browser.wait_for("bob every 1h").await;
    browser.press(&[Key::Shift, Key::Tab]).await;
    assert_eq!(browser.focused().await.1, "Tick");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_sees_the_scheme_the_language_and_the_window_that_it_is_told() {
    let html = "<style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }
        </style><p>A page";
    let look = Look { window: (600, 700), scheme: Scheme::Dark, lang: "de" };
    let browser = Browser::showing(look, html).await;
    let seen = "return [getComputedStyle(document.body).backgroundColor, navigator.language, window.outerWidth]";
    assert_eq!(browser.evaluate(seen, vec![]).await, serde_json::json!(["rgb(0, 0, 0)", "de", 600]));
    browser.reload().await;
    assert_eq!(browser.evaluate(seen, vec![]).await[0], "rgb(0, 0, 0)", "it stays");
    browser.prefer(Scheme::Light).await;
    assert_eq!(browser.evaluate(seen, vec![]).await[0], "rgb(255, 255, 255)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_what_the_real_server_serves() {
    let mut server = Server::start().await;
    let browser = Browser::open(&server, "/playground").await;
    browser.wait_for("Name a unit").await;
    server.kill();
    let asked = "fetch('/readyz').catch(() => { document.body.textContent = 'gone' })";
    browser.evaluate(asked, vec![]).await;
    eventually("the page hears of it", async || (browser.text().await == "gone").then_some(())).await;
    browser.expect_complaint("ERR_CONNECTION_REFUSED").await;
}
