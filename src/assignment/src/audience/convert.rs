//! Values that an audience compares but a context cannot contain: versions, instants, durations, and the patterns of
//! `matches`. An audience only compares them, so they never become attributes. Those that are written in the expression
//! are converted once, when it is parsed.

use std::cmp::Ordering;

use regex_lite::{Regex, RegexBuilder};
use semver::Prerelease;

/// The longest text that can be a version, an instant or a duration, in bytes.
const MAX_TEXT_BYTES: usize = 128;
/// The most numbers of a version: `117.0.5938.62` is one.
const MAX_VERSION_NUMBERS: usize = 4;
/// The seconds since 1970 of the first instant of year 1 and of the last second of year 9999, as in CEL.
const SECONDS: std::ops::RangeInclusive<f64> = -62_135_596_800.0..=253_402_300_799.0;
/// The longest pattern of `matches`, in bytes.
const MAX_PATTERN_BYTES: usize = 256;
/// How deeply groups in a pattern may be nested.
const MAX_PATTERN_DEPTH: u32 = 16;
/// The sizes of compiled patterns that are told apart, in bytes. A pattern above the last one is rejected.
const PATTERN_BYTES: [usize; 5] = [512, 1024, 2048, 4096, 8192];
/// The bytes of a compiled pattern that cost one step for each byte of text. A state of a pattern has 32 bytes, and a
/// step takes about as long as visiting four states.
const PATTERN_BYTES_PER_STEP: usize = 128;

/// What a text or number is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversion {
    /// `semver(text)`.
    Version,
    /// `timestamp(text)` or `timestamp(seconds)`.
    Instant,
    /// `duration(text)`.
    Span,
}

impl Conversion {
    /// The conversion with this name in an expression.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "semver" => Self::Version,
            "timestamp" => Self::Instant,
            "duration" => Self::Span,
            _ => return None,
        })
    }

    /// The result of the conversion, for an error message.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Version => "a version",
            Self::Instant => "a time",
            Self::Span => "a duration",
        }
    }

    /// How a text must be written, for an error message.
    pub(super) fn form(self) -> &'static str {
        match self {
            Self::Version => "write a version like 10.4.0",
            Self::Instant => "write a time with its offset like 2026-09-29T00:00:00Z, or a date",
            Self::Span => "write a duration like 36h or 7d",
        }
    }

    /// Converts a text; `None` if it has another form.
    pub(super) fn of_text(self, text: &str) -> Option<Converted> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        match self {
            Self::Version => Version::parse(text).map(Converted::Version),
            Self::Instant => instant(text).map(Converted::Nanoseconds),
            Self::Span => span(text).map(Converted::Nanoseconds),
        }
    }

    /// Converts a number; `None` if a number cannot be converted, or is too large.
    pub(super) fn of_number(self, number: f64) -> Option<Converted> {
        // To a microsecond: a double has no more digits for the present time.
        #[allow(clippy::cast_possible_truncation, reason = "within the range of the years 1 to 9999")]
        let nanoseconds = || (number * 1e6).round() as i128 * 1000;
        (self == Self::Instant && SECONDS.contains(&number)).then(|| Converted::Nanoseconds(nanoseconds()))
    }
}

/// The result of a conversion, or of a calculation with such results.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Converted {
    Version(Version),
    /// An instant, since 1970, or a duration.
    Nanoseconds(i128),
}

impl Converted {
    /// The order of two values of one kind; `None` for different kinds, which the compiler rejects.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Version(a), Self::Version(b)) => Some(a.cmp(b)),
            (Self::Nanoseconds(a), Self::Nanoseconds(b)) => Some(a.cmp(b)),
            (Self::Version(_) | Self::Nanoseconds(_), _) => None,
        }
    }

    /// The sum or, with `subtract`, the difference of two times; `None` for versions.
    pub(super) fn plus(&self, other: &Self, subtract: bool) -> Option<Self> {
        match (self, other) {
            (Self::Nanoseconds(a), Self::Nanoseconds(b)) => {
                Some(Self::Nanoseconds(if subtract { a.saturating_sub(*b) } else { a.saturating_add(*b) }))
            }
            (Self::Version(_) | Self::Nanoseconds(_), _) => None,
        }
    }
}

