//! The form that concludes an experiment: who sees what before and after, and the choices.

use maud::{Markup, html};

use crate::format::{NumberFormat, count, counted, number};

/// The value of the field `scope` that ships a variation to the units in the audience only.
pub const AUDIENCE: &str = "audience";
/// The value of the field `scope` that ships a variation to units outside the audience as well.
pub const EVERYONE: &str = "everyone";

/// What units of the audience get before a conclusion, by variation.
#[derive(Debug, Clone)]
pub struct VariationUnits {
    /// Key of the variation.
    pub name: String,
    /// Whether it can be shipped; a killed variation cannot.
    pub can_ship: bool,
    /// Traffic share that is served this variation; 0 if it is killed.
    pub share: f64,
    /// Exposed units whose last exposure was to this variation; under control also those of killed variations.
    pub units: u64,
}

/// The audience of an experiment, and what is known of the units outside it.
#[derive(Debug, Clone, Default)]
pub struct ConclusionScope {
    /// The choice: [`AUDIENCE`], [`EVERYONE`] or empty.
    pub chosen: String,
    /// Units seen lately, in any experiment.
    pub recently_seen: u32,
    /// Those of them that are outside the audience.
    pub recently_outside: u32,
}

/// The choices of a conclusion, with their effects. Nothing is chosen beforehand.
#[derive(Debug, Clone, Default)]
pub struct ConclusionForm {
    /// The variations, control first.
    pub variations: Vec<VariationUnits>,
    /// Whether each unit still gets what it was exposed to: nothing grew and nothing was restored since the start.
    pub is_exact: bool,
    /// Key of the chosen variation; empty if none is chosen.
    pub chosen: String,
    /// The choice of the units; none if the experiment has no audience.
    pub scope: Option<ConclusionScope>,
}

impl ConclusionForm {
    fn total(&self) -> u64 {
        self.variations.iter().map(|variation| variation.units).sum()
    }

    pub(super) fn render(&self) -> Markup {
        html! {
            (self.table())
            fieldset {
                legend { "Which variation do units get from now on?" }
                @for (i, variation) in self.variations.iter().enumerate().filter(|(_, variation)| variation.can_ship) {
                    label.choice {
                        input type="radio" name="ship" value=(variation.name) checked[variation.name == self.chosen] required;
                        " " (variation.name) @if i == 0 { " (roll back)" }
                    }
                }
            }
            @if let Some(scope) = &self.scope { (self.scope_choice(scope)) }
        }
    }

    /// Who sees what before the conclusion, and after it for each choice.
    fn table(&self) -> Markup {
        let total = self.total();
        html! {
            div.scroll tabindex="0" role="region" aria-label="Before and after" {
                table.before-after {
                    caption { "Before and after" @if self.scope.is_some() { ", units in the audience" } }
                    thead { tr {
                        th scope="col" { "Variation" }
                        th scope="col" { "Traffic share before" }
                        th scope="col" { "Units by last exposure" }
                        th scope="col" { "Exposed units after, if you choose it" }
                        th scope="col" { "Units that switch to it" }
                    } }
                    tbody { @for (i, variation) in self.variations.iter().enumerate() { tr {
                        th scope="row" { (variation.name) @if !variation.can_ship { " " span.badge.killed { "killed" } } }
                        td { (number(variation.share, NumberFormat::Percent2)) }
                        td { (count(variation.units)) }
                        @if variation.can_ship {
                            td { (count(total)) }
                            td { (self.bound(i)) (count(total - variation.units)) }
                        } @else { td { "–" } td { "–" } }
                    } } }
                }
            }
            p.help {
                @if self.variations.iter().any(|variation| !variation.can_ship) { "Control has the traffic of killed variations as well. " }
                @if self.is_exact { "Exposed units are listed under the variation that they get now." }
                @else { "Exposed units are listed under the variation of their last exposure, those of a killed variation under control. A variation grew or was restored in this run, so some units of control get another variation now." }
                " Units that were not exposed yet get the chosen variation as well."
                @if self.scope.is_some() { " Exposed units that are no longer in the audience are counted as well; they keep control." }
            }
        }
    }

    /// How the number of units that switch to a variation relates to the shown one: units move only from control into
    /// variations, so those of a variation still have it, and some of control may have another one.
    fn bound(&self, index: usize) -> &'static str {
        match index {
            _ if self.is_exact => "",
            0 => "at least ",
            _ => "at most ",
        }
    }

    fn scope_choice(&self, scope: &ConclusionScope) -> Markup {
        let control = self.variations.first().map_or("control", |control| control.name.as_str());
        html! {
            fieldset {
                legend { "Which units get it?" }
                label.choice {
                    input type="radio" name="scope" value=(AUDIENCE) checked[scope.chosen == AUDIENCE] required;
                    " Units in the audience: up to " (counted(self.total(), "exposed unit")) ". All other units keep " (control) "."
                }
                label.choice {
                    input type="radio" name="scope" value=(EVERYONE) checked[scope.chosen == EVERYONE] required;
                    " All units: these, and all units outside the audience, which get " (control) " now. "
                    @if scope.recently_seen == 0 { "How many those are is not known." }
                    @else {
                        "Of " (counted(u64::from(scope.recently_seen), "unit")) " seen lately and checked, "
                        (count(u64::from(scope.recently_outside))) @if scope.recently_outside == 1 { " is" } @else { " are" } " outside."
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variation(name: &str, share: f64, units: u64) -> VariationUnits {
        VariationUnits { name: name.to_owned(), can_ship: true, share, units }
    }

    #[test]
    fn nothing_is_chosen_beforehand_and_every_choice_is_required() {
        let form = ConclusionForm {
            variations: vec![variation("off", 0.25, 30), variation("on", 0.75, 70)],
            is_exact: true,
            chosen: String::new(),
            scope: Some(ConclusionScope { recently_seen: 9, recently_outside: 4, ..ConclusionScope::default() }),
        };
        let page = form.render().into_string();
        assert!(!page.contains("checked required"), "{page}");
        assert_eq!(page.matches("type=\"radio\"").count(), page.matches(" required").count());
        let chosen = ConclusionForm { chosen: "on".to_owned(), ..form };
        assert_eq!(chosen.render().into_string().matches("checked required").count(), 1);
    }

    #[test]
    fn numbers_of_switching_units_are_bounds_after_a_growth() {
        let variations = vec![variation("off", 0.25, 75), variation("on", 0.75, 25)];
        let form = ConclusionForm { variations, is_exact: true, ..ConclusionForm::default() };
        let page = form.render().into_string();
        assert!(!page.contains("at least") && !page.contains("at most"), "{page}");
        let page = ConclusionForm { is_exact: false, ..form }.render().into_string();
        assert!(page.contains("<td>at least ") && page.contains("<td>at most "), "{page}");
        assert!(!page.contains("that they get now"), "{page}");
    }

    #[test]
    fn killed_variation_cannot_be_chosen() {
        let killed = VariationUnits { can_ship: false, ..variation("red", 0.0, 0) };
        let form = ConclusionForm { variations: vec![variation("off", 1.0, 9), killed], ..ConclusionForm::default() };
        assert!(!form.render().into_string().contains("value=\"red\""));
    }
}
