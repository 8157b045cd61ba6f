//! The results of one metric, by variation: counts and estimates.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::{ExperimentPage, LiftView, lift_with_interval};
use crate::chart::{interval_bar, lift_range};
use crate::format::{NumberFormat, count, number};

/// The results of one arm.
#[derive(Debug, Clone, Default)]
pub struct ArmMetric {
    /// Counted units: those in the estimate.
    pub units: u64,
    /// Units with an outcome.
    pub converted: u64,
    /// All outcomes, whether they count or not.
    pub outcomes: u64,
    /// Sum of the values of all outcomes.
    pub outcome_sum: f64,
    /// Mean per unit.
    pub mean: Option<f64>,
    /// Lift over control with its 95% interval, without prior.
    pub lift: LiftView,
    /// Always-valid interval of the lift.
    pub anytime: Option<Interval>,
    /// Absolute difference from control in the metric's unit; none with too few events.
    pub difference: Option<Interval>,
    /// Always-valid interval of the difference, where there is no relative lift.
    pub difference_anytime: Option<Interval>,
    /// Lift among completed units, whose window has ended.
    pub mature: LiftView,
    /// Number of completed units.
    pub mature_units: u64,
    /// Other estimates of the lift: averaged over reporting intervals, and batched.
    pub other_estimates: Option<(Interval, Interval)>,
    /// The same of the difference, where there is no relative lift.
    pub other_differences: Option<(Interval, Interval)>,
    /// Probability to be better than control; none for control and while it is too early.
    pub p_above_control: Option<f64>,
    /// Evidence of harm, as odds to 1; a guardrail raises an alert at 20 with one variation. None if the metric is no
    /// guardrail.
    pub harm: Option<f64>,
    /// The plain ratio to control, and why the lift differs from it; empty if they are equal.
    pub ratio_note: String,
    /// Caveats: delay, novelty, disagreeing estimates.
    pub caveats: Vec<Markup>,
}

/// A metric with its results.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Key.
    pub key: String,
    /// What the metric measures, as a sentence.
    pub about: String,
    /// Whether this is the primary metric.
    pub is_primary: bool,
    /// Whether the mean is a share of units.
    pub is_rate: bool,
    /// Whether the mean is a ratio of two totals.
    pub is_ratio: bool,
    /// What the guardrail does, as a sentence; none if the metric is no guardrail.
    pub guardrail: Option<Markup>,
    /// Results by arm, control first.
    pub arms: Vec<ArmMetric>,
}

impl Metric {
    pub(super) fn render(&self, experiment: &ExperimentPage) -> Markup {
        let lifts: Vec<Interval> = self.arms.iter().filter_map(|arm| arm.lift.relative()).collect();
        let range = lift_range(&lifts);
        let is_guardrail = self.guardrail.is_some();
        html! {
            div.metric {
                h3 { (self.key) @if self.is_primary { " " span.badge.decides { "primary metric" } } @if is_guardrail { " " span.badge.guards { "guardrail" } } }
                p.lead { (self.about) @if let Some(guardrail) = &self.guardrail { " " (guardrail) } }
                p.help {
                    @if self.is_rate { "Conversion rate is converted by counted units." }
                    @else if self.is_ratio { "The ratio is that of both totals of the counted units." }
                    @else { "Mean is per counted unit." }
                    " Total value is the sum of the values of all outcomes until the end of the run: also those above a cap, outside the window or of units that are not counted."
                    " Lift is relative to control. Difference is absolute: it is estimated in place of the lift once the sums show that values are negative, of others it is averaged over reporting intervals, so its sign may differ from that of the lift. Both are estimated without the policy's prior."
                    @if self.is_primary { " Probability to be best and expected loss are those used for allocation, with the prior and from all variations together, so they may point elsewhere than a lift, which compares with control alone." }
                    @else { " The probability to be better than control is with the prior and from all variations together, so it may point elsewhere than the lift." }
                }
                div.scroll tabindex="0" role="region" aria-label={ "Results by " (self.key) } {
                    table.results {
                        caption { "By variation" }
                        thead { tr {
                            th scope="col" { "Variation" }
                            th scope="col" { "Exposed units" }
                            th scope="col" { "Counted units" }
                            th scope="col" { @if self.is_rate { "Converted" } @else { "With outcome" } }
                            th scope="col" { @if self.is_rate { "Conversion rate" } @else if self.is_ratio { "Ratio" } @else { "Mean per unit" } }
                            th scope="col" { "Total value" }
                            th scope="col" { "Lift, 95% interval" }
                            th scope="col" { span.unseen { "Chart" } }
                            th scope="col" { @if self.is_rate { "Difference, percentage points" } @else if self.is_ratio { "Difference of the ratio" } @else { "Difference per unit" } }
                            th scope="col" { "Always-valid interval" }
                            @if self.is_primary { th scope="col" { "Probability to be best" } th scope="col" { "Expected loss" } }
                            @else { th scope="col" { "Probability to be better than control" } }
                            @if is_guardrail { th scope="col" { "Evidence of harm" } }
                        } }
                        tbody {
                            @for (arm, result) in experiment.arms.iter().zip(&self.arms) {
                                @let is_compared = !arm.killed || arm.killed_after_end;
                                tr.dead[!is_compared] {
                                    th scope="row" { (arm.name) @if arm.killed { " " span.badge.killed { @if is_compared { "killed after the end" } @else { "killed" } } } }
                                    td { (count(arm.units)) }
                                    td { (count(result.units)) }
                                    td { (number(result.converted as f64, NumberFormat::Int)) }
                                    td { @match result.mean { Some(value) => (number(value, self.value_format())), None => "–" } }
                                    td { (self.total_value(result)) }
                                    td { (result.lift.cell()) }
                                    td.drawn { @if let Some(lift) = result.lift.relative() { (interval_bar(lift, range)) } }
                                    td { @match &result.difference { Some(difference) => (self.difference(difference)), None => "–" } }
                                    td { @match (&result.anytime, &result.difference_anytime) {
                                        (Some(lift), _) => span.range { (number(lift.low, NumberFormat::Lift)) " to " (number(lift.high, NumberFormat::Lift)) },
                                        (None, Some(difference)) => span.range { (number(difference.low, self.value_format())) " to " (number(difference.high, self.value_format())) },
                                        (None, None) => "–",
                                    } }
                                    @if self.is_primary {
                                        td { @match arm.p_best { Some(p) if is_compared => (number(p, NumberFormat::Probability)), _ => "–" } }
                                        td { @match arm.expected_loss { Some(loss) if is_compared => (number(loss, NumberFormat::PercentEstimate)), _ => "–" } }
                                    } @else {
                                        td { @match result.p_above_control { Some(p) => (number(p, NumberFormat::Probability)), None => "–" } }
                                    }
                                    @if is_guardrail { td { @match result.harm { Some(harm) => { (number(harm, NumberFormat::Estimate)) " to 1" }, None => "–" } } }
                                }
                            }
                        }
                    }
                }
                @for (arm, result) in experiment.arms.iter().zip(&self.arms).filter(|(_, result)| !result.ratio_note.is_empty()) {
                    p.help { b { (arm.name) } ": " (result.ratio_note) "." }
                }
                (self.other_estimates(experiment))
                @for (arm, result) in experiment.arms.iter().zip(&self.arms) {
                    @for caveat in &result.caveats { p.doubt { b { (arm.name) } ": " (caveat) } }
                }
            }
        }
    }

