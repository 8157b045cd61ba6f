//! I1 and I2: every point has exactly one owner, and only control gives up points.

use inroad_assignment::{Allocation, AllocationError, Arm, Bucket, Point, Width};
use proptest::prelude::*;

use crate::support::{
    any_allocation, arm, boundary_points, footholds, naive_owner, naive_width, requests, steps, width,
};

/// Checks I1 through the public functions.
fn check_partition(allocation: &Allocation, arms: usize) {
    let buckets: Vec<Bucket> = allocation.buckets().collect();
    assert_eq!(buckets[0].start, Point::FIRST);
    assert!(buckets.windows(2).all(|w| w[0].start < w[1].start && w[0].owner != w[1].owner));
    for point in boundary_points([allocation]) {
        assert_eq!(allocation.owner(Point::new(point)), naive_owner(allocation, point), "at {point:016x}");
    }
    let mut total = 0;
    for i in 0..=arms {
        let points = allocation.width_of(arm(i)).get();
        assert_eq!(points, naive_width(allocation, arm(i)));
        let ranges = allocation.ranges_of(arm(i));
        assert_eq!(points, ranges.map(|(a, b)| u128::from(b.get()) - u128::from(a.get()) + 1).sum::<u128>());
        total += points;
    }
    assert_eq!(total, 1 << 64);
}

/// I2, by comparing the owners at every boundary.
fn naive_can_grow_into(earlier: &Allocation, later: &Allocation) -> bool {
    boundary_points([earlier, later]).into_iter().all(|point| {
        let owner = naive_owner(earlier, point);
        owner.is_control() || owner == naive_owner(later, point)
    })
}

