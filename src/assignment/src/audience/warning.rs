//! Warnings about valid audiences that probably do not select the units that their author expects: comparisons of text
//! that looks like a version, a number or a date, and attributes that look like the current time.

use super::convert::{Version, instant};
use super::node::{Node, Operator};
use crate::context::Value;

/// What an [`AudienceWarning`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningKind {
    /// Text that looks like a version, a number or a date is ordered: `app >= "10.4.0"`.
    TextOrder,
    /// Text that looks like a version or a date is compared with `==`, `!=` or `in`: `app == "10.4.0"`.
    TextEquality,
    /// Text that looks like a number is compared with `==`, `!=` or `in`: `seats == "12"`. It is as expected if contexts
    /// have text, such as an id of digits.
    NumberAsText,
    /// An attribute has the name of the current time: `now > 5`. It is as expected if contexts have it.
    CurrentTime,
}

/// A part of a valid audience that probably does not mean what its author expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudienceWarning {
    /// What it is about.
    pub kind: WarningKind,
    /// The attribute that is compared, with dots; `None` if it is not one attribute.
    pub attribute: Option<String>,
    /// The number of a character in the source, from 1: the operator or the attribute.
    pub position: usize,
    /// What happens, and what to write instead. Starts in lower case, without a full stop.
    pub message: String,
}

/// What a text looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Look {
    Version,
    /// `10.4` can be both.
    VersionOrNumber,
    Number,
    Date,
}

impl Look {
    fn of(text: &str) -> Option<Self> {
        let is_number = text.parse::<f64>().is_ok_and(f64::is_finite)
            && text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
        let is_version = Version::parse(text).is_some()
            && (text.contains('.') || text.starts_with(['v', 'V']))
            && !text.contains(char::is_whitespace);
        Some(match (is_number, is_version) {
            (true, true) => Self::VersionOrNumber,
            (true, false) => Self::Number,
            (false, true) => Self::Version,
            (false, false) if instant(text).is_some() || local_time(text).is_some() => Self::Date,
            (false, false) => return None,
        })
    }
}

/// The time of a text that is a date with a time, but without an offset from UTC.
fn local_time(text: &str) -> Option<jiff::civil::DateTime> {
    let has_time = text.get(10..11).is_some_and(|separator| ["T", "t", " "].contains(&separator));
    text.parse().ok().filter(|_| has_time)
}

/// A warning for an operator with a constant text on one side and another value on the other side.
pub(super) fn comparison(operator: Operator, left: &Node, right: &Node, position: usize) -> Option<AudienceWarning> {
    use Operator as O;
    let symbol = match operator {
        O::Equal => "==",
        O::Unequal => "!=",
        O::Less => "<",
        O::LessOrEqual => "<=",
        O::Greater => ">",
        O::GreaterOrEqual => ">=",
        O::In => "in",
        O::Add | O::Subtract | O::Multiply | O::Divide | O::Remainder => return None,
    };
    let text_of = |node: &'_ Node| match node {
        Node::Literal(Value::String(text)) => Some(text.clone()),
        Node::Literal(Value::List(items)) if operator == O::In => items.iter().find_map(|item| match item {
            Value::String(text) if Look::of(text).is_some() => Some(text.clone()),
            _ => None,
        }),
        _ => None,
    };
    let is_constant = |node: &Node| matches!(node, Node::Literal(_));
    let (value, text, is_reversed) = match (text_of(left), text_of(right)) {
        (None, Some(text)) if !is_constant(left) => (left, text, false),
        (Some(text), None) if !is_constant(right) && operator != O::In => (right, text, true),
        _ => return None,
    };
    let look = Look::of(&text)?;
    let attribute = match value {
        Node::Attribute { full_name, .. } => Some(full_name.to_string()),
        _ => None,
    };
    let name = attribute.as_deref().unwrap_or("value");
    let is_order = matches!(operator, O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual);
    let written = match operator {
        O::In => format!("{name} in [\"{text}\"]"),
        _ if is_reversed => format!("\"{text}\" {symbol} {name}"),
        _ => format!("{name} {symbol} \"{text}\""),
    };
    // A list has no form with converted values, so `in` is shown as the comparison with one of its items.
    let symbol = if operator == O::In { "==" } else { symbol };
    // `timestamp` needs an offset.
    let constant = local_time(&text).map_or_else(|| text.clone(), |time| format!("{time}Z"));
    let with = |convert: &str| match is_reversed {
        true => format!("`{convert}(\"{constant}\") {symbol} {convert}({name})`"),
        false => format!("`{convert}({name}) {symbol} {convert}(\"{constant}\")`"),
    };
    let as_number = match (is_reversed, operator) {
        (_, O::In) => format!("`{name} in [{text}]`"),
        (true, _) => format!("`{text} {symbol} {name}`"),
        (false, _) => format!("`{name} {symbol} {text}`"),
    };
    let (kind, message) = match (look, is_order) {
        // Four numbers are an address of the Internet more often than a version.
        (Look::Version, false) if text.matches('.').count() == 3 => return None,
        (Look::Version, true) => (
            WarningKind::TextOrder,
            format!("`{written}` compares text, in which \"9.0\" comes after \"10.0\": write {}", with("semver")),
        ),
        (Look::VersionOrNumber, true) => (
            WarningKind::TextOrder,
            format!(
                "`{written}` compares text, in which \"9.0\" comes after \"10.0\": write {} for versions, or {as_number} for numbers",
                with("semver")
            ),
        ),
        (Look::Number, true) => (
            WarningKind::TextOrder,
            format!(
                "`{written}` compares text, in which \"9\" comes after \"10\": write {as_number} if contexts have a number, or convert text with `double({name})`"
            ),
        ),
        (Look::Date, true) => (
            WarningKind::TextOrder,
            format!("`{written}` compares text and ignores offsets from UTC: write {}", with("timestamp")),
        ),
        (Look::Version, false) => (
            WarningKind::TextEquality,
            format!("`{written}` compares text, so other forms of the same version differ: write {}", with("semver")),
        ),
        (Look::Date, false) => (
            WarningKind::TextEquality,
            format!("`{written}` compares text, so other forms of the same time differ: write {}", with("timestamp")),
        ),
        (Look::Number | Look::VersionOrNumber, false) => (
            WarningKind::NumberAsText,
            format!(
                "`{written}` compares text, and a number never equals a text: write {as_number} if contexts have a number"
            ),
        ),
    };
    Some(AudienceWarning { kind, attribute, position, message })
}

/// A warning for an attribute that looks like the current time.
pub(super) fn attribute(name: &str, position: usize) -> Option<AudienceWarning> {
    ["now", "today", "current_time", "currentTime"].contains(&name).then(|| AudienceWarning {
        kind: WarningKind::CurrentTime,
        attribute: Some(name.to_owned()),
        position,
        message: format!(
            "`{name}` is an attribute of the context, not the current time, which an audience cannot use: send it in each context, or remove it"
        ),
    })
}
