//! Running a checked expression on a context.
//!
//! Values are borrowed from the context and from the expression's literals; only what an expression makes is owned.
//! Everything that costs is paid for from one budget before it is done, which bounds both time and memory.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use super::Audience;
use super::node::{Function, Loop, LoopKind, Node, Operator};
use crate::context::{Context, TARGETING_KEY, Value};

/// Why there is no answer. Made often and read seldom, so it borrows and is put into words only when asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault<'n> {
    /// An attribute or field is not there.
    Missing(&'n str),
    /// A key that is worked out is not there.
    NoSuchItem,
    /// Something is not what its place asks for.
    Clash {
        what: &'static str,
        wanted: &'static str,
        found: &'static str,
    },
    DividedByZero,
    Fraction,
    Unreadable,
    DuplicateKey,
    TooCostly,
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "it has no `{name}`"),
            Self::NoSuchItem => f.write_str("an index or a key is not there"),
            Self::Clash { what, wanted, found } => write!(f, "{what} wants {wanted}, not {found}"),
            Self::DividedByZero => f.write_str("something is divided by zero"),
            Self::Fraction => f.write_str("`%` and an index want whole numbers"),
            Self::Unreadable => f.write_str("a text is not a number that can be converted"),
            Self::DuplicateKey => f.write_str("an object is written with the same key twice"),
            Self::TooCostly => write!(f, "it would take more than {} steps", Audience::MAX_STEPS),
        }
    }
}

/// Evaluates to true or false.
pub(super) fn run<'n>(root: &'n Node, context: &'n Context) -> Result<bool, Fault<'n>> {
    let run = Run { context, left: Cell::new(Audience::MAX_STEPS) };
    run.bool(root, None, "an audience")
}

/// The variable of a loop, and those of the loops around it.
struct Scope<'s> {
    item: &'s Value,
    outer: Option<&'s Scope<'s>>,
}

type Evaluated<'s, 'n> = Result<Cow<'s, Value>, Fault<'n>>;

struct Run<'n> {
    context: &'n Context,
    left: Cell<u32>,
}

