//! Compiles the source of an audience to a typed tree.
//!
//! The `cel` crate parses without macros, so that `has` and the loops appear in its tree as written and error messages
//! can name them. An attribute can have any type, so some types are only known at evaluation. A type that is known and
//! wrong is rejected here.

mod binary;
mod convert;

use std::sync::LazyLock;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};

use self::convert::is_conversion;
use super::node::{Function, Loop, LoopKind, Node, StaticType, fold_list, fold_map, operator, usage};
use super::warning::AudienceWarning;
use super::{Audience, AudienceError, warning};
use crate::context::{TARGETING_KEY, Value};

/// A double represents all whole numbers up to this one exactly.
const MAX_EXACT: i64 = 1 << 53;

/// Twice the stack that the parser needs for the deepest source that the scan accepts, in bytes.
///
/// In a debug build the parser needs well over 100 KiB for each pair of brackets. On a thread with the usual stack, 15
/// pairs would end the process.
const PARSER_STACK: usize = 16 * 1024 * 1024;

/// A checked expression, with warnings about parts that probably do not mean what their author expects.
pub(super) struct Compiled {
    pub(super) root: Node,
    pub(super) warnings: Vec<AudienceWarning>,
    /// Whether the cost depends on the context: the expression has a loop or a pattern.
    pub(super) is_expensive: bool,
}

/// Parses and checks a scanned source, on a thread with a large stack.
pub(super) fn compile(source: &str) -> Result<Compiled, AudienceError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("audience".to_owned()).stack_size(PARSER_STACK);
        let compiled = thread.spawn_scoped(scope, || parse(source)).map(std::thread::ScopedJoinHandle::join);
        match compiled {
            Ok(Ok(compiled)) => compiled,
            // No input is known that makes the parser panic. If one exists, the caller sees the panic.
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(AudienceError::NoThread { message: error.to_string() }),
        }
    })
}

fn parse(source: &str) -> Result<Compiled, AudienceError> {
    /// CEL's grammar without its macros and without optional values.
    static GRAMMAR: LazyLock<cel::Env> = LazyLock::new(|| cel::Env::default().with_optional_support(false));

    let program = GRAMMAR.compile(source).map_err(|errors| syntax_error(source, &errors))?;
    let mut checker = Checker { source_info: program.source_info(), variables: Vec::new(), warnings: Vec::new() };
    match checker.check(program.expression())? {
        (root, StaticType::Bool | StaticType::Any) => {
            let is_expensive = is_expensive(&root);
            Ok(Compiled { root, warnings: checker.warnings, is_expensive })
        }
        (_, kind) => Err(AudienceError::NotBoolean { found: kind.name() }),
    }
}

fn is_expensive(node: &Node) -> bool {
    let mut any = matches!(node, Node::Loop(_) | Node::Matches(_));
    node.for_each_part(&mut |part| any = any || is_expensive(part));
    any
}

fn syntax_error(source: &str, errors: &cel::ParseErrors) -> AudienceError {
    let Some(error) = errors.errors.first() else {
        return AudienceError::Syntax {
            message: "the parser gives no reason: check the expression".to_owned(),
            position: 1,
        };
    };
    // The parser counts lines and columns. A position counts characters from the start.
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
    let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
    let before: usize = source.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let mut message = message.trim_end_matches('.').replace('\n', " ");
    if let Some(tokens) = message.find(" expecting ") {
        // The parser lists up to twenty token names, which do not help.
        message.truncate(tokens);
    }
    AudienceError::Syntax { message, position: before + column }
}

type Checked = Result<(Node, StaticType), AudienceError>;

struct Checker<'a> {
    source_info: &'a SourceInfo,
    /// The variables of the enclosing loops, outermost first.
    variables: Vec<(&'a str, StaticType)>,
    warnings: Vec<AudienceWarning>,
}

