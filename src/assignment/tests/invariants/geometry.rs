//! Where growth takes its points from: as documented, and without making crumbs of the line.

use inroad_assignment::{Allocation, Arm, Bucket, Point, Width};
use proptest::prelude::*;

use crate::common::{Ask, arm, ask, footholds, requests, steps, width};

/// A line in sixteen letters: `.` is control, `a` the first variation.
fn line(letters: &str) -> Allocation {
    let owner = |c: char| if c == '.' { Arm::CONTROL } else { arm(1 + (c as usize - 'a' as usize)) };
    let buckets =
        letters.chars().enumerate().map(|(i, c)| Bucket { start: Point::new((i as u64) << 60), owner: owner(c) });
    Allocation::new(buckets).unwrap()
}

#[test]
fn growth_goes_where_the_documentation_says() {
    let one = |i: usize, sixteenths: u128| (arm(i), width(sixteenths << 60));
    for (before, asked, after) in [
        // Into the gap behind, and no further than asked.
        ("aa......bb......", vec![one(1, 3)], "aaaaa...bb......"),
        ("aa......bb......", vec![one(1, 6)], "aaaaaaaabb......"),
        ("aa......bb......", vec![one(1, 2), one(2, 3)], "aaaa....bbbbb..."),
        // Two buckets of its own: the first one's gap, then the second one's.
        ("a..b....a...b...", vec![one(1, 4)], "aaab....aaa.b..."),
        // The gap is gone: the middle of the largest gap, which leaves room behind for more of the same.
        ("aabb............", vec![one(1, 2)], "aabb......aa...."),
        ("aabb......aa....", vec![one(1, 3)], "aabb......aaaaa."),
        ("aabb......aa....", vec![one(2, 6)], "aabbbbbbbbaa...."),
        // The first of two equal gaps.
        ("aab....c....dddd", vec![one(1, 1)], "aab..a.c....dddd"),
        // More than half of a gap: as late as it fits.
        ("aab.......cccccc", vec![one(1, 5)], "aab..aaaaacccccc"),
        ("aab.......cccccc", vec![one(1, 7)], "aabaaaaaaacccccc"),
        // Already the neighbour at the gap's end: from there backwards.
        ("b........aabbbbb", vec![one(1, 3)], "b.....aaaaabbbbb"),
        // More than the largest gap holds: all of that, then the next largest.
        ("aab....c..dddddd", vec![one(1, 5)], "aabaaaac.adddddd"),
        // A line without control but for one gap, and a variation that has nothing yet.
        ("bbbbbbbbbbbbbb..", vec![one(1, 1)], "bbbbbbbbbbbbbb.a"),
        // Each variation in turn, in the order given.
        ("ab..............", vec![one(1, 1), one(2, 1)], "abb......a......"),
        ("ab..............", vec![one(2, 2), one(1, 1)], "abbb......a....."),
        ("................", vec![one(1, 1), one(2, 1)], "....b...a......."),
    ] {
        assert_eq!(line(before).grow(&asked, Width::ZERO).unwrap(), line(after), "{before} + {asked:?}");
    }
}

#[test]
fn footholds_stand_apart_with_control_evenly_behind_each() {
    let quarter = width(1 << 62);
    assert_eq!(Allocation::with_footholds(&[quarter, quarter], Width::ZERO).unwrap(), line("aaaa....bbbb...."));
    let two = width(2 << 60);
    let skipped = Allocation::with_footholds(&[two, Width::ZERO, two, two, two], Width::ZERO).unwrap();
    assert_eq!(skipped, line("aa..cc..dd..ee.."));
    // Control that three gaps cannot share evenly: none is more than a point wider than another.
    for last in 1..4 {
        let allocation = Allocation::with_footholds(&[width(1), width(1), width(last)], Width::ZERO).unwrap();
        let control = allocation.stretches_of(Arm::CONTROL);
        let widths: Vec<u128> = control.map(|(a, b)| u128::from(b.get() - a.get()) + 1).collect();
        assert_eq!(widths.iter().sum::<u128>() + 2 + last, 1 << 64);
        assert!(widths.iter().max().unwrap() - widths.iter().min().unwrap() <= 1, "{widths:?}");
    }
}

