//! Evaluates a checked expression on a context.
//!
//! Values are borrowed from the context and from the literals of the expression. Only new values are owned. Every
//! operation is charged to one budget before it is done, which bounds both time and memory.

mod budget;
mod converted;
mod operations;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use self::budget::Budget;
use self::operations::{boolean, expect_number, field, index, number, type_name};
use super::Audience;
use super::convert::Conversion;
use super::node::{Loop, LoopKind, Node, Operator};
use crate::context::{Context, TARGETING_KEY, Value};

/// Why an expression could not be evaluated. Errors are frequent and rarely read, so they borrow, and the message is
/// only built on demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum EvaluationError<'n> {
    /// The attribute or field is missing or null.
    Missing(&'n str),
    /// The item of a list is null, or an object has no value with the computed key.
    MissingItem,
    /// The list has no item with the computed index.
    NoSuchItem,
    /// An operand or argument has the wrong type.
    WrongType {
        what: &'static str,
        expected: &'static str,
        found: &'static str,
    },
    DivisionByZero,
    /// A number must be whole but is not.
    NotWhole,
    /// A text cannot be converted to a number.
    NotANumber,
    /// A text or number cannot be converted.
    NotConvertible(Conversion),
    DuplicateKey,
    /// The budget is used up.
    TooExpensive,
}

impl EvaluationError<'_> {
    /// Whether the reason is a value that is missing or null.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::MissingItem)
    }
}

impl fmt::Display for EvaluationError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "it has no `{name}`, or `{name}` is null"),
            Self::MissingItem => f.write_str("a key does not exist, or an item is null"),
            Self::NoSuchItem => f.write_str("an index does not exist"),
            Self::WrongType { what, expected, found } => write!(f, "{what} needs {expected}, not {found}"),
            Self::DivisionByZero => f.write_str("a number is divided by zero"),
            Self::NotWhole => f.write_str("`%` and an index need whole numbers"),
            Self::NotANumber => f.write_str("a text cannot be converted, because it is not a number"),
            Self::NotConvertible(conversion) => {
                write!(f, "a value is not {}: {}", conversion.name(), conversion.form())
            }
            Self::DuplicateKey => f.write_str("an object has the same key twice"),
            Self::TooExpensive => write!(f, "it would take more than {} steps", Audience::MAX_STEPS),
        }
    }
}

/// Evaluates an audience to true or false.
pub(super) fn run<'n>(root: &'n Node, context: &'n Context) -> Result<bool, EvaluationError<'n>> {
    run_counting(root, context).0
}

/// Evaluates an audience, and counts the steps that this takes.
pub(super) fn run_counting<'n>(root: &'n Node, context: &'n Context) -> (Result<bool, EvaluationError<'n>>, u32) {
    let evaluator = Evaluator { context, budget: Budget::new(Audience::MAX_STEPS) };
    let result = evaluator.bool(root, None, "an audience");
    (result, Audience::MAX_STEPS - evaluator.budget.left())
}

/// The variable of a loop, and the scope of the enclosing loop.
struct Scope<'s> {
    item: &'s Value,
    outer: Option<&'s Scope<'s>>,
}

type Evaluated<'s, 'n> = Result<Cow<'s, Value>, EvaluationError<'n>>;

struct Evaluator<'n> {
    context: &'n Context,
    budget: Budget,
}