    /// The sum of all values; a dash if there are none, whatever the kind of the metric.
    fn total_value(&self, result: &ArmMetric) -> Markup {
        if result.outcomes == 0 {
            html! { "–" }
        } else {
            number(result.outcome_sum, NumberFormat::Num2)
        }
    }

    /// How a mean or a difference is written: rates in percent, other metrics in their own unit.
    fn value_format(&self) -> NumberFormat {
        if self.is_rate { NumberFormat::PercentEstimate } else { NumberFormat::Estimate }
    }

    fn difference(&self, difference: &Interval) -> Markup {
        let value = |value: f64| number(value, self.value_format());
        html! { span.lift { (value(difference.estimate)) } " " span.range { (value(difference.low)) " to " (value(difference.high)) } }
    }

    fn other_estimates(&self, experiment: &ExperimentPage) -> Markup {
        let has_any = self.arms.iter().any(|arm| {
            arm.other_estimates.is_some() || arm.other_differences.is_some() || arm.mature.relative().is_some()
        });
        let cell = |lift: Option<&Interval>, difference: Option<&Interval>| match (lift, difference) {
            (Some(lift), _) => lift_with_interval(lift),
            (None, Some(difference)) => self.difference(difference),
            (None, None) => html! { "–" },
        };
        html! {
            @if has_any {
                details {
                    summary { "Other estimates" }
                    p.help { "Completed units are those whose window has ended, by whole reporting intervals. Other intervals than those of completed units are valid at one fixed time only, so a killed variation has none of them; its interval of completed units is always-valid." }
                    div.scroll tabindex="0" role="region" aria-label={ "Other estimates of " (self.key) } {
                        table {
                            caption { "The same lift, estimated differently" }
                            thead { tr { th scope="col" { "Variation" } th scope="col" { "Completed units" } th scope="col" { "Lift, completed units only" } th scope="col" { "Lift, averaged over reporting intervals" } th scope="col" { "Lift, batched" } } }
                            tbody {
                                @for (arm, result) in experiment.arms.iter().zip(&self.arms).skip(1) {
                                    tr {
                                        th scope="row" { (arm.name) }
                                        td { (number(result.mature_units as f64, NumberFormat::Int)) }
                                        td { (result.mature.cell()) }
                                        td { (cell(result.other_estimates.as_ref().map(|o| &o.0), result.other_differences.as_ref().map(|o| &o.0))) }
                                        td { (cell(result.other_estimates.as_ref().map(|o| &o.1), result.other_differences.as_ref().map(|o| &o.1))) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_value_is_a_dash_without_outcomes_and_a_number_with_some_for_every_kind_of_metric() {
        for (is_rate, is_ratio) in [(true, false), (false, false), (false, true)] {
            let metric = Metric {
                key: "m".to_owned(),
                about: String::new(),
                is_primary: false,
                is_rate,
                is_ratio,
                guardrail: None,
                arms: Vec::new(),
            };
            let text = |outcomes, outcome_sum| {
                metric.total_value(&ArmMetric { outcomes, outcome_sum, ..ArmMetric::default() }).into_string()
            };
            assert_eq!(text(0, 0.0), "–");
            assert!(text(2, 0.0).contains("0.00") && text(2, -3.5).contains("3.50"));
        }
    }
}
