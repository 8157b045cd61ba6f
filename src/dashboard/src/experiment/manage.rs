//! The Manage section: the actions on the experiment and on each variation.

use maud::{Markup, html};

use super::{Arm, ExperimentPage};
use crate::format::{NumberFormat, number};

impl ExperimentPage {
    /// The path of the page that confirms an action.
    pub(super) fn action_path(&self, action: &str, variation: &str) -> String {
        let base = format!("/experiments/{}/ask/{action}", self.key);
        if variation.is_empty() { base } else { format!("{base}?variation={variation}") }
    }

    pub(super) fn manage(&self) -> Markup {
        let is = |states: &[&str]| states.contains(&self.state);
        if self.generation < self.generations {
            return html! {
                section id="manage" aria-labelledby="manage-title" {
                    h2 id="manage-title" { "Manage" }
                    p { "Run " (self.generation) " has ended. " a href={ "/experiments/" (self.key) "#manage" } { "Manage run " (self.generations) } "." }
                }
            };
        }
        html! {
            section id="manage" aria-labelledby="manage-title" {
                h2 id="manage-title" { "Manage" }
                p.lead { "Each action shows its effects first and asks you to confirm." }
                div.actions {
                    @if is(&["draft"]) { a.button.primary href=(self.action_path("start", "")) { "Start experiment" } }
                    @if is(&["running"]) { a.button href=(self.action_path("pause", "")) { "Pause experiment" } }
                    @if is(&["paused"]) { a.button.primary href=(self.action_path("resume", "")) { "Resume experiment" } }
                    @if is(&["running"]) && self.has_policy { a.button href=(self.action_path("reallocate", "")) { "Reallocate now" } }
                    @if is(&["draft", "running", "paused", "concluded"]) {
                        a.button href={ "/experiments/" (self.key) "/edit" } { "Edit or add variation" }
                    }
                    @if is(&["running", "paused"]) { a.button href=(self.action_path("conclude", "")) { "Conclude experiment" } }
                    @if is(&["running", "paused", "concluded"]) { a.button.danger href=(self.action_path("restart", "")) { "Restart experiment" } }
                    @if is(&["draft", "concluded"]) { a.button.danger href=(self.action_path("archive", "")) { "Archive experiment" } }
                    @if !is(&["archived"]) {
                        @if self.killed { a.button.primary href=(self.action_path("restore", "")) { "Restore experiment" } }
                        @else { a.button.danger href=(self.action_path("kill", "")) { "Kill experiment" } }
                    }
                    a.button href={ "/new?from=" (self.key) } { "Copy experiment" }
                }
                @if !is(&["draft", "archived"]) {
                    div.scroll tabindex="0" role="region" aria-label="Variations" {
                        table.variations {
                            caption { "Variations and their actions" }
                            thead { tr { th scope="col" { "Variation" } th scope="col" { "Traffic share" } th scope="col" { "State" } th scope="col" { "Actions" } } }
                            tbody {
                                @for (i, arm) in self.arms.iter().enumerate() {
                                    tr {
                                        th scope="row" { (arm.name) }
                                        td { (number(arm.share, NumberFormat::Percent2)) }
                                        td.state { (self.serving_state(i, arm)) }
                                        td {
                                            @if i > 0 {
                                                @if is(&["running", "paused"]) && !arm.killed {
                                                    a.button.small href=(self.action_path("grow", &arm.name)) aria-label={ "Grow " (arm.name) } { "Grow" } " "
                                                }
                                                @if arm.killed { a.button.small href=(self.action_path("restore", &arm.name)) aria-label={ "Restore " (arm.name) } { "Restore" } }
                                                @else { a.button.small.danger href=(self.action_path("kill", &arm.name)) aria-label={ "Kill " (arm.name) } { "Kill" } }
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// What the units of an arm get.
    fn serving_state(&self, index: usize, arm: &Arm) -> &'static str {
        let is_shipped = self.shipped.as_ref() == Some(&arm.name);
        match (index, &self.shipped) {
            (1.., _) if arm.killed => "killed",
            (1.., _) if self.killed => "serves control: the experiment is killed",
            (0, Some(_)) if is_shipped => "control, served to all units",
            (_, Some(_)) if is_shipped && self.shipped_within_audience => "served to all units in the audience",
            (_, Some(_)) if is_shipped => "served to all units",
            (0, Some(_)) if self.shipped_within_audience => "control, served to units outside the audience",
            (0, _) => "control",
            (_, Some(shipped)) if self.arms.first().is_some_and(|control| control.name == *shipped) => {
                "not served: the experiment is rolled back"
            }
            (_, Some(_)) => "not served: the experiment is concluded",
            (_, None) => "served",
        }
    }
}
