//! The chromedriver process, and its commands that the WebDriver client does not support.

use std::process::Command;

use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use super::browser::Appearance;
use crate::harness::{Process, eventually};

/// Starts a chromedriver on a free port, with a Chromium session.
pub(crate) async fn start(appearance: &Appearance) -> (Process, Client) {
    for program in ["chromium", "chromedriver"] {
        let is_installed = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
        assert!(is_installed, "{program} does not run. Install it: `apt-get install chromium chromium-driver`");
    }
    let mut process = Process::start(Command::new("chromedriver").arg("--port=0"));
    let port = eventually("chromedriver reports its port", async || {
        assert!(process.exit_status().is_none(), "chromedriver ended:\n{}", process.output());
        port_in(&process.output())
    })
    .await;
    let client = ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities(appearance))
        .connect(&format!("http://127.0.0.1:{port}"))
        .await
        .unwrap_or_else(|e| panic!("cannot start a Chromium session: {e}\n{}", process.output()));
    (process, client)
}

fn port_in(output: &str) -> Option<u16> {
    // Wait for the full stop after the port, or the port may be incomplete.
    let (port, _) = output.split_once("started successfully on port ")?.1.split_once('.')?;
    port.parse().ok()
}

fn capabilities(appearance: &Appearance) -> Capabilities {
    let (width, height) = appearance.window;
    let options = json!({
        "binary": "/usr/bin/chromium",
        // Root cannot use the sandbox, and /dev/shm of a container is too small.
        "args": [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            format!("--window-size={width},{height}"),
            format!("--lang={}", appearance.lang),
        ],
        "prefs": { "intl.accept_languages": appearance.lang, "intl.selected_languages": appearance.lang },
    });
    let logging = json!({ "browser": "ALL" });
    [("browserName", json!("chrome")), ("goog:chromeOptions", options), ("goog:loggingPrefs", logging)]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// A WebDriver command, by its path within the session.
#[derive(Debug)]
struct RawCommand {
    path: String,
    body: Option<Value>,
}

impl WebDriverCompatibleCommand for RawCommand {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        match &self.body {
            Some(body) => (Method::POST, Some(body.to_string())),
            None => (Method::GET, None),
        }
    }
}

/// Runs a command of the Chrome DevTools Protocol.
pub(crate) async fn devtools(client: &Client, command: &str, params: Value) -> Result<Value, CmdError> {
    let body = Some(json!({ "cmd": command, "params": params }));
    client.issue_cmd(RawCommand { path: "goog/cdp/execute".to_owned(), body }).await
}

/// The browser's log since the last call.
pub(crate) async fn log(client: &Client) -> Result<Value, CmdError> {
    client.issue_cmd(RawCommand { path: "se/log".to_owned(), body: Some(json!({ "type": "browser" })) }).await
}

/// The accessible role and name of an element.
pub(crate) async fn role_and_name(client: &Client, element: &str) -> Result<(String, String), CmdError> {
    let mut answers = [String::new(), String::new()];
    for (answer, property) in answers.iter_mut().zip(["computedrole", "computedlabel"]) {
        let path = format!("element/{element}/{property}");
        *answer = client.issue_cmd(RawCommand { path, body: None }).await?.as_str().unwrap_or_default().to_owned();
    }
    let [role, name] = answers;
    Ok((role, name))
}
