//! Conditions of the server that everybody who looks at a page must know, because something waits or is refused.

use maud::{Markup, html};

/// Id of the part of the page that shows the notices.
const PART: &str = "server-notices";

/// A condition of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerNotice {
    /// The machine's clock has jumped and its reading is not accepted.
    ClockJumped {
        /// How far, and in which direction: "2h ahead".
        jump: String,
    },
    /// The disk is full, so that only urgent changes are stored.
    DiskFull,
}

impl ServerNotice {
    fn sentence(&self) -> Markup {
        match self {
            Self::ClockJumped { jump } => html! {
                "The server's clock jumped " (jump) ": kills, assignments and events work as usual, but updates of the "
                "allocation, guardrails, starts and manual growth wait until the clock has been steady for 5 minutes, or "
                "until somebody runs " code { "inroad clock accept" } "."
            },
            Self::DiskFull => html! {
                "The server's disk is full: kills, restores, pauses and assignments work as usual, but events and other "
                "changes are refused until somebody frees space."
            },
        }
    }
}

/// The part of a page that shows the notices; empty without any, so that live updates can add one.
pub(crate) fn notices_part(notices: &[ServerNotice]) -> Markup {
    html! {
        div id=(PART) data-part aria-live="polite" {
            @if !notices.is_empty() {
                aside.server-notices aria-label="Server notices" {
                    @for notice in notices { p.alarm { (notice.sentence()) } }
                }
            }
        }
    }
}
