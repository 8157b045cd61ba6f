//! Numbers and instants as a page has them: written so that they can be read as they are, and marked so that a script can
//! put them as the reader's country writes them. The plots use it, and so do the pages.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

/// Stands where there is no number.
pub(crate) const NONE: &str = "–";

/// How a number is written; the script knows each by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A whole number, thousands set apart.
    Int,
    /// A share, in whole percent.
    Percent0,
    /// A share, to a tenth of a percent.
    Percent1,
    /// A share, to a hundredth of a percent.
    Percent2,
    /// A change, with its sign.
    SignedPercent1,
    /// Two decimals.
    Num2,
    /// Four decimals.
    Num4,
}

impl Format {
    /// What it is called in `data-f`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Percent0 => "percent0",
            Self::Percent1 => "percent1",
            Self::Percent2 => "percent2",
            Self::SignedPercent1 => "signed-percent1",
            Self::Num2 => "num2",
            Self::Num4 => "num4",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::Int | Self::Percent0 => 0,
            Self::Percent1 | Self::SignedPercent1 => 1,
            Self::Percent2 | Self::Num2 => 2,
            Self::Num4 => 4,
        }
    }

    fn is_percent(self) -> bool {
        !matches!(self, Self::Int | Self::Num2 | Self::Num4)
    }

    /// The number as text, and whether that is the number itself: of one too small or too large to write it is only said
    /// beyond what it lies, and a script must leave it so.
    pub(crate) fn say(self, value: f64) -> (String, bool) {
        if !value.is_finite() {
            return (NONE.to_owned(), false);
        }
        let (scale, unit) = if self.is_percent() { (100.0, "%") } else { (1.0, "") };
        // Lifts reach e^100: nobody reads 44 digits.
        let most = if self == Self::Int { 1e15 } else { 1e6 };
        let shown = value * scale;
        if shown.abs() >= most {
            let (sign, beyond) = if shown < 0.0 { ("−", "< ") } else { ("", "> ") };
            return (format!("{beyond}{sign}{}{unit}", grouped(most, 0)), false);
        }
        let decimals = self.decimals();
        let digits = grouped(shown.abs(), decimals);
        let is_zero = !digits.bytes().any(|b| (b'1'..=b'9').contains(&b));
        // A share that is there must not read as none.
        if is_zero && shown > 0.0 && self.is_percent() && self != Self::SignedPercent1 {
            return (format!("<{}{unit}", grouped(10_f64.powi(-(decimals as i32)), decimals)), false);
        }
        let sign = match self {
            _ if is_zero => "",
            _ if shown < 0.0 => "−",
            Self::SignedPercent1 => "+",
            _ => "",
        };
        (format!("{sign}{digits}{unit}"), true)
    }

    /// The number as text alone, for sentences.
    pub(crate) fn text(self, value: f64) -> String {
        self.say(value).0
    }
}

/// With thousands set apart.
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

/// A number in HTML; one that is none is a dash.
#[must_use]
pub fn number(value: f64, format: Format) -> Markup {
    let (text, exact) = format.say(value);
    html! {
        @if !value.is_finite() { (text) }
        @else { data value=(value) data-f=[exact.then(|| format.name())] { (text) } }
    }
}

/// A count in HTML.
#[must_use]
pub fn count(value: u64) -> Markup {
    number(value as f64, Format::Int)
}

/// An instant in HTML, to the minute.
pub(crate) fn instant(at: Timestamp) -> Markup {
    html! { time datetime=(rfc3339(at)) { (minute(at)) " UTC" } }
}

/// Such instants as a calendar of four digits has; others are held at its ends.
fn calendar(at: Timestamp) -> jiff::Timestamp {
    const FIRST: i64 = -62_135_596_800_000_000; // 0001-01-01
    const LAST: i64 = 253_402_207_200_000_000; // 9999-12-30T22
    jiff::Timestamp::from_microsecond(at.as_micros().clamp(FIRST, LAST)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// An instant for machines, to the second.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    calendar(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23 08:30`.
pub(crate) fn minute(at: Timestamp) -> String {
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

/// What makes a word that many.
pub(crate) fn ending(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_reading_and_marked_for_the_script() {
        let marked = |value, format| number(value, format).into_string();
        assert_eq!(marked(0.1234, Format::Percent1), "<data value=\"0.1234\" data-f=\"percent1\">12.3%</data>");
        assert_eq!(
            marked(-0.05, Format::SignedPercent1),
            "<data value=\"-0.05\" data-f=\"signed-percent1\">−5.0%</data>"
        );
        assert_eq!(marked(1e-12, Format::Percent1), "<data value=\"0.000000000001\">&lt;0.1%</data>");
        assert_eq!([marked(f64::NAN, Format::Int), marked(f64::INFINITY, Format::Num2)], ["–", "–"]);
        assert_eq!(count(1_234_567).into_string(), "<data value=\"1234567\" data-f=\"int\">1,234,567</data>");
        assert_eq!(Format::SignedPercent1.text(1e43), "> 1,000,000%");
        assert_eq!(Format::SignedPercent1.text(-0.00001), "0.0%");
        assert_eq!(Format::SignedPercent1.text(0.5), "+50.0%");
        assert_eq!(Format::Percent2.text(0.0), "0.00%");
        assert_eq!([plural(1, "step"), plural(2_000, "step")], ["1 step", "2,000 steps"]);
        assert_eq!(counted(1, "unit").into_string(), "<data value=\"1\" data-f=\"int\">1</data> unit");
    }

    #[test]
    fn instants_are_written_without_asking_a_clock() {
        let at = Timestamp::from_micros(1_795_422_600_000_000);
        assert_eq!(instant(at).into_string(), "<time datetime=\"2026-11-23T08:30:00Z\">2026-11-23 08:30 UTC</time>");
        assert_eq!([day(at), clock(at), year(at)], ["23 Nov", "08:30", "2026"]);
        assert_eq!(rfc3339(Timestamp::MIN), "0001-01-01T00:00:00Z");
        assert_eq!(&rfc3339(Timestamp::MAX)[..4], "9999");
    }
}
