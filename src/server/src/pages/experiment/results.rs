//! The results section of the experiment page: arms, metrics and health.

use inroad_assignment::{Arm, Experiment, GuardrailAction, Metric, MetricKind};
use inroad_dashboard::experiment as view;
use inroad_dashboard::format::{NumberFormat, instant, number};
use inroad_policy::{Interval, SrmAlarm, Z_95};
use inroad_wire::time::timestamp_from_wire;
use inroad_wire::v1;
use maud::html;

use super::super::allocation::ShownAllocation;
use super::durations::in_words;
use crate::explain::{MAX_SHOWN_ODDS, odds};

/// The values of an arm that are independent of metrics.
pub(super) fn view_arm(
    experiment: &Experiment,
    allocation: &ShownAllocation,
    results: &v1::GetResultsResponse,
    arm: Arm,
) -> view::Arm {
    let variation = experiment.definition.variation(arm);
    let result = results.arms.get(arm.index());
    let lift = result.and_then(|r| r.lift.as_ref()).map(interval);
    // The distribution is normal on the log scale, so the interval determines its mean and standard deviation.
    let is_compared = result.is_some_and(|result| !result.killed);
    let posterior = lift.filter(|_| !arm.is_control() && is_compared).map(|lift| {
        let (low, high) = (lift.low.ln_1p(), lift.high.ln_1p());
        (lift.estimate.ln_1p(), (high - low) / (2.0 * Z_95))
    });
    let is_ranked = results.not_ranked.is_empty() && !results.decision_metric.is_empty();
    view::Arm {
        name: variation.map(|v| v.key.to_string()).unwrap_or_default(),
        description: variation.map(|v| v.description.clone()).unwrap_or_default(),
        payload: variation.map(|v| serde_json::to_string(&v.payload).unwrap_or_default()).unwrap_or_default(),
        killed: experiment.kills.is_arm_killed(arm),
        killed_after_end: result.is_some_and(|result| result.killed_after_end),
        share: allocation.share(arm),
        units: result.map_or(0, |r| r.units),
        p_best: result.filter(|_| is_ranked).map(|r| r.p_best),
        expected_loss: result.filter(|_| is_ranked).and_then(|r| r.expected_loss),
        posterior,
        lift_history: Vec::new(),
    }
}

/// What can be said about a lift; without estimates the variation is control.
pub(in super::super) fn lift_view(estimates: Option<&v1::LiftEstimates>) -> view::LiftView {
    match estimates {
        None => view::LiftView::Control,
        Some(v1::LiftEstimates { credible: Some(lift), .. }) => view::LiftView::Measured(interval(lift)),
        Some(estimates) => view::LiftView::Missing(estimates.note.clone()),
    }
}

fn interval(interval: &v1::Interval) -> Interval {
    Interval { estimate: interval.estimate, low: interval.low, high: interval.high }
}

/// A metric with its results.
pub(super) fn view_metric(
    metric: &Metric,
    index: usize,
    primary: Option<usize>,
    results: &v1::GetResultsResponse,
) -> view::Metric {
    let kind = match &metric.kind {
        MetricKind::Conversion => format!("Whether a unit has the event {}", metric.event),
        MetricKind::Count => format!("How many {} events a unit has", metric.event),
        MetricKind::Mean { cap: Some(cap) } => {
            format!("Sum of the values of {} per unit, at most {cap} per unit", metric.event)
        }
        MetricKind::Mean { cap: None } => format!("Sum of the values of {} per unit", metric.event),
        MetricKind::Ratio { denominator } => format!("Values of {} divided by values of {denominator}", metric.event),
    };
    let window = in_words(metric.window);
    let better = if metric.direction == inroad_assignment::Direction::Up { "Higher" } else { "Lower" };
    let guardrail = metric.guardrail.map(|guardrail| {
        let action = match guardrail.action {
            GuardrailAction::Alert => "an alert is raised",
            GuardrailAction::Freeze => "growth stops",
            GuardrailAction::Kill => "the variation is killed",
        };
        html! { "If a variation is worse than control by more than " (number(guardrail.margin, NumberFormat::Percent1)) ", " (action) "." }
    });
    view::Metric {
        key: metric.key.to_string(),
        about: format!("{kind}, within {window} of the unit's first exposure. {better} is better."),
        is_primary: primary == Some(index),
        is_rate: metric.kind == MetricKind::Conversion,
        is_ratio: matches!(metric.kind, MetricKind::Ratio { .. }),
        guardrail,
        arms: results.arms.iter().map(|arm| arm.metrics.get(index).map(view_arm_metric).unwrap_or_default()).collect(),
    }
}