fn check_changed_ranges(earlier: &Allocation, later: &Allocation) {
    let ranges = earlier.changed_ranges(later);
    assert!(ranges.iter().all(|(first, last, _)| first <= last));
    assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0));
    for point in boundary_points([earlier, later]) {
        let (before, after) = (naive_owner(earlier, point), naive_owner(later, point));
        let within = ranges.iter().find(|(first, last, _)| (first.get()..=last.get()).contains(&point));
        assert_eq!(within.map(|range| range.2), (before != after).then_some(after), "at {point:016x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn growth_keeps_the_partition_and_meets_requests_exactly(
        (footholds, floor) in footholds(7), steps in steps(12),
    ) {
        let arms = footholds.len();
        let mut allocation = Allocation::with_footholds(&footholds, floor).unwrap();
        check_partition(&allocation, arms);
        for (i, foothold) in footholds.iter().enumerate() {
            prop_assert_eq!(allocation.width_of(arm(i + 1)), *foothold);
        }
        for step in &steps {
            let requested = requests(step, arms, &allocation, floor);
            let grown = allocation.grow(&requested, floor).unwrap();
            check_partition(&grown, arms);
            prop_assert!(allocation.can_grow_into(&grown) && naive_can_grow_into(&allocation, &grown));
            check_changed_ranges(&allocation, &grown);
            for i in 1..=arms {
                let more: u128 = requested.iter().filter(|(a, _)| a.index() == i).map(|(_, w)| w.get()).sum();
                prop_assert_eq!(grown.width_of(arm(i)).get(), allocation.width_of(arm(i)).get() + more);
            }
            prop_assert!(grown.width_of(Arm::CONTROL) >= floor);
            prop_assert_eq!(&allocation.grow(&requested, floor).unwrap(), &grown, "growth is deterministic");
            allocation = grown;
        }
    }

    #[test]
    fn can_grow_into_agrees_with_the_owners_at_every_boundary(earlier in any_allocation(3), later in any_allocation(3)) {
        prop_assert_eq!(earlier.can_grow_into(&later), naive_can_grow_into(&earlier, &later));
        prop_assert!(earlier.can_grow_into(&earlier));
        check_changed_ranges(&earlier, &later);
        check_partition(&earlier, 3);
    }

    #[test]
    fn allocation_that_takes_one_point_from_a_variation_is_rejected(
        (footholds, floor) in footholds(5), steps in steps(6), which in any::<prop::sample::Index>(), new_owner in 0usize..=6,
    ) {
        let arms = footholds.len();
        let mut allocation = Allocation::with_footholds(&footholds, floor).unwrap();
        for step in &steps {
            allocation = allocation.grow(&requests(step, arms, &allocation, floor), floor).unwrap();
        }
        let owned: Vec<u64> = boundary_points([&allocation])
            .into_iter()
            .filter(|p| !matches!(naive_owner(&allocation, *p).index(), 0) && naive_owner(&allocation, *p) != arm(new_owner))
            .collect();
        if owned.is_empty() {
            return Ok(());
        }
        let point = owned[which.index(owned.len())];
        let mut starts: std::collections::BTreeMap<u64, Arm> =
            allocation.buckets().map(|b| (b.start.get(), b.owner)).collect();
        if let Some(next) = point.checked_add(1) {
            starts.entry(next).or_insert(naive_owner(&allocation, next));
        }
        starts.insert(point, arm(new_owner));
        let changed = Allocation::new(starts.into_iter().map(|(s, owner)| Bucket { start: Point::new(s), owner })).unwrap();
        prop_assert!(!allocation.can_grow_into(&changed));
        prop_assert_eq!(allocation.changed_ranges(&changed), [(Point::new(point), Point::new(point), arm(new_owner))]);
    }

    #[test]
    fn growth_one_point_below_the_floor_is_rejected(
        (footholds, floor) in footholds(5), index in 1usize..=5, split in 0u128..=1,
    ) {
        let allocation = Allocation::with_footholds(&footholds, floor).unwrap();
        let before = allocation.clone();
        let room = allocation.headroom(floor);
        let all = allocation.grow(&[(arm(index), room)], floor).unwrap();
        prop_assert_eq!(all.width_of(Arm::CONTROL), floor);
        prop_assert_eq!(all.headroom(floor), Width::ZERO);
        let below = all.grow(&[(arm(index), width(1))], floor);
        prop_assert!(matches!(below, Err(AllocationError::NotEnoughControl { .. })), "{below:?}");
        if let Some(more) = room.checked_add(width(1)) {
            let parts = [(arm(index), width(more.get() * split)), (arm(1), width(more.get() * (1 - split)))];
            let below = allocation.grow(&parts, floor);
            prop_assert!(matches!(below, Err(AllocationError::NotEnoughControl { .. })), "{below:?}");
        }
        prop_assert_eq!(allocation, before);
    }

    #[test]
    fn allocation_survives_a_round_trip_through_json(allocation in any_allocation(64)) {
        let json = serde_json::to_string(&allocation).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Allocation>(&json).unwrap(), &allocation);
        let value = serde_json::to_value(&allocation).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Allocation>(value).unwrap(), &allocation);
    }
}

#[test]
fn control_cannot_grow() {
    let allocation = Allocation::with_footholds(&[width(1 << 60)], Width::ZERO).unwrap();
    let error = allocation.grow(&[(arm(1), width(5)), (Arm::CONTROL, width(1))], Width::ZERO);
    assert_eq!(error, Err(AllocationError::ControlCannotGrow));
    assert_eq!(allocation.grow(&[(Arm::CONTROL, Width::ZERO)], Width::ZERO), Ok(allocation));
}

#[test]
fn sixty_four_variations_can_take_all_control_points() {
    for foothold in [Width::ZERO, width(1), width(1 << 50), width(Width::LINE.get() / 64)] {
        let mut allocation = Allocation::with_footholds(&[foothold; 64], Width::ZERO).unwrap();
        check_partition(&allocation, 64);
        let room = allocation.headroom(Width::ZERO).get();
        if room > 0 {
            let one_each: Vec<_> = (1..=64).map(|i| (arm(i), width(1))).collect();
            allocation = allocation.grow(&one_each, Width::ZERO).unwrap();
            let part = (room - 64) / 64;
            let rest: Vec<_> =
                (1..=64).map(|i| (arm(i), width(if i == 64 { room - 64 - 63 * part } else { part }))).collect();
            allocation = allocation.grow(&rest, Width::ZERO).unwrap();
        }
        check_partition(&allocation, 64);
        assert_eq!(allocation.width_of(Arm::CONTROL), Width::ZERO);
        assert!(allocation.buckets().len() <= 64 * 4, "{}", allocation.buckets().len());
    }
}

