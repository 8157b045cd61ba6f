//! From source to a typed tree.
//!
//! The `cel` crate parses, without macros, so that `has` and the loops arrive as they were written and a mistake in
//! them can be named. Attributes may hold anything, so types are what can be known without a context; a known type in
//! the wrong place is refused.

use std::sync::LazyLock;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};

use super::node::{Function, Kind, Loop, LoopKind, Node, Operator, fold_list, fold_map, operator, usage};
use super::{Audience, AudienceError};
use crate::context::{TARGETING_KEY, Value};

/// Whole numbers up to here are exact in a double.
const EXACT: i64 = 1 << 53;

/// What the parser needs of stack for the deepest source that the scan lets through, twice over.
///
/// Unoptimised, as in a debug build of a client, the parser takes well over 100 KiB for every pair of brackets, so that
/// fifteen of them would end a process that parses on an ordinary thread.
const STACK: usize = 16 * 1024 * 1024;

/// Parses a source that was scanned and checks it, on a stack of its own.
pub(super) fn compile(source: &str) -> Result<Node, AudienceError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("audience".to_owned()).stack_size(STACK);
        let compiled = thread.spawn_scoped(scope, || parse(source)).map(std::thread::ScopedJoinHandle::join);
        match compiled {
            Ok(Ok(compiled)) => compiled,
            // No input is known that makes the parser panic. If there is one, it stays the caller's to see.
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(AudienceError::NoThread { message: error.to_string() }),
        }
    })
}

fn parse(source: &str) -> Result<Node, AudienceError> {
    /// CEL's grammar without its macros and without optional values.
    static GRAMMAR: LazyLock<cel::Env> = LazyLock::new(|| cel::Env::default().with_optional_support(false));

    let program = GRAMMAR.compile(source).map_err(|errors| syntax_error(source, &errors))?;
    let mut checker = Checker { places: program.source_info(), variables: Vec::new() };
    match checker.check(program.expression())? {
        (node, Kind::Bool | Kind::Any) => Ok(node),
        (_, kind) => Err(AudienceError::NotBoolean { found: kind.name() }),
    }
}

fn syntax_error(source: &str, errors: &cel::ParseErrors) -> AudienceError {
    let Some(error) = errors.errors.first() else {
        return AudienceError::Syntax { message: "the parser does not say why".to_owned(), position: 1 };
    };
    // The parser counts lines and columns; a position counts characters, as everywhere here.
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
    let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
    let before: usize = source.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let mut message = message.trim_end_matches('.').replace('\n', " ");
    if let Some(tokens) = message.find(" expecting ") {
        // Twenty token names help nobody.
        message.truncate(tokens);
    }
    AudienceError::Syntax { message, position: before + column }
}

type Checked = Result<(Node, Kind), AudienceError>;

struct Checker<'a> {
    places: &'a SourceInfo,
    /// The variables of the loops around, outermost first.
    variables: Vec<(&'a str, Kind)>,
}

