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
        /// Whether it was rolled back to control.
        is_rollback: bool,
        /// Whether units outside the audience keep control.
        within_audience: bool,
        /// The variations with their shares until the conclusion.
        shares_before: Vec<(String, f64)>,
    },
    /// The last allocation of a run that a restart ended.
    Restarted {
        /// When the run ended.
        at: Timestamp,
    },
    /// What was served last in a run that was concluded, and later restarted.
    ConcludedAndRestarted {
        /// When it was concluded.
        at: Timestamp,
        /// When the next run started.
        restarted_at: Timestamp,
        /// How it was concluded, such as "green was shipped".
        how: String,
        /// The variations with their shares until the conclusion.
        shares_before: Vec<(String, f64)>,
    },
}

impl AllocationNote {
    pub(super) fn render(&self) -> Markup {
        match self {
            Self::Running => html! {},
            Self::Concluded { at, is_rollback, within_audience, shares_before } => html! {
                p {
                    "This is what " @if *within_audience { "units in the audience" } @else { "all units" }
                    " get since the " @if *is_rollback { "rollback" } @else { "conclusion" } " at " (instant(*at)) ". Until then: "
                    (shares(shares_before)) "."
                }
            },
            Self::Restarted { at } => {
                html! { p { "This is the last allocation of this run, which a restart ended at " (instant(*at)) "." } }
            }
            Self::ConcludedAndRestarted { at, restarted_at, how, shares_before } => html! {
                p {
                    "This run ended at " (instant(*at)) ": " (how) ", until the restart at " (instant(*restarted_at))
                    ". Shares until the end: " (shares(shares_before)) "."
                }
            },
        }
    }
}

fn shares(shares: &[(String, f64)]) -> Markup {
    html! {
        @for (i, (name, share)) in shares.iter().enumerate() {
            @if i > 0 { ", " }
            (name) " " (number(*share, NumberFormat::Percent2))
        }
    }
}