#[test]
fn one_variation_can_own_the_whole_line() {
    let all = Allocation::with_footholds(&[Width::LINE], Width::ZERO).unwrap();
    assert_eq!(all.buckets().collect::<Vec<_>>(), [Bucket { start: Point::FIRST, owner: arm(1) }]);
    assert_eq!(Allocation::with_footholds(&[], Width::LINE).unwrap(), Allocation::all_control());
    assert_eq!(Allocation::with_footholds(&[Width::ZERO; 64], Width::ZERO).unwrap(), Allocation::all_control());
    let met = Allocation::with_footholds(&[width(1), width(2)], width((1 << 64) - 3)).unwrap();
    assert_eq!(met.width_of(Arm::CONTROL), width((1 << 64) - 3));
    let below = Allocation::with_footholds(&[width(1), width(2)], width((1 << 64) - 2));
    assert!(matches!(below, Err(AllocationError::NotEnoughControl { .. })));
    assert!(Allocation::with_footholds(&[width(1); 65], Width::ZERO).is_err());
}

#[test]
fn bucket_list_that_is_no_partition_is_rejected() {
    let at = |start: u64, i: usize| Bucket { start: Point::new(start), owner: arm(i) };
    assert_eq!(Allocation::new([]), Err(AllocationError::MissingFirstBucket));
    assert_eq!(Allocation::new([at(1, 0)]), Err(AllocationError::MissingFirstBucket));
    assert_eq!(
        Allocation::new([at(0, 0), at(5, 1), at(5, 2)]),
        Err(AllocationError::StartsNotAscending(Point::new(5)))
    );
    assert_eq!(
        Allocation::new([at(0, 0), at(5, 1), at(4, 0)]),
        Err(AllocationError::StartsNotAscending(Point::new(4)))
    );
    assert_eq!(
        Allocation::new([at(0, 0), at(5, 0), at(5, 0)]),
        Err(AllocationError::StartsNotAscending(Point::new(5)))
    );
    assert_eq!(Allocation::new([at(0, 1), at(7, 1), at(9, 1)]), Allocation::new([at(0, 1)]));
    let many = |n: u64| Allocation::new((0..n).map(|i| at(i, (i % 2) as usize)));
    assert!(many(Allocation::MAX_BUCKETS as u64).is_ok());
    assert_eq!(many(Allocation::MAX_BUCKETS as u64 + 1), Err(AllocationError::TooManyBuckets(4097)));
    for json in [
        r#"[]"#,
        r#"[{"start":"0000000000000001","owner":0}]"#,
        r#"[{"start":"0000000000000000","owner":65}]"#,
        r#"[{"start":"0000000000000000","owner":255}]"#,
        r#"[{"start":"000000000000000A","owner":0}]"#,
        r#"[{"start":0,"owner":0}]"#,
    ] {
        assert!(serde_json::from_str::<Allocation>(json).is_err(), "{json}");
    }
}

#[test]
fn widths_and_points_have_exactly_one_written_form() {
    for (points, text) in
        [(0, "\"00000000000000000\""), (255, "\"000000000000000ff\""), (1 << 64, "\"10000000000000000\"")]
    {
        assert_eq!(serde_json::to_string(&width(points)).unwrap(), text);
        assert_eq!(serde_json::from_str::<Width>(text).unwrap(), width(points));
    }
    for text in ["\"ff\"", "\"10000000000000001\"", "\"000000000000000FF\"", "\"+00000000000000ff\"", "17", "\"\""] {
        assert!(serde_json::from_str::<Width>(text).is_err(), "{text}");
    }
    assert_eq!(Width::new((1 << 64) + 1), None);
    assert_eq!(Point::parse("00000000000000ff"), Some(Point::new(255)));
    for text in ["", "ff", "+0000000000000ff", "00000000000000FF", "000000000000000ff", "０000000000000"] {
        assert_eq!(Point::parse(text), None, "{text}");
    }
    for share in [f64::NAN, -1e-300, 1.000_000_1, f64::INFINITY] {
        assert_eq!(Width::from_share(share), None);
    }
    assert_eq!([0.0, -0.0, 0.5, 1.0].map(|s| Width::from_share(s).unwrap().get()), [0, 0, 1 << 63, 1 << 64]);
}
