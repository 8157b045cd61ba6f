//! Comparisons of versions, instants and durations, patterns, and changes of case.

use std::borrow::Cow;

use super::operations::{boolean, type_name};
use super::{Evaluated, EvaluationError, Evaluator, Scope};
use crate::audience::convert::{Conversion, Converted, Pattern};
use crate::audience::node::Operand;
use crate::context::Value;

impl<'n> Evaluator<'n> {
    /// The value of one side of a comparison. Constants were converted when the audience was parsed.
    pub(super) fn operand<'s>(
        &self,
        operand: &'n Operand,
        scope: Option<&'s Scope<'s>>,
    ) -> Result<Cow<'n, Converted>, EvaluationError<'n>>
    where
        'n: 's,
    {
        self.budget.charge(1)?;
        match operand {
            Operand::Constant(value) => Ok(Cow::Borrowed(value)),
            Operand::Convert(conversion, node) => {
                let converted = match &*self.eval(node, scope)? {
                    Value::String(text) => {
                        self.budget.charge_text(text)?;
                        conversion.of_text(text)
                    }
                    Value::Number(number) => conversion.of_number(*number),
                    other => {
                        let (what, expected) = ("a conversion", "text");
                        return Err(EvaluationError::WrongType { what, expected, found: type_name(other) });
                    }
                };
                converted.map(Cow::Owned).ok_or(EvaluationError::NotConvertible(*conversion))
            }
            Operand::Calculate { subtract, sides } => {
                let [left, right] = &**sides;
                let result = self.operand(left, scope)?.plus(&*self.operand(right, scope)?, *subtract);
                // The compiler accepts times only.
                result.map(Cow::Owned).ok_or(EvaluationError::NotConvertible(Conversion::Instant))
            }
        }
    }

    pub(super) fn change_case<'s>(&self, upper: bool, value: Cow<'s, Value>) -> Evaluated<'s, 'n> {
        let text = self.text(&value, "a change of case")?;
        let changes = |byte: u8| if upper { byte.is_ascii_lowercase() } else { byte.is_ascii_uppercase() };
        if !text.bytes().any(changes) {
            return Ok(value);
        }
        self.budget.charge_text(text)?;
        let changed = if upper { text.to_ascii_uppercase() } else { text.to_ascii_lowercase() };
        Ok(Cow::Owned(Value::String(changed)))
    }

    pub(super) fn matches<'s>(&self, pattern: &Pattern, value: &Value) -> Evaluated<'s, 'n> {
        let text = self.text(value, "`matches`")?;
        self.budget.charge(pattern.steps(text))?;
        boolean(pattern.is_match(text))
    }

    /// The text of a value; reading it is charged.
    fn text<'v>(&self, value: &'v Value, what: &'static str) -> Result<&'v str, EvaluationError<'n>> {
        match value {
            Value::String(text) => self.budget.charge_text(text).map(|()| text.as_str()),
            other => Err(EvaluationError::WrongType { what, expected: "text", found: type_name(other) }),
        }
    }
}
