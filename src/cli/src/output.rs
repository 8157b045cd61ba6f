//! What goes out on standard output: words and tables for people, or JSON, never both. Written through here only, so
//! that a closed pipe is an error that somebody sees and not a panic.

use std::io::{self, IsTerminal, Write};

use inroad_assignment::Timestamp;
use serde_json::Value;

/// Where output goes, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of words.
    pub(crate) json: bool,
}

impl Output {
    /// A line for people; nothing under `--json`.
    pub(crate) fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.as_ref())?;
        out.flush()
    }

    /// The one value that a command gives back under `--json`; nothing otherwise.
    pub(crate) fn value(self, value: &Value) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        writeln!(io::stdout().lock(), "{value:#}")
    }

    /// One of many values, on a line of its own, under `--json`; nothing otherwise.
    pub(crate) fn item(self, value: &Value) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()
    }

    /// Whether to use colours.
    pub(crate) fn colours(self) -> bool {
        !self.json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
    }
}

/// A plain table: the first column to the left, the others, mostly numbers, to the right.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let width = |i: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(i));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(i, (text, width)): (usize, (&String, &usize))| match i {
            0 => format!("{text:<width$}"),
            _ => format!("  {text:>width$}"),
        };
        row.iter().zip(&widths).enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    [&head].into_iter().chain(&rows).map(line).collect::<Vec<_>>().join("\n")
}

/// Names and what they have, one a line.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect::<Vec<_>>().join("\n")
}

/// A share or a rate: `12.34%`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.2}%", share * 100.0) } else { "–".to_owned() }
}

/// A change relative to something: `+12.3%`.
pub(crate) fn signed_percent(change: f64) -> String {
    if change.is_finite() { format!("{:+.1}%", change * 100.0) } else { "–".to_owned() }
}

/// A part of a whole; nothing of nothing is no number.
pub(crate) fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 { f64::NAN } else { part as f64 / whole as f64 }
}

/// A number with thousands set apart: `64,000`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `2 rows`.
pub(crate) fn plural(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// An instant as RFC 3339 in UTC.
pub(crate) fn instant(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros()).map_or_else(|_| "–".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_set_for_reading() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([percent(0.10617), percent(f64::NAN)], ["10.62%", "–"]);
        assert_eq!([signed_percent(0.4261), signed_percent(-0.05)], ["+42.6%", "-5.0%"]);
        assert_eq!([plural(1, "row"), plural(0, "row")], ["1 row", "0 rows"]);
        assert!(rate(0, 0).is_nan());
    }

    #[test]
    fn tables_line_up_and_do_not_trail() {
        let text = table(
            &["variation", "share"],
            vec![vec!["control".to_owned(), "5.00%".to_owned()], vec!["a".to_owned(), "95.00%".to_owned()]],
        );
        assert_eq!(text, "variation   share\ncontrol     5.00%\na          95.00%");
    }
}
