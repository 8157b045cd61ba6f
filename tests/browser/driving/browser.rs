//! One browser: it opens pages, waits for what they show, and at its end fails the test if a page complained.

use std::path::PathBuf;
use std::sync::Mutex;

use fantoccini::Client;
use serde_json::{Value, json};

use super::driver;
use crate::harness::binary::target_folder;
use crate::harness::{Process, Server, eventually};

/// What somebody prefers to read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

/// Who looks at the pages, and through what.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Width and height of the window, in pixels.
    pub(crate) window: (u32, u32),
    pub(crate) scheme: Scheme,
    /// A language tag, as `de` or `en-GB`.
    pub(crate) lang: &'static str,
}

impl Default for Look {
    fn default() -> Self {
        Self { window: (1280, 900), scheme: Scheme::Light, lang: "en-US" }
    }
}

/// A browser with one window; it goes away with this, and fails its test if a page complained.
pub(crate) struct Browser {
    pub(super) client: Client,
    /// What the paths that are opened are paths of.
    base: String,
    /// What pages complained of and no test expected.
    complaints: Mutex<Vec<String>>,
    // After `client`: the driver has to be there for the session's end.
    _driver: Process,
}

impl Browser {
    /// A browser of the usual look, at a path of a server. The server has to be made first, so that it goes last.
    pub(crate) async fn open(server: &Server, path: &str) -> Self {
        Self::open_as(Look::default(), server, path).await
    }

    /// The same with another look.
    pub(crate) async fn open_as(look: Look, server: &Server, path: &str) -> Self {
        let browser = Self::at(look, &server.url()).await;
        browser.go(path).await;
        browser
    }

    /// A browser that shows a page made up by the test.
    pub(crate) async fn showing(look: Look, html: &str) -> Self {
        let browser = Self::at(look, "data:text/html;charset=utf-8;base64,").await;
        browser.go(&base64::Engine::encode(&base64::prelude::BASE64_STANDARD, html)).await;
        browser
    }

    async fn at(look: Look, base: &str) -> Self {
        let (driver, client) = driver::start(&look).await;
        let browser = Self { client, base: base.to_owned(), complaints: Mutex::new(Vec::new()), _driver: driver };
        browser.prefer(look.scheme).await;
        browser
    }

    /// Changes the preferred scheme, also under an open page.
    pub(crate) async fn prefer(&self, scheme: Scheme) {
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        driver::devtools(&self.client, "Emulation.setEmulatedMedia", features).await.expect("a scheme");
    }

    /// Opens a path of the same server, and waits until it is loaded.
    pub(crate) async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.base)).await.unwrap_or_else(|e| panic!("opening {path}: {e}"));
    }

    pub(crate) async fn reload(&self) {
        self.client.refresh().await.expect("it loads again");
    }

    /// The path, query and fragment that the browser is at.
    pub(crate) async fn path(&self) -> String {
        let url = self.client.current_url().await.expect("an address");
        url[url::Position::BeforePath..].to_owned()
    }

    /// Waits until the browser is at a path.
    pub(crate) async fn wait_for_path(&self, path: &str) {
        eventually(&format!("the browser is at {path}"), async || (self.path().await == path).then_some(())).await;
    }

    /// The text that the page shows, with every run of spaces as one.
    pub(crate) async fn text(&self) -> String {
        let text = self.evaluate("return document.body ? document.body.innerText : ''", vec![]).await;
        squeezed(text.as_str().unwrap_or_default())
    }

    /// Waits until the page shows a text.
    pub(crate) async fn wait_for(&self, text: &str) {
        let text = squeezed(text);
        let shows = async || self.text().await.contains(&text).then_some(());
        eventually(&format!("the page shows {text:?}"), shows).await;
    }

    /// Waits until the page no longer shows a text.
    pub(crate) async fn wait_until_gone(&self, text: &str) {
        let text = squeezed(text);
        let gone = async || (!self.text().await.contains(&text)).then_some(());
        eventually(&format!("the page no longer shows {text:?}"), gone).await;
    }

    /// What a piece of JavaScript, the body of a function, returns. No page's policy applies to it.
    pub(crate) async fn evaluate(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap_or_else(|e| panic!("{e}\n{script}"))
    }

    /// Leaves a picture of the window in `target/screenshots`, for people to look at.
    pub(crate) async fn screenshot(&self, name: &str) -> PathBuf {
        let folder = target_folder().join("screenshots");
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{name}.png"));
        let picture = self.client.screenshot().await.expect("a picture");
        std::fs::write(&path, picture).expect("the folder takes it");
        path
    }

    /// Waits for a complaint that has this in it, and takes it, and all like it, as what the test meant to cause.
    pub(crate) async fn expect_complaint(&self, part: &str) {
        eventually(&format!("the page complains of {part:?}"), async || {
            self.listen().await;
            let mut complaints = self.complaints.lock().expect("nobody panics with it");
            let before = complaints.len();
            complaints.retain(|complaint| !complaint.contains(part));
            (complaints.len() < before).then_some(())
        })
        .await;
    }

    /// Takes in what the browser logged: uncaught errors, `console.error`, refusals by the content security policy,
    /// and whatever did not load.
    async fn listen(&self) {
        let log = driver::log(&self.client).await.expect("the browser's log");
        let severe = log.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        self.complaints.lock().expect("nobody panics with it").extend(severe.map(text));
    }

    /// Where the browser is and what it shows, for a test that failed. Nothing here may panic.
    async fn tell(&self) {
        let url = self.client.current_url().await.map(|url| url.to_string()).unwrap_or_default();
        let text = self.client.execute("return document.body.innerText", vec![]).await.unwrap_or_default();
        let log = driver::log(&self.client).await.unwrap_or_default();
        println!("--- the browser at {url:.200} showed ---\n{}", text.as_str().unwrap_or_default());
        println!("--- and logged ---\n{log:#}");
        if let Ok(picture) = self.client.screenshot().await {
            let folder = target_folder().join("screenshots");
            let test = std::thread::current().name().unwrap_or("a test").replace("::", "-");
            let path = folder.join(format!("failed-{test}.png"));
            let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, picture));
            println!("--- see {} ({written:?}) ---", path.display());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Here, and not in a call at a test's end, so that no test can forget it.
        let failed = std::thread::panicking();
        let last = async {
            if failed {
                self.tell().await;
            } else {
                // What the page was about to do when the test was through with it.
                let turn = "const done = arguments[0]; setTimeout(() => done(null), 0)";
                self.client.execute_async(turn, vec![]).await.expect("the page is alive");
                self.listen().await;
            }
            // The session's end ends Chromium; without it, the browser would outlive its driver.
            let closed = self.client.clone().close().await;
            assert!(failed || closed.is_ok(), "{closed:?}");
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(last));
        let complaints = self.complaints.get_mut().map(std::mem::take).unwrap_or_default();
        assert!(failed || complaints.is_empty(), "the page complained:\n{}", complaints.join("\n"));
    }
}

/// With every run of white space as one space.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
