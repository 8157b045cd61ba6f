//! The hash contract, which never changes: a unit's digest is `MD5(utf8(experiment) ":" utf8(salt) ":" utf8(unit))`,
//! and its point is the first 8 bytes of the digest, read as a big-endian number (I3). The SDKs in all languages are
//! tested against `contract/golden.json`.

use std::fmt;

use md5::{Digest as _, Md5};

use crate::key::{ExperimentKey, Salt, UnitKey};
use crate::line::Point;
use crate::short_md5::HashedPrefix;

/// The MD5 of a unit in one generation of an experiment. Digests sort in the order of their points, so a range of the
/// line is a range of keys in a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Creates a digest from its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Creates a digest from its first and last 8 bytes, each as a little-endian number.
    #[inline]
    fn from_halves((first, last): (u64, u64)) -> Self {
        Self((u128::from(first) | u128::from(last) << 64).to_le_bytes())
    }

    /// The bytes, in the order of MD5's output.
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

/// Hashes the unit keys of one experiment and salt. The work that depends only on these two is done once, in advance.
#[derive(Clone)]
pub struct UnitHasher {
    prefix: Box<[u8]>,
    /// The prefix, already hashed; `None` if it does not fit into one MD5 block together with a unit key.
    hashed_prefix: Option<HashedPrefix>,
}

impl UnitHasher {
    /// Prepares the prefix `experiment ":" salt ":"`.
    pub fn new(experiment: &ExperimentKey, salt: &Salt) -> Self {
        let prefix = format!("{experiment}:{salt}:").into_bytes().into_boxed_slice();
        Self { hashed_prefix: HashedPrefix::new(&prefix), prefix }
    }

    /// The digest of one unit. Does not allocate memory.
    #[inline]
    pub fn digest(&self, unit: UnitKey<'_>) -> Digest {
        let unit = unit.as_str().as_bytes();
        match &self.hashed_prefix {
            Some(prefix) if prefix.has_room_for(unit) => Digest::from_halves(prefix.finish(unit)),
            _ => self.digest_several_blocks(unit),
        }
    }

    #[inline(never)]
    fn digest_several_blocks(&self, unit: &[u8]) -> Digest {
        Digest(Md5::new().chain_update(&self.prefix).chain_update(unit).finalize().into())
    }
}

impl fmt::Debug for UnitHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitHasher({:?})", String::from_utf8_lossy(&self.prefix))
    }
}

/// A digest of a unit that does not depend on an experiment. Outcomes are stored under it, because an outcome does not
/// name an experiment.
/// `clock` is empty for the wall clock, otherwise the key of the experiment whose simulated time it is.
pub fn unit_digest(clock: &str, unit_type: &str, unit: UnitKey<'_>) -> Digest {
    let parts = [clock.as_bytes(), &[0], unit_type.as_bytes(), &[0], unit.as_str().as_bytes()];
    Digest(parts.iter().fold(Md5::new(), |hash, part| hash.chain_update(part)).finalize().into())
}
