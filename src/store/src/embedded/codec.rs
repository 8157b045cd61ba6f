//! A unit's record as bytes: a version, then whole numbers of variable length. Old records stay readable: a new layout
//! gets a new version, and this file keeps reading those before it.

use inroad_assignment::{Arm, Timestamp};
use inroad_policy::attribution::{Accumulator, Cell, Exposure, UnitRecord};

use super::database::Inner;

/// The layout that is written.
const VERSION: u8 = 1;

/// Zig-zag and seven bits a byte, as protobuf has it: small numbers of either sign are short.
fn put(bytes: &mut Vec<u8>, number: i128) {
    let mut rest = ((number << 1) ^ (number >> 127)) as u128;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Inner> {
        let (first, rest) = self.0.split_first().ok_or_else(|| Inner::unreadable("a unit's record ends early"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<i128, Inner> {
        let mut number = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            number |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((number >> 1) as i128 ^ -((number & 1) as i128));
            }
        }
        Err(Inner::unreadable("a number in a unit's record has no end"))
    }

    fn narrow<T: TryFrom<i128>>(&mut self) -> Result<T, Inner> {
        T::try_from(self.number()?).map_err(|_| Inner::unreadable("a number in a unit's record is out of its range"))
    }

    fn arm(&mut self) -> Result<Arm, Inner> {
        Arm::new(self.narrow()?).ok_or_else(|| Inner::unreadable("a unit's record names an arm that cannot be"))
    }

    fn instant(&mut self) -> Result<Timestamp, Inner> {
        Ok(Timestamp::from_micros(self.narrow()?))
    }
}

pub(super) fn encode(record: &UnitRecord) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.push(VERSION);
    put(&mut bytes, record.exposures().len() as i128);
    for exposure in record.exposures() {
        put(&mut bytes, i128::from(exposure.at.as_micros()));
        put(&mut bytes, i128::from(exposure.revision));
        put(&mut bytes, exposure.arm.index() as i128);
    }
    put(&mut bytes, record.accumulators().len() as i128);
    for (metric, sums) in record.accumulators() {
        put(&mut bytes, i128::from(*metric));
        put(&mut bytes, i128::from(sums.count));
        put(&mut bytes, sums.sum);
        put(&mut bytes, sums.denominator);
    }
    put(&mut bytes, record.first_credits().len() as i128);
    for (metric, arm, at) in record.first_credits() {
        put(&mut bytes, i128::from(metric));
        put(&mut bytes, arm.index() as i128);
        put(&mut bytes, i128::from(at.as_micros()));
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<UnitRecord, Inner> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(Inner::unreadable(format!("a unit's record has layout {version}")));
    }
    let mut exposures = Vec::new();
    for _ in 0..reader.narrow::<usize>()? {
        exposures.push(Exposure { at: reader.instant()?, revision: reader.narrow()?, arm: reader.arm()? });
    }
    let mut accumulated = Vec::new();
    for _ in 0..reader.narrow::<usize>()? {
        let metric = reader.narrow()?;
        let sums = Accumulator { count: reader.narrow()?, sum: reader.number()?, denominator: reader.number()? };
        accumulated.push((metric, sums));
    }
    let mut credits = Vec::new();
    for _ in 0..reader.narrow::<usize>()? {
        credits.push((reader.narrow()?, reader.arm()?, reader.instant()?));
    }
    Ok(UnitRecord::from_parts(exposures, accumulated, credits))
}

/// A cell's sums, 16 bytes each: SQLite's own integers are too narrow for them.
pub(super) fn encode_sums(cell: &Cell) -> Vec<u8> {
    [cell.x, cell.xx, cell.y, cell.yy, cell.xy, cell.outcome_sum].iter().flat_map(|sum| sum.to_be_bytes()).collect()
}

/// Reads them back into a cell.
pub(super) fn decode_sums(bytes: &[u8], cell: &mut Cell) -> Result<(), Inner> {
    let sums: Vec<i128> = bytes.as_chunks::<16>().0.iter().map(|sum| i128::from_be_bytes(*sum)).collect();
    let [x, xx, y, yy, xy, outcome_sum] = sums[..] else { return Err(Inner::unreadable("a tally has other sums")) };
    (cell.x, cell.xx, cell.y, cell.yy, cell.xy, cell.outcome_sum) = (x, xx, y, yy, xy, outcome_sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_record_reads_back_as_it_was_written(
            exposures in prop::collection::btree_map(0usize..65, (any::<i64>(), any::<u32>()), 0..5),
            sums in prop::collection::btree_map(any::<u16>(), (any::<u64>(), any::<i128>(), any::<i128>()), 0..4),
            credits in prop::collection::btree_map((any::<u16>(), 0usize..65), any::<i64>(), 0..4),
        ) {
            let arm = |i: usize| Arm::new(i).expect("an arm");
            let exposure = |(i, (at, revision))| Exposure { at: Timestamp::from_micros(at), revision, arm: arm(i) };
            let record = UnitRecord::from_parts(
                exposures.into_iter().map(exposure).collect(),
                sums.into_iter().map(|(m, (count, sum, denominator))| (m, Accumulator { count, sum, denominator })).collect(),
                credits.into_iter().map(|((m, i), at)| (m, arm(i), Timestamp::from_micros(at))),
            );
            prop_assert_eq!(decode(&encode(&record)).expect("readable"), record);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_record_of_the_first_layout_still_reads() {
        // Frozen: an exposure to arm 1 at 1,000,000 µs under revision 3, and one conversion of metric 0.
        let frozen = [1, 2, 0x80, 0x89, 0x7a, 6, 2, 2, 0, 2, 0, 0, 0];
        let record = decode(&frozen).expect("readable");
        assert_eq!(record.exposures()[0].at, Timestamp::from_micros(1_000_000));
        assert_eq!(record.exposures()[0].revision, 3);
        assert_eq!(record.accumulated(0).count, 1);
        assert_eq!(encode(&record), frozen);
    }
}
