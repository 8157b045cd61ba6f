//! The History section: decisions of the policy with their reasons, and the audit log.

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use crate::format::{NumberFormat, counted, instant, number};

/// One arm in a decision.
#[derive(Debug, Clone)]
pub struct DecisionArm {
    /// Key of the variation.
    pub name: String,
    /// Probability to be best; none where the variations were not ranked yet.
    pub p_best: Option<f64>,
    /// Traffic share before.
    pub share_before: f64,
    /// Traffic share after.
    pub share_after: f64,
    /// Reason for the change, or for no change.
    pub why: String,
}

/// One decision of the policy.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Time of the decision, by the experiment's clock.
    pub at: Timestamp,
    /// Number of the resulting revision; 0 if nothing changed.
    pub revision: u32,
    /// Summary as a sentence.
    pub summary: String,
    /// Arms, control first.
    pub arms: Vec<DecisionArm>,
}

/// A changed field.
#[derive(Debug, Clone)]
pub struct ChangedField {
    /// Path of the field.
    pub field: String,
    /// Old value; empty if there was none.
    pub from: String,
    /// New value; empty if it was removed.
    pub to: String,
}

/// One entry of the audit log.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Time of the change, by the server's clock.
    pub at: Timestamp,
    /// Name of the person or program.
    pub actor: String,
    /// Action.
    pub action: String,
    /// Changed fields.
    pub changed: Vec<ChangedField>,
}

/// Most characters shown of a value.
const MAX_SHOWN: usize = 200;

/// The differences between two JSON documents, one per leaf.
#[must_use]
pub fn changed_fields(before: &Value, after: &Value) -> Vec<ChangedField> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    collect_leaves(String::new(), before, &mut old);
    collect_leaves(String::new(), after, &mut new);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |leaves: &BTreeMap<String, String>, name: &String| {
        leaves.get(name).map(|text| truncated(text)).unwrap_or_default()
    };
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed.map(|name| ChangedField { field: name.clone(), from: shown(&old, name), to: shown(&new, name) }).collect()
}

fn truncated(text: &str) -> String {
    let start: String = text.chars().take(MAX_SHOWN).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}

fn collect_leaves(path: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect_leaves(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, leaves);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                collect_leaves(format!("{path}[{i}]"), value, leaves);
            }
        }
        Value::Null => {}
        leaf => {
            let text = leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned);
            leaves.insert(path, text);
        }
    }
}

pub(super) fn decisions(key: &str, has_policy: bool, decisions: &[Decision]) -> Markup {
    html! {
        h3 id="decisions" { "Automatic decisions" }
        @if decisions.is_empty() && has_policy { p.lead { "No decisions yet. The policy decides at each update of a running experiment." } }
        @if decisions.is_empty() && !has_policy { p.lead { "None: the allocation of this experiment is changed manually." } }
        ol.log {
            @for decision in decisions {
                li id=[(decision.revision > 0).then(|| format!("revision-{}", decision.revision))] {
                    p { (instant(decision.at)) " "
                        @if decision.revision > 0 { span.badge.decides { "revision " (decision.revision) } } @else { span.badge { "no change" } }
                        " " (decision.summary)
                    }
                    details {
                        summary { "Details by variation" }
                        div.scroll tabindex="0" role="region" aria-label={ "Automatic decision for " (key) } {
                            table {
                                thead { tr { th scope="col" { "Variation" } th scope="col" { "Probability to be best" } th scope="col" { "Share before" } th scope="col" { "Share after" } th scope="col" { "Reason" } } }
                                tbody { @for arm in &decision.arms { tr {
                                    th scope="row" { (arm.name) }
                                    td { @match arm.p_best { Some(p_best) => { (number(p_best, NumberFormat::Probability)) } None => { "–" } } }
                                    td { (number(arm.share_before, NumberFormat::Percent2)) }
                                    td { (number(arm.share_after, NumberFormat::Percent2)) }
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
        h3 id="audit" { "Audit log" }
        p.lead { "Excludes automatic decisions." }
        @if entries.is_empty() { p { "No changes." } }
        ol.log {
            @for entry in entries {
                li {
                    p { (instant(entry.at)) " " b { (entry.actor) } " " span.badge { (entry.action) } }
                    @if !entry.changed.is_empty() {
                        details {
                            summary { (counted(entry.changed.len() as u64, "changed field")) }
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
