//! Forms of the dashboard, whose fields are found by name because several share a label; and properties of whole pages.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fantoccini::Locator;
use fantoccini::elements::Element;
use serde_json::{Value, json};

use super::browser::Browser;
use super::chromedriver;
use crate::harness::binary::target_folder;
use crate::harness::eventually;

impl Browser {
    /// Opens an address outside the server.
    pub(crate) async fn go_to(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|e| panic!("opening {url}: {e}"));
    }

    /// Waits until a selector finds something.
    pub(crate) async fn at_css(&self, css: &str) -> Element {
        eventually(&format!("there is an element {css}"), async || self.client.find(Locator::Css(css)).await.ok()).await
    }

    /// Clicks the element of a selector. If the page replaced it in the meantime, it is found again.
    pub(crate) async fn click_css(&self, css: &str) {
        eventually(&format!("{css} can be clicked"), async || self.at_css(css).await.click().await.ok()).await;
    }

    /// The form field with a name.
    pub(crate) async fn field(&self, name: &str) -> Element {
        self.at_css(&format!("main [name='{name}']:not([type=hidden])")).await
    }

    /// Presses the first button with a name: long forms have the same buttons at both ends.
    pub(crate) async fn press_first_button(&self, name: &str) {
        let first = eventually(&format!("there is a button {name:?}"), async || {
            self.all("button", name).await.into_iter().next()
        })
        .await;
        first.click().await.expect("press the button");
    }

    /// Replaces the text of a field.
    pub(crate) async fn type_into(&self, name: &str, text: &str) {
        let field = self.field(name).await;
        field.clear().await.expect("clear the field");
        field.send_keys(text).await.expect("type the text");
    }

    /// Chooses an option by its value.
    pub(crate) async fn choose_value(&self, name: &str, value: &str) {
        self.field(name).await.select_by_value(value).await.expect("choose the option");
    }

    /// The value of a field.
    pub(crate) async fn value_of(&self, name: &str) -> String {
        self.field(name).await.prop("value").await.expect("read the value").unwrap_or_default()
    }

    /// The visible text of an element.
    pub(crate) async fn text_of(&self, css: &str) -> String {
        let script = "const it = document.querySelector(arguments[0]); return it ? it.innerText : ''";
        let text = self.evaluate(script, vec![json!(css)]).await;
        text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Sets the name for the audit log at the top of the page.
    pub(crate) async fn set_name(&self, name: &str) {
        self.click_css(".who summary").await;
        self.fill("Your name in the audit log", name).await;
        self.press_button("Save name").await;
        eventually("the page shows the name", async || (self.text_of(".who summary").await == name).then_some(()))
            .await;
    }

    /// The description of an invalid field, with its error; none if the field is valid.
    pub(crate) async fn field_error(&self, name: &str) -> Option<String> {
        let script = "const it = document.querySelector(`main [name='${arguments[0]}']:not([type=hidden])`);
            if (it.getAttribute('aria-invalid') !== 'true') return null;
            return document.getElementById(it.getAttribute('aria-describedby')).innerText";
        self.evaluate(script, vec![json!(name)]).await.as_str().map(str::to_owned)
    }

    /// Sets the size of the page, which may be smaller than a window can be.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        chromedriver::devtools(&self.client, "Emulation.setDeviceMetricsOverride", size).await.expect("set the size");
    }

    /// The width of the page; larger than the window if it scrolls horizontally.
    pub(crate) async fn width(&self) -> u64 {
        self.evaluate("return document.documentElement.scrollWidth", vec![]).await.as_u64().expect("read the width")
    }

    /// Saves a screenshot of the whole page in `target/screenshots`.
    pub(crate) async fn full_page_screenshot(&self, name: &str) {
        let whole = json!({ "captureBeyondViewport": true, "format": "png" });
        // A full-page screenshot has no scroll bar, so it is as wide as the window including the bar.
        let size = self.evaluate("return [window.innerWidth, document.documentElement.scrollHeight]", vec![]);
        let size = size.await;
        let mut params = whole;
        params["clip"] = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let response =
            chromedriver::devtools(&self.client, "Page.captureScreenshot", params).await.expect("take a screenshot");
        let bytes = BASE64_STANDARD.decode(response["data"].as_str().expect("base64")).expect("base64");
        let folder = target_folder().join("screenshots");
        std::fs::create_dir_all(&folder).expect("create the folder");
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("write the screenshot");
    }

    /// Records from now on when a part of the page changes, with its text.
    pub(crate) async fn record_changes_of(&self, part: &str) {
        let script = "const part = document.getElementById(arguments[0]); window.__changes = [];
            // innerText is empty for content that is not painted yet, so it cannot be used.
            const text = () => {
                const nodes = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
                const all = [];
                while (nodes.nextNode()) all.push(nodes.currentNode.data);
                return all.join(' ');
            };
            const record = () => window.__changes.push([Date.now(), text()]);
            new MutationObserver(record).observe(part, { childList: true, subtree: true })";
        self.evaluate(script, vec![json!(part)]).await;
    }

    /// Waits until a recorded change matches a regular expression, without a reload of the page. Returns the time of
    /// the first match in milliseconds since the epoch.
    pub(crate) async fn wait_for_change_showing(&self, pattern: &str) -> i64 {
        let script = "if (!window.__changes) throw new Error('the page was reloaded');
            const wanted = new RegExp(arguments[0]);
            const found = window.__changes.find(([, text]) => wanted.test(text.replace(/\\s+/g, ' ')));
            return found ? found[0] : null";
        eventually(&format!("the part shows {pattern:?}"), async || {
            self.evaluate(script, vec![Value::from(pattern)]).await.as_i64()
        })
        .await
    }
}
