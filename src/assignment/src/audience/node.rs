//! The typed tree that an audience is compiled to and evaluated as.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use cel::common::ast::operators;

use super::convert::{Conversion, Converted, Pattern};
use crate::context::Value;

/// The supported functions, for an error message.
pub(super) const FUNCTIONS: &str = "`has`, `size`, `contains`, `startsWith`, `endsWith`, `matches`, `lowerAscii`, \
                                    `upperAscii`, `int`, `double`, `string`, `semver`, `isSemver`, `timestamp`, \
                                    `duration`, `all`, `exists`, `exists_one`, `map`, `filter`";

/// A checked expression.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Value),
    /// A top-level attribute, or a path that starts at one. `full_name` is the path as written, with dots.
    Attribute {
        full_name: Box<str>,
        path: Box<[Box<str>]>,
    },
    /// The variable of a loop; 0 is the innermost loop.
    Variable(usize),
    Field(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    Has(Box<Node>),
    /// Whether a value is null or missing: `value == null`.
    IsNull(Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// `||` if `any`, otherwise `&&`.
    Logic {
        any: bool,
        sides: Box<[Node; 2]>,
    },
    Conditional(Box<[Node; 3]>),
    Binary(Operator, Box<[Node; 2]>),
    Call(Function, Box<[Node]>),
    /// `upperAscii` if `upper`, otherwise `lowerAscii`.
    ChangeCase {
        upper: bool,
        text: Box<Node>,
    },
    Matches(Box<(Node, Pattern)>),
    /// A comparison of versions, instants or durations.
    Compare(Operator, Box<[Operand; 2]>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Loop(Box<Loop>),
}

impl Node {
    /// Calls `visit` with each direct part of the expression.
    pub(super) fn for_each_part<'n>(&'n self, visit: &mut dyn FnMut(&'n Self)) {
        match self {
            Self::Literal(_) | Self::Attribute { .. } | Self::Variable(_) => {}
            Self::Field(node, _) | Self::Has(node) | Self::IsNull(node) | Self::Not(node) | Self::Negate(node) => {
                visit(node);
            }
            Self::ChangeCase { text, .. } => visit(text),
            Self::Matches(matches) => visit(&matches.0),
            Self::Index(nodes) | Self::Logic { sides: nodes, .. } | Self::Binary(_, nodes) => {
                nodes.iter().for_each(visit);
            }
            Self::Conditional(nodes) => nodes.iter().for_each(visit),
            Self::Call(_, nodes) | Self::List(nodes) => nodes.iter().for_each(visit),
            Self::Map(entries) => entries.iter().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
            Self::Compare(_, sides) => sides.iter().for_each(|side| side.for_each_node(visit)),
            Self::Loop(node) => [&node.over, &node.body].into_iter().chain(&node.only).for_each(visit),
        }
    }
}

/// One side of a comparison of converted values.
#[derive(Debug)]
pub(super) enum Operand {
    Constant(Converted),
    Convert(Conversion, Node),
    /// A sum or, with `subtract`, a difference of times.
    Calculate {
        subtract: bool,
        sides: Box<[Operand; 2]>,
    },
}

impl Operand {
    /// Calls `visit` with each expression that is converted.
    pub(super) fn for_each_node<'n>(&'n self, visit: &mut dyn FnMut(&'n Node)) {
        match self {
            Self::Constant(_) => {}
            Self::Convert(_, node) => visit(node),
            Self::Calculate { sides, .. } => sides.iter().for_each(|side| side.for_each_node(visit)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Loop {
    pub(super) kind: LoopKind,
    pub(super) over: Node,
    pub(super) body: Node,
    /// The condition of a `map` with three arguments: items that fail it are skipped.
    pub(super) only: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    /// Whether a comparison is true for values in this order; false for other operators.
    pub(super) fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::In | Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Remainder => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Double,
    Text,
    IsSemver,
}

/// The type of an expression, as far as it is known without a context.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StaticType {
    Any,
    Null,
    Bool,
    Number,
    Text,
    List(Box<StaticType>),
    Map,
}

impl StaticType {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text",
            Self::List(_) => "a list",
            Self::Map => "an object",
        }
    }

    /// Whether a value can have both types.
    pub(super) fn is_compatible_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(a), Self::List(b)) => a.is_compatible_with(b),
            _ => self == other,
        }
    }

    /// The type of a value that has one of two types.
    pub(super) fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.union(*b))),
            (a, b) if a == b => a,
            _ => Self::Any,
        }
    }
}

