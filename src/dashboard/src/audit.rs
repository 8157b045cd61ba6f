//! The audit log of all experiments: who changed what, and when.

use maud::{Markup, html};

use crate::experiment::AuditEntry;
use crate::format::{counted, instant};
use crate::pager::Pager;

/// The most changed fields that one entry lists; the experiment's page lists all.
const MAX_FIELDS: usize = 5;

/// The page of the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditPage {
    /// Filter: part of an experiment's key; empty for all.
    pub experiment: String,
    /// Filter: part of a name; empty for all.
    pub actor: String,
    /// Filter: an action; empty for all except automatic decisions.
    pub action: String,
    /// Entries on this page, newest first.
    pub entries: Vec<AuditEntry>,
    /// The page among all entries that match.
    pub pager: Pager,
}

/// The actions that the filter offers, with their labels.
const ACTIONS: [(&str, &str); 15] = [
    ("", "any, except automatic decisions"),
    ("create", "create"),
    ("update", "update"),
    ("start", "start"),
    ("grow", "grow"),
    ("kill", "kill"),
    ("results", "results kept after a kill"),
    ("restore", "restore"),
    ("pause", "pause"),
    ("resume", "resume"),
    ("restart", "restart"),
    ("conclude", "conclude"),
    ("archive", "archive"),
    ("forget", "forget"),
    ("tick", "automatic decisions"),
];

impl AuditPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        let query = [("experiment", self.experiment.as_str()), ("actor", &self.actor), ("action", &self.action)];
        let has_filter = query.iter().any(|(_, value)| !value.is_empty());
        html! {
            h1 { "Audit log" }
            p.lead { "All changes, by people and by programs." }
            form.filters method="get" action="/audit" role="search" {
                label { span { "Experiment key contains" } input name="experiment" value=(self.experiment); }
                label { span { "Changed by" } input name="actor" value=(self.actor) placeholder="part of a name"; }
                label { span { "Action" } select name="action" {
                    @for (value, label) in ACTIONS { option value=(value) selected[value == self.action] { (label) } }
                } }
                button { "Filter" }
            }
            @if !self.entries.is_empty() { p.count { (self.pager.count()) } }
            @if self.entries.is_empty() && has_filter {
                div.empty { h2 { "No matches" } p { a href="/audit" { "Show all changes" } } }
            } @else if self.entries.is_empty() {
                div.empty { h2 { "No changes yet" } p { "Every change of an experiment appears here, with its author." } }
            }
            ol.log { @for entry in &self.entries { (item(entry)) } }
            (self.pager.links("/audit", &query))
        }
    }
}

fn item(entry: &AuditEntry) -> Markup {
    let [start, key, end] = &entry.sentence;
    let left_out = entry.more_changed + entry.changed.len().saturating_sub(MAX_FIELDS);
    html! {
        li {
            p {
                (instant(entry.at)) " " (start) @if !key.is_empty() { a href={ "/experiments/" (key) } { (key) } } (end)
            }
            @for result in &entry.kept_results { p { (result) } }
            @if !entry.changed.is_empty() {
                details {
                    summary { (counted((entry.changed.len() + entry.more_changed) as u64, "changed field")) }
                    ul.plain.changes {
                        @for field in entry.changed.iter().take(MAX_FIELDS) { li {
                            code { (field.field) } ": "
                            @if field.from.is_empty() { "set to " } @else { del { (field.from) } " → " }
                            @if field.to.is_empty() { "nothing" } @else { ins { (field.to) } }
                        } }
                        @if left_out > 0 { li { a href={ "/experiments/" (key) "#audit" } { (counted(left_out as u64, "more field")) } } }
                    }
                }
            }
        }
    }
}
