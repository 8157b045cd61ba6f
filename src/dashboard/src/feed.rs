//! The live feed: exposures and outcomes as they arrive.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::format::{RateBasis, counted, instant};
use crate::layout::live_part;
use crate::pager::Pager;

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Sequence number in the log.
    pub seq: u64,
    /// Time when the server accepted the event.
    pub received_at: Timestamp,
    /// Time when the event happened, as reported.
    pub occurred_at: Timestamp,
    /// `exposure` or `outcome`.
    pub kind: &'static str,
    /// Key of the experiment; empty for most outcomes.
    pub experiment: String,
    /// The variation of an exposure, or the event name of an outcome.
    pub variation_or_event: String,
    /// Unit key of an exposure, or all unit keys of an outcome.
    pub unit: String,
    /// Run and revision of an exposure, or the value of an outcome.
    pub detail: String,
}

/// The page of the live feed.
#[derive(Debug, Clone, Default)]
pub struct FeedPage {
    /// Filter: `exposure`, `outcome`, or empty for both.
    pub kind: String,
    /// Filter: key of an experiment; empty for all.
    pub experiment: String,
    /// Filter: part of a unit key; empty for all.
    pub unit: String,
    /// Filter: key of a variation or name of an event; empty for all.
    pub variation_or_event: String,
    /// Matching events on this page, newest first.
    pub events: Vec<Event>,
    /// The page among all matching events.
    pub pager: Pager,
    /// Number of recent events that were searched.
    pub searched: usize,
    /// Events per minute.
    pub per_minute: f64,
    /// What `per_minute` is measured over.
    pub rate_basis: RateBasis,
}

impl FeedPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            h1 { "Live feed" }
            form.filters method="get" action="/feed" {
                label { span { "Kind" } select name="kind" {
                    @for (value, words) in [("", "both"), ("exposure", "exposures"), ("outcome", "outcomes")] { option value=(value) selected[value == self.kind] { (words) } }
                } }
                label { span { "Experiment" } input name="experiment" value=(self.experiment); }
                label { span { "Variation or event" } input name="what" value=(self.variation_or_event); }
                label { span { "Unit key contains" } input name="unit" value=(self.unit); }
                button { "Filter" }
            }
            (live_part("events", &self.list()))
        }
    }

    fn list(&self) -> Markup {
        let query = [
            ("kind", self.kind.as_str()),
            ("experiment", &self.experiment),
            ("what", &self.variation_or_event),
            ("unit", &self.unit),
        ];
        html! {
            p.count { (counted(self.per_minute.round() as u64, "event")) " " (self.rate_basis.after_a_count())
                @if !self.events.is_empty() { "; " (self.pager.count()) " that match" }
                @if self.searched > 0 { "; latest " (counted(self.searched as u64, "event")) " searched" }
            }
            @if self.events.is_empty() && self.searched > 0 {
                div.empty { h2 { "No matches" } p { a href="/feed" { "Show all events" } } }
            } @else if self.events.is_empty() {
                div.empty { h2 { "No events yet" } p { "Events appear here when an SDK, " code { "inroad record" } " or a server-side call records them." } }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Events" {
                    table.feed {
                        caption { "Newest first" }
                        thead { tr { th scope="col" { "Received" } th scope="col" { "Kind" } th scope="col" { "Unit" } th scope="col" { "Variation or event" } th scope="col" { "Experiment" } th scope="col" { "Details" } th scope="col" { "Occurred" } } }
                        tbody {
                            @for event in &self.events {
                                tr {
                                    td { (instant(event.received_at)) }
                                    td { span class={ "badge " (event.kind) } { (event.kind) } }
                                    td.words { code { (event.unit) } }
                                    td.words { (event.variation_or_event) }
                                    td.words { @if event.experiment.is_empty() { "–" } @else { a href={ "/experiments/" (event.experiment) } { (event.experiment) } } }
                                    td { (event.detail) }
                                    td { (instant(event.occurred_at)) }
                                }
                            }
                        }
                    }
                }
                (self.pager.links("/feed", &query))
            }
        }
    }
}
