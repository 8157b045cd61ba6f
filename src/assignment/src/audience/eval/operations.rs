//! Operators, functions and indexing on values.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Evaluated, EvaluationError, Evaluator};
use crate::audience::convert::Conversion;
use crate::audience::node::{Function, Operator};
use crate::context::Value;

impl<'n> Evaluator<'n> {
    pub(super) fn binary<'s>(&self, operator: Operator, a: Cow<'s, Value>, b: Cow<'s, Value>) -> Evaluated<'s, 'n> {
        use Operator as O;
        match operator {
            O::Equal | O::Unequal => boolean(self.equal(&a, &b)? == (operator == O::Equal)),
            O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual => {
                boolean(self.order(&a, &b)?.is_some_and(|order| operator.accepts(order)))
            }
            O::In => match (&*a, &*b) {
                (item, Value::List(items)) => {
                    for candidate in items {
                        if self.equal(item, candidate)? {
                            return boolean(true);
                        }
                    }
                    boolean(false)
                }
                (Value::String(key), Value::Object(fields)) => {
                    boolean(fields.get(key).is_some_and(|value| *value != Value::Null))
                }
                (key, Value::Object(_)) => {
                    Err(EvaluationError::WrongType { what: "a key", expected: "text", found: type_name(key) })
                }
                (_, other) => Err(EvaluationError::WrongType {
                    what: "`in`",
                    expected: "a list or an object",
                    found: type_name(other),
                }),
            },
            O::Add => match (&*a, &*b) {
                (Value::Number(a), Value::Number(b)) => number(a + b),
                (Value::String(_), Value::String(tail)) => {
                    self.budget.charge_text(tail)?;
                    let Value::String(mut text) = self.budget.own(a)? else { return Err(EvaluationError::NoSuchItem) };
                    text.push_str(tail);
                    Ok(Cow::Owned(Value::String(text)))
                }
                (Value::List(_), Value::List(_)) => match (self.budget.own(a)?, self.budget.own(b)?) {
                    (Value::List(mut items), Value::List(tail)) => {
                        items.extend(tail);
                        Ok(Cow::Owned(Value::List(items)))
                    }
                    _ => Err(EvaluationError::NoSuchItem),
                },
                (_, other) => Err(EvaluationError::WrongType {
                    what: "`+`",
                    expected: "two numbers, texts or lists",
                    found: type_name(other),
                }),
            },
            O::Subtract => number(expect_number(&a)? - expect_number(&b)?),
            O::Multiply => number(expect_number(&a)? * expect_number(&b)?),
            O::Divide | O::Remainder => {
                let (a, b) = (expect_number(&a)?, expect_number(&b)?);
                match operator {
                    _ if b == 0.0 => Err(EvaluationError::DivisionByZero),
                    O::Divide => number(a / b),
                    _ if a.fract() == 0.0 && b.fract() == 0.0 => number(a % b),
                    _ => Err(EvaluationError::NotWhole),
                }
            }
        }
    }

    fn equal(&self, a: &Value, b: &Value) -> Result<bool, EvaluationError<'n>> {
        self.budget.charge_value(a)?;
        Ok(a == b)
    }

    fn order(&self, a: &Value, b: &Value) -> Result<Option<Ordering>, EvaluationError<'n>> {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => Ok(a.partial_cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Ok(Some(a.cmp(b))),
            (Value::String(a), Value::String(b)) => {
                self.budget.charge_text(a)?;
                Ok(Some(a.cmp(b)))
            }
            (Value::Number(_) | Value::Bool(_) | Value::String(_), other) => {
                Err(EvaluationError::WrongType { what: "an ordering", expected: type_name(a), found: type_name(other) })
            }
            (other, _) => Err(EvaluationError::WrongType {
                what: "an ordering",
                expected: "numbers or text",
                found: type_name(other),
            }),
        }
    }

    pub(super) fn call<'s>(&self, function: Function, target: &Value, arg: &Value) -> Evaluated<'s, 'n> {
        #[allow(clippy::cast_precision_loss, reason = "nothing in memory has 2^53 items")]
        let count = |n: usize| number(n as f64);
        match (function, target, arg) {
            (Function::Size, Value::String(text), _) => {
                self.budget.charge_text(text)?;
                count(text.chars().count())
            }
            (Function::Size, Value::List(items), _) => count(items.len()),
            (Function::Size, Value::Object(fields), _) => count(fields.len()),
            (Function::Size, other, _) => Err(EvaluationError::WrongType {
                what: "`size`",
                expected: "text, a list or an object",
                found: type_name(other),
            }),
            (Function::Int, Value::Number(n), _) => number(n.trunc()),
            (Function::Double, Value::Number(n), _) => number(*n),
            (Function::Int | Function::Double, Value::String(text), _) => {
                self.budget.charge_text(text)?;
                let parsed = match function {
                    Function::Int => text.parse::<i32>().ok().map(f64::from),
                    _ => text.parse::<f64>().ok().filter(|n| n.is_finite()),
                };
                parsed.map_or(Err(EvaluationError::NotANumber), number)
            }
            (Function::Int | Function::Double, other, _) => Err(EvaluationError::WrongType {
                what: "a conversion",
                expected: "a number or text",
                found: type_name(other),
            }),
            (Function::Text, Value::String(text), _) => {
                self.budget.charge_text(text)?;
                Ok(Cow::Owned(Value::String(text.clone())))
            }
            (Function::Text, Value::Number(n), _) => Ok(Cow::Owned(Value::String(n.to_string()))),
            (Function::Text, Value::Bool(b), _) => Ok(Cow::Owned(Value::String(b.to_string()))),
            (Function::Text, other, _) => Err(EvaluationError::WrongType {
                what: "`string`",
                expected: "a number, text or true or false",
                found: type_name(other),
            }),
            (Function::IsSemver, Value::String(text), _) => {
                self.budget.charge_text(text)?;
                boolean(Conversion::Version.of_text(text).is_some())
            }
            (Function::IsSemver, ..) => boolean(false),
            (_, Value::String(text), Value::String(part)) => {
                self.budget.charge_text(text)?;
                boolean(match function {
                    Function::StartsWith => text.starts_with(part.as_str()),
                    Function::EndsWith => text.ends_with(part.as_str()),
                    _ => text.contains(part.as_str()),
                })
            }
            (_, Value::String(_), other) | (_, other, _) => {
                Err(EvaluationError::WrongType { what: "a search in text", expected: "text", found: type_name(other) })
            }
        }
    }
}

