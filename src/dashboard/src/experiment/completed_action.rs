//! The notice after an action: what was done, and how many connected clients have the change.

use maud::{Markup, html};

use crate::format::{NumberFormat, counted, number};

/// An action that was just completed, and how many connected clients have the change.
#[derive(Debug, Clone)]
pub struct CompletedAction {
    /// What was done, as a sentence.
    pub summary: String,
    /// Connected clients.
    pub connected_clients: usize,
    /// Connected clients that have the change.
    pub updated_clients: usize,
    /// Connected clients without an id, which do not report which version they have.
    pub anonymous_clients: usize,
    /// Median time until the clients had the change, in milliseconds.
    pub median_ms: Option<f64>,
    /// Time until the slowest client had the change, in milliseconds.
    pub slowest_ms: Option<f64>,
}

impl CompletedAction {
    pub(super) fn render(&self) -> Markup {
        let waiting = self.connected_clients - self.updated_clients.min(self.connected_clients);
        html! {
            p.notice role="status" {
                (self.summary) " "
                @if self.connected_clients == 0 && self.anonymous_clients == 0 { "No client is connected." }
                @else if self.connected_clients == 0 {
                    "The change was sent to " (counted(self.anonymous_clients as u64, "connected client")) " without an id, which cannot confirm it."
                }
                @else if self.connected_clients == 1 {
                    @if waiting > 0 { "The connected client does not have it yet." }
                    @else {
                        "The connected client has it"
                        @if let Some(slowest) = self.slowest_ms { " after " (number(slowest, NumberFormat::Estimate)) " ms" }
                        "."
                    }
                }
                @else if waiting == 0 {
                    "All " (number(self.connected_clients as f64, NumberFormat::Int)) " connected clients have it"
                    @if let (Some(median), Some(slowest)) = (self.median_ms, self.slowest_ms) {
                        ": median " (number(median, NumberFormat::Estimate)) " ms, slowest " (number(slowest, NumberFormat::Estimate)) " ms"
                    }
                    "."
                }
                @else {
                    (number(self.updated_clients as f64, NumberFormat::Int)) " of " (number(self.connected_clients as f64, NumberFormat::Int)) " connected clients have it so far."
                }
                @if self.connected_clients > 0 && self.anonymous_clients > 0 {
                    " It was also sent to " (counted(self.anonymous_clients as u64, "client")) " without an id, which cannot confirm it."
                }
            }
        }
    }
}