/// A control gap: first point, points, whether the arm that grows owns the point before it and the point after it.
struct Gap {
    start: u128,
    points: u128,
    follows: bool,
    leads: bool,
}

fn gaps_around(allocation: &Allocation, who: Arm) -> Vec<Gap> {
    let buckets: Vec<Bucket> = allocation.buckets().collect();
    let owner = |i: Option<usize>| i.and_then(|i| buckets.get(i)).map(|b| b.owner);
    let control = buckets.iter().enumerate().filter(|(_, b)| b.owner.is_control());
    let gap = |(i, b): (usize, &Bucket)| {
        let start = u128::from(b.start.get());
        let end = buckets.get(i + 1).map_or(1 << 64, |next| u128::from(next.start.get()));
        let (follows, leads) = (owner(i.checked_sub(1)) == Some(who), owner(Some(i + 1)) == Some(who));
        Gap { start, points: end - start, follows, leads }
    };
    control.map(gap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn own_gaps_go_first_then_the_largest_gap_there_is(
        (footholds, floor) in footholds(6), steps in steps(8), who in 1usize..=6, ask in ask(),
    ) {
        let mut before = Allocation::with_footholds(&footholds, floor).unwrap();
        for step in &steps {
            before = before.grow(&requests(step, footholds.len(), &before, floor), floor).unwrap();
        }
        let who = arm(who);
        let wanted = ask.of(before.headroom(floor));
        let after = before.grow(&[(who, wanted)], floor).unwrap();
        let all = gaps_around(&before, who);
        let (own, others): (Vec<&Gap>, Vec<&Gap>) = all.iter().partition(|gap| gap.follows);

        // Own gaps are filled from their starts, in the order of the line.
        let (mut left, mut expected) = (wanted.get(), Vec::new());
        for gap in own {
            let taken = left.min(gap.points);
            left -= taken;
            expected.push((gap.start, taken));
        }
        // What is left comes out of the largest of the others, and of the next largest if it is more than that.
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
        let slices = before.slices_taken_by(&after).into_iter();
        let taken: Vec<_> = slices.map(|(a, b, _)| (u128::from(a.get()), u128::from(b.get() - a.get()) + 1)).collect();
        prop_assert_eq!(taken, expected);
    }

    #[test]
    fn growing_in_two_steps_behind_a_bucket_is_growing_in_one(
        (footholds, floor) in footholds(4), who in 1usize..=4, ask in ask(), part in any::<u32>(),
    ) {
        let before = Allocation::with_footholds(&footholds, floor).unwrap();
        let behind = gaps_around(&before, arm(who)).iter().filter(|gap| gap.follows).map(|gap| gap.points).sum();
        let wanted = ask.of(width(before.headroom(floor).get().min(behind)));
        let first = Ask::Part(part).of(wanted);
        let once = before.grow(&[(arm(who), wanted)], floor).unwrap();
        let half = before.grow(&[(arm(who), first)], floor).unwrap();
        let twice = half.grow(&[(arm(who), wanted.saturating_sub(first))], floor).unwrap();
        prop_assert_eq!(once, twice);
    }
}

#[test]
fn hundreds_of_steps_of_ten_variations_make_few_buckets() {
    let floor = Width::from_share(0.05).unwrap();
    let mut most = 0;
    for seed in 0..400u64 {
        let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        // Steps up to 1/64 to 1/8192 of the line, from footholds of 2% or none, to even or lopsided favourites.
        let step = 1 << (58 - seed % 8);
        let foothold = if seed % 3 == 0 { Width::ZERO } else { width(Width::LINE.get() / 50) };
        let mut allocation = Allocation::with_footholds(&[foothold; 10], floor).unwrap();
        for _ in 0..1000 {
            let who = 1 + if seed % 2 == 0 { draw(10) } else { draw(10).min(draw(10)).min(draw(10)) };
            let Ok(grown) = allocation.grow(&[(arm(who as usize), width(1 + u128::from(draw(step))))], floor) else {
                break;
            };
            allocation = grown;
            most = most.max(allocation.buckets().len());
        }
    }
    assert!(most <= 64, "{most} buckets");
}
