//! Audiences: the expressions that select the units of an experiment.
//!
//! An [`Audience`] is a [CEL](https://cel.dev) expression over the evaluation context. The author of an experiment
//! writes it, and the server and every client evaluate it for every request. So it is checked when it is saved:
//! [`Audience::parse`] rejects an expression that cannot be true or false, and [`Audience::contains`] cannot fail,
//! cannot panic and has a bounded cost.
//!
//! The `cel` crate parses the expression. Its evaluator is not used, because the cost of an evaluation is not bounded
//! (`list.map(x, list)` squares a list), and because CEL separates whole numbers from fractions, while a context has
//! one type of number. Instead, the parsed expression is compiled to a small typed tree, which is evaluated on borrowed
//! values with a budget of steps. Differences from CEL:
//!
//! - There is one type of number, a double, as in the API: `seats > 10`, `seats == 10.0` and `seats in [10, 20]` work
//!   as expected. `7 / 2` is `3.5` (`int(7 / 2)` is `3`), `%` needs whole numbers, and a division by zero is an error
//!   instead of infinity. A whole-number literal beyond 2^53 is rejected, because a double cannot represent it exactly.
//! - `has(beta)` tests a top-level attribute. `has(account.tier)` is false, not an error, when `account` is missing.
//! - `account.tier` finds an attribute with the whole name `account.tier` before it looks for `tier` in `account`.
//! - An attribute, a field or an item that is null counts as missing (decision 22).
//! - `semver` compares versions with `==`, `<` and similar; `timestamp` also reads dates; `duration` also has days. These
//!   values can only be compared, added and subtracted.
//! - The pattern of `matches` is a constant, with the syntax of the crate `regex-lite`: that of RE2 without the classes
//!   of Unicode.
//! - Not supported: bytes, messages, optionals, `type`, `dyn` and `bool`. There is no current time, because an assignment
//!   must not change by itself (I3).
//!
//! **Missing and null.** An audience needs the attributes that it uses: an operation on a missing or null attribute has
//! no result. Errors of any kind behave as in CEL, which is also how SQL treats NULL: `true || error` and `error || true`
//! are true, `false && error` and `error && false` are false, and any other operation on an error is that error. If the
//! audience has no result, the unit is not in it. So neither `country in ["FR"]` nor `!(country in ["RU"])` selects a
//! unit without a country. `has(country)` is false for it, `country == null` is true. [`Audience::evaluate`] returns the
//! reason, and [`Audience::needed_attributes`] the attributes without which no unit is in the audience.

mod attributes;
mod compile;
mod convert;
mod eval;
mod node;
mod scan;
#[cfg(test)]
mod tests;
mod warning;

use std::fmt;
use std::sync::Arc;

pub use self::warning::{AudienceWarning, WarningKind};
use crate::context::Context;

/// Why an expression is not a valid audience or, from [`Audience::evaluate`], why it could not be evaluated.
///
/// A `position` is the number of a character in the source, from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AudienceError {
    /// The source contains only blanks and comments.
    #[error("the audience is empty: write `true` for all units, or remove the audience")]
    Empty,
    /// The source is longer than [`Audience::MAX_BYTES`].
    #[error("the audience has {len} bytes: shorten it to at most {max} bytes")]
    TooLong {
        /// The length in bytes.
        len: usize,
        /// The largest allowed length in bytes.
        max: usize,
    },
    /// Brackets, operators and conditionals nest deeper than [`Audience::MAX_DEPTH`].
    #[error(
        "the expression has more than {max} nested levels at character {position}: split it into parts joined by `&&` or `||`"
    )]
    TooDeep {
        /// The largest allowed depth.
        max: usize,
        /// The position of the first level that is too deep.
        position: usize,
    },
    /// Loops (`all`, `exists`, `map` and similar) nest deeper than [`Audience::MAX_LOOPS`].
    #[error("`{name}` at character {position} is a loop inside {max} other loops: nest at most {max} loops")]
    TooManyLoops {
        /// The name of the loop that is too deep.
        name: String,
        /// The largest allowed number of nested loops.
        max: usize,
        /// The position of the loop.
        position: usize,
    },
    /// The source is not a CEL expression.
    #[error("syntax error at character {position}: {message}")]
    Syntax {
        /// The message of the parser.
        message: String,
        /// The position of the error.
        position: usize,
    },
    /// The function does not exist.
    #[error("the function `{name}` at character {position} does not exist: use one of {}", node::FUNCTIONS)]
    UnknownFunction {
        /// The name that was called.
        name: String,
        /// The position of the error.
        position: usize,
    },
    /// A function is called with the wrong arguments, or in the wrong form.
    #[error("the call of `{name}` at character {position} has the wrong form: write {usage}")]
    WrongUsage {
        /// The name of the function.
        name: String,
        /// The correct form.
        usage: &'static str,
        /// The position of the error.
        position: usize,
    },
    /// An operand or argument has the wrong type.
    #[error("wrong type at character {position}: {message}")]
    WrongType {
        /// The types, expected and found.
        message: String,
        /// The position of the error.
        position: usize,
    },
    /// The expression uses a part of CEL that audiences do not support.
    #[error("{what} at character {position} is not supported in an audience: {instead}")]
    Unsupported {
        /// The unsupported part.
        what: &'static str,
        /// What to do instead.
        instead: &'static str,
        /// The position of the error.
        position: usize,
    },
    /// The expression is valid CEL, but its value is never true or false.
    #[error("an audience must be true or false, but this expression is {found}: compare it with a value")]
    NotBoolean {
        /// The type of the expression.
        found: &'static str,
    },
    /// The system could not start the thread that the parser needs.
    #[error("the audience could not be parsed, because no thread could be started: try again later ({message})")]
    NoThread {
        /// The message of the system.
        message: String,
    },
    /// The expression could not be evaluated for this context.
    #[error("the audience could not be evaluated for this context: {message}")]
    Evaluation {
        /// The reason.
        message: String,
    },
}

