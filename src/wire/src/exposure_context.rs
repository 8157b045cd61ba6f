//! The part of a context that is stored with an exposure. Its size is limited, and it does not contain the unit's key,
//! which the store should contain in one place only.

use inroad_assignment::TARGETING_KEY;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// The largest context that is stored with an exposure, in bytes of JSON.
pub const MAX_EXPOSURE_CONTEXT_BYTES: usize = 2048;

/// Removes the targeting key and the attribute that names the experiment's unit (by its own name or by a dotted path).
/// Then goes through the attributes in the order of their names, and removes each one that would make the context
/// larger than `max` bytes of JSON. Returns true if an attribute was removed for its size.
pub fn trim_context(context: &mut Struct, unit: &str, max: usize) -> bool {
    context.fields.remove(TARGETING_KEY);
    if context.fields.remove(unit).is_none() {
        remove_path(context, unit);
    }
    let mut bytes_left = max.saturating_sub(2);
    let mut is_trimmed = false;
    context.fields.retain(|name, value| {
        let rest = bytes_left.checked_sub(json_bytes_of_text(name) + 2 + json_bytes(value, bytes_left));
        bytes_left = rest.unwrap_or(bytes_left);
        is_trimmed |= rest.is_none();
        rest.is_some()
    });
    is_trimmed
}

fn remove_path(context: &mut Struct, path: &str) {
    let Some((parents, last)) = path.rsplit_once('.') else { return };
    let mut object = context;
    for name in parents.split('.') {
        match object.fields.get_mut(name).and_then(|value| value.kind.as_mut()) {
            Some(Kind::StructValue(inner)) => object = inner,
            _ => return,
        }
    }
    object.fields.remove(last);
}

/// An upper bound for the size of a value as JSON, in bytes. Counting stops soon after `enough`.
fn json_bytes(value: &Value, enough: usize) -> usize {
    let mut bytes = 2;
    match &value.kind {
        None | Some(Kind::NullValue(_) | Kind::BoolValue(_)) => bytes = 5,
        // The longest text of a double.
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
