//! Unit records as bytes: a version, then whole numbers in as few bytes as they need. Small records are what keeps many
//! units on a page, and pages are what the fold spends its time on.

use inroad_assignment::{Arm, Timestamp};
use inroad_policy::attribution::{Accumulator, Exposure, UnitRecord};

/// The layout written today; older ones stay readable.
const VERSION: u8 = 1;

/// Writes a record.
pub(crate) fn encode(record: &UnitRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.push(VERSION);
    let origin = record.first().map_or(0, |e| e.at.as_micros());
    put_signed(&mut out, i128::from(origin));
    put(&mut out, record.exposures().len() as u128);
    for exposure in record.exposures() {
        put(&mut out, exposure.arm.index() as u128);
        put(&mut out, u128::from(exposure.revision));
        put_time(&mut out, origin, exposure.at);
    }
    put(&mut out, record.accumulators().len() as u128);
    for (metric, sums) in record.accumulators() {
        put(&mut out, u128::from(*metric));
        put(&mut out, u128::from(sums.count));
        put_signed(&mut out, sums.sum);
        put_signed(&mut out, sums.denominator);
    }
    let credits = record.first_credits();
    put(&mut out, credits.len() as u128);
    for (metric, arm, at) in credits {
        put(&mut out, u128::from(metric));
        put(&mut out, arm.index() as u128);
        put_time(&mut out, origin, at);
    }
    out
}

/// Reads a record; `None` if the bytes are none.
pub(crate) fn decode(bytes: &[u8]) -> Option<UnitRecord> {
    let mut exposures = Vec::new();
    let mut rest = decode_exposures(bytes, &mut exposures)?;
    let from = &mut rest;
    let origin = exposures.first().map_or(0, |e| e.at.as_micros());
    let mut accumulated = Vec::new();
    for _ in 0..take(from)? {
        let metric = u16::try_from(take(from)?).ok()?;
        let count = u64::try_from(take(from)?).ok()?;
        accumulated.push((metric, Accumulator { count, sum: take_signed(from)?, denominator: take_signed(from)? }));
    }
    let mut credited = Vec::new();
    for _ in 0..take(from)? {
        let metric = u16::try_from(take(from)?).ok()?;
        credited.push((metric, take_arm(from)?, take_time(from, origin)?));
    }
    rest.is_empty().then(|| UnitRecord::from_parts(exposures, accumulated, credited))
}

/// Reads the exposures at the head of a record into `exposures`, in their order, and gives the bytes that follow them:
/// who asks about millions of units reads no more of each, and allocates nothing.
pub(crate) fn decode_exposures<'a>(bytes: &'a [u8], exposures: &mut Vec<Exposure>) -> Option<&'a [u8]> {
    exposures.clear();
    let (version, mut rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let from = &mut rest;
    let origin = i64::try_from(take_signed(from)?).ok()?;
    for _ in 0..take(from)? {
        let arm = take_arm(from)?;
        let revision = u32::try_from(take(from)?).ok()?;
        exposures.push(Exposure { at: take_time(from, origin)?, revision, arm });
    }
    Some(rest)
}

/// Seven bits a byte, lowest first; the eighth says that there is more.
fn put(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(from: &mut &[u8]) -> Option<u128> {
    let (mut number, mut shift) = (0u128, 0u32);
    loop {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u128::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

/// The sign in the lowest bit, so that small negative numbers are short as well.
fn put_signed(out: &mut Vec<u8>, number: i128) {
    put(out, ((number << 1) ^ (number >> 127)) as u128);
}

fn take_signed(from: &mut &[u8]) -> Option<i128> {
    let number = take(from)?;
    Some((number >> 1) as i128 ^ -((number & 1) as i128))
}

/// An instant, as its distance from the unit's first exposure.
fn put_time(out: &mut Vec<u8>, origin: i64, at: Timestamp) {
    put_signed(out, i128::from(at.as_micros()) - i128::from(origin));
}

fn take_time(from: &mut &[u8], origin: i64) -> Option<Timestamp> {
    let at = take_signed(from)?.checked_add(i128::from(origin))?;
    i64::try_from(at).ok().map(Timestamp::from_micros)
}

fn take_arm(from: &mut &[u8]) -> Option<Arm> {
    Arm::new(usize::try_from(take(from)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arm(index: usize) -> Arm {
        Arm::new(index).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_was_written_is_read(
            exposures in prop::collection::btree_map(0usize..=64, (any::<i64>(), any::<u32>()), 0..5),
            sums in prop::collection::btree_map(any::<u16>(), (1u64.., any::<i128>(), any::<i128>()), 0..5),
            credits in prop::collection::btree_map((any::<u16>(), 0usize..=64), any::<i64>(), 0..5),
        ) {
            let exposure = |(a, (at, revision))| Exposure { at: Timestamp::from_micros(at), revision, arm: arm(a) };
            let accumulated = |(m, (count, sum, denominator))| (m, Accumulator { count, sum, denominator });
            let record = UnitRecord::from_parts(
                exposures.into_iter().map(exposure).collect(),
                sums.into_iter().map(accumulated).collect(),
                credits.into_iter().map(|((m, a), at)| (m, arm(a), Timestamp::from_micros(at))),
            );
            prop_assert_eq!(decode(&encode(&record)), Some(record));
        }

        #[test]
        fn garbage_is_refused_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn version_one_stays_readable() {
        // Frozen: written by the first release.
        let bytes = [1, 0x80, 0xa0, 0xd9, 0xe6, 0x1d, 1, 2, 3, 0, 1, 0, 1, 0x80, 0x89, 0x7a, 0, 1, 0, 2, 0x14];
        let at = Timestamp::from_micros(4_000_000_000);
        let record = UnitRecord::from_parts(
            vec![Exposure { at, revision: 3, arm: arm(2) }],
            vec![(0, Accumulator { count: 1, sum: 1_000_000, denominator: 0 })],
            [(0, arm(2), Timestamp::from_micros(4_000_000_010))],
        );
        assert_eq!(encode(&record), bytes);
        assert_eq!(decode(&bytes), Some(record));
    }
}
