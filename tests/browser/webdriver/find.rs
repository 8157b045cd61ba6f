//! Finds elements by role and accessible name, as a screen reader does. Elements without an accessible name cannot be
//! found, on purpose.

use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use serde_json::{Value, json};

use super::browser::Browser;
use super::chromedriver;
use crate::harness::eventually_within;

/// Longest wait for an element. On an idle machine elements appear immediately.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The JSON key of an element id in the WebDriver protocol.
const ELEMENT_KEY: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// Waits until there is exactly one element with a role, such as `button` or `textbox`, and a name.
    pub(crate) async fn find(&self, role: &str, name: &str) -> Element {
        eventually_within(TIMEOUT, &format!("there is one {role} named {name:?}"), async || {
            let mut all = self.all(role, name).await;
            (all.len() == 1).then(|| all.remove(0))
        })
        .await
    }

    /// All current elements with a role and a name; an empty name matches all names.
    pub(crate) async fn all(&self, role: &str, name: &str) -> Vec<Element> {
        match self.query(role, name).await {
            Ok(found) => found,
            // The page changed during the query.
            Err(e) if is_gone(&e) => Vec::new(),
            Err(e) => panic!("finding a {role} named {name:?}: {e}"),
        }
    }

    async fn query(&self, role: &str, name: &str) -> Result<Vec<Element>, CmdError> {
        let client = &self.client;
        let document = chromedriver::devtools(client, "Runtime.evaluate", json!({ "expression": "document" })).await?;
        let mut query = json!({ "objectId": document["result"]["objectId"], "role": role });
        if !name.is_empty() {
            query["accessibleName"] = json!(name);
        }
        let answer = chromedriver::devtools(client, "Accessibility.queryAXTree", query).await?;
        let visible = answer["nodes"].as_array().into_iter().flatten().filter(|node| node["ignored"] == json!(false));
        let mut found = Vec::new();
        for id in visible.map(|node| &node["backendDOMNodeId"]).filter(|id| !id.is_null()) {
            // The two protocols have different element ids, so the element is passed on through the page's window
            // object.
            let node = chromedriver::devtools(client, "DOM.resolveNode", json!({ "backendNodeId": id })).await?;
            let hand_over = json!({
                "objectId": node["object"]["objectId"],
                "functionDeclaration": "function () { window.__handedOver = this }",
            });
            chromedriver::devtools(client, "Runtime.callFunctionOn", hand_over).await?;
            let take = "const it = window.__handedOver; delete window.__handedOver; return it";
            let element: Value = client.execute(take, vec![]).await?;
            if let Some(id) = element[ELEMENT_KEY].as_str() {
                found.push(Element::from_element_id(client.clone(), id.to_owned().into()));
            }
        }
        Ok(found)
    }

    /// Acts on an element. If the page replaced the element in the meantime, it is found again.
    async fn act(&self, role: &str, name: &str, act: impl AsyncFn(Element) -> Result<(), CmdError>) {
        eventually_within(TIMEOUT, &format!("the {role} {name:?} can be used"), async || {
            match act(self.find(role, name).await).await {
                Ok(()) => Some(()),
                Err(e) if is_gone(&e) => None,
                Err(e) => panic!("the {role} {name:?}: {e}"),
            }
        })
        .await;
    }

    /// Clicks an element.
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

    /// Replaces the text of a field, found by its label.
    pub(crate) async fn fill(&self, label: &str, text: &str) {
        self.fill_in("textbox", label, text).await;
    }

    /// The same for another kind of field, such as `spinbutton` (a number) or `searchbox`.
    pub(crate) async fn fill_in(&self, role: &str, label: &str, text: &str) {
        self.act(role, label, async |element| {
            element.clear().await?;
            element.send_keys(text).await
        })
        .await;
    }

    /// Chooses an option by its text in a drop-down found by its label.
    pub(crate) async fn choose(&self, label: &str, option: &str) {
        self.act("combobox", label, async |element| element.select_by_label(option).await).await;
    }

    /// Role and name of the focused element. If the page replaces it during the query, the query is repeated.
    pub(crate) async fn focused(&self) -> (String, String) {
        eventually_within(TIMEOUT, "the focused element can be queried", async || match self.focus().await {
            Ok(role_and_name) => Some(role_and_name),
            Err(e) if is_gone(&e) => None,
            Err(e) => panic!("querying the focus: {e}"),
        })
        .await
    }

    async fn focus(&self) -> Result<(String, String), CmdError> {
        let element = self.client.active_element().await?;
        chromedriver::role_and_name(&self.client, &element.element_id()).await
    }
}

fn is_gone(e: &CmdError) -> bool {
    let text = e.to_string();
    let signs = ["Could not find node", "No node with given id", "Cannot find context", "context was destroyed"];
    e.is_stale_element_reference() || e.is_detached_shadow_root() || signs.iter().any(|sign| text.contains(sign))
}
