//! Creating and editing an experiment: each fault beside its field, and what would change before it does.

use inroad_assignment::definition::Violation;
use maud::{Markup, html};

use crate::action::LinePreview;
use crate::experiment::ChangedField;
use crate::form::{Form, is_area};
use crate::shell::{EVENT_NAMES, Reader, event_names, hidden};

/// What would change.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Field by field.
    pub changed: Vec<ChangedField>,
    /// On the line; none before there is one.
    pub line: Option<LinePreview>,
}

/// The page.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The experiment that is edited; none for a new one.
    pub key: Option<String>,
    /// What it stood at when the form was made.
    pub etag: String,
    /// Whether units live on its line, so that some fields cannot change any more.
    pub has_started: bool,
    /// What was typed.
    pub form: Form,
    /// Events that are known, to choose from.
    pub events: Vec<String>,
    /// What is wrong with it.
    pub faults: Vec<Violation>,
    /// What is wrong with the whole.
    pub error: Option<String>,
    /// What would change; none if that was not asked, or cannot be said.
    pub preview: Option<Preview>,
}

/// The name that a fault's path has in the form: `variations[1].key` is `variations.1.key`.
fn field_name(path: &str) -> String {
    path.replace('[', ".").replace("].", ".").replace(']', "")
}

impl Edit {
    /// The page's content.
    #[must_use]
    pub fn render(&self, reader: &Reader) -> Markup {
        let title = self.key.as_ref().map_or_else(|| "New experiment".to_owned(), |key| format!("Edit {key}"));
        let action = self.key.as_ref().map_or_else(|| "/new".to_owned(), |key| format!("/experiments/{key}/edit"));
        html! {
            p.crumbs { a href="/" { "Experiments" } @if let Some(key) = &self.key { " / " a href={ "/experiments/" (key) } { (key) } } }
            h1 { (title) }
            @if let Some(error) = &self.error { p.notice.bad role="alert" { (error) } }
            @if !self.faults.is_empty() {
                div.notice.bad role="alert" tabindex="-1" id="faults" {
                    p { "This cannot be saved yet:" }
                    ul { @for fault in &self.faults { li { a href={ "#f-" (field_name(&fault.field)) } { (fault.field) } ": " (fault.message) } } }
                }
            }
            @if let Some(preview) = &self.preview { (self.preview(preview)) }
            form.edit method="post" action=(action) novalidate {
                (hidden(reader))
                input type="hidden" name="etag" value=(self.etag);
                // Enter in a field does what this first button does: it changes nothing.
                (self.buttons())
                (self.basics())
                (self.variations())
                (self.metrics())
                (self.policy())
                (self.overrides())
                (self.buttons())
            }
        }
    }

    fn buttons(&self) -> Markup {
        html! {
            div.actions {
                button name="do" value="preview" { "Show what would change" }
                button.primary name="do" value="save" { @if self.key.is_some() { "Save" } @else { "Create as a draft" } }
            }
        }
    }

    fn preview(&self, preview: &Preview) -> Markup {
        html! {
            section.preview aria-labelledby="preview" role="status" {
                h2 id="preview" { "What would change" }
                @if preview.changed.is_empty() { p { "Nothing." } }
                ul.plain.changes { @for field in &preview.changed { li {
                    code { (field.field) } ": "
                    @if field.from.is_empty() { "set to " } @else { del { (field.from) } " → " }
                    @if field.to.is_empty() { "nothing" } @else { ins { (field.to) } }
                } } }
                @if let Some(line) = &preview.line { (line.render()) }
            }
        }
    }

    fn faults_at(&self, name: &str) -> Vec<&str> {
        self.faults
            .iter()
            .filter(|fault| field_name(&fault.field) == name)
            .map(|fault| fault.message.as_str())
            .collect()
    }

    /// The faults of a whole list or group, where the list of all faults leads to.
    fn faults_of(&self, group: &str) -> Markup {
        let faults = self.faults_at(group);
        html! {
            @if !faults.is_empty() {
                div id={ "f-" (group) } tabindex="-1" { @for fault in faults { p.fault { (fault) } } }
            }
        }
    }

