//! One metric of an experiment, by variation: what was counted, what it comes to, and what is believed of it.

use inroad_policy::Interval;
use maud::{Markup, html};

use super::{Experiment, lift_words};
use crate::chart::text::{Format, number};
use crate::chart::{interval_bar, lift_range};

/// One arm's part of a metric.
#[derive(Debug, Clone, Default)]
pub struct ArmMetric {
    /// Units that the estimate rests on.
    pub units: u64,
    /// Those of them with an outcome.
    pub converted: u64,
    /// The sum of all outcomes' values.
    pub outcome_sum: f64,
    /// Per unit.
    pub mean: Option<f64>,
    /// Over control, with its 95% interval; none for control.
    pub lift: Option<Interval>,
    /// Over control, true at every look.
    pub anytime: Option<Interval>,
    /// The same as an absolute difference in the metric's unit, weighted by period; none with too few events.
    pub difference: Option<Interval>,
    /// From units alone whose window has ended.
    pub mature: Option<Interval>,
    /// How many those are.
    pub mature_units: u64,
    /// Second opinions: by period, batched.
    pub opinions: Option<(Interval, Interval)>,
    /// Probability of being better than control.
    pub p_above_control: f64,
    /// How strongly it does harm, 20 being the odds at which a guardrail speaks in an experiment of one; none if the metric is no guardrail.
    pub harm: Option<f64>,
    /// What speaks against the numbers, in plain words: delay, novelty, disagreement.
    pub doubts: Vec<Markup>,
}

/// A metric.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its key.
    pub key: String,
    /// What it is made of, in words.
    pub about: String,
    /// Whether the policy goes by it.
    pub decides: bool,
    /// Whether its mean is a share of units.
    pub is_rate: bool,
    /// What happens when it is harmed, in words; none if it is no guardrail.
    pub guardrail: Option<Markup>,
    /// Control first.
    pub arms: Vec<ArmMetric>,
}

impl Metric {
    pub(super) fn render(&self, experiment: &Experiment) -> Markup {
        let lifts: Vec<Interval> = self.arms.iter().filter_map(|arm| arm.lift).collect();
        let range = lift_range(&lifts);
        let mean =
            |value: f64| if self.is_rate { number(value, Format::Percent2) } else { number(value, Format::Num4) };
        let is_guardrail = self.guardrail.is_some();
        html! {
            div.metric {
                h3 { (self.key) @if self.decides { " " span.badge.decides { "decides" } } @if is_guardrail { " " span.badge.guards { "guardrail" } } }
                p.lead { (self.about) @if let Some(guardrail) = &self.guardrail { " " (guardrail) } }
                div.scroll tabindex="0" role="region" aria-label={ "Results by " (self.key) } {
                    table.results {
                        caption { "By variation; lift is relative to control, the difference from it absolute and weighted by period" }
                        thead { tr {
                            th scope="col" { "Variation" }
                            th scope="col" { "Units" }
                            th scope="col" { @if self.is_rate { "Converted" } @else { "With outcome" } }
                            th scope="col" { @if self.is_rate { "Rate" } @else { "Per unit" } }
                            th scope="col" { "Value" }
                            th scope="col" { "Lift, 95% interval" }
                            th scope="col" { span.unseen { "The same, drawn" } }
                            th scope="col" { @if self.is_rate { "Difference, points" } @else { "Difference per unit" } }
                            th scope="col" { "At every look" }
                            @if self.decides { th scope="col" { "Best" } th scope="col" { "Expected loss" } }
                            @else { th scope="col" { "Better than control" } }
                            @if is_guardrail { th scope="col" { "Harm, odds" } }
                        } }
                        tbody {
                            @for (i, (arm, said)) in experiment.arms.iter().zip(&self.arms).enumerate() {
                                tr.dead[arm.killed] {
                                    th scope="row" { (arm.name) @if arm.killed { " " span.badge.killed { "killed" } } }
                                    td { (number(said.units as f64, Format::Int)) }
                                    td { (number(said.converted as f64, Format::Int)) }
                                    td { @match said.mean { Some(value) => (mean(value)), None => "–" } }
                                    td { @if self.is_rate && said.outcome_sum == 0.0 { "–" } @else { (number(said.outcome_sum, Format::Num2)) } }
                                    td { @match &said.lift { Some(lift) => (lift_words(lift)), None => { @if i == 0 { "control" } @else { "–" } } } }
                                    td.drawn { @if let Some(lift) = said.lift { (interval_bar(lift, range)) } }
                                    td { @match &said.difference { Some(difference) => (self.difference(difference)), None => "–" } }
                                    td { @match &said.anytime {
                                        Some(lift) => span.range { (number(lift.low, Format::SignedPercent1)) " to " (number(lift.high, Format::SignedPercent1)) },
                                        None => "–",
                                    } }
                                    @if self.decides {
                                        td { @if arm.killed { "–" } @else { (number(arm.p_best, Format::Percent1)) } }
                                        td { @if arm.killed { "–" } @else { (number(arm.expected_loss, Format::Percent2)) } }
                                    } @else {
                                        td { @if i == 0 { "–" } @else { (number(said.p_above_control, Format::Percent1)) } }
                                    }
                                    @if is_guardrail { td { @match said.harm { Some(harm) => (number(harm, Format::Num2)), None => "–" } } }
                                }
                            }
                        }
                    }
                }
                (self.second_opinions(experiment))
                @for (arm, said) in experiment.arms.iter().zip(&self.arms) {
                    @for doubt in &said.doubts { p.doubt { b { (arm.name) } ": " (doubt) } }
                }
            }
        }
    }

    /// A difference of rates in percentage points, any other in the metric's own unit.
    fn difference(&self, difference: &Interval) -> Markup {
        let value = |value: f64| number(value, if self.is_rate { Format::Percent2 } else { Format::Num4 });
        html! { span.lift { (value(difference.estimate)) } " " span.range { (value(difference.low)) " to " (value(difference.high)) } }
    }

    fn second_opinions(&self, experiment: &Experiment) -> Markup {
        let any = self.arms.iter().any(|arm| arm.opinions.is_some() || arm.mature.is_some());
        let of = |lift: Option<&Interval>| html! { @match lift { Some(lift) => (lift_words(lift)), None => "–" } };
        html! {
            @if any {
                details {
                    summary { "Second opinions, and units whose window has ended" }
                    div.scroll tabindex="0" role="region" aria-label={ "Second opinions on " (self.key) } {
                        table {
                            caption { "The same lift by other estimators" }
                            thead { tr { th scope="col" { "Variation" } th scope="col" { "Mature units" } th scope="col" { "Mature lift" } th scope="col" { "Weighted by period" } th scope="col" { "Batched" } } }
                            tbody {
                                @for (arm, said) in experiment.arms.iter().zip(&self.arms).skip(1) {
                                    tr {
                                        th scope="row" { (arm.name) }
                                        td { (number(said.mature_units as f64, Format::Int)) }
                                        td { (of(said.mature.as_ref())) }
                                        td { (of(said.opinions.as_ref().map(|o| &o.0))) }
                                        td { (of(said.opinions.as_ref().map(|o| &o.1))) }
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
