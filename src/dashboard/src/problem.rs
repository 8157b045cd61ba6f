//! What a page says when there is nothing to show: no such thing, a refusal, a fault.

use maud::{Markup, html};

/// A page about what went wrong, and what to do.
#[must_use]
pub fn problem(title: &str, message: &str) -> Markup {
    html! {
        h1 { (title) }
        p.lead { (message) }
        p { a.button href="/" { "All experiments" } }
    }
}
