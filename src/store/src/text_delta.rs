//! A text as the difference from an earlier, similar one, to the byte. Records of decisions are stored like this: the
//! input of a decision is that of the decision before it with a few new and changed numbers. Pure.
//!
//! Both texts are cut after each `,` and `}`. A delta is a list of instructions: copy a range of the earlier text, then
//! insert some bytes. The length and a part of the SHA-256 hash of the result come first, because a wrong input would make
//! a decision look wrong.
//!
//! ```text
//! delta       = length of the result, 8 bytes of its hash, instruction…
//! instruction = start, length, number of inserted bytes, inserted bytes
//! ```
//!
//! Numbers are little-endian base 128 (LEB128).

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// The shortest piece that is looked for anywhere in the earlier text. Shorter ones occur everywhere, and an instruction
/// takes about as many bytes.
const SOUGHT_BYTES: usize = 12;

/// The difference of `text` from `base`.
pub(crate) fn encode(base: &str, text: &str) -> Vec<u8> {
    let mut delta = Vec::new();
    push_number(&mut delta, text.len());
    delta.extend_from_slice(&check_bytes(text));
    // Usually most of the text is what both begin with.
    let same = common_start(base, text);
    let pieces: Vec<&str> = base[same..].split_inclusive([',', '}']).collect();
    let mut starts = Vec::with_capacity(pieces.len());
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut start = same;
    for (i, piece) in pieces.iter().enumerate() {
        starts.push(start);
        start += piece.len();
        if piece.len() >= SOUGHT_BYTES {
            places.entry(piece).or_default().push(i);
        }
    }
    // The piece of the base that is expected next: changed pieces replace one each.
    let mut next = 0;
    let mut copied = (0, same);
    let mut inserted = Vec::new();
    for piece in text[same..].split_inclusive([',', '}']) {
        let found = match pieces.get(next) {
            Some(expected) if *expected == piece => Some(next),
            _ => places.get(piece).map(|places| {
                let later = places.partition_point(|place| *place < next);
                places[later.min(places.len() - 1)]
            }),
        };
        let Some(found) = found else {
            inserted.extend_from_slice(piece.as_bytes());
            next += 1;
            continue;
        };
        let (start, length) = copied;
        if !inserted.is_empty() || start + length != starts[found] {
            push_instruction(&mut delta, copied, &inserted);
            inserted.clear();
            copied = (starts[found], 0);
        }
        copied.1 += piece.len();
        next = found + 1;
    }
    push_instruction(&mut delta, copied, &inserted);
    delta
}

/// The length of the pieces with which both texts begin.
fn common_start(base: &str, text: &str) -> usize {
    let same = base.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    text.as_bytes()[..same].iter().rposition(|byte| matches!(byte, b',' | b'}')).map_or(0, |last| last + 1)
}

fn push_instruction(delta: &mut Vec<u8>, (start, length): (usize, usize), inserted: &[u8]) {
    for number in [start, length, inserted.len()] {
        push_number(delta, number);
    }
    delta.extend_from_slice(inserted);
}

/// The text whose difference from `base` is `delta`. It is not checked yet: see [`is_intact`].
pub(crate) fn apply(base: &str, delta: &[u8]) -> Option<String> {
    let (length, rest) = take_number(delta)?;
    let mut rest = rest.get(8..)?;
    // The length is not believed, because it may be damaged.
    let mut text = Vec::with_capacity(length.min(base.len() + delta.len()));
    while !rest.is_empty() {
        let (start, after) = take_number(rest)?;
        let (copied, after) = take_number(after)?;
        let (inserted, after) = take_number(after)?;
        text.extend_from_slice(base.as_bytes().get(start..start.checked_add(copied)?)?);
        text.extend_from_slice(after.get(..inserted)?);
        rest = &after[inserted..];
    }
    String::from_utf8(text).ok()
}

/// Whether a text is the one from which a delta was made.
pub(crate) fn is_intact(text: &str, delta: &[u8]) -> bool {
    take_number(delta).is_some_and(|(length, rest)| length == text.len() && rest.starts_with(&check_bytes(text)))
}

fn check_bytes(text: &str) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(text).into();
    std::array::from_fn(|i| hash[i])
}

fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| *byte < 0x80)?;
    let number = bytes[..=end]
        .iter()
        .rev()
        .try_fold(0usize, |number, byte| number.checked_mul(0x80)?.checked_add(usize::from(byte & 0x7f)))?;
    Some((number, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(base: &str, text: &str) -> usize {
        let delta = encode(base, text);
        assert_eq!(apply(base, &delta).as_deref(), Some(text), "{base}");
        assert!(is_intact(text, &delta));
        delta.len()
    }

    #[test]
    fn delta_of_a_grown_list_is_small() {
        let list = |n: usize| {
            let cells: Vec<_> =
                (0..n).map(|i| format!("{{\"tick\":{i},\"arms\":[{{\"n\":{},\"s\":0}}]}}", i * 37)).collect();
            format!("{{\"now\":{n},\"epochs\":[{}],\"guardrails\":[{}]}}", cells.join(","), cells.join(","))
        };
        assert!(round_trip(&list(900), &list(901)) < 150);
        assert!(round_trip(&list(900), &list(900)) < 20);
        assert!(round_trip("", &list(3)) > 100);
        assert!(round_trip(&list(3), "") < 20);
        // A changed cell in the middle of each list.
        assert!(round_trip(&list(900), &list(900).replace("16650", "16651")) < 120);
    }

    #[test]
    fn damaged_delta_is_no_text() {
        let (base, text) = ("{\"first\":12345678,\"b\":1}", "{\"first\":12345678,\"b\":2}");
        let delta = encode(base, text);
        assert!(!is_intact(base, &delta) && !is_intact("", &[]));
        for end in 0..delta.len() - 1 {
            assert_ne!(apply(base, &delta[..end]).as_deref(), Some(text));
        }
        assert_eq!(apply("short", &delta), None);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_to_the_byte(base in "[a,}π]{0,200}", text in "[a,}π]{0,200}") {
            round_trip(&base, &text);
        }

        #[test]
        fn any_bytes_are_applied_without_a_panic(base in ".{0,50}", delta in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = apply(&base, &delta).is_some_and(|text| is_intact(&text, &delta));
        }
    }
}
