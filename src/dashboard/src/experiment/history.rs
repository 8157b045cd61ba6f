//! The History section: decisions of the policy with their reasons, and the audit log.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::ChangedField;
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
    /// Whether it killed a variation.
    pub kills: bool,
    /// Summary as a sentence.
    pub summary: String,
    /// Arms, control first.
    pub arms: Vec<DecisionArm>,
}

impl Decision {
    fn changes_nothing(&self) -> bool {
        self.revision == 0 && !self.kills
    }
}

/// More decisions in a row that changed nothing are collapsed.
const MAX_UNCHANGED: usize = 2;

/// One entry of the audit log.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Time of the change, by the server's clock.
    pub at: Timestamp,
    /// What was done, as a sentence: the text before the experiment's key, the key, and the text after it. The key is
    /// empty if a unit was forgotten.
    pub sentence: [String; 3],
    /// Changed fields of the definition, at most as many as a page shows.
    pub changed: Vec<ChangedField>,
    /// How many more fields were changed.
    pub more_changed: usize,
    /// The results that were kept with a kill, as sentences.
    pub kept_results: Vec<String>,
}

pub(super) fn decisions(key: &str, has_policy: bool, decisions: &[Decision]) -> Markup {
    html! {
        h3 id="decisions" { "Automatic decisions" }
        @if decisions.is_empty() && has_policy { p.lead { "No decisions yet. The policy decides at each update of a running experiment." } }
        @if decisions.is_empty() && !has_policy { p.lead { "None: the allocation of this experiment is changed manually." } }
        @if !decisions.is_empty() { p.lead { "Each says what was known at its time. The verdict and the results use what is known now: outcomes that came later count there, and units that were excluded since do not." } }
        @for group in decisions.chunk_by(|a, b| a.changes_nothing() && b.changes_nothing()) {
            @match group {
                [newest, .., oldest] if group.len() > MAX_UNCHANGED => {
                    details.collapsed {
                        summary { (counted(group.len() as u64, "decision")) " without a change, " (instant(oldest.at)) " to " (instant(newest.at)) ". The newest: " (newest.summary) }
                        ol.log { @for decision in group { (decision_entry(key, decision)) } }
                    }
                }
                _ => ol.log { @for decision in group { (decision_entry(key, decision)) } },
            }
        }
    }
}

fn decision_entry(key: &str, decision: &Decision) -> Markup {
    html! {
        li id=[(decision.revision > 0).then(|| format!("revision-{}", decision.revision))] {
            p { (instant(decision.at)) " "
                @if decision.revision > 0 { span.badge.decides { "revision " (decision.revision) } }
                @else if decision.kills { span.badge.killed { "kill" } }
                @else { span.badge { "no change" } }
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

pub(super) fn audit(key: &str, entries: &[AuditEntry], older: Option<u64>) -> Markup {
    html! {
        h3 id="audit" { "Audit log" }
        p.lead { "Excludes automatic decisions." }
        @if entries.is_empty() { p { "No changes." } }
        ol.log {
            @for entry in entries {
                li {
                    p { (instant(entry.at)) " " (entry.sentence.concat()) }
                    @for result in &entry.kept_results { p { (result) } }
                    @if !entry.changed.is_empty() {
                        details {
                            summary { (counted((entry.changed.len() + entry.more_changed) as u64, "changed field")) }
                            ul.plain.changes { @for field in &entry.changed { li {
                                code { (field.field) } ": "
                                @if field.from.is_empty() { "set to " } @else { del { (field.from) } " → " }
                                @if field.to.is_empty() { "nothing" } @else { ins { (field.to) } }
                            } }
                            @if entry.more_changed > 0 { li { (counted(entry.more_changed as u64, "more field")) } } }
                        }
                    }
                }
            }
        }
        @if let Some(before) = older { p { a href={ "/experiments/" (key) "?before=" (before) "#audit" } { "Older changes" } } }
    }
}
