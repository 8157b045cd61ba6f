//! How many units an action affects, by the events counted so far: stated before the action is confirmed.

use inroad_assignment::{Arm, Experiment, KillTarget};
use inroad_dashboard::action::{ActionInput, ConfirmPage};
use inroad_dashboard::form::Form;
use inroad_dashboard::format::{count, counted};
use inroad_store::GenerationCounts;
use inroad_wire::v1;
use maud::html;

use super::super::Pages;
use super::Action;
use crate::audience_report::audience_report;
use crate::error::ServerError;
use crate::kill_results::{KillEffect, distinct_units, exposed_units, kill_effect, killed_arms};

/// The units of the running generation that a kill, or an end, affects.
#[derive(Debug, Clone, Default)]
pub(super) struct AffectedUnits {
    /// None if the run has ended: then the units that a variation was shown to are not those that get it.
    kill: Option<KillEffect>,
    all: KillEffect,
    /// Exposed units by the variation of their last exposure, those of a killed variation under control; control first.
    last_exposed: Vec<u64>,
    /// For a conclusion: units seen lately, and those of them outside the audience.
    recently: (u32, u32),
}

/// Distinct exposed units by the variation of their last exposure. Those of a killed variation get control now. Units of
/// control that a variation grew into since their exposure count under control.
fn units_by_last_exposure(experiment: &Experiment, counts: &GenerationCounts) -> Vec<u64> {
    let arms = experiment.definition.variations().len();
    let mut units = vec![0; arms];
    let mut exposed_to_variations = 0;
    for arm in (1..arms).filter_map(Arm::new) {
        let exposed = exposed_units(counts, arm);
        exposed_to_variations += exposed;
        units[experiment.kills.served_arm(arm).index()] += exposed;
    }
    units[Arm::CONTROL.index()] += distinct_units(counts).saturating_sub(exposed_to_variations);
    units
}

impl AffectedUnits {
    /// Counts the units of the experiment and of the variation in the form. An unknown variation affects none: the action
    /// is refused anyway.
    pub(super) async fn count_for(pages: &Pages, key: &str, action: Action, form: &Form) -> Result<Self, ServerError> {
        let shared = &pages.shared;
        let entry = shared.catalogue.state().get(key)?.clone();
        let experiment = &entry.experiment;
        let Some(generation) = experiment.generation().filter(|generation| generation.ended_at().is_none()) else {
            let kill = experiment.generation().is_none().then(KillEffect::default);
            return Ok(Self { kill, ..Self::default() });
        };
        let counts = shared.store.counts(experiment.definition.key(), generation.number).await?;
        let now = experiment.now(shared.clock.now());
        let target = match form.text("variation") {
            "" => Some(KillTarget::Everything),
            variation => experiment.arm(variation).ok().map(KillTarget::Variation),
        };
        let killed = target.map(|target| killed_arms(experiment, target)).unwrap_or_default();
        let all: Vec<Arm> = (0..experiment.definition.variations().len()).filter_map(Arm::new).collect();
        let report = match action {
            Action::Conclude => audience_report(shared, &experiment.definition).await.unwrap_or_default(),
            _ => v1::AudienceReport::default(),
        };
        Ok(Self {
            kill: Some(kill_effect(experiment, &counts, &killed, now)),
            all: kill_effect(experiment, &counts, &all, now),
            last_exposed: units_by_last_exposure(experiment, &counts),
            recently: (report.contexts, report.contexts.saturating_sub(report.matching_contexts)),
        })
    }

    /// Adds the affected units to the page of an action that affects some.
    pub(super) fn describe_on(self, mut page: ConfirmPage, action: Action) -> ConfirmPage {
        if let ActionInput::Conclusion(form) = &mut page.input {
            for (variation, units) in form.variations.iter_mut().zip(&self.last_exposed) {
                variation.units = *units;
            }
            if let Some(scope) = &mut form.scope {
                (scope.recently_seen, scope.recently_outside) = self.recently;
            }
        }
        if matches!(page.input, ActionInput::NothingToDo) {
            return page;
        }
        let sentence = match (action, self.kill) {
            (Action::Kill, None) => return page,
            (Action::Kill, Some(kill)) => html! {
                @match kill.exposed {
                    0 => "No unit has been exposed yet in this run.",
                    1 => "1 unit that was exposed stops seeing its variation.",
                    units => { (count(units)) " units that were exposed stop seeing their variation." }
                }
                @if kill.open > 0 {
                    " Up to " (counted(kill.open, "unit record")) " with an open window "
                    @if kill.open == 1 { "leaves" } @else { "leave" }
                    " the comparison, unless you restore it at once: within a hundredth of the window, at most a minute. The results of this moment are kept beside the kill."
                }
            },
            (Action::Conclude | Action::Restart, _) if self.all.open > 0 => html! {
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
