//! The line that units are placed on: its points, and how many points a part of it has. Integer arithmetic only, so
//! no point is lost to rounding (I1).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A unit's place on the line: the first 8 bytes of its digest, read as a big-endian number.
///
/// Written as 16 lowercase hex digits. As text they sort in the same order as the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Point(u64);

impl Point {
    /// The first point of the line.
    pub const FIRST: Self = Self(0);
    /// The last point of the line.
    pub const LAST: Self = Self(u64::MAX);

    /// Creates a point from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The point's number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reads exactly 16 lowercase hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text.len() == 16 && is_lowercase_hex(text);
        if canonical { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom("a point must have 16 lowercase hex digits, like 00000000000000ff"))
    }
}

fn is_lowercase_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A number of points: 0 to 2^64.
///
/// Written as 17 lowercase hex digits, because the whole line needs one bit more than a point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Width(u128);

impl Width {
    /// No points.
    pub const ZERO: Self = Self(0);
    /// The whole line: 2^64 points.
    pub const LINE: Self = Self(1 << 64);

    /// Creates a width of `points`; `None` if the line has fewer.
    pub const fn new(points: u128) -> Option<Self> {
        if points <= Self::LINE.0 { Some(Self(points)) } else { None }
    }

    /// The number of points.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The width of a share of the line, rounded down to a whole point; `None` unless the share is from 0 to 1.
    /// Exact: multiplying by a power of two does not round.
    pub fn from_share(share: f64) -> Option<Self> {
        // The cast truncates towards zero. The bounds are checked first.
        if (0.0..=1.0).contains(&share) { Some(Self((share * 18_446_744_073_709_551_616.0) as u128)) } else { None }
    }

    /// This width as a share of the line, 0 to 1.
    pub fn share(self) -> f64 {
        self.0 as f64 / 18_446_744_073_709_551_616.0
    }

    /// The sum, at most the whole line.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self((self.0 + other.0).min(Self::LINE.0))
    }

    /// The sum; `None` if it is more than the whole line.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Self::new(self.0 + other.0)
    }

    /// The difference; zero if `other` is wider.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The number of points from `start` up to, but not including, `end`. The end of the line is 2^64.
    pub(crate) fn between(start: u128, end: u128) -> Self {
        Self(end.saturating_sub(start))
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:017x}", self.0)
    }
}

impl fmt::Debug for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Width {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Width {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let canonical = text.len() == 17 && is_lowercase_hex(&text);
        let points = if canonical { u128::from_str_radix(&text, 16).ok() } else { None };
        points
            .and_then(Self::new)
            .ok_or_else(|| de::Error::custom("a width must have 17 lowercase hex digits, at most 10000000000000000"))
    }
}
