//! The text of one cell as an outcome, a number or a time. What a cell cannot be read as is refused with the likely cause,
//! never guessed.

use clap::{Args, ValueEnum};
use inroad_assignment::Timestamp;

/// How cells are read.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct CellArgs {
    /// Meaning of an empty outcome
    #[arg(long, value_enum, default_value_t, value_name = "MEANING")]
    pub(crate) empty_outcome: EmptyOutcome,
    /// Numbers have a decimal comma: 1.234,5 is 1234.5
    #[arg(long)]
    pub(crate) decimal_comma: bool,
}

/// The meaning of an empty outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum EmptyOutcome {
    /// The outcome is unknown: the row is left out, and the report says how many were
    #[default]
    Exclude,
    /// The outcome is 0
    Zero,
}

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum OutcomeCell {
    /// Empty, or a word that spreadsheets, databases and statistics programs write for a missing value.
    Missing,
    Number(f64),
    /// A word for yes or no.
    Truth(bool),
}

const MISSING: [&str; 7] = ["", "na", "n/a", "nan", "null", "none", "\\n"];
const YES: [&str; 4] = ["true", "yes", "t", "y"];
const NO: [&str; 4] = ["false", "no", "f", "n"];

impl CellArgs {
    /// An outcome.
    ///
    /// # Errors
    ///
    /// The text is none; the message is the rest of a sentence that begins with the text.
    pub(super) fn outcome(self, text: &str) -> Result<OutcomeCell, String> {
        let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        if is_one_of(&MISSING) {
            Ok(OutcomeCell::Missing)
        } else if is_one_of(&YES) || is_one_of(&NO) {
            Ok(OutcomeCell::Truth(is_one_of(&YES)))
        } else {
            self.number(text).map(OutcomeCell::Number)
        }
    }

    /// A finite number.
    ///
    /// # Errors
    ///
    /// The text is none; the message is the rest of a sentence that begins with the text.
    pub(super) fn number(self, text: &str) -> Result<f64, String> {
        let with_point = self.decimal_comma.then(|| without_decimal_comma(text));
        match with_point.as_deref().unwrap_or(text).parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            Ok(_) => Err("is not a finite number".to_owned()),
            Err(_) => Err(self.likely_cause(text)),
        }
    }

    fn likely_cause(self, text: &str) -> String {
        let digits_and = |others: &str| {
            let known = |c: char| c.is_ascii_digit() || others.contains(c);
            text.contains(|c: char| c.is_ascii_digit()) && text.chars().all(known)
        };
        let cause = if digits_and("+-,") && text.matches(',').count() == 1 && !self.decimal_comma {
            "has a comma. If it is the decimal point, give --decimal-comma; if it separates thousands, remove it"
        } else if digits_and("+-,.'’ \u{a0}\u{202f}") {
            "has thousands separators. Remove them from the file"
        } else if digits_and("+-,.%") {
            "has a percent sign. Write 5% as 0.05"
        } else if digits_and("+-,. $€£¥") {
            "has a currency sign. Remove it from the file"
        } else {
            "is not a number"
        };
        cause.to_owned()
    }
}

/// A number with a decimal comma, and perhaps points or spaces between groups of three digits, as Rust writes it. Any
/// other text stays as it is or becomes one that is no number.
fn without_decimal_comma(text: &str) -> String {
    let (whole, fraction) = text.split_once(',').unwrap_or((text, ""));
    let mut groups = whole.split(['.', ' ', '\u{a0}', '\u{202f}']);
    let first = groups.next().unwrap_or_default();
    let rest: Vec<&str> = groups.collect();
    if rest.iter().any(|group| group.len() != 3) {
        return format!("{text} is no number");
    }
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    format!("{first}{}{fraction}", rest.concat())
}

/// A time, and whether it has no time zone and is read as UTC.
///
/// # Errors
///
/// The text is none, or a time outside the years 1 to 9999.
pub(super) fn time(text: &str) -> Result<(Timestamp, bool), String> {
    let timestamp = |at: jiff::Timestamp| Timestamp::from_micros(at.as_microsecond());
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok((timestamp(at), false));
    }
    let without_zone = text.parse::<jiff::civil::DateTime>().ok();
    let in_utc = without_zone.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
    in_utc.map(|at| (timestamp(at.timestamp()), true)).ok_or_else(|| {
        format!("{text:?} is not a time. Use the form 2026-01-31T09:00:00Z, 2026-01-31 09:00:00 or 2026-01-31.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: CellArgs = CellArgs { empty_outcome: EmptyOutcome::Exclude, decimal_comma: false };
    const COMMA: CellArgs = CellArgs { decimal_comma: true, ..POINT };

    #[test]
    fn words_for_yes_no_and_missing_are_read_in_any_case() {
        for yes in ["TRUE", "true", "True", "yes", "YES", "t", "Y"] {
            assert_eq!(POINT.outcome(yes), Ok(OutcomeCell::Truth(true)), "{yes}");
        }
        for no in ["FALSE", "false", "No", "F", "n"] {
            assert_eq!(POINT.outcome(no), Ok(OutcomeCell::Truth(false)), "{no}");
        }
        for missing in ["", "NA", "n/a", "NaN", "NULL", "None", "\\N"] {
            assert_eq!(POINT.outcome(missing), Ok(OutcomeCell::Missing), "{missing}");
        }
        assert_eq!(POINT.outcome("1e2"), Ok(OutcomeCell::Number(100.0)));
    }

    #[test]
    fn number_that_cannot_be_read_has_its_likely_cause() {
        for (text, cause) in [
            ("9,5", "--decimal-comma"),
            ("1,234.50", "thousands"),
            ("1 234", "thousands"),
            ("5%", "percent"),
            ("$9.50", "currency"),
            ("inf", "finite"),
            ("maybe", "is not a number"),
            ("-", "is not a number"),
        ] {
            let error = POINT.number(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    #[test]
    fn decimal_comma_is_read_if_it_is_declared() {
        let numbers = ["9,5", "-1.234,25", "1\u{202f}234", "12", "1.234.567"].map(|text| COMMA.number(text));
        assert_eq!(numbers, [Ok(9.5), Ok(-1234.25), Ok(1234.0), Ok(12.0), Ok(1_234_567.0)]);
        for wrong in ["9.5", "1,2,3", "1.23,4"] {
            assert!(COMMA.number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn time_without_a_zone_is_utc() {
        let with_zone = time("2026-01-02T10:00:00Z").unwrap();
        assert!(!with_zone.1);
        assert_eq!(time("2026-01-02 10:00:00"), Ok((with_zone.0, true)));
        assert_eq!(time("2026-01-02T11:00:00+01:00"), Ok(with_zone));
        assert!(time("2026-01-02").unwrap().1 && time("02/01/2026").is_err());
    }
}
