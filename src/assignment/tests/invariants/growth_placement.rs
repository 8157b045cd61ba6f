//! Where growth takes its points from, as documented, and that it creates few buckets.

use inroad_assignment::{Allocation, Arm, Bucket, Point, Width};
use proptest::prelude::*;

use crate::support::{RequestSize, arm, footholds, request_size, requests, steps, width};

/// An allocation in sixteen letters, one per sixteenth of the line: `.` is control, `a` the first variation.
fn line(letters: &str) -> Allocation {
    let owner = |c: char| if c == '.' { Arm::CONTROL } else { arm(1 + (c as usize - 'a' as usize)) };
    let buckets =
        letters.chars().enumerate().map(|(i, c)| Bucket { start: Point::new((i as u64) << 60), owner: owner(c) });
    Allocation::new(buckets).unwrap()
}

#[test]
fn growth_takes_points_in_the_documented_order() {
    let one = |i: usize, sixteenths: u128| (arm(i), width(sixteenths << 60));
    for (before, requests, after) in [
        // Into the gap behind its bucket, as far as requested.
        ("aa......bb......", vec![one(1, 3)], "aaaaa...bb......"),
        ("aa......bb......", vec![one(1, 6)], "aaaaaaaabb......"),
        ("aa......bb......", vec![one(1, 2), one(2, 3)], "aaaa....bbbbb..."),
        // Two buckets: first the gap behind the first one, then the gap behind the second one.
        ("a..b....a...b...", vec![one(1, 4)], "aaab....aaa.b..."),
        // No gap behind its bucket: the middle of the largest gap. The new bucket can extend later.
        ("aabb............", vec![one(1, 2)], "aabb......aa...."),
        ("aabb......aa....", vec![one(1, 3)], "aabb......aaaaa."),
        ("aabb......aa....", vec![one(2, 6)], "aabbbbbbbbaa...."),
        // The first of two equal gaps.
        ("aab....c....dddd", vec![one(1, 1)], "aab..a.c....dddd"),
        // More than half of a gap: at the gap's end.
        ("aab.......cccccc", vec![one(1, 5)], "aab..aaaaacccccc"),
        ("aab.......cccccc", vec![one(1, 7)], "aabaaaaaaacccccc"),
        // Its own bucket follows the gap: from the gap's end backwards.
        ("b........aabbbbb", vec![one(1, 3)], "b.....aaaaabbbbb"),
        // More than the largest gap: all of it, then the next largest.
        ("aab....c..dddddd", vec![one(1, 5)], "aabaaaac.adddddd"),
        // A variation without a bucket, and only one gap.
        ("bbbbbbbbbbbbbb..", vec![one(1, 1)], "bbbbbbbbbbbbbb.a"),
        // Several variations, in the order of the requests.
        ("ab..............", vec![one(1, 1), one(2, 1)], "abb......a......"),
        ("ab..............", vec![one(2, 2), one(1, 1)], "abbb......a....."),
        ("................", vec![one(1, 1), one(2, 1)], "....b...a......."),
    ] {
        assert_eq!(line(before).grow(&requests, Width::ZERO).unwrap(), line(after), "{before} + {requests:?}");
    }
}

#[test]
fn footholds_are_separated_by_equal_gaps_of_control() {
    let quarter = width(1 << 62);
    assert_eq!(Allocation::with_footholds(&[quarter, quarter], Width::ZERO).unwrap(), line("aaaa....bbbb...."));
    let two = width(2 << 60);
    let skipped = Allocation::with_footholds(&[two, Width::ZERO, two, two, two], Width::ZERO).unwrap();
    assert_eq!(skipped, line("aa..cc..dd..ee.."));
    // If the gaps cannot be equal, they differ by at most one point.
    for last in 1..4 {
        let allocation = Allocation::with_footholds(&[width(1), width(1), width(last)], Width::ZERO).unwrap();
        let control = allocation.ranges_of(Arm::CONTROL);
        let widths: Vec<u128> = control.map(|(a, b)| u128::from(b.get() - a.get()) + 1).collect();
        assert_eq!(widths.iter().sum::<u128>() + 2 + last, 1 << 64);
        assert!(widths.iter().max().unwrap() - widths.iter().min().unwrap() <= 1, "{widths:?}");
    }
}

/// A gap of control. `follows` and `leads`: whether the growing arm owns the point before and the point after it.
struct Gap {
    start: u128,
    points: u128,
    follows: bool,
    leads: bool,
}

