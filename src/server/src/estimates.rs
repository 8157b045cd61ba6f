//! Estimates as callers get them, for results and funnels alike: intervals, or a sentence that says why there is none.

use inroad_assignment::{Experiment, Metric, MetricKind};
use inroad_dashboard::format::{grouped_count, plural};
use inroad_policy::{ArmSummary, LiftEstimate, NoRelativeLift, NotMeasured, OUTCOMES_MIN, Progress, Ranking};
use inroad_wire::v1::{Interval, LiftEstimates, LiftState};

/// An interval in wire form.
pub(crate) fn interval_to_wire(interval: inroad_policy::Interval) -> Interval {
    Interval { estimate: interval.estimate, low: interval.low, high: interval.high }
}

/// The names for sentences about one metric.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    /// The experiment.
    pub(crate) experiment: &'a Experiment,
    /// The metric; none for a step of a funnel.
    pub(crate) metric: Option<&'a Metric>,
}

impl Names<'_> {
    fn variation(self, arm: usize) -> String {
        self.experiment.definition.variations().get(arm).map(|v| v.key.to_string()).unwrap_or_default()
    }

    /// Why there is no relative lift; empty if there is one.
    pub(crate) fn lift_note(self, estimate: &LiftEstimate) -> String {
        match estimate {
            LiftEstimate::Measured(_) => String::new(),
            LiftEstimate::Difference { reason: NoRelativeLift::NegativeValues, .. } => {
                "no relative lift: the metric has negative values".to_owned()
            }
            LiftEstimate::Difference { reason: NoRelativeLift::FewOutcomes { control, arm }, .. } => {
                let (name, found) = if control <= arm { ("control", control) } else { ("the variation", arm) };
                format!("no relative lift: {name} has {found} of at least {OUTCOMES_MIN} units with an outcome")
            }
            LiftEstimate::TooEarly(progress) => too_early(progress, Counted::Pair),
            LiftEstimate::NotMeasured(reason) => self.not_measured(*reason),
        }
    }

    /// The same for an arm of which a kill or a restore excluded this many unit records.
    pub(crate) fn lift_note_after_kill(self, estimate: &LiftEstimate, excluded: u64, killed: bool) -> String {
        match (estimate, plural(excluded, "unit record")) {
            (LiftEstimate::TooEarly(_), records) if excluded > 0 && killed => {
                format!("too early to say: the kill excluded {records}")
            }
            (LiftEstimate::TooEarly(progress), records) if excluded > 0 => {
                format!("{}, and a kill excluded {records}", too_early(progress, Counted::Pair))
            }
            _ => self.lift_note(estimate),
        }
    }

    /// Why the variations are not ranked; empty if they are.
    pub(crate) fn ranking_note(self, ranking: &Ranking) -> String {
        match ranking {
            Ranking::Known { .. } => String::new(),
            Ranking::AllKilled => "all variations are killed: nothing is compared".to_owned(),
            Ranking::TooEarly(progress) => too_early(progress, Counted::All),
            Ranking::NotMeasured(reason) => self.not_measured(*reason),
        }
    }

    fn not_measured(self, reason: NotMeasured) -> String {
        match (reason, self.metric.map(|metric| &metric.kind)) {
            (NotMeasured::NoDenominator { arm }, Some(MetricKind::Ratio { denominator })) => {
                let variation = self.variation(arm);
                format!("not measured: no unit of {variation} has the event {denominator} with a value above 0")
            }
            (NotMeasured::NoDenominators, Some(MetricKind::Ratio { denominator })) => {
                format!("not measured: no unit has the event {denominator} with a value above 0")
            }
            (NotMeasured::NoDenominators, _) => "not measured: no unit has a denominator".to_owned(),
            (NotMeasured::NoDenominator { arm }, _) => format!("not measured: {} has no units", self.variation(arm)),
            (NotMeasured::NoValues, _) => "not measured: all values are 0".to_owned(),
        }
    }
}

/// Which units are counted for a sentence: beside each other, the numbers of two sentences must not look contradictory.
#[derive(Clone, Copy)]
enum Counted {
    /// Those of a variation and of control, for its lift.
    Pair,
    /// Those of all variations that are compared, for a ranking.
    All,
}

fn too_early(progress: &Progress, counted: Counted) -> String {
    let (sum, fewest) = match counted {
        Counted::Pair => ("in this variation and control", "in this variation or in control, whichever has fewer"),
        Counted::All => {
            ("in all compared variations, judged by their outcomes so far", "in the compared variation with the fewest")
        }
    };
    match progress.units_needed {
        _ if progress.units == 0 => "too early to say: no units yet".to_owned(),
        Some(needed) if needed > progress.units => {
            let (found, needed) = (grouped_count(progress.units), grouped_count(needed));
            format!("too early to say: {found} of about {needed} units {sum}")
        }
        _ if progress.outcomes < OUTCOMES_MIN => {
            format!("too early to say: {} of {OUTCOMES_MIN} units with an outcome {fewest}", progress.outcomes)
        }
        _ => "too early to say: the values differ too much for an interval yet".to_owned(),
    }
}

/// What can be said about a lift, in wire form.
pub(crate) fn lift_state(estimate: Option<&LiftEstimate>) -> LiftState {
    match estimate {
        None => LiftState::Unspecified,
        Some(LiftEstimate::Measured(_)) => LiftState::Measured,
        Some(LiftEstimate::Difference { .. }) => LiftState::Difference,
        Some(LiftEstimate::TooEarly(_)) => LiftState::TooEarly,
        Some(LiftEstimate::NotMeasured(_)) => LiftState::NotMeasured,
    }
}

/// All estimates of a variation's lift; none for control.
pub(crate) fn lift_estimates(summary: &ArmSummary, names: Names<'_>) -> Option<LiftEstimates> {
    let estimate = summary.lift.as_ref()?;
    let is_relative = estimate.relative().is_some();
    let (lifts, differences) = match &summary.alternatives {
        Some(found) if is_relative => (Some(found), None),
        found => (None, found.as_ref()),
    };
    let anytime = summary.anytime.map(interval_to_wire);
    Some(LiftEstimates {
        credible: estimate.relative().map(interval_to_wire),
        anytime: anytime.filter(|_| is_relative),
        period: lifts.map(|found| interval_to_wire(found.period)),
        batched: lifts.map(|found| interval_to_wire(found.batched)),
        difference: summary.difference.map(interval_to_wire),
        disagrees: summary.alternatives.is_some_and(|found| found.disagrees),
        state: lift_state(Some(estimate)).into(),
        note: names.lift_note(estimate),
        difference_anytime: anytime.filter(|_| !is_relative),
        difference_period: differences.map(|found| interval_to_wire(found.period)),
        difference_batched: differences.map(|found| interval_to_wire(found.batched)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_about_a_pair_and_about_all_variations_say_what_they_count() {
        let progress = |units, units_needed, outcomes| Progress { units, units_needed, outcomes };
        let both = |progress| [Counted::Pair, Counted::All].map(|counted| too_early(&progress, counted));
        assert_eq!(
            both(progress(1_030, Some(2_400), 4)),
            [
                "too early to say: 1,030 of about 2,400 units in this variation and control",
                "too early to say: 1,030 of about 2,400 units in all compared variations, judged by their outcomes so far"
            ]
        );
        assert_eq!(
            both(progress(900, None, 2)),
            [
                "too early to say: 2 of 5 units with an outcome in this variation or in control, whichever has fewer",
                "too early to say: 2 of 5 units with an outcome in the compared variation with the fewest"
            ]
        );
    }
}
