//! Evaluation contexts. Their size is limited, because every client sends one with every request.

use std::collections::BTreeMap;

use inroad_assignment::{Context, TARGETING_KEY, Value};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Value as Json};

use crate::error::WireError;
use crate::payload::{json_number, json_to_struct, nested_too_deeply};

/// The most values in a context, counting objects and lists and the values in them.
pub const MAX_VALUES: usize = 512;
/// How deeply objects and lists may be nested; an attribute's own value is at depth 1.
pub const MAX_DEPTH: usize = 8;

/// How many bytes and values a context may still use.
struct Budget {
    bytes: usize,
    values: usize,
}

impl Budget {
    fn spend_text(&mut self, text: &str) -> Result<(), WireError> {
        let left = self.bytes.checked_sub(text.len());
        self.bytes = left.ok_or(WireError::OverLimit {
            field: "context".to_owned(),
            what: "has too many bytes of names and text",
            max: Context::MAX_BYTES,
            remedy: "send only the attributes that audiences and overrides use",
        })?;
        Ok(())
    }

    fn spend_value(&mut self) -> Result<(), WireError> {
        let left = self.values.checked_sub(1);
        self.values = left.ok_or(WireError::OverLimit {
            field: "context".to_owned(),
            what: "has too many values",
            max: MAX_VALUES,
            remedy: "send only the attributes that audiences and overrides use",
        })?;
        Ok(())
    }
}

/// Converts a received context; a missing one is empty. `targetingKey: null` means that there is no targeting key.
///
/// # Errors
/// If the context has more than 16 KiB of names and text, more than 512 values, or values nested more than 8 deep.
pub fn context_from_struct(sent: Option<Struct>) -> Result<Context, WireError> {
    let mut context = Context::default();
    let mut budget = Budget { bytes: Context::MAX_BYTES, values: MAX_VALUES };
    for (name, value) in sent.map(|s| s.fields).unwrap_or_default() {
        budget.spend_text(&name)?;
        let value = value_from_wire(value, 1, &mut budget)?;
        if value != Value::Null || name != TARGETING_KEY {
            context.insert(name, value);
        }
    }
    Ok(context)
}

/// Converts a context given as a JSON object, with the same limits.
///
/// # Errors
/// As [`context_from_struct`].
pub fn context_from_json(fields: &Map<String, Json>) -> Result<Context, WireError> {
    context_from_struct(Some(json_to_struct(fields)))
}

/// Converts a part of a context to JSON text, to be stored with an event; empty if it has no attributes. Numbers that
/// JSON cannot represent and values nested deeper than [`MAX_DEPTH`] become `null`.
pub fn struct_to_json(sent: Struct) -> String {
    if sent.fields.is_empty() {
        return String::new();
    }
    let fields = sent.fields.into_iter().map(|(name, value)| (name, value_to_json(value, 1)));
    Json::Object(fields.collect()).to_string()
}

fn value_to_json(value: prost_types::Value, depth: usize) -> Json {
    match value.kind {
        _ if depth > MAX_DEPTH => Json::Null,
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(value)) => json_number(value).map_or(Json::Null, Json::Number),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(|value| value_to_json(value, depth + 1)).collect(),
        Some(Kind::StructValue(object)) => {
            let fields = object.fields.into_iter().map(|(name, value)| (name, value_to_json(value, depth + 1)));
            Json::Object(fields.collect())
        }
    }
}

fn value_from_wire(value: prost_types::Value, depth: usize, budget: &mut Budget) -> Result<Value, WireError> {
    budget.spend_value()?;
    if depth > MAX_DEPTH {
        return Err(nested_too_deeply(MAX_DEPTH).within("context"));
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => Value::Number(value),
        Some(Kind::StringValue(text)) => {
            budget.spend_text(&text)?;
            Value::String(text)
        }
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(|value| value_from_wire(value, depth + 1, budget));
            Value::List(values.collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(object)) => {
            let mut fields = BTreeMap::new();
            for (name, value) in object.fields {
                budget.spend_text(&name)?;
                fields.insert(name, value_from_wire(value, depth + 1, budget)?);
            }
            Value::Object(fields)
        }
    })
}

/// Converts a context to a protobuf struct.
pub fn context_to_struct(context: &Context) -> Struct {
    let mut fields: BTreeMap<_, _> =
        context.attributes().iter().map(|(name, value)| (name.clone(), value_to_wire(value))).collect();
    if let Some(key) = context.targeting_key() {
        let kind = Some(Kind::StringValue(key.to_owned()));
        fields.insert(TARGETING_KEY.to_owned(), prost_types::Value { kind });
    }
    Struct { fields }
}

fn value_to_wire(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(*value),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::List(values) => Kind::ListValue(ListValue { values: values.iter().map(value_to_wire).collect() }),
        Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(name, value)| (name.clone(), value_to_wire(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
