//! Text as a page has it: escaped, and numbers as people read them. Every string that goes into the page goes through
//! here, so that no name in a scenario can become markup.

use crate::summary::Mean;

/// Stands where there is no number.
pub(super) const NONE: &str = "–";

/// Text that means itself, in an element or in an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What XML cannot hold, an SVG cannot either.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// At most so many characters, the last an ellipsis if some are gone.
pub(super) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// With so many decimals, a minus that is one, and thousands set apart.
pub(super) fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
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

/// A whole number with thousands set apart.
pub(super) fn count(value: u64) -> String {
    number(value as f64, 0)
}

/// As many decimals as three digits need.
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

/// A part of a whole.
pub(super) fn percent(share: f64, decimals: usize) -> String {
    if share.is_finite() { format!("{}%", number(100.0 * share, decimals)) } else { NONE.to_owned() }
}

/// A relative change.
pub(super) fn signed_percent(change: f64, decimals: usize) -> String {
    let text = percent(change, decimals);
    if change > 0.0 { format!("+{text}") } else { text }
}

/// Percentages with their standard error.
pub(super) fn percent_error(mean: Mean, decimals: usize) -> String {
    format!("{}% ± {}", number(100.0 * mean.mean, decimals), number(100.0 * mean.se, decimals))
}

/// `1 run`, `2 runs`.
pub(super) fn plural(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// What an arm is called where there is little room.
pub(super) fn arm_name(arm: usize) -> String {
    if arm == 0 { "control".to_owned() } else { format!("v{arm}") }
}

/// A table whose first column names the row; cells are text.
pub(super) fn table(caption: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let heads: String = head.iter().map(|name| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    let row = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
            _ => format!("<td>{}</td>", escape(cell)),
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let body: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><caption>{caption}</caption>\
         <thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>",
        caption = escape(caption)
    )
}

/// The numbers behind a plot, folded away.
pub(super) fn numbers(table: &str) -> String {
    format!("<details><summary>Numbers</summary>{table}</details>")
}

/// Strings of literals.
pub(super) fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escape("<b a='1'>\"&\"</b>"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;&quot;&lt;/b&gt;");
        assert_eq!(escape("a\u{0}b"), "a\u{fffd}b");
        assert_eq!(shorten("unconstrained", 6), "uncon…");
        assert_eq!(shorten("große", 5), "große");
    }

    #[test]
    fn numbers_are_set_for_reading() {
        assert_eq!([number(1234567.0, 0), number(-0.04, 1), number(-1.25, 1)], ["1,234,567", "0.0", "−1.2"]);
        assert_eq!([short(0.05), short(12.34), short(1500.0), short(0.0)], ["0.05", "12.3", "1,500", "0"]);
        assert_eq!([percent(0.123, 1), signed_percent(0.1, 0), signed_percent(-0.1, 0)], ["12.3%", "+10%", "−10%"]);
        assert_eq!([percent(f64::NAN, 1), plural(1, "run"), plural(0, "run")], ["–", "1 run", "0 runs"]);
    }
}
