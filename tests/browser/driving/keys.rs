//! The keyboard, for those who have no mouse.

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::key::Key;

use super::browser::Browser;

/// More presses than any page needs.
const MANY: usize = 200;

impl Browser {
    /// Presses keys together, the last with all before it held, as Shift and Tab; one alone is pressed alone.
    pub(crate) async fn press(&self, keys: &[Key]) {
        let codes = || keys.iter().map(|key| char::from(*key));
        let down = codes().map(|value| KeyAction::Down { value });
        let up = codes().rev().map(|value| KeyAction::Up { value });
        let actions = down.chain(up).fold(KeyActions::new("keyboard".to_owned()), |actions, key| actions.then(key));
        self.client.perform_actions(actions).await.expect("keys");
    }

    /// Types where the focus is.
    pub(crate) async fn type_text(&self, text: &str) {
        let keys = text.chars().flat_map(|value| [KeyAction::Down { value }, KeyAction::Up { value }]);
        let actions = keys.fold(KeyActions::new("keyboard".to_owned()), |actions, key| actions.then(key));
        self.client.perform_actions(actions).await.expect("keys");
    }

    /// Presses Tab until the focus is on a thing, and tells what it went over.
    pub(crate) async fn tab_to(&self, role: &str, name: &str) -> Vec<(String, String)> {
        let mut over = Vec::new();
        while over.len() < MANY {
            self.press(&[Key::Tab]).await;
            let now = self.focused().await;
            if now == (role.to_owned(), name.to_owned()) {
                return over;
            }
            over.push(now);
        }
        over.truncate(20);
        panic!("Tab does not lead to the {role} {name:?}, only to {over:?} …");
    }
}