    /// A field with its label, its help and its faults.
    fn field(&self, name: &str, label: &str, help: &str, control: impl Fn(&Described<'_>) -> Markup) -> Markup {
        let faults = self.faults_at(name);
        let id = format!("f-{name}");
        let about = format!("a-{name}");
        let described =
            Described { name, id: &id, about: &about, value: self.form.raw(name), is_wrong: !faults.is_empty() };
        html! {
            div.field.wrong[!faults.is_empty()] {
                label for=(id) { (label) }
                (control(&described))
                p.help id=(about) {
                    @for fault in &faults { strong.fault { (fault) } " " }
                    (help)
                }
            }
        }
    }

    fn input(&self, name: &str, label: &str, help: &str) -> Markup {
        self.field(name, label, help, |d| if is_area(name) { d.area() } else { d.input(false, None) })
    }

    fn event_input(&self, name: &str, label: &str, help: &str) -> Markup {
        self.field(name, label, help, |d| d.input(false, Some(EVENT_NAMES)))
    }

    fn fixed_input(&self, name: &str, label: &str, help: &str) -> Markup {
        let fixed = self.has_started;
        self.field(name, label, if fixed { "Fixed since it started." } else { help }, |d| d.input(fixed, None))
    }

    fn choice(&self, name: &str, label: &str, help: &str, choices: &[(&str, &str)]) -> Markup {
        self.field(name, label, help, |d| d.select(choices))
    }

    fn basics(&self) -> Markup {
        html! {
            fieldset {
                legend { "What it is" }
                @if self.key.is_some() { input type="hidden" name="key" value=(self.form.text("key")); }
                @else { (self.input("key", "Key", "Lower case letters, digits, dots, dashes: sales.checkout-button. Callers ask by it, so it never changes.")) }
                (self.input("description", "Description", "What is tried, and why."))
                (self.input("owner", "Owner", "Who answers for it."))
                (self.input("tags", "Tags", "Separated by commas."))
                (self.choice("lifetime", "Lifetime", "A temporary flag is reported when it has served everybody the same for two weeks.", &[("temporary", "temporary"), ("permanent", "permanent")]))
                (self.fixed_input("unit", "Unit", "The context attribute that is randomised: user, account, … Left out, targetingKey."))
                (self.input("audience", "Audience", "CEL over the context, such as country in [\"fr\", \"de\"] && account.tier == \"internal\". Left out, everybody."))
                (self.fixed_input("salt", "Salt", "Left out, one is drawn when it starts."))
            }
        }
    }

    fn variations(&self) -> Markup {
        // Those of an experiment that runs stay; a row is offered for one more.
        let rows = (self.form.rows("variations") + 1).max(2);
        let kinds = [("boolean", "boolean"), ("string", "text"), ("number", "number"), ("object", "JSON object")];
        html! {
            fieldset {
                legend { "Variations" }
                (self.faults_of("variations"))
                p.help { "The first is control. Rows left blank do not count. A share is what a variation starts with, in per cent of the line; left out, the policy has its own. " @if self.has_started { "Those there are stay as they are; one more may be added at the end, and takes its share from control." } }
                (self.choice("payload_kind", "Payloads are", "What callers get with a variation; of one type for all of them.", &kinds))
                @for i in 0..rows {
                    fieldset.row {
                        legend { @if i == 0 { "Control" } @else { "Variation " (i) } }
                        (self.input(&format!("variations.{i}.key"), "Key", ""))
                        (self.input(&format!("variations.{i}.payload"), "Payload", ""))
                        @if i > 0 { (self.input(&format!("variations.{i}.share"), "Share, %", "")) }
                        (self.input(&format!("variations.{i}.description"), "Description", ""))
                    }
                }
                button name="do" value="more-variations" { "Keep, and show one more row" }
            }
        }
    }

    fn metrics(&self) -> Markup {
        let rows = self.form.rows("metrics") + 1;
        // A first metric is proposed as the one that decides, also after a form came back without any.
        let decides = |i: usize| rows == 1 || self.form.is_on(&format!("metrics.{i}.decision"));
        let kinds = [
            ("conversion", "conversion: did it happen"),
            ("count", "count: how often"),
            ("mean", "mean: sum of values per unit"),
            ("ratio", "ratio of two events' values"),
        ];
        html! {
            fieldset {
                legend { "Metrics" }
                (self.faults_of("metrics"))
                (event_names(&self.events))
                p.help { "One of them decides. A guardrail is a metric that no variation may harm." }
                @for i in 0..rows {
                    fieldset.row {
                        legend { "Metric " (i + 1) }
                        (self.input(&format!("metrics.{i}.key"), "Key", ""))
                        (self.event_input(&format!("metrics.{i}.event"), "Event", "The outcome's name."))
                        (self.choice(&format!("metrics.{i}.kind"), "Kind", "", &kinds))
                        (self.input(&format!("metrics.{i}.window"), "Window", "How long a unit is followed: 7d, 36h."))
                        (self.choice(&format!("metrics.{i}.direction"), "Better is", "", &[("up", "more"), ("down", "less")]))
                        (self.input(&format!("metrics.{i}.cap"), "Cap", "Of a mean: the most that one unit counts for."))
                        (self.event_input(&format!("metrics.{i}.denominator"), "Divided by", "Of a ratio: the other event."))
                        (self.choice(&format!("metrics.{i}.guardrail"), "Guardrail", "", &[("", "no"), ("alert", "say so"), ("freeze", "stop growing"), ("kill", "kill the variation")]))
                        (self.input(&format!("metrics.{i}.margin"), "Margin, %", "How much worse is still borne."))
                        div.field.tick {
                            label { input type="checkbox" name={ "metrics." (i) ".decision" } checked[decides(i)]; " It decides" }
                        }
                    }
                }
                button name="do" value="more-metrics" { "Keep, and show one more row" }
            }
        }
    }

    fn policy(&self) -> Markup {
        let rules = [
            ("", "the default"),
            ("weighed", "weighed: what being wrong would cost"),
            ("level", "level: P(best), squared"),
            ("chase", "chase: P(best) itself"),
            ("top_two", "top two"),
            ("epsilon_greedy", "epsilon greedy"),
            ("fixed", "fixed: nothing grows"),
        ];
        html! {
            fieldset {
                legend { "Who moves the boundaries" }
                (self.faults_of("policy"))
                (self.choice("policy.kind", "Policy", "", &[("thompson", "Thompson sampling; people may too"), ("manual", "people only: a feature flag")]))
                (self.input("policy.floor", "Control keeps, %", "Nothing can eat it: the holdout."))
                (self.fixed_input("policy.tick", "Tick", "How often it is decided, and by what results are cut: 1d, 6h."))
                details {
                    summary { "More of Thompson sampling" }
                    (self.input("policy.burn_in", "Burn-in", "No growth before it is this old: 1d."))
                    (self.input("policy.burn_in_units", "Burn-in units", "Nor before each variation has so many units."))
                    (self.input("policy.burn_in_conversions", "Burn-in conversions", "Nor so many conversions."))
                    (self.input("policy.daily_cap", "Daily cap, %", "The most of the line that changes hands in a day."))
                    (self.input("policy.kill_probability", "Kill at, %", "A variation that is worse than control with more than this probability is killed."))
                    (self.input("policy.conclude_probability", "Conclude at, %", "The winner is put before a person when it is this likely best."))
                    (self.choice("policy.rule", "Rule", "How P(best) becomes the share that is deserved.", &rules))
                    div.field.tick { label { input type="checkbox" name="policy.shadow" checked[self.form.is_on("policy.shadow")]; " Shadow: decide and record, change nothing (guardrails act all the same)" } }
                }
            }
        }
    }

    fn overrides(&self) -> Markup {
        let rows = self.form.rows("overrides") + 1;
        html! {
            fieldset {
                legend { "Overrides" }
                (self.faults_of("overrides"))
                p.help { "Who is pinned whatever the line says: QA first, then internal staff, then early adopters. Such units are not counted." }
                @for i in 0..rows {
                    fieldset.row {
                        legend { "Override " (i + 1) }
                        (self.input(&format!("overrides.{i}.units"), "Unit keys", "One a line, to the last blank; in JSON quotes what a line cannot hold."))
                        (self.input(&format!("overrides.{i}.when"), "Or an expression", "account.tier == \"internal\""))
                        (self.input(&format!("overrides.{i}.variation"), "Get variation", ""))
                    }
                }
            }
        }
    }
}

/// What a control needs to be found by its label, its help and its faults.
#[derive(Clone, Copy)]
struct Described<'a> {
    name: &'a str,
    id: &'a str,
    about: &'a str,
    value: &'a str,
    is_wrong: bool,
}

