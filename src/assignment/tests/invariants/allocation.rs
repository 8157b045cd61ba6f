//! I1 and I2: every point has one owner, and only control gives any up.

use inroad_assignment::{Allocation, AllocationError, Arm, Bucket, Point, Width};
use proptest::prelude::*;

use crate::common::{any_allocation, arm, edge_points, footholds, naive_owner, naive_width, requests, steps, width};

/// I1 as it can be seen from outside.
fn check_partition(allocation: &Allocation, arms: usize) {
    let buckets: Vec<Bucket> = allocation.buckets().collect();
    assert_eq!(buckets[0].start, Point::FIRST);
    assert!(buckets.windows(2).all(|w| w[0].start < w[1].start && w[0].owner != w[1].owner));
    for point in edge_points([allocation]) {
        assert_eq!(allocation.owner(Point::new(point)), naive_owner(allocation, point), "at {point:016x}");
    }
    let mut total = 0;
    for i in 0..=arms {
        let points = allocation.width_of(arm(i)).get();
        assert_eq!(points, naive_width(allocation, arm(i)));
        let stretches = allocation.stretches_of(arm(i));
        assert_eq!(points, stretches.map(|(a, b)| u128::from(b.get()) - u128::from(a.get()) + 1).sum::<u128>());
        total += points;
    }
    assert_eq!(total, 1 << 64);
}

/// I2 by looking at every point where anything can differ.
fn naive_may_become(earlier: &Allocation, later: &Allocation) -> bool {
    edge_points([earlier, later]).into_iter().all(|point| {
        let owner = naive_owner(earlier, point);
        owner.is_control() || owner == naive_owner(later, point)
    })
}

fn check_slices(earlier: &Allocation, later: &Allocation) {
    let slices = earlier.slices_taken_by(later);
    assert!(slices.iter().all(|(first, last, _)| first <= last));
    assert!(slices.windows(2).all(|w| w[0].1 < w[1].0));
    for point in edge_points([earlier, later]) {
        let (before, after) = (naive_owner(earlier, point), naive_owner(later, point));
        let within = slices.iter().find(|(first, last, _)| (first.get()..=last.get()).contains(&point));
        assert_eq!(within.map(|s| s.2), (before != after).then_some(after), "at {point:016x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn growth_keeps_the_partition_and_meets_every_request_to_the_last_point(
        (footholds, floor) in footholds(7), steps in steps(12),
    ) {
        let arms = footholds.len();
        let mut allocation = Allocation::with_footholds(&footholds, floor).unwrap();
        check_partition(&allocation, arms);
        for (i, foothold) in footholds.iter().enumerate() {
            prop_assert_eq!(allocation.width_of(arm(i + 1)), *foothold);
        }
        for step in &steps {
            let asked = requests(step, arms, &allocation, floor);
            let grown = allocation.grow(&asked, floor).unwrap();
            check_partition(&grown, arms);
            prop_assert!(allocation.may_become(&grown) && naive_may_become(&allocation, &grown));
            check_slices(&allocation, &grown);
            for i in 1..=arms {
                let more: u128 = asked.iter().filter(|(a, _)| a.index() == i).map(|(_, w)| w.get()).sum();
                prop_assert_eq!(grown.width_of(arm(i)).get(), allocation.width_of(arm(i)).get() + more);
            }
            prop_assert!(grown.width_of(Arm::CONTROL) >= floor);
            prop_assert_eq!(&allocation.grow(&asked, floor).unwrap(), &grown, "growth is a function");
            allocation = grown;
        }
    }

    #[test]
    fn may_become_agrees_with_a_look_at_every_edge(earlier in any_allocation(3), later in any_allocation(3)) {
        prop_assert_eq!(earlier.may_become(&later), naive_may_become(&earlier, &later));
        prop_assert!(earlier.may_become(&earlier));
        check_slices(&earlier, &later);
        check_partition(&earlier, 3);
    }

    #[test]
    fn one_point_taken_from_a_variation_is_enough_to_be_refused(
        (footholds, floor) in footholds(5), steps in steps(6), which in any::<prop::sample::Index>(), thief in 0usize..=6,
    ) {
        let arms = footholds.len();
        let mut allocation = Allocation::with_footholds(&footholds, floor).unwrap();
        for step in &steps {
            allocation = allocation.grow(&requests(step, arms, &allocation, floor), floor).unwrap();
        }
        let owned: Vec<u64> = edge_points([&allocation])
            .into_iter()
            .filter(|p| !matches!(naive_owner(&allocation, *p).index(), 0) && naive_owner(&allocation, *p) != arm(thief))
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
        starts.insert(point, arm(thief));
        let doctored = Allocation::new(starts.into_iter().map(|(s, owner)| Bucket { start: Point::new(s), owner })).unwrap();
        prop_assert!(!allocation.may_become(&doctored));
        prop_assert_eq!(allocation.slices_taken_by(&doctored), [(Point::new(point), Point::new(point), arm(thief))]);
    }

    #[test]
    fn growth_past_the_floor_is_refused_by_a_single_point(
        (footholds, floor) in footholds(5), who in 1usize..=5, split in 0u128..=1,
    ) {
        let allocation = Allocation::with_footholds(&footholds, floor).unwrap();
        let before = allocation.clone();
        let room = allocation.headroom(floor);
        let all = allocation.grow(&[(arm(who), room)], floor).unwrap();
        prop_assert_eq!(all.width_of(Arm::CONTROL), floor);
        prop_assert_eq!(all.headroom(floor), Width::ZERO);
        let past = all.grow(&[(arm(who), width(1))], floor);
        prop_assert!(matches!(past, Err(AllocationError::PastTheFloor { .. })), "{past:?}");
        if let Some(more) = room.checked_add(width(1)) {
            let parts = [(arm(who), width(more.get() * split)), (arm(1), width(more.get() * (1 - split)))];
            let refused = allocation.grow(&parts, floor);
            prop_assert!(matches!(refused, Err(AllocationError::PastTheFloor { .. })), "{refused:?}");
        }
        prop_assert_eq!(allocation, before);
    }

    #[test]
    fn an_allocation_reads_back_as_it_was_written(allocation in any_allocation(64)) {
        let json = serde_json::to_string(&allocation).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Allocation>(&json).unwrap(), &allocation);
        let value = serde_json::to_value(&allocation).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Allocation>(value).unwrap(), &allocation);
    }
}

