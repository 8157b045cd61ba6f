//! What the tests share: strategies for allocations and growth, and the naive owner of a point.

use inroad_assignment::{Allocation, Arm, Bucket, Definition, Point, Salt, Timestamp, Width};
use proptest::prelude::*;

pub(crate) fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

pub(crate) fn width(points: u128) -> Width {
    Width::new(points).unwrap()
}

/// How much of what there is somebody asks for: nothing, a few points, a part in 2^32, all but a point, all.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Points(u8),
    Part(u32),
    AllBut(u8),
}

impl Ask {
    pub(crate) fn of(self, available: Width) -> Width {
        let there = available.get();
        width(match self {
            Self::Points(points) => there.min(u128::from(points)),
            Self::Part(part) => (there * u128::from(part)) >> 32,
            Self::AllBut(points) => there.saturating_sub(u128::from(points)),
        })
    }
}

pub(crate) fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        2 => (0u8..4).prop_map(Ask::Points),
        6 => (0u32..1 << 29).prop_map(Ask::Part),
        2 => any::<u32>().prop_map(Ask::Part),
        1 => (0u8..3).prop_map(Ask::AllBut),
    ]
}

/// Footholds and a floor that fit together.
pub(crate) fn footholds(most: usize) -> impl Strategy<Value = (Vec<Width>, Width)> {
    (ask(), prop::collection::vec(ask(), 0..=most)).prop_map(|(floor, asks)| {
        let floor = floor.of(Width::LINE);
        let mut left = Width::LINE.saturating_sub(floor);
        let take = |ask: Ask| {
            let taken = ask.of(left);
            left = left.saturating_sub(taken);
            taken
        };
        (asks.into_iter().map(take).collect(), floor)
    })
}

/// Growth steps: each some requests at once, by an index into the arms and a part of the headroom then left.
pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Vec<(prop::sample::Index, Ask)>>> {
    prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), ask()), 0..4), 0..=most)
}

/// The requests of one step against an allocation, within its headroom.
pub(crate) fn requests(
    step: &[(prop::sample::Index, Ask)],
    arms: usize,
    allocation: &Allocation,
    floor: Width,
) -> Vec<(Arm, Width)> {
    let mut left = allocation.headroom(floor);
    let mut asked = Vec::new();
    for (who, ask) in step.iter().filter(|_| arms > 0) {
        let taken = ask.of(left);
        left = left.saturating_sub(taken);
        asked.push((arm(1 + who.index(arms)), taken));
    }
    asked
}

/// Any allocation at all, grown or not, with few edges that often fall together with another's.
pub(crate) fn any_allocation(arms: usize) -> impl Strategy<Value = Allocation> {
    let place =
        prop_oneof![(0u64..6).prop_map(|i| i << 61), any::<u64>(), 0u64..4, (0u64..4).prop_map(|i| u64::MAX - i)];
    (0..=arms, prop::collection::btree_map(place, 0..=arms, 0..12)).prop_map(|(first, rest)| {
        let rest = rest.into_iter().filter(|(start, _)| *start > 0);
        let buckets = std::iter::once((0, first)).chain(rest);
        Allocation::new(buckets.map(|(start, i)| Bucket { start: Point::new(start), owner: arm(i) })).unwrap()
    })
}

/// Who owns a point, by looking at every bucket: the last that does not start after it.
pub(crate) fn naive_owner(allocation: &Allocation, point: u64) -> Arm {
    let mut owner = None;
    for bucket in allocation.buckets() {
        if bucket.start.get() <= point {
            owner = Some(bucket.owner);
        }
    }
    owner.unwrap()
}

/// Every point at which something may change, and its neighbours.
pub(crate) fn edge_points<'a>(allocations: impl IntoIterator<Item = &'a Allocation>) -> Vec<u64> {
    let starts = allocations.into_iter().flat_map(|a| a.buckets().map(|b| b.start.get()).collect::<Vec<_>>());
    let around = starts.flat_map(|s| [s.wrapping_sub(1), s, s.saturating_add(1)]);
    let mut points: Vec<u64> = around.chain([0, u64::MAX]).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// How many points an arm owns, by adding up buckets.
pub(crate) fn naive_width(allocation: &Allocation, arm: Arm) -> u128 {
    let starts: Vec<u128> = allocation.buckets().map(|b| u128::from(b.start.get())).chain([1 << 64]).collect();
    allocation.buckets().zip(starts.windows(2)).filter(|(b, _)| b.owner == arm).map(|(_, w)| w[1] - w[0]).sum()
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(crate) fn salt(text: &str) -> Salt {
    Salt::parse(text).unwrap()
}

/// A manual experiment `e`: control and `treated` variations `v1`, `v2`, … on 2% each, with a floor of 5%.
pub(crate) fn definition(treated: usize, manual_clock: bool) -> Definition {
    let variation = |i: usize| serde_json::json!({"key": format!("v{i}"), "payload": false, "share": 0.02});
    let control = serde_json::json!({"key": "control", "payload": false});
    let variations: Vec<_> = std::iter::once(control).chain((1..=treated).map(variation)).collect();
    serde_json::from_value(serde_json::json!({
        "key": "e",
        "clock": {"kind": if manual_clock { "manual" } else { "wall" }},
        "policy": {"kind": "manual", "floor": 0.05, "tick": "1h"},
        "variations": variations,
        "metrics": [{"key": "bought", "event": "order"}],
    }))
    .unwrap()
}
