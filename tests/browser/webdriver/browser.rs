//! One browser: it opens pages, waits for their content, and fails the test when it is dropped if a page reported an
//! error.

use std::path::PathBuf;
use std::sync::Mutex;

use fantoccini::Client;
use serde_json::{Value, json};

use super::chromedriver;
use crate::harness::binary::target_folder;
use crate::harness::{Process, Server, eventually};

/// The preferred colour scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

/// The emulated settings of a person: window, colour scheme and language.
#[derive(Debug, Clone)]
pub(crate) struct Appearance {
    /// Width and height of the window, in pixels.
    pub(crate) window: (u32, u32),
    pub(crate) scheme: Scheme,
    /// A language tag, such as `de` or `en-GB`.
    pub(crate) lang: &'static str,
}

impl Default for Appearance {
    fn default() -> Self {
        Self { window: (1280, 900), scheme: Scheme::Light, lang: "en-US" }
    }
}

/// A browser with one window. Dropping it closes the window and fails the test if a page reported an error.
pub(crate) struct Browser {
    pub(super) client: Client,
    /// Base address of all paths.
    base: String,
    /// Errors in the console that no test expected.
    console_errors: Mutex<Vec<String>>,
    // Declared after `client`, so that the driver lives until the session has ended.
    _driver: Process,
}

impl Browser {
    /// Opens a path of a server with the default settings. Create the server first, so that it is dropped last.
    pub(crate) async fn open(server: &Server, path: &str) -> Self {
        Self::open_as(Appearance::default(), server, path).await
    }

    /// Opens a path of a server with other settings.
    pub(crate) async fn open_as(appearance: Appearance, server: &Server, path: &str) -> Self {
        let browser = Self::at(appearance, &server.url()).await;
        browser.go(path).await;
        browser
    }

    /// Opens a page from a given HTML text.
    pub(crate) async fn showing(appearance: Appearance, html: &str) -> Self {
        let browser = Self::at(appearance, "data:text/html;charset=utf-8;base64,").await;
        browser.go(&base64::Engine::encode(&base64::prelude::BASE64_STANDARD, html)).await;
        browser
    }

    async fn at(appearance: Appearance, base: &str) -> Self {
        let (driver, client) = chromedriver::start(&appearance).await;
        let browser = Self { client, base: base.to_owned(), console_errors: Mutex::new(Vec::new()), _driver: driver };
        browser.set_scheme(appearance.scheme).await;
        browser
    }

    /// Changes the preferred scheme, also of an open page.
    pub(crate) async fn set_scheme(&self, scheme: Scheme) {
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        chromedriver::devtools(&self.client, "Emulation.setEmulatedMedia", features).await.expect("set the scheme");
    }

    /// Opens a path of the same server and waits until the page is loaded.
    pub(crate) async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.base)).await.unwrap_or_else(|e| panic!("opening {path}: {e}"));
    }

    pub(crate) async fn reload(&self) {
        self.client.refresh().await.expect("reload the page");
    }

    /// Path, query and fragment of the current address.
    pub(crate) async fn path(&self) -> String {
        let url = self.client.current_url().await.expect("read the address");
        url[url::Position::BeforePath..].to_owned()
    }

    /// Waits until the browser is at a path.
    pub(crate) async fn wait_for_path(&self, path: &str) {
        eventually(&format!("the browser is at {path}"), async || (self.path().await == path).then_some(())).await;
    }

    /// The visible text of the page, with white space normalised.
    pub(crate) async fn text(&self) -> String {
        let text = self.evaluate("return document.body ? document.body.innerText : ''", vec![]).await;
        normalised(text.as_str().unwrap_or_default())
    }

    /// Waits until the page shows a text.
    pub(crate) async fn wait_for(&self, text: &str) {
        let text = normalised(text);
        let shows = async || self.text().await.contains(&text).then_some(());
        eventually(&format!("the page shows {text:?}"), shows).await;
    }

    /// Waits until the page no longer shows a text.
    pub(crate) async fn wait_until_gone(&self, text: &str) {
        let text = normalised(text);
        let gone = async || (!self.text().await.contains(&text)).then_some(());
        eventually(&format!("the page no longer shows {text:?}"), gone).await;
    }

    /// Runs JavaScript (the body of a function) and returns its result. Content security policies do not apply to it.
    pub(crate) async fn evaluate(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap_or_else(|e| panic!("{e}\n{script}"))
    }

    /// Saves a screenshot of the window in `target/screenshots`, for people to check.
    pub(crate) async fn screenshot(&self, name: &str) -> PathBuf {
        let folder = target_folder().join("screenshots");
        std::fs::create_dir_all(&folder).expect("create the folder");
        let path = folder.join(format!("{name}.png"));
        let png = self.client.screenshot().await.expect("take a screenshot");
        std::fs::write(&path, png).expect("write the screenshot");
        path
    }

    /// Waits for a console error that contains a text, and accepts all such errors as expected by the test.
    pub(crate) async fn expect_console_error(&self, part: &str) {
        eventually(&format!("the page reports an error with {part:?}"), async || {
            self.collect_console_errors().await;
            let mut console_errors = self.console_errors.lock().expect("the lock is not poisoned");
            let before = console_errors.len();
            console_errors.retain(|error| !error.contains(part));
            (console_errors.len() < before).then_some(())
        })
        .await;
    }

    /// Collects errors from the browser's log: uncaught errors, `console.error`, blocked by the content security
    /// policy, or failed to load.
    async fn collect_console_errors(&self) {
        let log = chromedriver::log(&self.client).await.expect("read the browser's log");
        let severe = log.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        self.console_errors.lock().expect("the lock is not poisoned").extend(severe.map(text));
    }

    /// Prints the state of the browser for a failed test. Nothing here may panic.
    async fn print_state(&self) {
        let url = self.client.current_url().await.map(|url| url.to_string()).unwrap_or_default();
        let text = self.client.execute("return document.body.innerText", vec![]).await.unwrap_or_default();
        let log = chromedriver::log(&self.client).await.unwrap_or_default();
        println!("--- the browser at {url:.200} showed ---\n{}", text.as_str().unwrap_or_default());
        println!("--- and logged ---\n{log:#}");
        if let Ok(png) = self.client.screenshot().await {
            let folder = target_folder().join("screenshots");
            let test = std::thread::current().name().unwrap_or("a test").replace("::", "-");
            let path = folder.join(format!("failed-{test}.png"));
            let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, png));
            println!("--- see {} ({written:?}) ---", path.display());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // In `drop`, so that no test can forget the check.
        let failed = std::thread::panicking();
        let last = async {
            if failed {
                self.print_state().await;
            } else {
                // Let pending tasks of the page run.
                let turn = "const done = arguments[0]; setTimeout(() => done(null), 0)";
                self.client.execute_async(turn, vec![]).await.expect("the page responds");
                self.collect_console_errors().await;
            }
            // Closing the session ends Chromium, which would otherwise outlive its driver.
            let closed = self.client.clone().close().await;
            assert!(failed || closed.is_ok(), "{closed:?}");
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(last));
        let console_errors = self.console_errors.get_mut().map(std::mem::take).unwrap_or_default();
        assert!(failed || console_errors.is_empty(), "the page reported errors:\n{}", console_errors.join("\n"));
    }
}

/// Replaces every run of white space by one space.
fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