impl<'a> Checker<'a> {
    fn check(&mut self, expr: &'a IdedExpr) -> Checked {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Ident(name) => Ok(self.name(name)),
            Expr::Select(select) => {
                if let Some(path) = self.path(expr) {
                    if path.len() > 1 && path.first().is_some_and(|root| &**root == TARGETING_KEY) {
                        return Err(self.wrong(expr, "`targetingKey` is text and has no fields"));
                    }
                    let whole = path.join(".").into();
                    return Ok((Node::Attribute { whole, path: path.into() }, Kind::Any));
                }
                let (operand, kind) = self.check(&select.operand)?;
                if !kind.meets(&Kind::Map) {
                    return Err(self.wrong(expr, format!("{kind} has no field `{}`", select.field)));
                }
                Ok((Node::Field(Box::new(operand), select.field.as_str().into()), Kind::Any))
            }
            Expr::List(list) => self.list(&list.elements),
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(self.message(expr));
                    };
                    let key = self.expect(&entry.key, &Kind::Text, "a key")?;
                    entries.push((key, self.check(&entry.value)?.0));
                }
                Ok((fold_map(entries), Kind::Map))
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::Struct(_) => Err(self.message(expr)),
            Expr::Comprehension(_) | Expr::Unspecified => {
                Err(AudienceError::Syntax { message: "this is not complete".to_owned(), position: self.place(expr) })
            }
        }
    }

    fn literal(&self, expr: &IdedExpr, literal: &LiteralValue) -> Checked {
        let whole = |n: Option<i64>| match n {
            #[allow(clippy::cast_precision_loss, reason = "within ±2^53, which a double holds exactly")]
            Some(n) if (-EXACT..=EXACT).contains(&n) => Ok((Node::Literal(Value::Number(n as f64)), Kind::Number)),
            _ => Err(self.wrong(expr, "numbers are exact up to 2^53 only: write a longer one as text, in quotes")),
        };
        match literal {
            LiteralValue::Null => Ok((Node::Literal(Value::Null), Kind::Null)),
            LiteralValue::Boolean(b) => Ok((Node::Literal(Value::Bool(*b.inner())), Kind::Bool)),
            LiteralValue::Int(n) => whole(Some(*n.inner())),
            LiteralValue::UInt(n) => whole(i64::try_from(*n.inner()).ok()),
            LiteralValue::Double(n) if n.inner().is_finite() => {
                Ok((Node::Literal(Value::Number(*n.inner())), Kind::Number))
            }
            LiteralValue::Double(_) => Err(self.wrong(expr, "the number is too large")),
            LiteralValue::String(s) => Ok((Node::Literal(Value::String(s.inner().to_owned())), Kind::Text)),
            LiteralValue::Bytes(_) => Err(AudienceError::Unsupported {
                what: "a literal of bytes",
                instead: "a context holds none, so write it without the `b`",
                position: self.place(expr),
            }),
        }
    }

    fn name(&self, name: &str) -> (Node, Kind) {
        if let Some(up) = self.variables.iter().rev().position(|(variable, _)| *variable == name) {
            let kind = self.variables.iter().rev().nth(up).map_or(Kind::Any, |(_, kind)| kind.clone());
            return (Node::Variable(up), kind);
        }
        // A leading dot says that a loop's variable is not meant.
        let name = name.trim_start_matches('.');
        let kind = if name == TARGETING_KEY { Kind::Text } else { Kind::Any };
        (Node::Attribute { whole: name.into(), path: Box::new([name.into()]) }, kind)
    }

    /// The names in `a.b.c`, if `a` is an attribute.
    fn path(&self, expr: &IdedExpr) -> Option<Vec<Box<str>>> {
        match &expr.expr {
            Expr::Ident(name) if self.variables.iter().any(|(variable, _)| variable == name) => None,
            Expr::Ident(name) => Some(vec![name.trim_start_matches('.').into()]),
            Expr::Select(select) if !select.test => {
                let mut path = self.path(&select.operand)?;
                path.push(select.field.as_str().into());
                Some(path)
            }
            _ => None,
        }
    }

    fn list(&mut self, elements: &'a [IdedExpr]) -> Checked {
        let mut kind: Option<Kind> = None;
        let mut nodes = Vec::with_capacity(elements.len());
        for element in elements {
            let (node, of) = self.check(element)?;
            nodes.push(node);
            kind = Some(match kind {
                Some(kind) => kind.or(of),
                None => of,
            });
        }
        Ok((fold_list(nodes), Kind::List(Box::new(kind.unwrap_or(Kind::Any)))))
    }

    fn call(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Checked {
        let CallExpr { func_name: name, target, args } = call;
        if let Some(target) = target {
            return self.member(expr, name, target, args);
        }
        match (name.as_str(), args.as_slice()) {
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                let condition = self.expect(condition, &Kind::Bool, "the condition before `?`")?;
                let (then, a) = self.check(then)?;
                let (otherwise, b) = self.check(otherwise)?;
                Ok((Node::Conditional(Box::new([condition, then, otherwise])), a.or(b)))
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                let any = name == operators::LOGICAL_OR;
                let side = if any { "a side of `||`" } else { "a side of `&&`" };
                let sides = [self.expect(left, &Kind::Bool, side)?, self.expect(right, &Kind::Bool, side)?];
                Ok((Node::Logic { any, sides: Box::new(sides) }, Kind::Bool))
            }
            (operators::LOGICAL_NOT, [arg]) => {
                Ok((Node::Not(Box::new(self.expect(arg, &Kind::Bool, "what follows `!`")?)), Kind::Bool))
            }
            (operators::NEGATE, [arg]) => Ok(match self.expect(arg, &Kind::Number, "what follows `-`")? {
                Node::Literal(Value::Number(n)) => (Node::Literal(Value::Number(-n)), Kind::Number),
                node => (Node::Negate(Box::new(node)), Kind::Number),
            }),
            (operators::INDEX, [of, index]) => self.index(of, index),
            ("has", [arg]) => match &arg.expr {
                Expr::Ident(_) | Expr::Select(_) => Ok((Node::Has(Box::new(self.check(arg)?.0)), Kind::Bool)),
                _ => Err(self.no_such(expr, name)),
            },
            ("size", [arg]) => self.size(arg),
            ("int" | "double" | "string", [arg]) => {
                let (node, kind) = self.check(arg)?;
                let fits = match (name.as_str(), &kind) {
                    (_, Kind::Any | Kind::Number | Kind::Text) => true,
                    (converter, Kind::Bool) => converter == "string",
                    _ => false,
                };
                if !fits {
                    return Err(self.wrong(arg, format!("`{name}` cannot convert {kind}")));
                }
                let (function, kind) = match name.as_str() {
                    "int" => (Function::Int, Kind::Number),
                    "double" => (Function::Double, Kind::Number),
                    _ => (Function::Text, Kind::Text),
                };
                Ok((Node::Call(function, Box::new([node])), kind))
            }
            (_, [left, right]) => match operator(name) {
                Some(operator) => self.binary(expr, operator, left, right),
                None => Err(self.no_such(expr, name)),
            },
            _ => Err(self.no_such(expr, name)),
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
                let target = self.expect(target, &Kind::Text, &format!("what `{name}` looks in"))?;
                let arg = self.expect(arg, &Kind::Text, &format!("what `{name}` looks for"))?;
                Ok((Node::Call(function, Box::new([target, arg])), Kind::Bool))
            }
            ("all", [variable, body]) => self.each(expr, LoopKind::All, name, [target, variable, body], None),
            ("exists", [variable, body]) => self.each(expr, LoopKind::Exists, name, [target, variable, body], None),
            ("exists_one" | "existsOne", [variable, body]) => {
                self.each(expr, LoopKind::ExistsOne, name, [target, variable, body], None)
            }
            ("filter", [variable, body]) => self.each(expr, LoopKind::Filter, name, [target, variable, body], None),
            ("map", [variable, body]) => self.each(expr, LoopKind::Map, name, [target, variable, body], None),
            ("map", [variable, only, body]) => {
                self.each(expr, LoopKind::Map, name, [target, variable, body], Some(only))
            }
            _ => Err(self.no_such(expr, name)),
        }
    }

    fn each(
        &mut self,
        expr: &'a IdedExpr,
        kind: LoopKind,
        name: &str,
        [over, variable, body]: [&'a IdedExpr; 3],
        only: Option<&'a IdedExpr>,
    ) -> Checked {
        let Expr::Ident(variable) = &variable.expr else { return Err(self.no_such(expr, name)) };
        let (over_node, over_kind) = self.check(over)?;
        let item = match &over_kind {
            Kind::List(item) => (**item).clone(),
            Kind::Map => Kind::Text,
            Kind::Any => Kind::Any,
            kind => return Err(self.wrong(over, format!("`{name}` goes over a list or an object, not {kind}"))),
        };
        if self.variables.len() >= Audience::MAX_LOOPS {
            let (max, position) = (Audience::MAX_LOOPS, self.place(expr));
            return Err(AudienceError::TooManyLoops { name: name.to_owned(), max, position });
        }
        self.variables.push((variable, item.clone()));
        let condition = format!("the condition of `{name}`");
        let only = only.map(|only| self.expect(only, &Kind::Bool, &condition)).transpose()?;
        let (body, of) = match kind {
            LoopKind::Map => self.check(body)?,
            _ => (self.expect(body, &Kind::Bool, &condition)?, Kind::Bool),
        };
        self.variables.pop();
        let result = match kind {
            LoopKind::Map => Kind::List(Box::new(of)),
            LoopKind::Filter => Kind::List(Box::new(item)),
            _ => Kind::Bool,
        };
        Ok((Node::Loop(Box::new(Loop { kind, over: over_node, body, only })), result))
    }

    fn size(&mut self, arg: &'a IdedExpr) -> Checked {
        match self.check(arg)? {
            (node, Kind::Any | Kind::Text | Kind::List(_) | Kind::Map) => {
                Ok((Node::Call(Function::Size, Box::new([node])), Kind::Number))
            }
            (_, kind) => Err(self.wrong(arg, format!("`size` counts text, a list or an object, not {kind}"))),
        }
    }

    fn index(&mut self, of: &'a IdedExpr, index: &'a IdedExpr) -> Checked {
        let (node, kind) = self.check(of)?;
        let (by, found) = match kind {
            Kind::List(item) => (self.expect(index, &Kind::Number, "the index of a list")?, *item),
            Kind::Map => (self.expect(index, &Kind::Text, "the key of an object")?, Kind::Any),
            Kind::Any => match self.check(index)? {
                (by, Kind::Any | Kind::Number | Kind::Text) => (by, Kind::Any),
                (_, kind) => return Err(self.wrong(index, format!("an index is a number or text, not {kind}"))),
            },
            kind => return Err(self.wrong(of, format!("{kind} has no items"))),
        };
        Ok((Node::Index(Box::new([node, by])), found))
    }

    fn binary(&mut self, expr: &IdedExpr, operator: Operator, left: &'a IdedExpr, right: &'a IdedExpr) -> Checked {
        use Operator as O;
        let (a, a_kind) = self.check(left)?;
        let (b, b_kind) = self.check(right)?;
        let clash = |verb: &str| Err(self.wrong(expr, format!("cannot {verb} {a_kind} and {b_kind}")));
        let both =
            |kinds: &[Kind]| a_kind.meets(&b_kind) && kinds.iter().any(|kind| a_kind.meets(kind) && b_kind.meets(kind));
        let any_list = Kind::List(Box::new(Kind::Any));
        let kind = match operator {
            O::Equal | O::Unequal => match (&a_kind, &b_kind) {
                (Kind::Null, _) | (_, Kind::Null) => Kind::Bool,
                _ if a_kind.meets(&b_kind) => Kind::Bool,
                _ => return clash("compare"),
            },
            O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual => {
                if !both(&[Kind::Number, Kind::Text, Kind::Bool]) {
                    return clash("order");
                }
                Kind::Bool
            }
            O::In => match &b_kind {
                Kind::Any => Kind::Bool,
                Kind::List(item) if a_kind.meets(item) => Kind::Bool,
                Kind::List(item) => {
                    return Err(self.wrong(expr, format!("{a_kind} cannot be in a list of {item}")));
                }
                Kind::Map if a_kind.meets(&Kind::Text) => Kind::Bool,
                Kind::Map => return Err(self.wrong(expr, format!("a key is text, not {a_kind}"))),
                kind => return Err(self.wrong(right, format!("`in` looks in a list or an object, not {kind}"))),
            },
            O::Add => {
                let lists = matches!((&a_kind, &b_kind), (Kind::List(_) | Kind::Any, Kind::List(_) | Kind::Any));
                if !lists && !both(&[Kind::Number, Kind::Text, any_list]) {
                    return clash("add");
                }
                match (a_kind, b_kind) {
                    (Kind::Any, kind @ (Kind::Number | Kind::Text))
                    | (kind @ (Kind::Number | Kind::Text), Kind::Any) => kind,
                    (Kind::Any, Kind::List(_)) | (Kind::List(_), Kind::Any) => Kind::List(Box::new(Kind::Any)),
                    (a, b) => a.or(b),
                }
            }
            O::Subtract | O::Multiply | O::Divide | O::Remainder => {
                if !both(&[Kind::Number]) {
                    return clash("calculate with");
                }
                Kind::Number
            }
        };
        Ok((Node::Binary(operator, Box::new([a, b])), kind))
    }

    /// The node, if it can be of the kind.
    fn expect(&mut self, expr: &'a IdedExpr, kind: &Kind, what: &str) -> Result<Node, AudienceError> {
        let (node, found) = self.check(expr)?;
        if found.meets(kind) { Ok(node) } else { Err(self.wrong(expr, format!("{what} must be {kind}, not {found}"))) }
    }

    fn wrong(&self, expr: &IdedExpr, message: impl Into<String>) -> AudienceError {
        AudienceError::WrongType { message: message.into(), position: self.place(expr) }
    }

    fn message(&self, expr: &IdedExpr) -> AudienceError {
        let position = self.place(expr);
        AudienceError::Unsupported { what: "a message", instead: "write an object, as in `{'a': 1}`", position }
    }

    fn no_such(&self, expr: &IdedExpr, name: &str) -> AudienceError {
        let (name, position) = (name.to_owned(), self.place(expr));
        match usage(&name) {
            Some(usage) => AudienceError::Misused { name, usage, position },
            None => AudienceError::UnknownFunction { name, position },
        }
    }

    /// Where an expression stands: of an operator, the operator; of a call, its bracket.
    fn place(&self, expr: &IdedExpr) -> usize {
        let before = self.places.offset_for(expr.id).and_then(|(start, _)| self.places.source.get(..start as usize));
        before.map_or(0, |before| before.chars().count()) + 1
    }
}
