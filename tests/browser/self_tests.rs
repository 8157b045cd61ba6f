//! Tests of the test browser: it catches errors of pages, and pages see its emulated settings.

use futures::FutureExt;

use crate::harness::{Server, eventually};
use crate::webdriver::{Appearance, Browser, Key, Scheme, assert_accessible, violations};

const FORM: &str = r##"<!doctype html><html lang="en"><title>A form</title><main><h1>A form</h1>
    <p><a href="#there">There</a></p>
    <label>Name <input id="name"></label>
    <label for="tick">Tick</label><select id="tick"><option>1h<option>5m</select>
    <button id="go">Go</button><button hidden>Go</button><p id="said"></p></main><script>
    document.getElementById("go").onclick = () => {
        const [name, tick] = ["name", "tick"].map(id => document.getElementById(id).value);
        setTimeout(() => { document.getElementById("said").textContent = `${name}  every ${tick}` }, 50);
    }</script>"##;

/// The panic message of a piece of a test.
async fn failure(piece: impl Future<Output = ()>) -> String {
    let panic = std::panic::AssertUnwindSafe(piece).catch_unwind().await.expect_err("a panic");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("a text")).to_owned(),
    }
}

async fn failure_on(html: &str) -> String {
    failure(async { drop(Browser::showing(Appearance::default(), html).await) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn page_that_throws_or_logs_an_error_fails_the_test() {
    let text = failure_on("<script>setTimeout(() => { throw new Error('oh') }); console.error('ah')</script>").await;
    assert!(text.contains("the page reported errors") && text.contains("oh") && text.contains("ah"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn violation_of_the_content_security_policy_fails_the_test() {
    let policy = r#"<meta http-equiv="Content-Security-Policy" content="script-src 'none'"><script>1</script>"#;
    let text = failure_on(policy).await;
    assert!(text.contains("Content Security Policy"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_expected_error_is_accepted() {
    let html = "<script>console.error('meant'); console.error('other')</script>";
    let text = failure(async {
        let browser = Browser::showing(Appearance::default(), html).await;
        browser.expect_console_error("meant").await;
    })
    .await;
    assert!(text.contains("other") && !text.contains("meant"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inaccessible_page_is_found_even_under_a_strict_policy() {
    let html = r#"<!doctype html><html lang="en"><title>A page</title>
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'"><main><h1>A page</h1><input></main>"#;
    let browser = Browser::showing(Appearance::default(), html).await;
    let text = failure(assert_accessible(&browser)).await;
    assert!(text.contains("critical (label)") && text.contains("<input>"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn form_can_be_filled_by_mouse() {
    let browser = Browser::showing(Appearance::default(), FORM).await;
    assert_eq!(violations(&browser).await, Vec::<serde_json::Value>::new());
    browser.fill("Name", "ada").await;
    browser.choose("Tick", "5m").await;
    browser.press_button("Go").await;
    browser.wait_for("ada every 5m").await;
    assert_eq!(browser.all("button", "").await.len(), 1, "the hidden button is not found");
    let screenshot = std::fs::read(browser.screenshot("self-test-form").await).expect("read the screenshot");
    assert!(screenshot.starts_with(b"\x89PNG"));
}

#[tokio::test(flavor = "multi_thread")]
async fn form_can_be_filled_by_keyboard() {
    let browser = Browser::showing(Appearance::default(), FORM).await;
    let passed = browser.tab_to("textbox", "Name").await;
    assert_eq!(passed, [("link".to_owned(), "There".to_owned())]);
    browser.type_text("bob").await;
    browser.tab_to("button", "Go").await;
    browser.press(&[Key::Enter]).await;
    browser.wait_for("bob every 1h").await;
    browser.press(&[Key::Shift, Key::Tab]).await;
    assert_eq!(browser.focused().await.1, "Tick");
}

#[tokio::test(flavor = "multi_thread")]
async fn page_sees_the_emulated_scheme_language_and_window() {
    let html = "<style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }
        </style><p>A page";
    let appearance = Appearance { window: (600, 700), scheme: Scheme::Dark, lang: "de" };
    let browser = Browser::showing(appearance, html).await;
    let seen = "return [getComputedStyle(document.body).backgroundColor, navigator.language, window.outerWidth]";
    assert_eq!(browser.evaluate(seen, vec![]).await, serde_json::json!(["rgb(0, 0, 0)", "de", 600]));
    browser.reload().await;
    assert_eq!(browser.evaluate(seen, vec![]).await[0], "rgb(0, 0, 0)", "the scheme is kept after a reload");
    browser.set_scheme(Scheme::Light).await;
    assert_eq!(browser.evaluate(seen, vec![]).await[0], "rgb(255, 255, 255)");
}

#[tokio::test(flavor = "multi_thread")]
async fn browser_shows_pages_of_the_real_server() {
    let mut server = Server::start().await;
    let browser = Browser::open(&server, "/playground").await;
    browser.wait_for("Enter a unit key").await;
    server.kill();
    let script = "fetch('/readyz').catch(() => { document.body.textContent = 'gone' })";
    browser.evaluate(script, vec![]).await;
    eventually("the page notices that the server is gone", async || (browser.text().await == "gone").then_some(()))
        .await;
    browser.expect_console_error("ERR_CONNECTION_REFUSED").await;
}
