//! Reads an experiment definition from the form.

use std::collections::BTreeSet;

use inroad_assignment::DefinitionDoc;
use inroad_assignment::definition::Violation;
use inroad_assignment::document::{MetricDoc, PolicyDoc};
use serde_json::{Map, Value, json};

use super::{Form, SETTINGS, SettingKind, parse_number, sent_back, units};

impl Form {
    /// The definition that the form describes. Settings without a field (the clock, rarer policy settings) come from
    /// `base`, and so do the values of fields that nobody edited: a field cannot represent every stored value exactly
    /// (other line ends, all digits of a share). Call this on a form without blank rows, so that errors name the rows
    /// that people see.
    ///
    /// # Errors
    /// One violation for each field that cannot be read.
    pub fn to_definition(&self, base: Option<&DefinitionDoc>) -> Result<DefinitionDoc, Vec<Violation>> {
        let shown = base.map(Self::from_definition).unwrap_or_default();
        let base = base.and_then(|document| serde_json::to_value(document).ok()).unwrap_or_else(|| json!({}));
        let mut reader = DefinitionReader { form: self, shown, base: &base, violations: Vec::new() };
        let mut document = Map::new();
        if let Some(clock) = base.get("clock") {
            document.insert("clock".to_owned(), clock.clone());
        }
        for name in ["key", "description", "owner", "lifetime", "unit", "audience", "salt"] {
            match base.get(name).filter(|_| reader.is_unedited(name, name)) {
                Some(stored) => drop(document.insert(name.to_owned(), stored.clone())),
                None if self.has_value(name) => drop(document.insert(name.to_owned(), json!(self.text(name)))),
                None => {}
            }
        }
        document.entry("key").or_insert_with(|| json!(""));
        let tags: BTreeSet<&str> = self.text("tags").split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
        let stored = base.get("tags").filter(|_| reader.is_unedited("tags", "tags"));
        document.insert("tags".to_owned(), stored.cloned().unwrap_or_else(|| json!(tags)));
        document.insert("policy".to_owned(), reader.policy());
        let rows = |list: &str| 0..self.row_count(list);
        let variations: Vec<Value> = rows("variations").map(|i| reader.variation(i)).collect();
        let overrides: Vec<Value> = rows("overrides").map(|i| reader.override_rule(i)).collect();
        let metrics: Vec<Value> = rows("metrics").map(|i| reader.metric(i)).collect();
        for (list, rows) in [("variations", variations), ("overrides", overrides), ("metrics", metrics)] {
            document.insert(list.to_owned(), Value::Array(rows));
        }
        if !reader.violations.is_empty() {
            return Err(reader.violations);
        }
        serde_json::from_value(Value::Object(document))
            .map_err(|error| vec![Violation { field: String::new(), message: error.to_string() }])
    }
}

/// Reads the form field by field and collects the errors.
struct DefinitionReader<'a> {
    form: &'a Form,
    /// The form of the stored definition, as it was shown.
    shown: Form,
    /// The stored definition.
    base: &'a Value,
    violations: Vec<Violation>,
}

