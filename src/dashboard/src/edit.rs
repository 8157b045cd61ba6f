//! The page to create or edit an experiment, with each error beside its field and a preview of the changes.

use inroad_assignment::definition::Violation;
use maud::{Markup, html};

use crate::action::AllocationPreview;
use crate::audience::AudienceSummary;
use crate::experiment::ChangedField;
use crate::form::{Form, is_multiline};
use crate::layout::{EVENT_NAMES, Viewer, event_name_list, hidden_fields};

/// The changes that saving would make.
#[derive(Debug, Clone)]
pub struct EditPreview {
    /// Changed fields.
    pub changed: Vec<ChangedField>,
    /// Allocation before and after; none if it cannot be computed.
    pub allocation: Option<AllocationPreview>,
    /// The report on the audience; none if there is no audience, or it was not checked.
    pub audience: Option<AudienceSummary>,
}

/// The page to create or edit an experiment.
#[derive(Debug, Clone)]
pub struct EditPage {
    /// Key of the edited experiment; none for a new one.
    pub key: Option<String>,
    /// Version of the experiment when the form was created.
    pub etag: String,
    /// Whether the experiment has started, so that some fields are fixed.
    pub has_started: bool,
    /// The form as typed.
    pub form: Form,
    /// Suggested event names.
    pub events: Vec<String>,
    /// Errors of fields.
    pub violations: Vec<Violation>,
    /// An error that belongs to no field.
    pub error: Option<String>,
    /// Preview of the changes; none if it was not requested.
    pub preview: Option<EditPreview>,
}

/// The form field for a path in the definition: `variations[1].key` becomes `variations.1.key`.
fn field_name(path: &str) -> String {
    path.replace('[', ".").replace("].", ".").replace(']', "")
}

/// What an error says in a file of definitions, and in the form, where other values are typed.
const FORM_WORDS: [(&str, &str); 6] = [
    (
        "policy thompson needs a primary metric: set decision = true on one metric, or use policy manual",
        "the automatic policy needs a primary metric: mark one metric as primary, or choose the manual policy",
    ),
    (
        "several metrics have decision = true: set it on only one",
        "several metrics are marked as primary: mark only one",
    ),
    ("use a value from 0 to 1", "use a value from 0 to 100%"),
    ("use a value from 0 to below 1, such as 0.05 for 5%", "use a value from 0 to below 100%, such as 5"),
    ("set either units or when, and only one of them", "enter either unit keys or an expression, and only one of them"),
    ("use policy manual", "choose the manual policy"),
];

/// An error of a definition in the words of the form.
fn in_form_words(message: &str) -> String {
    FORM_WORDS.iter().fold(message.to_owned(), |text, (file, form)| text.replace(file, form))
}

/// The label of a field for a path in the definition: `metrics[0].window` is "Metric 1, Window".
fn field_label(path: &str) -> String {
    let name = field_name(path);
    let parts: Vec<&str> = name.split('.').collect();
    let (row, column) = match parts.as_slice() {
        [list @ ("variations" | "metrics" | "overrides"), row, rest @ ..] => {
            let row = row.parse::<usize>().unwrap_or_default();
            let row = match *list {
                "variations" if row == 0 => "Control".to_owned(),
                "variations" => format!("Variation {row}"),
                "metrics" => format!("Metric {}", row + 1),
                _ => format!("Override {}", row + 1),
            };
            (row, rest.first().copied().unwrap_or_default())
        }
        ["policy", column, ..] => ("Allocation policy".to_owned(), *column),
        [column, ..] => (String::new(), *column),
        [] => (String::new(), ""),
    };
    let column = match column {
        "share" => "Initial share".to_owned(),
        "kind" => "Kind".to_owned(),
        "direction" => "Better if".to_owned(),
        "denominator" => "Divided by".to_owned(),
        "units" => "Unit keys".to_owned(),
        "when" => "CEL expression".to_owned(),
        "decision" => "Primary metric".to_owned(),
        "floor" => "Minimum control share (holdout)".to_owned(),
        "tick" => "Update frequency".to_owned(),
        "policy" => "Allocation policy".to_owned(),
        "overrides" => "Always this variation".to_owned(),
        other => {
            let words = other.replace('_', " ");
            let mut letters = words.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        }
    };
    match (row.is_empty(), column.is_empty()) {
        (false, false) => format!("{row}, {column}"),
        (false, true) => row,
        (true, _) => column,
    }
}

