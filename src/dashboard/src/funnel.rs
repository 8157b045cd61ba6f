//! The funnel: how many units of each variation came how far, and where they were lost.

use inroad_policy::Interval;
use inroad_policy::attribution::funnel::MAX_STEPS;
use maud::{Markup, html};

use crate::chart::funnel as chart;
use crate::chart::text::{Format, number};
use crate::experiment::lift_words;
use crate::shell::{EVENT_NAMES, event_names, live_part};

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// By variation, control first: exposed, then reached step 1, 2, ….
    pub reached: Vec<Vec<u64>>,
    /// By variation and step: the lift of reaching it, per exposed unit; none for control and without information.
    pub lifts: Vec<Vec<Option<Interval>>>,
    /// How long it took, milliseconds.
    pub took_ms: f64,
}

/// The page.
#[derive(Debug, Clone)]
pub struct Funnel {
    /// The experiment.
    pub key: String,
    /// Its generation.
    pub generation: u32,
    /// Variations, control first.
    pub names: Vec<String>,
    /// As chosen, in order.
    pub steps: Vec<String>,
    /// As typed: from when on; empty for the start.
    pub from: String,
    /// As typed: until when; empty for now.
    pub to: String,
    /// Events that its metrics name and that came lately, to choose from.
    pub events: Vec<String>,
    /// What was found; none if nothing was asked.
    pub found: Option<Found>,
    /// Why there is nothing.
    pub error: Option<String>,
}

impl Funnel {
    /// The page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            p.crumbs { a href="/" { "Experiments" } " / " a href={ "/experiments/" (self.key) } { (self.key) } }
            h1 { "Funnel" }
            p.lead { "How many units reached each event, in this order, after they first saw their variation." }
            (self.ask())
            @if let Some(error) = &self.error { p.notice.bad role="alert" { (error) } }
            (live_part("funnel", &self.answer()))
        }
    }

    fn ask(&self) -> Markup {
        let rows = (self.steps.len() + 1).clamp(3, MAX_STEPS);
        html! {
            form.funnel method="get" action={ "/experiments/" (self.key) "/funnel" } {
                (event_names(&self.events))
                div.steps {
                    @for i in 0..rows {
                        label { span { "Step " (i + 1) } input name="step" value=(self.steps.get(i).map_or("", String::as_str)) list=(EVENT_NAMES) placeholder=(if i == 0 { "event" } else { "" }) maxlength="128"; }
                    }
                }
                div.range {
                    label { span { "From (UTC)" } input name="from" value=(self.from) placeholder="2026-01-31T09:00"; }
                    label { span { "To (UTC)" } input name="to" value=(self.to) placeholder="now"; }
                    @if self.generation > 0 { label { span { "Generation" } input name="generation" value=(self.generation) inputmode="numeric" size="3"; } }
                    button.primary { "Show" }
                }
            }
        }
    }

    fn answer(&self) -> Markup {
        let Some(found) = &self.found else {
            if self.error.is_some() {
                return html! {};
            }
            return html! { div.empty { h2 { "Choose events" } p { "For example what people do first, then what they do next. The events of this experiment's metrics are offered, and those that came lately." } } };
        };
        let exposed = |arm: usize| found.reached.get(arm).and_then(|r| r.first()).copied().unwrap_or_default();
        let part = |n: u64, of: u64| if of == 0 { None } else { Some(n as f64 / of as f64) };
        html! {
            (chart(&self.names, &self.steps, &found.reached, &found.lifts))
            div.scroll tabindex="0" role="region" aria-label="The funnel as a table" {
                table.results {
                    caption { "Units that reached each step; drop-off is from the step before; lift is of reaching the step, per exposed unit, over control" }
                    thead { tr {
                        th scope="col" { "Step" } th scope="col" { "Variation" } th scope="col" { "Units" } th scope="col" { "Of exposed" } th scope="col" { "Drop-off" } th scope="col" { "Lift, 95% interval" }
                    } }
                    @for step in 0..=self.steps.len() {
                        tbody {
                            @for (arm, name) in self.names.iter().enumerate() {
                                @let units = found.reached.get(arm).and_then(|r| r.get(step)).copied().unwrap_or_default();
                                @let before = step.checked_sub(1).and_then(|s| found.reached.get(arm)?.get(s).copied());
                                tr {
                                    @if arm == 0 { th scope="rowgroup" rowspan=(self.names.len()) { @if step == 0 { "Exposed" } @else { (self.steps[step - 1]) } } }
                                    th scope="row" { (name) }
                                    td { (number(units as f64, Format::Int)) }
                                    td { @match part(units, exposed(arm)) { Some(share) => (number(share, Format::Percent1)), None => "–" } }
                                    td { @match before.and_then(|before| part(before - units.min(before), before)) { Some(lost) => (number(lost, Format::Percent1)), None => "–" } }
                                    td { @match step.checked_sub(1).and_then(|s| found.lifts.get(arm)?.get(s).copied().flatten()) { Some(lift) => (lift_words(&lift)), None => "–" } }
                                }
                            }
                        }
                    }
                }
            }
            p.help { "Answered in " (number(found.took_ms, Format::Int)) " ms." }
        }
    }
}
