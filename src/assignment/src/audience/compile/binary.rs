//! Checks the types of binary operators, and looks for comparisons of text that probably do not mean what their author
//! expects.

use cel::common::ast::IdedExpr;

use super::{Checked, Checker};
use crate::audience::node::{Node, Operator, StaticType};
use crate::audience::warning;
use crate::context::Value;

impl<'a> Checker<'a> {
    pub(super) fn binary(
        &mut self,
        expr: &IdedExpr,
        operator: Operator,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
    ) -> Checked {
        use Operator as O;
        let (a, a_type) = self.check(left)?;
        let (b, b_type) = self.check(right)?;
        let found = warning::comparison(operator, &a, &b, self.position(expr));
        self.warnings.extend(found);
        let mismatch = |verb: &str, remedy: &str| {
            Err(self.wrong_type(expr, format!("cannot {verb} {a_type} and {b_type}: {remedy}")))
        };
        let both_are_one_of = |types: &[StaticType]| {
            let fits = |of: &StaticType| a_type.is_compatible_with(of) && b_type.is_compatible_with(of);
            a_type.is_compatible_with(&b_type) && types.iter().any(fits)
        };
        let any_list = StaticType::List(Box::new(StaticType::Any));
        let kind = match operator {
            O::Equal | O::Unequal => match (&a_type, &b_type) {
                (StaticType::Null, _) | (_, StaticType::Null) => StaticType::Bool,
                _ if a_type.is_compatible_with(&b_type) => StaticType::Bool,
                _ => return mismatch("compare", "use values of one type"),
            },
            O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual => {
                if !both_are_one_of(&[StaticType::Number, StaticType::Text, StaticType::Bool]) {
                    return mismatch("order", "use two numbers or two texts");
                }
                StaticType::Bool
            }
            O::In => match &b_type {
                StaticType::Any => StaticType::Bool,
                StaticType::List(item) if a_type.is_compatible_with(item) => StaticType::Bool,
                StaticType::List(item) => {
                    return Err(self
                        .wrong_type(expr, format!("{a_type} cannot be in a list of {item}: use values of one type")));
                }
                StaticType::Map if a_type.is_compatible_with(&StaticType::Text) => StaticType::Bool,
                StaticType::Map => return Err(self.wrong_type(expr, format!("a key must be text, not {a_type}"))),
                kind => {
                    return Err(
                        self.wrong_type(right, format!("`in` needs a list or an object on its right, not {kind}"))
                    );
                }
            },
            O::Add => {
                let lists = matches!(
                    (&a_type, &b_type),
                    (StaticType::List(_) | StaticType::Any, StaticType::List(_) | StaticType::Any)
                );
                if !lists && !both_are_one_of(&[StaticType::Number, StaticType::Text, any_list]) {
                    return mismatch("add", "use two numbers, two texts or two lists");
                }
                match (a_type, b_type) {
                    (StaticType::Any, kind @ (StaticType::Number | StaticType::Text))
                    | (kind @ (StaticType::Number | StaticType::Text), StaticType::Any) => kind,
                    (StaticType::Any, StaticType::List(_)) | (StaticType::List(_), StaticType::Any) => {
                        StaticType::List(Box::new(StaticType::Any))
                    }
                    (a, b) => a.union(b),
                }
            }
            O::Subtract | O::Multiply | O::Divide | O::Remainder => {
                if !both_are_one_of(&[StaticType::Number]) {
                    return mismatch("calculate with", "use two numbers");
                }
                StaticType::Number
            }
        };
        let is_null = |node: &Node| matches!(node, Node::Literal(Value::Null));
        let node = match operator {
            O::Equal | O::Unequal if is_null(&a) || is_null(&b) => {
                let node = Node::IsNull(Box::new(if is_null(&a) { b } else { a }));
                if operator == O::Equal { node } else { Node::Not(Box::new(node)) }
            }
            _ => Node::Binary(operator, Box::new([a, b])),
        };
        Ok((node, kind))
    }
}
