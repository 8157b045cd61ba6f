//! Numbers and times as pages show them. The server writes them in English and marks them, so that the page's script
//! can write them again in the viewer's language.

use std::time::Duration;

use inroad_assignment::Timestamp;
use maud::{Markup, html};

/// Shown where there is no number.
pub(crate) const NONE: &str = "–";

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// A whole number with thousands separators.
    Int,
    /// A share, in whole percent.
    Percent0,
    /// A share, in percent with one decimal.
    Percent1,
    /// A share, in percent with two decimals.
    Percent2,
    /// An estimated share, in percent with at most three significant digits and two decimals.
    PercentEstimate,
    /// A probability, in percent with one decimal; `>99.9%` and `<0.1%` at the ends, because data never give certainty.
    Probability,
    /// A relative change: signed, in percent with at most three significant digits and one decimal.
    Lift,
    /// An exact number with two decimals.
    Num2,
    /// An estimate, with at most three significant digits.
    Estimate,
}

/// What a number of events per minute is measured over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateBasis {
    /// The last minute: the number is a count.
    #[default]
    LastMinute,
    /// The newest events, if they are those of less than a minute: the number is extrapolated.
    NewestEvents {
        /// How many events.
        events: usize,
        /// Their duration.
        span: Duration,
    },
}

impl RateBasis {
    /// The words that follow a number of events: "in the last minute", or how it is extrapolated.
    pub(crate) fn after_a_count(self) -> Markup {
        match self {
            Self::LastMinute => html! { "in the last minute" },
            Self::NewestEvents { events, span } => html! {
                "per minute, at the rate of the newest " (counted(events as u64, "event"))
                " (" (number(span.as_secs_f64(), NumberFormat::Estimate)) " s)"
            },
        }
    }
}

/// A number as text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FormattedNumber {
    /// The text in English.
    pub(crate) text: String,
    /// The number, and the name of the script's format for it. None if the text is only a bound, such as `<0.1%`: the
    /// script must leave it unchanged.
    pub(crate) localised: Option<(f64, &'static str)>,
}

impl FormattedNumber {
    fn fixed(text: String) -> Self {
        Self { text, localised: None }
    }
}

impl NumberFormat {
    fn is_percent(self) -> bool {
        !matches!(self, Self::Int | Self::Num2 | Self::Estimate)
    }

    /// The decimals of a number that is `shown` in this format (percent already applied) and the name of the script's
    /// format; no decimals mean three significant digits.
    fn digits(self, shown: f64) -> (Option<usize>, &'static str) {
        match self {
            Self::Int => (Some(0), "int"),
            Self::Percent0 => (Some(0), "percent0"),
            Self::Percent1 | Self::Probability => (Some(1), "percent1"),
            Self::Percent2 => (Some(2), "percent2"),
            Self::PercentEstimate if shown >= 99.95 => (Some(0), "percent0"),
            Self::PercentEstimate if shown >= 9.995 => (Some(1), "percent1"),
            Self::PercentEstimate => (Some(2), "percent2"),
            Self::Lift if shown >= 99.95 => (None, "signed-percent-significant3"),
            Self::Lift => (Some(1), "signed-percent1"),
            Self::Num2 => (Some(2), "num2"),
            Self::Estimate => (None, "significant3"),
        }
    }

    /// Formats a number. A number that is too large or too small to write in this format becomes a bound.
    pub(crate) fn format(self, value: f64) -> FormattedNumber {
        if !value.is_finite() {
            return FormattedNumber::fixed(NONE.to_owned());
        }
        if self == Self::Probability && value > 0.999 {
            return FormattedNumber::fixed(">99.9%".to_owned());
        }
        if self == Self::Probability && value < 0.001 {
            return FormattedNumber::fixed("<0.1%".to_owned());
        }
        let (scale, unit) = if self.is_percent() { (100.0, "%") } else { (1.0, "") };
        // Lifts reach e^100: 44 digits would be unreadable.
        let most = if self == Self::Int { 1e15 } else { 1e6 };
        let shown = (value * scale).abs();
        if shown >= most {
            let (sign, bound) = if value < 0.0 { ("−", "< ") } else { ("", "> ") };
            return FormattedNumber::fixed(format!("{bound}{sign}{}{unit}", grouped(most, 0)));
        }
        let (decimals, script_format) = self.digits(shown);
        let digits = match decimals {
            Some(decimals) => grouped(shown, decimals),
            None => significant3(shown),
        };
        let is_zero = !digits.bytes().any(|b| (b'1'..=b'9').contains(&b));
        // A share above zero must not read as zero.
        if let Some(decimals) = decimals.filter(|_| is_zero && value > 0.0 && self.is_percent() && self != Self::Lift) {
            return FormattedNumber::fixed(format!("<{}{unit}", grouped(10_f64.powi(-(decimals as i32)), decimals)));
        }
        let sign = match self {
            _ if is_zero => "",
            _ if value < 0.0 => "−",
            Self::Lift => "+",
            _ => "",
        };
        // A number that rounds to zero is passed on as zero, or the script would write "-0".
        let number = if is_zero { 0.0 } else { value };
        FormattedNumber { text: format!("{sign}{digits}{unit}"), localised: Some((number, script_format)) }
    }

    /// Formats a number for a sentence.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        self.format(value).text
    }
}

/// A count with thousands separators, for a sentence.
#[must_use]
pub fn grouped_count(count: u64) -> String {
    grouped(count as f64, 0)
}

