//! The funnel page: how many units of each variation reached each step.

use inroad_policy::attribution::funnel::MAX_STEPS;
use maud::{Markup, html};

use crate::chart::funnel as funnel_chart;
use crate::experiment::LiftView;
use crate::format::{NumberFormat, number};
use crate::layout::{EVENT_NAMES, event_name_list, live_part};

/// The computed funnel.
#[derive(Debug, Clone)]
pub struct FunnelResult {
    /// By variation, control first: exposed units, then units that reached step 1, 2, ….
    pub reached: Vec<Vec<u64>>,
    /// Why rates and lifts differ, with the number of units that lifts compare.
    pub note: String,
    /// Steps that no unit reached, probably because their event is misspelt.
    pub hints: Vec<String>,
    /// By variation and step: the lift of the share of exposed units that reached it.
    pub lifts: Vec<Vec<LiftView>>,
    /// Time to compute it, in milliseconds.
    pub took_ms: f64,
}

/// The funnel page.
#[derive(Debug, Clone)]
pub struct FunnelPage {
    /// Key of the experiment.
    pub key: String,
    /// Generation (shown as run); 0 before the first start.
    pub generation: u32,
    /// Keys of the variations, control first.
    pub names: Vec<String>,
    /// Event names of the steps, in order.
    pub steps: Vec<String>,
    /// Start of the range as typed; empty for the start of the run.
    pub from: String,
    /// End of the range as typed; empty for now.
    pub to: String,
    /// Suggested events: those of the experiment's metrics and recent ones.
    pub events: Vec<String>,
    /// The result; none if no steps were chosen.
    pub result: Option<FunnelResult>,
    /// Why there is no result.
    pub error: Option<String>,
}

impl FunnelPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            p.crumbs { a href="/" { "Experiments" } " / " a href={ "/experiments/" (self.key) } { (self.key) } }
            h1 { "Funnel" }
            p.lead { "How many units reached each event, in this order, after their first exposure." }
            (self.form())
            @if let Some(error) = &self.error { p.notice.bad role="alert" { (error) } }
            (live_part("funnel", &self.result()))
        }
    }

    fn form(&self) -> Markup {
        let rows = (self.steps.len() + 1).clamp(3, MAX_STEPS);
        html! {
            form.funnel method="get" action={ "/experiments/" (self.key) "/funnel" } {
                (event_name_list(&self.events))
                div.steps {
                    @for i in 0..rows {
                        label { span { "Step " (i + 1) } input name="step" value=(self.steps.get(i).map_or("", String::as_str)) list=(EVENT_NAMES) placeholder=(if i == 0 { "event name" } else { "" }) maxlength="128"; }
                    }
                }
                div.range {
                    label { span { "From (UTC)" } input name="from" value=(self.from) placeholder="2026-01-31T09:00"; }
                    label { span { "To (UTC)" } input name="to" value=(self.to) placeholder="now"; }
                    @if self.generation > 0 { label { span { "Run" } input name="generation" value=(self.generation) inputmode="numeric" size="3"; } }
                    button.primary { "Show funnel" }
                }
            }
        }
    }

    fn result(&self) -> Markup {
        let Some(result) = &self.result else {
            if self.error.is_some() {
                return html! {};
            }
            return html! { div.empty { h2 { "Choose events" } p { "Enter events in the order in which they happen, for example view, then purchase. Events of this experiment's metrics and recent events are suggested." } } };
        };
        let exposed = |arm: usize| result.reached.get(arm).and_then(|r| r.first()).copied().unwrap_or_default();
        let lifts: Vec<Vec<_>> = result.lifts.iter().map(|arm| arm.iter().map(LiftView::relative).collect()).collect();
        let part = |n: u64, of: u64| if of == 0 { None } else { Some(n as f64 / of as f64) };
        html! {
            @for hint in &result.hints { p.alarm { (hint) } }
            (funnel_chart(&self.names, &self.steps, &result.reached, &lifts))
            p.help {
                (result.note) " Drop-off is relative to the step before."
            }
            div.scroll tabindex="0" role="region" aria-label="Funnel as table" {
                table.results {
                    caption { "Units that reached each step" }
                    thead { tr {
                        th scope="col" { "Step" } th scope="col" { "Variation" } th scope="col" { "Units" } th scope="col" { "Share of exposed" } th scope="col" { "Drop-off" } th scope="col" { "Lift, 95% interval" }
                    } }
                    @for step in 0..=self.steps.len() {
                        tbody {
                            @for (arm, name) in self.names.iter().enumerate() {
                                @let units = result.reached.get(arm).and_then(|r| r.get(step)).copied().unwrap_or_default();
                                @let before = step.checked_sub(1).and_then(|s| result.reached.get(arm)?.get(s).copied());
                                tr {
                                    @if arm == 0 { th scope="rowgroup" rowspan=(self.names.len()) { @if step == 0 { "Exposed" } @else { (self.steps[step - 1]) } } }
                                    th scope="row" { (name) }
                                    td { (number(units as f64, NumberFormat::Int)) }
                                    td { @match part(units, exposed(arm)) { Some(share) => (number(share, NumberFormat::Percent1)), None => "–" } }
                                    td { @match before.and_then(|before| part(before - units.min(before), before)) { Some(lost) => (number(lost, NumberFormat::Percent1)), None => "–" } }
                                    td { @match step.checked_sub(1).and_then(|s| result.lifts.get(arm)?.get(s)) { Some(lift) if arm > 0 => (lift.cell()), _ => "–" } }
                                }
                            }
                        }
                    }
                }
            }
            p.help { "Computed in " (number(result.took_ms, NumberFormat::Int)) " ms." }
        }
    }
}