fn gaps(allocation: &Allocation, growing: Arm) -> Vec<Gap> {
    let buckets: Vec<Bucket> = allocation.buckets().collect();
    let owner = |i: Option<usize>| i.and_then(|i| buckets.get(i)).map(|b| b.owner);
    let control = buckets.iter().enumerate().filter(|(_, b)| b.owner.is_control());
    let gap = |(i, b): (usize, &Bucket)| {
        let start = u128::from(b.start.get());
        let end = buckets.get(i + 1).map_or(1 << 64, |next| u128::from(next.start.get()));
        let (follows, leads) = (owner(i.checked_sub(1)) == Some(growing), owner(Some(i + 1)) == Some(growing));
        Gap { start, points: end - start, follows, leads }
    };
    control.map(gap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn growth_fills_own_gaps_first_then_the_largest(
        (footholds, floor) in footholds(6), steps in steps(8), index in 1usize..=6, size in request_size(),
    ) {
        let mut before = Allocation::with_footholds(&footholds, floor).unwrap();
        for step in &steps {
            before = before.grow(&requests(step, footholds.len(), &before, floor), floor).unwrap();
        }
        let growing = arm(index);
        let requested = size.width(before.headroom(floor));
        let after = before.grow(&[(growing, requested)], floor).unwrap();
        let all = gaps(&before, growing);
        let (own, others): (Vec<&Gap>, Vec<&Gap>) = all.iter().partition(|gap| gap.follows);

        // The gaps behind own buckets are filled from their starts, in the order of the line.
        let (mut left, mut expected) = (requested.get(), Vec::new());
        for gap in own {
            let taken = left.min(gap.points);
            left -= taken;
            expected.push((gap.start, taken));
        }
        // The rest comes from the largest other gap, then from the next largest.
        let mut by_size = others.clone();
        by_size.sort_by_key(|gap| (std::cmp::Reverse(gap.points), gap.start));
        for gap in by_size {
            let taken = left.min(gap.points);
            left -= taken;
            let latest = gap.start + gap.points - taken;
            expected.push((if gap.leads { latest } else { latest.min(gap.start + gap.points / 2) }, taken));
        }
        expected.retain(|(_, taken)| *taken > 0);
        expected.sort_unstable();
        let ranges = before.changed_ranges(&after).into_iter();
        let taken: Vec<_> = ranges.map(|(a, b, _)| (u128::from(a.get()), u128::from(b.get() - a.get()) + 1)).collect();
        prop_assert_eq!(taken, expected);
    }

    #[test]
    fn growth_into_own_gaps_in_two_steps_equals_one_step(
        (footholds, floor) in footholds(4), index in 1usize..=4, size in request_size(), part in any::<u32>(),
    ) {
        let before = Allocation::with_footholds(&footholds, floor).unwrap();
        let behind = gaps(&before, arm(index)).iter().filter(|gap| gap.follows).map(|gap| gap.points).sum();
        let requested = size.width(width(before.headroom(floor).get().min(behind)));
        let first = RequestSize::Part(part).width(requested);
        let once = before.grow(&[(arm(index), requested)], floor).unwrap();
        let half = before.grow(&[(arm(index), first)], floor).unwrap();
        let twice = half.grow(&[(arm(index), requested.saturating_sub(first))], floor).unwrap();
        prop_assert_eq!(once, twice);
    }
}

#[test]
fn hundreds_of_growth_steps_create_few_buckets() {
    let floor = Width::from_share(0.05).unwrap();
    let mut max_buckets = 0;
    for seed in 0..400u64 {
        let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        // The largest step is 1/64 to 1/8192 of the line. Footholds are 2% or zero. All variations grow equally, or
        // some grow more than others.
        let step = 1 << (58 - seed % 8);
        let foothold = if seed % 3 == 0 { Width::ZERO } else { width(Width::LINE.get() / 50) };
        let mut allocation = Allocation::with_footholds(&[foothold; 10], floor).unwrap();
        for _ in 0..1000 {
            let index = 1 + if seed % 2 == 0 { draw(10) } else { draw(10).min(draw(10)).min(draw(10)) };
            let Ok(grown) = allocation.grow(&[(arm(index as usize), width(1 + u128::from(draw(step))))], floor) else {
                break;
            };
            allocation = grown;
            max_buckets = max_buckets.max(allocation.buckets().len());
        }
    }
    assert!(max_buckets <= 64, "{max_buckets} buckets");
}
