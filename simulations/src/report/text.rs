//! Escapes text and formats numbers for people. Every string of the page is escaped here, so that no name in a scenario
//! can become markup.

use crate::summary::Mean;

/// Shown where there is no value.
pub(super) const NO_VALUE: &str = "–";

/// Escapes text for an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not valid in XML, and so not in SVG.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Shortens text to at most `max` characters. The last one is an ellipsis if some are cut off.
pub(super) fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// A number with a fixed number of decimals, a true minus sign, and thousands separators. Never −0.
pub(super) fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return NO_VALUE.to_owned();
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// An integer with thousands separators.
pub(super) fn count(value: u64) -> String {
    number(value as f64, 0)
}

/// A number with three significant digits, without trailing zeros.
pub(super) fn short(value: f64) -> String {
    let magnitude = value.abs();
    let decimals = match magnitude {
        m if m == 0.0 || m >= 100.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 1.0 => 2,
        m if m >= 0.1 => 3,
        _ => 4,
    };
    let text = number(value, decimals);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A fraction in percent.
pub(super) fn percent(share: f64, decimals: usize) -> String {
    if share.is_finite() { format!("{}%", number(100.0 * share, decimals)) } else { NO_VALUE.to_owned() }
}

/// A relative change in percent, with its sign.
pub(super) fn signed_percent(change: f64, decimals: usize) -> String {
    let text = percent(change, decimals);
    if change > 0.0 { format!("+{text}") } else { text }
}

/// A mean fraction in percent, with its standard error.
pub(super) fn percent_with_error(mean: Mean, decimals: usize) -> String {
    format!("{}% ± {}", number(100.0 * mean.mean, decimals), number(100.0 * mean.se, decimals))
}

/// A mean with its standard error, or [`NO_VALUE`].
pub(super) fn mean_with_error(mean: Option<Mean>) -> String {
    mean.map_or_else(|| NO_VALUE.to_owned(), |mean| format!("{} ± {}", number(mean.mean, 2), number(mean.se, 2)))
}

/// A count with its noun: `1 run`, `2 runs`.
pub(super) fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The short name of an arm: control, v1, v2, …
pub(super) fn arm_name(arm: usize) -> String {
    if arm == 0 { "control".to_owned() } else { format!("v{arm}") }
}

/// Converts literals to strings.
pub(super) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<b a='1'>\"&\"</b>"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;&quot;&lt;/b&gt;");
        assert_eq!(escape("a\u{0}b"), "a\u{fffd}b");
        assert_eq!(shorten("unconstrained", 6), "uncon…");
        assert_eq!(shorten("große", 5), "große");
    }

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!([number(1234567.0, 0), number(-0.04, 1), number(-1.25, 1)], ["1,234,567", "0.0", "−1.2"]);
        assert_eq!([short(0.05), short(12.34), short(1500.0), short(0.0)], ["0.05", "12.3", "1,500", "0"]);
        assert_eq!([percent(0.123, 1), signed_percent(0.1, 0), signed_percent(-0.1, 0)], ["12.3%", "+10%", "−10%"]);
        assert_eq!([percent(f64::NAN, 1), plural(1, "run"), plural(0, "run")], ["–", "1 run", "0 runs"]);
    }
}
