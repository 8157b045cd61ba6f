//! A look at the source before the parser sees it.
//!
//! The parser is recursive, and so is everything that later walks its tree. What keeps them all off the end of the
//! stack is an upper bound on the tree's depth, taken from the tokens in one pass without recursion. For that to be a
//! bound this must see the same tokens as the parser's lexer does, so whatever the lexer could stumble over (text
//! without an end, an unknown escape, a stray character) is refused here.

use super::{Audience, AudienceError};

/// One level of brackets.
#[derive(Default)]
struct Level {
    /// Where its bracket is.
    opened: usize,
    /// The operators since the last `,`, `&&` or `||`. Each can put one more layer on the tree.
    operators: usize,
    /// The `?` since the last `,`: a conditional swallows everything to its right, `&&` and `||` included.
    conditionals: usize,
    /// The deepest bracket since the last `,`, `&&` or `||`.
    inner: usize,
    /// The deepest stretch before that.
    deepest: usize,
}

impl Level {
    fn depth(&self) -> usize {
        self.deepest.max(self.operators + self.conditionals + self.inner)
    }

    fn stretch(&mut self) {
        self.deepest = self.depth();
        self.operators = 0;
        self.inner = 0;
    }
}

/// Checks that the source is made of CEL's tokens and nests no deeper than it may.
pub(super) fn check(source: &str) -> Result<(), AudienceError> {
    let chars: Vec<char> = source.chars().collect();
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    let mut at = 0;
    let mut empty = true;
    // Whether the last token ends an operand, so that a `[` after it takes an item out of it.
    let mut operand = false;

    while let Some(&c) = chars.get(at) {
        let start = at;
        let next = chars.get(at + 1).copied();
        at += 1;
        match c {
            ' ' | '\t' | '\r' | '\n' | '\x0c' => continue,
            '/' if next == Some('/') => {
                while chars.get(at).is_some_and(|&c| c != '\n') {
                    at += 1;
                }
                continue;
            }
            '"' | '\'' => at = text(&chars, start, false)?,
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => {
                while chars.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    at += 1;
                }
                if matches!(chars.get(at), Some('"' | '\'')) {
                    match chars.get(start..at) {
                        Some(['r' | 'R']) => at = text(&chars, at, true)?,
                        Some(['b' | 'B'] | ['b' | 'B', 'r' | 'R'] | ['r' | 'R', 'b' | 'B']) => {
                            return Err(AudienceError::Unsupported {
                                what: "a literal of bytes",
                                instead: "a context holds none, so write it without the `b`",
                                position: start + 1,
                            });
                        }
                        _ => return Err(syntax("put a blank or an operator before the quote", at)),
                    }
                }
                // `in` is the one operator that is a word.
                level.operators += usize::from(matches!(chars.get(start..at), Some(['i', 'n'])));
            }
            '(' | '[' | '{' => {
                level.operators += usize::from(c == '[' && operand);
                outer.push(std::mem::replace(&mut level, Level { opened: start, ..Level::default() }));
            }
            ')' | ']' | '}' => {
                let within = outer.pop().ok_or_else(|| syntax("this bracket closes nothing", start))?;
                if !matches!((chars.get(level.opened), c), (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')) {
                    return Err(syntax("this bracket is left open", level.opened));
                }
                let depth = level.depth() + 1;
                level = within;
                level.inner = level.inner.max(depth);
            }
            ',' => {
                level.stretch();
                level.conditionals = 0;
            }
            '&' | '|' if next == Some(c) => {
                at += 1;
                level.stretch();
            }
            '?' => level.conditionals += 1,
            // Within a number.
            '.' if next.is_some_and(|c| c.is_ascii_digit()) => {}
            '=' | '!' | '<' | '>' if next == Some('=') => {
                at += 1;
                level.operators += 1;
            }
            '.' | '!' | '-' | '+' | '*' | '/' | '%' | '<' | '>' => level.operators += 1,
            ':' => {}
            '=' => return Err(syntax("write `==` to compare", start)),
            '&' | '|' => return Err(syntax("write `&&` for and, `||` for or", start)),
            _ => return Err(syntax("this character has no meaning outside of quotes", start)),
        }
        empty = false;
        operand = matches!(c, '"' | '\'' | ')' | ']' | '}' | '_') || c.is_ascii_alphanumeric();
        if outer.len() + level.depth() > Audience::MAX_DEPTH {
            return Err(AudienceError::TooDeep { max: Audience::MAX_DEPTH, position: start + 1 });
        }
    }
    if !outer.is_empty() {
        return Err(syntax("this bracket is left open", level.opened));
    }
    if empty { Err(AudienceError::Empty) } else { Ok(()) }
}

/// Where the text ends whose opening quote is at `start`.
fn text(chars: &[char], start: usize, raw: bool) -> Result<usize, AudienceError> {
    let unterminated = || syntax("the quote opened here is not closed", start);
    let quote = chars.get(start).copied().ok_or_else(unterminated)?;
    let triple = chars.get(start..start + 3).is_some_and(|open| open.iter().all(|&c| c == quote));
    let mut at = if triple { start + 3 } else { start + 1 };
    loop {
        match chars.get(at).copied().ok_or_else(unterminated)? {
            '\n' | '\r' if !triple => return Err(unterminated()),
            '\\' if !raw => at = escape(chars, at)?,
            c if c == quote && !triple => return Ok(at + 1),
            c if c == quote && chars.get(at..at + 3).is_some_and(|close| close.iter().all(|&c| c == quote)) => {
                return Ok(at + 3);
            }
            _ => at += 1,
        }
    }
}

/// Where the escape sequence ends whose backslash is at `start`.
fn escape(chars: &[char], start: usize) -> Result<usize, AudienceError> {
    let unknown = || syntax("no such escape sequence: write `\\\\` for a backslash", start);
    let (digits, radix) = match chars.get(start + 1).copied().ok_or_else(unknown)? {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '`' | '\\' | '?' => return Ok(start + 2),
        'x' | 'X' => (start + 2..start + 4, 16),
        'u' => (start + 2..start + 6, 16),
        'U' => (start + 2..start + 10, 16),
        '0'..='3' => (start + 1..start + 4, 8),
        _ => return Err(unknown()),
    };
    let code: String = chars.get(digits.clone()).ok_or_else(unknown)?.iter().collect();
    let is_char = code.chars().all(|c| c.is_digit(radix))
        && u32::from_str_radix(&code, radix).ok().and_then(char::from_u32).is_some();
    if is_char { Ok(digits.end) } else { Err(unknown()) }
}

fn syntax(message: &str, at: usize) -> AudienceError {
    AudienceError::Syntax { message: message.to_owned(), position: at + 1 }
}
