//! Parsers for the values on the command line: shares, times, attributes and units. They check each value once, so that no
//! other module has to.

use std::path::Path;
use std::time::Duration;

use inroad_assignment::{Point, TARGETING_KEY, Timestamp, UnitKey};
use serde_json::{Map, Value};

/// A traffic share: `30%`, or `0.3`.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|_| format!("{text:?} is not a share. Use the form 30% or 0.3."))?;
    if (0.0..=scale).contains(&value) {
        return Ok(value / scale);
    }
    let hint = if scale == 1.0 && (1.0..=100.0).contains(&value) {
        format!(": did you mean {value}%?")
    } else {
        String::new()
    };
    Err(format!("{text:?} is not between 0% and 100%{hint}"))
}

/// A growth factor: `2` or `1.5x`.
pub(crate) fn times(text: &str) -> Result<f64, String> {
    match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
        Ok(times) if times > 1.0 && times.is_finite() => Ok(times),
        Ok(_) => Err(format!("{text:?} is not more than 1. Variations only grow; to stop serving one, kill it.")),
        Err(_) => Err(format!("{text:?} is not a number. Use the form 2 or 1.5.")),
    }
}

/// A duration that is longer than zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    let parsed = duration(text)?;
    if parsed.is_zero() { Err("the duration is zero. Use a longer one, such as 60s.".to_owned()) } else { Ok(parsed) }
}

/// A duration: `90s`, `36h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{text:?} is not a duration ({e}). Use the form 90s, 36h or 7d."))
}

/// A whole number from 1.
pub(crate) fn positive_count(text: &str) -> Result<usize, String> {
    let parsed = text.parse::<usize>().ok().filter(|count| *count > 0);
    parsed.ok_or_else(|| format!("{text:?} is not a number from 1"))
}

/// A time as RFC 3339, or a date, which is its first instant in UTC.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    let from_date =
        || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp());
    let parsed = text.parse::<jiff::Timestamp>().ok().or_else(from_date);
    parsed
        .map(|at| Timestamp::from_micros(at.as_microsecond()))
        .ok_or_else(|| format!("{text:?} is not a time. Use the form 2026-01-31T09:00:00Z or 2026-01-31."))
}

/// A server's address; `http://` is optional.
pub(crate) fn server(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri = url.parse::<tonic::transport::Uri>().map_err(|e| format!("{text:?} is not an address ({e})."))?;
    // Without this, a port that is not a number would silently be port 80.
    let has_wrong_port =
        uri.port_u16().is_none() && uri.authority().is_some_and(|all| Some(all.as_str()) != uri.host());
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) if !has_wrong_port => Ok(url),
        (Some("https"), _) => Err("https is not supported yet. Use http:// on a network that you trust.".to_owned()),
        _ => Err(format!("{text:?} is not an address. Use the form http://127.0.0.1:7070.")),
    }
}

/// A unit key with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitRef {
    /// The context attribute that contains the key.
    pub(crate) kind: String,
    /// The key.
    pub(crate) key: String,
}

/// `user=alice`, or `alice` for the targeting key. The text before the first `=` is the type; write `targetingKey=…` for a
/// key that contains a `=`.
pub(crate) fn unit(text: &str) -> Result<UnitRef, String> {
    let (kind, key) = text.split_once('=').unwrap_or((TARGETING_KEY, text));
    if kind.is_empty() {
        return Err(format!("{text:?} has no type before the '='. Use the form user=alice."));
    }
    UnitKey::parse(key).map_err(|e| e.to_string())?;
    Ok(UnitRef { kind: kind.to_owned(), key: key.to_owned() })
}

/// The key of a variation. An empty one, such as an unset variable of a shell, would mean the whole experiment to the server.
pub(crate) fn variation(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the key is empty. Give the key of a variation, such as green.".to_owned());
    }
    Ok(text.to_owned())
}

/// A unit key without a type.
pub(crate) fn unit_key(text: &str) -> Result<String, String> {
    UnitKey::parse(text).map(|unit| unit.as_str().to_owned()).map_err(|e| e.to_string())
}

/// The most levels of a context: a message that contains more cannot be read by the server.
const MAX_CONTEXT_LEVELS: usize = 24;

