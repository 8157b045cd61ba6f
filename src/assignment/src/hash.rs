//! The hash contract, for ever: a unit's digest is `MD5(utf8(experiment) ":" utf8(salt) ":" utf8(unit))`, and its point
//! is the digest's first 8 bytes, big-endian (I3). `contract/golden.json` holds it down in every language.

use std::fmt;

use md5::{Digest as _, Md5};

use crate::compress::Begun;
use crate::key::{ExperimentKey, Salt, UnitKey};
use crate::line::Point;

/// The whole MD5 of a unit on one experiment's line; sorts as its point does, so a slice of the line is a key range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The digest whose first and last 8 bytes are these numbers, little-endian as MD5 has them.
    #[inline]
    fn from_halves((first, last): (u64, u64)) -> Self {
        Self((u128::from(first) | u128::from(last) << 64).to_le_bytes())
    }

    /// Its bytes, in the order that MD5 gives them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The unit's place on the line.
    #[inline]
    pub fn point(&self) -> Point {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        Point::new(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One experiment and salt, made ready to hash unit keys: whatever of the work they fix is done beforehand.
#[derive(Clone)]
pub struct UnitHasher {
    prefix: Box<[u8]>,
    /// The prefix as the beginning of a block, where it leaves room in one.
    begun: Option<Begun>,
}

impl UnitHasher {
    /// Lays out `experiment ":" salt ":"`.
    pub fn new(experiment: &ExperimentKey, salt: &Salt) -> Self {
        let prefix = format!("{experiment}:{salt}:").into_bytes().into_boxed_slice();
        Self { begun: Begun::new(&prefix), prefix }
    }

    /// The digest of one unit. Allocates nothing.
    #[inline]
    pub fn digest(&self, unit: UnitKey<'_>) -> Digest {
        let unit = unit.as_str().as_bytes();
        match &self.begun {
            Some(begun) if begun.has_room_for(unit) => Digest::from_halves(begun.finish(unit)),
            _ => self.digest_of_several_blocks(unit),
        }
    }

    #[inline(never)]
    fn digest_of_several_blocks(&self, unit: &[u8]) -> Digest {
        Digest(Md5::new().chain_update(&self.prefix).chain_update(unit).finalize().into())
    }
}

impl fmt::Debug for UnitHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitHasher({:?})", String::from_utf8_lossy(&self.prefix))
    }
}

/// A digest that says nothing of any experiment: the same unit has the same one everywhere. Outcomes, which name no
/// experiment, are kept under it. `clock` is empty for the wall's (see the events' own words on clocks).
pub fn unit_digest(clock: &str, unit_type: &str, unit: UnitKey<'_>) -> Digest {
    let parts = [clock.as_bytes(), &[0], unit_type.as_bytes(), &[0], unit.as_str().as_bytes()];
    Digest(parts.iter().fold(Md5::new(), |hash, part| hash.chain_update(part)).finalize().into())
}