impl Described<'_> {
    fn wrong(&self) -> Option<&'static str> {
        self.is_wrong.then_some("true")
    }

    fn input(&self, fixed: bool, list: Option<&str>) -> Markup {
        html! { input id=(self.id) name=(self.name) value=(self.value) list=[list] readonly[fixed] aria-describedby=(self.about) aria-invalid=[self.wrong()] autocomplete="off" spellcheck="false"; }
    }

    fn area(&self) -> Markup {
        // It grows with what is in it where the browser can do that; elsewhere it begins with room for some lines. HTML drops
        // a line end that a text area begins with: ours, not the value's.
        let lines = self.value.split('\n').count().clamp(1, 8);
        html! { textarea id=(self.id) name=(self.name) rows=(lines) spellcheck="false" aria-describedby=(self.about) aria-invalid=[self.wrong()] { "\n" (self.value) } }
    }

    fn select(&self, choices: &[(&str, &str)]) -> Markup {
        html! {
            select id=(self.id) name=(self.name) aria-describedby=(self.about) aria-invalid=[self.wrong()] {
                @for (value, words) in choices { option value=(value) selected[*value == self.value] { (words) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_name_in_the_form() {
        assert_eq!(field_name("variations[1].key"), "variations.1.key");
        assert_eq!(field_name("policy.tick"), "policy.tick");
        assert_eq!(field_name("overrides[0].units[2]"), "overrides.0.units.2");
    }

    #[test]
    fn a_text_area_keeps_the_line_end_that_its_value_begins_with() {
        let area = Described { name: "n", id: "i", about: "a", value: "\n<b  ", is_wrong: false }.area().into_string();
        assert!(area.ends_with(">\n\n&lt;b  </textarea>") && area.contains("rows=\"2\""), "{area}");
    }
}
