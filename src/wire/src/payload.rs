//! Payloads, and the JSON objects in them.
//!
//! Protobuf's JSON values have doubles only. A whole number that a double represents exactly becomes a whole number in
//! JSON again, so `3` does not come back as `3.0`. A number beyond ±2^53 is rounded when it is sent: send it as text.

use inroad_assignment::Payload;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Number, Value as Json};

use crate::error::WireError;
use crate::v1;

/// How deeply objects and lists may be nested.
const MAX_DEPTH: usize = 32;
/// Up to this absolute value, a double represents every whole number exactly.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// Converts a payload to its message.
pub fn payload_to_wire(payload: &Payload) -> v1::Payload {
    use v1::payload::Value;
    let value = match payload {
        Payload::Boolean(value) => Value::BooleanValue(*value),
        Payload::Number(value) => Value::NumberValue(*value),
        Payload::String(value) => Value::StringValue(value.clone()),
        Payload::Object(fields) => Value::ObjectValue(json_to_struct(fields)),
    };
    v1::Payload { value: Some(value) }
}

/// Converts a received payload.
///
/// # Errors
/// If it has no value, contains a number that JSON cannot represent, or nests objects and lists more than 32 deep.
pub fn payload_from_wire(payload: v1::Payload) -> Result<Payload, WireError> {
    use v1::payload::Value;
    match payload.value {
        None => Err(WireError::field("", "give a value: a boolean, a number, text or an object")),
        Some(Value::BooleanValue(value)) => Ok(Payload::Boolean(value)),
        Some(Value::NumberValue(value)) if value.is_finite() => Ok(Payload::Number(value)),
        Some(Value::NumberValue(_)) => Err(WireError::field("number_value", NOT_FINITE)),
        Some(Value::StringValue(value)) => Ok(Payload::String(value)),
        Some(Value::ObjectValue(fields)) => {
            json_from_struct(fields).map(Payload::Object).map_err(|e| e.within("object_value"))
        }
    }
}

const NOT_FINITE: &str = "JSON cannot represent this number: give a finite one, or text";

/// Converts a JSON object to a protobuf struct.
pub fn json_to_struct(fields: &Map<String, Json>) -> Struct {
    Struct { fields: fields.iter().map(|(name, value)| (name.clone(), value_to_wire(value))).collect() }
}

fn value_to_wire(value: &Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(value_to_wire).collect() }),
        Json::Object(fields) => Kind::StructValue(json_to_struct(fields)),
    };
    Value { kind: Some(kind) }
}

/// Converts a received protobuf struct to a JSON object.
///
/// # Errors
/// If it contains a number that JSON cannot represent, or nests objects and lists more than 32 deep.
pub fn json_from_struct(object: Struct) -> Result<Map<String, Json>, WireError> {
    fields_from_wire(object, 1)
}

fn fields_from_wire(object: Struct, depth: usize) -> Result<Map<String, Json>, WireError> {
    let fields = object.fields.into_iter().map(|(name, value)| {
        let value = value_from_wire(value, depth).map_err(|e| e.within(&name))?;
        Ok((name, value))
    });
    fields.collect()
}

fn value_from_wire(value: Value, depth: usize) -> Result<Json, WireError> {
    if depth > MAX_DEPTH {
        return Err(nested_too_deeply(MAX_DEPTH));
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(value)) => Json::Number(json_number(value)?),
        Some(Kind::StringValue(value)) => Json::String(value),
        Some(Kind::StructValue(object)) => Json::Object(fields_from_wire(object, depth + 1)?),
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(|value| value_from_wire(value, depth + 1));
            Json::Array(values.collect::<Result<_, _>>()?)
        }
    })
}

/// Converts a double to a JSON number.
pub(crate) fn json_number(value: f64) -> Result<Number, WireError> {
    let whole = value.fract() == 0.0 && value.abs() <= MAX_WHOLE && !(value == 0.0 && value.is_sign_negative());
    if whole {
        return Ok(Number::from(value as i64));
    }
    Number::from_f64(value).ok_or_else(|| WireError::field("", NOT_FINITE))
}

/// The error for a value that is nested too deeply.
pub(crate) fn nested_too_deeply(max: usize) -> WireError {
    WireError::OverLimit {
        field: String::new(),
        what: "is nested too deeply",
        max,
        remedy: "nest fewer objects and lists",
    }
}