impl<'n> Run<'n> {
    fn pay(&self, steps: usize) -> Result<(), Fault<'n>> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.left.get().checked_sub(steps));
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or(Fault::TooCostly)
    }

    /// Pays for looking at all of a value, or for copying it.
    fn pay_for(&self, value: &Value) -> Result<(), Fault<'n>> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.pay(1),
            Value::String(text) => self.pay_text(text),
            Value::List(items) => {
                self.pay(1)?;
                items.iter().try_for_each(|item| self.pay_for(item))
            }
            Value::Object(fields) => {
                self.pay(1)?;
                fields.iter().try_for_each(|(name, value)| {
                    self.pay_text(name)?;
                    self.pay_for(value)
                })
            }
        }
    }

    fn pay_text(&self, text: &str) -> Result<(), Fault<'n>> {
        self.pay(1 + text.len() / 64)
    }

    fn own(&self, value: Cow<'_, Value>) -> Result<Value, Fault<'n>> {
        if let Cow::Borrowed(value) = value {
            self.pay_for(value)?;
        }
        Ok(value.into_owned())
    }

    fn eval<'s>(&self, node: &'n Node, scope: Option<&'s Scope<'s>>) -> Evaluated<'s, 'n>
    where
        'n: 's,
    {
        self.pay(1)?;
        match node {
            Node::Literal(value) => Ok(Cow::Borrowed(value)),
            Node::Attribute { whole, path } => self.attribute(whole, path),
            Node::Variable(up) => std::iter::successors(scope, |scope| scope.outer)
                .nth(*up)
                .map(|scope| Cow::Borrowed(scope.item))
                .ok_or(Fault::NoSuchItem),
            Node::Field(of, name) => field(self.eval(of, scope)?, name).ok_or(Fault::Missing(name)),
            Node::Index(sides) => {
                let [of, by] = &**sides;
                index(self.eval(of, scope)?, &*self.eval(by, scope)?)
            }
            Node::Has(inner) => match self.eval(inner, scope) {
                Ok(_) => yes(true),
                Err(Fault::Missing(_)) => yes(false),
                Err(fault) => Err(fault),
            },
            Node::Not(inner) => yes(!self.bool(inner, scope, "`!`")?),
            Node::Negate(inner) => number(-wanted(&*self.eval(inner, scope)?)?),
            Node::Logic { any, sides } => self.logic(*any, sides, scope),
            Node::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                self.eval(if self.bool(condition, scope, "`?`")? { then } else { otherwise }, scope)
            }
            Node::Binary(operator, sides) => {
                let [left, right] = &**sides;
                self.binary(*operator, self.eval(left, scope)?, self.eval(right, scope)?)
            }
            Node::Call(function, args) => match &**args {
                [of] => self.call(*function, &*self.eval(of, scope)?, &Value::Null),
                [of, arg] => self.call(*function, &*self.eval(of, scope)?, &*self.eval(arg, scope)?),
                _ => Err(Fault::NoSuchItem),
            },
            Node::List(nodes) => {
                let items = nodes.iter().map(|node| self.own(self.eval(node, scope)?));
                Ok(Cow::Owned(Value::List(items.collect::<Result<_, _>>()?)))
            }
            Node::Map(entries) => {
                let mut object = BTreeMap::new();
                for (key, value) in entries {
                    let Value::String(key) = self.own(self.eval(key, scope)?)? else { return Err(Fault::NoSuchItem) };
                    if object.insert(key, self.own(self.eval(value, scope)?)?).is_some() {
                        return Err(Fault::DuplicateKey);
                    }
                }
                Ok(Cow::Owned(Value::Object(object)))
            }
            Node::Loop(each) => self.each(each, scope),
        }
    }

    fn bool<'s>(&self, node: &'n Node, scope: Option<&'s Scope<'s>>, what: &'static str) -> Result<bool, Fault<'n>>
    where
        'n: 's,
    {
        match &*self.eval(node, scope)? {
            Value::Bool(value) => Ok(*value),
            other => Err(Fault::Clash { what, wanted: "true or false", found: name(other) }),
        }
    }

    /// The attribute whose whole name this is, else what the path leads to.
    fn attribute(&self, whole: &'n str, path: &'n [Box<str>]) -> Evaluated<'n, 'n> {
        if whole == TARGETING_KEY {
            let key = self.context.targeting_key().ok_or(Fault::Missing(whole))?;
            self.pay_text(key)?;
            return Ok(Cow::Owned(Value::String(key.to_owned())));
        }
        let attributes = self.context.attributes();
        if let Some(value) = attributes.get(whole) {
            return Ok(Cow::Borrowed(value));
        }
        let (root, fields) = path.split_first().ok_or(Fault::Missing(whole))?;
        let root = attributes.get(&**root).ok_or(Fault::Missing(whole))?;
        let found = fields.iter().try_fold(root, |value, name| match value {
            Value::Object(fields) => fields.get(&**name),
            _ => None,
        });
        found.map(Cow::Borrowed).ok_or(Fault::Missing(whole))
    }

    /// `&&` and `||`: a side that decides makes an error on the other side not matter.
    fn logic<'s>(&self, any: bool, sides: &'n [Node; 2], scope: Option<&'s Scope<'s>>) -> Evaluated<'s, 'n>
    where
        'n: 's,
    {
        let [left, right] = sides;
        let what = if any { "`||`" } else { "`&&`" };
        let left = self.bool(left, scope, what);
        if left == Ok(any) {
            return yes(any);
        }
        let right = self.bool(right, scope, what)?;
        if right == any { yes(any) } else { left.map(|left| Cow::Owned(Value::Bool(left))) }
    }

    fn binary<'s>(&self, operator: Operator, a: Cow<'s, Value>, b: Cow<'s, Value>) -> Evaluated<'s, 'n> {
        use Operator as O;
        match operator {
            O::Equal | O::Unequal => yes(self.equal(&a, &b)? == (operator == O::Equal)),
            O::Less => yes(self.order(&a, &b)? == Some(Ordering::Less)),
            O::LessOrEqual => yes(matches!(self.order(&a, &b)?, Some(Ordering::Less | Ordering::Equal))),
            O::Greater => yes(self.order(&a, &b)? == Some(Ordering::Greater)),
            O::GreaterOrEqual => yes(matches!(self.order(&a, &b)?, Some(Ordering::Greater | Ordering::Equal))),
            O::In => match (&*a, &*b) {
                (item, Value::List(items)) => {
                    for candidate in items {
                        if self.equal(item, candidate)? {
                            return yes(true);
                        }
                    }
                    yes(false)
                }
                (Value::String(key), Value::Object(fields)) => yes(fields.contains_key(key)),
                (key, Value::Object(_)) => Err(Fault::Clash { what: "a key", wanted: "text", found: name(key) }),
                (_, other) => Err(Fault::Clash { what: "`in`", wanted: "a list or an object", found: name(other) }),
            },
            O::Add => match (&*a, &*b) {
                (Value::Number(a), Value::Number(b)) => number(a + b),
                (Value::String(_), Value::String(tail)) => {
                    self.pay_text(tail)?;
                    let Value::String(mut text) = self.own(a)? else { return Err(Fault::NoSuchItem) };
                    text.push_str(tail);
                    Ok(Cow::Owned(Value::String(text)))
                }
                (Value::List(_), Value::List(_)) => match (self.own(a)?, self.own(b)?) {
                    (Value::List(mut items), Value::List(tail)) => {
                        items.extend(tail);
                        Ok(Cow::Owned(Value::List(items)))
                    }
                    _ => Err(Fault::NoSuchItem),
                },
                (_, other) => {
                    Err(Fault::Clash { what: "`+`", wanted: "two numbers, texts or lists", found: name(other) })
                }
            },
            O::Subtract => number(wanted(&a)? - wanted(&b)?),
            O::Multiply => number(wanted(&a)? * wanted(&b)?),
            O::Divide | O::Remainder => {
                let (a, b) = (wanted(&a)?, wanted(&b)?);
                match operator {
                    _ if b == 0.0 => Err(Fault::DividedByZero),
                    O::Divide => number(a / b),
                    _ if a.fract() == 0.0 && b.fract() == 0.0 => number(a % b),
                    _ => Err(Fault::Fraction),
                }
            }
        }
    }

    fn equal(&self, a: &Value, b: &Value) -> Result<bool, Fault<'n>> {
        self.pay_for(a)?;
        Ok(a == b)
    }

    fn order(&self, a: &Value, b: &Value) -> Result<Option<Ordering>, Fault<'n>> {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => Ok(a.partial_cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Ok(Some(a.cmp(b))),
            (Value::String(a), Value::String(b)) => {
                self.pay_text(a)?;
                Ok(Some(a.cmp(b)))
            }
            (Value::Number(_) | Value::Bool(_) | Value::String(_), other) => {
                Err(Fault::Clash { what: "an ordering", wanted: name(a), found: name(other) })
            }
            (other, _) => Err(Fault::Clash { what: "an ordering", wanted: "numbers or text", found: name(other) }),
        }
    }

    fn call<'s>(&self, function: Function, of: &Value, arg: &Value) -> Evaluated<'s, 'n> {
        #[allow(clippy::cast_precision_loss, reason = "nothing in memory has 2^53 items")]
        let count = |n: usize| number(n as f64);
        match (function, of, arg) {
            (Function::Size, Value::String(text), _) => {
                self.pay_text(text)?;
                count(text.chars().count())
            }
            (Function::Size, Value::List(items), _) => count(items.len()),
            (Function::Size, Value::Object(fields), _) => count(fields.len()),
            (Function::Size, other, _) => {
                Err(Fault::Clash { what: "`size`", wanted: "text, a list or an object", found: name(other) })
            }
            (Function::Int, Value::Number(n), _) => number(n.trunc()),
            (Function::Double, Value::Number(n), _) => number(*n),
            (Function::Int | Function::Double, Value::String(text), _) => {
                self.pay_text(text)?;
                let parsed = match function {
                    Function::Int => text.parse::<i32>().ok().map(f64::from),
                    _ => text.parse::<f64>().ok().filter(|n| n.is_finite()),
                };
                parsed.map_or(Err(Fault::Unreadable), number)
            }
            (Function::Int | Function::Double, other, _) => {
                Err(Fault::Clash { what: "a conversion", wanted: "a number or text", found: name(other) })
            }
            (Function::Text, Value::String(text), _) => {
                self.pay_text(text)?;
                Ok(Cow::Owned(Value::String(text.clone())))
            }
            (Function::Text, Value::Number(n), _) => Ok(Cow::Owned(Value::String(n.to_string()))),
            (Function::Text, Value::Bool(b), _) => Ok(Cow::Owned(Value::String(b.to_string()))),
            (Function::Text, other, _) => {
                Err(Fault::Clash { what: "`string`", wanted: "a number, text or true or false", found: name(other) })
            }
            (_, Value::String(text), Value::String(part)) => {
                self.pay_text(text)?;
                yes(match function {
                    Function::StartsWith => text.starts_with(part.as_str()),
                    Function::EndsWith => text.ends_with(part.as_str()),
                    _ => text.contains(part.as_str()),
                })
            }
            (_, Value::String(_), other) | (_, other, _) => {
                Err(Fault::Clash { what: "a search in text", wanted: "text", found: name(other) })
            }
        }
    }

    fn each<'s>(&self, each: &'n Loop, scope: Option<&'s Scope<'s>>) -> Evaluated<'s, 'n>
    where
        'n: 's,
    {
        let over = self.eval(&each.over, scope)?;
        let keys;
        let items = match &*over {
            Value::List(items) => items,
            Value::Object(fields) => {
                fields.keys().try_for_each(|name| self.pay_text(name))?;
                keys = fields.keys().map(|name| Value::String(name.clone())).collect::<Vec<_>>();
                &keys
            }
            other => {
                return Err(Fault::Clash { what: "a loop", wanted: "a list or an object", found: name(other) });
            }
        };
        let mut made = Vec::new();
        let mut matches = 0_usize;
        let mut fault = None;
        for item in items {
            self.pay(1)?;
            let scope = Scope { item, outer: scope };
            let scope = Some(&scope);
            if let Some(only) = &each.only
                && !self.bool(only, scope, "a condition")?
            {
                continue;
            }
            match each.kind {
                LoopKind::Map => made.push(self.own(self.eval(&each.body, scope)?)?),
                LoopKind::Filter => {
                    if self.bool(&each.body, scope, "a condition")? {
                        made.push(self.own(Cow::Borrowed(item))?);
                    }
                }
                LoopKind::ExistsOne => matches += usize::from(self.bool(&each.body, scope, "a condition")?),
                LoopKind::All | LoopKind::Exists => match self.bool(&each.body, scope, "a condition") {
                    Ok(found) if found == (each.kind == LoopKind::Exists) => return yes(found),
                    Ok(_) => {}
                    Err(error) => {
                        fault.get_or_insert(error);
                    }
                },
            }
        }
        match (each.kind, fault) {
            (_, Some(fault)) => Err(fault),
            (LoopKind::Map | LoopKind::Filter, None) => Ok(Cow::Owned(Value::List(made))),
            (LoopKind::ExistsOne, None) => yes(matches == 1),
            (LoopKind::All, None) => yes(true),
            (LoopKind::Exists, None) => yes(false),
        }
    }
}

