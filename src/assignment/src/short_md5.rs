//! Fast MD5 (RFC 1321) of short messages with a common prefix. Answering "which variation?" spends most of its time on
//! one such digest. The steps that depend only on the prefix are done once, in advance. The rest of the message is
//! loaded into registers as words: writing it to a block as bytes and reading it back as words would stall the
//! processor. A test compares the results with the `md-5` crate.

/// MD5's initial state (RFC 1321, 3.3).
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// The longest message that fits into one 64-byte block, with the padding byte and the 8-byte length.
const MAX_MESSAGE_BYTES: usize = 55;

/// The prefix of a message, with the MD5 steps done that depend on the prefix alone.
#[derive(Clone)]
pub(crate) struct HashedPrefix {
    /// The block: the prefix, then zeros.
    words: [u32; 16],
    state: [u32; 4],
    /// The number of steps that led to `state`: one for each whole word of the prefix, at most 13.
    steps_done: usize,
    /// The length of the prefix in bytes.
    length: usize,
}

impl HashedPrefix {
    /// Hashes the prefix; `None` if it leaves no room in the block for the rest of a message.
    pub(crate) fn new(prefix: &[u8]) -> Option<Self> {
        if prefix.len() >= MAX_MESSAGE_BYTES {
            return None;
        }
        let mut block = [0; 64];
        block[..prefix.len()].copy_from_slice(prefix);
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let steps_done = prefix.len() / 4;
        let [mut a, mut b, mut c, mut d] = INITIAL;
        for n in 0..steps_done {
            let next = step(f(b, c, d), a, b, words[n], CONSTANTS[n], ROTATIONS[0][n % 4]);
            (a, b, c, d) = (d, next, b, c);
        }
        // This loop moves the values through `a` to `d`. `rounds` leaves them in place and changes the roles of the
        // variables instead, so rotate the values back.
        let mut state = [a, b, c, d];
        state.rotate_left(steps_done % 4);
        Some(Self { words, state, steps_done, length: prefix.len() })
    }

    /// Whether `rest` fits into the block after the prefix.
    #[inline]
    pub(crate) fn has_room_for(&self, rest: &[u8]) -> bool {
        rest.len() <= MAX_MESSAGE_BYTES - self.length
    }

    /// The digest of the prefix followed by `rest`, as two little-endian halves. The caller has checked that there is
    /// room. Numbers are returned in registers; bytes would go through memory, and a caller that reads them in larger
    /// units than they were written would stall.
    #[inline(never)]
    pub(crate) fn finish(&self, rest: &[u8]) -> (u64, u64) {
        let length = self.length + rest.len();
        let mut words = self.words;
        let (shift, mut at) = (8 * (self.length % 4), self.length / 4);
        // The low half of `carry` is the word at `at`, as far as it is filled. No index is over 14, so the masks change
        // nothing, but they let the compiler remove the bounds checks.
        let mut carry = u64::from(words[at & 15]);
        let (whole, last) = rest.as_chunks::<4>();
        for bytes in whole {
            carry |= u64::from(u32::from_le_bytes(*bytes)) << shift;
            words[at & 15] = carry as u32;
            carry >>= 32;
            at += 1;
        }
        // The last bytes of the message, and the first byte of the padding.
        let last = match *last {
            [a, b, c] => [a, b, c, 0x80],
            [a, b] => [a, b, 0x80, 0],
            [a] => [a, 0x80, 0, 0],
            _ => [0x80, 0, 0, 0],
        };
        carry |= u64::from(u32::from_le_bytes(last)) << shift;
        words[at & 15] = carry as u32;
        words[(at + 1) & 15] = (carry >> 32) as u32;
        // The length in bits. The upper half of its field is zero already.
        words[14] = 8 * length as u32;
        let [a, b, c, d] = rounds(self.state, &words, self.steps_done);
        let half = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        (
            half(a.wrapping_add(INITIAL[0]), b.wrapping_add(INITIAL[1])),
            half(c.wrapping_add(INITIAL[2]), d.wrapping_add(INITIAL[3])),
        )
    }
}