impl EditPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self, viewer: &Viewer) -> Markup {
        let title = self.key.as_ref().map_or_else(|| "New experiment".to_owned(), |key| format!("Edit {key}"));
        let action = self.key.as_ref().map_or_else(|| "/new".to_owned(), |key| format!("/experiments/{key}/edit"));
        html! {
            p.crumbs { a href="/" { "Experiments" } @if let Some(key) = &self.key { " / " a href={ "/experiments/" (key) } { (key) } } }
            h1 { (title) }
            @if let Some(error) = &self.error { p.notice.bad role="alert" { (error) } }
            @if !self.violations.is_empty() {
                div.notice.bad role="alert" tabindex="-1" id="faults" {
                    p { "Not saved. Fix these errors:" }
                    ul { @for violation in &self.violations { li { a href={ "#f-" (field_name(&violation.field)) } { (field_label(&violation.field)) } ": " (in_form_words(&violation.message)) } } }
                }
            }
            @if let Some(preview) = &self.preview { (self.preview(preview)) }
            form.edit method="post" action=(action) novalidate {
                (hidden_fields(viewer))
                input type="hidden" name="etag" value=(self.etag);
                // The Enter key activates the first button, so the first button must change nothing.
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
                button name="do" value="preview" { "Preview changes" }
                button.primary name="do" value="save" { @if self.key.is_some() { "Save" } @else { "Create draft" } }
            }
        }
    }

    fn preview(&self, preview: &EditPreview) -> Markup {
        html! {
            section.preview aria-labelledby="preview" role="status" {
                h2 id="preview" { "Preview of changes" }
                @if preview.changed.is_empty() { p { "No changes." } }
                ul.plain.changes { @for field in &preview.changed { li {
                    code { (field.field) } ": "
                    @if field.from.is_empty() { "set to " } @else { del { (field.from) } " → " }
                    @if field.to.is_empty() { "nothing" } @else { ins { (field.to) } }
                } } }
                @if let Some(audience) = &preview.audience { (audience.render()) }
                @if let Some(allocation) = &preview.allocation { (allocation.render()) }
            }
        }
    }

    fn errors_at(&self, name: &str) -> Vec<String> {
        self.violations
            .iter()
            .filter(|violation| field_name(&violation.field) == name)
            .map(|violation| in_form_words(&violation.message))
            .collect()
    }

    /// The errors of a whole list or group. The list of all errors links here.
    fn group_errors(&self, group: &str) -> Markup {
        let errors = self.errors_at(group);
        html! {
            @if !errors.is_empty() {
                div id={ "f-" (group) } tabindex="-1" { @for error in errors { p.fault { (error) } } }
            }
        }
    }

    /// A field with its label, help and errors.
    fn field(&self, name: &str, label: &str, help: &str, control: impl Fn(&FieldControl<'_>) -> Markup) -> Markup {
        let errors = self.errors_at(name);
        let id = format!("f-{name}");
        let help_id = format!("a-{name}");
        let field = FieldControl {
            name,
            id: &id,
            help_id: &help_id,
            value: self.form.raw(name),
            is_invalid: !errors.is_empty(),
        };
        html! {
            div.field.wrong[!errors.is_empty()] {
                label for=(id) { (label) }
                (control(&field))
                p.help id=(help_id) {
                    @for error in &errors { strong.fault { (error) } " " }
                    (help)
                }
            }
        }
    }

    fn input(&self, name: &str, label: &str, help: &str) -> Markup {
        self.field(
            name,
            label,
            help,
            |field| if is_multiline(name) { field.text_area() } else { field.input(false, None) },
        )
    }

    fn event_input(&self, name: &str, label: &str, help: &str) -> Markup {
        self.field(name, label, help, |field| field.input(false, Some(EVENT_NAMES)))
    }

    fn fixed_input(&self, name: &str, label: &str, help: &str) -> Markup {
        let fixed = self.has_started;
        self.field(name, label, if fixed { "Cannot be changed after the start." } else { help }, |field| {
            field.input(fixed, None)
        })
    }

    fn choice(&self, name: &str, label: &str, help: &str, choices: &[(&str, &str)]) -> Markup {
        self.field(name, label, help, |field| field.select(choices))
    }

    fn basics(&self) -> Markup {
        html! {
            fieldset {
                legend { "Basics" }
                @if self.key.is_some() { input type="hidden" name="key" value=(self.form.text("key")); }
                @else { (self.input("key", "Key", "Lowercase letters, digits, dots and dashes, for example sales.checkout-button. Your code uses the key, so it cannot change later.")) }
                (self.input("description", "Description", "What you test, and why."))
                (self.input("owner", "Owner", "Person or team responsible for the experiment."))
                (self.input("tags", "Tags", "Separate tags with commas."))
                (self.choice("lifetime", "Lifetime", "A temporary flag is reported as stale when all units have had the same variation for two weeks.", &[("temporary", "temporary"), ("permanent", "permanent")]))
                (self.fixed_input("unit", "Unit", "The context attribute to randomise by, for example user or account. Leave empty for targetingKey."))
                (self.input("audience", "Audience", "CEL expression over the context, for example country in [\"fr\", \"de\"] && account.tier == \"internal\". A unit whose context lacks an attribute that the expression needs, or has null, is not in the audience. Preview changes to see how many recent contexts match. Leave empty for all units."))
                (self.fixed_input("salt", "Salt", "Generated if empty."))
            }
        }
    }

    fn variations(&self) -> Markup {
        // The variations of a running experiment stay; one blank row is for a new variation.
        let rows = (self.form.row_count("variations") + 1).max(2);
        let kinds = [("boolean", "boolean"), ("string", "text"), ("number", "number"), ("object", "JSON object")];
        html! {
            fieldset {
                legend { "Variations" }
                (self.group_errors("variations"))
                p.help { "The first variation is control. Blank rows are ignored. The initial share is a variation's traffic share at the start; leave it empty for the default of the policy. " @if self.has_started { "The existing variations are fixed. You can add one at the end; it takes its share from control." } }
                (self.choice("payload_kind", "Payload type", "The value that your code gets with a variation. All variations have the same type.", &kinds))
                @for i in 0..rows {
                    fieldset.row {
                        legend { @if i == 0 { "Control" } @else { "Variation " (i) } }
                        (self.input(&format!("variations.{i}.key"), "Key", ""))
                        (self.input(&format!("variations.{i}.payload"), "Payload", ""))
                        @if i > 0 { (self.input(&format!("variations.{i}.share"), "Initial share, %", "")) }
                        (self.input(&format!("variations.{i}.description"), "Description", ""))
                    }
                }
                button name="do" value="more-variations" { "Add row" }
            }
        }
    }

    fn metrics(&self) -> Markup {
        let rows = self.form.row_count("metrics") + 1;
        // The first metric is preselected as primary, also if the form comes back without metrics.
        let is_primary = |i: usize| rows == 1 || self.form.has_value(&format!("metrics.{i}.decision"));
        // Short labels: a drop-down in a row of fields would cut off longer ones.
        let kinds = [("conversion", "conversion"), ("count", "count"), ("mean", "mean"), ("ratio", "ratio")];
        html! {
            fieldset {
                legend { "Metrics" }
                (self.group_errors("metrics"))
                (event_name_list(&self.events))
                p.help { "Choose one primary metric. A guardrail is a metric that no variation may harm. Kinds of metric: conversion (whether the event happened), count (how often it happened), mean (sum of values per unit), ratio (values of one event divided by those of another)." }
                @for i in 0..rows {
                    fieldset.row {
                        legend { "Metric " (i + 1) }
                        (self.input(&format!("metrics.{i}.key"), "Key", ""))
                        (self.event_input(&format!("metrics.{i}.event"), "Event", "Name of the event that your code reports."))
                        (self.choice(&format!("metrics.{i}.kind"), "Kind", "", &kinds))
                        (self.input(&format!("metrics.{i}.window"), "Window", "How long outcomes count after a unit's first exposure, for example 7d or 36h."))
                        (self.choice(&format!("metrics.{i}.direction"), "Better if", "", &[("up", "higher"), ("down", "lower")]))
                        (self.input(&format!("metrics.{i}.cap"), "Cap", "For a mean: the largest value that one unit can add."))
                        (self.event_input(&format!("metrics.{i}.denominator"), "Divided by", "For a ratio: the event to divide by."))
                        (self.choice(&format!("metrics.{i}.guardrail"), "Guardrail", "", &[("", "no"), ("alert", "alert"), ("freeze", "stop growth"), ("kill", "kill the variation")]))
                        (self.input(&format!("metrics.{i}.margin"), "Margin, %", "Allowed degradation."))
                        div.field.tick {
                            label { input type="checkbox" name={ "metrics." (i) ".decision" } checked[is_primary(i)]; " Primary metric" }
                        }
                    }
                }
                button name="do" value="more-metrics" { "Add row" }
            }
        }
    }

    fn policy(&self) -> Markup {
        let rules = [
            ("", "default"),
            ("weighed", "weighed: expected gain against expected loss"),
            ("level", "level: probability to be best, squared"),
            ("chase", "chase: probability to be best"),
            ("top_two", "top two"),
            ("epsilon_greedy", "epsilon greedy"),
            ("fixed", "fixed: no growth"),
        ];
        html! {
            fieldset {
                legend { "Allocation policy" }
                (self.group_errors("policy"))
                (self.choice("policy.kind", "Policy", "", &[("thompson", "Automatic (Thompson sampling)"), ("manual", "Manual (feature flag)")]))
                (self.input("policy.floor", "Minimum control share (holdout), %", "Control always keeps at least this traffic share."))
                (self.fixed_input("policy.tick", "Update frequency", "How often the policy decides, and the reporting interval of results, for example 1d or 6h."))
                details {
                    summary { "More policy settings" }
                    (self.input("policy.burn_in", "Burn-in", "No growth before the experiment has run this long, for example 1d."))
                    (self.input("policy.burn_in_units", "Burn-in units", "No growth before each variation has this many units."))
                    (self.input("policy.burn_in_conversions", "Burn-in conversions", "No growth before each variation has this many conversions."))
                    (self.input("policy.daily_cap", "Daily cap, %", "Largest traffic share that can move in a day."))
                    (self.input("policy.kill_probability", "Kill probability, %", "A variation is killed when the probability that it is worse than control exceeds this."))
                    (self.input("policy.conclude_probability", "Conclude probability, %", "Growth may be faster while a variation's probability to be best reaches this. Proposals to ship do not depend on it: they need evidence beyond chance."))
                    (self.choice("policy.rule", "Rule", "How the target share is computed from the probability to be best.", &rules))
                    div.field.tick { label { input type="checkbox" name="policy.shadow" checked[self.form.has_value("policy.shadow")]; " Shadow mode: record decisions without applying them (guardrails still act)" } }
                }
            }
        }
    }

    fn overrides(&self) -> Markup {
        let rows = self.form.row_count("overrides") + 1;
        html! {
            fieldset {
                legend { "Always this variation" }
                (self.group_errors("overrides"))
                p.help { "Overrides give these units a fixed variation, for example QA, internal staff or early adopters. They are not counted in results." }
                @for i in 0..rows {
                    fieldset.row {
                        legend { "Override " (i + 1) }
                        (self.input(&format!("overrides.{i}.units"), "Unit keys", "One key per line."))
                        (self.input(&format!("overrides.{i}.when"), "Or CEL expression", "For example account.tier == \"internal\"."))
                        (self.input(&format!("overrides.{i}.variation"), "Variation", ""))
                    }
                }
            }
        }
    }
}

