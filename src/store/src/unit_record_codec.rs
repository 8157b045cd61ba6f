//! Encodes unit records as bytes: a layout, then variable-length integers. Small records put many units on a database
//! page, and the fold spends most of its time on pages.
//!
//! There are two layouts. Most units have few outcomes, and their sums are computed from these when they are needed: then
//! an outcome changes no record, and no page of the table. A unit with many outcomes gets its sums in the record when an event
//! changes what it counts for, so that the next outcome does not have to read all earlier ones.

use inroad_assignment::{Arm, Timestamp};
use inroad_policy::attribution::{Accumulator, Exposure, UnitRecord};

/// The layout with sums, which is also that of earlier releases.
const WITH_SUMS: u8 = 1;
/// The layout without sums.
const EXPOSURES_ONLY: u8 = 2;

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoredRecord {
    /// The record, complete.
    WithSums(UnitRecord),
    /// The exposures. The sums have to be computed from the unit's outcomes.
    ExposuresOnly(UnitRecord),
}

impl StoredRecord {
    /// The exposures, without sums that the record may have.
    pub(crate) fn exposures(&self) -> &UnitRecord {
        let (Self::WithSums(record) | Self::ExposuresOnly(record)) = self;
        record
    }
}

/// Encodes a complete record.
pub(crate) fn encode_with_sums(record: &UnitRecord) -> Vec<u8> {
    let (mut out, origin) = encode_exposures(record, WITH_SUMS);
    write_varint(&mut out, record.accumulators().len() as u128);
    for (metric, sums) in record.accumulators() {
        write_varint(&mut out, u128::from(*metric));
        write_varint(&mut out, u128::from(sums.count));
        write_signed(&mut out, sums.sum);
        write_signed(&mut out, sums.denominator);
    }
    let credits = record.first_credits();
    write_varint(&mut out, credits.len() as u128);
    for (metric, arm, at) in credits {
        write_varint(&mut out, u128::from(metric));
        write_varint(&mut out, arm.index() as u128);
        write_time(&mut out, origin, at);
    }
    out
}

/// Encodes the exposures of a record.
pub(crate) fn encode_exposures_only(record: &UnitRecord) -> Vec<u8> {
    encode_exposures(record, EXPOSURES_ONLY).0
}

/// The layout and the exposures, and the time from which other times count.
fn encode_exposures(record: &UnitRecord, layout: u8) -> (Vec<u8>, i64) {
    let mut out = Vec::with_capacity(24);
    out.push(layout);
    let origin = record.first().map_or(0, |e| e.at.as_micros());
    write_signed(&mut out, i128::from(origin));
    write_varint(&mut out, record.exposures().len() as u128);
    for exposure in record.exposures() {
        write_varint(&mut out, exposure.arm.index() as u128);
        write_varint(&mut out, u128::from(exposure.revision));
        write_time(&mut out, origin, exposure.at);
    }
    (out, origin)
}

/// Decodes a record; `None` if the bytes are not a record.
pub(crate) fn decode(bytes: &[u8]) -> Option<StoredRecord> {
    let mut exposures = Vec::new();
    let mut rest = decode_exposures(bytes, &mut exposures)?;
    if bytes.first() == Some(&EXPOSURES_ONLY) {
        let record = UnitRecord::from_parts(exposures, Vec::new(), []);
        return rest.is_empty().then_some(StoredRecord::ExposuresOnly(record));
    }
    let from = &mut rest;
    let origin = exposures.first().map_or(0, |e| e.at.as_micros());
    let mut accumulated = Vec::new();
    for _ in 0..read_varint(from)? {
        let metric = u16::try_from(read_varint(from)?).ok()?;
        let count = u64::try_from(read_varint(from)?).ok()?;
        accumulated.push((metric, Accumulator { count, sum: read_signed(from)?, denominator: read_signed(from)? }));
    }
    let mut credited = Vec::new();
    for _ in 0..read_varint(from)? {
        let metric = u16::try_from(read_varint(from)?).ok()?;
        credited.push((metric, read_arm(from)?, read_time(from, origin)?));
    }
    let record = || StoredRecord::WithSums(UnitRecord::from_parts(exposures, accumulated, credited));
    rest.is_empty().then(record)
}

