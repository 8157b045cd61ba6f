//! Which clients are connected, and how far each has come.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::chart::text::{Format, instant, number};
use crate::shell::live_part;

/// One connected client.
#[derive(Debug, Clone)]
pub struct Client {
    /// As it calls itself.
    pub name: String,
    /// Which SDK, with its version; empty if it has not said.
    pub sdk: String,
    /// Since when.
    pub connected_at: Timestamp,
    /// Whether it lacks something for longer than it should.
    pub is_behind: bool,
    /// The version of the snapshot that it was sent last.
    pub sent: u64,
    /// The version that it says it has applied; none if it says nothing.
    pub applied: Option<u64>,
    /// How long after it was published, milliseconds.
    pub lag_ms: Option<f64>,
    /// Exposures that it had no room for.
    pub dropped_exposures: Option<u64>,
    /// Outcomes that it had no room for.
    pub dropped_outcomes: Option<u64>,
    /// Events that it has yet to send.
    pub queued: Option<u64>,
}

/// The page.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// The server's version.
    pub version: u64,
    /// Those connected.
    pub clients: Vec<Client>,
    /// How many there are, where not all are shown.
    pub total: usize,
}

impl Clients {
    /// The page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            h1 { "Clients" }
            p.lead { "Whoever follows this server's boundaries and decides by itself." }
            (live_part("clients", &self.list()))
        }
    }

    fn list(&self) -> Markup {
        if self.clients.is_empty() {
            return html! { div.empty { h2 { "Nobody is connected" } p { "An SDK connects when its client is built; " code { "inroad watch" } " does too. Callers of Assign need no connection." } } };
        }
        let count = |n: Option<u64>| html! { @match n { Some(n) => (number(n as f64, Format::Int)), None => "–" } };
        html! {
            p.count { (number(self.total as f64, Format::Int)) " connected; the server is at version " (number(self.version as f64, Format::Int)) }
            div.scroll tabindex="0" role="region" aria-label="Connected clients" {
                table {
                    caption { "The furthest behind first" @if self.total > self.clients.len() { "; the first " (number(self.clients.len() as f64, Format::Int)) } }
                    thead { tr {
                        th scope="col" { "Client" } th scope="col" { "SDK" } th scope="col" { "Connected" } th scope="col" { "Sent" } th scope="col" { "Applied" }
                        th scope="col" { "Lag" } th scope="col" { "Dropped exposures" } th scope="col" { "Dropped outcomes" } th scope="col" { "Queued" }
                    } }
                    tbody {
                        @for client in &self.clients {
                            tr {
                                th scope="row" { @if client.name.is_empty() { "unnamed" } @else { (client.name) } }
                                td.words { @if client.sdk.is_empty() { "–" } @else { (client.sdk) } }
                                td { (instant(client.connected_at)) }
                                td { (number(client.sent as f64, Format::Int)) }
                                td { @match client.applied {
                                    Some(applied) => { (number(applied as f64, Format::Int)) @if client.is_behind { " " span.badge.alarm { "behind" } } },
                                    None => "–",
                                } }
                                td { @match client.lag_ms { Some(ms) => { (number(ms, Format::Num2)) " ms" }, None => "–" } }
                                td { (count(client.dropped_exposures)) }
                                td { (count(client.dropped_outcomes)) }
                                td { (count(client.queued)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
