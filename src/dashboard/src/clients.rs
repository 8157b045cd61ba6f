//! The page of connected SDKs: the version that each has, and its delay.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::format::{NumberFormat, instant, number};
use crate::layout::live_part;
use crate::pager::Pager;

/// One connected SDK client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Name that the client reports.
    pub name: String,
    /// SDK with its version; empty if the client does not report it.
    pub sdk: String,
    /// Time of the connection.
    pub connected_at: Timestamp,
    /// Whether a version is missing for longer than expected.
    pub is_behind: bool,
    /// Version of the last snapshot sent to the client.
    pub sent: u64,
    /// Version that the client reports as applied; none if it does not report.
    pub applied: Option<u64>,
    /// Time from publishing that version to applying it, in milliseconds.
    pub lag_ms: Option<f64>,
    /// Exposures dropped because the client's queue was full.
    pub dropped_exposures: Option<u64>,
    /// Outcomes dropped because the client's queue was full.
    pub dropped_outcomes: Option<u64>,
    /// Events that the client has not sent yet.
    pub queued: Option<u64>,
}

/// The page of connected SDKs.
#[derive(Debug, Clone, Default)]
pub struct ClientsPage {
    /// Version that the server has published.
    pub version: u64,
    /// Filter: part of a client's name or SDK, case-insensitive; empty for all.
    pub text: String,
    /// Filter: only clients that miss a version.
    pub only_outdated: bool,
    /// Connected clients on this page, of those that match the filter.
    pub clients: Vec<Client>,
    /// The page among those that match the filter.
    pub pager: Pager,
    /// Number of all connected clients.
    pub total: usize,
    /// How many of them have no id: they report nothing.
    pub anonymous: usize,
}

impl ClientsPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            h1 { "Clients" }
            p.lead { "Connected SDKs. They evaluate locally with the newest version from this server." }
            form.filters method="get" action="/clients" role="search" {
                label.wide { span { "Search" } input type="search" name="q" value=(self.text) placeholder="name or SDK"; }
                label { span { "Version" } select name="version" {
                    option value="" { "any" }
                    option value="outdated" selected[self.only_outdated] { "outdated" }
                } }
                button { "Filter" }
            }
            (live_part("clients", &self.list()))
        }
    }

    fn list(&self) -> Markup {
        let query = [("q", self.text.as_str()), ("version", if self.only_outdated { "outdated" } else { "" })];
        if self.total == 0 {
            return html! { div.empty { h2 { "No client is connected" } p { "An SDK connects when its client is built. " code { "inroad watch" } " connects too. Server-side calls need no connection." } } };
        }
        let count =
            |n: Option<u64>| html! { @match n { Some(n) => (number(n as f64, NumberFormat::Int)), None => "–" } };
        html! {
            p.count { (number(self.total as f64, NumberFormat::Int)) " connected"
                @if self.anonymous > 0 { " (" (number((self.total - self.anonymous) as f64, NumberFormat::Int)) " with an id, " (number(self.anonymous as f64, NumberFormat::Int)) " without, which report nothing)" }
                "; the server is at version " (number(self.version as f64, NumberFormat::Int)) }
            @if self.clients.is_empty() {
                div.empty { h2 { "No matches" } p { a href="/clients" { "Show all clients" } } }
            } @else { div.scroll tabindex="0" role="region" aria-label="Connected clients" {
                table {
                    caption { "Most outdated first; " (self.pager.count()) }
                    thead { tr {
                        th scope="col" { "Client" } th scope="col" { "SDK" } th scope="col" { "Connected" } th scope="col" { "Sent version" } th scope="col" { "Applied version" }
                        th scope="col" { "Delay" } th scope="col" { "Dropped exposures" } th scope="col" { "Dropped outcomes" } th scope="col" { "Queued events" }
                    } }
                    tbody {
                        @for client in &self.clients {
                            tr {
                                th scope="row" { @if client.name.is_empty() { "unnamed" } @else { (client.name) } }
                                td.words { @if client.sdk.is_empty() { "–" } @else { (client.sdk) } }
                                td { (instant(client.connected_at)) }
                                td { (number(client.sent as f64, NumberFormat::Int)) }
                                td { @match client.applied {
                                    Some(applied) => { (number(applied as f64, NumberFormat::Int)) @if client.is_behind { " " span.badge.alarm { "outdated" } } },
                                    None => "–",
                                } }
                                td { @match client.lag_ms { Some(ms) => { (number(ms, NumberFormat::Estimate)) " ms" }, None => "–" } }
                                td { (count(client.dropped_exposures)) }
                                td { (count(client.dropped_outcomes)) }
                                td { (count(client.queued)) }
                            }
                        }
                    }
                }
            } }
            (self.pager.links("/clients", &query))
        }
    }
}
