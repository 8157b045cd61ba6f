//! What the server found out about an audience: the attributes that it needs, how many recent contexts it selects, and
//! warnings.

use maud::{Markup, html};

/// The report on an audience.
#[derive(Debug, Clone, Default)]
pub struct AudienceSummary {
    /// Facts, one sentence each.
    pub facts: Vec<String>,
    /// Warnings: the field, and what is wrong with it and what to write instead.
    pub warnings: Vec<(String, String)>,
}

impl AudienceSummary {
    /// Renders the warnings, then the facts; nothing if there are none.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            @if !self.warnings.is_empty() {
                div.notice role="status" {
                    p { "Check the audience:" }
                    ul { @for (field, message) in &self.warnings { li { code { (field) } ": " (with_code(message)) } } }
                }
            }
            @if !self.facts.is_empty() {
                p.help { b { "Audience: " } @for fact in &self.facts { (with_code(fact)) " " } }
            }
        }
    }
}

/// A text in which the parts between backticks are code.
fn with_code(text: &str) -> Markup {
    let parts = text.split('`').enumerate();
    html! { @for (i, part) in parts { @if i % 2 == 1 { code { (part) } } @else { (part) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_an_empty_report_is_not_rendered() {
        let summary = AudienceSummary {
            facts: vec!["Needs <a>.".to_owned()],
            warnings: vec![("audience".to_owned(), "`a < \"1.0\"` compares text.".to_owned())],
        };
        let html = summary.render().into_string();
        assert!(
            html.contains("Needs &lt;a&gt;.") && html.contains("<code>a &lt; &quot;1.0&quot;</code> compares"),
            "{html}"
        );
        assert!(AudienceSummary::default().render().into_string().is_empty());
    }
}
