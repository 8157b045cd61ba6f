//! Allocations as the dashboard draws them, and previews of changes to them.

use inroad_assignment::{Allocation, Arm, Experiment, Width};
use inroad_dashboard::action::AllocationPreview;
use inroad_dashboard::chart::Bucket;

/// The buckets of an allocation, on a line from 0 to 1.
pub(super) fn buckets(allocation: &Allocation) -> Vec<Bucket> {
    let position = |at: u128| at as f64 / Width::LINE.get() as f64;
    let all: Vec<_> = allocation.buckets().collect();
    let ends = all.iter().skip(1).map(|b| u128::from(b.start.get())).chain([Width::LINE.get()]);
    all.iter()
        .zip(ends)
        .map(|(bucket, end)| Bucket {
            from: position(u128::from(bucket.start.get())),
            to: position(end),
            arm: bucket.owner.index(),
        })
        .collect()
}

/// The allocation before and after a change. The share moved between variations is measured, not assumed to be 0.
pub(super) fn preview(before: &Experiment, after: &Experiment) -> AllocationPreview {
    let (old, new) = (before.latest_allocation(), after.latest_allocation());
    let all = |experiment: &Experiment| {
        (0..experiment.definition.variations().len()).filter_map(Arm::new).collect::<Vec<_>>()
    };
    let shares =
        |allocation: &Allocation, arms: &[Arm]| arms.iter().map(|arm| allocation.width_of(*arm).share()).collect();
    let killed = |experiment: &Experiment, arms: &[Arm]| -> Vec<bool> {
        arms.iter().map(|arm| !arm.is_control() && experiment.kills.served_arm(*arm).is_control()).collect()
    };
    let (arms_before, arms_after) = (all(before), all(after));
    AllocationPreview {
        names: after.definition.variations().iter().map(|v| v.key.to_string()).collect(),
        before: buckets(&old),
        after: buckets(&new),
        shares_before: shares(&old, &arms_before),
        shares_after: shares(&new, &arms_after),
        killed_before: killed(before, &arms_after),
        killed_after: killed(after, &arms_after),
        audience_change: String::new(),
        moved_between_variations: moved_between_variations(&old, &new),
    }
}

/// The share of the line that a variation owned before and another arm owns after.
fn moved_between_variations(old: &Allocation, new: &Allocation) -> f64 {
    let (old, new) = (buckets(old), buckets(new));
    let pairs =
        old.iter().filter(|b| b.arm > 0).flat_map(|b| new.iter().filter(|a| a.arm != b.arm).map(move |a| (b, a)));
    pairs.map(|(b, a)| (b.to.min(a.to) - b.from.max(a.from)).max(0.0)).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;

    #[test]
    fn share_moved_between_variations_is_measured() {
        let share = |s| Width::from_share(s).unwrap();
        let two = Allocation::with_footholds(&[share(0.1), share(0.2)], Width::ZERO).unwrap();
        let grown = two.grow(&[(Arm::new(1).unwrap(), share(0.3))], Width::ZERO).unwrap();
        assert_eq!(moved_between_variations(&two, &grown), 0.0);
        // Shrinking would take units from a variation, and the preview would show it.
        assert!((moved_between_variations(&grown, &two) - 0.3).abs() < 1e-9);
    }
}