/// The rotation of each step, in bits, by round and by step modulo 4.
const ROTATIONS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The constant that each step adds: the integer part of 2^32 |sin(step + 1)|.
#[rustfmt::skip]
const CONSTANTS: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The index of the word of the block that a step uses.
const fn word_index(step: usize) -> usize {
    match step / 16 {
        0 => step % 16,
        1 => (5 * step + 1) % 16,
        2 => (3 * step + 5) % 16,
        _ => (7 * step) % 16,
    }
}

/// One step. The terms that do not depend on the previous step are added first, so that they are ready when it ends.
#[inline(always)]
fn step(mixed: u32, a: u32, b: u32, word: u32, constant: u32, rotation: u32) -> u32 {
    a.wrapping_add(word).wrapping_add(constant).wrapping_add(mixed).rotate_left(rotation).wrapping_add(b)
}

#[inline(always)]
fn f(b: u32, c: u32, d: u32) -> u32 {
    d ^ (b & (c ^ d))
}

/// No bit is set in both parts, so adding them is the same as `|`. One part is known a step earlier.
#[inline(always)]
fn g(b: u32, c: u32, d: u32) -> u32 {
    (c & !d).wrapping_add(b & d)
}

#[inline(always)]
fn h(b: u32, c: u32, d: u32) -> u32 {
    b ^ (c ^ d)
}

#[inline(always)]
fn i(b: u32, c: u32, d: u32) -> u32 {
    c ^ (b | !d)
}

/// All steps from `steps_done` on, which is at most 15.
#[inline(always)]
fn rounds(state: [u32; 4], words: &[u32; 16], steps_done: usize) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = state;
    macro_rules! one_step {
        ($mix:ident, $n:expr, $a:ident $b:ident $c:ident $d:ident) => {
            // Only steps of the first round can be done in advance, so the compiler removes the check in the others.
            if $n > 15 || steps_done <= $n {
                const WORD: usize = word_index($n);
                $a = step($mix($b, $c, $d), $a, $b, words[WORD], CONSTANTS[$n], ROTATIONS[$n / 16][$n % 4]);
            }
        };
    }
    macro_rules! sixteen_steps {
        ($mix:ident, $($n:literal)*) => { $(
            one_step!($mix, $n, a b c d);
            one_step!($mix, $n + 1, d a b c);
            one_step!($mix, $n + 2, c d a b);
            one_step!($mix, $n + 3, b c d a);
        )* };
    }
    sixteen_steps!(f, 0 4 8 12);
    sixteen_steps!(g, 16 20 24 28);
    sixteen_steps!(h, 32 36 40 44);
    sixteen_steps!(i, 48 52 56 60);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use md5::{Digest as _, Md5};

    use super::*;

    #[test]
    fn every_prefix_and_length_gives_the_digest_of_the_md5_crate() {
        let mut message = [0; 64];
        for round in 0..16u32 {
            for (byte, n) in message.iter_mut().zip(0u32..) {
                *byte = (n.wrapping_mul(0x9e37_79b9).wrapping_add(round.wrapping_mul(0x85eb_ca6b)) >> 13) as u8;
            }
            for length in 0..=message.len() {
                for split in 0..=length {
                    let (prefix, rest) = message[..length].split_at(split);
                    let hashed = HashedPrefix::new(prefix).filter(|hashed| hashed.has_room_for(rest));
                    let ours = hashed.map(|hashed| hashed.finish(rest));
                    let theirs = u128::from_le_bytes(Md5::digest(&message[..length]).into());
                    let theirs = (theirs as u64, (theirs >> 64) as u64);
                    let fits = length <= MAX_MESSAGE_BYTES && split < MAX_MESSAGE_BYTES;
                    assert_eq!(ours, fits.then_some(theirs), "{length} bytes, {split} of them in the prefix");
                }
            }
        }
    }

    #[test]
    fn constants_are_the_sines_of_rfc_1321() {
        for (n, constant) in CONSTANTS.iter().enumerate() {
            assert_eq!(*constant, (((n + 1) as f64).sin().abs() * 4_294_967_296.0) as u32);
        }
    }
}
