//! The playground: which variation a unit gets and why, now or at any past time.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::audience::AudienceSummary;
use crate::chart::{Bucket, allocation_bar, small_allocation_bar};
use crate::format::instant;

/// The variation that a unit gets, and how it was found.
#[derive(Debug, Clone)]
pub struct UnitAssignment {
    /// Key of the served variation; empty if the caller's default is used.
    pub variation: String,
    /// Payload as JSON.
    pub payload: String,
    /// Reason code.
    pub reason: &'static str,
    /// The reason as a sentence.
    pub why: String,
    /// Unit key.
    pub unit: Option<String>,
    /// Point of the unit, as 16 hex digits and as a position from 0 to 1.
    pub point: Option<(String, f64)>,
    /// Bucket of the unit: owner, start and end as hex digits.
    pub bucket: Option<(String, String, String)>,
    /// Generation (shown as run); 0 before the first start.
    pub generation: u32,
    /// Revision; 0 before the first.
    pub revision: u32,
    /// Time of the assignment.
    pub at: Timestamp,
    /// Keys of the variations at that time, control first.
    pub names: Vec<String>,
    /// Buckets at that time.
    pub buckets: Vec<Bucket>,
    /// Whether each variation is killed.
    pub killed: Vec<bool>,
    /// The report on the audience at that time; none if there is no audience.
    pub audience: Option<AudienceSummary>,
    /// Whether an SDK call with this answer records an exposure.
    pub records_exposure: bool,
}

/// The playground page.
#[derive(Debug, Clone, Default)]
pub struct PlaygroundPage {
    /// Keys of all experiments.
    pub experiments: Vec<String>,
    /// Chosen experiment.
    pub experiment: String,
    /// Unit key as typed.
    pub unit: String,
    /// Context as typed: a JSON object.
    pub context: String,
    /// Time as typed; empty for now.
    pub at: String,
    /// Name of an invalid field with the error message.
    pub error: Option<(&'static str, String)>,
    /// The result.
    pub assignment: Option<UnitAssignment>,
}

impl PlaygroundPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        let wrong = |field: &str| self.error.as_ref().filter(|(at, _)| *at == field).map(|(_, text)| text.as_str());
        let described = |field: &'static str| wrong(field).map(|_| format!("e-{field}"));
        html! {
            h1 { "Playground" }
            p.lead { "See which variation a unit gets. Trying it here records no exposure." }
            form.play method="get" action="/playground" {
                label { span { "Experiment" }
                    input name="experiment" list="all" value=(self.experiment) required aria-describedby=[described("experiment")] aria-invalid=[wrong("experiment").map(|_| "true")];
                }
                datalist id="all" { @for key in &self.experiments { option value=(key) {} } }
                label { span { "Unit key" } input name="unit" value=(self.unit) required aria-describedby=[described("unit")] aria-invalid=[wrong("unit").map(|_| "true")]; }
                label.wide { span { "Context as JSON" } textarea name="context" rows="3" spellcheck="false" placeholder="{\"country\": \"fr\"}" aria-describedby=[described("context")] aria-invalid=[wrong("context").map(|_| "true")] { (self.context) } }
                label { span { "Time (UTC), now or in the past" } input name="at" value=(self.at) placeholder="now" aria-describedby=[described("at")] aria-invalid=[wrong("at").map(|_| "true")]; }
                button.primary { "Show assignment" }
            }
            @if let Some((field, text)) = &self.error { p.notice.bad role="alert" id={ "e-" (field) } { (text) } }
            @match &self.assignment {
                Some(assignment) => (assignment.render()),
                None => { @if self.error.is_none() { div.empty { h2 { "Enter a unit key" } p { "The key that your service sends, such as a user or account id." } } } }
            }
        }
    }
}

impl UnitAssignment {
    fn render(&self) -> Markup {
        html! {
            section.verdict aria-label="Assignment" {
                p.said { @if self.variation.is_empty() { "Not found; default used" } @else { (self.variation) } }
                p { (self.why) }
            }
            @if let Some(audience) = &self.audience { (audience.render()) }
            dl.declared {
                div { dt { "Reason" } dd { code { (self.reason) } } }
                div { dt { "Payload" } dd { code { (self.payload) } } }
                @if let Some(unit) = &self.unit { div { dt { "Unit" } dd { code { (unit) } } } }
                @if let Some((hex, _)) = &self.point { div { dt { "Point" } dd { code { (hex) } } } }
                @if let Some((owner, from, to)) = &self.bucket { div { dt { "Bucket" } dd { b { (owner) } ", points " code { (from) } " to " code { (to) } } } }
                div { dt { "Run" } dd { (self.generation) } }
                div { dt { "Revision" } dd { (self.revision) } }
                div { dt { "Time" } dd { (instant(self.at)) } }
                div { dt { "Exposure" } dd { @if self.records_exposure { "SDK calls record an exposure" } @else { "no exposure is recorded" } } }
            }
            @if !self.buckets.is_empty() {
                h2 { "Bucket" }
                @if let Some((_, place)) = self.point {
                    svg.pin viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="Point of the unit on the line" {
                        line x1=(format!("{:.2}", place * 1000.0)) x2=(format!("{:.2}", place * 1000.0)) y1="0" y2="14" {}
                    }
                }
                (small_allocation_bar(&self.names, &self.buckets, &self.killed))
                h3 { "Traffic allocation" }
                (allocation_bar(&self.names, &self.buckets, &self.killed, None))
            }
        }
    }
}
