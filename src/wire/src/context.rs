//! Evaluation contexts, held to limits: they come with every question, from anybody.

use std::collections::BTreeMap;

use inroad_assignment::{Context, TARGETING_KEY, Value};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Value as Json};

use crate::error::WireError;
use crate::payload::{json_to_struct, number, too_deep};

/// The most values in a context, counting objects and lists and what is in them.
pub const MAX_VALUES: usize = 512;
/// How deep objects and lists may lie in one another; an attribute's own value is at depth 1.
pub const MAX_DEPTH: usize = 8;

/// What a context may still use up.
struct Budget {
    bytes: usize,
    values: usize,
}

impl Budget {
    fn text(&mut self, text: &str) -> Result<(), WireError> {
        let left = self.bytes.checked_sub(text.len());
        self.bytes = left.ok_or(WireError::TooMuch {
            field: "context".to_owned(),
            what: "has too many bytes of names and text",
            max: Context::MAX_BYTES,
            remedy: "send only the attributes that audiences and overrides ask for",
        })?;
        Ok(())
    }

    fn value(&mut self) -> Result<(), WireError> {
        let left = self.values.checked_sub(1);
        self.values = left.ok_or(WireError::TooMuch {
            field: "context".to_owned(),
            what: "has too many values",
            max: MAX_VALUES,
            remedy: "send only the attributes that audiences and overrides ask for",
        })?;
        Ok(())
    }
}

/// A context that was sent; an empty one if it was left out. `targetingKey: null` is as if it were not there.
///
/// # Errors
/// Over 16 KiB of names and text, over 512 values, over 8 deep.
pub fn context_from_struct(sent: Option<Struct>) -> Result<Context, WireError> {
    let mut context = Context::default();
    let mut budget = Budget { bytes: Context::MAX_BYTES, values: MAX_VALUES };
    for (name, value) in sent.map(|s| s.fields).unwrap_or_default() {
        budget.text(&name)?;
        let value = value_from_wire(value, 1, &mut budget)?;
        if value != Value::Null || name != TARGETING_KEY {
            context.insert(name, value);
        }
    }
    Ok(context)
}

/// A context written as a JSON object, with the same limits.
///
/// # Errors
/// As [`context_from_struct`].
pub fn context_from_json(fields: &Map<String, Json>) -> Result<Context, WireError> {
    context_from_struct(Some(json_to_struct(fields)))
}

/// A part of a context as JSON text, to be kept beside an event; empty if there is nothing in it. A number that JSON
/// cannot write, and whatever lies deeper than any context may, is `null`.
pub fn struct_to_json(sent: Struct) -> String {
    if sent.fields.is_empty() {
        return String::new();
    }
    let fields = sent.fields.into_iter().map(|(name, value)| (name, json_of_wire(value, 1)));
    Json::Object(fields.collect()).to_string()
}

fn json_of_wire(value: prost_types::Value, depth: usize) -> Json {
    match value.kind {
        _ if depth > MAX_DEPTH => Json::Null,
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(value)) => number(value).map_or(Json::Null, Json::Number),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(|value| json_of_wire(value, depth + 1)).collect(),
        Some(Kind::StructValue(object)) => {
            let fields = object.fields.into_iter().map(|(name, value)| (name, json_of_wire(value, depth + 1)));
            Json::Object(fields.collect())
        }
    }
}

fn value_from_wire(value: prost_types::Value, depth: usize, budget: &mut Budget) -> Result<Value, WireError> {
    budget.value()?;
    if depth > MAX_DEPTH {
        return Err(too_deep(MAX_DEPTH).within("context"));
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => Value::Number(value),
        Some(Kind::StringValue(text)) => {
            budget.text(&text)?;
            Value::String(text)
        }
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(|value| value_from_wire(value, depth + 1, budget));
            Value::List(values.collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(object)) => {
            let mut fields = BTreeMap::new();
            for (name, value) in object.fields {
                budget.text(&name)?;
                fields.insert(name, value_from_wire(value, depth + 1, budget)?);
            }
            Value::Object(fields)
        }
    })
}

/// A context as it is sent.
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
