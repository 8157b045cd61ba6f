//! What is done to the dashboard's own pages: fields by their names, where a form has many with one label, and what is
//! seen of a page as a whole.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fantoccini::Locator;
use fantoccini::elements::Element;
use serde_json::{Value, json};

use super::browser::Browser;
use super::driver;
use crate::harness::binary::target_folder;
use crate::harness::eventually;

impl Browser {
    /// Opens an address outside the server.
    pub(crate) async fn go_to(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|e| panic!("opening {url}: {e}"));
    }

    /// Waits until a selector finds something.
    pub(crate) async fn at_css(&self, css: &str) -> Element {
        eventually(&format!("there is {css}"), async || self.client.find(Locator::Css(css)).await.ok()).await
    }

    /// Clicks what a selector finds; if the page replaced it in between, what it finds then.
    pub(crate) async fn click_css(&self, css: &str) {
        eventually(&format!("{css} can be clicked"), async || self.at_css(css).await.click().await.ok()).await;
    }

    /// The field of a form that is sent under a name.
    pub(crate) async fn field(&self, name: &str) -> Element {
        self.at_css(&format!("main [name='{name}']:not([type=hidden])")).await
    }

    /// Presses the first of buttons with one name: long forms have them at both ends.
    pub(crate) async fn press_first(&self, name: &str) {
        let first = eventually(&format!("there is a button {name:?}"), async || {
            self.all("button", name).await.into_iter().next()
        })
        .await;
        first.click().await.expect("it can be pressed");
    }

    /// Writes into it, in place of what was there.
    pub(crate) async fn type_into(&self, name: &str, text: &str) {
        let field = self.field(name).await;
        field.clear().await.expect("it can be cleared");
        field.send_keys(text).await.expect("it takes text");
    }

    /// Chooses an option by what it sends.
    pub(crate) async fn pick(&self, name: &str, value: &str) {
        self.field(name).await.select_by_value(value).await.expect("there is such an option");
    }

    /// What stands in it.
    pub(crate) async fn value_of(&self, name: &str) -> String {
        self.field(name).await.prop("value").await.expect("it is there").unwrap_or_default()
    }

    /// The text that a part of the page shows.
    pub(crate) async fn text_of(&self, css: &str) -> String {
        let script = "const it = document.querySelector(arguments[0]); return it ? it.innerText : ''";
        let text = self.evaluate(script, vec![json!(css)]).await;
        text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Says who acts, as anybody does: at the top of the page.
    pub(crate) async fn say_who(&self, name: &str) {
        self.click_css(".who summary").await;
        self.fill("Your name, for the audit log", name).await;
        self.press_button("Keep").await;
        eventually("the page knows who acts", async || (self.text_of(".who summary").await == name).then_some(()))
            .await;
    }

    /// What a screen reader is told beside a field that is wrong: its fault. Nothing if the field is right.
    pub(crate) async fn fault_at(&self, name: &str) -> Option<String> {
        let script = "const it = document.querySelector(`main [name='${arguments[0]}']:not([type=hidden])`);
            if (it.getAttribute('aria-invalid') !== 'true') return null;
            return document.getElementById(it.getAttribute('aria-describedby')).innerText";
        self.evaluate(script, vec![json!(name)]).await.as_str().map(str::to_owned)
    }

    /// Gives the page another size, also one that no window could have.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        driver::devtools(&self.client, "Emulation.setDeviceMetricsOverride", size).await.expect("a size");
    }

    /// How wide the page is: more than its window if it scrolls sideways.
    pub(crate) async fn width(&self) -> u64 {
        self.evaluate("return document.documentElement.scrollWidth", vec![]).await.as_u64().expect("a width")
    }

    /// Leaves a picture of the whole page in `target/screenshots`, also of what is below the window's end.
    pub(crate) async fn picture(&self, name: &str) {
        let whole = json!({ "captureBeyondViewport": true, "format": "png" });
        // Beyond the window there is no bar to scroll it by, so what is drawn is as wide as the window with it.
        let size = self.evaluate("return [window.innerWidth, document.documentElement.scrollHeight]", vec![]);
        let size = size.await;
        let mut params = whole;
        params["clip"] = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let picture = driver::devtools(&self.client, "Page.captureScreenshot", params).await.expect("a picture");
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().expect("base64")).expect("base64");
        let folder = target_folder().join("screenshots");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("the folder takes it");
    }

    /// Notes from now on when a part of the page changes, and what it shows then.
    pub(crate) async fn note_changes_of(&self, part: &str) {
        let script = "const part = document.getElementById(arguments[0]); window.__noted = [];
            // Not innerText: of what has not been painted yet it has nothing.
            const words = () => {
                const nodes = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
                const all = [];
                while (nodes.nextNode()) all.push(nodes.currentNode.data);
                return all.join(' ');
            };
            const note = () => window.__noted.push([Date.now(), words()]);
            new MutationObserver(note).observe(part, { childList: true, subtree: true })";
        self.evaluate(script, vec![json!(part)]).await;
    }

    /// Waits until the part that is noted showed what a regular expression finds, without the page being loaded anew;
    /// tells when it first did, in milliseconds since the epoch.
    pub(crate) async fn first_showed(&self, pattern: &str) -> i64 {
        let script = "if (!window.__noted) throw new Error('the page was loaded anew');
            const wanted = new RegExp(arguments[0]);
            const found = window.__noted.find(([, text]) => wanted.test(text.replace(/\\s+/g, ' ')));
            return found ? found[0] : null";
        eventually(&format!("the part shows {pattern:?}"), async || {
            self.evaluate(script, vec![Value::from(pattern)]).await.as_i64()
        })
        .await
    }
}
