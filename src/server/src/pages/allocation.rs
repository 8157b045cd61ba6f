//! Allocations as the dashboard draws them, and previews of changes to them.

use inroad_assignment::{Allocation, Arm, Experiment, Generation, Status, Width};
use inroad_dashboard::action::AllocationPreview;
use inroad_dashboard::chart::Bucket;
use inroad_dashboard::experiment::AllocationNote;

use crate::ended_run::{Conclusion, conclusion_of_run, end_in_words, ended_by_restart, served_shares};

/// What the pages show as the allocation of one run: while it runs its newest allocation, since a conclusion the shipped
/// variation, and after a restart what was served last.
pub(super) struct ShownAllocation {
    allocation: std::sync::Arc<Allocation>,
    shipped: Option<Arm>,
}

impl ShownAllocation {
    /// The allocation that the newest run serves.
    pub(super) fn newest(experiment: &Experiment) -> Self {
        Self { allocation: experiment.latest_allocation(), shipped: shipped_arm(experiment) }
    }

    /// The allocation of a run, which may have ended.
    pub(super) fn of(experiment: &Experiment, generation: &Generation) -> Self {
        let last = generation.ended_at().and_then(|at| generation.revision_in_effect(at));
        match last.filter(|_| ended_by_restart(generation).is_some()) {
            Some(last) => Self {
                allocation: std::sync::Arc::clone(&last.allocation),
                shipped: conclusion_of_run(generation).map(|(_, how)| how.served()),
            },
            None => Self::newest(experiment),
        }
    }

    /// The share of a variation.
    pub(super) fn share(&self, arm: Arm) -> f64 {
        match self.shipped {
            Some(shipped) => f64::from(u8::from(shipped == arm)),
            None => self.allocation.width_of(arm).share(),
        }
    }

    /// The buckets, on a line from 0 to 1.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        match self.shipped {
            Some(shipped) => vec![Bucket { from: 0.0, to: 1.0, arm: shipped.index() }],
            None => buckets(&self.allocation),
        }
    }
}

/// The variation that is served since the conclusion; none before one.
pub(super) fn shipped_arm(experiment: &Experiment) -> Option<Arm> {
    match experiment.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => Some(shipped),
        Status::Draft | Status::Running | Status::Paused => None,
    }
}

/// What the allocation of a run on its page is.
pub(super) fn allocation_note(experiment: &Experiment, generation: &Generation) -> AllocationNote {
    let names = experiment.definition.variations().iter().map(|variation| variation.key.to_string());
    let shares_until = |at| names.zip(served_shares(experiment, generation, at)).collect();
    match (ended_by_restart(generation), conclusion_of_run(generation)) {
        (Some(at), None) => AllocationNote::Restarted { at },
        (Some(restarted_at), Some((at, how))) => AllocationNote::ConcludedAndRestarted {
            at,
            restarted_at,
            how: end_in_words(experiment, Some(how), false),
            shares_before: shares_until(at),
        },
        (None, Some((at, how))) => AllocationNote::Concluded {
            at,
            is_rollback: how == Conclusion::RolledBack,
            within_audience: is_within_audience(experiment, how.served()),
            shares_before: shares_until(at),
        },
        (None, None) => AllocationNote::Running,
    }
}

/// Whether units outside the audience get control instead of the shipped variation.
pub(super) fn is_within_audience(experiment: &Experiment, shipped: Arm) -> bool {
    experiment.shipped_within_audience && experiment.definition.audience().is_some() && !shipped.is_control()
}

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
    let shares = |shown: &ShownAllocation, arms: &[Arm]| arms.iter().map(|arm| shown.share(*arm)).collect();
    let killed = |experiment: &Experiment, arms: &[Arm]| -> Vec<bool> {
        arms.iter().map(|arm| !arm.is_control() && experiment.kills.served_arm(*arm).is_control()).collect()
    };
    let (arms_before, arms_after) = (all(before), all(after));
    // After a conclusion, the allocation does not decide what units get.
    let (shown_before, shown_after) = (ShownAllocation::newest(before), ShownAllocation::newest(after));
    AllocationPreview {
        names: after.definition.variations().iter().map(|v| v.key.to_string()).collect(),
        before: shown_before.buckets(),
        after: shown_after.buckets(),
        shares_before: shares(&shown_before, &arms_before),
        shares_after: shares(&shown_after, &arms_after),
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
    use std::time::Duration;

    use inroad_assignment::experiment::{RevisionCause, ShippingScope};
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt, Timestamp};

    use super::*;

    #[test]
    fn shares_before_a_conclusion_consider_kills_and_leave_out_growth_that_never_took_effect() {
        let doc = serde_json::json!({
            "key": "k", "variations": [
                {"key": "blue", "payload": 0}, {"key": "red", "payload": 1, "share": 0.2},
                {"key": "green", "payload": 2, "share": 0.1},
            ],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let (now, green) = (Timestamp::from_micros(5), Arm::new(2).unwrap());
        let mut experiment = Experiment::create(doc.try_into().unwrap(), now);
        experiment.start(now, Salt::parse("s").unwrap()).unwrap();
        experiment.set_killed(KillTarget::Variation(Arm::new(1).unwrap()), true, now).unwrap();
        let half = Width::from_share(0.5).unwrap();
        experiment.grow(&[(green, half)], RevisionCause::Grown, now, now.plus(Duration::from_secs(9))).unwrap();
        let is_near = |shares: Vec<f64>| shares.iter().zip([0.9, 0.0, 0.1]).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(is_near(served_shares(&experiment, experiment.generation().unwrap(), now)));
        experiment.conclude(green, ShippingScope::Audience, now.plus(Duration::from_secs(1))).unwrap();
        let AllocationNote::Concluded { shares_before, .. } =
            allocation_note(&experiment, experiment.generation().unwrap())
        else {
            panic!("not concluded")
        };
        assert!(is_near(shares_before.iter().map(|(_, share)| *share).collect()), "{shares_before:?}");
    }

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