/// An input element that is linked to its label, help and errors.
#[derive(Clone, Copy)]
struct FieldControl<'a> {
    name: &'a str,
    id: &'a str,
    help_id: &'a str,
    value: &'a str,
    is_invalid: bool,
}

impl FieldControl<'_> {
    fn aria_invalid(&self) -> Option<&'static str> {
        self.is_invalid.then_some("true")
    }

    fn input(&self, fixed: bool, list: Option<&str>) -> Markup {
        html! { input id=(self.id) name=(self.name) value=(self.value) list=[list] readonly[fixed] aria-describedby=(self.help_id) aria-invalid=[self.aria_invalid()] autocomplete="off" spellcheck="false"; }
    }

    fn text_area(&self) -> Markup {
        // The style sheet lets it grow with its content; browsers that cannot do that use `rows`. HTML drops the first
        // line end of a text area, so one is added before the value.
        let lines = self.value.split('\n').count().clamp(1, 8);
        html! { textarea id=(self.id) name=(self.name) rows=(lines) spellcheck="false" aria-describedby=(self.help_id) aria-invalid=[self.aria_invalid()] { "\n" (self.value) } }
    }

    fn select(&self, choices: &[(&str, &str)]) -> Markup {
        html! {
            select id=(self.id) name=(self.name) aria-describedby=(self.help_id) aria-invalid=[self.aria_invalid()] {
                @for (value, label) in choices { option value=(value) selected[*value == self.value] { (label) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_path_becomes_a_field_name() {
        assert_eq!(field_name("variations[1].key"), "variations.1.key");
        assert_eq!(field_name("policy.tick"), "policy.tick");
        assert_eq!(field_name("overrides[0].units[2]"), "overrides.0.units.2");
    }

    #[test]
    fn errors_name_fields_by_their_labels() {
        let labels =
            ["metrics[0].window", "variations[0].payload", "variations[2].share", "policy.daily_cap", "metrics"];
        let labels = labels.map(field_label);
        let expected = ["Metric 1, Window", "Control, Payload", "Variation 2, Initial share"];
        assert_eq!(labels[..3], expected);
        assert_eq!(labels[3..], ["Allocation policy, Daily cap", "Metrics"]);
    }

    #[test]
    fn text_area_keeps_the_first_line_end_of_its_value() {
        let field = FieldControl { name: "n", id: "i", help_id: "a", value: "\n<b  ", is_invalid: false };
        let area = field.text_area().into_string();
        assert!(area.ends_with(">\n\n&lt;b  </textarea>") && area.contains("rows=\"2\""), "{area}");
    }
}
