//! What a unit gets, and why: now, or at any moment before.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::chart::text::instant;
use crate::chart::{Bucket, strip, strip_small};

/// An answer, with the way to it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What is served.
    pub variation: String,
    /// Its payload, as JSON.
    pub payload: String,
    /// The word for why.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub why: String,
    /// The unit's key.
    pub unit: Option<String>,
    /// Where it lives: 16 hex digits, and 0 to 1.
    pub point: Option<(String, f64)>,
    /// The stretch that it lives on: who owns it, from and to as hex digits.
    pub bucket: Option<(String, String, String)>,
    /// Which generation and revision answered; 0 before the first.
    pub generation: u32,
    /// Which revision.
    pub revision: u32,
    /// When.
    pub at: Timestamp,
    /// The line then.
    pub names: Vec<String>,
    /// The line then.
    pub buckets: Vec<Bucket>,
    /// By variation.
    pub killed: Vec<bool>,
    /// Whether the answer counts as an exposure when a caller gets it.
    pub records_exposure: bool,
}

/// The page.
#[derive(Debug, Clone, Default)]
pub struct Playground {
    /// Every experiment.
    pub experiments: Vec<String>,
    /// The one chosen.
    pub experiment: String,
    /// The unit's key, as typed.
    pub unit: String,
    /// Attributes, as typed: JSON.
    pub context: String,
    /// When, as typed; empty for now.
    pub at: String,
    /// What is wrong, at which field.
    pub error: Option<(&'static str, String)>,
    /// What comes out.
    pub answer: Option<Answer>,
}

impl Playground {
    /// The page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        let wrong = |field: &str| self.error.as_ref().filter(|(at, _)| *at == field).map(|(_, text)| text.as_str());
        let described = |field: &'static str| wrong(field).map(|_| format!("e-{field}"));
        html! {
            h1 { "Playground" }
            p.lead { "Which variation would this unit see? Asking here is not an exposure." }
            form.play method="get" action="/playground" {
                label { span { "Experiment" }
                    input name="experiment" list="all" value=(self.experiment) required aria-describedby=[described("experiment")] aria-invalid=[wrong("experiment").map(|_| "true")];
                }
                datalist id="all" { @for key in &self.experiments { option value=(key) {} } }
                label { span { "Unit key" } input name="unit" value=(self.unit) required aria-describedby=[described("unit")] aria-invalid=[wrong("unit").map(|_| "true")]; }
                label.wide { span { "Context, as JSON" } textarea name="context" rows="3" spellcheck="false" placeholder="{\"country\": \"fr\"}" aria-describedby=[described("context")] aria-invalid=[wrong("context").map(|_| "true")] { (self.context) } }
                label { span { "At (UTC), any past moment" } input name="at" value=(self.at) placeholder="now" aria-describedby=[described("at")] aria-invalid=[wrong("at").map(|_| "true")]; }
                button.primary { "Show" }
            }
            @if let Some((field, text)) = &self.error { p.notice.bad role="alert" id={ "e-" (field) } { (text) } }
            @match &self.answer {
                Some(answer) => (answer.render()),
                None => { @if self.error.is_none() { div.empty { h2 { "Name a unit" } p { "The key that your service would send: a user's, an account's." } } } }
            }
        }
    }
}

impl Answer {
    fn render(&self) -> Markup {
        html! {
            section.verdict aria-label="Answer" {
                p.said { @if self.variation.is_empty() { "The caller's own default" } @else { (self.variation) } }
                p { (self.why) }
            }
            dl.declared {
                div { dt { "Reason" } dd { code { (self.reason) } } }
                div { dt { "Payload" } dd { code { (self.payload) } } }
                @if let Some(unit) = &self.unit { div { dt { "Unit" } dd { code { (unit) } } } }
                @if let Some((hex, _)) = &self.point { div { dt { "Point" } dd { code { (hex) } } } }
                @if let Some((owner, from, to)) = &self.bucket { div { dt { "Bucket" } dd { "of " b { (owner) } ", " code { (from) } " to " code { (to) } } } }
                div { dt { "Generation" } dd { (self.generation) } }
                div { dt { "Revision" } dd { (self.revision) } }
                div { dt { "At" } dd { (instant(self.at)) } }
                div { dt { "Exposure" } dd { @if self.records_exposure { "a caller's answer counts as one" } @else { "none is recorded for this answer" } } }
            }
            @if !self.buckets.is_empty() {
                h2 { "Where it lives" }
                @if let Some((_, place)) = self.point {
                    svg.pin viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label={ "The unit's place on the line" } {
                        line x1=(format!("{:.2}", place * 1000.0)) x2=(format!("{:.2}", place * 1000.0)) y1="0" y2="14" {}
                    }
                }
                (strip_small(&self.names, &self.buckets, &self.killed))
                h3 { "The whole line" }
                (strip(&self.names, &self.buckets, &self.killed, None))
            }
        }
    }
}
