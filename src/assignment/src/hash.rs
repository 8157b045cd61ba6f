//! The hash contract, for ever: a unit's digest is `MD5(utf8(experiment) ":" utf8(salt) ":" utf8(unit))`, and its point
//! is the digest's first 8 bytes, big-endian (I3). `contract/golden.json` holds it down in every language.

use std::fmt;

use md5::block_api::compress;
use md5::{Digest as _, Md5};

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

/// MD5's initial state (RFC 1321, 3.3).
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// What fits in one 64-byte block beside the padding byte and the 8-byte length.
const ONE_BLOCK: usize = 55;

/// One experiment and salt, made ready to hash unit keys: whatever of the message they fix is laid out beforehand.
#[derive(Clone)]
pub struct UnitHasher {
    prefix: Box<[u8]>,
    /// The prefix at the start of an otherwise empty block, where it leaves room for a unit key.
    block: [u8; 64],
}

impl UnitHasher {
    /// Lays out `experiment ":" salt ":"`.
    pub fn new(experiment: &ExperimentKey, salt: &Salt) -> Self {
        let prefix = format!("{experiment}:{salt}:").into_bytes().into_boxed_slice();
        let mut block = [0; 64];
        let held = prefix.len().min(block.len());
        block[..held].copy_from_slice(&prefix[..held]);
        Self { prefix, block }
    }

    /// The digest of one unit. Allocates nothing.
    #[inline]
    pub fn digest(&self, unit: UnitKey<'_>) -> Digest {
        let unit = unit.as_str().as_bytes();
        let length = self.prefix.len() + unit.len();
        if length > ONE_BLOCK {
            return self.digest_of_several_blocks(unit);
        }
        let mut block = self.block;
        block[self.prefix.len()..length].copy_from_slice(unit);
        block[length] = 0x80;
        block[56..].copy_from_slice(&(8 * length as u64).to_le_bytes());
        let mut state = INITIAL;
        compress(&mut state, &[block]);
        let mut bytes = [0; 16];
        for (out, word) in bytes.chunks_exact_mut(4).zip(state) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        Digest(bytes)
    }

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