/// A checked expression over the evaluation context that selects units.
///
/// Two audiences are equal if their sources are equal.
#[derive(Clone)]
pub struct Audience {
    source: Arc<str>,
    compiled: Arc<compile::Compiled>,
}

impl Audience {
    /// The largest length of the source, in bytes.
    pub const MAX_BYTES: usize = 4096;
    /// The largest depth of nested brackets, operators and conditionals. Parts that `&&`, `||` or commas join side by
    /// side do not add depth.
    pub const MAX_DEPTH: usize = 32;
    /// The largest number of nested loops (`all`, `exists`, `exists_one`, `map`, `filter`).
    pub const MAX_LOOPS: usize = 2;
    /// The largest cost of an evaluation, in steps. An operation is one step, and so is every list item and every 64
    /// bytes of text that it reads or copies. An evaluation that would cost more is an error.
    pub const MAX_STEPS: u32 = 100_000;

    /// Parses and checks an expression.
    ///
    /// # Errors
    ///
    /// If the expression is not CEL, is too long or too deep, calls an unknown function, or cannot be true or false.
    pub fn parse(source: &str) -> Result<Self, AudienceError> {
        if source.len() > Self::MAX_BYTES {
            return Err(AudienceError::TooLong { len: source.len(), max: Self::MAX_BYTES });
        }
        // The scan must come first: the parser's own depth limit is too high for a small stack.
        scan::check(source)?;
        let compiled = compile::compile(source)?;
        Ok(Self { source: source.into(), compiled: Arc::new(compiled) })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Parts that probably do not mean what their author expects, in the order of the source.
    pub fn warnings(&self) -> &[AudienceWarning] {
        &self.compiled.warnings
    }

    /// The attributes that the expression uses, with dots, sorted.
    pub fn attributes(&self) -> Vec<&str> {
        attributes::used(&self.compiled.root).into_iter().collect()
    }

    /// The attributes without which no context is in the audience, sorted: where one of them is missing or null, the
    /// expression is false or has no result.
    pub fn needed_attributes(&self) -> Vec<&str> {
        attributes::needed(&self.compiled.root).into_iter().collect()
    }

    /// Whether the context is in the audience. False if the expression cannot be evaluated.
    pub fn contains(&self, context: &Context) -> bool {
        eval::run(&self.compiled.root, context).unwrap_or(false)
    }

    /// Whether the context is in the audience, as by [`Self::contains`], and the steps that the evaluation took, at most
    /// [`Self::MAX_STEPS`].
    pub fn contains_counting_steps(&self, context: &Context) -> (bool, u32) {
        let (result, steps) = eval::run_counting(&self.compiled.root, context);
        (result.unwrap_or(false), steps)
    }

    /// Whether an evaluation can take much longer than the expression is long: it has a loop or a pattern, whose cost
    /// depends on the context.
    pub fn is_expensive(&self) -> bool {
        self.compiled.is_expensive
    }

    /// Whether the context is in the audience, or why the expression cannot be evaluated.
    ///
    /// # Errors
    ///
    /// If an attribute is missing or has another type than the expression needs, or the evaluation is too expensive.
    pub fn evaluate(&self, context: &Context) -> Result<bool, AudienceError> {
        eval::run(&self.compiled.root, context)
            .map_err(|error| AudienceError::Evaluation { message: error.to_string() })
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Audience").field(&self.source).finish()
    }
}

impl PartialEq for Audience {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Audience {}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl std::str::FromStr for Audience {
    type Err = AudienceError;

    fn from_str(source: &str) -> Result<Self, AudienceError> {
        Self::parse(source)
    }
}