pub(super) fn boolean<'s, 'n>(value: bool) -> Evaluated<'s, 'n> {
    Ok(Cow::Owned(Value::Bool(value)))
}

pub(super) fn number<'s, 'n>(value: f64) -> Evaluated<'s, 'n> {
    Ok(Cow::Owned(Value::Number(value)))
}

pub(super) fn expect_number<'n>(value: &Value) -> Result<f64, EvaluationError<'n>> {
    match value {
        Value::Number(n) => Ok(*n),
        other => {
            Err(EvaluationError::WrongType { what: "a calculation", expected: "a number", found: type_name(other) })
        }
    }
}

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A field of an object; `None` if the value is not an object, does not have the field, or the field is null.
pub(super) fn field<'s>(operand: Cow<'s, Value>, name: &str) -> Option<Cow<'s, Value>> {
    match operand {
        Cow::Borrowed(Value::Object(fields)) => fields.get(name).map(Cow::Borrowed),
        Cow::Owned(Value::Object(mut fields)) => fields.remove(name).map(Cow::Owned),
        _ => None,
    }
    .filter(|value| **value != Value::Null)
}

pub(super) fn index<'s, 'n>(operand: Cow<'s, Value>, key: &Value) -> Evaluated<'s, 'n> {
    match (&*operand, key) {
        (Value::Object(_), Value::String(key)) => field(operand, key).ok_or(EvaluationError::MissingItem),
        (Value::List(items), Value::Number(n)) => {
            if n.fract() != 0.0 {
                return Err(EvaluationError::NotWhole);
            }
            #[allow(clippy::cast_precision_loss, reason = "nothing in memory has 2^53 items")]
            if *n < 0.0 || *n >= items.len() as f64 {
                return Err(EvaluationError::NoSuchItem);
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within the list")]
            let at = *n as usize;
            let found = match operand {
                Cow::Borrowed(Value::List(items)) => items.get(at).map(Cow::Borrowed),
                Cow::Owned(Value::List(mut items)) if at < items.len() => Some(Cow::Owned(items.swap_remove(at))),
                _ => None,
            };
            let found = found.ok_or(EvaluationError::NoSuchItem)?;
            if *found == Value::Null { Err(EvaluationError::MissingItem) } else { Ok(found) }
        }
        (Value::List(_), other) => Err(EvaluationError::WrongType {
            what: "the index of a list",
            expected: "a number",
            found: type_name(other),
        }),
        (Value::Object(_), other) => {
            Err(EvaluationError::WrongType { what: "a key", expected: "text", found: type_name(other) })
        }
        (other, _) => Err(EvaluationError::WrongType {
            what: "an index",
            expected: "a list or an object",
            found: type_name(other),
        }),
    }
}
