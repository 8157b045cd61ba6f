//! Exposures and outcomes as they come in.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::chart::text::{count, counted, instant};
use crate::shell::live_part;

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its place in the log.
    pub seq: u64,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// When it happened, by its own clock.
    pub occurred_at: Timestamp,
    /// "exposure" or "outcome".
    pub kind: &'static str,
    /// Of an exposure: the experiment.
    pub experiment: String,
    /// Of an exposure: the variation. Of an outcome: the event's name.
    pub what: String,
    /// Whose.
    pub unit: String,
    /// Of an exposure: generation and revision. Of an outcome: its value.
    pub detail: String,
}

/// The page.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    /// "exposure", "outcome", or empty for both.
    pub kind: String,
    /// An experiment's key; empty for all.
    pub experiment: String,
    /// A unit's key; empty for all.
    pub unit: String,
    /// A variation or an event's name; empty for all.
    pub what: String,
    /// Newest first.
    pub events: Vec<Event>,
    /// How many events were looked through.
    pub looked_at: usize,
    /// Events a minute, over what was looked through.
    pub per_minute: f64,
}

impl Feed {
    /// The page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            h1 { "Live feed" }
            form.filters method="get" action="/feed" {
                label { span { "Kind" } select name="kind" {
                    @for (value, words) in [("", "both"), ("exposure", "exposures"), ("outcome", "outcomes")] { option value=(value) selected[value == self.kind] { (words) } }
                } }
                label { span { "Experiment" } input name="experiment" value=(self.experiment); }
                label { span { "Variation or event" } input name="what" value=(self.what); }
                label { span { "Unit" } input name="unit" value=(self.unit); }
                button { "Filter" }
            }
            (live_part("events", &self.list()))
        }
    }

    fn list(&self) -> Markup {
        html! {
            p.count { (counted(self.per_minute.round() as u64, "event")) " a minute" @if self.looked_at > 0 { "; looked through: the newest " (count(self.looked_at as u64)) } }
            @if self.events.is_empty() && self.looked_at > 0 {
                div.empty { h2 { "Nothing fits" } p { a href="/feed" { "Show all events" } } }
            } @else if self.events.is_empty() {
                div.empty { h2 { "Nothing yet" } p { "Events appear here as they are recorded: by an SDK, by " code { "inroad record" } ", or by Assign." } }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Events" {
                    table.feed {
                        caption { "Newest first" }
                        thead { tr { th scope="col" { "Received" } th scope="col" { "Kind" } th scope="col" { "Unit" } th scope="col" { "What" } th scope="col" { "Experiment" } th scope="col" { "Detail" } th scope="col" { "Happened" } } }
                        tbody {
                            @for event in &self.events {
                                tr {
                                    td { (instant(event.received_at)) }
                                    td { span class={ "badge " (event.kind) } { (event.kind) } }
                                    td.words { code { (event.unit) } }
                                    td.words { (event.what) }
                                    td.words { @if event.experiment.is_empty() { "–" } @else { a href={ "/experiments/" (event.experiment) } { (event.experiment) } } }
                                    td { (event.detail) }
                                    td { (instant(event.occurred_at)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
