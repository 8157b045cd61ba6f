//! Submitted forms, and experiment definitions as forms and back. A form keeps what the person typed until it is valid,
//! and every error names its field.

use std::collections::BTreeMap;

mod from_definition;
mod number;
mod to_definition;
mod units;

pub use number::{NumberError, parse_number};

/// Encodes a name or a value for the query of a URL.
#[must_use]
pub fn url_encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The fields of a form by name; if a name occurs twice, the last value counts. Rows are numbered: `variations.0.key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    fields: BTreeMap<String, String>,
}

/// The lists of an experiment, each with the columns that decide whether a row is blank.
const LISTS: [(&str, &[&str]); 3] =
    [("variations", &["key", "payload"]), ("overrides", &["units", "when"]), ("metrics", &["key", "event"])];
/// The policy settings that have a field, with the kind of their value.
const SETTINGS: [(&str, SettingKind); 9] = [
    ("tick", SettingKind::Duration),
    ("floor", SettingKind::Percent),
    ("burn_in", SettingKind::Duration),
    ("burn_in_units", SettingKind::Number),
    ("burn_in_conversions", SettingKind::Number),
    ("daily_cap", SettingKind::Percent),
    ("kill_probability", SettingKind::Percent),
    ("conclude_probability", SettingKind::Percent),
    ("rule", SettingKind::Text),
];

/// How the value of a policy setting is written in its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SettingKind {
    Text,
    Duration,
    Number,
    Percent,
}

impl Form {
    /// Reads an `application/x-www-form-urlencoded` body or query.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        // Browsers send every line end as CR LF.
        let normalised = |(name, value): (String, String)| (name, normalise_line_ends(&value));
        Self { fields: form_urlencoded::parse(body).into_owned().map(normalised).collect() }
    }

    /// All values with one name, in order, without blank ones.
    #[must_use]
    pub fn values(body: &[u8], name: &str) -> Vec<String> {
        let named = form_urlencoded::parse(body).filter(|(n, _)| n == name).map(|(_, value)| value.trim().to_owned());
        named.filter(|value| !value.is_empty()).collect()
    }

    /// The value of a field without surrounding white space; empty if the field is missing.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// The value of a field exactly as typed; empty if the field is missing.
    #[must_use]
    pub fn raw(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether a field has a value; for a checkbox, whether it is checked.
    #[must_use]
    pub fn has_value(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.fields.insert(name.into(), value.into());
    }

    /// The number of rows of a list, including blank ones.
    #[must_use]
    pub fn row_count(&self, list: &str) -> usize {
        let index =
            |name: &String| name.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
        self.fields.keys().filter_map(index).max().map_or(0, |last| last.saturating_add(1).min(256))
    }

    /// Removes blank rows and renumbers the others from 0, as in the resulting definition.
    #[must_use]
    pub fn without_blank_rows(&self) -> Self {
        let mut compact = Self::default();
        let in_list = |name: &str| LISTS.iter().any(|(list, _)| name.starts_with(&format!("{list}.")));
        compact
            .fields
            .extend(self.fields.iter().filter(|(name, _)| !in_list(name)).map(|(n, v)| (n.clone(), v.clone())));
        for (list, columns) in LISTS {
            let is_filled =
                |row: &usize| columns.iter().any(|column| self.has_value(&format!("{list}.{row}.{column}")));
            for (to, from) in (0..self.row_count(list)).filter(is_filled).enumerate() {
                let prefix = format!("{list}.{from}.");
                for (name, value) in self.fields.iter().filter(|(name, _)| name.starts_with(&prefix)) {
                    compact.set(format!("{list}.{to}.{}", &name[prefix.len()..]), value.clone());
                }
            }
        }
        compact
    }

    /// The rows of `sent` that are blank, added at the end, so that a form which is shown again has as many rows as before,
    /// with what was chosen in them. `self` is `sent` without blank rows. The last blank row is added by the page.
    #[must_use]
    pub fn with_blank_rows_of(mut self, sent: &Self) -> Self {
        for (list, columns) in LISTS {
            let is_blank =
                |row: &usize| !columns.iter().any(|column| sent.has_value(&format!("{list}.{row}.{column}")));
            let (filled, wanted) = (self.row_count(list), sent.row_count(list).saturating_sub(1));
            let blank = (0..sent.row_count(list)).filter(is_blank);
            for (to, from) in (filled..wanted).zip(blank) {
                let prefix = format!("{list}.{from}.");
                for (name, value) in sent.fields.iter().filter(|(name, _)| name.starts_with(&prefix)) {
                    self.set(format!("{list}.{to}.{}", &name[prefix.len()..]), value.clone());
                }
            }
        }
        self
    }

    /// The form of a new experiment, with the defaults that it needs.
    #[must_use]
    pub fn new_experiment() -> Self {
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
}

/// Changes a value as a text area does: HTML has one kind of line end and no NUL.
fn normalise_line_ends(value: &str) -> String {
    value.replace("\r\n", "\n").replace('\r', "\n").replace('\0', "\u{fffd}")
}

/// The value that a browser sends back if nobody edits the field.
fn sent_back(name: &str, value: &str) -> String {
    let value = normalise_line_ends(value);
    // Single-line fields drop line ends.
    if is_multiline(name) { value } else { value.replace('\n', "") }
}

/// Whether a field is a text area.
pub(crate) fn is_multiline(name: &str) -> bool {
    ["description", "audience"].contains(&name) || name.ends_with(".payload") || name.ends_with(".units")
}

#[cfg(test)]
mod tests;
