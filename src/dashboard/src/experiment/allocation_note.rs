//! What the traffic allocation on an experiment's page is, where it is not the allocation of a running experiment.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::format::{NumberFormat, instant, number};

/// What the traffic allocation on the page is.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum AllocationNote {
    /// The allocation of a running experiment.
    #[default]
    Running,
    /// What is served since the conclusion.
    Concluded {
        /// When the experiment was concluded.
        at: Timestamp,
        /// Whether units outside the audience keep control.
        within_audience: bool,
        /// The variations with their shares until the conclusion.
        shares_before: Vec<(String, f64)>,
    },
    /// The last allocation of a run that a restart ended.
    Ended {
        /// When the run ended.
        at: Timestamp,
    },
}

impl AllocationNote {
    pub(super) fn render(&self) -> Markup {
        match self {
            Self::Running => html! {},
            Self::Concluded { at, within_audience, shares_before } => html! {
                p {
                    "This is what " @if *within_audience { "units in the audience" } @else { "all units" }
                    " get since the conclusion at " (instant(*at)) ". Until then: "
                    @for (i, (name, share)) in shares_before.iter().enumerate() {
                        @if i > 0 { ", " }
                        (name) " " (number(*share, NumberFormat::Percent2))
                    }
                    "."
                }
            },
            Self::Ended { at } => {
                html! { p { "This is the last allocation of this run, which ended at " (instant(*at)) "." } }
            }
        }
    }
}