/// A version: numbers, then an optional pre-release, in the order of <https://semver.org>.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    /// Missing numbers are 0.
    numbers: [u64; MAX_VERSION_NUMBERS],
    /// An empty one is greater than all others.
    pre_release: Prerelease,
}

impl Version {
    /// Reads a version more leniently than semver.org does: with a `v` before it, with one to four numbers, and with
    /// leading zeros. The build after a `+` is ignored.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (core, pre_release) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        if build == Some("") || pre_release == Some("") {
            return None;
        }
        let mut numbers = [0; MAX_VERSION_NUMBERS];
        let mut places = numbers.iter_mut();
        for number in core.split('.') {
            let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
            *places.next()? = number.parse().ok().filter(|_| is_number)?;
        }
        Some(Self { numbers, pre_release: Prerelease::new(pre_release.unwrap_or_default()).ok()? })
    }
}

/// Reads an instant of RFC 3339, or a date as the start of its day in UTC, as nanoseconds since 1970.
pub(super) fn instant(text: &str) -> Option<i128> {
    let bytes = text.as_bytes();
    let has = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|byte| allowed.contains(byte));
    if !(has(4, b"-") && has(7, b"-")) {
        return None;
    }
    let instant = if bytes.len() == 10 {
        let date: jiff::civil::Date = text.parse().ok()?;
        date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
    } else {
        // `jiff` reads more than RFC 3339, for example times without colons and time zones in brackets.
        let has_offset = match bytes.len().checked_sub(6) {
            Some(at) => has(bytes.len() - 1, b"Zz") || has(at, b"+-") && has(at + 3, b":"),
            None => false,
        };
        if !(has(10, b"Tt") && has(13, b":") && has(16, b":") && has_offset) {
            return None;
        }
        text.parse::<jiff::Timestamp>().ok()?
    };
    Some(instant.as_nanosecond())
}

/// Reads a duration such as `36h`, `1h30m`, `7d` or `-10s`, as nanoseconds.
fn span(text: &str) -> Option<i128> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
    let nanoseconds = humantime::parse_duration(text).ok()?.as_nanos();
    i128::try_from(nanoseconds).ok().map(|nanoseconds| sign * nanoseconds)
}

/// The pattern of a `matches`. Its time is at most proportional to its size times the size of the text.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// An upper bound of the compiled size in bytes, one of [`PATTERN_BYTES`].
    bytes: usize,
}

impl Pattern {
    /// Compiles a regular expression.
    ///
    /// # Errors
    /// What is wrong with it and what to do, if it is not valid or too large.
    pub(super) fn parse(source: &str) -> Result<Self, String> {
        if source.len() > MAX_PATTERN_BYTES {
            let len = source.len();
            return Err(format!("the pattern has {len} bytes: shorten it to at most {MAX_PATTERN_BYTES} bytes"));
        }
        let build = |bytes| {
            let regex = RegexBuilder::new(source).size_limit(bytes).nest_limit(MAX_PATTERN_DEPTH).build();
            regex.map(|regex| Self { regex, bytes })
        };
        // The engine does not return the size, so the limits are tried from the smallest one.
        let mut result = Err("the pattern is empty".to_owned());
        for bytes in PATTERN_BYTES {
            result = build(bytes)
                .map_err(|error| format!("the pattern is not valid or too large ({error}): correct or shorten it"));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The cost of a search in steps.
    pub(super) fn steps(&self, text: &str) -> usize {
        1 + text.len().saturating_mul(self.bytes) / PATTERN_BYTES_PER_STEP
    }
}