impl DefinitionReader<'_> {
    /// Whether nobody edited a field; `shown` is its name in the form that was shown.
    fn is_unedited(&self, name: &str, shown: &str) -> bool {
        match (self.form.fields.get(name), self.shown.fields.get(shown)) {
            (Some(typed), Some(shown)) => *typed == sent_back(name, shown),
            _ => false,
        }
    }

    /// The stored row of a form row; rows move up when rows before them are removed.
    fn stored_row(&self, list: &str, row: usize) -> usize {
        let id_column = if list == "overrides" { "when" } else { "key" };
        let is_same = |other: &usize| {
            self.is_unedited(&format!("{list}.{row}.{id_column}"), &format!("{list}.{other}.{id_column}"))
        };
        std::iter::once(row).chain(0..self.shown.row_count(list)).find(is_same).unwrap_or(row)
    }

    /// The stored value of a row's field if nobody edited it; `path` is the JSON pointer within the stored row.
    fn unedited_value(&self, list: &str, row: usize, column: &str, path: &str) -> Option<Value> {
        let stored = self.stored_row(list, row);
        let is_unedited = self.is_unedited(&format!("{list}.{row}.{column}"), &format!("{list}.{stored}.{column}"));
        self.base.get(list)?.get(stored)?.pointer(path).filter(|_| is_unedited).cloned()
    }

    fn violation(&mut self, field: String, message: impl Into<String>) -> Value {
        self.violations.push(Violation { field, message: message.into() });
        Value::Null
    }

    fn number(&mut self, field: String, text: &str) -> Value {
        match parse_number(text) {
            Ok(number) if number.fract() == 0.0 && number.abs() < 9e15 => json!(number as i64),
            Ok(number) => json!(number),
            Err(error) => self.violation(field, error.message_or("This is not a number. Enter a number such as 12.5.")),
        }
    }

    fn percent(&mut self, field: String, text: &str) -> Value {
        match parse_number(text.trim_end_matches('%')) {
            Ok(number) => json!(number / 100.0),
            Err(error) => {
                self.violation(field, error.message_or("This is not a percentage. Enter a number such as 12.5."))
            }
        }
    }

    fn variation(&mut self, row: usize) -> Value {
        let text = |column: &str| self.form.text(&format!("variations.{row}.{column}")).to_owned();
        let (key, payload, description, share) = (text("key"), text("payload"), text("description"), text("share"));
        let field = format!("variations[{row}].payload");
        let same_kind = self.is_unedited("payload_kind", "payload_kind");
        let stored = self.unedited_value("variations", row, "payload", "/payload").filter(|_| same_kind);
        let payload = match self.form.text("payload_kind") {
            _ if stored.is_some() => stored.unwrap_or_default(),
            "boolean" => match payload.as_str() {
                "true" => json!(true),
                "false" => json!(false),
                _ => self.violation(field, "A boolean payload is true or false."),
            },
            "number" => self.number(field, &payload),
            "object" => match serde_json::from_str::<Value>(&payload) {
                Ok(value @ Value::Object(_)) => value,
                Ok(_) => self.violation(
                    field,
                    "This is JSON but not an object. Enter an object such as {\"color\": \"green\"}.",
                ),
                Err(error) => self.violation(
                    field,
                    format!("This is not valid JSON ({error}). Enter an object such as {{\"color\": \"green\"}}."),
                ),
            },
            // Text is stored exactly as typed, including white space and line ends.
            _ => json!(self.form.raw(&format!("variations.{row}.payload"))),
        };
        let description =
            self.unedited_value("variations", row, "description", "/description").unwrap_or_else(|| json!(description));
        let mut variation = json!({"key": key, "payload": payload, "description": description});
        if row > 0 && !share.is_empty() {
            let stored = self.unedited_value("variations", row, "share", "/share");
            variation["share"] = stored.unwrap_or_else(|| self.percent(format!("variations[{row}].share"), &share));
        }
        variation
    }

    fn override_rule(&mut self, row: usize) -> Value {
        let text = |column: &str| self.form.text(&format!("overrides.{row}.{column}"));
        let mut rule = json!({"variation": text("variation")});
        if !text("when").is_empty() {
            let stored = self.unedited_value("overrides", row, "when", "/when");
            rule["when"] = stored.unwrap_or_else(|| json!(text("when")));
        }
        match units::from_lines(self.form.raw(&format!("overrides.{row}.units"))) {
            Ok(units) if units.is_empty() => {}
            Ok(units) => rule["units"] = json!(units),
            Err(message) => drop(self.violation(format!("overrides[{row}].units"), message)),
        }
        rule
    }

    fn metric(&mut self, row: usize) -> Value {
        let text = |column: &str| self.form.text(&format!("metrics.{row}.{column}")).to_owned();
        let mut metric = json!({"key": text("key"), "event": text("event"), "decision": !text("decision").is_empty()});
        for column in ["kind", "window", "direction"] {
            if !text(column).is_empty() {
                let stored = self.unedited_value("metrics", row, column, &format!("/{column}"));
                metric[column] = stored.unwrap_or_else(|| json!(text(column)));
            }
        }
        if text("kind") == "mean" && !text("cap").is_empty() {
            let stored = self.unedited_value("metrics", row, "cap", "/cap");
            metric["cap"] = stored.unwrap_or_else(|| self.number(format!("metrics[{row}].cap"), &text("cap")));
        }
        if text("kind") == "ratio" {
            metric["denominator"] = json!(text("denominator"));
        }
        if !text("guardrail").is_empty() {
            let margin = match self.unedited_value("metrics", row, "margin", "/guardrail/margin") {
                Some(stored) => stored,
                None if text("margin").is_empty() => json!(0.0),
                None => self.percent(format!("metrics[{row}].margin"), &text("margin")),
            };
            metric["guardrail"] = json!({"action": text("guardrail"), "margin": margin});
        }
        // Each metric is checked on its own, so that its error can name its row.
        let is_invalid =
            self.violations.iter().any(|violation| violation.field.starts_with(&format!("metrics[{row}].")));
        if let (false, Err(error)) = (is_invalid, serde_json::from_value::<MetricDoc>(metric.clone())) {
            let column = if error.to_string().contains("duration") { "window" } else { "key" };
            return self.violation(format!("metrics[{row}].{column}"), error.to_string());
        }
        metric
    }

    fn policy(&mut self) -> Value {
        let kind = match self.form.text("policy.kind") {
            "" => "manual",
            kind => kind,
        };
        let stored = self.base.get("policy");
        let same_kind = stored.filter(|policy| policy.get("kind").and_then(Value::as_str) == Some(kind));
        let mut policy = same_kind.cloned().unwrap_or_else(|| json!({ "kind": kind }));
        let is_manual = kind == "manual";
        for (name, setting) in SETTINGS.into_iter().filter(|(name, _)| !is_manual || ["tick", "floor"].contains(name)) {
            let field = format!("policy.{name}");
            let text = self.form.text(&field).to_owned();
            let keeps_stored = same_kind.is_some() && self.is_unedited(&field, &field);
            if text.is_empty() || keeps_stored {
                continue;
            }
            policy[name] = match setting {
                SettingKind::Text | SettingKind::Duration => json!(text),
                SettingKind::Number => self.number(field.clone(), &text),
                SettingKind::Percent => self.percent(field.clone(), &text),
            };
            // Each setting is checked on its own, so that its error can name its field.
            let alone = json!({"kind": kind, name: policy[name]});
            let parsed = serde_json::from_value::<PolicyDoc>(alone);
            if let (false, Err(error)) = (policy[name].is_null(), parsed) {
                self.violation(field, error.to_string());
            }
        }
        if !is_manual {
            policy["shadow"] = json!(self.form.has_value("policy.shadow"));
        }
        policy
    }
}
