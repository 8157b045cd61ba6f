//! Limits the depth of an expression before it is parsed.
//!
//! The parser is recursive, and so is all code that later walks its tree. To protect their stack, this module computes
//! an upper bound of the tree's depth from the tokens, in one pass without recursion. The bound is only valid if this
//! module sees the same tokens as the parser's lexer. So it rejects everything that the lexer could treat differently:
//! text without a closing quote, unknown escape sequences and unexpected characters.

use super::{Audience, AudienceError};

/// The depth of the expression within one pair of brackets.
#[derive(Default)]
struct BracketLevel {
    /// The index of the opening bracket.
    opened: usize,
    /// The number of operators since the last `,`, `&&` or `||`. Each can add a layer to the tree.
    operators: usize,
    /// The number of `?` since the last `,`. A conditional includes everything to its right, also `&&` and `||`.
    conditionals: usize,
    /// The depth of the deepest bracket since the last `,`, `&&` or `||`.
    inner: usize,
    /// The depth of the deepest part before the last `,`, `&&` or `||`.
    deepest: usize,
}

impl BracketLevel {
    fn depth(&self) -> usize {
        self.deepest.max(self.operators + self.conditionals + self.inner)
    }

    /// Ends a part at a `,`, `&&` or `||`.
    fn end_part(&mut self) {
        self.deepest = self.depth();
        self.operators = 0;
        self.inner = 0;
    }
}

/// Checks that the source consists of CEL tokens and is not nested too deeply.
pub(super) fn check(source: &str) -> Result<(), AudienceError> {
    let chars: Vec<char> = source.chars().collect();
    let mut outer: Vec<BracketLevel> = Vec::new();
    let mut level = BracketLevel::default();
    let mut at = 0;
    let mut empty = true;
    // Whether the last token ends an operand. A `[` after it is then an index, otherwise a list.
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
            '"' | '\'' => at = end_of_text(&chars, start, false)?,
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => {
                while chars.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    at += 1;
                }
                if matches!(chars.get(at), Some('"' | '\'')) {
                    match chars.get(start..at) {
                        Some(['r' | 'R']) => at = end_of_text(&chars, at, true)?,
                        Some(['b' | 'B'] | ['b' | 'B', 'r' | 'R'] | ['r' | 'R', 'b' | 'B']) => {
                            return Err(AudienceError::Unsupported {
                                what: "a bytes literal",
                                instead: "remove the `b`, because a context contains only text",
                                position: start + 1,
                            });
                        }
                        _ => return Err(syntax("put a blank or an operator before the quote", at)),
                    }
                }
                // `in` is the only operator that is a word.
                level.operators += usize::from(matches!(chars.get(start..at), Some(['i', 'n'])));
            }
            '(' | '[' | '{' => {
                level.operators += usize::from(c == '[' && operand);
                outer.push(std::mem::replace(&mut level, BracketLevel { opened: start, ..BracketLevel::default() }));
            }
            ')' | ']' | '}' => {
                let within = outer
                    .pop()
                    .ok_or_else(|| syntax("this closing bracket has no opening bracket: remove it", start))?;
                if !matches!((chars.get(level.opened), c), (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')) {
                    return Err(syntax("this bracket is not closed: add the closing bracket", level.opened));
                }
                let depth = level.depth() + 1;
                level = within;
                level.inner = level.inner.max(depth);
            }
            ',' => {
                level.end_part();
                level.conditionals = 0;
            }
            '&' | '|' if next == Some(c) => {
                at += 1;
                level.end_part();
            }
            '?' => level.conditionals += 1,
            // A decimal point within a number.
            '.' if next.is_some_and(|c| c.is_ascii_digit()) => {}
            '=' | '!' | '<' | '>' if next == Some('=') => {
                at += 1;
                level.operators += 1;
            }
            '.' | '!' | '-' | '+' | '*' | '/' | '%' | '<' | '>' => level.operators += 1,
            ':' => {}
            '=' => return Err(syntax("a single `=` is not an operator: write `==` to compare", start)),
            '&' | '|' => {
                return Err(syntax("a single `&` or `|` is not an operator: write `&&` for and, `||` for or", start));
            }
            _ => {
                return Err(syntax(
                    "this character is not allowed outside quotes: remove it, or put the text in quotes",
                    start,
                ));
            }
        }
        empty = false;
        operand = matches!(c, '"' | '\'' | ')' | ']' | '}' | '_') || c.is_ascii_alphanumeric();
        if outer.len() + level.depth() > Audience::MAX_DEPTH {
            return Err(AudienceError::TooDeep { max: Audience::MAX_DEPTH, position: start + 1 });
        }
    }
    if !outer.is_empty() {
        return Err(syntax("this bracket is not closed: add the closing bracket", level.opened));
    }
    if empty { Err(AudienceError::Empty) } else { Ok(()) }
}

/// The index after the text whose opening quote is at `start`.
fn end_of_text(chars: &[char], start: usize, raw: bool) -> Result<usize, AudienceError> {
    let unterminated = || syntax("this quote is not closed: add the closing quote", start);
    let quote = chars.get(start).copied().ok_or_else(unterminated)?;
    let triple = chars.get(start..start + 3).is_some_and(|open| open.iter().all(|&c| c == quote));
    let mut at = if triple { start + 3 } else { start + 1 };
    loop {
        match chars.get(at).copied().ok_or_else(unterminated)? {
            '\n' | '\r' if !triple => return Err(unterminated()),
            '\\' if !raw => at = end_of_escape(chars, at)?,
            c if c == quote && !triple => return Ok(at + 1),
            c if c == quote && chars.get(at..at + 3).is_some_and(|close| close.iter().all(|&c| c == quote)) => {
                return Ok(at + 3);
            }
            _ => at += 1,
        }
    }
}

/// The index after the escape sequence whose backslash is at `start`.
fn end_of_escape(chars: &[char], start: usize) -> Result<usize, AudienceError> {
    let unknown = || syntax("this escape sequence does not exist: write `\\\\` for a backslash", start);
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
