//! What the policy decided and why, and who changed what.

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use crate::chart::text::{Format, counted, instant, number};

/// One arm in a decision.
#[derive(Debug, Clone)]
pub struct DecisionArm {
    /// Its key.
    pub name: String,
    /// Probability of being the best.
    pub p_best: f64,
    /// Before.
    pub share_before: f64,
    /// After.
    pub share_after: f64,
    /// Why it moved, or did not.
    pub why: String,
}

/// One decision of the policy.
#[derive(Debug, Clone)]
pub struct Decision {
    /// When, by the experiment's clock.
    pub at: Timestamp,
    /// The revision that it made; 0 if it moved nothing.
    pub revision: u32,
    /// In plain words.
    pub summary: String,
    /// Control first.
    pub arms: Vec<DecisionArm>,
}

/// A field that a change touched.
#[derive(Debug, Clone)]
pub struct ChangedField {
    /// Where, as a path.
    pub field: String,
    /// What it was; empty if there was nothing.
    pub from: String,
    /// What it became; empty if there is nothing.
    pub to: String,
}

/// One entry of the audit log.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// From what, to what.
    pub changed: Vec<ChangedField>,
}

/// The most characters of a value that are shown.
const LONGEST: usize = 200;

/// What differs between two documents, leaf by leaf.
#[must_use]
pub fn changes(before: &Value, after: &Value) -> Vec<ChangedField> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    leaves(String::new(), before, &mut old);
    leaves(String::new(), after, &mut new);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown =
        |leaves: &BTreeMap<String, String>, name: &String| leaves.get(name).map(|text| cut(text)).unwrap_or_default();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed.map(|name| ChangedField { field: name.clone(), from: shown(&old, name), to: shown(&new, name) }).collect()
}

fn cut(text: &str) -> String {
    let start: String = text.chars().take(LONGEST).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}

fn leaves(path: String, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                leaves(format!("{path}[{i}]"), value, found);
            }
        }
        Value::Null => {}
        leaf => {
            let text = leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned);
            found.insert(path, text);
        }
    }
}

pub(super) fn decisions(key: &str, has_policy: bool, decisions: &[Decision]) -> Markup {
    html! {
        h3 id="decisions" { "Decisions of the policy" }
        @if decisions.is_empty() && has_policy { p.lead { "None yet: the policy decides at each tick of a running experiment." } }
        @if decisions.is_empty() && !has_policy { p.lead { "None: people move the boundaries of this experiment." } }
        ol.log {
            @for decision in decisions {
                li id=[(decision.revision > 0).then(|| format!("revision-{}", decision.revision))] {
                    p { (instant(decision.at)) " "
                        @if decision.revision > 0 { span.badge.decides { "revision " (decision.revision) } } @else { span.badge { "no change" } }
                        " " (decision.summary)
                    }
                    details {
                        summary { "Each variation, and why" }
                        div.scroll tabindex="0" role="region" aria-label={ "A decision of " (key) } {
                            table {
                                thead { tr { th scope="col" { "Variation" } th scope="col" { "Best" } th scope="col" { "Before" } th scope="col" { "After" } th scope="col" { "Why" } } }
                                tbody { @for arm in &decision.arms { tr {
                                    th scope="row" { (arm.name) }
                                    td { (number(arm.p_best, Format::Percent1)) }
                                    td { (number(arm.share_before, Format::Percent2)) }
                                    td { (number(arm.share_after, Format::Percent2)) }
                                    td.words { (arm.why) }
                                } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn audit(key: &str, entries: &[AuditEntry], older: Option<u64>) -> Markup {
    html! {
        h3 id="audit" { "Who changed what" }
        p.lead { "Without the policy's ticks, which are told above." }
        @if entries.is_empty() { p { "Nobody changed anything here." } }
        ol.log {
            @for entry in entries {
                li {
                    p { (instant(entry.at)) " " b { (entry.actor) } " " span.badge { (entry.action) } }
                    @if !entry.changed.is_empty() {
                        details {
                            summary { (counted(entry.changed.len() as u64, "field")) }
                            ul.plain.changes { @for field in &entry.changed { li {
                                code { (field.field) } ": "
                                @if field.from.is_empty() { "set to " } @else { del { (field.from) } " → " }
                                @if field.to.is_empty() { "nothing" } @else { ins { (field.to) } }
                            } } }
                        }
                    }
                }
            }
        }
        @if let Some(before) = older { p { a href={ "/experiments/" (key) "?before=" (before) "#audit" } { "Older changes" } } }
    }
}