impl<'a> Checker<'a> {
    fn check(&mut self, expr: &'a IdedExpr) -> Checked {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Ident(name) => {
                let resolved = self.resolve(name);
                if let (Node::Attribute { full_name, .. }, _) = &resolved {
                    self.warnings.extend(warning::attribute(full_name, self.position(expr)));
                }
                Ok(resolved)
            }
            Expr::Select(select) => {
                if let Some(path) = self.attribute_path(expr) {
                    if path.len() > 1 && path.first().is_some_and(|root| &**root == TARGETING_KEY) {
                        return Err(
                            self.wrong_type(expr, "`targetingKey` is text and has no fields: use it without a dot")
                        );
                    }
                    let full_name = path.join(".").into();
                    return Ok((Node::Attribute { full_name, path: path.into() }, StaticType::Any));
                }
                let (operand, kind) = self.check(&select.operand)?;
                if !kind.is_compatible_with(&StaticType::Map) {
                    return Err(self.wrong_type(
                        expr,
                        format!(
                            "{kind} has no fields, so `{}` does not exist: use an object before the dot",
                            select.field
                        ),
                    ));
                }
                Ok((Node::Field(Box::new(operand), select.field.as_str().into()), StaticType::Any))
            }
            Expr::List(list) => self.list(&list.elements),
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(self.unsupported_message(expr));
                    };
                    let key = self.expect(&entry.key, &StaticType::Text, "a key")?;
                    entries.push((key, self.check(&entry.value)?.0));
                }
                Ok((fold_map(entries), StaticType::Map))
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::Struct(_) => Err(self.unsupported_message(expr)),
            Expr::Comprehension(_) | Expr::Unspecified => Err(AudienceError::Syntax {
                message: "the expression is not complete: finish it".to_owned(),
                position: self.position(expr),
            }),
        }
    }

    fn literal(&self, expr: &IdedExpr, literal: &LiteralValue) -> Checked {
        let exact = |n: Option<i64>| match n {
            #[allow(clippy::cast_precision_loss, reason = "within ±2^53, which a double represents exactly")]
            Some(n) if (-MAX_EXACT..=MAX_EXACT).contains(&n) => {
                Ok((Node::Literal(Value::Number(n as f64)), StaticType::Number))
            }
            _ => Err(self.wrong_type(expr, "numbers are exact up to 2^53 only: write a larger one as text, in quotes")),
        };
        match literal {
            LiteralValue::Null => Ok((Node::Literal(Value::Null), StaticType::Null)),
            LiteralValue::Boolean(b) => Ok((Node::Literal(Value::Bool(*b.inner())), StaticType::Bool)),
            LiteralValue::Int(n) => exact(Some(*n.inner())),
            LiteralValue::UInt(n) => exact(i64::try_from(*n.inner()).ok()),
            LiteralValue::Double(n) if n.inner().is_finite() => {
                Ok((Node::Literal(Value::Number(*n.inner())), StaticType::Number))
            }
            LiteralValue::Double(_) => Err(self.wrong_type(expr, "the number is too large: use a smaller one")),
            LiteralValue::String(s) => Ok((Node::Literal(Value::String(s.inner().to_owned())), StaticType::Text)),
            LiteralValue::Bytes(_) => Err(AudienceError::Unsupported {
                what: "a bytes literal",
                instead: "remove the `b`, because a context contains only text",
                position: self.position(expr),
            }),
        }
    }

    /// The variable of a loop, otherwise an attribute.
    fn resolve(&self, name: &str) -> (Node, StaticType) {
        if let Some(up) = self.variables.iter().rev().position(|(variable, _)| *variable == name) {
            let kind = self.variables.iter().rev().nth(up).map_or(StaticType::Any, |(_, kind)| kind.clone());
            return (Node::Variable(up), kind);
        }
        // A leading dot means an attribute, even if a loop has a variable of this name.
        let name = name.trim_start_matches('.');
        let kind = if name == TARGETING_KEY { StaticType::Text } else { StaticType::Any };
        (Node::Attribute { full_name: name.into(), path: Box::new([name.into()]) }, kind)
    }

    /// The names in `a.b.c`; `None` if `a` is not an attribute.
    fn attribute_path(&self, expr: &IdedExpr) -> Option<Vec<Box<str>>> {
        match &expr.expr {
            Expr::Ident(name) if self.variables.iter().any(|(variable, _)| variable == name) => None,
            Expr::Ident(name) => Some(vec![name.trim_start_matches('.').into()]),
            Expr::Select(select) if !select.test => {
                let mut path = self.attribute_path(&select.operand)?;
                path.push(select.field.as_str().into());
                Some(path)
            }
            _ => None,
        }
    }

    fn list(&mut self, elements: &'a [IdedExpr]) -> Checked {
        let mut kind: Option<StaticType> = None;
        let mut nodes = Vec::with_capacity(elements.len());
        for element in elements {
            let (node, found) = self.check(element)?;
            nodes.push(node);
            kind = Some(match kind {
                Some(kind) => kind.union(found),
                None => found,
            });
        }
        Ok((fold_list(nodes), StaticType::List(Box::new(kind.unwrap_or(StaticType::Any)))))
    }

    fn call(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Checked {
        let CallExpr { func_name: name, target, args } = call;
        if let Some(target) = target {
            return self.member(expr, name, target, args);
        }
        match (name.as_str(), args.as_slice()) {
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                let condition = self.expect(condition, &StaticType::Bool, "the condition before `?`")?;
                let (then, a) = self.check(then)?;
                let (otherwise, b) = self.check(otherwise)?;
                Ok((Node::Conditional(Box::new([condition, then, otherwise])), a.union(b)))
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                let any = name == operators::LOGICAL_OR;
                let side = if any { "each side of `||`" } else { "each side of `&&`" };
                let sides = [self.expect(left, &StaticType::Bool, side)?, self.expect(right, &StaticType::Bool, side)?];
                Ok((Node::Logic { any, sides: Box::new(sides) }, StaticType::Bool))
            }
            (operators::LOGICAL_NOT, [arg]) => {
                Ok((Node::Not(Box::new(self.expect(arg, &StaticType::Bool, "the operand of `!`")?)), StaticType::Bool))
            }
            (operators::NEGATE, [arg]) => Ok(match self.expect(arg, &StaticType::Number, "the operand of `-`")? {
                Node::Literal(Value::Number(n)) => (Node::Literal(Value::Number(-n)), StaticType::Number),
                node => (Node::Negate(Box::new(node)), StaticType::Number),
            }),
            (operators::INDEX, [of, index]) => self.index(of, index),
            ("has", [arg]) => match &arg.expr {
                Expr::Ident(_) | Expr::Select(_) => Ok((Node::Has(Box::new(self.check(arg)?.0)), StaticType::Bool)),
                _ => Err(self.bad_call(expr, name)),
            },
            ("size", [arg]) => self.size(arg),
            ("int" | "double" | "string", [arg]) => {
                let (node, kind) = self.check(arg)?;
                let convertible = match (name.as_str(), &kind) {
                    (_, StaticType::Any | StaticType::Number | StaticType::Text) => true,
                    (converter, StaticType::Bool) => converter == "string",
                    _ => false,
                };
                if !convertible {
                    return Err(self.wrong_type(arg, format!("`{name}` cannot convert {kind}: use a number or text")));
                }
                let (function, kind) = match name.as_str() {
                    "int" => (Function::Int, StaticType::Number),
                    "double" => (Function::Double, StaticType::Number),
                    _ => (Function::Text, StaticType::Text),
                };
                Ok((Node::Call(function, Box::new([node])), kind))
            }
            ("isSemver", [arg]) => {
                let text = self.expect(arg, &StaticType::Text, "the argument of `isSemver`")?;
                Ok((Node::Call(Function::IsSemver, Box::new([text])), StaticType::Bool))
            }
            ("now" | "today", []) => Err(AudienceError::Unsupported {
                what: "the current time",
                instead: "compare with a fixed time, like `timestamp(\"2026-09-29T00:00:00Z\")`",
                position: self.position(expr),
            }),
            (_, [left, right]) if is_conversion(left) || is_conversion(right) => {
                self.compare_converted(expr, name, left, right)
            }
            (_, [left, right]) => match operator(name) {
                Some(operator) => self.binary(expr, operator, left, right),
                None => Err(self.bad_call(expr, name)),
            },
            _ => Err(self.bad_call(expr, name)),
        }
    }

    fn member(&mut self, expr: &'a IdedExpr, name: &str, target: &'a IdedExpr, args: &'a [IdedExpr]) -> Checked {
        match (name, args) {
            ("size", []) => self.size(target),
            ("contains" | "startsWith" | "endsWith", [arg]) => {
                let function = match name {
                    "contains" => Function::Contains,
                    "startsWith" => Function::StartsWith,
                    _ => Function::EndsWith,
                };
                let target = self.expect(target, &StaticType::Text, &format!("the text before `.{name}`"))?;
                let arg = self.expect(arg, &StaticType::Text, &format!("the argument of `{name}`"))?;
                Ok((Node::Call(function, Box::new([target, arg])), StaticType::Bool))
            }
            ("matches", [pattern]) => self.matches(expr, target, pattern),
            ("lowerAscii" | "upperAscii", []) => {
                let text = Box::new(self.expect(target, &StaticType::Text, &format!("the text before `.{name}`"))?);
                Ok((Node::ChangeCase { upper: name == "upperAscii", text }, StaticType::Text))
            }
            ("all", [variable, body]) => self.compile_loop(expr, LoopKind::All, name, [target, variable, body], None),
            ("exists", [variable, body]) => {
                self.compile_loop(expr, LoopKind::Exists, name, [target, variable, body], None)
            }
            ("exists_one" | "existsOne", [variable, body]) => {
                self.compile_loop(expr, LoopKind::ExistsOne, name, [target, variable, body], None)
            }
            ("filter", [variable, body]) => {
                self.compile_loop(expr, LoopKind::Filter, name, [target, variable, body], None)
            }
            ("map", [variable, body]) => self.compile_loop(expr, LoopKind::Map, name, [target, variable, body], None),
            ("map", [variable, only, body]) => {
                self.compile_loop(expr, LoopKind::Map, name, [target, variable, body], Some(only))
            }
            _ => Err(self.bad_call(expr, name)),
        }
    }

    fn compile_loop(
        &mut self,
        expr: &'a IdedExpr,
        kind: LoopKind,
        name: &str,
        [over, variable, body]: [&'a IdedExpr; 3],
        only: Option<&'a IdedExpr>,
    ) -> Checked {
        let Expr::Ident(variable) = &variable.expr else { return Err(self.bad_call(expr, name)) };
        let (over_node, over_kind) = self.check(over)?;
        let item = match &over_kind {
            StaticType::List(item) => (**item).clone(),
            StaticType::Map => StaticType::Text,
            StaticType::Any => StaticType::Any,
            kind => return Err(self.wrong_type(over, format!("`{name}` needs a list or an object, not {kind}"))),
        };
        if self.variables.len() >= Audience::MAX_LOOPS {
            let (max, position) = (Audience::MAX_LOOPS, self.position(expr));
            return Err(AudienceError::TooManyLoops { name: name.to_owned(), max, position });
        }
        self.variables.push((variable, item.clone()));
        let condition = format!("the condition of `{name}`");
        let only = only.map(|only| self.expect(only, &StaticType::Bool, &condition)).transpose()?;
        let (body, body_type) = match kind {
            LoopKind::Map => self.check(body)?,
            _ => (self.expect(body, &StaticType::Bool, &condition)?, StaticType::Bool),
        };
        self.variables.pop();
        let result = match kind {
            LoopKind::Map => StaticType::List(Box::new(body_type)),
            LoopKind::Filter => StaticType::List(Box::new(item)),
            _ => StaticType::Bool,
        };
        Ok((Node::Loop(Box::new(Loop { kind, over: over_node, body, only })), result))
    }

    fn size(&mut self, arg: &'a IdedExpr) -> Checked {
        match self.check(arg)? {
            (node, StaticType::Any | StaticType::Text | StaticType::List(_) | StaticType::Map) => {
                Ok((Node::Call(Function::Size, Box::new([node])), StaticType::Number))
            }
            (_, kind) => Err(self.wrong_type(arg, format!("`size` needs text, a list or an object, not {kind}"))),
        }
    }

    fn index(&mut self, of: &'a IdedExpr, index: &'a IdedExpr) -> Checked {
        let (node, kind) = self.check(of)?;
        let (by, found) = match kind {
            StaticType::List(item) => (self.expect(index, &StaticType::Number, "the index of a list")?, *item),
            StaticType::Map => (self.expect(index, &StaticType::Text, "the key of an object")?, StaticType::Any),
            StaticType::Any => match self.check(index)? {
                (by, StaticType::Any | StaticType::Number | StaticType::Text) => (by, StaticType::Any),
                (_, kind) => {
                    return Err(self.wrong_type(index, format!("an index must be a number or text, not {kind}")));
                }
            },
            kind => return Err(self.wrong_type(of, format!("{kind} has no items: use a list or an object before `[`"))),
        };
        Ok((Node::Index(Box::new([node, by])), found))
    }

    /// Checks that the expression can have this type.
    fn expect(&mut self, expr: &'a IdedExpr, kind: &StaticType, what: &str) -> Result<Node, AudienceError> {
        let (node, found) = self.check(expr)?;
        if found.is_compatible_with(kind) {
            Ok(node)
        } else {
            Err(self.wrong_type(expr, format!("{what} must be {kind}, not {found}")))
        }
    }

    fn wrong_type(&self, expr: &IdedExpr, message: impl Into<String>) -> AudienceError {
        AudienceError::WrongType { message: message.into(), position: self.position(expr) }
    }

    fn unsupported_message(&self, expr: &IdedExpr) -> AudienceError {
        let position = self.position(expr);
        AudienceError::Unsupported { what: "a message", instead: "write an object, like `{'a': 1}`", position }
    }

    /// The error for a call of an unknown function, or of a known one in the wrong form.
    fn bad_call(&self, expr: &IdedExpr, name: &str) -> AudienceError {
        let (name, position) = (name.to_owned(), self.position(expr));
        match usage(&name) {
            Some(usage) => AudienceError::WrongUsage { name, usage, position },
            None => AudienceError::UnknownFunction { name, position },
        }
    }

    /// The position of an expression. For an operator it is the operator, for a call its bracket.
    fn position(&self, expr: &IdedExpr) -> usize {
        let before =
            self.source_info.offset_for(expr.id).and_then(|(start, _)| self.source_info.source.get(..start as usize));
        before.map_or(0, |before| before.chars().count()) + 1
    }
}
