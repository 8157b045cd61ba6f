//! How many units an action affects, by the events counted so far: stated before the action is confirmed.

use inroad_assignment::{Arm, KillTarget};
use inroad_dashboard::action::ConfirmPage;
use inroad_dashboard::form::Form;
use inroad_dashboard::format::{count, counted};
use maud::html;

use super::super::Pages;
use super::Action;
use crate::error::ServerError;
use crate::kill_results::{KillEffect, kill_effect, killed_arms};

/// The units of the running generation that a kill, or an end, affects.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AffectedUnits {
    kill: KillEffect,
    all: KillEffect,
}

/// Counts the units of the experiment and of the variation in the form. An unknown variation affects none: the action is
/// refused anyway.
pub(super) async fn count_for(pages: &Pages, key: &str, form: &Form) -> Result<AffectedUnits, ServerError> {
    let shared = &pages.shared;
    let entry = shared.catalogue.state().get(key)?.clone();
    let experiment = &entry.experiment;
    let Some(generation) = experiment.generation().filter(|generation| generation.ended_at().is_none()) else {
        return Ok(AffectedUnits::default());
    };
    let counts = shared.store.counts(experiment.definition.key(), generation.number).await?;
    let now = experiment.now(shared.clock.now());
    let target = match form.text("variation") {
        "" => Some(KillTarget::Everything),
        variation => experiment.arm(variation).ok().map(KillTarget::Variation),
    };
    let killed = target.map(|target| killed_arms(experiment, target)).unwrap_or_default();
    let all: Vec<Arm> = (0..experiment.definition.variations().len()).filter_map(Arm::new).collect();
    Ok(AffectedUnits {
        kill: kill_effect(experiment, &counts, &killed, now),
        all: kill_effect(experiment, &counts, &all, now),
    })
}

impl AffectedUnits {
    /// Adds a sentence about the affected units to the page of an action that affects some.
    pub(super) fn describe_on(self, mut page: ConfirmPage, action: Action) -> ConfirmPage {
        let sentence = match action {
            Action::Kill => html! {
                @match self.kill.exposed {
                    0 => "No unit has been exposed yet in this run.",
                    1 => "1 unit that was exposed stops seeing its variation.",
                    units => { (count(units)) " units that were exposed stop seeing their variation." }
                }
                @if self.kill.open > 0 {
                    " Up to " (counted(self.kill.open, "unit record")) " with an open window "
                    @if self.kill.open == 1 { "leaves" } @else { "leave" }
                    " the comparison, unless you restore it at once: within a hundredth of the window, at most a minute. The results of this moment are kept beside the kill."
                }
            },
            Action::Conclude | Action::Restart if self.all.open > 0 => html! {
                "Up to " (counted(self.all.open, "unit record")) " "
                @if self.all.open == 1 { "has" } @else { "have" }
                " an open window: outcomes after this moment do not count for them."
            },
            _ => return page,
        };
        page.consequences.push(sentence);
        page
    }
}