/// A number with thousands separators.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::with_capacity(text.len() + text.len() / 3);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// A number of at least zero, rounded to three significant digits, without trailing zeros.
fn significant3(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let exponent = value.log10().floor() as i32;
    if exponent >= 3 {
        let unit = 10_f64.powi(exponent - 2);
        return grouped((value / unit).round() * unit, 0);
    }
    let text = grouped(value, (2 - exponent).clamp(0, 20) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A number in HTML; a dash if it is not finite.
#[must_use]
pub fn number(value: f64, format: NumberFormat) -> Markup {
    let FormattedNumber { text, localised } = format.format(value);
    let number = localised.map_or(value, |(number, _)| number);
    html! {
        @if !value.is_finite() { (text) }
        @else { data value=(number) data-f=[localised.map(|(_, script_format)| script_format)] { (text) } }
    }
}

/// A count in HTML.
#[must_use]
pub fn count(value: u64) -> Markup {
    number(value as f64, NumberFormat::Int)
}

/// A time in HTML, to the minute.
pub fn instant(at: Timestamp) -> Markup {
    html! { time datetime=(rfc3339(at)) { (minute(at)) " UTC" } }
}

/// Clamps a time to the range that a four-digit year can write.
fn calendar(at: Timestamp) -> jiff::Timestamp {
    const FIRST: i64 = -62_135_596_800_000_000; // 0001-01-01
    const LAST: i64 = 253_402_207_200_000_000; // 9999-12-30T22
    jiff::Timestamp::from_microsecond(at.as_micros().clamp(FIRST, LAST)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// A time for machines, to the second.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    calendar(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23 08:30`.
#[must_use]
pub fn minute(at: Timestamp) -> String {
    calendar(at).strftime("%Y-%m-%d %H:%M").to_string()
}

/// `23 Nov`.
pub(crate) fn day(at: Timestamp) -> String {
    calendar(at).strftime("%-d %b").to_string()
}

/// `08:30`.
pub(crate) fn clock(at: Timestamp) -> String {
    calendar(at).strftime("%H:%M").to_string()
}

/// `2026`.
pub(crate) fn year(at: Timestamp) -> String {
    calendar(at).strftime("%Y").to_string()
}

/// `1 step`, `2 steps`.
#[must_use]
pub fn plural(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number as f64, 0), ending(number))
}

/// The same in HTML.
#[must_use]
pub fn counted(number: u64, thing: &str) -> Markup {
    html! { (count(number)) " " (thing) (ending(number)) }
}

/// The plural ending for a count.
pub(crate) fn ending(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable_and_marked_for_the_script() {
        let marked = |value, format| number(value, format).into_string();
        assert_eq!(marked(0.1234, NumberFormat::Percent1), "<data value=\"0.1234\" data-f=\"percent1\">12.3%</data>");
        assert_eq!(marked(-0.05, NumberFormat::Lift), "<data value=\"-0.05\" data-f=\"signed-percent1\">−5.0%</data>");
        assert_eq!(marked(1e-12, NumberFormat::Percent1), "<data value=\"0.000000000001\">&lt;0.1%</data>");
        assert_eq!([marked(f64::NAN, NumberFormat::Int), marked(f64::INFINITY, NumberFormat::Num2)], ["–", "–"]);
        assert_eq!(count(1_234_567).into_string(), "<data value=\"1234567\" data-f=\"int\">1,234,567</data>");
        assert_eq!(NumberFormat::Lift.text(1e43), "> 1,000,000%");
        assert_eq!(NumberFormat::Lift.text(-0.00001), "0.0%");
        assert_eq!(NumberFormat::Lift.text(0.5), "+50.0%");
        assert_eq!(NumberFormat::Percent2.text(0.0), "0.00%");
        assert_eq!([plural(1, "step"), plural(2_000, "step")], ["1 step", "2,000 steps"]);
        assert_eq!(counted(1, "unit").into_string(), "<data value=\"1\" data-f=\"int\">1</data> unit");
    }

    #[test]
    fn number_that_rounds_to_zero_has_no_sign() {
        let marked = number(-0.000_001, NumberFormat::PercentEstimate).into_string();
        assert_eq!(marked, "<data value=\"0\" data-f=\"percent2\">0.00%</data>");
    }

    #[test]
    fn probability_is_never_certain() {
        assert_eq!(
            [1.0, 0.9995, 0.42, 0.0004, 0.0].map(|p| NumberFormat::Probability.text(p)),
            [">99.9%", ">99.9%", "42.0%", "<0.1%", "<0.1%"]
        );
        assert_eq!(number(1.0, NumberFormat::Probability).into_string(), "<data value=\"1\">&gt;99.9%</data>");
    }

    #[test]
    fn estimates_have_at_most_three_significant_digits() {
        let estimates = [0.0, 0.000_123_4, 0.5, 9.999, 12.345, 123.45, 12_345.0, -2.5];
        assert_eq!(
            estimates.map(|value| NumberFormat::Estimate.text(value)),
            ["0", "0.000123", "0.5", "10", "12.3", "123", "12,300", "−2.5"]
        );
        assert_eq!(
            [0.0012, 0.0312, 0.3125, 1.0].map(|share| NumberFormat::PercentEstimate.text(share)),
            ["0.12%", "3.12%", "31.2%", "100%"]
        );
        assert_eq!([1.234, 123.456].map(|lift| NumberFormat::Lift.text(lift)), ["+123%", "+12,300%"]);
    }

    #[test]
    fn times_are_written_in_utc() {
        let at = Timestamp::from_micros(1_795_422_600_000_000);
        assert_eq!(instant(at).into_string(), "<time datetime=\"2026-11-23T08:30:00Z\">2026-11-23 08:30 UTC</time>");
        assert_eq!([day(at), clock(at), year(at)], ["23 Nov", "08:30", "2026"]);
        assert_eq!(rfc3339(Timestamp::MIN), "0001-01-01T00:00:00Z");
        assert_eq!(&rfc3339(Timestamp::MAX)[..4], "9999");
    }
}
