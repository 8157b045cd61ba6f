//! Things of a page, looked for as a screen reader would: by role and by accessible name. What has no name there
//! cannot be found here either, which is meant.

use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use serde_json::{Value, json};

use super::browser::Browser;
use super::driver;
use crate::harness::eventually_within;

/// How long a thing may take to appear that is there at once on a healthy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// What WebDriver calls an element in JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// Waits until there is one thing of a role, as `button` or `textbox`, with exactly this name.
    pub(crate) async fn find(&self, role: &str, name: &str) -> Element {
        eventually_within(PATIENCE, &format!("there is one {role} named {name:?}"), async || {
            let mut all = self.all(role, name).await;
            (all.len() == 1).then(|| all.remove(0))
        })
        .await
    }

    /// Everything there is now of a role and with exactly this name; with any name if it is empty.
    pub(crate) async fn all(&self, role: &str, name: &str) -> Vec<Element> {
        match self.query(role, name).await {
            Ok(found) => found,
            // The page went away under the question.
            Err(e) if gone(&e) => Vec::new(),
            Err(e) => panic!("looking for a {role} named {name:?}: {e}"),
        }
    }

    async fn query(&self, role: &str, name: &str) -> Result<Vec<Element>, CmdError> {
        let client = &self.client;
        let document = driver::devtools(client, "Runtime.evaluate", json!({ "expression": "document" })).await?;
        let mut query = json!({ "objectId": document["result"]["objectId"], "role": role });
        if !name.is_empty() {
            query["accessibleName"] = json!(name);
        }
        let answer = driver::devtools(client, "Accessibility.queryAXTree", query).await?;
        let seen = answer["nodes"].as_array().into_iter().flatten().filter(|node| node["ignored"] == json!(false));
        let mut found = Vec::new();
        for id in seen.map(|node| &node["backendDOMNodeId"]).filter(|id| !id.is_null()) {
            // The two protocols name elements differently; the page's own window is where both can reach.
            let node = driver::devtools(client, "DOM.resolveNode", json!({ "backendNodeId": id })).await?;
            let hand_over = json!({
                "objectId": node["object"]["objectId"],
                "functionDeclaration": "function () { window.__handedOver = this }",
            });
            driver::devtools(client, "Runtime.callFunctionOn", hand_over).await?;
            let take = "const it = window.__handedOver; delete window.__handedOver; return it";
            let element: Value = client.execute(take, vec![]).await?;
            if let Some(id) = element[ELEMENT].as_str() {
                found.push(Element::from_element_id(client.clone(), id.to_owned().into()));
            }
        }
        Ok(found)
    }

    /// Does something to a thing. If the page replaced it in between, nothing was done, and it is looked for anew.
    async fn act(&self, role: &str, name: &str, act: impl AsyncFn(Element) -> Result<(), CmdError>) {
        eventually_within(PATIENCE, &format!("the {role} {name:?} stays long enough"), async || {
            match act(self.find(role, name).await).await {
                Ok(()) => Some(()),
                Err(e) if gone(&e) => None,
                Err(e) => panic!("the {role} {name:?}: {e}"),
            }
        })
        .await;
    }

    /// Clicks.
    pub(crate) async fn click(&self, role: &str, name: &str) {
        self.act(role, name, async |element| element.click().await).await;
    }

    /// Clicks a button by its text.
    pub(crate) async fn press_button(&self, name: &str) {
        self.click("button", name).await;
    }

    /// Clicks a link by its text.
    pub(crate) async fn follow(&self, name: &str) {
        self.click("link", name).await;
    }

    /// Writes into a text field by its label, in place of what was there.
    pub(crate) async fn fill(&self, label: &str, text: &str) {
        self.fill_in("textbox", label, text).await;
    }

    /// The same for another kind of field, as `spinbutton` (a number) or `searchbox`.
    pub(crate) async fn fill_in(&self, role: &str, label: &str, text: &str) {
        self.act(role, label, async |element| {
            element.clear().await?;
            element.send_keys(text).await
        })
        .await;
    }

    /// Chooses an option, by its text, of a drop-down by its label.
    pub(crate) async fn choose(&self, label: &str, option: &str) {
        self.act("combobox", label, async |element| element.select_by_label(option).await).await;
    }

    /// Role and name of what has the keyboard's focus. If the page replaces it under the question, the focus is on what
    /// came in its place, and that is asked.
    pub(crate) async fn focused(&self) -> (String, String) {
        eventually_within(PATIENCE, "what has the focus stays long enough", async || match self.focus().await {
            Ok(said) => Some(said),
            Err(e) if gone(&e) => None,
            Err(e) => panic!("asking for the focus: {e}"),
        })
        .await
    }

    async fn focus(&self) -> Result<(String, String), CmdError> {
        let element = self.client.active_element().await?;
        driver::role_and_name(&self.client, &element.element_id()).await
    }
}

fn gone(e: &CmdError) -> bool {
    let text = e.to_string();
    let signs = ["Could not find node", "No node with given id", "Cannot find context", "context was destroyed"];
    e.is_stale_element_reference() || e.is_detached_shadow_root() || signs.iter().any(|sign| text.contains(sign))
}
