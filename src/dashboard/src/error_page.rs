//! The page for errors: a missing page, a refused request, a failure.

use maud::{Markup, html};

/// Renders what went wrong and what to do.
#[must_use]
pub fn error_page(title: &str, message: &str) -> Markup {
    html! {
        h1 { (title) }
        p.lead { (message) }
        p { a.button href="/" { "All experiments" } }
    }
}