/// Refuses values with too many levels.
pub(crate) fn check_levels<'a>(values: impl IntoIterator<Item = &'a Value>, outside: usize) -> Result<(), String> {
    fn levels(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or(0),
            _ => 0,
        }
    }
    let deepest = outside + values.into_iter().map(levels).max().unwrap_or(0);
    if deepest <= MAX_CONTEXT_LEVELS {
        return Ok(());
    }
    Err(format!("the context has {deepest} levels. Use at most {MAX_CONTEXT_LEVELS}."))
}

/// A context attribute: a dotted path and a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attribute {
    /// The names from the outermost to the innermost; at least one.
    path: Vec<String>,
    value: Value,
}

/// `account.tier=internal`, `seats=25`, `beta=true`, `tags=["a","b"]`. A number in quotes is text: `id="7"`.
pub(crate) fn attribute(text: &str) -> Result<Attribute, String> {
    let error = || format!("{text:?} is not an attribute. Use the form account.tier=internal.");
    let (path, value) = text.split_once('=').ok_or_else(error)?;
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(error());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    check_levels([&value], path.len())?;
    Ok(Attribute { path, value })
}

/// A JSON object.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, String> {
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|e| format!("not a JSON object ({e}). Use the form '{{\"targetingKey\": \"alice\"}}'."))?;
    check_levels(object.values(), 1)?;
    Ok(object)
}

impl Attribute {
    /// A text attribute at a dotted path.
    pub(crate) fn from_text(path: &str, value: &str) -> Self {
        Self { path: path.split('.').map(str::to_owned).collect(), value: Value::String(value.to_owned()) }
    }

    /// Whether inserting the attribute would remove an object, with its attributes, from the context.
    pub(crate) fn would_replace_object(&self, context: &Map<String, Value>) -> bool {
        let Some((first, rest)) = self.path.split_first() else { return false };
        let found = rest.iter().try_fold(context.get(first), |at, name| Some(at?.get(name)));
        matches!(found, Some(Some(Value::Object(_))))
    }

    /// Inserts the attribute into a context. Creates the objects on its path, and replaces values on the path that are not
    /// objects.
    pub(crate) fn insert_into(&self, context: &mut Map<String, Value>) {
        let Some((last, parents)) = self.path.split_last() else { return };
        let mut at = context;
        for name in parents {
            let next = at.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            let Value::Object(fields) = next else { return };
            at = fields;
        }
        at.insert(last.clone(), self.value.clone());
    }
}

/// Adds attributes to a context.
pub(crate) fn with_attributes(mut context: Map<String, Value>, attributes: &[Attribute]) -> Map<String, Value> {
    attributes.iter().for_each(|attribute| attribute.insert_into(&mut context));
    context
}

/// A label as a key: in lower case, with other characters replaced by single dashes. Empty if nothing is left.
pub(crate) fn slug(label: &str) -> String {
    let mut slug = String::with_capacity(label.len());
    for c in label.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            '.' | '_' if !slug.is_empty() => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.truncate(128);
    slug.trim_end_matches('-').to_owned()
}

/// A point as 16 hex digits, the form used outside the wire format.
pub(crate) fn point(number: u64) -> String {
    Point::new(number).to_string()
}

/// A setting `KEY=VALUE`. The value is TOML, or else text, so that durations need no quotes.
pub(crate) fn setting(text: &str) -> Result<(String, toml::Value), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not a setting. Use the form floor=0.1."))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() {
        return Err(format!("{text:?} is not a setting. Use the form floor=0.1."));
    }
    let read = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let read = read.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    Ok((key.to_owned(), read.unwrap_or_else(|| value.into())))
}