/// Decodes the exposures at the start of a record into `exposures`, in their order, and returns the bytes after them. A
/// funnel reads millions of records this way, without decoding the rest and without allocations.
pub(crate) fn decode_exposures<'a>(bytes: &'a [u8], exposures: &mut Vec<Exposure>) -> Option<&'a [u8]> {
    exposures.clear();
    let (layout, mut rest) = bytes.split_first()?;
    if !matches!(*layout, WITH_SUMS | EXPOSURES_ONLY) {
        return None;
    }
    let from = &mut rest;
    let origin = i64::try_from(read_signed(from)?).ok()?;
    for _ in 0..read_varint(from)? {
        let arm = read_arm(from)?;
        let revision = u32::try_from(read_varint(from)?).ok()?;
        exposures.push(Exposure { at: read_time(from, origin)?, revision, arm });
    }
    Some(rest)
}

/// Seven bits per byte, lowest first; the eighth bit is set if more bytes follow.
fn write_varint(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_varint(from: &mut &[u8]) -> Option<u128> {
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

/// The sign goes into the lowest bit, so that small negative numbers are short as well.
fn write_signed(out: &mut Vec<u8>, number: i128) {
    write_varint(out, ((number << 1) ^ (number >> 127)) as u128);
}

fn read_signed(from: &mut &[u8]) -> Option<i128> {
    let number = read_varint(from)?;
    Some((number >> 1) as i128 ^ -((number & 1) as i128))
}

/// A time is stored as its difference from the unit's first exposure.
fn write_time(out: &mut Vec<u8>, origin: i64, at: Timestamp) {
    write_signed(out, i128::from(at.as_micros()) - i128::from(origin));
}

fn read_time(from: &mut &[u8], origin: i64) -> Option<Timestamp> {
    let at = read_signed(from)?.checked_add(i128::from(origin))?;
    i64::try_from(at).ok().map(Timestamp::from_micros)
}

fn read_arm(from: &mut &[u8]) -> Option<Arm> {
    Arm::new(usize::try_from(read_varint(from)?).ok()?)
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
        fn decoding_returns_the_encoded_record(
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
            let exposures = UnitRecord::from_parts(record.exposures().to_vec(), Vec::new(), []);
            prop_assert_eq!(decode(&encode_exposures_only(&record)), Some(StoredRecord::ExposuresOnly(exposures)));
            prop_assert_eq!(decode(&encode_with_sums(&record)), Some(StoredRecord::WithSums(record)));
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn released_layouts_stay_readable() {
        // Releases wrote these bytes; do not change them.
        let bytes = [1, 0x80, 0xa0, 0xd9, 0xe6, 0x1d, 1, 2, 3, 0, 1, 0, 1, 0x80, 0x89, 0x7a, 0, 1, 0, 2, 0x14];
        let at = Timestamp::from_micros(4_000_000_000);
        let record = UnitRecord::from_parts(
            vec![Exposure { at, revision: 3, arm: arm(2) }],
            vec![(0, Accumulator { count: 1, sum: 1_000_000, denominator: 0 })],
            [(0, arm(2), Timestamp::from_micros(4_000_000_010))],
        );
        assert_eq!(encode_with_sums(&record), bytes);
        assert_eq!(decode(&bytes), Some(StoredRecord::WithSums(record.clone())));
        let bytes = [2, 0x80, 0xa0, 0xd9, 0xe6, 0x1d, 1, 2, 3, 0];
        assert_eq!(encode_exposures_only(&record), bytes);
        let record = UnitRecord::from_parts(record.exposures().to_vec(), Vec::new(), []);
        assert_eq!(decode(&bytes), Some(StoredRecord::ExposuresOnly(record)));
    }
}
