//! A form as a browser sends it, and an experiment as a form: what a person typed stays as they typed it until it is
//! right, and each fault is told at its field.

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::DefinitionDoc;
use inroad_assignment::definition::Violation;
use serde_json::{Map, Value, json};

mod units;

/// A name or a value as it stands in a query.
#[must_use]
pub fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Fields by name; of two with one name, the last counts. Rows are numbered: `variations.0.key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    fields: BTreeMap<String, String>,
}

/// The lists of an experiment, with the columns that say whether a row has been filled in.
const LISTS: [(&str, &[&str]); 3] =
    [("variations", &["key", "payload"]), ("overrides", &["units", "when"]), ("metrics", &["key", "event"])];
/// The settings of a policy that have a field of their own: name, and whether it is in per cent.
const SETTINGS: [(&str, Setting); 9] = [
    ("tick", Setting::Length),
    ("floor", Setting::Percent),
    ("burn_in", Setting::Length),
    ("burn_in_units", Setting::Number),
    ("burn_in_conversions", Setting::Number),
    ("daily_cap", Setting::Percent),
    ("kill_probability", Setting::Percent),
    ("conclude_probability", Setting::Percent),
    ("rule", Setting::Text),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Text,
    Length,
    Number,
    Percent,
}

impl Form {
    /// Reads `application/x-www-form-urlencoded`.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        // Browsers end every line with CR LF, whatever it ended with before.
        let one_line_end = |(name, value): (String, String)| (name, returned_by_area(&value));
        Self { fields: form_urlencoded::parse(body).into_owned().map(one_line_end).collect() }
    }

    /// Every value of one name, in order, blanks left out.
    #[must_use]
    pub fn all(body: &[u8], name: &str) -> Vec<String> {
        let named = form_urlencoded::parse(body).filter(|(n, _)| n == name).map(|(_, value)| value.trim().to_owned());
        named.filter(|value| !value.is_empty()).collect()
    }

    /// What was typed, without blanks around it; empty if the field is not there.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// What was typed, to the last blank; empty if the field is not there.
    #[must_use]
    pub fn raw(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether a box is ticked.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.fields.insert(name.into(), value.into());
    }

    /// How many rows a list has, blank ones included.
    #[must_use]
    pub fn rows(&self, list: &str) -> usize {
        let index =
            |name: &String| name.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
        self.fields.keys().filter_map(index).max().map_or(0, |last| last.saturating_add(1).min(256))
    }

    /// The same without blank rows: the first row there is is number 0, as in the document that comes of it.
    #[must_use]
    pub fn without_blank_rows(&self) -> Self {
        let mut kept = Self::default();
        let in_list = |name: &str| LISTS.iter().any(|(list, _)| name.starts_with(&format!("{list}.")));
        kept.fields.extend(self.fields.iter().filter(|(name, _)| !in_list(name)).map(|(n, v)| (n.clone(), v.clone())));
        for (list, telling) in LISTS {
            let told = |row: &usize| telling.iter().any(|column| self.is_on(&format!("{list}.{row}.{column}")));
            for (to, from) in (0..self.rows(list)).filter(told).enumerate() {
                let prefix = format!("{list}.{from}.");
                for (name, value) in self.fields.iter().filter(|(name, _)| name.starts_with(&prefix)) {
                    kept.set(format!("{list}.{to}.{}", &name[prefix.len()..]), value.clone());
                }
            }
        }
        kept
    }

    /// A new experiment, with the least that it needs.
    #[must_use]
    pub fn blank() -> Self {
        let mut form = Self::default();
        for (name, value) in [
            ("lifetime", "temporary"),
            ("policy.kind", "thompson"),
            ("payload_kind", "boolean"),
            ("variations.0.key", "control"),
            ("variations.0.payload", "false"),
            ("variations.1.payload", "true"),
            ("metrics.0.kind", "conversion"),
            ("metrics.0.window", "7d"),
            ("metrics.0.direction", "up"),
            ("metrics.0.decision", "on"),
        ] {
            form.set(name, value);
        }
        form
    }

    /// An experiment as a form.
    #[must_use]
    pub fn of(document: &DefinitionDoc) -> Self {
        let mut form = Self::default();
        // A document that came out of a definition can always be written.
        let value = serde_json::to_value(document).unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for name in ["key", "description", "owner", "lifetime", "unit", "audience", "salt"] {
            if let Some(value) = value.get(name) {
                form.set(name, text(value));
            }
        }
        form.set("tags", document.tags.join(", "));
        for (i, row) in rows_of(&value, "variations") {
            let payload = row.get("payload").cloned().unwrap_or_default();
            // All payloads are of one type, which is control's.
            if i == 0 {
                form.set("payload_kind", kind_of(&payload));
            }
            form.set(format!("variations.{i}.payload"), text(&payload));
            for column in ["key", "description"] {
                form.set(format!("variations.{i}.{column}"), row.get(column).map(text).unwrap_or_default());
            }
            if let Some(share) = row.get("share").and_then(Value::as_f64) {
                form.set(format!("variations.{i}.share"), percent(share));
            }
        }
        for (i, row) in rows_of(&value, "overrides") {
            let units = row.get("units").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            form.set(format!("overrides.{i}.units"), units::written(units));
            for column in ["when", "variation"] {
                form.set(format!("overrides.{i}.{column}"), row.get(column).map(text).unwrap_or_default());
            }
        }
        for (i, row) in rows_of(&value, "metrics") {
            for column in ["key", "event", "kind", "cap", "denominator", "window", "direction"] {
                let written = row.get(column).map(text).unwrap_or_default();
                form.set(format!("metrics.{i}.{column}"), if column == "window" { length(&written) } else { written });
            }
            if row.get("decision") == Some(&Value::Bool(true)) {
                form.set(format!("metrics.{i}.decision"), "on");
            }
            if let Some(guardrail) = row.get("guardrail") {
                form.set(format!("metrics.{i}.guardrail"), guardrail.get("action").map(text).unwrap_or_default());
                let margin = guardrail.get("margin").and_then(Value::as_f64).unwrap_or_default();
                form.set(format!("metrics.{i}.margin"), percent(margin));
            }
        }
        let policy = value.get("policy").cloned().unwrap_or_default();
        form.set("policy.kind", policy.get("kind").map(text).unwrap_or_default());
        for (name, kind) in SETTINGS {
            let Some(value) = policy.get(name) else { continue };
            let shown = match kind {
                Setting::Percent => percent(value.as_f64().unwrap_or_default()),
                Setting::Length => length(&text(value)),
                Setting::Text | Setting::Number => text(value),
            };
            form.set(format!("policy.{name}"), shown);
        }
        if policy.get("shadow") == Some(&Value::Bool(true)) {
            form.set("policy.shadow", "on");
        }
        form
    }

    /// The experiment that the form describes. What has no field here (a clock, rarer settings) is taken from `base`, and
    /// so is what nobody touched: a field cannot carry everything that may be stored (line ends of another kind, all the
    /// digits of a share). Call it on a form without blank rows, or the faults name other rows than a person sees.
    pub fn document(&self, base: Option<&DefinitionDoc>) -> Result<DefinitionDoc, Vec<Violation>> {
        let shown = base.map(Self::of).unwrap_or_default();
        let base = base.and_then(|document| serde_json::to_value(document).ok()).unwrap_or_else(|| json!({}));
        let mut reading = Reading { form: self, shown, base: &base, faults: Vec::new() };
        let mut document = Map::new();
        if let Some(clock) = base.get("clock") {
            document.insert("clock".to_owned(), clock.clone());
        }
        for name in ["key", "description", "owner", "lifetime", "unit", "audience", "salt"] {
            match base.get(name).filter(|_| reading.is_untouched(name, name)) {
                Some(kept) => drop(document.insert(name.to_owned(), kept.clone())),
                None if self.is_on(name) => drop(document.insert(name.to_owned(), json!(self.text(name)))),
                None => {}
            }
        }
        document.entry("key").or_insert_with(|| json!(""));
        let tags: BTreeSet<&str> = self.text("tags").split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
        let kept = base.get("tags").filter(|_| reading.is_untouched("tags", "tags"));
        document.insert("tags".to_owned(), kept.cloned().unwrap_or_else(|| json!(tags)));
        document.insert("policy".to_owned(), reading.policy());
        let rows = |list: &str| 0..self.rows(list);
        let variations: Vec<Value> = rows("variations").map(|i| reading.variation(i)).collect();
        let overrides: Vec<Value> = rows("overrides").map(|i| reading.pinned(i)).collect();
        let metrics: Vec<Value> = rows("metrics").map(|i| reading.metric(i)).collect();
        for (list, rows) in [("variations", variations), ("overrides", overrides), ("metrics", metrics)] {
            document.insert(list.to_owned(), Value::Array(rows));
        }
        if !reading.faults.is_empty() {
            return Err(reading.faults);
        }
        serde_json::from_value(Value::Object(document))
            .map_err(|error| vec![Violation { field: String::new(), message: error.to_string() }])
    }
}

fn rows_of<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value.get(list).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn kind_of(payload: &Value) -> &'static str {
    match payload {
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::Object(_) => "object",
        _ => "string",
    }
}

/// A length of time as people type it, and as the fields' help has it: `7d`.
fn length(written: &str) -> String {
    written.replace("days", "d").replace("day", "d")
}

/// A share as people type it.
fn percent(share: f64) -> String {
    // Enough digits for any share that is worth typing, and none of the noise behind them.
    let text = format!("{:.9}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a text area makes of a value: it knows one end of a line only, and HTML has no NUL.
fn returned_by_area(value: &str) -> String {
    value.replace("\r\n", "\n").replace('\r', "\n").replace('\0', "\u{fffd}")
}

/// What a browser sends back of a value that it was given, if nobody touches it.
fn returned(name: &str, value: &str) -> String {
    let value = returned_by_area(value);
    // A field of one line drops the ends of lines.
    if is_area(name) { value } else { value.replace('\n', "") }
}

/// Whether a field has room for more than one line.
pub(crate) fn is_area(name: &str) -> bool {
    ["description", "audience"].contains(&name) || name.ends_with(".payload") || name.ends_with(".units")
}

struct Reading<'a> {
    form: &'a Form,
    /// The form of what is stored.
    shown: Form,
    /// What is stored.
    base: &'a Value,
    faults: Vec<Violation>,
}

impl Reading<'_> {
    /// Whether a field is as it was shown, under the name that it was shown by.
    fn is_untouched(&self, name: &str, shown: &str) -> bool {
        match (self.form.fields.get(name), self.shown.fields.get(shown)) {
            (Some(typed), Some(shown)) => *typed == returned(name, shown),
            _ => false,
        }
    }

    /// Which stored row a row is; rows move up where others were left blank.
    fn stored_row(&self, list: &str, row: usize) -> usize {
        let telling = if list == "overrides" { "when" } else { "key" };
        let is_it =
            |other: &usize| self.is_untouched(&format!("{list}.{row}.{telling}"), &format!("{list}.{other}.{telling}"));
        std::iter::once(row).chain(0..self.shown.rows(list)).find(is_it).unwrap_or(row)
    }

    /// What is stored where nobody touched a row's field; `path` leads there from the stored row.
    fn kept(&self, list: &str, row: usize, column: &str, path: &str) -> Option<Value> {
        let stored = self.stored_row(list, row);
        let untouched = self.is_untouched(&format!("{list}.{row}.{column}"), &format!("{list}.{stored}.{column}"));
        self.base.get(list)?.get(stored)?.pointer(path).filter(|_| untouched).cloned()
    }

    fn fault(&mut self, field: String, message: impl Into<String>) -> Value {
        self.faults.push(Violation { field, message: message.into() });
        Value::Null
    }

    fn number(&mut self, field: String, text: &str) -> Value {
        match parse_number(text) {
            Ok(number) if number.fract() == 0.0 && number.abs() < 9e15 => json!(number as i64),
            Ok(number) => json!(number),
            Err(error) => self.fault(field, error.told("write a number, such as 12.5")),
        }
    }

    fn percent(&mut self, field: String, text: &str) -> Value {
        match parse_number(text.trim_end_matches('%')) {
            Ok(number) => json!(number / 100.0),
            Err(error) => self.fault(field, error.told("write per cent, such as 12.5")),
        }
    }

    fn variation(&mut self, row: usize) -> Value {
        let text = |column: &str| self.form.text(&format!("variations.{row}.{column}")).to_owned();
        let (key, payload, description, share) = (text("key"), text("payload"), text("description"), text("share"));
        let field = format!("variations[{row}].payload");
        let same_kind = self.is_untouched("payload_kind", "payload_kind");
        let kept = self.kept("variations", row, "payload", "/payload").filter(|_| same_kind);
        let payload = match self.form.text("payload_kind") {
            _ if kept.is_some() => kept.unwrap_or_default(),
            "boolean" => match payload.as_str() {
                "true" => json!(true),
                "false" => json!(false),
                _ => self.fault(field, "a boolean is true or false"),
            },
            "number" => self.number(field, &payload),
            "object" => match serde_json::from_str::<Value>(&payload) {
                Ok(value @ Value::Object(_)) => value,
                Ok(_) => self.fault(field, "this is JSON, but no object: write it like {\"color\": \"green\"}"),
                Err(error) => self
                    .fault(field, format!("this is no JSON object ({error}): write it like {{\"color\": \"green\"}}")),
            },
            // Text is what it is, blanks and ends of lines included.
            _ => json!(self.form.raw(&format!("variations.{row}.payload"))),
        };
        let description =
            self.kept("variations", row, "description", "/description").unwrap_or_else(|| json!(description));
        let mut variation = json!({"key": key, "payload": payload, "description": description});
        if row > 0 && !share.is_empty() {
            let kept = self.kept("variations", row, "share", "/share");
            variation["share"] = kept.unwrap_or_else(|| self.percent(format!("variations[{row}].share"), &share));
        }
        variation
    }

    fn pinned(&mut self, row: usize) -> Value {
        let text = |column: &str| self.form.text(&format!("overrides.{row}.{column}"));
        let mut pinned = json!({"variation": text("variation")});
        if !text("when").is_empty() {
            let kept = self.kept("overrides", row, "when", "/when");
            pinned["when"] = kept.unwrap_or_else(|| json!(text("when")));
        }
        match units::read(self.form.raw(&format!("overrides.{row}.units"))) {
            Ok(units) if units.is_empty() => {}
            Ok(units) => pinned["units"] = json!(units),
            Err(message) => drop(self.fault(format!("overrides[{row}].units"), message)),
        }
        pinned
    }

    fn metric(&mut self, row: usize) -> Value {
        let text = |column: &str| self.form.text(&format!("metrics.{row}.{column}")).to_owned();
        let mut metric = json!({"key": text("key"), "event": text("event"), "decision": !text("decision").is_empty()});
        for column in ["kind", "window", "direction"] {
            if !text(column).is_empty() {
                let kept = self.kept("metrics", row, column, &format!("/{column}"));
                metric[column] = kept.unwrap_or_else(|| json!(text(column)));
            }
        }
        if text("kind") == "mean" && !text("cap").is_empty() {
            let kept = self.kept("metrics", row, "cap", "/cap");
            metric["cap"] = kept.unwrap_or_else(|| self.number(format!("metrics[{row}].cap"), &text("cap")));
        }
        if text("kind") == "ratio" {
            metric["denominator"] = json!(text("denominator"));
        }
        if !text("guardrail").is_empty() {
            let margin = match self.kept("metrics", row, "margin", "/guardrail/margin") {
                Some(kept) => kept,
                None if text("margin").is_empty() => json!(0.0),
                None => self.percent(format!("metrics[{row}].margin"), &text("margin")),
            };
            metric["guardrail"] = json!({"action": text("guardrail"), "margin": margin});
        }
        // Alone, so that what does not read is told at its row.
        let faulty = self.faults.iter().any(|fault| fault.field.starts_with(&format!("metrics[{row}].")));
        if let (false, Err(error)) =
            (faulty, serde_json::from_value::<inroad_assignment::document::MetricDoc>(metric.clone()))
        {
            let column = if error.to_string().contains("duration") { "window" } else { "key" };
            return self.fault(format!("metrics[{row}].{column}"), error.to_string());
        }
        metric
    }

    fn policy(&mut self) -> Value {
        let kind = match self.form.text("policy.kind") {
            "" => "manual",
            kind => kind,
        };
        let stored = self.base.get("policy");
        let known = stored.filter(|policy| policy.get("kind").and_then(Value::as_str) == Some(kind));
        let mut policy = known.cloned().unwrap_or_else(|| json!({ "kind": kind }));
        let manual = kind == "manual";
        for (name, setting) in SETTINGS.into_iter().filter(|(name, _)| !manual || ["tick", "floor"].contains(name)) {
            let field = format!("policy.{name}");
            let text = self.form.text(&field).to_owned();
            let kept = known.is_some() && self.is_untouched(&field, &field);
            if text.is_empty() || kept {
                continue;
            }
            policy[name] = match setting {
                Setting::Text | Setting::Length => json!(text),
                Setting::Number => self.number(field.clone(), &text),
                Setting::Percent => self.percent(field.clone(), &text),
            };
            // Alone, so that what does not read is told at its field.
            let alone = json!({"kind": kind, name: policy[name]});
            let read = serde_json::from_value::<inroad_assignment::document::PolicyDoc>(alone);
            if let (false, Err(error)) = (policy[name].is_null(), read) {
                self.fault(field, error.to_string());
            }
        }
        if !manual {
            policy["shadow"] = json!(self.form.is_on("policy.shadow"));
        }
        policy
    }
}

/// Why what was typed is no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoNumber {
    /// It may mean two numbers; both are told.
    Ambiguous(String),
    /// It means none.
    Unreadable,
}

impl NoNumber {
    /// What to tell whoever typed it; `otherwise` where there is nothing better to say.
    #[must_use]
    pub fn told(self, otherwise: &str) -> String {
        match self {
            Self::Ambiguous(told) => told,
            Self::Unreadable => otherwise.to_owned(),
        }
    }
}

/// A number as people type it, with a point or a comma. In half of the world `1,000` is a thousand and in the other half
/// it is one, so that nobody may guess; after a zero a comma can only be a decimal one.
pub fn parse_number(text: &str) -> Result<f64, NoNumber> {
    let text = text.trim();
    let written = match text.split_once(',') {
        None => text.to_owned(),
        Some((_, after)) if after.contains(['.', ',']) => return Err(NoNumber::Unreadable),
        Some((before, _)) if before.contains('.') => return Err(NoNumber::Unreadable),
        Some((before, after)) => {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let whole = before.trim_start_matches(['-', '+']);
            if digits == 3 && whole.bytes().any(|digit| digit != b'0') {
                let short = after.trim_end_matches('0');
                let part = if short.is_empty() { "0" } else { short };
                return Err(NoNumber::Ambiguous(format!(
                    "{text} may mean two numbers: write {before}{after} or {before}.{part}"
                )));
            }
            format!("{before}.{after}")
        }
    };
    written.parse().ok().filter(|number: &f64| number.is_finite()).ok_or(NoNumber::Unreadable)
}

#[cfg(test)]
mod tests;