impl<'n> Evaluator<'n> {
    fn eval<'s>(&self, node: &'n Node, scope: Option<&'s Scope<'s>>) -> Evaluated<'s, 'n>
    where
        'n: 's,
    {
        self.budget.charge(1)?;
        match node {
            Node::Literal(value) => Ok(Cow::Borrowed(value)),
            Node::Attribute { full_name, path } => self.attribute(full_name, path),
            Node::Variable(up) => std::iter::successors(scope, |scope| scope.outer)
                .nth(*up)
                .map(|scope| Cow::Borrowed(scope.item))
                .filter(|item| **item != Value::Null)
                .ok_or(EvaluationError::MissingItem),
            Node::Field(operand, name) => field(self.eval(operand, scope)?, name).ok_or(EvaluationError::Missing(name)),
            Node::Index(sides) => {
                let [operand, key] = &**sides;
                index(self.eval(operand, scope)?, &*self.eval(key, scope)?)
            }
            Node::Has(inner) => match self.eval(inner, scope) {
                Ok(_) => boolean(true),
                Err(error) if error.is_absence() => boolean(false),
                Err(error) => Err(error),
            },
            Node::IsNull(inner) => match self.eval(inner, scope) {
                Ok(value) => boolean(*value == Value::Null),
                Err(error) if error.is_absence() => boolean(true),
                Err(error) => Err(error),
            },
            Node::Not(inner) => boolean(!self.bool(inner, scope, "`!`")?),
            Node::Negate(inner) => number(-expect_number(&*self.eval(inner, scope)?)?),
            Node::Logic { any, sides } => self.logic(*any, sides, scope),
            Node::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                self.eval(if self.bool(condition, scope, "`?`")? { then } else { otherwise }, scope)
            }
            Node::Binary(operator, sides) => {
                let [left, right] = &**sides;
                let left = match self.eval(left, scope) {
                    // In a list, null means that the value may be missing.
                    Err(error) if error.is_absence() && *operator == Operator::In => {
                        return match &*self.eval(right, scope)? {
                            Value::List(items) if items.contains(&Value::Null) => boolean(true),
                            _ => Err(error),
                        };
                    }
                    left => left?,
                };
                self.binary(*operator, left, self.eval(right, scope)?)
            }
            Node::Call(function, args) => match &**args {
                [target] => self.call(*function, &*self.eval(target, scope)?, &Value::Null),
                [target, arg] => self.call(*function, &*self.eval(target, scope)?, &*self.eval(arg, scope)?),
                _ => Err(EvaluationError::NoSuchItem),
            },
            Node::ChangeCase { upper, text } => self.change_case(*upper, self.eval(text, scope)?),
            Node::Matches(matches) => {
                let (text, pattern) = &**matches;
                self.matches(pattern, &*self.eval(text, scope)?)
            }
            Node::Compare(operator, sides) => {
                let [left, right] = &**sides;
                let order = self.operand(left, scope)?.order(&*self.operand(right, scope)?);
                boolean(order.is_some_and(|order| operator.accepts(order)))
            }
            Node::List(nodes) => {
                let items = nodes.iter().map(|node| self.budget.own(self.eval(node, scope)?));
                Ok(Cow::Owned(Value::List(items.collect::<Result<_, _>>()?)))
            }
            Node::Map(entries) => {
                let mut object = BTreeMap::new();
                for (key, value) in entries {
                    let Value::String(key) = self.budget.own(self.eval(key, scope)?)? else {
                        return Err(EvaluationError::NoSuchItem);
                    };
                    if object.insert(key, self.budget.own(self.eval(value, scope)?)?).is_some() {
                        return Err(EvaluationError::DuplicateKey);
                    }
                }
                Ok(Cow::Owned(Value::Object(object)))
            }
            Node::Loop(node) => self.evaluate_loop(node, scope),
        }
    }

    fn bool<'s>(
        &self,
        node: &'n Node,
        scope: Option<&'s Scope<'s>>,
        what: &'static str,
    ) -> Result<bool, EvaluationError<'n>>
    where
        'n: 's,
    {
        match &*self.eval(node, scope)? {
            Value::Bool(value) => Ok(*value),
            other => Err(EvaluationError::WrongType { what, expected: "true or false", found: type_name(other) }),
        }
    }

    /// The attribute with this full name, otherwise the value at the path.
    fn attribute(&self, full_name: &'n str, path: &'n [Box<str>]) -> Evaluated<'n, 'n> {
        if full_name == TARGETING_KEY {
            let key = self.context.targeting_key().ok_or(EvaluationError::Missing(full_name))?;
            self.budget.charge_text(key)?;
            return Ok(Cow::Owned(Value::String(key.to_owned())));
        }
        let attributes = self.context.attributes();
        let found = attributes.get(full_name).or_else(|| {
            let (root, fields) = path.split_first()?;
            fields.iter().try_fold(attributes.get(&**root)?, |value, name| match value {
                Value::Object(fields) => fields.get(&**name),
                _ => None,
            })
        });
        let found = found.filter(|value| **value != Value::Null);
        found.map(Cow::Borrowed).ok_or(EvaluationError::Missing(full_name))
    }

    /// `&&` and `||`. If one side decides the result, an error on the other side does not matter.
    fn logic<'s>(&self, any: bool, sides: &'n [Node; 2], scope: Option<&'s Scope<'s>>) -> Evaluated<'s, 'n>
    where
        'n: 's,
    {
        let [left, right] = sides;
        let what = if any { "`||`" } else { "`&&`" };
        let left = self.bool(left, scope, what);
        if left == Ok(any) {
            return boolean(any);
        }
        let right = self.bool(right, scope, what)?;
        if right == any { boolean(any) } else { left.map(|left| Cow::Owned(Value::Bool(left))) }
    }

    fn evaluate_loop<'s>(&self, node: &'n Loop, scope: Option<&'s Scope<'s>>) -> Evaluated<'s, 'n>
    where
        'n: 's,
    {
        let over = self.eval(&node.over, scope)?;
        let keys;
        let items = match &*over {
            Value::List(items) => items,
            Value::Object(fields) => {
                fields.keys().try_for_each(|name| self.budget.charge_text(name))?;
                let present = fields.iter().filter(|(_, value)| **value != Value::Null);
                keys = present.map(|(name, _)| name).map(|name| Value::String(name.clone())).collect::<Vec<_>>();
                &keys
            }
            other => {
                return Err(EvaluationError::WrongType {
                    what: "a loop",
                    expected: "a list or an object",
                    found: type_name(other),
                });
            }
        };
        let mut results = Vec::new();
        let mut matches = 0_usize;
        let mut first_error = None;
        for item in items {
            self.budget.charge(1)?;
            let scope = Scope { item, outer: scope };
            let scope = Some(&scope);
            if let Some(only) = &node.only
                && !self.bool(only, scope, "a condition")?
            {
                continue;
            }
            match node.kind {
                LoopKind::Map => results.push(self.budget.own(self.eval(&node.body, scope)?)?),
                LoopKind::Filter => {
                    if self.bool(&node.body, scope, "a condition")? {
                        results.push(self.budget.own(Cow::Borrowed(item))?);
                    }
                }
                LoopKind::ExistsOne => matches += usize::from(self.bool(&node.body, scope, "a condition")?),
                LoopKind::All | LoopKind::Exists => match self.bool(&node.body, scope, "a condition") {
                    Ok(found) if found == (node.kind == LoopKind::Exists) => return boolean(found),
                    Ok(_) => {}
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                },
            }
        }
        match (node.kind, first_error) {
            (_, Some(error)) => Err(error),
            (LoopKind::Map | LoopKind::Filter, None) => Ok(Cow::Owned(Value::List(results))),
            (LoopKind::ExistsOne, None) => boolean(matches == 1),
            (LoopKind::All, None) => boolean(true),
            (LoopKind::Exists, None) => boolean(false),
        }
    }
}
