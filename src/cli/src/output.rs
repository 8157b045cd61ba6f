//! Standard output: text and tables for people, or JSON for programs, never both. All output goes through this module, so
//! that a closed pipe is an error and not a panic.

use std::io::{self, IsTerminal, Write};

use inroad_assignment::Timestamp;
use serde_json::Value;

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// Prints text for people; nothing under `--json`.
    pub(crate) fn print_text(self, text: impl AsRef<str>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.as_ref())?;
        out.flush()
    }

    /// Prints the one value that a command returns under `--json`; nothing otherwise.
    pub(crate) fn print_json(self, value: &Value) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        writeln!(io::stdout().lock(), "{value:#}")
    }

    /// Prints one of many values on its own line under `--json`; nothing otherwise.
    pub(crate) fn print_json_line(self, value: &Value) -> io::Result<()> {
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

/// A plain table. Columns of numbers are aligned right, the others left.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let width = |i: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(i));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    // A number may have a sign, a bound or brackets before its first digit; a dash replaces a missing one.
    let is_number = |cell: &String| {
        let first = cell.trim_start_matches(['+', '-', '−', '<', '>', '[', '(']).chars().next();
        first.is_none_or(|first| first.is_ascii_digit() || first == '–')
    };
    let numeric: Vec<bool> =
        (0..head.len()).map(|i| i > 0 && rows.iter().filter_map(|row| row.get(i)).all(is_number)).collect();
    let line = |row: &Vec<String>| {
        let cell = |(i, (text, width)): (usize, (&String, &usize))| {
            let gap = if i == 0 { "" } else { "  " };
            if numeric[i] { format!("{gap}{text:>width$}") } else { format!("{gap}{text:<width$}") }
        };
        row.iter().zip(&widths).enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    [&head].into_iter().chain(&rows).map(line).collect::<Vec<_>>().join("\n")
}

/// Names with their values, one per line.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect::<Vec<_>>().join("\n")
}

/// A number with three significant digits: `12.3`, `0.123`, `4,570`. At most four decimals; a dash if not finite.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    // Scientific notation rounds to three significant digits and gives the exponent after rounding.
    let scientific = format!("{value:.2e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if exponent >= 3 {
        let rounded = scientific.parse::<f64>().unwrap_or(value);
        return format!("{}{}", if value < 0.0 { "-" } else { "" }, count(rounded.abs() as u64));
    }
    let text = format!("{value:.*}", (2 - exponent).clamp(0, 4) as usize);
    if text.parse::<f64>() == Ok(0.0) { "0".to_owned() } else { text }
}

/// A share or a rate with three significant digits: `12.3%`, `5.28%`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{}%", number(share * 100.0)) } else { "–".to_owned() }
}

/// A relative change with its sign, in at most three significant digits: `+12.3%`.
pub(crate) fn signed_percent(change: f64) -> String {
    if !change.is_finite() {
        return "–".to_owned();
    }
    let size = change.abs() * 100.0;
    let text = if size < 99.95 { format!("{size:.1}") } else { number(size) };
    match text.as_str() {
        "0.0" => "0.0%".to_owned(),
        _ => format!("{}{text}%", if change < 0.0 { "-" } else { "+" }),
    }
}

/// A probability: `93.8%`, and `>99.9%` or `<0.1%` where more digits would mean nothing.
pub(crate) fn probability(p: f64) -> String {
    match p {
        p if !p.is_finite() => "–".to_owned(),
        p if p > 0.999 => ">99.9%".to_owned(),
        p if p < 0.001 => "<0.1%".to_owned(),
        p => format!("{:.1}%", p * 100.0),
    }
}

/// A p-value: `p = 0.032`, or `p < 0.001`.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") }
}

/// A part of a whole; NaN if the whole is 0.
pub(crate) fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 { f64::NAN } else { part as f64 / whole as f64 }
}

/// A number with separated thousands: `64,000`.
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
    fn counts_are_written_in_full() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([plural(1, "row"), plural(0, "row")], ["1 row", "0 rows"]);
        assert!(rate(0, 0).is_nan());
    }

    #[test]
    fn estimates_have_three_significant_digits() {
        assert_eq!(
            [percent(0.10617), percent(0.052_83), percent(1.0), percent(f64::NAN)],
            ["10.6%", "5.28%", "100%", "–"]
        );
        assert_eq!(
            [percent(0.25), percent(0.000_5), percent(0.099_96), percent(0.0)],
            ["25.0%", "0.0500%", "10.0%", "0%"]
        );
        assert_eq!([number(1_234.5), number(-0.0), number(999.6), number(-4_567.0)], ["1,230", "0", "1,000", "-4,570"]);
        assert_eq!([number(9.996), number(0.000_123), number(0.000_001)], ["10.0", "0.0001", "0"]);
    }

    #[test]
    fn changes_have_a_sign_unless_they_are_zero() {
        assert_eq!(
            [signed_percent(0.4261), signed_percent(-0.05), signed_percent(1.494)],
            ["+42.6%", "-5.0%", "+149%"]
        );
        assert_eq!(
            [signed_percent(-0.000_1), signed_percent(0.0), signed_percent(f64::INFINITY)],
            ["0.0%", "0.0%", "–"]
        );
    }

    #[test]
    fn probabilities_near_the_ends_are_limits() {
        let shown = [0.938, 0.9995, 0.000_4, 1.0, 0.0].map(probability);
        assert_eq!(shown, ["93.8%", ">99.9%", "<0.1%", ">99.9%", "<0.1%"]);
        assert_eq!([p_value(0.0321), p_value(0.000_2)], ["p = 0.032", "p < 0.001"]);
    }

    #[test]
    fn tables_are_aligned_without_trailing_spaces() {
        let text = table(
            &["variation", "share"],
            vec![vec!["control".to_owned(), "5.00%".to_owned()], vec!["a".to_owned(), "95.0%".to_owned()]],
        );
        assert_eq!(text, "variation  share\ncontrol    5.00%\na          95.0%");
        let row = |variation: &str, reason: &str, share: &str| {
            vec![variation.to_owned(), reason.to_owned(), share.to_owned()]
        };
        let text = table(&["variation", "reason", "share"], vec![row("a", "grows", "+5.00%"), row("b", "", "–")]);
        assert_eq!(text, "variation  reason   share\na          grows   +5.00%\nb                       –");
    }
}
