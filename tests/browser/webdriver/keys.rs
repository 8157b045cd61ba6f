//! Keyboard input.

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::key::Key;

use super::browser::Browser;

/// Most presses of Tab before giving up.
const MAX_TABS: usize = 200;

impl Browser {
    /// Presses keys together, for example Shift and Tab.
    pub(crate) async fn press(&self, keys: &[Key]) {
        let codes = || keys.iter().map(|key| char::from(*key));
        let down = codes().map(|value| KeyAction::Down { value });
        let up = codes().rev().map(|value| KeyAction::Up { value });
        let actions = down.chain(up).fold(KeyActions::new("keyboard".to_owned()), |actions, key| actions.then(key));
        self.client.perform_actions(actions).await.expect("press keys");
    }

    /// Types text into the focused element.
    pub(crate) async fn type_text(&self, text: &str) {
        let keys = text.chars().flat_map(|value| [KeyAction::Down { value }, KeyAction::Up { value }]);
        let actions = keys.fold(KeyActions::new("keyboard".to_owned()), |actions, key| actions.then(key));
        self.client.perform_actions(actions).await.expect("press keys");
    }

    /// Presses Tab until an element has the focus, and returns the elements that had it before.
    pub(crate) async fn tab_to(&self, role: &str, name: &str) -> Vec<(String, String)> {
        let mut passed = Vec::new();
        while passed.len() < MAX_TABS {
            self.press(&[Key::Tab]).await;
            let now = self.focused().await;
            if now == (role.to_owned(), name.to_owned()) {
                return passed;
            }
            passed.push(now);
        }
        passed.truncate(20);
        panic!("Tab does not reach the {role} {name:?}; it reaches {passed:?} …");
    }
}