#[test]
fn control_cannot_grow() {
    let allocation = Allocation::with_footholds(&[width(1 << 60)], Width::ZERO).unwrap();
    let refused = allocation.grow(&[(arm(1), width(5)), (Arm::CONTROL, width(1))], Width::ZERO);
    assert_eq!(refused, Err(AllocationError::ControlCannotGrow));
    assert_eq!(allocation.grow(&[(Arm::CONTROL, Width::ZERO)], Width::ZERO), Ok(allocation));
}

#[test]
fn sixty_four_variations_can_eat_all_of_control_point_by_point_and_at_once() {
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
fn the_whole_line_can_be_one_variations_and_none_is_control() {
    let all = Allocation::with_footholds(&[Width::LINE], Width::ZERO).unwrap();
    assert_eq!(all.buckets().collect::<Vec<_>>(), [Bucket { start: Point::FIRST, owner: arm(1) }]);
    assert_eq!(Allocation::with_footholds(&[], Width::LINE).unwrap(), Allocation::all_control());
    assert_eq!(Allocation::with_footholds(&[Width::ZERO; 64], Width::ZERO).unwrap(), Allocation::all_control());
    let met = Allocation::with_footholds(&[width(1), width(2)], width((1 << 64) - 3)).unwrap();
    assert_eq!(met.width_of(Arm::CONTROL), width((1 << 64) - 3));
    let past = Allocation::with_footholds(&[width(1), width(2)], width((1 << 64) - 2));
    assert!(matches!(past, Err(AllocationError::PastTheFloor { .. })));
    assert!(Allocation::with_footholds(&[width(1); 65], Width::ZERO).is_err());
}

#[test]
fn a_list_that_is_no_partition_is_refused() {
    let at = |start: u64, i: usize| Bucket { start: Point::new(start), owner: arm(i) };
    assert_eq!(Allocation::new([]), Err(AllocationError::FirstStart));
    assert_eq!(Allocation::new([at(1, 0)]), Err(AllocationError::FirstStart));
    assert_eq!(Allocation::new([at(0, 0), at(5, 1), at(5, 2)]), Err(AllocationError::Unordered(Point::new(5))));
    assert_eq!(Allocation::new([at(0, 0), at(5, 1), at(4, 0)]), Err(AllocationError::Unordered(Point::new(4))));
    assert_eq!(Allocation::new([at(0, 0), at(5, 0), at(5, 0)]), Err(AllocationError::Unordered(Point::new(5))));
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
fn widths_and_points_have_one_written_form_each() {
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