impl fmt::Display for StaticType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The correct form of a call, for an error message; `None` if the function does not exist.
pub(super) fn usage(name: &str) -> Option<&'static str> {
    Some(match name {
        "has" => "`has(attribute)` or `has(object.field)`",
        "size" => "`size(list)`",
        "contains" => "`text.contains(text)`; for a list, `item in list`",
        "startsWith" => "`text.startsWith(text)`",
        "endsWith" => "`text.endsWith(text)`",
        "matches" => "`text.matches(\"pattern\")`, with the pattern in quotes",
        "lowerAscii" | "lower" | "toLower" | "toLowerCase" | "lowercase" => "`text.lowerAscii()`",
        "upperAscii" | "upper" | "toUpper" | "toUpperCase" | "uppercase" => "`text.upperAscii()`",
        "semver" | "version" => "a comparison like `semver(app) >= semver(\"10.4.0\")`",
        "isSemver" => "`isSemver(text)`",
        "timestamp" | "date" => "a comparison like `timestamp(signup) >= timestamp(\"2026-09-29T00:00:00Z\")`",
        "duration" => "`timestamp(a) - timestamp(b) > duration(\"7d\")`, with the duration in quotes",
        "int" => "`int(value)`",
        "double" => "`double(value)`",
        "string" => "`string(value)`",
        "all" => "`list.all(item, condition)`",
        "exists" => "`list.exists(item, condition)`",
        "exists_one" | "existsOne" => "`list.exists_one(item, condition)`",
        "map" => "`list.map(item, value)`",
        "filter" => "`list.filter(item, condition)`",
        _ => return None,
    })
}

pub(super) fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::EQUALS => Operator::Equal,
        operators::NOT_EQUALS => Operator::Unequal,
        operators::LESS => Operator::Less,
        operators::LESS_EQUALS => Operator::LessOrEqual,
        operators::GREATER => Operator::Greater,
        operators::GREATER_EQUALS => Operator::GreaterOrEqual,
        operators::IN => Operator::In,
        operators::ADD => Operator::Add,
        operators::SUBSTRACT => Operator::Subtract,
        operators::MULTIPLY => Operator::Multiply,
        operators::DIVIDE => Operator::Divide,
        operators::MODULO => Operator::Remainder,
        _ => return None,
    })
}

/// A list. If all items are literals, so is the list: an evaluation then borrows it instead of building it.
pub(super) fn fold_list(nodes: Vec<Node>) -> Node {
    if !nodes.iter().all(|node| matches!(node, Node::Literal(_))) {
        return Node::List(nodes.into());
    }
    let literals = nodes.into_iter().filter_map(|node| match node {
        Node::Literal(value) => Some(value),
        _ => None,
    });
    Node::Literal(Value::List(literals.collect()))
}

/// An object. If all its keys and values are literals, so is the object. If a key occurs twice, the evaluation reports
/// the error.
pub(super) fn fold_map(entries: Vec<(Node, Node)>) -> Node {
    let mut object = BTreeMap::new();
    for entry in &entries {
        let (Node::Literal(Value::String(key)), Node::Literal(value)) = entry else { return Node::Map(entries.into()) };
        if object.insert(key.clone(), value.clone()).is_some() {
            return Node::Map(entries.into());
        }
    }
    Node::Literal(Value::Object(object))
}
