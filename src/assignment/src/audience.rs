//! Who an experiment is for.
//!
//! An [`Audience`] is a [CEL](https://cel.dev) expression over the evaluation context, written by whoever defines the
//! experiment and evaluated for whoever asks, in the server and inside every client. It is therefore checked when it
//! is saved, not when it is served: [`Audience::parse`] refuses what cannot be true or false, and
//! [`Audience::contains`] cannot fail, cannot panic and cannot run for long.
//!
//! CEL's grammar comes from the `cel` crate; its evaluator is not used, because it has no bound on what an evaluation
//! may cost (`list.map(x, list)` squares a list) and because CEL keeps whole numbers and fractions apart while a
//! context knows only one kind of number. The parsed expression is lowered into a small typed tree which is run on
//! borrowed values and with a budget. Where it departs from CEL:
//!
//! - There is one kind of number, a double, as on the wire: `seats > 10`, `seats == 10.0` and `seats in [10, 20]` do
//!   what they say. `7 / 2` is `3.5` (`int(7 / 2)` is `3`), `%` wants whole numbers, and dividing by zero is an error
//!   rather than infinity. A whole-number literal beyond 2^53 is refused: it could not be told from its neighbours.
//! - `has(beta)` asks for a top-level attribute; `has(account.tier)` is false, not an error, when `account` is missing.
//! - `account.tier` finds an attribute whose whole name is `account.tier` before it looks for `tier` in `account`.
//! - Left out: bytes, messages, timestamps, durations, optionals, `type`, `dyn`, `bool` and `matches`.
//!
//! A missing attribute or a clash of types is an error, and errors behave as CEL has it: `true || error` and
//! `error || true` are true, `false && error` and `error && false` are false, everything else passes the error on. An
//! expression that ends in an error leaves the unit outside the audience; [`Audience::explain`] says why.

mod compile;
mod eval;
mod node;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::context::Context;

/// Why an expression is not an audience, or, from [`Audience::explain`], why it could not be evaluated.
///
/// A `position` counts characters of the source from one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AudienceError {
    /// There is nothing but blanks and comments.
    #[error("the audience is empty: write `true` for everyone, or leave the audience out")]
    Empty,
    /// The source is longer than [`Audience::MAX_BYTES`].
    #[error("the audience is {len} bytes long: shorten it to at most {max}")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// Brackets, operators and conditionals nest deeper than [`Audience::MAX_DEPTH`].
    #[error("the expression nests deeper than {max} at character {position}: take it apart with `&&` or `||`")]
    TooDeep {
        /// How deep it may be.
        max: usize,
        /// Where it gets too deep.
        position: usize,
    },
    /// `all`, `exists`, `map` and their like nest deeper than [`Audience::MAX_LOOPS`].
    #[error("`{name}` at character {position} is a loop inside {max} others: at most {max} may nest")]
    TooManyLoops {
        /// The loop too many.
        name: String,
        /// How many may nest.
        max: usize,
        /// Where it is.
        position: usize,
    },
    /// It is not a CEL expression.
    #[error("not an expression at character {position}: {message}")]
    Syntax {
        /// What the parser says.
        message: String,
        /// Where.
        position: usize,
    },
    /// There is no such function.
    #[error("there is no function `{name}` (character {position}): use one of {}", node::FUNCTIONS)]
    UnknownFunction {
        /// What was called.
        name: String,
        /// Where.
        position: usize,
    },
    /// A function is called with too many or too few arguments, or not in its own way.
    #[error("`{name}` is used wrongly at character {position}: write {usage}")]
    Misused {
        /// The function.
        name: String,
        /// How it is written.
        usage: &'static str,
        /// Where.
        position: usize,
    },
    /// Something is not of the type that its place asks for.
    #[error("wrong type at character {position}: {message}")]
    WrongType {
        /// What is wrong.
        message: String,
        /// Where.
        position: usize,
    },
    /// Part of CEL that audiences leave out.
    #[error("{what} at character {position} cannot be used in an audience: {instead}")]
    Unsupported {
        /// What it is.
        what: &'static str,
        /// What to do instead.
        instead: &'static str,
        /// Where.
        position: usize,
    },
    /// The expression is well formed but never true or false.
    #[error("the audience must be true or false, but the expression is {found}: compare it with something")]
    NotBoolean {
        /// What the expression is.
        found: &'static str,
    },
    /// The system would not give the parser a stack of its own.
    #[error("the audience could not be parsed for want of a thread: {message}")]
    NoThread {
        /// What the system says.
        message: String,
    },
    /// The expression has no answer for this context.
    #[error("the audience has no answer for this context: {message}")]
    Evaluation {
        /// Why.
        message: String,
    },
}

/// A checked expression over the evaluation context that says who is in.
///
/// Two audiences are equal if they were written alike.
#[derive(Clone)]
pub struct Audience {
    source: Arc<str>,
    root: Arc<node::Node>,
}

impl Audience {
    /// The longest source, in bytes.
    pub const MAX_BYTES: usize = 4096;
    /// How deep brackets, operators and conditionals may nest; `&&`, `||` and commas side by side do not count.
    pub const MAX_DEPTH: usize = 32;
    /// How many loops (`all`, `exists`, `exists_one`, `map`, `filter`) may be inside one another.
    pub const MAX_LOOPS: usize = 2;
    /// What an evaluation may cost, in steps: every operation, list item and 64 bytes of text looked at or copied is
    /// one. An evaluation that would cost more is an error.
    pub const MAX_STEPS: u32 = 100_000;

    /// Parses and checks an expression.
    ///
    /// # Errors
    ///
    /// If the expression is not CEL, is too long or too deep, calls what is not there, or cannot be true or false.
    pub fn parse(source: &str) -> Result<Self, AudienceError> {
        if source.len() > Self::MAX_BYTES {
            return Err(AudienceError::TooLong { len: source.len(), max: Self::MAX_BYTES });
        }
        // Before the parser sees it: the parser's own guard comes too late for a small stack.
        scan::check(source)?;
        let root = compile::compile(source)?;
        Ok(Self { source: source.into(), root: Arc::new(root) })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the context is in the audience. What cannot be evaluated is not.
    pub fn contains(&self, context: &Context) -> bool {
        eval::run(&self.root, context).unwrap_or(false)
    }

    /// Whether the context is in the audience, or why that cannot be said.
    ///
    /// # Errors
    ///
    /// If an attribute is missing or of another type than the expression takes it for.
    pub fn explain(&self, context: &Context) -> Result<bool, AudienceError> {
        eval::run(&self.root, context).map_err(|fault| AudienceError::Evaluation { message: fault.to_string() })
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
