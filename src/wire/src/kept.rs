//! What of a context is kept beside an exposure: within a bound, and without the keys of units, which a store should keep
//! in one place only.

use inroad_assignment::TARGETING_KEY;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// The most of a context that goes with an exposure, in bytes of JSON.
pub const KEPT_CONTEXT_BYTES: usize = 2048;

/// Takes out the targeting key and the key that the experiment's unit attribute names, by itself or by a dotted path, and
/// then, in the order of their names, every attribute with which the rest would have over `max` bytes of JSON. True if
/// anything was too large.
pub fn keep_part(context: &mut Struct, unit: &str, max: usize) -> bool {
    context.fields.remove(TARGETING_KEY);
    if context.fields.remove(unit).is_none() {
        remove_path(context, unit);
    }
    let mut left = max.saturating_sub(2);
    let mut all = true;
    context.fields.retain(|name, value| {
        let rest = left.checked_sub(json_bytes_of_text(name) + 2 + json_bytes(value, left));
        left = rest.unwrap_or(left);
        all &= rest.is_some();
        rest.is_some()
    });
    !all
}

fn remove_path(context: &mut Struct, path: &str) {
    let Some((within, last)) = path.rsplit_once('.') else { return };
    let mut at = context;
    for name in within.split('.') {
        match at.fields.get_mut(name).and_then(|value| value.kind.as_mut()) {
            Some(Kind::StructValue(inner)) => at = inner,
            _ => return,
        }
    }
    at.fields.remove(last);
}

/// No fewer bytes than a value takes up as JSON, counted up to a little over `enough`.
fn json_bytes(value: &Value, enough: usize) -> usize {
    let mut bytes = 2;
    match &value.kind {
        None | Some(Kind::NullValue(_) | Kind::BoolValue(_)) => bytes = 5,
        // The longest that a double is printed as.
        Some(Kind::NumberValue(_)) => bytes = 24,
        Some(Kind::StringValue(text)) => bytes = json_bytes_of_text(text),
        Some(Kind::ListValue(list)) => {
            for item in &list.values {
                bytes += 1 + if bytes > enough { return bytes } else { json_bytes(item, enough - bytes) };
            }
        }
        Some(Kind::StructValue(object)) => {
            for (name, item) in &object.fields {
                bytes += json_bytes_of_text(name) + 2;
                bytes += if bytes > enough { return bytes } else { json_bytes(item, enough - bytes) };
            }
        }
    }
    bytes
}

fn json_bytes_of_text(text: &str) -> usize {
    let escaped = |c: &u8| match c {
        b'"' | b'\\' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.len() + 2 + text.bytes().map(|c| escaped(&c)).sum::<usize>()
}
