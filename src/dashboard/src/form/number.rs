//! Numbers as people type them, with a decimal point or a decimal comma.

/// Why a text could not be read as a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NumberError {
    /// The text has two possible meanings; the message names both.
    Ambiguous(String),
    /// The text is not a number.
    Unreadable,
}

impl NumberError {
    /// The message to show at the field; `default` if the error has no message of its own.
    #[must_use]
    pub fn message_or(self, default: &str) -> String {
        match self {
            Self::Ambiguous(message) => message,
            Self::Unreadable => default.to_owned(),
        }
    }
}

/// Reads a number with a decimal point or a decimal comma. `1,000` is rejected, because it means a thousand in some
/// countries and one in others. After a leading zero, a comma can only be a decimal comma.
///
/// # Errors
/// If the text is ambiguous or not a finite number.
pub fn parse_number(text: &str) -> Result<f64, NumberError> {
    let text = text.trim();
    let normalised = match text.split_once(',') {
        None => text.to_owned(),
        Some((_, after)) if after.contains(['.', ',']) => return Err(NumberError::Unreadable),
        Some((before, _)) if before.contains('.') => return Err(NumberError::Unreadable),
        Some((before, after)) => {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let whole = before.trim_start_matches(['-', '+']);
            if digits == 3 && whole.bytes().any(|digit| digit != b'0') {
                let decimals = after.trim_end_matches('0');
                let part = if decimals.is_empty() { "0" } else { decimals };
                return Err(NumberError::Ambiguous(format!(
                    "{text} is ambiguous. Enter {before}{after} or {before}.{part}."
                )));
            }
            format!("{before}.{after}")
        }
    };
    normalised.parse().ok().filter(|number: &f64| number.is_finite()).ok_or(NumberError::Unreadable)
}