fn view_arm_metric(result: &v1::MetricResult) -> view::ArmMetric {
    let estimates = result.lift.as_ref();
    let mut caveats = Vec::new();
    let percent = |share: f64| number(share, NumberFormat::PercentEstimate);
    if let Some(delay) = result.delay.as_ref().filter(|delay| delay.differs) {
        caveats.push(html! {
            (percent(delay.early)) " of its units with an outcome have it within a quarter of the window, compared with "
            (percent(delay.control_early)) " in control. Use the lift of completed units only."
        });
    }
    if result.novelty.as_ref().is_some_and(|novelty| novelty.changed) {
        caveats.push(html! { "its lift has changed over time, which may be a novelty or learning effect." });
    }
    if estimates.is_some_and(|estimates| estimates.disagrees) {
        caveats.push(html! { "its estimates disagree, so its lift is probably not constant." });
    }
    view::ArmMetric {
        units: result.units,
        converted: result.converted,
        outcomes: result.outcomes,
        outcome_sum: result.outcome_sum,
        mean: result.mean,
        lift: lift_view(estimates),
        difference_anytime: estimates.and_then(|e| e.difference_anytime.as_ref()).map(interval),
        other_differences: estimates
            .and_then(|e| Some((interval(e.difference_period.as_ref()?), interval(e.difference_batched.as_ref()?)))),
        anytime: estimates.and_then(|e| e.anytime.as_ref()).map(interval),
        difference: estimates.and_then(|e| e.difference.as_ref()).map(interval),
        mature: lift_view(result.mature.as_ref()),
        mature_units: result.mature_units,
        other_estimates: estimates.and_then(|e| Some((interval(e.period.as_ref()?), interval(e.batched.as_ref()?)))),
        p_above_control: estimates
            .filter(|e| e.credible.is_some() || e.difference.is_some())
            .map(|_| result.p_above_control),
        harm: result.harm,
        ratio_note: result.ratio_note.clone(),
        caveats,
    }
}

/// Data quality and remaining potential.
pub(super) fn health(experiment: &Experiment, results: &v1::GetResultsResponse, alarm: SrmAlarm) -> view::Health {
    let alerts = experiment.alerts.iter().map(|alert| {
        let variation = experiment.definition.variation(alert.arm).map(|v| v.key.to_string()).unwrap_or_default();
        let odds = odds(alert.log_evidence);
        html! {
            (alert.metric) ": at the alert, on " (instant(alert.at)) ", evidence that " (variation) " does harm was "
            // A number of that size is shown as a bound.
            (number(odds.min(MAX_SHOWN_ODDS), NumberFormat::Estimate)) " to 1."
        }
    });
    let from_wire = |at: Option<&prost_types::Timestamp>| timestamp_from_wire(at?).ok();
    let kill = |kill: &v1::KillResult| {
        Some((from_wire(kill.at.as_ref())?, kill.summary.clone(), from_wire(kill.restored_at.as_ref())))
    };
    view::Health {
        warnings: results.warnings.clone(),
        ship_arm: (!results.ship.is_empty()).then(|| results.ship.clone()),
        units_moved: results.units_moved,
        crossovers: results.crossovers,
        stale_exposures: results.stale_exposures,
        dropped: results.dropped_records,
        dropped_by_kill: results.dropped_by_kill,
        dropped_after_end: results.dropped_after_end,
        outcomes_too_early: results.outcomes_too_early,
        outcomes_too_late: results.outcomes_too_late,
        kills: results.kills.iter().filter_map(kill).collect(),
        backlog: results.backlog,
        headroom: (experiment.generation().is_some_and(|g| g.number == results.generation && g.endings.is_empty()))
            .then_some(results.headroom),
        days_of_headroom: results.days_of_headroom,
        headroom_note: results.headroom_note.clone(),
        potential_value: results.potential_value_remaining,
        sample_ratio: results.sample_ratio.as_ref().map(|ratio| view::SampleRatio {
            chi_squared: ratio.chi_squared,
            degrees_of_freedom: ratio.degrees_of_freedom,
            summary: ratio.summary.clone(),
            alarm,
        }),
        alerts: alerts.collect(),
    }
}
