//! Shared by the tests: generators of allocations and growth requests, and simple reference computations.

use inroad_assignment::{Allocation, Arm, Bucket, Definition, Point, Salt, Timestamp, Width};
use proptest::prelude::*;

pub(crate) fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

pub(crate) fn width(points: u128) -> Width {
    Width::new(points).unwrap()
}

/// The size of a growth request, relative to the available width.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestSize {
    /// This number of points.
    Points(u8),
    /// The available width, multiplied by this number and divided by 2^32.
    Part(u32),
    /// All points except this number.
    AllBut(u8),
}

impl RequestSize {
    pub(crate) fn width(self, available: Width) -> Width {
        let available = available.get();
        width(match self {
            Self::Points(points) => available.min(u128::from(points)),
            Self::Part(part) => (available * u128::from(part)) >> 32,
            Self::AllBut(points) => available.saturating_sub(u128::from(points)),
        })
    }
}

pub(crate) fn request_size() -> impl Strategy<Value = RequestSize> {
    prop_oneof![
        2 => (0u8..4).prop_map(RequestSize::Points),
        6 => (0u32..1 << 29).prop_map(RequestSize::Part),
        2 => any::<u32>().prop_map(RequestSize::Part),
        1 => (0u8..3).prop_map(RequestSize::AllBut),
    ]
}

/// Footholds and a floor that together are at most the whole line.
pub(crate) fn footholds(max_count: usize) -> impl Strategy<Value = (Vec<Width>, Width)> {
    (request_size(), prop::collection::vec(request_size(), 0..=max_count)).prop_map(|(floor, sizes)| {
        let floor = floor.width(Width::LINE);
        let mut left = Width::LINE.saturating_sub(floor);
        let take = |size: RequestSize| {
            let taken = size.width(left);
            left = left.saturating_sub(taken);
            taken
        };
        (sizes.into_iter().map(take).collect(), floor)
    })
}

/// Growth steps. Each has several requests: the index of an arm, and a size relative to the width that is then
/// available.
pub(crate) fn steps(max_count: usize) -> impl Strategy<Value = Vec<Vec<(prop::sample::Index, RequestSize)>>> {
    prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), request_size()), 0..4), 0..=max_count)
}

/// The requests of one step, as widths that the allocation can provide.
pub(crate) fn requests(
    step: &[(prop::sample::Index, RequestSize)],
    arms: usize,
    allocation: &Allocation,
    floor: Width,
) -> Vec<(Arm, Width)> {
    let mut left = allocation.headroom(floor);
    let mut requests = Vec::new();
    for (index, size) in step.iter().filter(|_| arms > 0) {
        let taken = size.width(left);
        left = left.saturating_sub(taken);
        requests.push((arm(1 + index.index(arms)), taken));
    }
    requests
}

/// Any allocation, also one that growth cannot produce. Boundaries are few, so that those of two allocations often
/// coincide.
pub(crate) fn any_allocation(arms: usize) -> impl Strategy<Value = Allocation> {
    let start =
        prop_oneof![(0u64..6).prop_map(|i| i << 61), any::<u64>(), 0u64..4, (0u64..4).prop_map(|i| u64::MAX - i)];
    (0..=arms, prop::collection::btree_map(start, 0..=arms, 0..12)).prop_map(|(first, rest)| {
        let rest = rest.into_iter().filter(|(start, _)| *start > 0);
        let buckets = std::iter::once((0, first)).chain(rest);
        Allocation::new(buckets.map(|(start, i)| Bucket { start: Point::new(start), owner: arm(i) })).unwrap()
    })
}

/// The owner of a point, by a linear search: the last bucket that does not start after it.
pub(crate) fn naive_owner(allocation: &Allocation, point: u64) -> Arm {
    let mut owner = None;
    for bucket in allocation.buckets() {
        if bucket.start.get() <= point {
            owner = Some(bucket.owner);
        }
    }
    owner.unwrap()
}

/// The points at the boundaries of the allocations, and their neighbours. Between them the owner is constant.
pub(crate) fn boundary_points<'a>(allocations: impl IntoIterator<Item = &'a Allocation>) -> Vec<u64> {
    let starts = allocations.into_iter().flat_map(|a| a.buckets().map(|b| b.start.get()).collect::<Vec<_>>());
    let around = starts.flat_map(|s| [s.wrapping_sub(1), s, s.saturating_add(1)]);
    let mut points: Vec<u64> = around.chain([0, u64::MAX]).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// The number of points of an arm, by adding up its buckets.
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

/// The definition of experiment `e` with policy manual: control and `treated` variations `v1`, `v2`, … with 2% each,
/// and a floor of 5%.
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