fn yes<'s, 'n>(value: bool) -> Evaluated<'s, 'n> {
    Ok(Cow::Owned(Value::Bool(value)))
}

fn number<'s, 'n>(value: f64) -> Evaluated<'s, 'n> {
    Ok(Cow::Owned(Value::Number(value)))
}

fn wanted<'n>(value: &Value) -> Result<f64, Fault<'n>> {
    match value {
        Value::Number(n) => Ok(*n),
        other => Err(Fault::Clash { what: "a calculation", wanted: "a number", found: name(other) }),
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A field, if this is an object and has it.
fn field<'s>(of: Cow<'s, Value>, name: &str) -> Option<Cow<'s, Value>> {
    match of {
        Cow::Borrowed(Value::Object(fields)) => fields.get(name).map(Cow::Borrowed),
        Cow::Owned(Value::Object(mut fields)) => fields.remove(name).map(Cow::Owned),
        _ => None,
    }
}

fn index<'s, 'n>(of: Cow<'s, Value>, by: &Value) -> Evaluated<'s, 'n> {
    match (&*of, by) {
        (Value::Object(_), Value::String(key)) => field(of, key).ok_or(Fault::NoSuchItem),
        (Value::List(items), Value::Number(n)) => {
            if n.fract() != 0.0 {
                return Err(Fault::Fraction);
            }
            #[allow(clippy::cast_precision_loss, reason = "nothing in memory has 2^53 items")]
            if *n < 0.0 || *n >= items.len() as f64 {
                return Err(Fault::NoSuchItem);
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within the list")]
            let at = *n as usize;
            let found = match of {
                Cow::Borrowed(Value::List(items)) => items.get(at).map(Cow::Borrowed),
                Cow::Owned(Value::List(mut items)) if at < items.len() => Some(Cow::Owned(items.swap_remove(at))),
                _ => None,
            };
            found.ok_or(Fault::NoSuchItem)
        }
        (Value::List(_), other) => {
            Err(Fault::Clash { what: "the index of a list", wanted: "a number", found: name(other) })
        }
        (Value::Object(_), other) => Err(Fault::Clash { what: "a key", wanted: "text", found: name(other) }),
        (other, _) => Err(Fault::Clash { what: "an index", wanted: "a list or an object", found: name(other) }),
    }
}
