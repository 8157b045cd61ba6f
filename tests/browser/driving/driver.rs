//! chromedriver as a process, and the commands of it that are Chromium's own or too new for the client.

use std::process::Command;

use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use super::browser::Look;
use crate::harness::{Process, eventually};

/// Starts a chromedriver on a port of its own choice, and a session of Chromium in it.
pub(crate) async fn start(look: &Look) -> (Process, Client) {
    for program in ["chromium", "chromedriver"] {
        let there = Command::new(program).arg("--version").output().is_ok_and(|said| said.status.success());
        assert!(
            there,
            "{program} does not run: the tests of the pages need `apt-get install chromium chromium-driver`"
        );
    }
    let mut process = Process::start(Command::new("chromedriver").arg("--port=0"));
    let port = eventually("chromedriver says where it listens", async || {
        assert!(process.ended().is_none(), "chromedriver ended:\n{}", process.said());
        port_in(&process.said())
    })
    .await;
    let client = ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities(look))
        .connect(&format!("http://127.0.0.1:{port}"))
        .await
        .unwrap_or_else(|e| panic!("no session of Chromium: {e}\n{}", process.said()));
    (process, client)
}

fn port_in(said: &str) -> Option<u16> {
    // The line is only whole with its full stop: a port must not be cut short.
    let (port, _) = said.split_once("started successfully on port ")?.1.split_once('.')?;
    port.parse().ok()
}

fn capabilities(look: &Look) -> Capabilities {
    let (width, height) = look.window;
    let options = json!({
        "binary": "/usr/bin/chromium",
        // Root may not sandbox, and a container's /dev/shm is too small for pages.
        "args": [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            format!("--window-size={width},{height}"),
            format!("--lang={}", look.lang),
        ],
        "prefs": { "intl.accept_languages": look.lang, "intl.selected_languages": look.lang },
    });
    let logging = json!({ "browser": "ALL" });
    [("browserName", json!("chrome")), ("goog:chromeOptions", options), ("goog:loggingPrefs", logging)]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// A command by its path inside the session.
#[derive(Debug)]
struct Raw {
    path: String,
    body: Option<Value>,
}

impl WebDriverCompatibleCommand for Raw {
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

/// A command of the Chrome DevTools Protocol.
pub(crate) async fn devtools(client: &Client, command: &str, params: Value) -> Result<Value, CmdError> {
    let body = Some(json!({ "cmd": command, "params": params }));
    client.issue_cmd(Raw { path: "goog/cdp/execute".to_owned(), body }).await
}

/// What the browser logged since it was asked last.
pub(crate) async fn log(client: &Client) -> Result<Value, CmdError> {
    client.issue_cmd(Raw { path: "se/log".to_owned(), body: Some(json!({ "type": "browser" })) }).await
}

/// What a screen reader takes an element for: its role, and its name.
pub(crate) async fn role_and_name(client: &Client, element: &str) -> Result<(String, String), CmdError> {
    let mut said = [String::new(), String::new()];
    for (said, what) in said.iter_mut().zip(["computedrole", "computedlabel"]) {
        let path = format!("element/{element}/{what}");
        *said = client.issue_cmd(Raw { path, body: None }).await?.as_str().unwrap_or_default().to_owned();
    }
    let [role, name] = said;
    Ok((role, name))
}
