//! Compiles `semver`, `timestamp`, `duration` and `matches`. Their constants are converted here, once.
//!
//! A converted value can only be compared, or used to calculate the next operand of a comparison. So its type is always
//! known, and it never gets into a list or an object of attributes.

use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};

use super::{Checked, Checker};
use crate::audience::AudienceError;
use crate::audience::convert::{Conversion, Pattern};
use crate::audience::node::{Node, Operand, Operator, StaticType, operator};
use crate::context::Value;

/// Whether the value of an expression is a version, a time or a duration.
pub(super) fn is_conversion(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Call(CallExpr { func_name, target: None, args }) => match args.as_slice() {
            [left, right] if func_name == operators::ADD || func_name == operators::SUBSTRACT => {
                is_conversion(left) || is_conversion(right)
            }
            _ => Conversion::by_name(func_name).is_some(),
        },
        _ => false,
    }
}

impl<'a> Checker<'a> {
    /// A comparison of which at least one side is a conversion.
    pub(super) fn compare_converted(
        &mut self,
        expr: &'a IdedExpr,
        name: &str,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
    ) -> Checked {
        use Operator as O;
        let (a, a_kind) = self.operand(left)?;
        let (b, b_kind) = self.operand(right)?;
        let is_comparison = |operator: &Operator| {
            matches!(operator, O::Equal | O::Unequal | O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual)
        };
        let Some(operator) = operator(name).filter(is_comparison) else {
            let message = format!("{} can only be compared: use it with `==`, `<`, `>=` or similar", a_kind.name());
            return Err(self.wrong_type(expr, message));
        };
        if a_kind != b_kind {
            let message = format!("cannot compare {} and {}: use two values of one kind", a_kind.name(), b_kind.name());
            return Err(self.wrong_type(expr, message));
        }
        Ok((Node::Compare(operator, Box::new([a, b])), StaticType::Bool))
    }

    fn operand(&mut self, expr: &'a IdedExpr) -> Result<(Operand, Conversion), AudienceError> {
        let Expr::Call(CallExpr { func_name, target: None, args }) = &expr.expr else {
            return Err(self.not_converted(expr));
        };
        match (Conversion::by_name(func_name), args.as_slice()) {
            (Some(conversion), [arg]) => Ok((self.convert(expr, conversion, arg)?, conversion)),
            (Some(_), _) => Err(self.bad_call(expr, func_name)),
            (None, [left, right]) if is_conversion(expr) => self.calculate(expr, func_name, left, right),
            (None, _) => Err(self.not_converted(expr)),
        }
    }

    /// The error of an operand that is not a conversion: its own one, if it has another error.
    fn not_converted(&mut self, expr: &'a IdedExpr) -> AudienceError {
        if let Err(error) = self.check(expr) {
            return error;
        }
        let message = "the other side of the operator is a version, a time or a duration: convert this side too, \
                       with `semver`, `timestamp` or `duration`";
        self.wrong_type(expr, message)
    }

    fn calculate(
        &mut self,
        expr: &'a IdedExpr,
        name: &str,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
    ) -> Result<(Operand, Conversion), AudienceError> {
        use Conversion as C;
        let (a, a_kind) = self.operand(left)?;
        let (b, b_kind) = self.operand(right)?;
        let subtract = name == operators::SUBSTRACT;
        let kind = match (a_kind, subtract, b_kind) {
            (C::Instant, _, C::Span) | (C::Span, false, C::Instant) => C::Instant,
            (C::Span, _, C::Span) | (C::Instant, true, C::Instant) => C::Span,
            _ => {
                let (verb, a, b) = (if subtract { "subtract" } else { "add" }, a_kind.name(), b_kind.name());
                return Err(self.wrong_type(expr, format!("cannot {verb} {a} and {b}: use a time and a duration")));
            }
        };
        let operand = match (&a, &b) {
            (Operand::Constant(x), Operand::Constant(y)) => x.plus(y, subtract).map(Operand::Constant),
            _ => None,
        };
        Ok((operand.unwrap_or_else(|| Operand::Calculate { subtract, sides: Box::new([a, b]) }), kind))
    }

    fn convert(
        &mut self,
        expr: &'a IdedExpr,
        conversion: Conversion,
        arg: &'a IdedExpr,
    ) -> Result<Operand, AudienceError> {
        let (node, kind) = self.check(arg)?;
        let constant = match &node {
            Node::Literal(Value::String(text)) => conversion.of_text(text),
            Node::Literal(Value::Number(number)) => conversion.of_number(*number),
            _ if conversion == Conversion::Span => return Err(self.bad_call(expr, "duration")),
            _ if kind.is_compatible_with(&StaticType::Text) => return Ok(Operand::Convert(conversion, node)),
            _ if conversion == Conversion::Instant && kind == StaticType::Number => {
                return Ok(Operand::Convert(conversion, node));
            }
            _ => None,
        };
        let (name, form) = (conversion.name(), conversion.form());
        constant.map(Operand::Constant).ok_or_else(|| self.wrong_type(arg, format!("this is not {name}: {form}")))
    }

    /// `text.matches("pattern")`.
    pub(super) fn matches(&mut self, expr: &'a IdedExpr, target: &'a IdedExpr, pattern: &'a IdedExpr) -> Checked {
        let text = self.expect(target, &StaticType::Text, "the text before `.matches`")?;
        let Node::Literal(Value::String(source)) = self.expect(pattern, &StaticType::Text, "the pattern")? else {
            return Err(self.bad_call(expr, "matches"));
        };
        let pattern = Pattern::parse(&source).map_err(|message| self.wrong_type(pattern, message))?;
        Ok((Node::Matches(Box::new((text, pattern))), StaticType::Bool))
    }
}
