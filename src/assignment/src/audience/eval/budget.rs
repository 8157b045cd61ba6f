//! The budget of an evaluation: limits how many steps it may take.

use std::borrow::Cow;
use std::cell::Cell;

use super::EvaluationError;
use crate::context::Value;

/// The steps that an evaluation may still take.
pub(super) struct Budget {
    left: Cell<u32>,
}

impl Budget {
    pub(super) fn new(steps: u32) -> Self {
        Self { left: Cell::new(steps) }
    }

    /// The steps that are left.
    pub(super) fn left(&self) -> u32 {
        self.left.get()
    }

    /// Charges this number of steps.
    pub(super) fn charge<'n>(&self, steps: usize) -> Result<(), EvaluationError<'n>> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.left.get().checked_sub(steps));
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or(EvaluationError::TooExpensive)
    }

    /// Charges the steps for reading or copying a whole value.
    pub(super) fn charge_value<'n>(&self, value: &Value) -> Result<(), EvaluationError<'n>> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.charge(1),
            Value::String(text) => self.charge_text(text),
            Value::List(items) => {
                self.charge(1)?;
                items.iter().try_for_each(|item| self.charge_value(item))
            }
            Value::Object(fields) => {
                self.charge(1)?;
                fields.iter().try_for_each(|(name, value)| {
                    self.charge_text(name)?;
                    self.charge_value(value)
                })
            }
        }
    }

    /// Charges the steps for reading or copying a text.
    pub(super) fn charge_text<'n>(&self, text: &str) -> Result<(), EvaluationError<'n>> {
        self.charge(1 + text.len() / 64)
    }

    /// Returns the value as owned. Copying a borrowed value is charged.
    pub(super) fn own<'n>(&self, value: Cow<'_, Value>) -> Result<Value, EvaluationError<'n>> {
        if let Cow::Borrowed(value) = value {
            self.charge_value(value)?;
        }
        Ok(value.into_owned())
    }
}