/// Whether a file has the extension of Parquet.
pub(crate) fn is_parquet(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    matches!(extension.as_ref().and_then(|extension| extension.to_str()), Some("parquet" | "pq"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn share_is_a_percentage_or_a_fraction() {
        assert_eq!(share("30%"), Ok(0.3));
        assert_eq!(share("0.3"), Ok(0.3));
        assert_eq!(share("12.5 %"), Ok(0.125));
        assert_eq!(share("1"), Ok(1.0));
        assert!(share("30").is_err_and(|e| e.contains("did you mean 30%?")));
        for wrong in ["", "%", "-1%", "101%", "NaN", "inf", "half"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn growth_factor_is_more_than_one() {
        assert_eq!(times("2"), Ok(2.0));
        assert_eq!(times("1.5x"), Ok(1.5));
        for wrong in ["1", "0.5", "-2", "inf", "twice"] {
            assert!(times(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_of_durations_and_times_show_the_form() {
        assert_eq!(duration("36h"), Ok(Duration::from_secs(36 * 3600)));
        assert!(duration("a day").is_err_and(|e| e.contains("36h")));
        assert_eq!(instant("1970-01-02"), Ok(Timestamp::from_micros(86_400_000_000)));
        assert_eq!(instant("1970-01-01T00:00:01.5Z"), Ok(Timestamp::from_micros(1_500_000)));
        assert_eq!(instant("1970-01-01T01:00:00+01:00"), Ok(Timestamp::from_micros(0)));
        assert!(instant("yesterday").is_err_and(|e| e.contains("2026-01-31")));
    }

    #[test]
    fn scheme_of_a_server_is_optional() {
        assert_eq!(server("localhost:7071"), Ok("http://localhost:7071".to_owned()));
        assert_eq!(server("http://[::1]:7070"), Ok("http://[::1]:7070".to_owned()));
        assert_eq!(server("localhost"), Ok("http://localhost".to_owned()));
        for wrong in ["", "http://", "ftp://x", "https://x", "a b", "localhost:x", "localhost:", "localhost:70707"] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn type_of_a_unit_is_optional() {
        let unit_ref = |kind: &str, key: &str| Ok(UnitRef { kind: kind.to_owned(), key: key.to_owned() });
        assert_eq!(unit("alice"), unit_ref("targetingKey", "alice"));
        assert_eq!(unit("user=alice"), unit_ref("user", "alice"));
        assert_eq!(unit("targetingKey=a=b"), unit_ref("targetingKey", "a=b"));
        for wrong in ["", "=alice", "user="] {
            assert!(unit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn attributes_with_dots_make_nested_contexts() {
        let mut context = object(r#"{"targetingKey": "alice", "account": "flat"}"#).unwrap();
        for text in ["account.tier=internal", "account.seats=25", "beta=true", "id=\"7\"", "note=a=b", "empty="] {
            attribute(text).unwrap().insert_into(&mut context);
        }
        let expected = json!({
            "targetingKey": "alice", "account": {"tier": "internal", "seats": 25}, "beta": true, "id": "7",
            "note": "a=b", "empty": "",
        });
        assert_eq!(Value::Object(context), expected);
        for wrong in ["", "tier", "=x", "a..b=x", ".a=x"] {
            assert!(attribute(wrong).is_err(), "{wrong}");
        }
        assert!(object("[]").is_err());
    }

    #[test]
    fn context_with_too_many_levels_is_refused() {
        let path = |names: usize| vec!["a"; names].join(".") + "=1";
        assert!(attribute(&path(24)).is_ok());
        // A much longer one would overflow the stack when it is dropped.
        for levels in [25, 30_000] {
            assert!(attribute(&path(levels)).is_err_and(|e| e.contains("at most 24")), "{levels}");
        }
        let nested = format!("{}1{}", "{\"a\":".repeat(25), "}".repeat(25));
        assert!(object(&nested).is_err_and(|e| e.contains("at most 24")));
        assert!(attribute(&format!("a={nested}")).is_err());
    }

    #[test]
    fn empty_variation_is_refused() {
        assert_eq!(variation("green"), Ok("green".to_owned()));
        assert!(variation("").is_err() && variation(" ").is_err());
    }

    #[test]
    fn labels_become_keys() {
        assert_eq!(slug("Mens E-Mail"), "mens-e-mail");
        assert_eq!(slug("No E-Mail"), "no-e-mail");
        assert_eq!(slug("  Größe / XL!! "), "gr-e-xl");
        assert_eq!(slug("v1.2_b"), "v1.2_b");
        assert_eq!(slug("._x"), "x");
        assert_eq!(slug("…"), "");
        assert_eq!(slug(&"x".repeat(200)).len(), 128);
    }
}
